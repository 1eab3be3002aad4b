"""Facts about what a crash of llama.cpp costs: a sentence, and nothing else. And that two processes are one job."""

import os
import resource
import shlex
import shutil
import signal
import subprocess
import termios
import time
from contextlib import contextmanager
from pathlib import Path

import pexpect
import pytest

from llava_cli import last_words, supervision
from llava_cli.history import History
from tests.hollow_model import write_hollow_pair
from tests.processes import LLAVA, SCENE, child_of, files_of, llava
from tests.terminal import Terminal
from tests.turns import a_turn

pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="only Linux has what this takes")

LONG = ("-t", "1", "--seed", "6", "-n", "1700", "-q")
IN_LOG = "; the question is in the log"
IN_THE_ENGINE = """
import sys, ctypes
from llava_cli.handler import LlavaChatHandler
from llama_cpp._ggml import libggml
def give_up(*_):
    libggml.ggml_abort(b"/build/ggml/src/ggml.c", ctypes.c_int(42), b"GGML_ASSERT(%s) failed", b"n > 0")
LlavaChatHandler._should_abort = give_up
sys.argv[0] = "llava"
from llava_cli.cli import main
main()
"""


@pytest.fixture(scope="module")
def slow_pair(tmp_path_factory):
    """Write a pair that writes for seconds, and nothing but words drawn by chance."""
    return write_hollow_pair(tmp_path_factory.mktemp("slow"))


@contextmanager
def writing(pair):
    """Start a `llava ask` that writes for long; it has begun to."""
    command = [*LLAVA, "ask", SCENE, "What?", *LONG, *files_of(pair)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert len(process.stdout.read(20)) == 20
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("number", "code", "what"),
    [
        (signal.SIGSEGV, 7, "llama.cpp: it crashed while writing (segmentation fault)"),
        pytest.param(
            signal.SIGILL,
            7,
            "llama.cpp: this processor does not know an instruction that it was built with, and llava",
            marks=pytest.mark.faults,
        ),
        pytest.param(
            signal.SIGKILL,
            6,
            "memory: llava was killed while writing; if nobody did that, the system was short of",
            marks=pytest.mark.faults,
        ),
    ],
)
def test_who_dies_of_a_signal_is_spoken_for(slow_pair, number, code, what):
    """What was written stands on stdout and in the log."""
    with writing(slow_pair) as process:
        os.kill(child_of(process.pid), number)
        _, complaints = process.communicate(timeout=30)
    first, second = complaints.decode().splitlines()
    assert (code, True) == (process.returncode, first.startswith(f"llava: {what}"))
    assert second.startswith("hint: ")
    assert second.endswith(IN_LOG)
    assert ("What?", "crashed", True) == ((turn := History().turn()).question, turn.finish_reason, bool(turn.answer))


