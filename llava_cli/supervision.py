"""Runs what opens llama.cpp in a child process, and says what happened if llama.cpp takes that down with it.

A failed assertion in C ends its process; only another one can say so. The parent has imported nothing heavy, waits,
and passes signals on. Both are in one process group, so the terminal treats them as one job.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any, ParamSpec

from llava_cli import last_words
from llava_cli.errors import EngineFailed, LlavaError, NotEnoughRoom
from llava_cli.render import STAGES
from llava_cli.terminal_state import TerminalState

Arguments = ParamSpec("Arguments")
Work = Callable[[], Any]

_GOES_ON = {
    "chat": "llava chat -c goes on with what is in the log",
    "run": "the same command goes on where it ended, at {task}: leave that out if it happens again",
}
"""What is said of the commands that can go on, by their names."""

_PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGCONT}
_HEARD = {signal.SIGCHLD, *_PASSED_ON}
_CRASHES = {
    signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
    signal.SIGKILL,
}  # fmt: skip
_PR_SET_PDEATHSIG = 1
_ENDED = "ended"
"""The stage of a child that ends as Python programs do."""


def opens_llama_cpp(command: Callable[Arguments, Any]) -> Callable[Arguments, Work]:
    """Let a command return its work instead of doing it, so that `main` can have it done in a child process."""

    @wraps(command)
    def prepare(*arguments: Arguments.args, **options: Arguments.kwargs) -> Work:
        return partial(command, *arguments, **options)

    return prepare


def in_a_child(work: Work) -> Any:
    """Return what `work` returns, in a child process; in this one, return its exit code or raise why it crashed."""
    if sys.platform != "linux":
        return work()  # without its two calls, a child would hear Ctrl-C twice, and could outlive its parent
    last_words.share()
    terminal = TerminalState()
    killed_before = _killed_for_memory()
    # Whoever started us may ignore the end of children; then it could not be waited for.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
    parent = os.getpid()
    try:
        child = os.fork()
    except OSError:
        child = None  # no more processes are allowed: it works without, too
    if not child:
        if child is not None:
            _end_with(parent)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return work()
    status = _wait_for(child, terminal)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    code = os.waitstatus_to_exitcode(status)
    if code >= 0 and (code != 1 or last_words.said("stage") == _ENDED):
        return code
    number = max(0, -code)
    terminal.restore(is_writing=last_words.said("stage") == "writing")
    if number == 0 or number in _CRASHES:
        error = _crash(number, is_for_memory=_killed_for_memory() > killed_before)
        name = work.func.__name__ if isinstance(work, partial) else ""
        error.hint += f"; {_GOES_ON[name].format(task=last_words.said('task'))}" if name in _GOES_ON else ""
        raise error
    # What was meant to end it ends this process in the same way, as its caller expects.
    signal.signal(number, signal.SIG_DFL)
    os.kill(parent, number)
    return 128 + number


def _end_with(parent: int) -> None:
    """Let the system kill this process when its parent is killed."""
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    # ggml would start a debugger to show where it was.
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    # Libraries end a process, too, with code 1: then Python does not come to do this.
    atexit.register(last_words.say, "stage", _ENDED)
    if os.environ.get("LLAVA_DEBUG"):
        import faulthandler

        with suppress(AttributeError, ValueError, OSError):
            faulthandler.enable()


def _wait_for(child: int, terminal: TerminalState) -> int:
    """Pass on what this process is sent, until the child has ended; return how, as `waitpid` does."""
    while True:
        heard = signal.sigwaitinfo(_HEARD)
        if heard.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return status
            continue
        # What comes from the terminal has gone to both; what another process sent, perhaps to this one alone.
        if heard.si_code <= 0:
            os.kill(child, heard.si_signo)
        if heard.si_signo == signal.SIGTSTP:
            # Stopped by that very signal, so that the shell says so. It goes on from here.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTSTP})
            with terminal.lent_out():
                os.kill(os.getpid(), signal.SIGTSTP)
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})


def _crash(number: int, *, is_for_memory: bool) -> LlavaError:
    """Say what happened and what to do, from the signal that ended the child and its last words."""
    from llava_cli.checkup import rebuild
    from llava_cli.history import History

    then = STAGES.get(last_words.said("stage"), "")
    then = f" while {then}" if then else ""
    in_log = "; the question is in the log" if History().rescue() else ""
    if number == signal.SIGKILL:
        smaller = "a smaller quant or model, --context or --kv q8_0 take less (llava doctor says how much)"
        if is_for_memory:
            return NotEnoughRoom("memory", f"the system had none left and ended llava{then}", hint=smaller + in_log)
        why = f"llava was killed{then}; if nobody did that, the system was short of memory"
        return NotEnoughRoom("memory", why, hint=smaller + in_log)
    if number == signal.SIGILL:
        why = f"this processor does not know an instruction that it was built with, and llava ended{then}"
        return EngineFailed("llama.cpp", why, hint=f"build it for this processor: {rebuild()}{in_log}")
    if number == 0:
        why = f"a library of its own ended llava{then}; what it said about that stands above"
        return EngineFailed("llama.cpp", why, hint=f"llava doctor looks over this installation{in_log}")
    if number == signal.SIGBUS:
        why = f"a model file could not be read any more, and llava ended{then}: it was changed, or its disk fails"
        return EngineFailed("llama.cpp", why, hint=f"llava verify says what is left of it{in_log}")
    complaint = re.sub(r"^\S*/", "", last_words.said("complaint")) or (signal.strsignal(number) or "").lower()
    hint = "llava verify says whether model files are damaged, llava doctor what else is wrong; else please report it"
    verb = "gave up" if number == signal.SIGABRT else "crashed"
    return EngineFailed("llama.cpp", f"it {verb}{then} ({complaint})", hint=hint + in_log)


def _killed_for_memory() -> int:
    """Return how many processes this system has killed since its start because memory ran out."""
    text = ""
    with suppress(OSError):
        text = Path("/proc/vmstat").read_text()
    found = re.search(r"^oom_kill (\d+)$", text, flags=re.MULTILINE)
    return int(found[1]) if found else 0
