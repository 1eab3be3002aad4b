"""Keeps what llama.cpp says about itself off the user's terminal, and remembers its last complaint."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from typing import Any

from llava_cli import last_words
from llava_cli.sanitiser import sanitise

_ERROR = 3
_CONTINUED = 5
_complaints: deque[str] = deque(maxlen=20)
_callbacks: object | None = None
"""llama.cpp keeps bare pointers, so these must live as long as the process."""
_ABORTED = ctypes.CFUNCTYPE(None, ctypes.c_char_p)


def silence() -> None:
    """Send the logs of llama.cpp and libmtmd here. With LLAVA_DEBUG=1 they go to stderr as well."""
    global _callbacks  # noqa: PLW0603 - one logger per process, as in llama.cpp itself
    if _callbacks is not None:
        return
    import llama_cpp
    from llama_cpp import _utils, mtmd_cpp
    from llama_cpp._ggml import libggml

    # Where llama-cpp-python wants silence it points descriptors 1 and 2 of the whole process at /dev/null, and
    # with them what other threads write meanwhile, such as a prompt. With our callback there is nothing to hide.
    _utils.suppress_stdout_stderr.__init__ = _disabled
    debug = os.dup(2) if os.environ.get("LLAVA_DEBUG") else None
    last = 0

    @_ABORTED  # type: ignore[untyped-decorator]
    def abort(message: bytes) -> None:
        last_words.say("complaint", message.decode("utf-8", "replace").strip())
        if debug is not None:
            os.write(debug, sanitise(message.decode("utf-8", "replace")).encode() + b"\n")

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(level: int, text: bytes, _data: ctypes.c_void_p) -> None:
        nonlocal last
        last = last if level == _CONTINUED else level
        if last == _ERROR:
            _complaints.append(text.decode("utf-8", "replace").strip())
        if debug is not None:
            # It tells what stands in the model file, too.
            os.write(debug, sanitise(text.decode("utf-8", "replace")).encode())

    nothing = ctypes.c_void_p(0)
    llama_cpp.llama_log_set(keep, nothing)
    mtmd_cpp.mtmd_log_set(keep, nothing)
    mtmd_cpp.mtmd_helper_log_set(keep, nothing)
    if last_words.are_kept():
        # Otherwise it writes that to stderr, behind half an answer, and starts a debugger.
        libggml.ggml_set_abort_callback(abort)
    _callbacks = keep, abort


def _disabled(suppressor: Any, disable: bool = True) -> None:
    suppressor.disable = True


def last_complaint() -> str:
    """Return the last error line llama.cpp wrote, or an empty string."""
    return next((line for line in reversed(_complaints) if line), "")
