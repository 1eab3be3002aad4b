"""Runs `llava` as users do: as a process of its own, in a pipe or in a terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
SCENE = str(ROOT / "examples" / "scene.png")
LLAVA = [sys.executable, "-m", "llava_cli"]


def llava(*arguments: object, stdin: bytes | None = None) -> subprocess.CompletedProcess[str]:
    """Run `llava` to its end; what it wrote comes back as text."""
    done = subprocess.run(
        [*LLAVA, *map(str, arguments)],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=60,
        env=os.environ,
        check=False,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def child_of(process: int) -> int:
    """Return the process in which llama.cpp is open: a `llava` that opens it is two."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return int(children[0])


def files_of(pair: Sequence[Path]) -> list[str]:
    """Return the options that name a pair of model files."""
    files = ["--model-path", str(pair[0]), "--projector-path", str(pair[1])]
    return [*files, "--prompt-layout", "llava_v1"]
