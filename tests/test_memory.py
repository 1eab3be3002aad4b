"""Facts about the prediction of memory, and about refusing what does not fit."""

import json
import resource
import subprocess
import sys

import pytest
from gguf import GGMLQuantizationType as Kind

from llava_cli import LoadOptions, fitting, machine, registry
from llava_cli.errors import NotEnoughRoom, UsageError
from llava_cli.machine import Limit
from llava_cli.weights import open_weights
from tests.hollow_model import LLAVA_7B, HollowShape, write_hollow_pair
from tests.processes import LLAVA, SCENE, files_of

SMALL = HollowShape()
MEDIUM = HollowShape(width=1024, layers=12, heads=16, kv_heads=16, hidden=2816, kind=Kind.Q4_K)
GROUPED = HollowShape(width=2048, layers=16, heads=32, kv_heads=8, hidden=5632, kind=Kind.Q8_0)
GB = 10**9


@pytest.fixture(scope="session")
def pair_7b(tmp_path_factory):
    """Write a LLaVA-1.5-7B, Q4_K, without its 4 GB of numbers."""
    return write_hollow_pair(tmp_path_factory.mktemp("7b"), LLAVA_7B)


def fitted(pair, spec=None, **options):
    chosen = LoadOptions(**{"threads": 1, **options})
    mine = registry.from_files(*pair, "llava_v1")
    return fitting.fit(spec or mine, open_weights(mine), chosen)


def predicted(pair, **options):
    return fitted(pair, **options).plan


@pytest.fixture
def has(monkeypatch):
    """Let this machine have so many bytes to spare."""

    def only(room, of="memory"):
        limit = Limit(of, "memory of this computer", int(room), int(room * 1.25))
        monkeypatch.setattr(machine, "limits", lambda: [limit])

    return only


def measured_peak(pair, **options):
    """Return the highest resident memory of a process that asks one question, in bytes."""
    code = (
        "import re, sys, json\n"
        "from pathlib import Path\n"
        "from llava_cli import LoadOptions, load\n"
        "model, projector, picture, options = sys.argv[1:]\n"
        "files = {'model_path': model, 'projector_path': projector, 'prompt_layout': 'llava_v1'}\n"
        "with load(**files, options=LoadOptions(**json.loads(options))) as it:\n"
        "    it.ask(picture, 'What color is the circle?', max_tokens=4, temperature=0).text\n"
        "print(re.search(r'VmHWM:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
    )
    words = [sys.executable, "-c", code, *map(str, pair), SCENE, json.dumps({"threads": 1, **options})]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout) * 1024


def within_a_tenth(shape, directory, **options):
    pair = write_hollow_pair(directory, shape)
    return predicted(pair, **options).peak == pytest.approx(measured_peak(pair, **options), rel=0.1)


COMBINATIONS = [(shape, context, kv) for shape in (SMALL, MEDIUM, GROUPED) for context in (1024, 4096)
                for kv in ("f16", "q8_0")]  # fmt: skip


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(("context", "kv"), [(1024, "f16"), (4096, "q8_0")])
def test_the_peak_is_predicted_within_a_tenth(tmp_path, context, kv):
    assert within_a_tenth(SMALL, tmp_path, context=context, kv=kv)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize(("shape", "context", "kv"), COMBINATIONS)
def test_the_peak_is_predicted_within_a_tenth_in_twelve_combinations(tmp_path, shape, context, kv):
    assert within_a_tenth(shape, tmp_path, context=context, kv=kv)


def test_the_parts_of_a_7b_model_are_those_llama_cpp_reports(pair_7b):
    plan = predicted(pair_7b)
    assert 1024 << 20 == plan.kv
    assert 544 << 20 == predicted(pair_7b, kv="q8_0").kv
    assert pair_7b[0].stat().st_size == plan.weights
    assert 0.60 * GB < plan.looking < 0.68 * GB
    assert 0.30 * GB < plan.keeping < 0.34 * GB


