"""Facts about what is kept of pictures on disk, on real llama.cpp with random models of a few kilobytes."""

import os
import random
import re
import shutil
import time

import llama_cpp
import numpy as np
import pytest

from llava_cli import PrefixCache, Sampling, picture_embeddings
from llava_cli.cells import up_to_first_picture
from llava_cli.gguf_file import file_identity
from llava_cli.pictures import Picture
from llava_cli.settings import data_dir
from tests.processes import SCENE, files_of, llava
from tests.questions import ANSWER, GREEDY, OPENING, OTHER, QUESTION, ask, entry, kept, opened, picture, plain, took
from tests.tiny_model import write_tiny_model, write_tiny_pair, write_tiny_projector

DRAWN = Sampling(temperature=1.5, max_tokens=8, seed=7)
BF16 = 30
"""`GGML_TYPE_BF16`, which llama-cpp-python does not name."""


@pytest.fixture
def known(tiny_pair):
    """Let picture 1 be known, with the prompt of its question; return how many cells are kept."""
    ask(tiny_pair)
    return took(ask(tiny_pair))[0]


@pytest.fixture
def forbid_tower(monkeypatch):
    """Return what lets opening a projector fail the test from then on."""

    def refuse(*_arguments):
        pytest.fail("the vision tower was opened")

    return lambda: monkeypatch.setattr(picture_embeddings, "Tower", refuse)


# The second question.


def test_a_second_process_encodes_nothing_and_evaluates_only_the_question(tiny_pair):
    runs = [llava("ask", SCENE, question, *ANSWER, *files_of(tiny_pair)) for question in (QUESTION, OTHER, OTHER)]
    cold = llava("ask", SCENE, OTHER, *ANSWER, "--no-cache", *files_of(tiny_pair))
    assert cold.stdout == runs[1].stdout == runs[2].stdout
    cells = [tuple(map(int, re.findall(r"(\d+) (?:reused|new)", run.stderr))) for run in (*runs, cold)]
    first, second, third, without = cells
    assert (first[0], without[0]) == (0, 0)
    assert second == third == (47, without[1] - 47)  # BOS, system sentence, `USER: ` and 16 of the picture
    assert "picture 0.00" in runs[1].stderr


def test_a_known_picture_and_prompt_open_no_projector(tiny_pair, known, forbid_tower):
    forbid_tower()
    assert (known, 0) == took(ask(tiny_pair, OTHER))


def test_another_system_sentence_still_knows_the_embeddings(tiny_pair, known, forbid_tower):
    forbid_tower()
    assert (0, 0) == took(ask(tiny_pair, OTHER, system="Be brief."))
    assert ["embeddings", "opening", "opening", "prefix", "prefix"] == sorted(path.suffix[1:] for path in kept())


def test_a_new_picture_stands_behind_the_system_prompt_that_was_read_before(tiny_pair, known):
    """The answer is the one that a run without any cache gives."""
    expected = ask(tiny_pair, about=picture(2), cache=False)
    reply = ask(tiny_pair, about=picture(2))
    assert (expected.text, (OPENING, 1)) == (reply.text, took(reply))
    assert ["opening"] == [path.suffix[1:] for path in kept("*.opening")]


def test_system_prompts_are_no_pictures_and_go_with_the_others(tiny_pair, known):
    disk = PrefixCache()
    assert 1 == len(disk.pictures())
    assert entry("opening").stat().st_size == disk.openings_size() > 0
    disk.clear()
    assert 0 == disk.openings_size()


def test_a_picture_that_was_only_embedded_is_known_too(tiny_pair, forbid_tower):
    with opened(tiny_pair) as model:
        features = model.embed(picture(1))
        assert [entry("embeddings")] == kept()
    forbid_tower()
    with opened(tiny_pair) as model:
        assert np.array_equal(features, model.embed(picture(1)))


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_restored_and_computed_prefixes_give_the_same_answers(tiny_pair, sampling):
    questions = (QUESTION, OTHER, "Describe this picture.")
    for number in range(10):
        ask(tiny_pair, about=picture(number))
        with opened(tiny_pair, sampling=sampling) as warm, opened(tiny_pair, sampling=sampling, cache=False) as cold:
            for question in questions:
                expected, restored = (model.ask(picture(number), question) for model in (cold, warm))
                assert (expected.text, 0) == (restored.text, restored.usage.pictures_encoded)
                assert restored.usage.reused_cells == max(47, expected.usage.reused_cells)
                # Not even a bit of what llama.cpp holds differs, generated tokens and all.
                assert state(cold) == state(warm)


