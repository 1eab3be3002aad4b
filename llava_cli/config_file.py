"""Changes one key of the config file, and leaves its comments and everything else as they are."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from llava_cli.errors import UsageError
from llava_cli.private_files import replace_text
from llava_cli.settings import config_path


def write_setting(key: str, value: str) -> Path:
    """Set `key` to a text in the config file and return its path; raise `UsageError` if that cannot be done."""
    path = config_path()
    try:
        before = path.read_bytes().decode() if path.exists() else ""
        after = _changed(before, key, value)
        if after is None:
            hint = f"write it yourself: {key} = {_quoted(value)}"
            raise UsageError(str(path), f"{key} cannot be changed here", hint=hint)
        if after != before:
            replace_text(path, after)
    except (OSError, ValueError, RecursionError) as error:
        why = f"the config file cannot be changed ({error})"
        raise UsageError(str(path), why, hint="llava config --path") from error
    return path


def _changed(text: str, key: str, value: str) -> str | None:
    """Return `text` with the key set, by whichever edit has that effect and no other; None if there is none."""
    wanted = {**tomllib.loads(text), key: value}
    for attempt in _attempts(text, f"{key} = {_quoted(value)}", key):
        try:
            if tomllib.loads(attempt) == wanted:
                return attempt
        except tomllib.TOMLDecodeError:
            continue
    return None


def _attempts(text: str, line: str, key: str) -> Iterator[str]:
    # A line that looks like the key may be part of a long text: only reading the result tells.
    pattern = re.compile(rf"""^[ \t]*["']?{key}["']?[ \t]*=[ \t]*("[^"\n]*"|'[^'\n]*'|true|false)""", re.MULTILINE)
    for found in pattern.finditer(text):
        yield text[: found.start()] + line + text[found.end() :]
    yield f"{text}{'' if text.endswith(chr(10)) or not text else chr(10)}{line}\n"


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