def test_a_context_is_rounded_up_as_llama_cpp_does(pair_7b):
    assert predicted(pair_7b, context=2048).kv == predicted(pair_7b, context=1800).kv


def test_weights_copied_into_another_layout_are_private(pair_7b):
    plain, repacked = predicted(pair_7b, repack=False), predicted(pair_7b, repack=True)
    copied = repacked.private - plain.private
    assert (repacked.steady, copied) == (plain.steady, repacked.repacked)
    assert copied in (0, pytest.approx(plain.weights, rel=0.05))  # 0: a processor for which nothing is copied


def test_what_fits_is_not_refused(pair_7b, has):
    has(5.6 * GB)
    assert None is fitted(pair_7b).refusal()


def test_what_does_not_fit_is_refused_with_what_would(pair_7b, has):
    has(4 * GB)
    refusal = fitted(pair_7b, registry.find("llava-v1.5-7b")).refusal()
    assert (6, True) == (refusal.exit_code, refusal.why.startswith("it needs 5.1 GB, and 4.0 GB are left"))
    assert "from disk for every token" in refusal.why
    assert "-m llava-v1.5-7b:Q2_K" in refusal.hint
    assert "--no-memory-check" in refusal.hint


def test_the_smallest_change_is_named_first(pair_7b, has):
    has(5.0 * GB)
    assert fitted(pair_7b).refusal().hint.startswith("it fits with --kv q8_0;")
    has(4.8 * GB)
    assert fitted(pair_7b, context=4096).refusal().hint.startswith("it fits with --kv q8_0 --context 2048;")


def test_what_is_named_does_fit(pair_7b, has):
    has(4.8 * GB)
    assert None is fitted(pair_7b, kv="q8_0", context=2048).refusal()


def test_without_room_for_what_is_private_nothing_is_promised(pair_7b, has):
    has(1.5 * GB)
    assert "from disk" not in fitted(pair_7b).refusal().why


@pytest.mark.parametrize("of", ["addresses", "data"])
def test_limits_of_a_process_are_looked_at_too(pair_7b, has, of):
    has(1.5 * GB, of)
    assert 6 == fitted(pair_7b).refusal().exit_code


def test_a_copy_nobody_asked_for_is_left_out_if_it_does_not_fit(pair_7b, has, monkeypatch):
    has(5.3 * GB)
    monkeypatch.setattr(fitting.policy, "cpu_features", lambda: frozenset({"NEON", "DOTPROD", "REPACK"}))
    assert False is fitted(pair_7b).options.repack
    has(50 * GB)
    assert True is fitted(pair_7b).options.repack


def test_a_check_that_was_switched_off_does_not_refuse(pair_7b, has):
    has(1 * GB)
    spec = registry.from_files(*pair_7b, "llava_v1")
    with pytest.raises(NotEnoughRoom):
        fitting.require_fit(spec, open_weights(spec), LoadOptions())
    assert 640 == fitting.require_fit(spec, open_weights(spec), LoadOptions(memory_check=False)).ubatch


@pytest.mark.parametrize(
    ("words", "options"),
    [("heads of 16", {"kv": "q8_0"}), ("must be f16 or q8_0", {"kv": "q4"})],
)
def test_a_kv_type_that_cannot_be_is_a_usage_error(tiny_pair, words, options):
    with pytest.raises(UsageError, match=words):
        fitted(tiny_pair, **options)


def test_q8_0_without_flash_attention_is_a_usage_error(pair_7b):
    with pytest.raises(UsageError, match="needs flash attention"):
        fitted(pair_7b, kv="q8_0", flash_attention=False)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold to the limit")
def test_a_process_of_4_gb_is_refused_before_anything_is_loaded(pair_7b):
    command = [*LLAVA, "ask", SCENE, "What?", *files_of(pair_7b)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30)),
    )  # fmt: skip
    assert (6, "") == (done.returncode, done.stdout)
    assert "address space (ulimit -v)" in done.stderr
