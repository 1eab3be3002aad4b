"""Facts about `llava models`, `show`, `rm`, `verify`, `use` and `config`, as processes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest

from llava_cli import registry, settings
from llava_cli.amounts import in_bytes
from tests.downloads import MAIN, OWN_LIST, in_cache, write_own_list
from tests.processes import LLAVA, SCENE, llava


@pytest.fixture
def files(hub: Path, tiny_pair: tuple[Path, Path]) -> tuple[Path, Path]:
    """Put a tiny model of the user's own list into the cache; return both files."""
    write_own_list()
    model, projector = (path.read_bytes() for path in tiny_pair)
    return in_cache(hub, MAIN, "model.gguf", content=model), in_cache(hub, MAIN, "mmproj.gguf", content=projector)


def rows(text: str) -> dict[str, list[str]]:
    """Return lines with tabs between as rows, by their first value."""
    return {line.split("\t")[0]: line.split("\t")[1:] for line in text.splitlines()}


# models, show


def test_models_in_a_pipe_are_lines_with_tabs(files: tuple[Path, Path]) -> None:
    done = llava("models")
    table = rows(done.stdout)
    assert (0, "") == (done.returncode, done.stderr)
    assert list(table) == [spec.name for spec in registry.all_specs()]
    size = sum(path.stat().st_size for path in files)
    assert table["tiny"] == ["for tests", str(size), "1 GB", "yes", "F32", "unknown"]
    assert table["shapes"][-2:] == ["f16", "MIT"]
    assert table["llava-v1.5-7b"][-2:] == ["no", "llama2"]
    assert table["llava-llama-3-8b-v1_1"][1:4] == ["unknown", "unknown", "unknown"]


def test_models_as_json_say_what_is_not_known(files: tuple[Path, Path]) -> None:
    about = {model["name"]: model for model in json.loads(llava("models", "--json").stdout)}
    tiny, unknown = about["tiny"], about["llava-llama-3-8b-v1_1"]
    assert (tiny["complete"], tiny["on_disk"], tiny["own"]) == (True, ["F32"], True)
    assert [file["path"] for file in tiny["files"]] == [str(path) for path in files]
    assert (unknown["size"], unknown["fits"], unknown["memory_gib"], unknown["complete"]) == (None, None, None, False)
    assert ["llava-v1.5-7b"] == [name for name, model in about.items() if model["default"]]


def test_a_model_of_which_a_part_is_there_says_so(hub: Path) -> None:
    write_own_list()
    in_cache(hub, MAIN, "model.gguf")
    assert rows(llava("models").stdout)["tiny"][4] == "in part"


def test_models_on_a_terminal_are_a_table_that_fits_80_columns(files: tuple[Path, Path]) -> None:
    environment = {**os.environ, "COLUMNS": "80"}
    child = pexpect.spawn(LLAVA[0], [*LLAVA[1:], "models"], env=environment, encoding="utf-8", timeout=60)
    child.expect(pexpect.EOF)
    lines = re.sub(r"\x1b\[[\d;]*m", "", child.before).splitlines()
    assert re.fullmatch(r"model +what it is +size +memory +fits +on disk +licence *", lines[0])
    assert [line for line in lines if re.match(r"tiny +for tests +[\d.]+ kB +1 GB +yes +F32 +\? *$", line)]
    assert {spec.name for spec in registry.all_specs()} < {line.split(" ")[0] for line in lines}
    assert lines[-1] == "note: default: llava-v1.5-7b (llava use NAME changes it); ?: not published"


def test_show_says_all_about_one(files: tuple[Path, Path]) -> None:
    table = rows(llava("show", "tiny").stdout)
    assert table["model"] == ["tiny:F32"]
    assert table["known from"] == [str(registry.user_file())]
    assert table["model file"] == [str(files[0])]
    assert table["licence"] == ["see its card: hf.co/someone/tiny-llava"]


