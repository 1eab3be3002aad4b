"""Facts about `llava log` and what `llava ask` writes down, each as a process of its own."""

import json
import os
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pexpect
import pytest

from llava_cli.history import History
from llava_cli.pictures import open_picture
from llava_cli.sanitiser import sanitise
from llava_cli.settings import config_path, data_dir
from tests.hollow_model import write_hollow_pair
from tests.processes import LLAVA, SCENE, files_of, llava
from tests.questions import kept, picture
from tests.turns import a_turn

ANSWER = ("-t", "0", "-n", "8")
CUT = "note: the answer was cut at its longest length; -n allows more tokens\n"
HOSTILE = "\x1b]52;c;ZXZpbA==\x07\x9b31m\u202etxt\x1b[2J[b]bold[/b] \x00end\r\nnext"


@pytest.fixture
def asked(tiny_pair, tmp_path):
    """Ask one question about a file of its own; return (the file, the answer)."""
    file = Path(shutil.copy(SCENE, tmp_path / "mine.png"))
    done = llava("ask", file, "What color?", *ANSWER, *files_of(tiny_pair))
    assert (0, CUT) == (done.returncode, done.stderr)
    return file, done.stdout


# What is written down.


def test_a_question_is_written_down_with_all_it_was_answered_with(tiny_pair, asked):
    file, answer = asked
    turn = History().turn()
    assert ("What color?", answer, "length", None) == (
        turn.question,
        f"{sanitise(turn.answer)}\n",
        turn.finish_reason,
        turn.system,
    )
    assert (str(tiny_pair[0]), str(tiny_pair[1]), True, "llava_v1") == (
        turn.model_path, turn.projector_path, turn.own_files, turn.layout,
    )  # fmt: skip
    assert {"temperature": 0.0, "max_tokens": 8, "ubatch": 640, "seed": turn.seed}.items() <= turn.parameters.items()
    assert (8, 1) == (turn.usage["answer_tokens"], turn.usage["pictures_encoded"])
    assert (replace(open_picture(file).remembered(), detail="high"),) == turn.pictures
    assert str(file) == turn.pictures[0].path
    assert History().thumbnail(turn.pictures[0].sha256).startswith(b"\xff\xd8")


