"""Opens every file of a directory as a picture, each in a process of its own, and reports what must not happen.

    python -m tests.corpus DIR

A fault is a crash, a traceback, a hang, a word on the terminal, more than 2 seconds of CPU time or more than 500 MB.
Each is one line, with the file; then follows how many were opened, and why the others were refused. Exit code 1 if
there was a fault. `--all` shows every file as a line of JSON, `--part` takes what is there of cut files, `--expect
N` makes fewer than N files a fault (of the one who named the directory); it is 1 if not given.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from llava_cli.errors import LlavaError
from llava_cli.pictures import open_picture

CPU_SECONDS = 2.0
MEGABYTES = 500.0
_HANG = 60
"""Seconds, of the clock, after which a process is taken for one that waits for something."""


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    file: str
    exit_code: int
    """As `llava` would have it; minus the signal that ended the process."""
    said: str
    """The sentence of a refusal, or of a fault, or the notes about a picture."""
    picture: tuple[int, int, str] | None
    """Width, height and hash of what was opened."""
    noise: str
    """What came to the terminal besides."""
    seconds: float
    """CPU time."""
    megabytes: float

    @property
    def fault(self) -> str:
        """Say what must not have happened, or nothing."""
        if self.exit_code not in (0, 3):
            return self.said
        if self.noise:
            return f"words on the terminal: {self.noise!r}"
        if self.seconds > CPU_SECONDS:
            return f"slow: {self.seconds:.1f} s of CPU time"
        return f"large: {self.megabytes:.0f} MB" if self.megabytes > MEGABYTES else ""


def examine(path: Path, *, part: bool = False) -> Outcome:
    """Open one file in a child process."""
    answer, terminal = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        _open(path, part, answer[1], terminal[1])
    os.close(answer[1])
    os.close(terminal[1])
    told, noise, is_hung = _read_both(answer[0], terminal[0], child)
    _, status, used = os.wait4(child, 0)
    code = os.waitstatus_to_exitcode(status)
    picture = None
    if is_hung:
        said = f"a hang: no end after {_HANG} seconds"
    elif code in (-signal.SIGXCPU, -signal.SIGKILL):
        said = "a hang: no end of computing"
    elif code < 0:
        said = f"a crash: {signal.Signals(-code).name}"
    else:
        code, said, picture = json.loads(told)
    return Outcome(
        str(path), code, said, None if picture is None else (picture[0], picture[1], picture[2]),
        noise.decode(errors="replace"), used.ru_utime + used.ru_stime, used.ru_maxrss / 1000,
    )  # fmt: skip


def _open(path: Path, part: bool, answer: int, terminal: int) -> None:
    """Open a picture, write what that gave into `answer`, and end this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 25))
    # What should take 500 MB must not take the machine.
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    for descriptor in (1, 2):
        os.dup2(terminal, descriptor)
    told: tuple[int, str, tuple[int, int, str] | None]
    try:
        picture = open_picture(path, allow_truncated=part)
        told = 0, "; ".join(picture.notes), (picture.width, picture.height, picture.sha256)
    except LlavaError as error:
        told = error.exit_code, error.why, None
    except BaseException:  # noqa: BLE001 - whatever it is, it must be told
        told = 1, f"a traceback: {traceback.format_exc()}", None
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(answer, "w") as file:
        json.dump(told, file)
    os._exit(0)


def _read_both(one: int, other: int, child: int) -> tuple[bytes, bytes, bool]:
    """Read two pipes to their ends; end a child that takes too long, and tell whether it did."""
    got = {one: b"", other: b""}
    left, deadline, is_hung = [one, other], time.monotonic() + _HANG, False
    while left:
        ready, _, _ = select.select(left, [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(child, signal.SIGKILL)
            deadline, is_hung = time.monotonic() + _HANG, True
        for pipe in ready:
            data = os.read(pipe, 65536)
            got[pipe] += data
            if not data:
                left.remove(pipe)
                os.close(pipe)
    return got[one], got[other], is_hung


def outcomes(directory: Path, *, part: bool = False) -> Iterator[Outcome]:
    """Examine all files below a directory, in the order of their names."""
    # Once, before the children, which would each take the time for it.
    import numpy  # noqa: F401
    from PIL import Image, ImageCms

    Image.init()
    ImageCms.createProfile("sRGB")
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        yield examine(path, part=part)


def main() -> int:
    """Examine a directory, and tell."""
    options = argparse.ArgumentParser(prog="python -m tests.corpus", description="see the head of tests/corpus.py")
    options.add_argument("directory", type=Path)
    options.add_argument("--all", action="store_true")
    options.add_argument("--part", action="store_true")
    options.add_argument("--expect", type=int, default=1)
    chosen = options.parse_args()
    why: Counter[str] = Counter()
    faults, slowest, largest = 0, 0.0, 0.0
    for outcome in outcomes(chosen.directory, part=chosen.part):
        slowest, largest = max(slowest, outcome.seconds), max(largest, outcome.megabytes)
        why["opened" if outcome.exit_code == 0 else outcome.said.splitlines()[0]] += 1
        faults += bool(outcome.fault)
        if chosen.all:
            print(json.dumps({**asdict(outcome), "fault": outcome.fault}))
        elif outcome.fault:
            print(f"{outcome.file}: {outcome.fault}")
    print(f"{why.total()} files, {faults} faults, at most {slowest:.2f} s and {largest:.0f} MB", file=sys.stderr)
    for reason, count in why.most_common():
        print(f"{count:6}  {reason}", file=sys.stderr)
    if why.total() < chosen.expect:
        print(f"fewer than {chosen.expect} files: is it the right directory?", file=sys.stderr)
        faults += 1
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
