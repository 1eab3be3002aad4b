"""`llava doctor`: what works on this computer, and how well."""

from __future__ import annotations

from typing import Annotated

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.fidelity import check_fidelity
from llava_cli.errors import UsageError
from llava_cli.render import Output


def doctor(
    fidelity: Annotated[
        bool, typer.Option("--fidelity", help="Compare the picture features with the authors' computation, in NumPy.")
    ] = False,
    model: options.Model = None,
    model_path: options.ModelPath = None,
    projector_path: options.ProjectorPath = None,
    threads: options.Threads = None,
    quiet: options.Quiet = False,
) -> None:
    """Check what works on this computer.

    llava doctor --fidelity -m shapes
    """
    if not fidelity:
        raise UsageError("doctor", "nothing was asked of it", hint="llava doctor --fidelity")
    chosen = settings.resolve({"model": model, "threads": threads})
    with Output(quiet=quiet) as output:
        check_fidelity(output, chosen.model, chosen.load, model_path, projector_path)
