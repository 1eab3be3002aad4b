"""What the README shows is what happens."""

import os
import re
import shlex
import subprocess
import sys

import pytest

from llava_cli import cli, registry
from tests.processes import ROOT
from tests.terminal import Terminal

README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    """Return the fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def shown_sessions():
    """Return each `$ command` of the README with the output under it."""
    return [
        (command, output.strip())
        for block in blocks("console")
        for command, output in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, flags=re.MULTILINE)
    ]


@pytest.mark.parametrize(("command", "output"), shown_sessions())
def test_a_session_prints_what_is_shown(command, output, tmp_path):
    program = tmp_path / "llava"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m llava_cli "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", f"{command} -t 0"], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert output.splitlines()[:1] == done.stdout.splitlines()
    assert len(output.splitlines()[1:]) == len(done.stderr.splitlines())


@pytest.mark.parametrize(
    ("command", "output"), re.findall(r"^(llava .* -m shapes .*?) +# (.+)$", "".join(blocks("sh")), flags=re.MULTILINE)
)
def test_a_line_prints_what_stands_behind_it(command, output, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    assert (0, f"{output}\n") == (cli._run(), capsys.readouterr().out)


def test_there_are_sessions_to_check():
    assert len(shown_sessions()) == 3


def test_the_chat_shows_what_is_shown():
    command, *lines = next(block for block in blocks("text") if "llava chat" in block).splitlines()
    with Terminal(*command.removeprefix("$ llava ").split()) as chat:
        for line in lines:
            prompt, mark, typed = line.partition("› ")
            chat.wait(re.escape(prompt.strip()))
            if mark:
                chat.wait("›")
                chat.enter(typed)
        assert chat.end() == 0


def test_the_python_snippet_runs(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    exec(blocks("python")[0], {})
    printed = capsys.readouterr().out
    assert printed.startswith("red\n3")
    assert re.search(r"^3yes \d+ \d+$", printed, flags=re.MULTILINE)


def test_the_two_set_up_commands_are_there():
    assert [line for line in README.splitlines() if "pip install" in line and line.startswith((".venv", "python"))] == [
        "python -m venv .venv && .venv/bin/pip install . && .venv/bin/llava ask examples/scene.png "
        '"What color is the circle?" -m shapes',
        ".venv/bin/pip install -e '.[dev]' && .venv/bin/pytest",
    ]


def test_every_model_of_the_registry_is_in_the_table():
    named = re.findall(r"^\| `([^`]+)` \|", README, flags=re.MULTILINE)
    assert [spec.name for spec in registry.all_specs()] == named


def test_the_links_into_the_repository_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("[bdt]*/*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text("utf-8"))]
    assert [(page, link) for page, link in links if not (page.parent / link).exists()] == []
