"""What goes wrong around a run of `llava`, with real processes; `faults.md` says what is tested elsewhere."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from benchmarks.watch import memory_limit
from llava_cli.history import History
from llava_cli.sanitiser import sanitise
from tests import hub as faults
from tests.hollow_model import HollowShape, write_hollow_pair
from tests.processes import LLAVA, ROOT, SCENE, files_of, llava
from tests.pull_processes import environment, launcher, register, running
from tests.terminal import Terminal

pytestmark = [
    pytest.mark.faults,
    pytest.mark.skipif(sys.platform != "linux", reason="these are the faults of Linux"),
]

# root may write where the mode says no, unless it gives that up.
BOUND = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
BACK = 5.0
"""Seconds in which a run must have ended that was told to; it takes a tenth of that where nothing else runs."""


def ask(pair: Sequence[Path], *more: object) -> list[str]:
    """Return the command of a question whose answer is always the same."""
    return [*LLAVA, "ask", SCENE, "What color?", "-t", "0", "-n", "6", *map(str, more), *files_of(pair)]


def run(
    command: Sequence[str], *, before: Sequence[str] = (), stdin: bytes | None = b"", more: Mapping[str, str] = {}
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*before, *command], input=stdin, capture_output=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **more},
    )  # fmt: skip


def in_shell(script: str, command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    """Run a script in which "$@" is the command."""
    return run(command, before=["sh", "-c", script, "sh"])


@pytest.fixture(scope="module")
def answer(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return what is answered where nothing goes wrong."""
    home = str(tmp_path_factory.mktemp("undisturbed"))
    done = run(ask(tiny_pair, "-q"), more={"HOME": home, "LLAVA_THREADS": "1"})
    assert (0, b"") == (done.returncode, done.stderr)
    return done.stdout


def notes_only(complaints: bytes) -> bool:
    return all(re.match(r"note: ", line) for line in complaints.decode().splitlines())


# Homes


@pytest.mark.parametrize("home", ["none", "a file", "read-only", "nowhere", "/proc", "a link to nothing"])
def test_an_answer_comes_whatever_the_home_is(tiny_pair, tmp_path, answer, home):
    place = tmp_path / "home"
    if home == "a file":
        place.write_text("")
    elif home == "read-only":
        place.mkdir(mode=0o555)
    elif home == "a link to nothing":
        place.symlink_to(tmp_path / "nothing" / "at" / "all")
    elif home in ("nowhere", "/proc"):
        place = Path("/proc/nowhere" if home == "nowhere" else home)
    tmp_path.chmod(0o555)
    drop = ["env", "-u", "HOME"] if home == "none" else []
    done = run(ask(tiny_pair), before=[*BOUND, *drop], more={"HOME": str(place), "LLAVA_CACHE": ""})
    tmp_path.chmod(0o755)
    assert (0, answer, True) == (done.returncode, done.stdout, notes_only(done.stderr))
    assert home == "none" or b"this is not in the log" in done.stderr


def test_everything_it_makes_is_private_under_any_umask(tiny_pair, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(home))
    old = os.umask(0)
    try:
        assert run(ask(tiny_pair)).returncode == 0
        script = f"/image {SCENE}\nWhat color?\n/save mine\n"
        assert llava("chat", *files_of(tiny_pair), stdin=script.encode()).returncode == 0
        assert llava("use", "shapes").returncode == 0
        assert llava("log", "-q", "color").returncode == 0
        assert llava("verify", "shapes").returncode == 0
        with Terminal("chat", "-m", "shapes") as chat:
            chat.wait("›")
            chat.enter("/images")
            chat.wait("no pictures in this chat.*\\n.*›")
            chat.send("\x04")
            assert 0 == chat.end()
    finally:
        os.umask(old)
    made = [path for path in home.rglob("*") if not path.is_symlink()]
    assert {"log.db", "config.toml", "chat_lines"} <= {path.name for path in made}
    assert [] == [str(path) for path in made if stat.S_IMODE(path.stat().st_mode) & 0o077]


@pytest.mark.parametrize("size", ["4k", "40k"])
def test_a_full_disk_costs_notes_and_no_answer(tiny_pair, tmp_path, answer, size):
    """A real one, of that size; when there is room again, nothing of it is left to say."""
    script = (
        'mkdir -p "$HOME"; mount -t tmpfs -o size=' + size + ' tmpfs "$HOME" || exit 77; "$@"; echo "code $?";'
        ' mount -o remount,size=50m "$HOME"; "$@" -q; echo "code $?"; find "$HOME" -name "*.part*" -o -name ".*.tmp"'
    )
    scope = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
    done = run(
        ask(tiny_pair), before=[*scope, "sh", "-c", script, "sh"], more={"HOME": str(tmp_path / "small")}
    )  # fmt: skip
    if done.returncode == 77 or b"unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert answer + b"code 0\n" + answer + b"code 0\n" == done.stdout
    assert notes_only(done.stderr)
    assert b"this is not in the log" in done.stderr


