"""Facts about `llava chat` in a real pseudo-terminal, with the bundled model."""

import base64
import json
import os
import re
import stat
from pathlib import Path

import pytest

from llava_cli.settings import data_dir
from llava_cli.slash import COMMANDS
from tests.processes import ROOT, SCENE, child_of, files_of
from tests.terminal import Terminal, plain

PROMPT = "›"
SHAPES = ("chat", "-m", "shapes", "-t", "0", "--no-cache")
ANSWERING = r"reading the question .*… \d+ s\s*\n[^›]*?\w{3}"
SLOW_MODEL = """
import time, llava_cli.model
llava_cli.model.load = lambda *arguments, **options: time.sleep(600)
from llava_cli.cli import main
main()
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Make one home for all tests of this module."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def open_terminal(home):
    """Open the session that most facts here share."""
    patch = {"HOME": str(home), "LLAVA_THREADS": "1", "EDITOR": "true"}
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        os.environ.pop(name, None)
    with Terminal(*SHAPES, **patch) as terminal:
        terminal.wait(PROMPT)
        yield terminal
        terminal.send("\x04")
        assert terminal.end() == 0


@pytest.fixture
def chat(open_terminal):
    """Begin a new chat in the shared session."""
    open_terminal.enter("/new")
    open_terminal.wait(f"a new chat, without pictures\\n.*{PROMPT}")
    return open_terminal


@pytest.fixture
def scene(chat):
    """Have a picture in it that has been asked about."""
    chat.enter(f"/image {SCENE}")
    chat.wait(f"goes with the next question\\n.*{PROMPT}")
    chat.enter("What color is the circle?")
    chat.wait(f"\\nred\\s*\\n.*{PROMPT}")
    return chat


def test_the_prompt_shows_the_picture_and_the_window_in_use(scene):
    scene.enter("How many shapes are there?")
    assert re.search(r"scene\.png \d+% › ", scene.wait(f"\\n3\\s*\\n.*{PROMPT}"))


def test_the_line_below_shows_model_and_reused_tokens(scene):
    scene.enter("How many shapes are there?")
    scene.wait(r"shapes · .*\d+ of \d+ tokens reused")


def test_staging_a_picture_sends_nothing_and_shows_it(chat):
    before = len(chat.raw)
    chat.enter(f"/image {SCENE}")
    chat.wait(f"goes with the next question\\n.*{PROMPT}")
    shown = chat.raw[before:]
    assert "▀" in shown
    assert "38;5;" in shown or "38;2;" in shown
    chat.enter("/context")
    chat.wait(r"0 of 2048 tokens in use \(0%\): turns 0, pictures 0")


def test_a_dragged_file_is_staged(chat, tmp_path):
    path = tmp_path / "my cat.png"
    path.write_bytes(Path(SCENE).read_bytes())
    chat.enter(f"'{path}'")
    chat.wait("my cat.png .*goes with the next question")
    chat.enter("What color is the circle?")
    chat.wait("\\nred")


def test_an_unknown_command_is_answered_and_not_sent(scene):
    scene.enter("/imags")
    scene.wait(r"did you mean /images\?")
    scene.enter("/context")
    scene.wait("turns 1")


def test_two_slashes_send_one(scene):
    scene.enter("//What color is the circle?")
    scene.wait(PROMPT)
    scene.enter("/edit")
    scene.wait(f"{PROMPT} ?/What color is the circle")
    scene.send("\x15")


def test_pictures_are_listed_and_dropped(scene):
    scene.enter(f"/image {SCENE}")
    scene.wait("goes with the next question")
    scene.enter("/images")
    scene.wait(r"1  .*scene\.png \(640 × 400\)\n2  .*scene\.png \(640 × 400\), for the next question")
    scene.enter("/drop 2")
    scene.wait("is out of this chat")
    scene.enter("/drop 1")
    scene.wait("is out of this chat")
    scene.enter("/images")
    scene.wait("no pictures in this chat")
    scene.enter("/drop 1")
    scene.wait("there is none in this chat")


def test_undo_takes_back_and_the_picture_waits(scene):
    scene.enter("/undo")
    scene.wait(r"taken back: What color is the circle\?; 1 of its pictures wait")
    scene.enter("How many shapes are there?")
    scene.wait("\\n3")


def test_retry_answers_again(scene):
    scene.enter("/retry")
    scene.wait("the temperature is 0, so the answer will be the same")
    scene.wait("\\nred")
    scene.enter("/retry hot")
    scene.wait("expected float")


def test_edit_brings_the_question_back(scene):
    scene.enter("/edit")
    scene.wait(f"{PROMPT} ?What color is the circle\\?")
    scene.send("\x15")
    scene.enter("How many shapes are there?")
    scene.wait("\\n3")
    scene.enter("/edit What color is the background?")
    scene.wait("\\nwhite")
    scene.enter("/context")
    scene.wait("turns 1")


def test_an_edit_that_is_broken_off_changes_nothing(scene):
    scene.enter("/edit")
    scene.wait(f"{PROMPT} ?What color is the circle\\?")
    scene.send("\x03")
    scene.enter("/context")
    scene.wait("turns 1, pictures 1")
    scene.enter("/edit")
    scene.wait(f"{PROMPT} ?What color is the circle\\?")
    scene.send("\x15")
    scene.enter("/images")
    scene.wait(r"1  .*scene\.png")
    scene.enter("How many shapes are there?")
    scene.wait("\\n3")
    scene.enter("/context")
    scene.wait("turns 2")


def test_a_cut_answer_says_so_and_goes_on(scene):
    scene.enter("/set max_tokens 4")
    scene.wait("max_tokens 4")
    scene.enter("Describe this picture.")
    scene.wait("cut at its longest length; /continue goes on")
    scene.enter("/set max_tokens 512")
    scene.wait("max_tokens 512")
    scene.enter("/continue")
    scene.wait(f"background\\.\\s*\\n.*{PROMPT}")
    scene.enter("/export md")
    written = scene.wait("# Chat with shapes[^›]*background\\.")
    assert "A large red circle, a small blue square and a large green star on a white background." in written


def test_settings_are_shown_changed_and_checked(chat):
    chat.enter("/set")
    chat.wait("temperature 0.0\\nmax_tokens 512")
    chat.enter("/set temprature 1")
    chat.wait(r"did you mean temperature\?")
    chat.enter("/set temperature -1")
    chat.wait("must be 0 or more")
    chat.enter("/set seed 7")
    chat.wait("seed 7")
    chat.enter("/set seed none")
    chat.wait("seed none")


def test_the_system_prompt_is_shown_and_changed(scene):
    scene.enter("/system")
    scene.wait("the model's own system prompt")
    scene.enter("/system Be brief.")
    scene.wait("from the next question on")
    scene.enter("/system")
    scene.wait("\\nBe brief")
    scene.enter("/system default")
    scene.wait("from the next question on")


def test_a_chat_is_saved_listed_and_loaded(scene):
    scene.enter("/save holiday")
    scene.wait("this chat is called holiday: llava chat --chat holiday")
    scene.enter("/new")
    scene.wait("a new chat")
    scene.enter("/chats")
    scene.wait(r"holiday  What color is the circle\?  1 turn,")
    scene.enter("/load holiday")
    scene.wait(r"going on after 1 turn; the last question was: What color is the circle\?")
    scene.enter("How many shapes are there?")
    scene.wait("\\n3")
    scene.enter("/load nothing")
    scene.wait("no such chat in the log")


def test_a_chat_is_exported_once(scene, tmp_path):
    scene.enter(f"/export json {tmp_path / 'chat.json'}")
    scene.wait("written to")
    written = json.loads((tmp_path / "chat.json").read_text())
    assert ["user", "assistant"] == [message["role"] for message in written["messages"]]
    assert written["messages"][0]["content"][0]["picture"]["width"] == 640
    scene.enter(f"/export md {tmp_path / 'chat.json'}")
    scene.wait("it exists already")


def test_the_last_answer_goes_to_the_clipboard(scene):
    scene.enter("/copy")
    scene.wait("on the clipboard")
    assert f"\x1b]52;c;{base64.b64encode(b'red').decode()}\x07" in scene.raw


def test_a_picture_is_shown_as_it_is_and_as_the_model_sees_it(scene):
    scene.enter("/show")
    scene.wait(r"scene\.png \(640 × 400\)")
    scene.enter("/show --input 1")
    shown = re.search(r"as the model sees it \((\d+) × (\d+)\)", scene.wait(r"as the model sees it \(\d+ × \d+\)"))
    assert shown[1] == shown[2]


def test_numbers_of_answer_and_window(scene):
    scene.enter("/stats")
    scene.wait(r"\d+ tokens? · .* reused \+ \d+ new · seed \d+")
    scene.enter("/context")
    scene.wait(r"\d+ of 2048 tokens in use \(\d+%\): turns 1, pictures 1")


def test_help_names_every_command(chat):
    chat.enter("/help")
    shown = chat.wait("Ctrl-C stops an answer")
    assert [name for name in COMMANDS if f"\n/{name}" not in shown] == []
    chat.enter("/help set")
    chat.wait("draws freely again")


def test_another_model_goes_on_with_the_chat(scene):
    scene.enter("/model")
    scene.wait(r"\* shapes")
    scene.enter("/model llava-v1.5-7b")
    scene.wait("not on this computer")
    scene.enter("/model shapes")
    scene.wait("goes on with shapes")
    scene.enter("How many shapes are there?")
    scene.wait("\\n3")


def test_tab_completes_commands_models_and_pictures(chat):
    chat.send("/hel\t")
    chat.wait("/help")
    chat.send("\x15/model sha\t")
    chat.wait("shapes")
    chat.send(f"\x15/image {ROOT}/examples/sce\t")
    chat.wait("scene.png")
    chat.enter("")
    chat.wait("goes with the next question")


def test_several_lines_between_quotes(scene):
    scene.enter('"""What color is')
    scene.wait("…")
    scene.enter('the circle?"""')
    scene.wait("\\nred")
    scene.enter("/context")
    scene.wait("turns 2")


