"""Facts about what stays private: nothing leaves this computer, nobody else can read a file, no debug output tells."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import no_network
from tests.processes import ROOT, SCENE, files_of, llava

SECRET = "xylophone"
"""A word of every question; it stands in no other text of llava."""
PAYLOAD = base64.b64encode(Path(SCENE).read_bytes()).decode()

# One process plays all commands: one for each would take a second each. A thread looks at what is on disk meanwhile.
_PLAYER = """
import json, os, sys, threading, time
from pathlib import Path
from llava_cli import cli

home, commands, found, is_over = Path(os.environ["HOME"]), json.loads(sys.argv[1]), {}, threading.Event()
before = {path for path in home.rglob("*")}

def look():
    while not is_over.is_set():
        for path in home.rglob("*"):
            try:
                found[str(path.relative_to(home))] = path.stat().st_mode if path not in before else 0
            except OSError:
                pass
        time.sleep(0.003)

watcher = threading.Thread(target=look)
watcher.start()
codes = []
for command, typed in commands:
    sys.argv = ["llava", *command]
    (home / "typed").write_text(typed)
    os.dup2(os.open(home / "typed", os.O_RDONLY), 0)
    sys.stdin = open(0, closefd=False)
    codes.append(cli._run())
is_over.set()
watcher.join()
os.write(1, ("\\0" + json.dumps([codes, found])).encode())
"""


class Day(NamedTuple):
    """What a day with llava left: how each command ended, what came out, and the modes of all files there were."""

    codes: dict[str, int]
    stdout: str
    stderr: str
    modes: dict[str, int]


def commands(pair: tuple[Path, Path]) -> Iterator[tuple[list[str], str]]:
    """Yield what is asked, said, listed and changed on that day, and what is typed."""
    files, short = files_of(pair), ["-n", "6", "-t", "0"]
    yield ["ask", SCENE, f"Where is the {SECRET}?", "--stats", *short, *files], ""
    yield ["ask", f"data:image/png;base64,{PAYLOAD}", f"A {SECRET} again?", *short, *files], ""
    yield ["ask", "-c", f"And no {SECRET}?", *short], ""
    yield ["chat", SCENE, *short, *files], f"Is that a {SECRET}?\n/context\n/save day\n/images\n"
    for command in (
        ["log"], ["log", "-q", SECRET], ["log", "--picture", SCENE], ["log", "show", "--json"], ["log", "replay"],
        ["cache"], ["models"], ["show", "shapes", "--path"], ["config"], ["use", "shapes"],
        ["doctor"], ["verify", "shapes"], ["log", "rm", "1", "--yes"], ["cache", "clear"],
    ):  # fmt: skip
        yield command, ""


@pytest.fixture(scope="module")
def day(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Spend a day without network, under a umask that hides nothing, with LLAVA_DEBUG=1."""
    home = tmp_path_factory.mktemp("home")
    (home / "tmp").mkdir(mode=0o700)
    # A user's own directories are there already, with modes of their own.
    for name in (".config", ".cache", ".local/share"):
        (home / name).mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LLAVA_", "HF_", "XDG_"))}
    environment |= {"HOME": str(home), "TMPDIR": str(home / "tmp"), "LLAVA_DEBUG": "1", "LLAVA_THREADS": "1"}
    played = list(commands(tiny_pair))
    guard = ["-m", "tests.no_network", sys.executable] if no_network.is_possible() else []
    done = subprocess.run(
        [sys.executable, *guard, "-c", _PLAYER, json.dumps(played)],
        capture_output=True, cwd=ROOT, env=environment, umask=0, timeout=300, check=False,
    )  # fmt: skip
    stdout, _, told = done.stdout.decode().partition("\0")
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    codes, modes = json.loads(told)
    names = [" ".join(word[:20] for word in command[:2]) for command, _ in played]
    return Day(dict(zip(names, codes, strict=True)), stdout, done.stderr.decode(), modes)


@pytest.mark.skipif(not no_network.is_possible(), reason="this computer cannot take the network from a process")
def test_with_a_model_here_nothing_asks_the_network(day: Day) -> None:
    """The kernel ends the process at the first socket that could leave this computer."""
    assert dict.fromkeys(day.codes, 0) == day.codes


@pytest.mark.skipif(not no_network.is_possible(), reason="this computer cannot take the network from a process")
@pytest.mark.parametrize("code", ["socket.socket()", "socket.getaddrinfo('example.org', 80)"])
def test_a_program_that_asks_the_network_is_ended(code: str) -> None:
    command = [sys.executable, "-m", "tests.no_network", sys.executable, "-c", f"import socket; {code}"]
    assert -signal.SIGSYS == subprocess.run(command, cwd=ROOT, check=False).returncode


def test_nobody_else_can_read_anything_at_any_moment(day: Day) -> None:
    """Side files of SQLite, temporary files, the cache, the log, the config file, what was learnt of this machine."""
    made = {name: mode for name, mode in day.modes.items() if mode and name != "typed"}
    assert {} == {name: oct(mode) for name, mode in made.items() if mode & 0o077}
    kinds = {Path(name).suffix for name in made} | {Path(name).name for name in made}
    assert {"log.db", "log.db-wal", "log.db-shm", "config.toml", "rates.json"} <= kinds
    assert any(stat.S_ISDIR(mode) for mode in made.values())


def test_debug_output_tells_no_question_no_answer_and_no_picture(day: Day) -> None:
    answers = {turn["answer"] for turn in _logged(day.stdout)}
    assert "llama_model_loader" in day.stderr
    assert SECRET in day.stdout
    assert [] == [word for word in (SECRET, PAYLOAD[:60], *answers) if word and word in day.stderr]


def _logged(stdout: str) -> list[dict[str, Any]]:
    """Return the turn that `log show --json` printed."""
    start = stdout.index('{\n  "id"')
    return [json.JSONDecoder().raw_decode(stdout[start:])[0]]


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (7, ["ask", SCENE, f"{SECRET} " * 900, "--context", "200"]),
        (2, ["ask", SCENE, SECRET, "--seed", "-5"]),
        (3, ["ask", "data:image/png;base64," + PAYLOAD[:100] + "!", SECRET]),
    ],
    ids=["context", "usage", "picture"],
)
def test_the_traceback_of_an_error_tells_neither(
    tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, code: int, arguments: list[str]
) -> None:
    monkeypatch.setenv("LLAVA_DEBUG", "1")
    done = llava(*arguments, *files_of(tiny_pair))
    assert (code, True) == (done.returncode, "Traceback (most recent call last)" in done.stderr)
    assert [] == [word for word in (SECRET, PAYLOAD[:60]) if word in done.stdout + done.stderr]