def test_a_download_onto_a_disk_that_fills_up_goes_on_when_there_is_room(tiny_pair, tmp_path):
    register()
    with faults.Hub({path.name: path.read_bytes() for path in tiny_pair}) as hub:
        script = (
            'mkdir -p "$HF_HOME"; mount -t tmpfs -o size=400k tmpfs "$HF_HOME" || exit 77; "$@"; echo "code $?";'
            ' mount -o remount,size=50m "$HF_HOME"; "$@" -q; echo "code $?"'
        )
        scope = ["unshare", "-m"] if os.geteuid() == 0 else ["unshare", "-rm"]
        # A disk that others fill meanwhile: what is free is not asked first.
        unaware = launcher("import llava_cli.pull as pull; pull._check_room = lambda *_: None")
        done = subprocess.run(
            [*scope, "sh", "-c", script, "sh", *unaware, "pull", "tiny"], capture_output=True, timeout=60, check=False,
            env=environment(hub, HF_HOME=str(tmp_path / "small")),
        )  # fmt: skip
    if done.returncode == 77 or b"unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    lines = done.stdout.decode().splitlines()
    assert ["code 6", "tiny is ready: llava ask PICTURE QUESTION -m tiny", "code 0"] == lines
    assert b"no space left on device" in done.stderr


def test_a_clock_that_was_set_back_changes_nothing(tiny_pair, answer):
    """The first question is asked a year ahead of the others."""
    ahead = (
        "import sys, time\nnow, now_ns = time.time, time.time_ns\n"
        "time.time = lambda: now() + 31_536_000\ntime.time_ns = lambda: now_ns() + 31_536_000 * 10**9\n"
        "sys.argv[0] = 'llava'\nfrom llava_cli.cli import main\nmain()\n"
    )
    first = run([sys.executable, "-c", ahead, *ask(tiny_pair, "-q")[len(LLAVA) :]])
    assert (0, answer) == (first.returncode, first.stdout)
    second = run(ask(tiny_pair, "-q", "--stats"))
    assert (0, answer) == (second.returncode, second.stdout)
    assert re.search(rb"picture 0\.00.* prompt [1-9]\d* reused", second.stderr)
    went_on = run([*LLAVA, "ask", "-c", "And?", "-n", "2", "-q"])
    assert (0, b"") == (went_on.returncode, went_on.stderr)
    assert ["And?", "What color?", "What color?"] == [turn.question for turn in History().find()]
    assert [2, None, None] == [turn.before for turn in History().find()]
    assert (0, b"") == ((listed := run([*LLAVA, "cache"])).returncode, listed.stderr)


# Streams


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "02", "12", "012"])
def test_closed_streams_cost_nothing_but_what_went_there(tiny_pair, answer, closed):
    """And no file gets the number of one, where libraries would write their complaints into it."""
    code = (
        "import os, llava_cli.history as history\n"
        "record = history.History.record\n"
        "def complain(self, *turn, **where):\n"
        "    for number in (1, 2):\n"
        f"        if str(number) in {closed!r}: os.write(number, b'complaint')\n"
        "    return record(self, *turn, **where)\n"
        "history.History.record = complain\n"
        "import sys; sys.argv[0] = 'llava'\n"
        "from llava_cli.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", code, *ask(tiny_pair)[len(LLAVA) :]]
    done = in_shell('exec "$@" ' + " ".join(f"{number}>&-" for number in closed), command)
    assert (1, b"") if "1" in closed else (0, answer) == (done.returncode, done.stdout)
    assert ("1" in closed and "2" not in closed) == (b"standard output: it is closed" in done.stderr)
    assert ["What color?"] == [turn.question for turn in History().find()]
    again = run(ask(tiny_pair, "-q"))
    assert (0, answer, b"") == (again.returncode, again.stdout, again.stderr)


