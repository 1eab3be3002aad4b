"""What the shell offers: models, templates, chats, pictures, files and commands.

It runs at every press of the tab key: nothing heavy is imported.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from llava_cli.errors import LlavaError

EXIT_CODES = "exit-codes"
"""The topic of `llava help` that is no command."""
PICTURE, FILE = "picture", "file"
"""How paths are described; `shell_scripts.py` knows by it which paths a shell is to offer."""
_MOST = 2000
"""Files of a folder that are looked at."""


def model_names(incomplete: str) -> list[tuple[str, str]]:
    """Offer the models whose names begin like this, each with what it is; behind a colon, the quants."""
    from llava_cli import registry

    try:
        if ":" in incomplete:
            name = incomplete.partition(":")[0]
            return [(f"{name}:{spec.quant}", spec.summary) for spec in registry.find_quants(name)]
        return [(spec.name, spec.summary) for spec in registry.all_specs()]
    except LlavaError:
        return []  # said when the command is run; a line being typed is no place for it


def template_names(incomplete: str) -> list[tuple[str, str]]:
    """Offer the templates, each with its question."""
    from llava_cli import templates

    offered = []
    for name in templates.names():
        if name.startswith(incomplete):
            try:
                offered.append((name, templates.find(name).question or ""))
            except LlavaError:
                continue  # said when it is used
    return offered


def chat_names(incomplete: str) -> list[tuple[str, str]]:
    """Offer the chats that have a name, each with its first question."""
    from llava_cli.history import History

    with suppress(LlavaError):
        return [(chat.name, chat.question) for chat in History().chats() if chat.name]
    return []


def picture_files(incomplete: str) -> list[tuple[str, str]]:
    """Offer files that are called like pictures, and folders."""
    from llava_cli.sniffing import SUFFIXES

    return _paths(incomplete, PICTURE, SUFFIXES)


def any_files(incomplete: str) -> list[tuple[str, str]]:
    """Offer all files and folders."""
    return _paths(incomplete, FILE, None)


def help_topics(typed: typer.Context, incomplete: str) -> list[str]:
    """Offer the commands, those below the ones that stand there already, and what else there is help for."""
    group: Any = typed.find_root().command
    words = typed.params.get("topic") or []
    for word in words:
        group = getattr(group, "commands", {}).get(word)
    return [*getattr(group, "commands", {}), *([] if words else [EXIT_CODES])]


def _paths(incomplete: str, what: str, suffixes: Collection[str] | None) -> list[tuple[str, str]]:
    folder, slash, begun = incomplete.rpartition("/")
    found = []
    with suppress(OSError, RuntimeError), os.scandir(Path(folder + slash).expanduser()) as entries:
        for entry in itertools.islice(entries, _MOST):
            if not entry.name.startswith(begun) or (entry.name.startswith(".") and not begun):
                continue
            path = f"{folder}{slash}{entry.name}"
            if not path.isprintable():
                continue  # a name that a terminal would obey must be typed by who wants it
            with suppress(OSError):
                if entry.is_dir():
                    found.append((f"{path}/", what))
                elif suffixes is None or Path(entry.name).suffix.lower() in suffixes:
                    found.append((path, what))
    return sorted(found)
