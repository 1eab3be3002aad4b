"""The only home of every default. A value comes from a flag, else the environment, else the config file,
else from here.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import platformdirs

from llava_cli.errors import UsageError

DEFAULT_MODEL = "llava-v1.5-7b"
DEFAULT_QUESTION = "Describe this picture."
APP = "llava"
PROJECTOR_QUANTS = ("original", "q8_0")

ROOM_FOR_WORDS = 1024
"""Cells that a context window of no set size has at least beside the model's largest picture."""

Detail = Literal["low", "high"]


def require_detail(detail: object) -> None:
    """Raise `UsageError` unless `detail` is a `Detail`."""
    if detail not in get_args(Detail):
        raise UsageError("detail", f"must be {' or '.join(get_args(Detail))}, not {detail!r:.80}")


Kv = Literal["f16", "q8_0"]


class ByteSize(int):
    """A number of bytes, also written as 2 GiB, 500 MB or 1.5G."""

    def __new__(cls, text: str) -> ByteSize:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?(?:([kmgt])(i?b)?|b)?", text.strip(), flags=re.IGNORECASE)
        if found is None:
            raise ValueError(text)
        number, prefix, rest = found.groups()
        base = 1000 if (rest or "").lower() == "b" else 1024
        return super().__new__(cls, float(number) * base ** (" kmgt".index((prefix or " ").lower())))


@dataclass(frozen=True)
class LoadOptions:
    """How a model is opened. The defaults are measured for a 7B model on a CPU (benchmarks, engine notes)."""

    context: int = 0
    """Cells of the context window: tokens and picture tokens together. Costs 512 KiB each on a 7B model.
    0: room for the model's largest picture and `ROOM_FOR_WORDS`; so 2048 for LLaVA-1.5, 4096 for LLaVA-1.6."""
    pictures: int = 1
    """How many such pictures a window of no set size has room for."""
    detail: Detail = "high"
    """How closely a LLaVA-1.6 looks at pictures that do not say: `low` is the overview alone. Others have one look."""
    threads: int = 0
    """CPU threads; 0 means one per physical core."""
    ubatch: int = 0
    """Cells evaluated in one go; 0: enough for a whole picture, 640 for LLaVA-1.5 with its 576."""
    flash_attention: bool | None = None
    """A faster way to compute attention, in less memory. None: what is best here, which so far is on."""
    repack: bool | None = None
    """Copy the weights into a CPU-friendly layout while loading. Off: mmap keeps loading at half a second,
    and on x86 this llama.cpp reads prompts faster without it. None: what `policy.choose` finds best here."""
    kv: Kv = "f16"
    """How numbers stand in the context window; q8_0 takes half the memory, and writes more slowly."""
    memory_check: bool = True
    """Refuse a model that does not fit into memory, before anything is loaded."""
    projector_quant: str = "original"
    """How the projector's matrices are stored: `original`, or `q8_0`: half the memory, cosine 0.9993 at worst to
    the features of an f16 file (measured on the tiny models of the tests and on `shapes`)."""
    cache_size: int = 2 * 1024**3
    """Bytes on disk for pictures that were read, all models together, and never more than a tenth of the free disk.
    Of a 7B model a picture takes 9 MB, and each prompt it was read with 325 MB. 0: nothing is kept."""

    def __post_init__(self) -> None:
        # llama.cpp takes numbers of 32 bits, and aborts over threads it cannot have.
        _within("context", self.context, 64 if self.context else 0, 2**31 - 1)
        _within("pictures", self.pictures, 1, 2**16)
        require_detail(self.detail)
        _within("threads", self.threads, 0, 512)
        _within("ubatch", self.ubatch, 32 if self.ubatch else 0, 2**16)
        _within("cache size", self.cache_size, 0, 2**63 - 1)
        if self.kv not in get_args(Kv):
            raise UsageError("kv", f"must be {' or '.join(get_args(Kv))}, not {self.kv!r:.80}")
        if self.projector_quant not in PROJECTOR_QUANTS:
            why = f"must be {' or '.join(PROJECTOR_QUANTS)}, not {self.projector_quant:.80}"
            raise UsageError("projector quant", why, hint="q8_0 takes half the memory")