def test_show_path_is_two_lines_for_scripts(files: tuple[Path, Path]) -> None:
    done = llava("show", "tiny", "--path")
    assert done.stdout == f"{files[0]}\n{files[1]}\n"
    missing = llava("show", "tiny:F16", "--path")
    assert (4, "") == (missing.returncode, missing.stdout)


def test_show_as_json_is_one_object(files: tuple[Path, Path]) -> None:
    assert json.loads(llava("show", "TINY", "--json").stdout)["name"] == "tiny"


# rm


def test_rm_in_a_pipe_wants_yes_and_touches_nothing(files: tuple[Path, Path]) -> None:
    done = llava("rm", "tiny")
    assert 2 == done.returncode
    assert done.stderr.splitlines()[-2:] == [
        "llava: rm: there is no terminal to ask on", "hint: --yes removes without asking",
    ]  # fmt: skip
    assert files[0].exists()


def test_rm_says_what_it_frees(files: tuple[Path, Path], hub: Path) -> None:
    size = sum(path.stat().st_size for path in files)
    done = llava("rm", "tiny", "--yes")
    assert (0, f"freed {in_bytes(size)}\n", "") == (done.returncode, done.stdout, done.stderr)
    assert not hub.exists()
    again = llava("rm", "tiny", "--yes")
    assert (4, True) == (again.returncode, "tiny: not on this computer" in again.stderr)


@pytest.mark.parametrize(
    ("answer", "gone", "code"), [("y\r", True, 0), ("\r", False, 130), ("n\r", False, 130), ("\x04", False, 130)]
)
def test_rm_asks_on_a_terminal(files: tuple[Path, Path], answer: str, gone: bool, code: int) -> None:
    child = pexpect.spawn(LLAVA[0], [*LLAVA[1:], "rm", "tiny"], dimensions=(50, 140), encoding="utf-8", timeout=60)
    child.expect(r"Remove this and free [\d.]+ kB\? \[y/N\] ")
    assert "model.gguf" in child.before
    child.send(answer)
    child.expect(pexpect.EOF)
    child.close()
    assert (code, gone) == (child.exitstatus, not files[0].exists())
    assert ("freed" in child.before, "nothing was removed" in child.before) == (gone, not gone)


def test_rm_of_the_bundled_model_is_refused() -> None:
    done = llava("rm", "shapes", "--yes")
    assert (2, True) == (done.returncode, "it is part of llava and cannot be removed" in done.stderr)


# verify


def test_verify_looks_at_all_that_is_there(files: tuple[Path, Path]) -> None:
    done = llava("verify")
    assert (0, "") == (done.returncode, done.stderr)
    assert [line.split("\t")[:2] for line in done.stdout.splitlines()] == [
        ["shapes", "shapes-model-f16.gguf"],
        ["shapes", "shapes-mmproj-f16.gguf"],
        ["tiny:F32", "model.gguf"],
        ["tiny:F32", "mmproj.gguf"],
    ]


def test_verify_ends_with_4_if_a_file_is_not_what_it_should_be(files: tuple[Path, Path]) -> None:
    write_own_list(OWN_LIST.replace('name = "model.gguf"', f'name = "model.gguf"\nsha256 = "{"0" * 64}"'))
    done = llava("verify", "tiny")
    assert 4 == done.returncode
    assert "model.gguf\tdamaged: its sha256 is " in done.stdout
    assert re.match(rf"llava: model\.gguf: damaged: its sha256 is [0-9a-f]{{64}}, not {'0' * 64}\n", done.stderr)
    assert "hint: llava pull tiny:F32 fetches it again" in done.stderr
    assert 4 == llava("verify", "llava-v1.5-7b").returncode


# use, config