def state(model):
    """Return everything llama.cpp holds in its KV cache."""
    context = model._handler._llama.ctx
    size = llama_cpp.llama_state_seq_get_size(context, 0)
    buffer = (llama_cpp.llama_cpp.ctypes.c_uint8 * size)()
    assert size == llama_cpp.llama_state_seq_get_data(context, buffer, size, 0)
    return bytes(buffer)


def test_a_model_that_goes_from_picture_to_picture_restores_each(tiny_pair, forbid_tower):
    alone = {number: ask(tiny_pair, about=picture(number), cache=False).text for number in (1, 2, 3)}
    with opened(tiny_pair) as model:
        assert list(alone.values()) == [model.ask(picture(number), QUESTION).text for number in alone]
    forbid_tower()
    with opened(tiny_pair) as model:
        for number in (1, 2, 1, 3, 2, 1):
            reply = model.ask(picture(number), QUESTION)
            assert (alone[number], (47, 0)) == (reply.text, took(reply))


def test_a_chat_goes_on_behind_a_restored_prefix(tiny_pair, known):
    answers = []
    for cache in (False, True):
        with opened(tiny_pair, cache=cache) as model:
            chat = model.chat()
            answers.append([chat.send(QUESTION, picture=picture(1)).text, chat.send(OTHER).text])
    assert answers[0] == answers[1]


def test_several_pictures_know_the_first_as_prefix_and_all_as_embeddings(tiny_pair, forbid_tower):
    both = [picture(1), picture(2)]

    def asked(**options):
        with opened(tiny_pair, **options) as model:
            reply = model.chat().send(QUESTION, picture=both)
            return reply.text, took(reply)

    expected, _ = asked()
    forbid_tower()
    assert (expected, (47, 0)) == asked()


def test_a_picture_that_takes_several_batches_is_restored_as_it_was(tiny_pair):
    answers = [plain(tiny_pair, n_batch=8, n_ubatch=8, keep=keep)[0] for keep in (False, True, True)]
    assert 1 == len(set(answers))
    assert (47, 0) == plain(tiny_pair, n_batch=8, n_ubatch=8)[1]


def test_what_is_kept_ends_with_the_picture(tiny_pair):
    """Of the question and the answer nothing goes to disk."""
    sizes = []
    for question in (QUESTION, OTHER * 5):
        ask(tiny_pair, question)
        sizes.append((len(entry("prefix").read_bytes()), PrefixCache().clear() > 0))
    assert sizes[0] == sizes[1]


# What is a hit, and what is not.


def test_the_same_pixels_in_another_shape_are_another_picture(tiny_pair, known):
    one, turned = picture(1), picture(1, (30, 40))
    assert one.rgb == turned.rgb
    expected = ask(tiny_pair, about=turned, cache=False)
    reply = ask(tiny_pair, about=turned)
    assert (expected.text, (OPENING, 1)) == (reply.text, took(reply))


def test_the_same_pixels_from_another_file_are_the_same_picture(tiny_pair, known, forbid_tower):
    forbid_tower()
    one = picture(1)
    assert (known, 0) == took(ask(tiny_pair, about=Picture("copy.png", one.width, one.height, one.rgb)))


@pytest.mark.parametrize("option", [{"n_ctx": 1024}, {"n_threads": 2}, {"n_threads_batch": 2}], ids=str)
def test_what_shapes_no_cell_is_no_part_of_the_key(tiny_pair, option):
    expected, _ = plain(tiny_pair)
    assert (expected, (47, 0)) == plain(tiny_pair, **option)


