"""Opens llama.cpp on a model file, so that Ctrl-C ends that at once; what is not in memory yet is read here first."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_cli import engine_log
from llava_cli.errors import EngineFailed, ModelUnusable, Stopped
from llava_cli.settings import LoadOptions
from llava_cli.zero_pages import zero_pages_given_back

if TYPE_CHECKING:
    from llava_cli.handler import LlavaChatHandler

_CHUNK = 8 << 20

_one_at_a_time = threading.Lock()
"""llama-cpp-python asks one function of the process how to open a model."""


def open_llama(
    path: Path, options: LoadOptions, stopped: threading.Event, handler: LlavaChatHandler | None = None
) -> Any:
    """Open the model file by `options`, whose choices have all been made; raise `Stopped` when that is set."""
    with _ctrl_c_sets(stopped):
        read_ahead(path, stopped)
        with _one_at_a_time:
            return _open(path, options, stopped, handler)


def read_ahead(path: Path, stopped: threading.Event) -> None:
    """Bring the file into the page cache, as far as it is not there; return at once when `stopped` is set.

    llama.cpp maps it with MAP_POPULATE: one call, which reads 4 GB from a slow disk in minutes and hears no Ctrl-C.
    """
    with path.open("rb", buffering=0) as file:
        buffer = memoryview(bytearray(_CHUNK))
        for start in _missing(file.fileno(), os.fstat(file.fileno()).st_size):
            if stopped.is_set():
                return
            file.seek(start)
            file.readinto(buffer)


def _missing(descriptor: int, size: int) -> Iterator[int]:
    """Yield the start of every chunk of a file that is not in memory altogether."""
    page = mmap.PAGESIZE
    try:
        resident = ctypes.CDLL(None, use_errno=True).mincore
        mapped = mmap.mmap(descriptor, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    except (OSError, ValueError, AttributeError):
        return  # then llama.cpp reads it all in its own way
    with mapped:
        flags = (ctypes.c_ubyte * -(-size // page))()
        address = _address(mapped, size)
        if address is None or resident(ctypes.c_void_p(address), ctypes.c_size_t(size), flags) != 0:
            return
        pages = bytes(flags)
    for start in range(0, size, _CHUNK):
        if b"\0" in pages[start // page : (start + _CHUNK) // page]:
            yield start


def _address(mapped: mmap.mmap, size: int) -> int | None:
    import numpy as np

    # ctypes takes no address of what it may not write to.
    return int(np.frombuffer(mapped, dtype=np.uint8, count=size).ctypes.data)


@contextlib.contextmanager
def _ctrl_c_sets(stopped: threading.Event) -> Iterator[None]:
    """Let Ctrl-C set `stopped`, and do what it does otherwise when llama.cpp has let go.

    Inside a callback of llama.cpp an exception would be printed, and lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[Any] = []

    def stop(_signal: int, frame: Any) -> None:
        heard.append(frame)
        stopped.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    except Stopped:
        if not heard:
            raise
    finally:
        signal.signal(signal.SIGINT, before)
        if heard:
            stopped.clear()
            if callable(before):
                before(signal.SIGINT, heard[0])
    if heard:
        raise Stopped("loading", "stopped before the model was loaded")


def _open(path: Path, options: LoadOptions, stopped: threading.Event, handler: LlavaChatHandler | None) -> Any:
    import jinja2
    import llama_cpp
    from llama_cpp import llama_cpp as c

    standard = c.llama_model_default_params
    go_on = c.llama_progress_callback(lambda _done, _data: not stopped.is_set())

    def chosen() -> Any:
        params = standard()
        params.use_extra_bufts = options.repack
        params.progress_callback = go_on
        return params

    # `Llama` has no arguments for these, but asks this function while it is built.
    c.llama_model_default_params = chosen
    kv = {"f16": c.GGML_TYPE_F16, "q8_0": c.GGML_TYPE_Q8_0}[options.kv]
    try:
        if stopped.is_set():
            raise Stopped("loading", "stopped before the model was loaded")
        with zero_pages_given_back():
            llama = llama_cpp.Llama(
                model_path=str(path),
                n_ctx=options.context,
                n_batch=options.ubatch,
                n_ubatch=options.ubatch,
                n_threads=options.threads,
                n_threads_batch=options.threads,
                flash_attn=options.flash_attention,
                type_k=kv,
                type_v=kv,
                chat_handler=handler,
                verbose=False,
            )
    except ValueError as error:
        if stopped.is_set():
            raise Stopped("loading", "stopped before the model was loaded") from error
        complaint = engine_log.last_complaint() or str(error)
        if "context" in str(error):
            raise EngineFailed(
                path.name, f"llama.cpp cannot make a context of {options.context} ({complaint})"
            ) from error
        raise ModelUnusable(path.name, f"llama.cpp cannot open it ({complaint})") from error
    except jinja2.TemplateError as error:
        # `Llama` compiles the file's chat template, although our handler never uses it.
        raise ModelUnusable(path.name, f"its chat template is broken ({error})") from error
    finally:
        c.llama_model_default_params = standard
    # It is asked no more, but keeps the bare pointer.
    llama.model_params.progress_callback = c.llama_progress_callback()
    return llama
