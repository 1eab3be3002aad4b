"""Facts about changing one key of the config file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from llava_cli import settings
from llava_cli.config_file import write_setting
from llava_cli.errors import UsageError


@pytest.fixture
def config() -> Path:
    path = settings.config_path()
    path.parent.mkdir(parents=True)
    return path


CHANGES = {
    "empty": ("", 'model = "m"\n'),
    "no key": ("# mine\ncontext = 512\n", '# mine\ncontext = 512\nmodel = "m"\n'),
    "no newline": ("context = 512", 'context = 512\nmodel = "m"\n'),
    "a comment behind it": ("model = 'old' # why\nseed = 1\n", 'model = "m" # why\nseed = 1\n'),
    "written otherwise": ('  "model"="old"\n', 'model = "m"\n'),
    "a comment that looks like it": ('# model = "old"\n', '# model = "old"\nmodel = "m"\n'),
    "a text that looks like it": (
        'system = """\nmodel = "x"\n"""\nmodel = "old"\n', 'system = """\nmodel = "x"\n"""\nmodel = "m"\n',
    ),
    "lines of Windows": ('model = "old"\r\nseed = 1\r\n', 'model = "m"\r\nseed = 1\r\n'),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES)
def test_one_key_changes_and_nothing_else(config: Path, before: str, after: str) -> None:
    config.write_bytes(before.encode())
    assert config == write_setting("model", "m")
    assert after == config.read_bytes().decode()


def test_the_file_is_made_if_there_is_none() -> None:
    path = write_setting("model", 'a "quoted" \\ name')
    assert {"model": 'a "quoted" \\ name'} == tomllib.loads(path.read_text())
    assert 0o600 == path.stat().st_mode & 0o777


def test_its_mode_stays_and_a_link_stays_a_link(config: Path, tmp_path: Path) -> None:
    """Many keep their config files elsewhere, under version control."""
    kept = tmp_path / "dotfiles.toml"
    kept.write_text("seed = 1\n")
    kept.chmod(0o644)
    config.symlink_to(kept)
    write_setting("model", "m")
    assert config.is_symlink()
    assert (0o644, 'seed = 1\nmodel = "m"\n') == (kept.stat().st_mode & 0o777, kept.read_text())


@pytest.mark.parametrize("text", ["= =", "model = ["])
def test_a_file_that_makes_no_sense_is_left_alone(config: Path, text: str) -> None:
    config.write_text(text)
    with pytest.raises(UsageError, match="the config file cannot be changed"):
        write_setting("model", "m")
    assert text == config.read_text()


def test_what_cannot_be_changed_safely_is_left_to_its_owner(config: Path) -> None:
    text = 'model = """old\nname"""\n'
    config.write_text(text)
    with pytest.raises(UsageError, match="model cannot be changed here") as caught:
        write_setting("model", "m")
    assert (text, 'write it yourself: model = "m"') == (config.read_text(), caught.value.hint)


def test_a_directory_that_cannot_be_written_to_is_a_usage_error(config: Path) -> None:
    config.parent.rmdir()
    config.parent.write_text("a file")
    with pytest.raises(UsageError, match="the config file cannot be changed"):
        write_setting("model", "m")


def test_every_setting_says_where_it_comes_from(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('model = "shapes"\ncontext = 512\n')
    monkeypatch.setenv("LLAVA_CONTEXT", "1024")
    found = {one.key: (one.value, one.origin) for one in settings.explain()}
    assert ("shapes", str(config)) == found["model"]
    assert (1024, "LLAVA_CONTEXT") == found["context"]
    assert (0.2, "default") == found["temperature"]
    assert (1, "LLAVA_THREADS") == found["threads"]
    assert (None, "default") == found["seed"]
