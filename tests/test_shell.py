"""Facts about llava as a citizen of the shell: help, colours, notes, and streams that cannot be written."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import typer

from llava_cli import errors
from llava_cli.cli import app
from tests.processes import LLAVA, ROOT, SCENE, llava
from tests.terminal import Terminal

SHAPES = ("-m", "shapes", "-t", "0")


def commands(group=None, path=("llava",)):
    """Yield the words of every command, and the command."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        yield (*path, name), command
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))


ALL = dict(commands())


# Help.


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_the_help_of_every_command_begins_with_examples(words):
    first, *examples = ALL[words].help.split("\n\n")
    assert first.endswith(".")
    assert " ".join(words if words[1] != "help" else words[:2]) in examples[0]


@pytest.mark.parametrize("words", ALL, ids=" ".join)
def test_every_command_can_be_looked_at_in_the_same_way(words):
    options = {name: option for option in ALL[words].params for name in option.opts}
    assert {"--color", "--plain", "--quiet", "--verbose"} <= options.keys()
    assert options["-v"] is options["--verbose"]
    assert ("-q" in options and options["-q"] is not options["--quiet"]) == (words == ("llava", "log"))


@pytest.mark.parametrize("words", [("log", "show"), ("ask",)])
def test_help_shows_what_the_option_shows(words):
    assert llava(*words, "--help").stdout == llava("help", *words).stdout != ""


def test_help_knows_what_exit_codes_mean():
    lines = llava("help", "exit-codes").stdout.splitlines()
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.LlavaError)]
    assert {kind.exit_code for kind in kinds} < {int(line.partition("\t")[0]) for line in lines}
    shown = next(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("0 ok"))
    assert set(re.findall(r"\b(\d+) ", shown)) <= {line.partition("\t")[0] for line in lines}


@pytest.mark.parametrize(
    ("meant", "typed"),
    [
        ("ask", ["aks"]), ("show", ["log", "shw"]), ("exit-codes", ["help", "exit-code"]),
        ("--model", ["ask", "--modle"]), ("--endpoint", ["ask", SCENE, "--endpont", "x"]),
    ],
)  # fmt: skip
def test_what_was_meant_is_offered(meant, typed):
    done = llava(*typed)
    assert (2, "") == (done.returncode, done.stdout)
    assert re.search(rf"[Dd]id you mean '?{meant}\b", done.stderr)


# Looks.


@pytest.mark.parametrize(
    ("coloured", "options", "environment"),
    [
        (False, (), {}),
        (True, ("--color", "always"), {}),
        (True, (), {"FORCE_COLOR": "1"}),
        (False, ("--color", "never"), {"FORCE_COLOR": "1"}),
        (False, ("--plain",), {"FORCE_COLOR": "1"}),
    ],
)
def test_a_pipe_gets_colours_only_if_they_are_wanted(monkeypatch, coloured, options, environment):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert coloured == ("\x1b[" in llava("config", *options).stdout)


@pytest.mark.parametrize(
    ("styled", "options", "environment"),
    [
        (True, (), {}),
        (False, ("--plain",), {}),
        (False, (), {"TERM": "dumb"}),
        (True, ("--color", "always"), {"NO_COLOR": "1"}),
    ],
)
def test_a_terminal_gets_styles_unless_they_are_not_wanted(styled, options, environment):
    with Terminal("config", *options, **environment) as terminal:
        terminal.wait("repeat_penalty")
        terminal.end()
    assert styled == ("\x1b[" in terminal.raw)


def test_no_color_leaves_the_layout_and_takes_the_colours():
    with Terminal("ask", SCENE, "What color is the circle?", *SHAPES, NO_COLOR="1") as terminal:
        terminal.wait("red")
        assert 0 == terminal.end()
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", terminal.raw)


def test_verbose_says_what_was_used_and_nothing_of_what_was_asked(monkeypatch):
    monkeypatch.setenv("LLAVA_SYSTEM", "Answer secretly.")
    done = llava("ask", SCENE, "What color is the circle?", *SHAPES, "-v")
    assert "red\n" == done.stdout
    for fact in (
        "config file: none",
        "environment: LLAVA_SYSTEM",
        "model: shapes",
        ".gguf",
        "reading the question (",
        "s in all",
    ):
        assert fact in done.stderr
    assert not re.search("circle|secretly|red", done.stderr)


def test_quiet_says_nothing_that_was_not_asked_for():
    assert "" == llava("ask", SCENE, "What color is the circle?", *SHAPES, "-q").stderr


# Streams.

WRITERS = [
    (), ("--help",), ("--version",), ("help", "exit-codes"), ("log", "--help"), ("template",),
    ("models",), ("models", "--json"), ("show", "shapes"), ("config",), ("config", "--path"), ("log", "--json"),
    ("log", "path"), ("log", "on"), ("cache", "--json"), ("cache", "clear"), ("template", "list", "--json"),
    ("doctor", "-m", "shapes"), ("verify", "shapes"), ("use", "shapes"),
    ("ask", SCENE, "What color is the circle?", *SHAPES), ("run", SCENE, "What color is the circle?", *SHAPES),
]  # fmt: skip
LOST = {
    "full": ('exec "$@" >/dev/full', 1, "no space left on device"),
    "closed": ('exec "$@" >&-', 1, "it is closed"),
    "left": ('exec "$@"', 141, ""),
}


def run_all(how, writers):
    """Run all `writers` with a stdout that is lost, several at once; yield them with exit codes and complaints."""
    script = LOST[how][0]
    for number in range(0, len(writers), 4):
        started = []
        for writer in writers[number : number + 4]:
            process = subprocess.Popen(
                ["sh", "-c", script, "sh", *LLAVA, *writer], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, env=os.environ,
            )  # fmt: skip
            if how == "left":
                process.stdout.close()
            started.append((writer, process))
        for writer, process in started:
            complaints = process.stderr.read().decode()
            process.stderr.close()
            code = process.wait(timeout=60)
            if how != "left":
                process.stdout.close()
            yield writer, code, complaints


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("how", LOST)
@pytest.mark.parametrize(
    "writers",
    [pytest.param([WRITERS[1], WRITERS[-1]], id="some"), pytest.param(WRITERS, id="all", marks=pytest.mark.slow)],
)
def test_a_lost_answer_is_never_a_success(how, writers):
    _, code, why = LOST[how]
    for writer, ended, complaints in run_all(how, writers):
        assert (writer, code, True) == (writer, ended, why in complaints)
        assert "Traceback" not in complaints
        assert how != "left" or "llava:" not in complaints