@dataclass(frozen=True)
class Sampling:
    """How the answer is written. Temperature and length are the defaults of LLaVA's own command line."""

    temperature: float = 0.2
    max_tokens: int = 512
    seed: int | None = None
    """None: a new random seed per reply (the reply says which)."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    loop_guard: bool = True
    """End an answer that has repeated the same few words for 128 tokens."""

    def __post_init__(self) -> None:
        if not math.isfinite(self.temperature) or self.temperature < 0:
            raise UsageError("temperature", f"must be 0 or more, not {self.temperature}")
        _within("max tokens", self.max_tokens, 1, 2**31 - 1)
        _within("seed", self.seed or 0, 0, 2**32 - 2)
        if not 0 < self.top_p <= 1:
            raise UsageError("top p", f"must be above 0 and at most 1, not {self.top_p}")
        _within("top k", self.top_k, 0, 2**31 - 1)
        if not 0 <= self.min_p <= 1:
            raise UsageError("min p", f"must be between 0 and 1, not {self.min_p}")
        if not 0 < self.repeat_penalty < math.inf:
            raise UsageError("repeat penalty", f"must be above 0, not {self.repeat_penalty}")


@dataclass(frozen=True)
class ChatOptions:
    """How `llava chat` looks and feels."""

    preview: str = "auto"
    """How a picture is shown in the terminal: auto, kitty, sixel, blocks or off."""
    keys: str = "emacs"
    """Which keys edit a line: emacs or vi."""

    def __post_init__(self) -> None:
        _one_of("preview", self.preview, ("auto", "kitty", "sixel", "blocks", "off"))
        _one_of("keys", self.keys, ("emacs", "vi"))


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(name, f"must be one of {', '.join(known)}, not {value!r:.80}")


def _within(name: str, value: int, least: int, most: int) -> None:
    if least <= value <= most:
        return
    limit = f"{least} or more" if value < least else f"{most} or less"
    # What has no end is not written out.
    raise UsageError(name, f"must be {limit}, not {value if abs(value) < 2**64 else 'a number of so many digits'}")


@dataclass(frozen=True)
class Settings:
    """Everything a command line, the environment and the config file decide together."""

    model: str = DEFAULT_MODEL
    system: str | None = None
    """None: the system sentence of the model's own prompt layout."""
    log: bool = True
    """Write questions and answers down in the log."""
    endpoint: str = ""
    """The address of an OpenAI-compatible server that answers instead of this computer; empty: none."""
    api_key_env: str = ""
    """The variable of the environment that holds the key for it; a key itself is never written down."""
    max_megapixels: int = 0
    """The largest picture that is decoded, in millions of pixels; 0: 40, and what 500 MB of memory decode."""
    load: LoadOptions = field(default_factory=LoadOptions)
    sampling: Sampling = field(default_factory=Sampling)
    chat: ChatOptions = field(default_factory=ChatOptions)

    def __post_init__(self) -> None:
        _within("max megapixels", self.max_megapixels, 0, 1000)


_TOP = ("model", "system", "log", "endpoint", "api_key_env", "max_megapixels")
"""The keys that are fields of `Settings` itself."""

_TYPES: dict[str, type] = {
    "model": str, "system": str, "log": bool, "endpoint": str, "api_key_env": str,
    "max_megapixels": int,
    "context": int, "detail": str, "threads": int, "ubatch": int, "flash_attention": bool, "repack": bool,
    "kv": str, "memory_check": bool, "projector_quant": str, "cache_size": ByteSize,
    "temperature": float, "max_tokens": int, "seed": int,
    "top_p": float, "top_k": int, "min_p": float, "repeat_penalty": float, "loop_guard": bool,
    "preview": str, "keys": str,
}  # fmt: skip
"""The keys of the config file; `LLAVA_` and the key in capitals is the variable of the environment."""