def test_use_makes_a_model_the_default_everywhere() -> None:
    path = settings.config_path()
    path.parent.mkdir(parents=True)
    path.write_text("# mine\nmax_tokens = 3\n")
    done = llava("use", "SHAPES")
    assert (0, f"shapes is the default now ({path})\n", "") == (done.returncode, done.stdout, done.stderr)
    assert '# mine\nmax_tokens = 3\nmodel = "shapes"\n' == path.read_text()
    assert llava("ask", SCENE, "What color is the circle?", "-t", "0").stdout == "red\n"
    assert [model["name"] for model in json.loads(llava("models", "--json").stdout) if model["default"]] == ["shapes"]
    assert rows(llava("config").stdout)["model"] == ["shapes", str(path)]


def test_use_keeps_the_quant_that_was_named_and_says_what_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_MODEL", "shapes")
    done = llava("use", "1.5-7b:q2_k")
    assert done.stdout.startswith("llava-v1.5-7b:Q2_K is the default now")
    assert done.stderr.splitlines() == [
        "note: it is not on this computer yet",
        "note: LLAVA_MODEL in the environment goes before it: shapes",
    ]


def test_an_unknown_model_is_no_default() -> None:
    done = llava("use", "shaps")
    assert (4, True) == (done.returncode, "did you mean shapes?" in done.stderr)
    assert not settings.config_path().exists()


def test_config_shows_every_setting_and_its_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_SEED", "7")
    table = rows(llava("config").stdout)
    assert table["seed"] == ["7", "LLAVA_SEED"]
    assert table["temperature"] == ["0.2", "default"]
    assert table["system"] == ["not set", "default"]
    as_json = {row["key"]: row for row in json.loads(llava("config", "--json").stdout)}
    assert as_json["seed"] == {"key": "seed", "value": 7, "origin": "LLAVA_SEED"}
    assert list(as_json) == list(table)
    shown = re.sub(r"\x1b\[\d*m", "", pexpect.run(shlex.join([*LLAVA, "config"]), dimensions=(50, 120)).decode())
    assert re.search(r"^ubatch +automatic +default", shown, flags=re.MULTILINE)
    assert re.search(r"^cache_size +2\.1 GB +default", shown, flags=re.MULTILINE)
    assert llava("config", "--path").stdout == f"{settings.config_path()}\n"


# Without network; completion


@pytest.mark.parametrize(
    "arguments",
    [
        ["models"],
        ["show", "tiny"],
        ["verify"],
        ["rm", "tiny", "-y"],
        ["use", "tiny"],
        ["config"],
        ["ask", SCENE, "-m", "tiny"],
    ],
)
def test_no_command_touches_the_network(files: tuple[Path, Path], arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "def watch(event, _):\n"
        "    if event.startswith('socket.'): raise BaseException(event)\n"
        "sys.addaudithook(watch)\n"
        f"sys.argv = ['llava', *{arguments!r}]\n"
        "from llava_cli.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (0, True) == (done.returncode, "socket." not in done.stderr)


def completed(line: str) -> list[str]:
    """Return what a shell is offered for the last word of `line`."""
    environment = {
        **os.environ, "_LLAVA_COMPLETE": "complete_fish", "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "_TYPER_COMPLETE_ARGS": f"llava {line}",
    }  # fmt: skip
    code = "import sys; sys.argv = ['llava']; from llava_cli.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [offered.partition("\t")[0] for offered in done.stdout.splitlines() if offered]


@pytest.mark.parametrize("before", ["show", "rm shapes", "ask a.png -m"])
def test_names_are_completed(before: str) -> None:
    assert [spec.name for spec in registry.all_specs() if spec.name.startswith("llava-v1.5")] == completed(
        f"{before} llava-v1.5"
    )


def test_quants_are_completed_behind_the_colon() -> None:
    assert ["llava-v1.5-7b:Q5_0", "llava-v1.5-7b:Q5_K_S", "llava-v1.5-7b:Q5_K_M"] == completed(
        "ask a.png --model llava-v1.5-7b:Q5"
    )


def test_a_broken_list_of_models_does_not_disturb_the_line_being_typed() -> None:
    write_own_list("= =")
    assert completed("show llava") == []
