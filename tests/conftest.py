"""What several test files share: a home of their own, tiny models, the bundled model."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzzing import register_profiles
from tests.tiny_model import write_tiny_pair

register_profiles()

# A shell that runs the tests in the background lets them, and whatever they start, ignore Ctrl-C; nohup, SIGHUP.
for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, handler)


_SHAPES_OUTPUT = {"FORCE_COLOR", "NO_COLOR", "PAGER", "COLUMNS", "LINES"}


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own configuration, caches and LLAVA_* variables out of every test."""
    import os

    home = tmp_path_factory.mktemp("home")
    for name in os.environ.copy():
        if name.startswith(("LLAVA_", "HF_")) or name.upper().endswith("_PROXY") or name in _SHAPES_OUTPUT:
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    # Tiny models gain nothing from a second thread, and wait for it long if the machine is busy.
    monkeypatch.setenv("LLAVA_THREADS", "1")
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Write a random LLaVA of a few kilobytes, once: (model, projector)."""
    return write_tiny_pair(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty Hugging Face cache, here and for processes; return the directory of one repository in it."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub" / "models--someone--tiny-llava"


@pytest.fixture
def here(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return what runs `llava` in this process: quicker than a process of its own."""
    from llava_cli import cli

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["llava", *map(str, arguments)])
        code = cli._run()
        written = capsys.readouterr()
        return subprocess.CompletedProcess(list(map(str, arguments)), code, written.out, written.err)

    return run
