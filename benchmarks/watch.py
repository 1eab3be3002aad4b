"""Runs a program and watches it from outside: when its first words come, and how much memory it holds."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

LONGEST = 900
"""Seconds after which a program is ended."""

_BETWEEN_LOOKS = 0.02


@dataclass(frozen=True)
class Run:
    """What was seen of one run. Times are seconds from its start, memory is bytes."""

    first_word: float
    """When the first visible character came on stdout; 0 if none did."""
    seconds: float
    code: int
    peak: int
    """Most memory resident at once, mapped files included."""
    peak_anonymous: int
    """Most of it that no file stands behind, and so cannot be given back."""
    stdout: str
    stderr: str


def watch(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Run:
    """Run `command` to its end, which must come within `LONGEST` seconds."""
    with tempfile.TemporaryFile() as complaints:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaints, env=environment
        )
        memory = _Memory(process.pid)
        memory.start()
        too_long = threading.Timer(LONGEST, process.kill)
        too_long.start()
        try:
            assert process.stdout is not None
            words, first = b"", 0.0
            while piece := os.read(process.stdout.fileno(), 1 << 16):
                words += piece
                # llama-mtmd-cli begins with an empty line once the prompt is read.
                first = first or (time.monotonic() - begun if words.strip() else 0.0)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            process.send_signal(signal.SIGKILL)
            raise
        finally:
            too_long.cancel()
            memory.end()
            process.stdout.close()  # type: ignore[union-attr]
        complaints.seek(0)
        return Run(
            first_word=first,
            seconds=time.monotonic() - begun,
            code=process.returncode,
            peak=usage.ru_maxrss * 1024,
            peak_anonymous=memory.peak,
            stdout=words.decode("utf-8", "replace"),
            stderr=complaints.read().decode("utf-8", "replace"),
        )


class _Memory(threading.Thread):
    """Reads, many times a second, how much anonymous memory a process or one of its children holds."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._over = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._over.wait(_BETWEEN_LOOKS):
            with suppress(OSError):
                # `llava` waits for a child that does the work; what both share must not count twice.
                for pid in (self._pid, *Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()):
                    self.peak = max(self.peak, anonymous_bytes(Path(f"/proc/{pid}/status").read_text()))

    def end(self) -> None:
        self._over.set()
        self.join()


def anonymous_bytes(status: str) -> int:
    """Return the anonymous memory that the text of `/proc/PID/status` tells of."""
    found = re.search(r"^RssAnon:\s+(\d+) kB$", status, flags=re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@contextmanager
def memory_limit(limit: int) -> Iterator[tuple[str, list[str]]]:
    """Yield what limits memory here, and the words to put in front of a command so that it has `limit` bytes.

    A cgroup counts what is resident. Where none can be made, `prlimit` counts addresses, which is harder to bear.
    """
    swap = ["-p", "MemorySwapMax=0"]
    scope = ["systemd-run", "--user", "--scope", "--quiet", "-p", f"MemoryMax={limit}", *swap]
    if (
        shutil.which("systemd-run")
        and subprocess.run([*scope, "true"], capture_output=True, check=False).returncode == 0
    ):
        yield "cgroup (systemd-run)", scope
        return
    group = _make_cgroup(limit)
    if group is None:
        yield "prlimit", ["prlimit", f"--as={limit}"]
        return
    try:
        yield "cgroup", ["sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group / "cgroup.procs")]
    finally:
        _remove(group)


def _make_cgroup(limit: int) -> Path | None:
    """Make a group below the one this process is in, limited to `limit` bytes; None if that is not allowed."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            parent, file = Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"
        elif not controllers:
            parent, file = Path("/sys/fs/cgroup"), "memory.max"
        else:
            continue
        group = parent / path.lstrip("/") / f"llava-bench-{os.getpid()}"
        with suppress(OSError):
            group.mkdir()
            try:
                (group / file).write_text(str(limit))
            except OSError:
                group.rmdir()
                continue
            return group
    return None


def _remove(group: Path) -> None:
    # The kernel needs a moment after the last process has gone.
    for _ in range(50):
        with suppress(OSError):
            group.rmdir()
            return
        time.sleep(0.1)


def drop_from_page_cache(path: Path) -> None:
    """Let the kernel forget the file, so that whoever reads it next is charged with its pages."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bring_into_page_cache(path: Path) -> None:
    """Read the file once, so that no run waits for the disk."""
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass
