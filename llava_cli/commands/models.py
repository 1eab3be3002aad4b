"""`llava models` and `llava show`: which models there are, and all about one."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from llava_cli import settings
from llava_cli.amounts import in_bytes
from llava_cli.commands import options
from llava_cli.errors import ModelMissing
from llava_cli.render import Output


def models(as_json: options.Json = False) -> None:
    """Show which models there are, what they need, and which are on this computer.

    llava models

    llava models --json | jq -r ".[].name"

    Sizes are those of the quant on disk, or else of the one that fits this computer; llava show NAME has the others.
    In a pipe: the same with tabs between, sizes in bytes.
    """
    from llava_cli import inventory, model_facts, registry

    with Output() as output:
        default = _default()
        rows = []
        for spec in registry.all_specs():
            quants = inventory.all_quants(spec)
            rows.append((inventory.choose_quant(quants, spec.quant), inventory.complete(quants)))
        if as_json:
            about = [{**model_facts.facts(*row), "default": row[0].spec.name == default} for row in rows]
            output.write(json.dumps(about, indent=2) + "\n")
            return
        table = [model_facts.row(*row) for row in rows]
        if output.rich:
            table = [tuple("?" if value == model_facts.UNKNOWN else value for value in row) for row in table]
        output.table(model_facts.TITLES, table, (str, str, _size, str, str, str, str))
        if output.rich:
            output.note(f"default: {default} (llava use NAME changes it); ?: not published")


def show(
    model: options.ModelName,
    path: Annotated[bool, typer.Option("--path", help="Print only where its two files are.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show all that is known about a model.

    llava show llava-v1.5-7b:Q4_K_M

    llava show shapes --path
    """
    from llava_cli import inventory, model_facts
    from llava_cli.weights import find_weights

    with Output() as output:
        chosen = inventory.choose(model)
        if path:
            weights = find_weights(chosen.spec)
            output.write(f"{weights.model}\n{weights.projector}\n")
        elif as_json:
            there = inventory.complete(inventory.all_quants(chosen.spec))
            output.write(json.dumps(model_facts.facts(chosen, there), indent=2) + "\n")
        else:
            output.table(("", ""), model_facts.about(chosen), (str, str))


def _default() -> str:
    from llava_cli import registry

    named = settings.resolve({}).model
    try:
        return registry.find(named).name
    except ModelMissing:
        return named  # said when it is asked


def _size(size: Any) -> str:
    return size if isinstance(size, str) else in_bytes(size)