def test_alt_enter_begins_a_line_and_sends_nothing(scene):
    scene.send("What color is\x1b\rthe circle?\r")
    scene.wait("\\nred")
    scene.enter("/context")
    scene.wait("turns 2")


def test_a_paste_of_fifty_lines_is_one_question(scene):
    text = "\n".join(f"line {n}" for n in range(50))
    scene.send(f"\x1b[200~{text}\x1b[201~")
    scene.wait("line 49")
    scene.send("\r")
    scene.wait(PROMPT)
    scene.enter("/context")
    scene.wait("turns 2")


def test_up_finds_earlier_lines_by_their_beginning(scene):
    scene.enter("/images")
    scene.wait("1  ")
    scene.send("What\x1b[A")
    scene.wait("What color is the circle")
    scene.send("\r")
    scene.wait("\\nred")


def test_ctrl_c_at_the_prompt_says_how_to_leave(chat):
    chat.send("half a li\x03")
    chat.wait("Ctrl-D or /quit leaves")
    chat.wait(PROMPT)


def test_what_was_typed_is_kept_for_this_user_alone(scene, home):
    path = home / data_dir().relative_to(Path.home()) / "chat_lines"
    assert "+What color is the circle?" in path.read_text().splitlines()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_one_picture_is_encoded_once_in_all_this_time(scene):
    """The session above has shown the same picture a dozen times; --no-cache keeps the disk out of it."""
    scene.enter("/stats")
    scene.wait(r"picture 0\.00")


