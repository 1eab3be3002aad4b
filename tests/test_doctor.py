"""Facts about `llava doctor`."""

import json

import pytest

from llava_cli import checkup, machine
from llava_cli.checkup import check_up
from llava_cli.machine import Limit
from llava_cli.registry import find
from llava_cli.settings import LoadOptions
from tests.processes import files_of, llava


def test_an_installation_that_works_has_no_problem_and_shows_all(tiny_pair):
    done = llava("doctor", *files_of(tiny_pair), "--context", "1024")
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(("no problems\n", "note: "))
    for fact in (
        "weights\t",
        "context (KV cache)\t",
        "vision tower\t",
        "llama-cpp-python\t",
        "cache\t",
        "config file\t",
    ):
        assert f"\n{fact}" in done.stdout


def test_a_model_that_is_not_there_comes_first_and_gives_its_code():
    done = llava("doctor")
    assert (4, True) == (done.returncode, done.stdout.startswith("problem: llava-v1.5-7b: not on this computer"))
    assert "  do: download it" in done.stdout.splitlines()[1]


def test_a_larger_context_takes_more(tiny_pair):
    small, large = (
        json.loads(llava("doctor", "--json", "--context", size, *files_of(tiny_pair)).stdout) for size in (512, 1024)
    )
    assert 2 * small["memory"]["kv"] == large["memory"]["kv"]
    assert ([], 1024, "f16") == (large["problems"], large["options"]["context"], large["options"]["kv"])


def test_what_does_not_fit_gives_code_6(tiny_pair, monkeypatch):
    monkeypatch.setattr(machine, "limits", lambda: [Limit("memory", "memory of this computer", 1000, 10**9)])
    found = check_up(find("shapes"), LoadOptions())
    assert 6 == found.exit_code
    assert "memory of this computer" in found.as_json()["problems"][0]["why"]


def test_a_library_that_does_not_load_gives_code_7_and_the_line_that_builds_it(monkeypatch):
    def broken():
        raise OSError("libllama.so: cannot open shared object file")

    monkeypatch.setattr(checkup, "cpu_features", broken)
    found = check_up(find("shapes"), LoadOptions())
    assert 7 == found.exit_code
    assert "--no-binary llama-cpp-python llama-cpp-python==" in found.findings[0].error.hint


def test_a_library_built_for_older_processors_is_told_but_works(monkeypatch, tmp_path):
    monkeypatch.setattr(checkup, "cpu_features", lambda: frozenset({"SSE3"}))
    monkeypatch.setattr(checkup, "_processor_flags", lambda: {"sse3", "avx2"})
    found = check_up(find("shapes"), LoadOptions())
    assert 0 == found.exit_code
    assert ["it was built without AVX2"] == [f.error.why.split(",")[0] for f in found.findings]


@pytest.mark.parametrize("size", [["--model-path", "a.gguf"], ["--context", "3"], ["--kv", "q4"]])
def test_a_command_line_that_makes_no_sense_is_refused(size):
    assert 2 == llava("doctor", *size).returncode
