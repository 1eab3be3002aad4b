"""Facts about answers a shell can use: several pictures, JSON, schemas, choices, exit codes, and no answer lost."""

import base64
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pexpect
import pytest

from llava_cli import LoadOptions, load
from llava_cli.history import History
from llava_cli.pictures import open_picture
from llava_cli.sanitiser import sanitise
from llava_cli.sources import names_picture
from llava_cli.vision import TowerFacts
from tests.processes import LLAVA, SCENE, files_of, llava

SHAPES = ("-m", "shapes", "-t", "0", "-q")
ASKED = ("-m", "shapes", "-q")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Go to a folder that holds two pictures, one of them blue all over."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    shutil.copy(SCENE, "scene.png")
    Image.new("RGB", (60, 40), "blue").save("blue.png")
    return tmp_path


# Several pictures.


def test_several_pictures_are_one_question(here, folder, tiny_pair):
    how = ("-t", "0", "-n", "8", "-q", *files_of(tiny_pair))
    with load(model_path=tiny_pair[0], projector_path=tiny_pair[1]) as model:
        reply = model.ask(["scene.png", "blue.png"], "Which color?", temperature=0, max_tokens=8)
        assert (reply.text, 32) == (reply.text, reply.usage.picture_cells)
    assert f"{sanitise(reply.text)}\n" == here("ask", "scene.png", "blue.png", "Which color?", *how).stdout
    assert ["scene.png", "blue.png"] == [one.name for one in History().turn().pictures]


def test_pictures_alone_are_described(here, folder, tiny_pair):
    how = ("-t", "0", "-n", "8", "-q", *files_of(tiny_pair))
    assert 0 == here("ask", "scene.png", "blue.png", *how).returncode
    turn = History().turn()
    assert ("Describe this picture.", 2) == (turn.question, len(turn.pictures))


NAMES = {
    "a file": ("scene.png", True),
    "a file that is not there": ("scnee.png", True),
    "of a kind that is none": ("notes.md", True),
    "in a folder": ("./scene", True),
    "at home": ("~/scene", True),
    "a folder": ("..", True),
    "a broken link": ("link", True),
    "an address": ("https://example.org/a", True),
    "a data URL": ("data:image/png;base64,AAAA", True),
    "the clipboard": ("clip:", True),
    "stdin": ("-", False),
    "a question": ("What is in scene.png", False),
    "a word": ("Describe", False),
    "a word with a stop": ("Describe.", False),
    "a slash": ("left/right?", False),
    "a file with spaces in a folder that is there": ("./my photo.jpg", True),
    "about a file in a folder": ("What is in photos/scene.png", False),
    "about an address": ("https://example.org/a or not?", False),
    "without spaces": ("この写真は何ですか", False),
    "nothing": ("", False),
    "no possible file": ("a\0b", False),
}


@pytest.mark.parametrize(("text", "is_picture"), NAMES.values(), ids=NAMES)
def test_the_last_argument_is_the_question_unless_it_names_a_picture(folder, text, is_picture):
    (folder / "link").symlink_to("nowhere")
    assert is_picture == names_picture(text)


MISTAKES = {
    "a missing last picture": (["scene.png", "blu.png"], "did you mean blue.png?"),
    "a missing picture": (["scne.png", "blue.png", "What?"], "did you mean scene.png?"),
    "a question without quotes": (["scene.png", "What", "is", "it?"], "then the question, in quotes"),
    "the question first": (["What is it?", "scene.png"], "then the question, in quotes"),
}


@pytest.mark.parametrize(("arguments", "hint"), MISTAKES.values(), ids=MISTAKES)
def test_a_picture_that_is_not_there_never_becomes_a_question(here, folder, arguments, hint):
    done = here("ask", *arguments, "-m", "shapes")
    assert (3, "", True) == (done.returncode, done.stdout, hint in done.stderr)


USAGE = {
    "stdin is two pictures": ["-", "-", "What?"],
    "stdin is a picture and the question": ["-", "-"],
    "nothing to ask about": [],
    "a schema and choices": [SCENE, "What?", "--schema", "int", "--choices", "a,b"],
    "a schema no model can be held to": [SCENE, "What?", "--schema", '{"type": "string", "pattern": "a"}'],
    "one choice": [SCENE, "What?", "--choices", "yes"],
    "an exit code without choices": [SCENE, "What?", "--exit-code"],
    "choices that would be drawn": [SCENE, "What?", "--choices", "yes,no", "-t", "0"],
    "no crop": [SCENE, "What?", "--crop", "1,2"],
    "no PNG": [SCENE, "What?", "--show-input", "seen.jpg"],
    "no template": [SCENE, "What?", "--template", "none"],
    "a part of no picture": ["-c", "What?", "--crop", "0,0,10,10"],
    "a frame of no picture": ["-c", "What?", "--frame", "2"],
    "raw choices": [SCENE, "What?", "--choices", "yes,no", "--raw"],
    "no option": [SCENE, "What?", "--frobnicate"],
}