# Sessions of their own.


def test_ctrl_c_stops_an_answer_and_keeps_it(tiny_pair):
    with Terminal("chat", SCENE, "-t", "2", "-n", "1500", "--seed", "1", *files_of(tiny_pair)) as chat:
        chat.wait(PROMPT)
        chat.enter("Describe this picture.")
        chat.wait(ANSWERING)
        chat.send("\x03")
        chat.wait("stopped; /continue goes on")
        chat.wait(PROMPT)
        chat.enter("/set max_tokens 4")
        chat.wait("max_tokens 4")
        chat.enter("What color is the circle?")
        chat.wait("cut at its longest length")
        chat.enter("/stats")
        reused = re.search(r"prompt (\d+) reused \+ (\d+) new", chat.wait(r"reused \+ \d+ new"))
        # Random words are other tokens when they are read again; what stood before them is not.
        assert int(reused[1]) >= int(re.search(r"reading the question \((\d+) tokens\)", plain(chat.raw))[1])


def test_a_terminal_that_changes_its_size_in_mid_answer_is_survived(tiny_pair):
    with Terminal("chat", SCENE, "-t", "2", "-n", "600", "--seed", "1", *files_of(tiny_pair)) as chat:
        chat.wait(PROMPT)
        chat.enter("Describe this picture.")
        chat.wait(ANSWERING)
        for columns in (40, 120, 60):
            chat.process.setwinsize(20, columns)
        chat.wait("cut at its longest length")
        chat.wait(PROMPT)
        chat.enter("/quit")
        assert 0 == chat.end()


