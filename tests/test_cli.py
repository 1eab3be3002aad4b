"""Facts about `llava ask` as a process: what comes out where, and with which exit code."""

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from llava_cli.model import load
from llava_cli.sanitiser import sanitise
from tests.processes import LLAVA, SCENE, files_of, llava

ANSWER = ("-t", "0", "-n", "12")


def test_in_a_pipe_the_answer_is_all_there_is(tiny_pair):
    with load(model_path=tiny_pair[0], projector_path=tiny_pair[1]) as model:
        answer = model.ask(SCENE, "What color?", temperature=0, max_tokens=12).text
    done = llava("ask", SCENE, "What color?", *ANSWER, "-q", *files_of(tiny_pair))
    assert (0, f"{sanitise(answer)}\n", "") == (done.returncode, done.stdout, done.stderr)


def test_stats_are_one_line_on_stderr(tiny_pair):
    done = llava("ask", SCENE, "What color?", *ANSWER, "-q", "--stats", "--seed", "7", *files_of(tiny_pair))
    assert re.fullmatch(
        r"12 tokens · [\d.]+ tokens/s · first token [\d.]+ s \(picture [\d.]+, prompt [\d.]+\)"
        r" · 16 picture tokens · prompt 0 reused \+ \d+ new · seed 7\n"
        r"context 2048 · kv f16 · 1 threads · batch 640 · flash attention on · repacking off\n",
        done.stderr,
    )


def test_the_question_may_come_through_a_pipe(tiny_pair):
    typed = llava("ask", SCENE, "How many shapes are there?", *ANSWER, *files_of(tiny_pair))
    piped = llava("ask", SCENE, "-", *ANSWER, *files_of(tiny_pair), stdin=b"How many shapes are there?\n")
    assert typed.stdout == piped.stdout != ""


def test_the_picture_may_come_through_a_pipe(tiny_pair):
    named = llava("ask", SCENE, "What color?", *ANSWER, *files_of(tiny_pair))
    piped = llava("ask", "-", "What color?", *ANSWER, *files_of(tiny_pair), stdin=Path(SCENE).read_bytes())
    assert named.stdout == piped.stdout != ""


def test_the_default_question_asks_for_a_description(tiny_pair):
    asked = llava("ask", SCENE, "Describe this picture.", *ANSWER, *files_of(tiny_pair))
    assert asked.stdout == llava("ask", SCENE, *ANSWER, *files_of(tiny_pair)).stdout != ""


def test_another_system_prompt_is_another_prompt(tiny_pair):
    default = llava("ask", SCENE, *ANSWER, "--stats", *files_of(tiny_pair))
    brief = llava("ask", SCENE, *ANSWER, "--stats", "-s", "Answer briefly.", *files_of(tiny_pair))
    default_cells, brief_cells = (int(re.search(r"\+ (\d+) new", run.stderr)[1]) for run in (default, brief))
    assert brief_cells < default_cells


def test_a_note_about_the_picture_goes_to_stderr(tiny_pair, tmp_path):
    from PIL import Image

    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    done = llava("ask", tmp_path / "a.gif", *ANSWER, *files_of(tiny_pair))
    assert (0, True) == (done.returncode, "note:" in done.stderr and "first of 2 frames" in done.stderr)


REFUSALS = {
    "no such picture": (3, ["missing.png", "What?"]),
    "not a picture": (3, [__file__, "What?"]),
    "a folder": (3, [str(Path(__file__).parent), "What?"]),
    "empty question": (2, [SCENE, "  "]),
    "no answer wanted": (2, [SCENE, "What?", "-n", "0"]),
    "negative temperature": (2, [SCENE, "What?", "-t", "-1"]),
    "temperature is a word": (2, [SCENE, "What?", "-t", "hot"]),
    "unknown option": (2, [SCENE, "What?", "--frobnicate"]),
    "stdin twice": (2, ["-", "-"]),
    "unknown model": (4, [SCENE, "What?", "-m", "shaps"]),
    "model not on disk": (4, [SCENE, "What?"]),
    "half a pair": (2, [SCENE, "What?", "--model-path", "a.gguf"]),
    "unknown layout": (2, [SCENE, "What?", "--model-path", "a", "--projector-path", "b", "--prompt-layout", "c"]),
    "no such model file": (4, [SCENE, "What?", "--model-path", "a.gguf", "--projector-path", "b.gguf"]),
    "a picture as model": (4, [SCENE, "What?", "--model-path", SCENE, "--projector-path", SCENE]),
}