@pytest.mark.parametrize("how", ["option", "environment", "config", "off"])
def test_nothing_is_written_down_that_should_not_be(tiny_pair, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("LLAVA_LOG", "0")
    elif how == "config":
        config_path().parent.mkdir(parents=True)
        config_path().write_text("log = false\n")
    elif how == "off":
        assert f"the log is off now ({config_path()})\n" == llava("log", "off").stdout
    done = llava("ask", SCENE, *ANSWER, *(["--no-log"] if how == "option" else []), *files_of(tiny_pair))
    assert (0, CUT, False) == (done.returncode, done.stderr, History().path.exists())


def test_what_was_written_before_its_reader_left_is_written_down(tmp_path):
    pair = write_hollow_pair(tmp_path)  # it does not come to an end by itself
    asked = shlex.join([*LLAVA, "ask", SCENE, "-t", "2", "-n", "1800", *files_of(pair)])
    assert pexpect.run(shlex.join(["sh", "-c", f"{asked} | head -c 1"]), timeout=60)
    turn = History().turn()
    assert ("stopped", True) == (turn.finish_reason, 0 < turn.usage["answer_tokens"] < 1800)


def test_a_log_that_cannot_be_written_costs_no_answer(tiny_pair, asked):
    (data_dir() / "log.db").unlink()
    (data_dir() / "log.db").mkdir()
    done = llava("ask", SCENE, *ANSWER, *files_of(tiny_pair))
    assert (0, 1) == (done.returncode, len(done.stdout.splitlines()))
    assert re.fullmatch(r"note: this is not in the log: .*log\.db: is a directory\n", done.stderr.removeprefix(CUT))


# Going on.


def test_a_chat_goes_on_with_its_picture_and_model_and_no_file(tiny_pair, asked):
    asked[0].unlink()
    done = llava("ask", "-c", "How many shapes?", *ANSWER, "--stats")
    assert (0, True) == (done.returncode, bool(done.stdout.strip()))
    assert re.search(r"picture 0\.00.* prompt 47 reused", done.stderr)
    llava("ask", "-c", "Is there a star?", *ANSWER)
    turns = History().turns(History().last_chat().id)
    assert ["What color?", "How many shapes?", "Is there a star?"] == [turn.question for turn in turns]
    assert [1, 0, 0] == [len(turn.pictures) for turn in turns]


def test_what_is_said_later_is_what_an_unbroken_chat_says(tiny_pair, asked):
    from llava_cli import load

    later = llava("ask", "-c", "How many shapes?", *ANSWER)
    with load(model_path=tiny_pair[0], projector_path=tiny_pair[1], cache=False) as model:
        chat = model.chat()
        _ = chat.send("What color?", picture=SCENE, temperature=0, max_tokens=8).text
        assert f"{sanitise(chat.send('How many shapes?', temperature=0, max_tokens=8).text)}\n" == later.stdout


def test_a_picture_that_is_gone_is_asked_for_and_stands_in(tiny_pair, asked, tmp_path):
    file = asked[0]
    known = llava("ask", "-c", "How many shapes?", *ANSWER, "--no-log").stdout
    file.rename(tmp_path / "moved.png")
    for path in kept():
        path.unlink()
    gone = llava("ask", "-c", "How many shapes?", *ANSWER)
    assert (3, "") == (gone.returncode, gone.stdout)
    why, hint = gone.stderr.splitlines()
    assert re.fullmatch(r"llava: .*mine\.png: the picture is no longer known \(.*mine\.png: no such file\)", why)
    assert "hint: give the file again" == hint
    assert known == llava("ask", "-c", tmp_path / "moved.png", "How many shapes?", *ANSWER).stdout
    assert () == History().turn().pictures


def test_another_picture_may_join_a_chat(tiny_pair, asked, tmp_path):
    picture(1).image().save(tmp_path / "other.png")
    done = llava("ask", "-c", tmp_path / "other.png", "And here?", *ANSWER)
    assert (0, [tmp_path / "other.png"]) == (done.returncode, [Path(one.path) for one in History().turn().pictures])


def test_the_system_prompt_of_a_chat_stays_unless_another_is_given(tiny_pair):
    llava("ask", SCENE, "1", "-s", "Be brief.", *ANSWER, *files_of(tiny_pair))
    llava("ask", "-c", "2", *ANSWER)
    llava("ask", "-c", "3", "-s", "Be long.", *ANSWER)
    assert ["Be brief.", "Be brief.", "Be long."] == [turn.system for turn in reversed(History().find())]


@pytest.mark.parametrize(
    ("code", "arguments", "why"),
    [
        (2, ["ask", "-c", "What?"], "no chat to go on with"),
        (2, ["ask", "-c"], "Missing argument 'QUESTION'"),
        (2, ["ask"], "Missing argument 'PICTURE'"),
        (2, ["ask", "-c", SCENE], "that is a picture, and with -c one argument is the question"),
        (2, ["log", "show"], "nothing was asked yet"),
        (2, ["log", "show", "7"], "nothing was asked yet|there is no turn 7"),
        (2, ["log", "replay", "7"], "there is no turn 7"),
        (2, ["log", "rm"], "numbers of turns, or --all"),
        (2, ["log", "rm", "1", "--all"], "numbers of turns, or --all"),
        (2, ["log", "rm", "--all"], "nobody to ask"),
        (2, ["log", "rm", "--yes", "7"], "there is no turn 7"),
        (2, ["log", "-n", "-1"], "'-n'"),
        (3, ["log", "--picture", "missing.png"], "no such file"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_hint(here, code, arguments, why):
    done = here(*arguments)
    assert (code, "") == (done.returncode, done.stdout)
    assert re.search(why, done.stderr)
    assert "\nhint: " in done.stderr


# Looking at it.


@pytest.fixture
def filled():
    """Fill the log with three turns of two chats."""
    history = History()
    first = history.record(a_turn("What color?", answer="A **red**\n\ncircle.", pictures=[picture(1)]))
    history.record(a_turn("And now?", answer="blue"), chat=first.chat, after=first.id)
    history.record(a_turn("Where?", answer="left", pictures=[picture(2), picture(3)]))
    return history


def test_in_a_pipe_a_turn_is_a_line_with_tabs(here, filled):
    assert (
        "3\t2023-11-14T22:13:20+00:00\tnoise 2.png, noise 3.png\tWhere?\tleft\n"
        "2\t2023-11-14T22:13:20+00:00\t\tAnd now?\tblue\n"
        "1\t2023-11-14T22:13:20+00:00\tnoise 1.png\tWhat color?\tA **red**  circle.\n"
    ) == here("log").stdout


def test_the_log_can_be_narrowed_down(here, filled, tmp_path):
    def numbers(*arguments):
        return [int(line.split("\t")[0]) for line in here("log", *arguments).stdout.splitlines()]

    picture(1).image().save(tmp_path / "renamed.bmp")
    assert [1] == numbers("-q", "red circle")
    assert [2, 1] == numbers("--picture", tmp_path / "renamed.bmp")
    assert [3, 2] == numbers("-n", "2")
    assert [3, 2, 1] == numbers("-n", "0")


def test_nothing_found_is_a_note_and_no_error(here, filled):
    done = here("log", "-q", "zebra")
    assert (0, "", "note: nothing was found\n") == (done.returncode, done.stdout, done.stderr)
    assert [] == json.loads(here("log", "-q", "zebra", "--json").stdout)


def test_json_says_everything(here, filled):
    (turn,) = json.loads(here("log", "-n", "1", "--json").stdout)
    assert {
        "id": 3,
        "chat": 2,
        "before": None,
        "question": "Where?",
        "answer": "left",
        "seed": 7,
    }.items() <= turn.items()
    assert ["noise 2.png", "noise 3.png"] == [one["name"] for one in turn["pictures"]]
    (shown,) = json.loads(here("log", "show", "1", "--json").stdout)["pictures"]
    assert (picture(1).sha256, True) == (shown["sha256"], shown["thumbnail"].startswith("data:image/jpeg;base64,/9j/"))


def test_one_turn_is_shown_whole(here, filled):
    shown = here("log", "show", "1").stdout
    for text in (
        "What color?",
        "A **red**\n\ncircle.",
        "ended: stop",
        "temperature 0.2",
        "noise 1.png",
        picture(1).sha256[:12],
    ):
        assert text in shown
    assert "Where?" in here("log", "show").stdout


def test_turns_are_removed(here, filled):
    assert "removed 2\n" == here("log", "rm", "1", "3", "--yes").stdout
    assert ["And now?"] == [turn.question for turn in filled.find()]
    assert "removed 1\n" == here("log", "rm", "--all", "-y").stdout


def test_the_log_says_where_it_is_and_whether_it_is_on(here, filled, monkeypatch):
    assert f"{data_dir() / 'log.db'}\n" == here("log", "path").stdout
    assert 0 == here("log", "off").returncode
    assert "note: the log is off\n" == here("log", "path").stderr
    assert f"the log is on now ({config_path()})\n" == here("log", "on").stdout
    assert "" == here("log", "path").stderr
    monkeypatch.setenv("LLAVA_LOG", "0")
    assert "LLAVA_LOG in the environment goes before it" in here("log", "on").stderr


def test_the_log_is_switched_in_the_config_file_and_nothing_else_is(here):
    config_path().parent.mkdir(parents=True)
    config_path().write_text("# mine\nlog = true\nmodel = 'shapes'\n")
    here("log", "off")
    assert "# mine\nlog = \"off\"\nmodel = 'shapes'\n" == config_path().read_text()
    assert "log\tfalse\t" in here("config").stdout


# Asking again.


def test_a_replay_says_that_the_answer_is_the_same(asked):
    llava("ask", "-c", "How many shapes?", "-t", "2", "-n", "20")
    for number in (1, 2):
        done = llava("log", "replay", number)
        assert (0, f"{sanitise(History().turn(number).answer)}\n") == (done.returncode, done.stdout)
        assert done.stderr.startswith("note: the same answer as on ")
    assert 2 == len(History().find())


def test_a_replay_of_a_stopped_answer_goes_as_far(tiny_pair):
    from llava_cli import load
    from llava_cli.history import turn_of

    with load(model_path=tiny_pair[0], projector_path=tiny_pair[1]) as model:
        reply = model.ask(SCENE, "What color?", temperature=2, max_tokens=300)
        for number, _ in enumerate(reply):
            if number == 5:
                model.stop()
        History().record(turn_of(reply, model, "What color?", [open_picture(SCENE)]))
    assert "stopped" == History().turn().finish_reason
    done = llava("log", "replay")
    assert (0, True) == (done.returncode, "the same answer" in done.stderr)


def test_a_replay_says_that_the_answer_is_another_and_what_has_changed(asked):
    history = History()
    history._file.write(
        lambda db: db.execute("UPDATE turns SET answer = 'never said', model_bytes = 1, program = 'x 1'")
    )
    done = llava("log", "replay", "1")
    assert (8, asked[1]) == (done.returncode, done.stdout)
    assert [
        "note: since then, the model file has become another one (1 bytes then",
        "note: since then, the program has changed (x 1 then",
        "llava: answer: it is not that of ",
    ] == [re.split(r",(?= \d)|, (?=llava)|(?<=of )", line)[0] for line in done.stderr.splitlines()]


def test_a_replay_needs_its_picture(asked):
    asked[0].unlink()
    assert 0 == llava("log", "replay").returncode
    for path in kept():
        path.unlink()
    done = llava("log", "replay")
    assert (3, True) == (done.returncode, "the picture is no longer known" in done.stderr)


# On a terminal.


@pytest.fixture
def hostile():
    """Write down a turn in which everything that is text is hostile."""
    shown = replace(picture(1), name=HOSTILE, path=f"/{HOSTILE}")
    facts = dict.fromkeys(
        ("system", "model", "model_path", "projector_path", "layout", "program", "finish_reason"), HOSTILE
    )
    parameters = {HOSTILE: HOSTILE}
    History().record(a_turn(HOSTILE, answer=HOSTILE, pictures=[shown], parameters=parameters, usage={}, **facts))


def terminal(*arguments, env=(), size=(40, 100)):
    """Run `llava` in a terminal of that many rows and columns."""
    environment = {**os.environ, "TERM": "xterm-256color", "NO_COLOR": "1", **dict(env)}
    return pexpect.spawn(LLAVA[0], [*LLAVA[1:], *map(str, arguments)], env=environment, dimensions=size, timeout=30)


def on_terminal(*arguments, **options):
    process = terminal(*arguments, **options)
    text = process.read().decode()
    process.close()
    assert 0 == process.exitstatus
    return text


@pytest.mark.parametrize("where", [terminal, None], ids=["terminal", "pipe"])
@pytest.mark.parametrize("command", [["log"], ["log", "show"], ["log", "--json"], ["log", "--plain"]])
def test_no_control_code_in_the_log_reaches_the_terminal(here, hostile, command, where):
    shown = on_terminal(*command, env={"PAGER": "cat"}) if where else here(*command).stdout
    # What is left of the terminal's own: line ends, and rich's bold and dim.
    rest = re.sub(r"\x1b\[[0-9;]*m|\r?\n|\t", "", shown)
    assert rest.isprintable()
    assert "\x1b[31m" not in shown
    assert "[b]bold[/b]" in rest
    assert "end" in rest


def test_on_a_terminal_it_goes_through_the_pager(filled, tmp_path):
    pager = tmp_path / "pager"
    pager.write_text('#!/bin/sh\necho "PAGED $LESS $1"\ncat\n')
    pager.chmod(0o755)
    shown = on_terminal("log", env={"PAGER": f"{pager} -x"})
    assert "PAGED FRX -x" in shown
    assert ["Where?", "And now?", "What color?"] == re.findall(
        r"^\S*?((?:W|And )\w.*\?)", re.sub(r"\x1b\[\d*m|\r", "", shown), re.M
    )


@pytest.mark.parametrize("pager", ["", "cat", "no-such-pager", "'"])
def test_without_a_pager_it_is_simply_written(filled, pager):
    assert "What color?" in on_terminal("log", env={"PAGER": pager})


@pytest.mark.skipif(shutil.which("less") is None, reason="less is not installed")
def test_leaving_the_pager_early_is_no_error(filled):
    filled.record(a_turn("begin " + "word " * 100_000 + "last"))  # more than a pipe takes at once
    process = terminal("log", "show", env={"PAGER": "less"}, size=(10, 60))
    process.expect("begin")
    process.send("q")
    rest = process.read().decode()
    process.close()
    assert (0, False) == (process.exitstatus, "last" in rest or "Error" in rest or "llava:" in rest)


def test_removing_asks_first_on_a_terminal(filled):
    for answer, left in (("n", 3), ("y", 0)):
        process = terminal("log", "rm", "--all")
        process.expect("Remove the whole log, for good")
        process.sendline(answer)
        process.read()
        process.close()
        assert left == len(filled.find())
