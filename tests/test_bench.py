"""Facts about `llava bench` and what it measures."""

import json
import tempfile
from pathlib import Path

import pytest

from llava_cli.errors import Stopped
from llava_cli.measure import measure
from llava_cli.model import load
from llava_cli.settings import LoadOptions
from tests.processes import files_of, llava
from tests.questions import GREEDY, kept

SMALL = LoadOptions(context=512, threads=1)


def opened(pair, cache, on_stage=None):
    files = {"model_path": pair[0], "projector_path": pair[1], "prompt_layout": "llava_v1"}
    return load(**files, options=SMALL, sampling=GREEDY, on_stage=on_stage, cache=cache)


def measured(pair, on_stage=None):
    return measure(lambda cache: opened(pair, cache, on_stage), 4)


def test_in_a_pipe_it_prints_names_and_numbers(tiny_pair):
    done = llava("bench", "--tokens", "4", *files_of(tiny_pair))
    table = dict(line.split("\t") for line in done.stdout.splitlines())
    assert ("4", 0) == (table["answer_tokens"], done.returncode)
    assert all(float(value) >= 0 for value in table.values())


def test_json_has_the_same_names(tiny_pair):
    command = ("bench", "--tokens", "4", *files_of(tiny_pair))
    names = [line.split("\t")[0] for line in llava(*command).stdout.splitlines()]
    assert names == list(json.loads(llava(*command, "--json").stdout))


def test_the_picture_is_encoded_once_although_the_model_is_opened_twice(tiny_pair):
    stages = []
    measured(tiny_pair, lambda stage, _amount: stages.append(stage))
    assert (1, 2, 3) == tuple(stages.count(stage) for stage in ("looking", "loading", "writing"))


def test_it_leaves_no_picture_behind(tiny_pair, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    measured(tiny_pair)
    assert ([], []) == (kept(), list(Path(tmp_path).iterdir()))


def test_the_whole_first_prompt_is_read(tiny_pair):
    """16 picture tokens and the words around them."""
    assert measured(tiny_pair).read_cells > 16


def test_what_a_user_waits_for_includes_the_opening(tiny_pair):
    result = measured(tiny_pair)
    assert result.first_token_seconds > result.load_seconds + result.look_seconds + result.read_seconds


def test_a_stop_ends_it(tiny_pair):
    models = []

    def open_model(cache):
        models.append(
            load(model_path=tiny_pair[0], projector_path=tiny_pair[1], options=SMALL, on_stage=stop, cache=cache)
        )
        return models[-1]

    def stop(stage, _amount):
        if stage == "writing":
            models[-1].stop()

    with pytest.raises(Stopped):
        measure(open_model, 4)
    assert len(models) == 1


def test_a_missing_model_is_an_error_with_a_hint():
    done = llava("bench", "-m", "llava-v1.5-7b")
    assert (4, True) == (done.returncode, "llava pull llava-v1.5-7b" in done.stderr)
