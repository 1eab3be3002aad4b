"""Facts about how a model is opened when nobody says how."""

import json
import os
from dataclasses import replace

import pytest

from llava_cli import LoadOptions, fitting, policy, registry, tuning
from llava_cli.machine import physical_cores
from llava_cli.settings import data_dir
from llava_cli.tuning import Trial
from llava_cli.weights import open_weights
from tests.processes import files_of, llava

X86 = frozenset({"AVX2", "AVX512", "REPACK"})
PI = frozenset({"NEON", "DOTPROD", "REPACK"})


@pytest.fixture
def choose(monkeypatch):
    """Make the choices for the tiny model on a processor of the test's."""

    def chosen(features, measured=None, **options):
        monkeypatch.setattr(policy, "cpu_features", lambda: features)
        return policy.choose(LoadOptions(**options), 16, measured)

    return chosen


def test_x86_reads_the_weights_as_they_are(choose):
    assert (False, True, 640) == (choose(X86).repack, choose(X86).flash_attention, choose(X86).ubatch)


def test_arm_with_dot_products_copies_them(choose):
    assert True is choose(PI).repack
    assert False is choose(PI - {"REPACK"}).repack
    assert False is choose(PI - {"DOTPROD"}).repack


def test_threads_are_one_per_physical_core(choose):
    assert physical_cores() == choose(X86).threads


def test_what_was_asked_for_is_never_changed(choose):
    asked = {"repack": False, "threads": 3, "ubatch": 64, "flash_attention": False}
    found = choose(PI, {"repack": True, "threads": 9, "ubatch": 32, "flash_attention": True}, **asked)
    assert asked == {name: getattr(found, name) for name in asked}


def test_what_was_measured_beats_the_table(choose):
    assert True is choose(X86, {"repack": True}).repack


@pytest.mark.parametrize(("batch", "square"), [(640, 16), (640, 576), (768, 729), (640, 2500)])
def test_a_batch_takes_a_whole_square_unless_that_is_large(batch, square):
    assert batch == policy.choose(LoadOptions(), square).ubatch


def test_features_are_read_from_llama_cpp():
    assert {"AVX2", "NEON", "RISCV_V", "VSX", "WASM_SIMD"} & policy.cpu_features()
    assert not any("=" in name or " " in name for name in policy.cpu_features())


# Measuring.


@pytest.fixture
def fitted(tiny_pair):
    """Fit the tiny model to this machine."""
    spec = registry.from_files(*tiny_pair, "llava_v1")
    return fitting.fit(spec, open_weights(spec), LoadOptions(threads=1))


def trial(seconds, rate, **options):
    return Trial(LoadOptions(**options), seconds, rate)


@pytest.mark.parametrize(
    ("winner", "loads", "reads"),
    [
        (0, (0.6, 14.0), (31.0, 22.0)),
        (0, (0.6, 20.0), (3.0, 3.1)),
        (1, (1.0, 30.0), (3.0, 6.0)),
        (0, (1.0, 0.5), (30.0, 30.1)),
    ],
)
def test_the_winner_is_soonest_done_with_a_picture(winner, loads, reads):
    trials = [trial(*numbers, repack=bool(n)) for n, numbers in enumerate(zip(loads, reads, strict=True))]
    assert trials[winner] is tuning.best(trials, tuning.PICTURE_CELLS)


def test_only_what_is_open_is_tried(fitted):
    open_ones = tuning.candidates(fitted, LoadOptions())
    assert fitted.options == open_ones[0]
    assert any(one.flash_attention is False for one in open_ones)
    closed = LoadOptions(threads=1, repack=False, flash_attention=True)
    assert [fitted.options] == tuning.candidates(fitted, closed)


def test_each_way_is_really_opened_and_read_with(fitted, tiny_pair):
    tries = [fitted.options, replace(fitted.options, flash_attention=False)]
    trials = tuning.measure(tiny_pair[0], tries)
    assert tries == [one.options for one in trials]
    assert all(one.cells_per_second > 0 < one.load_seconds for one in trials)


def test_a_slow_machine_tries_fewer(fitted, tiny_pair, monkeypatch):
    monkeypatch.setattr(tuning, "_SECONDS", 0.0)
    assert 1 == len(tuning.measure(tiny_pair[0], [fitted.options] * 3))


def test_a_winner_is_remembered_for_its_file_only(tiny_pair):
    assert policy.remember(
        tiny_pair[0], LoadOptions(threads=3, ubatch=64, repack=True, flash_attention=False), LoadOptions()
    )
    assert {"threads": 3, "ubatch": 64, "repack": True, "flash_attention": False} == policy.recall(tiny_pair[0])
    assert {} == policy.recall(tiny_pair[1])
    assert 0o600 == (data_dir() / "tuned.json").stat().st_mode & 0o777


def test_a_file_that_changed_is_another_model(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"one")
    policy.remember(path, LoadOptions(repack=True), LoadOptions())
    path.write_bytes(b"other")
    assert {} == policy.recall(path)


def test_what_was_asked_for_while_measuring_is_not_remembered(tiny_pair):
    policy.remember(tiny_pair[0], LoadOptions(threads=1, repack=True), LoadOptions(threads=1))
    assert "threads" not in policy.recall(tiny_pair[0])


@pytest.mark.parametrize(
    "entry", ["x", None, {"threads": 0}, {"threads": True}, {"threads": 10**9}, {"repack": 1}, {"ubatch": 1}, {"a": 2}]
)
def test_a_damaged_winner_is_none(tiny_pair, entry):
    policy.remember(tiny_pair[0], LoadOptions(repack=True), LoadOptions())
    file = data_dir() / "tuned.json"
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), entry)))
    assert {} == policy.recall(tiny_pair[0])


def test_doctor_tune_measures_and_later_runs_use_it(tiny_pair, monkeypatch):
    monkeypatch.delenv("LLAVA_THREADS")
    done = llava("doctor", "--tune", *files_of(tiny_pair))
    assert (0, True) == (done.returncode, "from now on: context 2048" in done.stderr)
    winner = done.stderr.rsplit("from now on: ", 1)[1].splitlines()[0]
    asked = llava("ask", "examples/scene.png", "What?", "-n", "2", "-q", "--stats", *files_of(tiny_pair))
    assert winner == asked.stderr.splitlines()[-1]
    assert os.environ.get("LLAVA_THREADS") is None