def test_a_failed_assertion_is_told_in_its_own_words(tiny_pair):
    """It comes while the question is read, from C, and nothing of C stands beside it."""
    command = [LLAVA[0], "-c", IN_THE_ENGINE, "ask", SCENE, "What?", *files_of(tiny_pair)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (7, "") == (done.returncode, done.stdout)
    first, second = done.stderr.splitlines()
    assert "llava: llama.cpp: it gave up while reading the question (ggml.c:42: GGML_ASSERT(n > 0) failed)" == first
    assert second.endswith(f"please report it{IN_LOG}")
    assert ("What?", "") == ((turn := History().turn()).question, turn.answer)
    assert llava("ask", SCENE, "What?", "-n", "2", *files_of(tiny_pair)).returncode == 0


def test_a_run_that_crashes_names_its_picture(tiny_pair):
    command = [LLAVA[0], "-c", IN_THE_ENGINE, "run", SCENE, "What?", "-q", *files_of(tiny_pair)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert 7 == done.returncode
    assert f"goes on where it ended, at {SCENE}: leave that out" in done.stderr


def test_a_library_that_ends_the_process_is_no_success_and_no_riddle(tiny_pair, monkeypatch):
    """Threads with larger stacks than there are addresses cannot be made, and OpenMP gives up."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    command = [*LLAVA, "ask", SCENE, "What?", "--threads", "2", *files_of(tiny_pair)]
    endless = (1 << 48, resource.getrlimit(resource.RLIMIT_STACK)[1])
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_STACK, endless),
    )  # fmt: skip
    assert (7, "") == (done.returncode, done.stdout)
    theirs, first, second = filter(None, done.stderr.splitlines())
    assert "Thread creation failed" in theirs
    assert first.startswith("llava: llama.cpp: a library of its own ended llava while ")
    assert second.startswith("hint: llava doctor")


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(one, marks=pytest.mark.faults) for one in (signal.SIGHUP, signal.SIGQUIT))],
)
def test_what_is_meant_to_end_it_ends_both_as_if_they_were_one(slow_pair, number):
    with writing(slow_pair) as process:
        child = child_of(process.pid)
        process.send_signal(number)
        _, complaints = process.communicate(timeout=30)
    assert (-number, b"") == (process.returncode, complaints)
    assert is_gone(child)


def test_who_kills_one_kills_both(slow_pair):
    with writing(slow_pair) as process:
        child = child_of(process.pid)
        process.kill()
        process.wait()
        assert is_gone(child)


def is_gone(process):
    deadline = time.monotonic() + 20
    while Path(f"/proc/{process}/stat").exists() and " Z " not in Path(f"/proc/{process}/stat").read_text():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_a_crash_at_the_prompt_leaves_a_sane_terminal_and_a_chat_to_go_on_with(tiny_pair):
    with Terminal("chat", SCENE, "-t", "0", "-n", "3", *files_of(tiny_pair)) as chat:
        before = termios.tcgetattr(chat.process.child_fd)
        chat.wait("›")
        chat.enter("What?")
        chat.wait("cut at its longest length")
        chat.wait("›")
        chat.send("half a quest")
        chat.wait("half a quest")
        assert before != termios.tcgetattr(chat.process.child_fd)
        os.kill(child_of(chat.process.pid), signal.SIGSEGV)
        chat.wait(r"llava: llama.cpp: it crashed \(segmentation fault\)\s+hint: [^›]*llava chat -c goes on")
        assert before == termios.tcgetattr(chat.process.child_fd)
        assert chat.raw.rfind("\x1b[?2004l") > chat.raw.rfind("\x1b[?2004h")
        assert chat.raw.rfind("\x1b[?25h") > chat.raw.rfind("\x1b[?25l")
        assert 7 == chat.end()
    with Terminal("chat", "-c") as again:
        again.wait("going on after 1 turn;")


@pytest.mark.faults
def test_a_job_is_stopped_and_goes_on_as_one(slow_pair):
    """In a real shell, with the keys of a real terminal."""
    shell = pexpect.spawn("bash", ["--norc", "--noprofile", "-i"], timeout=30, encoding="utf-8", dimensions=(24, 200))
    shell.delaybeforesend = None
    shell.sendline("PS1='rea''dy '; bind 'set enable-bracketed-paste off'")
    shell.expect("ready ")
    shell.sendline(shlex.join([*LLAVA, "ask", SCENE, "What?", *LONG, "--plain", *files_of(slow_pair)]))
    shell.expect(r"\n.{10}")
    shell.send("\x1a")
    shell.expect("Stopped")
    shell.expect("ready ")
    shell.sendline("ps -o stat= --ppid $(jobs -p)")
    shell.expect(r"\nT")
    shell.sendline("fg")
    shell.expect(r"llava_cli[^\n]*\n.{10}")
    shell.send("\x03")
    shell.expect("ready ")
    shell.sendline("echo code $?")
    shell.expect("code 130\r")
    shell.sendline("exit")
    shell.expect(pexpect.EOF)
    shell.close()


@pytest.mark.faults
@pytest.mark.skipif(shutil.which("dash") is None, reason="there is no such shell")
def test_what_is_typed_is_seen_while_a_job_is_stopped_whatever_the_shell(slow_pair):
    """This one leaves a terminal as the stopped job had it."""
    shell = pexpect.spawn(
        "dash", ["-i"], timeout=30, encoding="utf-8", dimensions=(24, 200), env={**os.environ, "PS1": "ready "}
    )
    shell.expect("ready ")
    shell.sendline(shlex.join([*LLAVA, "ask", SCENE, "What?", *LONG, *files_of(slow_pair)]))
    shell.expect(r"\n[^\n]{10}")
    assert not termios.tcgetattr(shell.child_fd)[3] & termios.ECHO
    shell.send("\x1a")
    shell.expect("ready ")
    assert termios.tcgetattr(shell.child_fd)[3] & termios.ECHO
    shell.sendline("fg")
    shell.expect(r"\n.{10}")
    shell.send("\x03")
    shell.expect("ready ")
    assert termios.tcgetattr(shell.child_fd)[3] & termios.ECHO
    shell.close()


@pytest.mark.parametrize(("arguments", "forks"), [(["ask", "--help"], 0), (["ask", "missing.png"], 1), (["log"], 0)])
def test_only_what_opens_llama_cpp_pays_for_it(arguments, forks):
    code = (
        "import atexit, os, sys\n"
        "seen = []\n"
        "sys.addaudithook(lambda event, _: seen.append(event) if event == 'os.fork' else None)\n"
        "parent = os.getpid()\n"
        "atexit.register(lambda: os.getpid() == parent and print('forks:', len(seen)))\n"
        f"sys.argv = ['llava', *{arguments!r}]\n"
        "from llava_cli.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([LLAVA[0], "-c", code], capture_output=True, text=True, check=False)
    assert f"forks: {forks}" == done.stdout.splitlines()[-1]


def test_where_no_process_can_be_made_it_works_without(monkeypatch):
    def refuse():
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refuse)
    monkeypatch.setattr(last_words, "_shared", None)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert "done" == supervision.in_a_child(lambda: "done")
    assert before == signal.pthread_sigmask(signal.SIG_BLOCK, ())


# The last words, and the log.


@pytest.fixture
def kept(monkeypatch):
    monkeypatch.setattr(last_words, "_shared", None)
    last_words.share()


def test_without_anybody_to_read_them_there_are_no_last_words(monkeypatch):
    monkeypatch.setattr(last_words, "_shared", None)
    last_words.say("stage", "reading")
    assert "" == last_words.said("stage")


@pytest.mark.usefixtures("kept")
def test_last_words_that_are_too_long_lose_their_end_and_touch_no_others():
    last_words.say("complaint", "c")
    last_words.say("stage", "s" * 1000)
    assert ("s" * 60, "c") == (last_words.said("stage"), last_words.said("complaint"))
    last_words.say("stage", "é" * 1000)
    assert "é" * 30 == last_words.said("stage")


@pytest.mark.usefixtures("kept")
def test_a_question_that_was_not_survived_is_in_the_log_and_not_in_the_way_of_its_chat():
    history = History()
    first = history.record(a_turn("One?"))
    history.announce(a_turn("Two?", finish_reason="crashed"), chat=first.chat, after=first.id)
    last_words.say("answer", "A half")
    assert History().rescue()
    assert ("Two?", "A half", "crashed") == ((turn := history.turn()).question, turn.answer, turn.finish_reason)
    assert ["One?"] == [turn.question for turn in history.turns(first.chat)]


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("how", ["answered", "withdrawn", "log off", "too long"])
def test_there_is_nothing_to_rescue_that_was_not_lost(how):
    history = History(recording=how != "log off")
    history.announce(a_turn("x" * (1 << 20) if how == "too long" else "Two?"))
    if how == "answered":
        history.record(a_turn("Two?"))
    elif how == "withdrawn":
        history.announce(None)
    assert not History().rescue()
