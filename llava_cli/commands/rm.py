"""`llava rm`: give back the disk that models take."""

from __future__ import annotations

from typing import Annotated

import typer

from llava_cli.amounts import in_bytes
from llava_cli.commands import options
from llava_cli.errors import ModelMissing, UsageError
from llava_cli.render import Output


def rm(
    models: options.ModelNames,
    yes: options.Yes = False,
    all_revisions: Annotated[
        bool, typer.Option("--all-revisions", help="Also from revisions in the cache that other programs may use.")
    ] = False,
) -> None:
    """Remove models from this computer: NAME in all its quants, or NAME:QUANT.

    llava rm llava-v1.5-7b:Q4_K_M

    What another model or another revision in the Hugging Face cache uses stays, and it says so.
    """
    from llava_cli import removal

    with Output() as output:
        plan = removal.plan_removal(models, all_revisions=all_revisions)
        for name, why in plan.kept:
            output.note(f"{name} stays: {why}")
        if not plan.rows():
            raise ModelMissing(", ".join(models), "there is nothing of it to remove", hint="llava models")
        if not yes:
            output.table(("goes", "frees"), plan.rows(), (str, in_bytes))
            agreed = output.confirm(f"Remove this and free {in_bytes(plan.size)}?", default=False)
            if agreed is None:
                raise UsageError("rm", "there is no terminal to ask on", hint="--yes removes without asking")
            if not agreed:
                output.note("nothing was removed")
                raise typer.Exit(130)
        output.write(f"freed {in_bytes(removal.remove(plan))}\n")
