"""Facts about the parts of `benchmarks/` that need no full-size model."""

import os
import sys

import gguf
import numpy as np
import pytest

from benchmarks import results
from benchmarks.make_random_llava import Shape, q4_k, q6_k, tensors_of, vocabulary
from benchmarks.programs import Stats, llama_bench_speed, llava_stats
from benchmarks.raspberry_pi import ROOT, Side, compare
from benchmarks.watch import anonymous_bytes, watch

KINDS = gguf.GGMLQuantizationType


@pytest.mark.parametrize(("draw", "kind"), [(q4_k, KINDS.Q4_K), (q6_k, KINDS.Q6_K)])
def test_random_blocks_are_weights_around_zero_of_the_spread_asked_for(draw, kind):
    weights = gguf.dequantize(draw(np.random.default_rng(0), 2000, 0.02), kind)
    assert (0, 0.02) == (pytest.approx(weights.mean(), abs=2e-4), pytest.approx(weights.std(), rel=0.1))


def test_the_full_size_model_is_as_large_as_the_published_one():
    """4.08 GB: the tensors of LLaVA-1.5-7B in Q4_K_M."""
    total = 0
    for _, (rows, columns), kind in tensors_of(Shape()):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        total += rows * columns // block * size
    assert 4.08e9 == pytest.approx(total, rel=0.001)


def test_the_vocabulary_has_32000_different_tokens():
    tokens = [text for text, _, _ in vocabulary()]
    assert (32000, 32000) == (len(tokens), len(set(tokens)))


def test_the_speed_of_llama_bench_is_read_from_its_json():
    assert llama_bench_speed('[{"n_gen": 64, "avg_ts": 5.5}]') == 5.5


def test_the_numbers_of_llava_are_those_of_its_stats_line():
    line = "16 tokens · 5.4 tokens/s · first token 1.40 s (prompt 1.40) · prompt 612 reused + 13 new · seed 1"
    assert Stats(5.4, 612, 13) == llava_stats(line)


def test_a_row_compares_medians_and_says_whether_the_target_is_reached():
    samples = {"llava new": [10, 12, 11], "mtmd defaults": [21, 22, 90], "mtmd best": [10, 10, 10]}
    first, second = results.rows(samples)
    assert ("0.50", True) == (first.ratio, first.met)
    assert ("1.10", False) == (second.ratio, second.met)
    assert "11.00 s (10.00 to 12.00)" == first.ours


def test_more_tokens_per_second_are_better():
    (row,) = results.rows({"llava speed": [5.5], "bench speed": [5.0]})
    assert row.met


def test_what_was_not_measured_has_no_row():
    assert results.rows({"llava new": [1.0]}) == []


def test_a_missed_target_is_plain_to_see():
    assert "**missed**" in results.markdown(results.rows({"llava peak": [6e9]}))


def test_the_first_word_of_a_program_is_timed_and_not_its_empty_line():
    word, nothing = (watch([sys.executable, "-c", f"print(); print({text!r})"]) for text in ("word", " "))
    assert ("word", 0, True) == (word.stdout.strip(), word.code, 0 < word.first_word <= word.seconds)
    assert nothing.first_word == 0


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_program_is_seen():
    code = "import time; held = b'x' * 100_000_000; time.sleep(1)"
    run = watch([sys.executable, "-c", code])
    assert run.peak > 1e8
    assert run.peak_anonymous > 1e8
    assert run.peak_anonymous < 2e8


def test_anonymous_memory_is_read_from_the_status_of_a_process():
    assert 2048 == anonymous_bytes("VmRSS:\t  10 kB\nRssAnon:\t       2 kB\nRssFile:\t 8 kB\n")


# The emulated Raspberry Pi.


def told(answer="red", repack=True, features=("DOTPROD", "NEON")):
    """What a side tells after one question."""
    return {
        "machine": "aarch64",
        "features": list(features),
        "options": {"repack": repack, "threads": 4, "ubatch": 640},
        "answers": [{"scene": 1, "way": "single", "question": "What color?", "answer": answer, "truth": "red"}],
        "seconds": 1.0,
    }


@pytest.mark.parametrize(
    ("good", "theirs", "chose"),
    [
        (True, told(), True),
        (False, told("green"), True),
        (False, told(repack=False), True),
        (True, told(repack=False), False),
        (False, told(repack=True, features=("NEON",)), True),
    ],
)
def test_a_pi_is_right_if_its_answers_are_equal_and_it_chose_as_the_table_says(good, theirs, chose, capsys):
    assert good is compare("shapes", told(repack=False, features=("AVX2",)), theirs, chose)
    assert ("'red' here, 'green' there" in capsys.readouterr().out) == (theirs == told("green"))


def test_a_side_tells_its_answers_and_how_the_model_was_opened():
    side = Side((sys.executable,), {**os.environ, "PYTHONPATH": str(ROOT)})
    found = side.answers("--scenes", "1", "--threads", "1", "--repack")
    assert (10, True) == (len(found["answers"]), found["options"]["repack"])
    assert [one["truth"] for one in found["answers"]] == [one["answer"] for one in found["answers"]]
