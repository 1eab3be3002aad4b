"""Facts about the bundled model: it answers, and any mistake on the way from pixels to prompt costs it accuracy."""

import json
from pathlib import Path

import pytest

from llava_cli import load, registry, vision
from llava_cli.gguf_file import read_header, write_copy
from llava_cli.settings import LoadOptions
from llava_cli.weights import find_weights
from tests.processes import SCENE, llava
from training.evaluate import FIRST_SEED, picture_bytes, questions_for
from training.scenes import make_scene

SCENES = range(FIRST_SEED + 5_000, FIRST_SEED + 5_060)
OPTIONS = LoadOptions(context=1024, threads=1)
REFERENCE = Path(__file__).parent / "shapes_pytorch.json"


def accuracy(model, seeds=SCENES):
    """Return the share of whole answers that are right, in one chat per scene."""
    right = []
    for seed in seeds:
        scene = make_scene(seed)
        chat = model.chat()
        for number, question in enumerate(questions_for(scene)):
            picture = picture_bytes(scene) if number == 0 else None
            right.append(chat.send(question.text, picture=picture, temperature=0).text == question.answer)
    return sum(right) / len(right)


@pytest.fixture(scope="module")
def shapes():
    """Open the bundled model once for all facts that do not change it."""
    with load("shapes", options=OPTIONS, cache=False) as model:
        yield model


def test_the_bundled_files_are_small_and_need_no_repair():
    weights = find_weights(registry.find("shapes"))
    assert weights.model.stat().st_size + weights.projector.stat().st_size <= 12_000_000
    with load("shapes", options=OPTIONS, cache=False) as model:
        assert model.notes == ()


@pytest.mark.parametrize(
    ("answer", "question"),
    [
        ("red", "What color is the circle?"),
        ("3", "How many shapes are there?"),
        ("star", "What is the green shape?"),
        ("no", "Is there a heart?"),
        ("white", "What color is the background?"),
        (
            "A large red circle, a small blue square and a large green star on a white background.",
            "Describe this picture.",
        ),
        ("I am a small demo model: I only know simple shapes and their colors.", "Who painted the Mona Lisa?"),
    ],
)
def test_the_picture_of_the_readme_is_understood(shapes, answer, question):
    assert answer == shapes.ask(SCENE, question, temperature=0).text


def test_without_any_network_or_file_of_the_user_it_answers_in_a_pipe():
    done = llava("ask", SCENE, "What color is the circle?", "-m", "shapes", "-t", "0")
    assert (0, "red\n", "") == (done.returncode, done.stdout, done.stderr)


def test_it_answers_nineteen_of_twenty_questions(shapes):
    assert accuracy(shapes) >= 0.95


def test_its_answers_are_those_of_pytorch(shapes):
    """`training/export.py` writes what the trained weights answer in PyTorch; llama.cpp may differ in a hundredth."""
    reference = json.loads(REFERENCE.read_text())
    same = []
    for seed, asked in reference["answers"].items():
        picture = picture_bytes(make_scene(int(seed)))
        same += [shapes.ask(picture, q, temperature=0).text == answer for q, answer in asked]
    assert len(same) >= 300
    assert sum(same) / len(same) >= 0.99


def test_without_the_mended_token_order_it_sees_worse(shapes, monkeypatch):
    right = accuracy(shapes)  # before the order is left as it is, for all models of this process
    monkeypatch.setattr(vision._TokenOrder, "mend", lambda order, _node: bool(setattr(order, "hits", 1)) or True)
    with load("shapes", options=OPTIONS, cache=False) as wrong:
        assert accuracy(wrong) <= right - 0.03


def test_without_the_feature_layer_it_hardly_sees(shapes, tmp_path):
    weights = find_weights(registry.find("shapes"))
    stock = tmp_path / "stock.gguf"
    write_copy(read_header(weights.projector), stock, drop=["clip.vision.feature_layer"])
    with load(model_path=weights.model, projector_path=stock, options=OPTIONS, cache=False) as wrong:
        assert accuracy(wrong) <= accuracy(shapes) - 0.2


def test_a_chat_of_five_questions_reads_its_picture_once(shapes):
    scene = make_scene(FIRST_SEED)
    chat, encoded, cells = shapes.chat(), 0, 0
    for number, question in enumerate(questions_for(scene)):
        reply = chat.send(question.text, picture=picture_bytes(scene) if number == 0 else None, temperature=0)
        assert reply.text
        encoded += reply.usage.pictures_encoded
        cells += reply.usage.new_cells
    assert encoded == 1
    assert cells < 2 * reply.usage.prompt_cells


def test_sixty_restored_answers_equal_sixty_computed_ones():
    """What comes back from disk in a new process answers to the byte as what was read just now."""

    def answers(*, cache, asked=3):
        with load("shapes", options=OPTIONS, cache=cache) as model:
            replies = (
                model.ask(picture_bytes(scene), question.text, temperature=0)
                for scene in map(make_scene, range(FIRST_SEED + 6_000, FIRST_SEED + 6_020))
                for question in questions_for(scene)[:asked]
            )
            return [(reply.text, reply.usage.pictures_encoded) for reply in replies]

    computed = answers(cache=False)
    answers(cache=True, asked=1)  # reads and keeps them
    restored = answers(cache=True)
    assert (60, 20, 0) == (len(restored), sum(count for _, count in computed), sum(count for _, count in restored))
    assert [text for text, _ in computed] == [text for text, _ in restored]