@pytest.mark.parametrize(
    "option",
    [
        {"flash_attn": False},
        {"type_k": llama_cpp.GGML_TYPE_F32, "type_v": llama_cpp.GGML_TYPE_F32},
        {"type_k": BF16, "type_v": BF16},
        {"n_batch": 32},
        {"n_ubatch": 32},
        {"rope_freq_base": 20000.0},
        {"kv_overrides": {"llama.attention.layer_norm_rms_epsilon": 1e-3}},
        {"use_mmap": False},
    ],
    ids=str,
)
def test_a_model_opened_otherwise_has_other_prefixes_and_the_same_embeddings(tiny_pair, option):
    plain(tiny_pair)
    expected, _ = plain(tiny_pair, keep=False, **option)
    assert (expected, (0, 0)) == plain(tiny_pair, **option)
    assert 2 == len(kept("*.prefix"))


def test_another_version_of_the_library_knows_nothing(tiny_pair, known, monkeypatch):
    monkeypatch.setattr(llama_cpp, "__version__", "0.3.99")
    assert (0, 1) == took(ask(tiny_pair))


def test_another_build_of_the_library_knows_nothing(tiny_pair, known, monkeypatch):
    info = llama_cpp.llama_cpp.llama_print_system_info
    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_print_system_info", lambda: info() + b"NEW = 1")
    assert (0, 1) == took(ask(tiny_pair))


def test_another_way_to_prepare_pictures_knows_nothing(tiny_pair, known, monkeypatch):
    monkeypatch.setattr("llava_cli.prefix_cache.FEATURES_VERSION", 99)
    assert (0, 1) == took(ask(tiny_pair))


def other_weights(path, tiny_pair):
    """Write a model of the same shape, header and size over `path`, with its times."""
    times = path.stat()
    write_tiny_model(path, seed=5) if path.name == "model.gguf" else write_tiny_projector(path, seed=5)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size


@pytest.mark.parametrize(("which", "found"), [(0, (0, 0)), (1, (0, 1))], ids=["model", "projector"])
def test_other_weights_under_an_old_name_know_nothing(tmp_path, which, found):
    pair = write_tiny_pair(tmp_path)
    ask(pair)
    other_weights(pair[which], pair)
    expected = ask(pair, cache=False)
    reply = ask(pair)
    assert (expected.text, found) == (reply.text, took(reply))


