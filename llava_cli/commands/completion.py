"""What the shell offers for names of models and templates.

It runs at every press of the tab key: nothing heavy is imported.
"""

from __future__ import annotations

import os

from llava_cli.errors import LlavaError

_NAME_BEFORE_COLON = "_LLAVA_NAME_BEFORE_COLON"


def model_names(incomplete: str) -> list[tuple[str, str]]:
    """Offer the models whose names begin like this, each with what it is; behind a colon, the quants."""
    from llava_cli import registry

    try:
        if name := os.environ.get(_NAME_BEFORE_COLON):
            return [(spec.quant, spec.summary) for spec in registry.find_quants(name)]
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


def join_words_of_bash() -> None:
    """Take together what bash takes apart: `name:Q4` comes as three words, and only the last is to be completed."""
    if os.environ.get("_LLAVA_COMPLETE") != "complete_bash":
        return
    words, place = os.environ.get("COMP_WORDS", "").split("\n"), os.environ.get("COMP_CWORD", "")
    if not place.isdecimal() or not 1 < int(place) < len(words):
        return
    at = int(place)
    colon = at if words[at] == ":" else at - 1
    if words[colon] != ":" or colon < 2:
        return
    os.environ[_NAME_BEFORE_COLON] = words[colon - 1]
    begun = "" if colon == at else words[at]
    os.environ["COMP_WORDS"] = "\n".join([*words[: colon - 1], begun])
    os.environ["COMP_CWORD"] = str(colon - 1)