@pytest.mark.parametrize(("code", "arguments"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_two_lines_on_stderr_and_its_exit_code(code, arguments):
    done = llava("ask", *arguments, stdin=b"")
    assert (code, "") == (done.returncode, done.stdout)
    first, second = done.stderr.splitlines()
    assert re.match(r"llava: .+: .+", first)
    assert second.startswith("hint: ")


def test_a_model_that_is_not_on_disk_names_both_ways_on():
    stderr = llava("ask", SCENE, "What?").stderr
    assert "llava pull llava-v1.5-7b" in stderr
    assert "-m shapes" in stderr


def test_an_unknown_model_is_answered_with_what_was_meant():
    stderr = llava("ask", SCENE, "What?", "-m", "shaps").stderr
    assert "did you mean shapes?" in stderr
    assert "llava-v1.5-7b" in stderr


def test_swapped_files_are_told_apart(tiny_pair):
    done = llava("ask", SCENE, "What?", *files_of(tiny_pair[::-1]))
    assert (4, True) == (done.returncode, "projector" in done.stderr)


def test_a_prompt_longer_than_the_context_is_refused(tiny_pair):
    done = llava("ask", SCENE, "-", "--context", "512", *files_of(tiny_pair), stdin=b"circle " * 600)
    assert (7, True) == (done.returncode, "--context" in done.stderr)


@pytest.mark.parametrize("size", [[], ["--threads", "1"]])
def test_ctrl_c_while_writing_keeps_the_text(tiny_pair, size):
    command = [*LLAVA, "ask", SCENE, "-t", "2", "--seed", "6", "-n", "1800", "-q", *size, *files_of(tiny_pair)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        begun = process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=10)
    assert (130, b"") == (process.returncode, complaints)
    assert len(begun) == 20
    assert rest.endswith(b"\n")


def test_a_reader_that_leaves_ends_it_quietly(tiny_pair):
    command = [*LLAVA, "ask", SCENE, "-t", "2", "-n", "1800", *files_of(tiny_pair)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        complaints = process.stderr.read()
    assert (141, b"") == (process.returncode, complaints)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_lost_answer_is_never_a_success(tiny_pair):
    command = [*LLAVA, "ask", SCENE, *ANSWER, *files_of(tiny_pair)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (1, True) == (done.returncode, b"no space left" in done.stderr)


def test_a_closed_stdout_is_never_a_success(tiny_pair):
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *LLAVA, "ask", SCENE, *ANSWER, *files_of(tiny_pair)]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False)
    assert (1, True) == (done.returncode, b"standard output: it is closed" in done.stderr)


def test_llava_alone_shows_three_examples():
    lines = llava().stdout.splitlines()
    assert len(lines) <= 10
    assert sum(line.startswith(("  llava ", "  echo ")) for line in lines) == 3


def test_the_same_works_as_a_module_and_says_its_version():
    from llava_cli import __version__

    assert f"llava {__version__}\n" == llava("--version").stdout


def test_a_bug_is_one_line_unless_debugging(monkeypatch):
    code = (
        "import sys, llava_cli.cli as cli, llava_cli.settings as settings\n"
        "def broken(*a, **k): raise KeyError('oops')\n"
        "settings.resolve = broken\n"
        f"sys.argv = ['llava', 'ask', {SCENE!r}, 'What?']\n"
        "cli.main()\n"
    )
    run = [LLAVA[0], "-c", code]
    quiet = subprocess.run(run, capture_output=True, text=True, check=False)
    assert (1, "llava: unexpected: KeyError: 'oops'") == (quiet.returncode, quiet.stderr.splitlines()[0])
    loud = subprocess.run(run, capture_output=True, text=True, check=False, env={**os.environ, "LLAVA_DEBUG": "1"})
    assert "Traceback" in loud.stderr
