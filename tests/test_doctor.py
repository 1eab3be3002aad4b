"""Facts about `llava doctor`."""

import json
import os

import pytest

from llava_cli import checkup, machine, settings
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


def test_a_mistake_in_the_config_file_is_a_finding_beside_the_others():
    settings.config_path().parent.mkdir(parents=True)
    settings.config_path().write_text("modle = 'shapes'")
    done = llava("doctor")
    first, second = done.stdout.splitlines()[:2]
    assert (2, True, "  do: did you mean model?") == (done.returncode, first.endswith("unknown key 'modle'"), second)
    assert "problem: llava-v1.5-7b: not on this computer" in done.stdout


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
    assert ["llama-cpp-python"] == [f.error.what for f in found.findings]
    assert "--no-binary llama-cpp-python llama-cpp-python==" in found.findings[0].error.hint


@pytest.mark.parametrize(
    ("code", "complaint", "features", "flags"),
    [
        (0, ["it was built without AVX2"], {"SSE3"}, {"sse3", "avx2"}),
        (0, ["it was built without DOTPROD"], {"NEON"}, {"asimd", "asimddp"}),
        (0, [], {"NEON", "DOTPROD"}, {"asimd", "asimddp"}),
        (0, [], {"NEON"}, {"asimd"}),
        (7, ["it was built with DOTPROD"], {"NEON", "DOTPROD"}, {"asimd"}),
        (0, [], {"NEON", "DOTPROD"}, {"sse3", "avx2"}),
        (0, [], {"SSE3", "AVX2"}, set()),
    ],
    ids=["generic x86", "generic ARM", "Pi 5", "Pi 4", "from a Pi 5 to a Pi 4", "emulated", "unknown"],
)
def test_a_library_built_for_another_processor_is_told(monkeypatch, code, complaint, features, flags):
    """One for older processors works, only more slowly."""
    monkeypatch.setattr(checkup, "cpu_features", lambda: frozenset(features))
    monkeypatch.setattr(checkup, "_processor_flags", lambda: flags)
    found = check_up(None, LoadOptions())
    assert code == found.exit_code
    assert complaint == [f.error.why.split(",")[0] for f in found.findings]


@pytest.mark.parametrize(("tool", "pip"), [("' -m pip install --force-reinstall ", True), ("uv pip install", False)])
def test_the_line_that_builds_is_for_what_manages_the_environment(monkeypatch, tool, pip):
    """uv and pipx make environments without pip; a path may hold spaces."""
    monkeypatch.setattr(checkup, "cpu_features", lambda: frozenset({"SSE3"}))
    monkeypatch.setattr(checkup, "_processor_flags", lambda: {"avx2"})
    monkeypatch.setattr(checkup.sys, "executable", "/home/me/my programs/bin/python")
    monkeypatch.setattr(checkup.importlib.util, "find_spec", lambda _name: "found" if pip else None)
    line = check_up(None, LoadOptions()).findings[0].error.hint
    assert tool in line
    assert "'/home/me/my programs/bin/python'" in line
    assert "--no-deps --no-binary llama-cpp-python llama-cpp-python==" in line


def test_a_32_bit_program_is_told_that_models_must_be_small(monkeypatch):
    monkeypatch.setattr(machine, "is_32_bit", lambda: True)
    found = check_up(None, LoadOptions())
    assert 0 == found.exit_code
    assert ["a 64-bit system runs larger models"] == [f.error.hint for f in found.findings]


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("too hot", "0xe0008"),
        ("too little voltage", "0x50005"),
        ("too little voltage", "0x10000"),
        ("", "0x0"),
    ],
)
def test_a_raspberry_pi_that_slowed_down_is_told_why(monkeypatch, tmp_path, cause, told):
    program = tmp_path / "vcgencmd"
    program.write_text(f"#!/bin/sh\necho throttled={told}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    findings = check_up(None, LoadOptions()).findings
    assert (cause != "") == any(cause in f.error.why and not f.stops for f in findings if f.error.what == "processor")


@pytest.mark.parametrize("size", [["--model-path", "a.gguf"], ["--context", "3"], ["--kv", "q4"]])
def test_a_command_line_that_makes_no_sense_is_refused(size):
    assert 2 == llava("doctor", *size).returncode
