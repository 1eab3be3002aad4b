"""Runs `llava pull` as users do, against a hub of our own: real processes, with the patience of a test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llava_cli.registry import user_file
from tests.hub import COMMIT, REPO, Hub

MARK = 65_536

_LAUNCHER = f"""
import sys
from llava_cli import hub, partial_file
hub.LIMITS = hub.Limits(silence=2, first_tries=2, tries=3, first_wait=0.05, longest_wait=0.1, poll=0.05)
partial_file.MARK = {MARK}
from llava_cli.cli import main
sys.argv[0] = "llava"
"""

PULL = [sys.executable, "-c", _LAUNCHER + "main()"]


def launcher(before: str) -> list[str]:
    """Return the command of a `llava` that does something else first."""
    return [sys.executable, "-c", f"{_LAUNCHER}{before}\nmain()"]


def environment(hub: Hub, **more: str) -> dict[str, str]:
    return {**os.environ, "HF_ENDPOINT": hub.url, **more}


def register() -> None:
    """Put the tiny model into the user's own list, as `tiny`."""
    path = user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'[[model]]\nid = "tiny"\nsummary = "for tests"\nhf_repo = "{REPO}"\nprompt = "llava_v1"\nimage_tokens = 16\n'
        f'default = "f32"\n[[model.file]]\nquant = "f32"\nname = "model.gguf"\n'
        '[model.mmproj]\nname = "mmproj.gguf"\n'
    )


def run(
    hub: Hub, *arguments: str, command: list[str] = PULL, more: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[str]:
    """Run to its end."""
    return subprocess.run(
        [*command, *arguments],
        env=environment(hub, **more), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@contextmanager
def running(hub: Hub, *arguments: str, command: list[str] = PULL) -> Iterator[subprocess.Popen[str]]:
    """Start it; it is dead afterwards."""
    with subprocess.Popen(
        [*command, *arguments],
        env=environment(hub), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def cache() -> Path:
    return Path(os.environ["HOME"]) / ".cache" / "huggingface" / "hub" / "models--me--tiny"


def contents() -> list[str]:
    """Return everything in the cache, relative to it."""
    return sorted(str(path.relative_to(cache())) for path in cache().rglob("*") if not path.is_dir())


def parts() -> list[Path]:
    return list(cache().rglob("*.incomplete"))


def is_whole(hub: Hub) -> bool:
    """Tell whether both files are here to the bit, and nothing else."""
    snapshot = cache() / "snapshots" / COMMIT
    same = [(snapshot / name).read_bytes() == body for name, body in hub.files.items()]
    return all(same) and len(contents()) == 2 * len(hub.files) + 1
