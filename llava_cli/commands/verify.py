"""`llava verify`: are the files of the models what they should be?"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_cli.amounts import in_bytes
from llava_cli.commands import options
from llava_cli.errors import ModelMissing, ModelUnusable
from llava_cli.render import Output

if TYPE_CHECKING:
    from llava_cli.inventory import Holding
    from llava_cli.verification import Verdict


def verify(
    models: options.ModelNamesOrAll = None,
    again: Annotated[
        bool, typer.Option("--again", help="Read files, too, that were read before and did not change since.")
    ] = False,
) -> None:
    """Check the files of models on this computer against their published sha256; of all models if none is named.

    llava verify

    llava verify llava-v1.5-7b

    Where none is published, the hub's own, which the cache keeps, is taken, and otherwise the structure of the file.
    In a pipe: model, file and result, with tabs between.
    """
    from llava_cli.verification import verify as check_files

    verdicts: dict[Path, tuple[str, Verdict]] = {}
    with Output() as output:

        def reading(path: Path) -> None:
            output.busy(f"reading {path.name} ({in_bytes(path.stat().st_size)})")

        for one in _on_disk(models):
            # A projector that several quants share is read once, and told of once unless it does not fit one of them.
            for verdict in check_files(one, anew=lambda path: again and path not in verdicts, on_reading=reading):
                if verdict.path not in verdicts or not verdict.sound:
                    verdicts[verdict.path] = one.spec.full_name, verdict
        output.end_stage()
        results = ((name, path.name, verdict.result) for path, (name, verdict) in verdicts.items())
        rows = [(name, file, _shortened(result) if output.rich else result) for name, file, result in results]
        output.table(("model", "file", "result"), rows, (str, str, str))
    bad = [verdict for _, verdict in verdicts.values() if not verdict.sound]
    if bad:
        count = f" ({len(bad)} files in all)" if len(bad) > 1 else ""
        raise ModelUnusable(bad[0].path.name, f"{bad[0].result}{count}", hint=bad[0].hint)


def _shortened(text: str) -> str:
    """Leave of each sha256 what tells it from others."""
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1…", text)


def _on_disk(names: list[str] | None) -> Iterator[Holding]:
    """Yield what is there of the models called `names`, or of all; raise `ModelMissing` for a name without files."""
    from llava_cli import inventory, registry

    for name in names or [spec.name for spec in registry.all_specs()]:
        there = [one for one in map(inventory.look_up, registry.find_quants(name)) if one.model is not None]
        if names and not there:
            raise ModelMissing(name, "not on this computer", hint="llava models shows what is")
        yield from there