@pytest.mark.parametrize(
    "more",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "C", "LANG": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    ],
    ids=lambda more: " ".join(f"{key}={value}" for key, value in more.items()),
)
def test_a_stream_that_knows_few_letters_shows_the_others_as_question_marks(tiny_pair, tmp_path, more):
    picture = shutil.copy(SCENE, tmp_path / "scène.png")
    command = [*LLAVA, "ask", str(picture), "Où?", "-t", "2", "--seed", "5", "-n", "60", "-q", *files_of(tiny_pair)]
    whole, narrow = run(command), run(command, more=more)
    assert any(byte > 127 for byte in whole.stdout)
    assert (0, b"") == (narrow.returncode, narrow.stderr)
    wide = "ascii" not in str(more) and "latin-1" not in str(more) and "PYTHONUTF8" not in more
    assert narrow.stdout == whole.stdout if wide else max(narrow.stdout) < 128


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["ask", "--help"], [], ["models"], ["show", "shapes"], ["config"], ["doctor", "-m", "shapes"]],
)
def test_what_cannot_be_written_is_never_a_success(arguments):
    full = in_shell('exec "$@" >/dev/full', [*LLAVA, *arguments])
    assert (1, True) == (full.returncode, full.stderr.startswith(b"llava: standard output: no space left on device"))
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        left = subprocess.run([*LLAVA, *arguments], stdout=gone, stderr=subprocess.PIPE, check=False, timeout=60)
    assert (141, b"") == (left.returncode, left.stderr)


def test_what_cannot_be_said_on_stderr_costs_no_answer(tiny_pair, answer):
    done = in_shell('exec "$@" 2>/dev/full', ask(tiny_pair, "--stats"))
    assert (0, answer) == (done.returncode, done.stdout)


def test_a_directory_that_is_gone_is_said_to_be(tiny_pair, tmp_path, answer):
    script = f'mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone; exec "$@"'
    assert answer == in_shell(script, ask(tiny_pair, "-q")).stdout
    missing = in_shell(script, [*LLAVA, "ask", "scene.png"])
    assert (3, b"") == (missing.returncode, missing.stdout)
    assert b"hint: the directory this shell stands in is gone" in missing.stderr


# Limits


@pytest.mark.parametrize("limit", ["nofile=7", "nofile=16", "fsize=0", "core=0", "memlock=0", "stack=1000000"])
def test_small_limits_cost_notes_at_most(tiny_pair, answer, limit):
    done = run(ask(tiny_pair), before=["prlimit", f"--{limit}"])
    assert (0, answer, True) == (done.returncode, done.stdout, notes_only(done.stderr))


@pytest.mark.parametrize("megabytes", [120, 160, 200, 250, 300, 400, 500])
def test_too_few_addresses_are_a_refusal_or_an_answer(tiny_pair, answer, monkeypatch, megabytes):
    """Checked first or not, whatever library it is that gets no memory."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    for check in ([], ["--no-memory-check"]):
        done = run(ask(tiny_pair, *check), before=["prlimit", f"--as={megabytes << 20}"])
        if done.returncode == 0:
            assert answer == done.stdout
            continue
        *_, first, second = done.stderr.decode().splitlines()
        assert (True, b"") == (done.returncode in (4, 6, 7), done.stdout), done.stderr
        assert first.startswith("llava: ")
        assert "unexpected" not in first
        assert second.startswith("hint: ")


def test_a_limit_of_time_ends_it_as_it_ends_any_program(tiny_pair):
    done = run([*ask(tiny_pair, "-n", "1900")], before=["prlimit", "--cpu=1"])
    if done.returncode:
        assert (-signal.SIGXCPU, b"") == (done.returncode, done.stderr)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a control group")
def test_a_system_without_memory_is_said_to_have_had_none(tmp_path):
    """A real control group, and a real kill by the kernel; the next run works."""
    command = [*LLAVA, "ask", SCENE, "What color is the circle?", "-m", "shapes", "-t", "0"]
    with memory_limit(60_000_000) as (how, words):
        if how == "prlimit":
            pytest.skip("no control group can be made here")
        done = run([*command, "--no-memory-check"], before=words)
    assert (6, b"") == (done.returncode, done.stdout)
    first, second = done.stderr.decode().splitlines()
    assert re.match(r"llava: memory: the system had none left and ended llava while loading the model$", first)
    assert second.startswith("hint: a smaller quant")
    assert (0, b"red\n") == ((again := run(command)).returncode, again.stdout)


def test_a_model_file_that_is_cut_while_it_is_in_use_is_said_to_be(tmp_path):
    """Its pages are gone then, and who reads them gets a bus error."""
    pair = write_hollow_pair(tmp_path)
    command = [*LLAVA, "ask", SCENE, "What?", "-t", "1", "-n", "1600", "-q", *files_of(pair)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(20)
        os.truncate(pair[0], 4096)
        _, complaints = process.communicate(timeout=60)
    first, second = complaints.decode().splitlines()
    assert 7 == process.returncode
    assert "a model file could not be read any more, and llava ended while writing" in first
    assert second.startswith("hint: llava verify")
    assert 4 == llava("ask", SCENE, "What?", *files_of(pair)).returncode


# Ends


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_ended_at_any_moment_it_answers_the_same_next_time(tiny_pair, answer, number):
    """The parent is killed, as `kill -9` does it, or told to stop; the cache and the log are there, whole or not."""
    draw = random.Random(int(number))
    for _ in range(6):
        with subprocess.Popen(ask(tiny_pair), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            time.sleep(draw.uniform(0.1, 1.5))
            process.send_signal(number)
            _, complaints = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -number)
        assert b"Traceback" not in complaints
        again = run(ask(tiny_pair, "-q"))
        assert (0, answer, b"") == (again.returncode, again.stdout, again.stderr)


def test_a_reader_that_leaves_stops_the_engine(tiny_pair):
    command = [*LLAVA, "ask", SCENE, "-t", "2", "-n", "1900", "-q", *files_of(tiny_pair)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(1)
        begun = time.monotonic()
        process.stdout.close()
        assert 141 == process.wait(BACK)
        print(f"back {time.monotonic() - begun:.2f} s after its reader has left")


@pytest.fixture(scope="module")
def slow_pair(tmp_path_factory):
    """Write a pair with a third of the work of a 7B model's tower, and seconds of reading."""
    shape = HollowShape(
        width=1024, layers=12, heads=16, kv_heads=16, hidden=2816,
        vision_width=1024, vision_layers=12, vision_heads=16, vision_hidden=4096, image_size=336,
    )  # fmt: skip
    return write_hollow_pair(tmp_path_factory.mktemp("slow"), shape)


