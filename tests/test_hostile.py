"""Facts about what reaches a terminal when answers, file names and metadata want something from it."""

import os
import shlex
import sqlite3
import subprocess
from contextlib import closing

import pexpect
import pytest

from llava_cli.errors import LlavaError
from llava_cli.gguf_file import read_header, write_copy
from llava_cli.history import History
from llava_cli.pictures import shown
from llava_cli.render import Output
from llava_cli.sanitiser import sanitise
from tests.hostile import HOSTILE, answered, is_obeyed, is_within, letters, what_stays, without_drawing
from tests.processes import LLAVA, SCENE, files_of, llava
from tests.terminal import Terminal
from tests.turns import a_turn


def test_there_are_enough_of_them():
    assert len(HOSTILE) >= 300
    assert len(set(HOSTILE)) == len(HOSTILE)


def test_only_what_is_obeyed_is_dropped():
    kept = ["".join(letter for letter in text if not is_obeyed(letter)) for text in HOSTILE]
    assert kept == [sanitise(text) for text in HOSTILE]


def test_an_answer_on_a_terminal_holds_no_control_byte_but_our_own():
    survivors = {text for text in HOSTILE if any(map(is_obeyed, without_drawing(answered(text))))}
    assert survivors == set()


def test_an_answer_on_a_terminal_loses_no_letter():
    assert [text for text in HOSTILE if not is_within(letters(text), letters(what_stays(answered(text))))] == []


def test_a_file_name_is_shown_in_letters_that_print():
    assert [name for name in map(shown, HOSTILE) if not name.isprintable()] == []


def test_an_error_is_two_lines_whatever_is_in_it(capsys):
    for text in HOSTILE:
        Output().error(LlavaError(text, text, hint=text))
    lines = capsys.readouterr().err.split("\n")
    assert len(lines) == 2 * len(HOSTILE) + 1
    assert not any(is_obeyed(letter) for line in lines for letter in line)


def test_metadata_of_a_model_file_is_shown_harmless(tiny_pair, tmp_path):
    model = tmp_path / "model.gguf"
    text = "".join(HOSTILE[::60]).encode("utf-8", "replace").decode()
    write_copy(read_header(tiny_pair[0]), model, add={"general.architecture": ("str", text)})
    done = llava("chat", "--model-path", model, "--projector-path", tiny_pair[1], stdin=b"What?\n")
    assert (4, True) == (done.returncode, "]52;c;" in done.stderr)
    assert not any(map(is_obeyed, done.stdout + done.stderr))


def test_the_words_of_llama_cpp_about_a_model_file_are_shown_harmless(tiny_pair, tmp_path, monkeypatch):
    """With LLAVA_DEBUG=1 it tells what stands in the file, the name for one."""
    model = tmp_path / "model.gguf"
    name = "".join(HOSTILE[::7]).encode("utf-8", "replace").decode().replace("\0", "")
    write_copy(read_header(tiny_pair[0]), model, add={"general.name": ("str", name)})
    monkeypatch.setenv("LLAVA_DEBUG", "1")
    done = llava("ask", SCENE, "What?", "-n", "2", *files_of((model, tiny_pair[1])))
    assert (0, True) == (done.returncode, "[31mred" in done.stderr)
    assert not any(map(is_obeyed, done.stdout + done.stderr))


def test_what_the_web_server_says_of_its_clients_is_harmless():
    """With LLAVA_DEBUG=1 its tracebacks are shown, and with them what a client has sent."""
    code = """
import logging, socket, sys
import uvicorn
from llava_cli import listening
uvicorn.Server.run = lambda *_, **__: None
listening.serve(None, socket.socket(), on_start=lambda: None, on_stop=lambda: None)
try:
    raise ValueError(sys.argv[1])
except ValueError:
    logging.getLogger("uvicorn.error").exception(sys.argv[1])
"""
    text = "".join(HOSTILE).encode("utf-8", "replace").decode().replace("\0", "")
    done = subprocess.run(
        [LLAVA[0], "-c", code, text], env={**os.environ, "LLAVA_DEBUG": "1"}, capture_output=True, check=True
    )
    seen = done.stderr.decode()
    assert ("ValueError" in seen, "[31mred" in seen) == (True, True)
    assert not any(map(is_obeyed, seen))


def test_what_is_written_is_harmless_whoever_writes_it(capsys):
    output = Output()
    for text in HOSTILE:
        output.write(text)
        output.say(text)
        output.styled(text)
        output.markdown(text)
        output.table(("title",), [(text,)], (str,))
        output.traceback(ValueError(text))
        output.finding(LlavaError(text, text, hint=text), stops=True)
    seen = capsys.readouterr()
    assert "[31mred" in seen.out
    assert "[31mred" in seen.err
    assert not any(map(is_obeyed, seen.out + seen.err))


@pytest.mark.parametrize("text", ["\u2028second line", "\x85second line", "\x0bsecond line"])
def test_an_error_stays_one_line_for_programs_that_read_lines(capsys, text):
    Output().error(LlavaError("what", f"why{text}"))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_the_name_of_a_picture_in_the_log_is_shown_harmless(tiny_pair):
    """A chat goes on with it, and its prompt names it."""
    kept = History().record(a_turn(own_files=True, model_path=str(tiny_pair[0]), projector_path=str(tiny_pair[1])))
    with closing(sqlite3.connect(History().path)) as database, database:
        database.execute("INSERT INTO pictures VALUES (?, 1, 1, NULL)", ("0" * 64,))
        row = (kept.id, 0, "0" * 64, "cat\x1b[31m\u202egnp.exe", None, b"", 0)
        database.execute("INSERT INTO turn_pictures VALUES (?, ?, ?, ?, ?, ?, ?)", row)
    with Terminal("chat", "-c", "--plain", *files_of(tiny_pair)) as terminal:
        terminal.wait("cat")
        terminal.wait(" > ")
        terminal.enter("/images")
        terminal.wait("cat")
        terminal.enter("/quit")
        assert (0, False, False) == (terminal.end(), "\u202e" in terminal.raw, "\x1b[31m" in terminal.raw)


def test_raw_keeps_what_the_model_wrote_in_a_pipe(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    Output().answer(["# a\x1b"], raw=True)
    assert "# a\x1b\n" == capsys.readouterr().out
    monkeypatch.delenv("FORCE_COLOR")
    for raw, expected in ((False, "a[31mb\n"), (True, "a\x1b[31mb\n")):
        Output().answer(["a\x1b", "[31mb"], raw=raw)
        assert expected == capsys.readouterr().out


def test_raw_is_refused_where_a_terminal_would_obey():
    shown = pexpect.run(shlex.join([*LLAVA, "ask", SCENE, "What?", "-m", "shapes", "--raw"]), timeout=60).decode()
    assert "llava: --raw: a terminal would obey what the model writes" in shown