def test_a_change_behind_the_first_megabyte_is_noticed_even_with_the_old_times(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(bytes(2_000_000))
    times, before = path.stat(), file_identity(path, time.time_ns())
    time.sleep(0.05)  # file systems count time in steps
    with path.open("r+b") as file:
        file.seek(1_900_000)
        file.write(b"x")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert None not in (before, after := file_identity(path, time.time_ns() + 10**9))
    assert before != after


@pytest.mark.parametrize("which", [0, 1], ids=["model", "projector"])
def test_a_file_that_changes_while_it_is_open_is_not_trusted(tmp_path, which):
    pair = write_tiny_pair(tmp_path)
    with opened(pair) as model:
        if which == 0:
            shutil.copy(pair[0], tmp_path / "new")
            (tmp_path / "new").replace(pair[0])
        reply = model.ask(picture(1), QUESTION)
        assert reply.text
        if which == 1:
            os.utime(pair[1])
    assert [] == kept()


def test_of_a_model_that_forgets_cells_by_itself_only_embeddings_are_kept(tiny_pair, monkeypatch):
    monkeypatch.setattr(llama_cpp.llama_cpp, "llama_model_n_swa", lambda _model: 4096)
    expected = ask(tiny_pair, cache=False).text
    assert [expected] * 2 == [ask(tiny_pair).text for _ in range(2)]
    assert [entry("embeddings")] == kept()


def test_cells_evaluated_in_other_company_are_not_kept(tiny_pair):
    """Their last bits may differ from those of a prefix computed alone, and so may an answer."""
    long = "The assistant gives helpful, detailed and polite answers. " * 12
    with opened(tiny_pair) as model:
        assert model.ask(None, QUESTION, system=long).text
        reply = model.ask(picture(1), QUESTION, system=long)
        assert reply.text
        assert reply.usage.reused_cells > 64
        assert [] == model._handler._reader.cache.prefix() != up_to_first_picture(model._handler._reader.cache.cells())
    assert [".embeddings"] == [path.suffix for path in kept()]


def test_a_short_text_in_front_of_a_picture_is_read_again_so_that_both_can_be_kept(tiny_pair):
    expected = ask(tiny_pair, cache=False)
    with opened(tiny_pair) as model:
        assert model.ask(None, QUESTION).text
        reply = model.ask(picture(1), QUESTION)
        assert (expected.text, (0, 1)) == (reply.text, took(reply))
    assert (47, 0) == took(ask(tiny_pair))


# Damage.


def test_200_damaged_entries_are_200_misses_with_the_same_answer(tiny_pair, known):
    """Every field is hit: magic, length, keyed hash, header, payload; and now and then the file is cut or grows."""
    draw = random.Random(4)
    outcomes = {"prefix": (OPENING, 0), "embeddings": (OPENING, 1), "opening": (0, 0)}
    with opened(tiny_pair) as model:
        expected = model.ask(picture(1), QUESTION).text
        for trial in range(200):
            assert model.ask(None, OTHER).text  # so that the prefix has to come from disk
            model._handler._embeddings._rows.clear()
            kind, outcome = list(outcomes.items())[trial % 3]
            hurt = entry(kind)
            hurt.write_bytes(damaged(hurt.read_bytes(), trial, draw))
            if kind != "prefix":
                entry("prefix").unlink()  # else nobody asks for the others
            reply = model.ask(picture(1), QUESTION)
            assert (expected, outcome) == (reply.text, took(reply))
            assert not hurt.exists()


def damaged(data, trial, draw):
    """Return `data` with one bit of some field flipped, or cut, or grown."""
    header = int.from_bytes(data[8:12], "little")
    fields = [(0, 8), (8, 12), (12, 44), (44, 44 + header), (44 + header, len(data))]
    match trial // 2 % 7:
        case 5:
            return data[: draw.choice([0, 7, 43, 44 + header, len(data) - 1, draw.randrange(len(data))])]
        case 6:
            return data + draw.randbytes(1 + trial)
        case field:
            at = draw.randrange(*fields[field])
            return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def test_an_entry_under_the_name_of_another_is_no_hit(tiny_pair, known):
    first = entry("prefix")
    ask(tiny_pair, about=picture(2))
    (second,) = (path for path in kept("*.prefix") if path != first)
    shutil.copy(first, second)
    expected = ask(tiny_pair, about=picture(2), cache=False)
    reply = ask(tiny_pair, about=picture(2))
    assert (expected.text, (OPENING, 0)) == (reply.text, took(reply))


def a_link_to_itself(path):
    """Put it elsewhere, and link to it."""
    path.symlink_to(shutil.copy(entry("embeddings").with_name("copy"), path.parent.parent))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, a_link_to_itself])
def test_what_is_no_file_is_no_entry(tiny_pair, known, make):
    path = entry("prefix")
    path.rename(path.with_name("copy"))
    make(path)
    assert (OPENING, 0) == took(ask(tiny_pair))


def test_a_pickle_in_the_place_of_an_entry_stays_shut(tiny_pair, known, tmp_path):
    bomb = b"cos\nmkdir\n(S'%s'\ntR." % os.fsencode(tmp_path / "boom")
    for path in kept():
        path.write_bytes(bomb)
    assert (0, 1) == took(ask(tiny_pair))
    assert not (tmp_path / "boom").exists()


def test_entries_made_under_another_key_are_foreign(tiny_pair, known):
    """So is a whole cache directory that somebody hands over, however well it is made."""
    (data_dir() / "cache.key").write_bytes(bytes(32))
    assert (0, 1) == took(ask(tiny_pair))
    assert [1, 3] == [len(PrefixCache().pictures()[0:1]), len(kept())]


@pytest.mark.parametrize(
    "spoil", [lambda key: key.chmod(0o644), lambda key: key.write_bytes(b"short")], ids=["readable", "short"]
)
def test_a_key_that_others_could_read_is_replaced(tiny_pair, known, spoil):
    key = data_dir() / "cache.key"
    before = key.read_bytes()
    spoil(key)
    assert (0, 1) == took(ask(tiny_pair))
    assert (32, 0o600) == (len(key.read_bytes()), key.stat().st_mode & 0o777)
    assert before != key.read_bytes()