@pytest.mark.parametrize(
    ("stage", "wait"),
    [
        ("loading", "loading the model…"),
        ("looking", "looking at the picture…"),
        ("reading", "reading the question…"),
        ("writing", r"reading the question…\n.*word"),
    ],
)
@pytest.mark.parametrize("delay", [0.0, 0.3])
def test_ctrl_c_ends_every_stage_at_once(slow_pair, stage, wait, delay):
    with Terminal(
        "ask", SCENE, "What?", "--plain", "--no-cache", "-n", "1000", "-t", "1", "--repack", *files_of(slow_pair),
        columns=1000,
    ) as terminal:  # fmt: skip
        terminal.wait(wait)
        time.sleep(delay)
        begun = time.monotonic()
        terminal.send("\x03")
        code = terminal.end()
        seconds = time.monotonic() - begun
        print(f"{stage}: back {seconds:.2f} s after Ctrl-C")
        assert (130, True) == (code, seconds < BACK)
        assert "\x1b" not in terminal.raw


def test_ctrl_c_ends_a_download_at_once(tiny_pair):
    register()
    with faults.Hub({path.name: path.read_bytes() for path in tiny_pair}) as hub:
        hub.bodies = [faults.whole, faults.stall(200_000)]
        with running(hub, "pull", "tiny") as process:
            while len(hub.starts()) < 2:
                time.sleep(0.01)
            time.sleep(0.3)
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert 130 == process.wait(BACK)
            print(f"download: back {time.monotonic() - begun:.2f} s after Ctrl-C")


@pytest.mark.parametrize("name", ["-", "--help.png", "a b.png", "q\n\x1b[31m.png"])
def test_any_name_of_a_picture_works(tiny_pair, tmp_path, answer, name):
    shutil.copy(SCENE, tmp_path / name)
    done = run(
        [*LLAVA, "ask", "-t", "0", "-n", "6", "-q", *files_of(tiny_pair), "--", f"./{name}", "What color?"],
        before=["env", "-C", str(tmp_path)],
    )
    assert (0, answer) == (done.returncode, done.stdout)
    assert sanitise(done.stderr.decode()) == done.stderr.decode()


def test_two_at_once_in_a_new_home_are_both_right(tiny_pair, answer):
    command = ask(tiny_pair, "-q")
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(3)]
    assert [(answer, b"")] * 3 == [process.communicate(timeout=60) for process in both]
    assert 3 == len(History().find())
    assert run(ask(tiny_pair, "-q", "--stats")).stderr.count(b"picture 0.00") == 1