@dataclass(frozen=True)
class Setting:
    """One key of the config file: its value now, and who decided it."""

    key: str
    value: object
    origin: str
    """`default`, the config file, or a variable of the environment."""


def resolve(flags: Mapping[str, object]) -> Settings:
    """Decide every setting: `flags` (None means not given) before `LLAVA_*` before the config file."""
    values: dict[str, Any] = {**_from_config(), **_from_environment()}
    values.update({key: value for key, value in flags.items() if value is not None})

    def given(kind: type) -> dict[str, Any]:
        return {f.name: values[f.name] for f in fields(kind) if f.name in values}

    top = {key: values[key] for key in _TOP if key in values}
    return Settings(
        **top,
        load=LoadOptions(**given(LoadOptions)),
        sampling=Sampling(**given(Sampling)),
        chat=ChatOptions(**given(ChatOptions)),
    )


def changed(sampling: Sampling, key: str, text: str) -> Sampling:
    """Return `sampling` with one field set to what `text` says; `none` gives a seed back to chance."""
    known = [f.name for f in fields(Sampling)]
    if key not in known:
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}"
        raise UsageError(key, "there is no such setting", hint=hint)
    value: Any = None if key == "seed" and text == "none" else _convert(text, _TYPES[key], key)
    return replace(sampling, **{key: value})


def explain() -> list[Setting]:
    """Return every setting as it is without flags, and where its value comes from."""
    chosen = resolve({})
    top = {key: getattr(chosen, key) for key in _TOP}
    values = {**top, **vars(chosen.load), **vars(chosen.sampling), **vars(chosen.chat)}
    origins = dict.fromkeys(_from_config(), str(config_path()))
    origins |= {key: _variable(key) for key in _from_environment()}
    return [Setting(key, values[key], origins.get(key, "default")) for key in _TYPES]


def _from_environment() -> dict[str, object]:
    found: dict[str, object] = {}
    for key, kind in _TYPES.items():
        text = os.environ.get(_variable(key))
        if text:
            found[key] = _convert(text, kind, f"{_variable(key)} in the environment")
    return found


def _variable(key: str) -> str:
    return f"LLAVA_{key.upper()}"


def _from_config() -> dict[str, object]:
    path = config_path()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, RecursionError) as error:
        hint = "mend that line, or move the file away"
        raise UsageError(str(path), f"the config file cannot be read ({error})", hint=hint) from error
    for key in table:
        if key not in _TYPES:
            close = difflib.get_close_matches(key, _TYPES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known keys: {', '.join(_TYPES)}"
            raise UsageError(str(path), f"unknown key {key!r:.80}", hint=hint)
    return {key: _convert(value, _TYPES[key], f"{key} in {path}") for key, value in table.items()}


def _convert(value: object, kind: type, where: str) -> object:
    if kind is bool and str(value).lower() in _BOOLEANS:
        return _BOOLEANS[str(value).lower()]
    if kind is str and isinstance(value, str):
        return value
    if kind in (int, float, ByteSize) and isinstance(value, str | int | float) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return kind(str(value))
    expected = "a size such as 2 GiB" if kind is ByteSize else kind.__name__
    raise UsageError(where, f"expected {expected}, not {value!r:.80}", hint="give another value, or leave it out")


_BOOLEANS = {
    "true": True,
    "1": True,
    "yes": True,
    "on": True,
    "false": False,
    "0": False,
    "no": False,
    "off": False,
}


def config_path() -> Path:
    """Name the config file, whether it exists or not."""
    return Path(platformdirs.user_config_dir(APP, appauthor=False)) / "config.toml"


def cache_dir() -> Path:
    """Name the directory for what can be made again."""
    return Path(os.environ.get("LLAVA_CACHE") or platformdirs.user_cache_dir(APP, appauthor=False))


def data_dir() -> Path:
    """Name the directory for what is this user's own and cannot be made again."""
    return Path(platformdirs.user_data_dir(APP, appauthor=False))
