"""`llava cache`: what was read of pictures and is kept on disk."""

from __future__ import annotations

import json
import time
from dataclasses import asdict

import typer

from llava_cli.amounts import ago, in_bytes
from llava_cli.commands import options
from llava_cli.render import Output

app = typer.Typer(context_settings=options.HELP)


@app.callback(invoke_without_command=True)
def cache(context: typer.Context, as_json: options.Json = False) -> None:
    """Show which pictures are kept on disk, so that the next question about them starts at once.

    llava cache

    llava cache clear

    In a pipe: name, bytes and seconds since it was last used, with tabs between.
    """
    if context.invoked_subcommand is not None:
        return
    from llava_cli.prefix_cache import PrefixCache

    with Output() as output:
        disk = PrefixCache()
        pictures = disk.pictures()
        for note in disk.notes or ([] if pictures else ["no picture is kept yet"]):
            output.note(note)
        if as_json:
            output.write(json.dumps([asdict(picture) for picture in pictures], indent=2) + "\n")
        elif pictures:
            now = time.time()
            rows = [(picture.name, picture.size, max(0, round(now - picture.used))) for picture in pictures]
            output.table(("picture", "size", "last used"), rows, (str, in_bytes, ago))
            if output.rich and (openings := disk.openings_size()):
                output.note(f"and {in_bytes(openings)} for system prompts, which stand in front of every picture")


@app.command()
def clear() -> None:
    """Remove all of them, and say how much room that gives back.

    llava cache clear
    """
    from llava_cli.prefix_cache import PrefixCache

    with Output() as output:
        output.write(f"freed {in_bytes(PrefixCache().clear())}\n")