@pytest.mark.parametrize("arguments", USAGE.values(), ids=USAGE)
def test_a_mistake_is_said_in_words_and_as_json(here, arguments):
    done = here("ask", *arguments, "-m", "shapes", "--json")
    error = json.loads(done.stdout)["error"]
    first, second = done.stderr.splitlines()
    assert (2, 2) == (done.returncode, error["exit_code"])
    assert (first, second) == (f"llava: {error['what']}: {error['why']}", f"hint: {error['hint']}")
    assert "" == here("ask", *arguments, "-m", "shapes").stdout


@pytest.mark.parametrize(("command", "code"), [("ask", 3), ("run", 9)])
def test_how_large_a_picture_may_be_is_for_the_user_to_say(here, folder, tiny_pair, command, code):
    from PIL import Image

    Image.new("L", (1100, 1000)).save("large.png")
    how = (command, "large.png", "What?", "-q", "-n", "2", *files_of(tiny_pair))
    done = here(*how, "--max-megapixels", "1")
    assert (code, True) == (done.returncode, "too large: 1,100,000 pixels" in done.stdout + done.stderr)
    assert 2 == here(*how, "--max-megapixels", "1001").returncode
    assert 0 == here(*how, "--max-megapixels", "2").returncode


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0", b"What\xff?", b"What\0?"])
def test_what_is_no_text_is_no_question(data):
    done = llava("ask", SCENE, "-", "-m", "shapes", stdin=data)
    assert (2, "", True) == (done.returncode, done.stdout, "what came through stdin is no text" in done.stderr)


def test_a_question_alone_is_told_that_a_picture_comes_first(here, folder):
    done = here("ask", "What color is it?", "-m", "shapes")
    assert (3, True) == (
        done.returncode,
        "a picture comes first: llava ask photo.jpg 'What color is it?'" in done.stderr,
    )


def test_other_errors_are_json_too_and_keep_their_exit_codes(here, folder):
    for code, arguments in ((3, ["missing.png", "What?"]), (4, ["scene.png", "What?", "-m", "nonsense"])):
        done = here("ask", *arguments, "--json")
        assert (code, code) == (done.returncode, json.loads(done.stdout)["error"]["exit_code"])
    assert "" == here("ask", "missing.png", "What?", "--", "--json").stdout


def test_with_continue_the_pictures_may_be_new_or_left_out(here, folder, tiny_pair):
    how = ("-t", "0", "-n", "8", "-q", "--context", "512", *files_of(tiny_pair))
    here("ask", "scene.png", "What color?", *how)
    here("ask", "-c", "And now?", *how)
    done = here("ask", "-c", "blue.png", "And this one?", *how, "--json")
    assert ["scene.png", "blue.png"] == [one["name"] for one in json.loads(done.stdout)["pictures"]]
    assert ["And this one?", "And now?", "What color?"] == [turn.question for turn in History().find()]
    refused = here("ask", "-c", "blue.png", *how)
    assert (2, True) == (refused.returncode, "with -c one argument is the question" in refused.stderr)


def test_the_window_has_room_for_all_pictures_as_far_as_the_model_was_trained():
    facts = TowerFacts(336, 576, 1024, None, None)
    windows = [facts.window(LoadOptions(pictures=count), 4096) for count in (1, 2, 5, 9)]
    assert [2048, 3072, 4096, 4096] == windows
    assert 1024 == facts.window(LoadOptions(pictures=5, context=1024), 4096)


def test_stdin_on_a_terminal_says_what_it_waits_for():
    process = pexpect.spawn(LLAVA[0], [*LLAVA[1:], "ask", "-", "What?", *SHAPES], encoding="utf-8", timeout=60)
    process.expect("waiting for the picture on stdin, which is this terminal; Ctrl-D ends it, Ctrl-C leaves")
    process.sendintr()
    process.expect(pexpect.EOF)
    process.close()
    assert 130 == process.exitstatus


def test_a_question_can_be_typed(tiny_pair):
    arguments = ["ask", SCENE, "-", "-n", "4", "-q", *files_of(tiny_pair)]
    process = pexpect.spawn(LLAVA[0], [*LLAVA[1:], *arguments], encoding="utf-8", timeout=60)
    process.expect("waiting for the question on stdin")
    process.send("What color?\n\x04")
    process.expect(pexpect.EOF)
    process.close()
    assert (0, "What color?") == (process.exitstatus, History().turn().question)


# One object.


