"""`llava help`: the same as `--help`, and what belongs to no single command."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer

from llava_cli.commands.completion import EXIT_CODES, help_topics
from llava_cli.errors import EXIT_CODES as MEANINGS
from llava_cli.errors import UsageError
from llava_cli.render import Output


def help_(
    typed: typer.Context,
    topic: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[COMMAND]...",
            help=f"A command, such as ask or log show; or {EXIT_CODES}.",
            autocompletion=help_topics,
            show_default="all commands",
        ),
    ] = None,
) -> None:
    """Show how a command is used, or what exit codes mean.

    llava help ask

    llava help exit-codes
    """
    words, root = topic or [], typed.find_root()
    if words == [EXIT_CODES]:
        with Output() as output:
            output.table(("code", "meaning"), MEANINGS.items(), (str, str))
        return
    group: Any = root.command
    for word in words:
        known = getattr(group, "commands", {})
        if word not in known:
            names = [*known, *([EXIT_CODES] if group is root.command else [])]
            close = difflib.get_close_matches(word, names, n=1)
            hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names) or 'none below this one'}"
            raise UsageError("help", f"there is no command {word}", hint=hint)
        group = known[word]
    root.command.main(args=[*words, "--help"], prog_name=root.info_name, standalone_mode=False)
