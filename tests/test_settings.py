"""Facts about where a setting comes from."""

import pytest

from llava_cli import settings
from llava_cli.errors import UsageError


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Let the config file be a file of the test."""
    path = tmp_path / "config.toml"
    monkeypatch.setattr(settings, "config_path", lambda: path)
    return path


def test_a_flag_beats_the_environment_and_the_environment_beats_the_file(config, monkeypatch):
    config.write_text("temperature = 0.5\nmax_tokens = 10\ncontext = 1024\n")
    monkeypatch.setenv("LLAVA_MAX_TOKENS", "20")
    monkeypatch.setenv("LLAVA_CONTEXT", "3072")
    chosen = settings.resolve({"context": 4096, "seed": None})
    assert (chosen.sampling.temperature, chosen.sampling.max_tokens, chosen.load.context) == (0.5, 20, 4096)


def test_without_any_of_them_the_defaults_hold(config, monkeypatch):
    monkeypatch.delenv("LLAVA_THREADS")
    assert settings.resolve({}) == settings.Settings()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("temprature = 1", "unknown key 'temprature'"),
        ("temperature = 'warm'", "expected float, not 'warm'"),
        ("temperature = true", "expected float, not True"),
        ("context = 2048.5", "expected int, not 2048.5"),
        ("model = 3", "expected str, not 3"),
        ("flash_attention = 'perhaps'", "expected bool, not 'perhaps'"),
        ("cache_size = 'much'", "expected a size such as 2 GiB, not 'much'"),
        ("cache_size = '-1 GB'", "expected a size such as 2 GiB"),
        (f"cache_size = '{'9' * 400} GiB'", "expected a size such as 2 GiB, not '9{79}$"),
        (f"preview = '{'x' * 900}'", "must be one of auto, .*, not 'x{79}$"),
        (f"context = {'9' * 5000}", "the config file cannot be read"),
        (f"model = {'[' * 5000}", "the config file cannot be read"),
        ("= =", "the config file cannot be read"),
    ],
)
def test_a_config_file_that_makes_no_sense_is_a_usage_error(config, text, words):
    config.write_text(text)
    with pytest.raises(UsageError, match=words):
        settings.resolve({})


@pytest.mark.parametrize(
    "flags",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"seed": -1},
        {"seed": 2**32 - 1},
        {"context": 8},
        {"threads": -1},
        {"context": 2**31},
        {"threads": 513},
        {"ubatch": 2**16 + 1},
        {"cache_size": 2**63},
        {"max_tokens": 2**31},
        {"top_k": 2**31},
        {"context": 10**4000},
        {"min_p": float("nan")},
        {"repeat_penalty": float("inf")},
    ],
)
def test_a_value_out_of_range_is_a_usage_error(config, flags):
    with pytest.raises(UsageError, match="must be"):
        settings.resolve(flags)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (2 * 1024**3, "'2 GiB'"),
        (500_000_000, "'500 MB'"),
        (1536 * 1024**2, "'1.5G'"),
        (64 * 1024, "'64kib'"),
        (7, "'7 B'"),
        (0, "0"),
        (123456, "123456"),
    ],
)
def test_a_size_is_bytes_or_words(config, size, text):
    config.write_text(f"cache_size = {text}")
    assert size == settings.resolve({}).load.cache_size


def test_the_cache_size_can_come_from_the_environment(config, monkeypatch):
    monkeypatch.setenv("LLAVA_CACHE_SIZE", "10 MB")
    assert 10_000_000 == settings.resolve({}).load.cache_size


def test_switches_can_be_set_by_words(config, monkeypatch):
    monkeypatch.setenv("LLAVA_REPACK", "yes")
    config.write_text("flash_attention = false")
    chosen = settings.resolve({}).load
    assert (chosen.repack, chosen.flash_attention) == (True, False)
