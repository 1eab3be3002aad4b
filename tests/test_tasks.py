"""Facts about what a run is to ask, who asks it, and what an answer is known by."""

import pytest

from llava_cli import registry
from llava_cli.errors import UsageError
from llava_cli.recipe import Recipe
from llava_cli.row_files import JsonLines, Table
from llava_cli.settings import resolve
from llava_cli.tasks import Asked, Shard, identity
from llava_cli.weights import find_weights


@pytest.fixture
def tasks(tmp_path):
    """Name two hundred pictures with two questions each."""
    names = [str(tmp_path / f"{number}.jpg") for number in range(200)]
    return Asked(names, questions=("What?", "Why?")).tasks()


def recipe(**flags):
    """Return how the demo model answers with these flags."""
    spec = registry.find("shapes")
    return Recipe.of(spec, find_weights(spec), resolve(flags))


def test_every_task_is_in_one_shard_with_all_questions_about_its_picture(tasks):
    shares = [[task for task in tasks if Shard(number, 7).has(task)] for number in range(1, 8)]
    assert 400 == sum(map(len, shares))
    assert 200 == sum(len({task.source for task in share}) for share in shares)
    assert min(map(len, shares)) >= 20


def test_a_longer_list_moves_no_picture_and_another_place_of_the_folder_neither(tmp_path):
    def names(folder, count):
        folder.mkdir()
        for number in range(count):
            (folder / f"{number}.png").write_bytes(b"")
        return {task.place for task in Asked([str(folder)]).tasks() if Shard(2, 3).has(task)}

    assert names(tmp_path / "here", 20) == names(tmp_path / "there", 30) & {f"{n}.png" for n in range(20)}


@pytest.mark.parametrize("text", ["", "3", "0/3", "4/3", "1/0", "-1/3", "1/3/5", "a/b", "1/1234567"])
def test_a_share_that_is_none_is_refused(text):
    with pytest.raises(UsageError, match="no share"):
        Shard.parse(text)


def test_a_picture_that_is_named_twice_is_asked_about_once():
    assert 2 == len(Asked(["a.png", "b.png", "a.png"], questions=("What?",)).tasks())


def test_no_password_of_an_address_is_written_down():
    (task,) = Asked(["https://me:secret@host/a.jpg?id=1"], questions=("What?",)).tasks()
    assert ("https://host/a.jpg?id=1", "https://me:secret@host/a.jpg?id=1") == (task.row["image"], task.source)


def test_a_row_is_the_same_in_every_format():
    row = {"image": "n\udcff.png", "question": "a\r\nb\x1b", "n": 1.5, "tags": ["ü", None], "empty": "", "none": None}
    formats = [JsonLines(), Table(list(row)), Table(list(row), "\t")]
    assert {identity(row)} == {identity(one.decode(one.encode(row))) for one in formats}


@pytest.mark.parametrize("end", range(1, 40))
def test_a_table_that_is_cut_anywhere_has_the_rows_that_are_whole(end):
    table = Table(["a", "b"])
    whole = [
        table.encode({"a": 'x "y"\n', "b": "1"}),
        table.encode({"a": ",", "b": "\n"}),
        table.encode({"a": "", "b": "é"}),
    ]
    data = b"".join(whole)[:end]
    count = sum(len(b"".join(whole[: n + 1])) <= len(data) for n in range(3))
    assert whole[:count] == table.split(data)


def test_all_that_shapes_an_answer_names_it_and_nothing_else_does():
    shaping = [{}, {"system": "x"}, {"temperature": 0.0}, {"max_tokens": 5}, {"seed": 1}, {"top_p": 0.5}]
    shaping += [{"kv": "q8_0"}, {"detail": "low"}]
    keys = [recipe(**flags).key("p", "q") for flags in shaping]
    assert len(keys) == len({*keys, recipe().key("p", "other"), recipe().key("other", "q")}) - 2
    speed = [{"threads": 3}, {"ubatch": 64}, {"context": 4096}, {"repack": True}, {"flash_attention": False}]
    assert {keys[0]} == {recipe(**flags).key("p", "q") for flags in speed}


def test_a_seed_that_is_given_is_everybodys_and_else_each_answer_has_its_own():
    assert (7, 7) == (recipe(seed=7).seed("a"), recipe(seed=7).seed("b"))
    assert recipe().seed("a") == recipe().seed("a") != recipe().seed("b")