def test_the_greeting_is_there_before_the_model():
    with Terminal("chat", SCENE, "-m", "shapes", code=SLOW_MODEL) as chat:
        chat.wait("/image FILE shows it a picture")
        chat.wait("goes with the next question")
        chat.wait(r"shapes · loading…")


def test_ctrl_c_while_the_model_loads_gives_the_question_back():
    with Terminal("chat", SCENE, "-m", "shapes", code=SLOW_MODEL) as chat:
        chat.wait(PROMPT)
        chat.enter("What color is the circle?")
        chat.wait("loading the model")
        chat.send("\x03")
        chat.wait(f"stopped before the answer began[^›]*{PROMPT} ?What color is the circle")


@pytest.mark.parametrize("keys", ["\x04", "/quit\r"])
def test_leaving_while_the_model_loads_waits_for_nothing(keys):
    with Terminal("chat", "-m", "shapes", code=SLOW_MODEL) as chat:
        chat.wait(PROMPT)
        chat.send(keys)
        assert 0 == chat.end()


def test_a_model_that_cannot_be_opened_ends_the_chat_with_its_error(tiny_pair):
    with Terminal("chat", *files_of(tiny_pair[::-1])) as chat:
        chat.wait("projector")
        assert 4 == chat.end()


def test_a_picture_that_cannot_be_read_ends_it_before_it_begins():
    with Terminal("chat", "missing.png", "-m", "shapes") as chat:
        chat.wait("missing.png: no such file")
        assert 3 == chat.end()


@pytest.mark.parametrize(("arguments", "environment"), [(["--plain"], {}), ([], {"TERM": "dumb"})])
def test_plain_lines_hold_no_control_sequence_and_name_each_stage_once(arguments, environment):
    with Terminal(*SHAPES, *arguments, SCENE, **environment) as chat:
        chat.wait("> ")
        chat.enter("What color is the circle?")
        chat.wait("looking at the picture…\\nreading the question…\\nred\\n.*> ")
        chat.enter("How many shapes are there?")
        assert "reading" not in chat.wait("\\n3\\n")
        chat.enter("/quit")
        assert 0 == chat.end()
        assert "\x1b" not in chat.raw


def test_the_pictures_of_a_chat_are_known_tomorrow():
    with Terminal("chat", SCENE, "-m", "shapes", "-t", "0") as chat:
        chat.wait(PROMPT)
        chat.enter("What color is the circle?")
        chat.wait(f"\\nred\\s*\\n.*{PROMPT}")
        chat.send("\x04")
        assert 0 == chat.end()
    with Terminal("chat", "-c", "-t", "0") as chat:
        chat.wait("going on after 1 turn")
        chat.enter("How many shapes are there?")
        chat.wait("\\n3")
        chat.enter("/stats")
        chat.wait(r"picture 0\.00")


def test_vi_keys_are_a_setting(monkeypatch):
    monkeypatch.setenv("LLAVA_KEYS", "vi")
    with Terminal(*SHAPES, SCENE) as chat:
        chat.wait(PROMPT)
        chat.send("What color is the square?\x1bFscwcircle?\r")
        chat.wait("\\nred")


def test_ctrl_x_ctrl_e_opens_the_editor(tmp_path):
    editor = tmp_path / "editor"
    editor.write_text("#!/bin/sh\necho 'What color is the circle?' > $1\n")
    editor.chmod(0o755)
    with Terminal(*SHAPES, SCENE, EDITOR=str(editor), VISUAL=str(editor)) as chat:
        chat.wait(PROMPT)
        chat.send("\x18\x05")
        chat.wait("What color is the circle")
        chat.send("\r")
        chat.wait("\\nred")


@pytest.mark.slow
def test_two_hundred_turns_more_take_no_more_memory():
    """Cells of the window take memory when they are first used, so it is a small one, full long before."""
    with Terminal(*SHAPES, SCENE, "--context", "512") as chat:
        chat.wait(PROMPT)
        sizes = []
        for turn in range(240):
            chat.enter("What color is the circle?")
            # After many turns `shapes` is beyond all it has learnt, and says other colours.
            chat.wait(f"… \\d+ s\\s*\\n\\w[^›]*\\n.*{PROMPT}")
            if turn in (39, 239):
                status = Path(f"/proc/{child_of(chat.process.pid)}/status").read_text()
                sizes.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]))
        assert sizes[1] <= sizes[0] * 1.05
        assert 1 == plain(chat.raw).count("the context window is full")
        chat.enter("/stats")
        chat.wait(r"picture 0\.00")
