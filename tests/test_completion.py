"""Facts about what the tab key offers, in the real shells that are on this computer."""

import os
import shlex
import shutil
import sys

import pexpect
import pytest

from llava_cli.commands.completion import any_files, chat_names, model_names, picture_files
from llava_cli.history import History
from tests.processes import ROOT
from tests.turns import a_turn

SHELLS = {
    "bash": (["--norc", "-i"], 'eval "$(llava --show-completion)"'),
    "zsh": (["-f", "-i"], 'autoload -Uz compinit; compinit -u; eval "$(llava --show-completion)"'),
    "fish": (["--no-config", "-i"], "llava --show-completion | source"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Make a folder of pictures and other files the working directory."""
    (tmp_path / "pics" / "deep").mkdir(parents=True)
    for name in (
        "pics/a.png",
        "pics/b.JPG",
        "pics/notes.txt",
        "pics/two words.webp",
        "pics/.hidden.png",
        "pics/\x1b.png",
    ):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_pictures_are_files_that_are_called_so_and_folders(folder):
    assert ["pics/"] == [name for name, _ in picture_files("")]
    assert ["pics/a.png", "pics/b.JPG", "pics/deep/", "pics/two words.webp"] == [
        name for name, _ in picture_files("pics/")
    ]
    assert ["pics/.hidden.png"] == [name for name, _ in picture_files("pics/.h")]
    assert [f"{folder}/pics/a.png"] == [name for name, _ in picture_files(f"{folder}/pics/a")]
    assert [] == picture_files("nowhere/")


def test_where_any_file_will_do_all_are_offered(folder):
    assert "pics/notes.txt" in [name for name, _ in any_files("pics/")]


def test_the_home_of_a_user_stays_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert ["~/pics/"] == [name for name, _ in picture_files("~/")]


def test_chats_are_offered_by_name():
    history = History()
    history.name_chat(history.record(a_turn("What is this?")).chat, "holiday")
    history.record(a_turn("And that?"))
    assert [("holiday", "What is this?")] == chat_names("")


def test_models_are_offered_with_their_quants_behind_a_colon():
    assert "shapes" in [name for name, _ in model_names("")]
    assert "llava-v1.5-7b:Q4_K_M" in [name for name, _ in model_names("llava-v1.5-7b:")]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "bash" else pytest.mark.slow) for name in SHELLS]
)
def test_a_shell_completes_commands_models_and_pictures(name, folder):
    program = shutil.which(name)
    if program is None:
        pytest.skip(f"{name} is not on this computer")
    (folder / "llava").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m llava_cli "$@"\n')
    (folder / "llava").chmod(0o755)
    arguments, install = SHELLS[name]
    environment = {
        **os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "TERM": "dumb", "PS1": "$ ",
        "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    shell = pexpect.spawn(program, arguments, env=environment, encoding="utf-8", timeout=60, dimensions=(50, 200))
    try:
        shell.sendline(f"{install}; echo rea''dy")
        shell.expect("\nready|^ready")
        for typed, completed in (
            ("llava ask pics/t", r"(pics/two\\ words.webp|'pics/two words.webp'|pics/two\\? words.webp)'? "),
            ("llava ask pics/d", "pics/deep/"),
            ("llava show shapes:f", "f16 "),
            ("llava help exit", "exit-codes "),
        ):
            shell.send(f"{typed}\t")
            shell.expect(completed)
            shell.send("\x15")
        shell.send("llava ask pics/n\t")
        # Nothing is called like a picture: what is typed next follows at once.
        shell.send("#")
        shell.expect("pics/n\a*#")
    finally:
        shell.close(force=True)