def test_json_is_one_object_with_the_answer_and_all_about_it(here):
    done = here("ask", SCENE, "What color is the circle?", *SHAPES, "-n", "9", "--json")
    found = json.loads(done.stdout)
    picture = open_picture(SCENE)
    assert (0, "red", "stop", "What color is the circle?") == (
        done.returncode, found["answer"], found["finish_reason"], found["question"]
    )  # fmt: skip
    assert [{"name": SCENE, "sha256": picture.sha256, "width": 640, "height": 400}] == found["pictures"]
    assert {"name": "shapes", "layout": "llava_v1"} == found["model"]
    assert {"temperature": 0.0, "max_tokens": 9}.items() <= found["parameters"].items()
    assert {"prompt_cells": 144, "picture_cells": 100, "answer_tokens": 1}.items() <= found["usage"].items()
    assert {"look", "read", "first_token", "write"} == set(found["seconds"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", found["time"])


def test_an_answer_by_schema_is_json_by_itself_and_parsed_in_the_object(here):
    how = ("How many shapes are there?", *SHAPES, "--schema", "int")
    assert "3\n" == here("ask", SCENE, *how).stdout
    found = json.loads(here("ask", SCENE, *how, "--json").stdout)
    assert ("3", 3) == (found["answer"], found["parsed"])


def test_an_answer_that_does_not_satisfy_its_schema_is_nothing_on_stdout_and_exit_code_8(here):
    how = ("ask", SCENE, "Describe this picture.", *SHAPES, "--schema", "color, shape", "-n", "5")
    done = here(*how)
    assert (8, "", True) == (done.returncode, done.stdout, "hint: -n" in done.stderr)
    assert 8 == json.loads(here(*how, "--json").stdout)["error"]["exit_code"]
    assert "length" == History().turn().finish_reason


@pytest.mark.parametrize(
    ("choices", "answer", "code"), [("red,blue", "red", 0), ("blue,red", "red", 11), ("blue,green,red", "red", 12)]
)
def test_a_choice_is_one_line_and_may_be_the_exit_code(here, choices, answer, code):
    done = here("ask", SCENE, "What color is the circle?", *ASKED, "--choices", choices, "--exit-code")
    assert (code, f"{answer} 1.00\n", "") == (done.returncode, done.stdout, done.stderr)


def test_choices_are_all_in_the_object_in_their_order(here):
    done = here("ask", SCENE, "Is there a heart?", *ASKED, "--choices", "yes, no", "--json")
    found = json.loads(done.stdout)
    assert ("no", ["yes", "no"], 0) == (found["answer"], [one["text"] for one in found["choices"]], done.returncode)
    assert 1 == pytest.approx(sum(one["probability"] for one in found["choices"]))
    assert {"choices": ["yes", "no"]}.items() <= found["parameters"].items()
    assert "temperature" not in found["parameters"]


def test_the_log_replays_choices_and_schemas_as_they_were(here):
    here("ask", SCENE, "How many shapes are there?", *SHAPES, "--schema", "int")
    here("ask", SCENE, "Is there a heart?", *ASKED, "--choices", "yes,no")
    replayed = [here("log", "replay", number) for number in (1, 2)]
    assert [(0, "3\n"), (0, "no\n")] == [(done.returncode, done.stdout) for done in replayed]
    assert all("the same answer" in done.stderr for done in replayed)


# On a terminal, and where nobody reads.


def test_on_a_terminal_json_is_shown_as_it_is(tiny_pair):
    schema = json.dumps({"enum": ["__init__ *x* <b>"]})
    arguments = ["ask", SCENE, "What?", "-q", "--schema", schema, *files_of(tiny_pair)]
    process = pexpect.spawn(LLAVA[0], [*LLAVA[1:], *arguments], encoding="utf-8", timeout=60, dimensions=(24, 80))
    shown = process.read()
    process.close()
    assert (0, '"__init__ *x* <b>"') == (process.exitstatus, shown.strip())


SHAPED = {
    "json": ["--json", "-n", "8"],
    "choices": ["--choices", "yes,no", "--exit-code"],
    "schema": ["--schema", "bool", "-n", "40"],
}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("shape", SHAPED.values(), ids=SHAPED)
def test_a_lost_answer_is_never_a_success(tiny_pair, shape):
    command = [*LLAVA, "ask", SCENE, "What?", *shape, *files_of(tiny_pair)]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert (1, True) == (done.returncode, b"no space left" in done.stderr)


def test_a_reader_who_has_left_ends_it_with_141(tiny_pair):
    command = [*LLAVA, "ask", SCENE, "What?", "--json", "-n", "4", *files_of(tiny_pair)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        complaints = process.stderr.read()
    assert (141, b"") == (process.returncode, complaints)


def test_a_closed_stdout_is_said_on_stderr_alone(tiny_pair):
    command = ["sh", "-c", 'exec "$@" >&-', "sh", *LLAVA, "ask", SCENE, "--json", "-n", "4", *files_of(tiny_pair)]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False, env=os.environ)
    assert (1, True) == (done.returncode, b"standard output: it is closed" in done.stderr)


def test_a_data_url_and_stdin_stand_beside_files(here, folder, tiny_pair):
    url = f"data:image/png;base64,{base64.b64encode((folder / 'blue.png').read_bytes()).decode()}"
    how = ("-t", "0", "-n", "8", "-q", *files_of(tiny_pair))
    named = here("ask", SCENE, "blue.png", "blue.png", "What?", *how)
    piped = llava("ask", "-", "blue.png", url, "What?", *how, stdin=Path(SCENE).read_bytes())
    assert named.stdout == piped.stdout != ""
