"""Tells what `llava run` is to ask about what, from its arguments and what comes through stdin."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from llava_cli import settings
from llava_cli.commands.streams import read_stdin
from llava_cli.errors import UsageError

if TYPE_CHECKING:
    from llava_cli.folders import Search
    from llava_cli.tasks import Asked, Fields


def read_arguments(
    arguments: list[str], ask: str | None, kept: str | None, *, null: bool, fields: Fields, search: Search
) -> Asked:
    """Tell pictures and question apart, and take what comes through stdin; `kept` is the question of a template."""
    from llava_cli.folders import is_missing, is_picture, listed
    from llava_cli.pictures import shown
    from llava_cli.sources import names_picture, open_source
    from llava_cli.tasks import Asked, is_row_file, read_questions

    if not arguments:
        hint = f'llava run photos/ "{settings.DEFAULT_QUESTION}"'
        raise UsageError("usage", "Missing argument 'PICTURES'.", hint=hint)
    sources, last = list(arguments), arguments[-1]
    questions: tuple[str, ...] = () if kept is None else (kept,)
    if len(sources) > 1 and last != "-" and not names_picture(last):
        if ask is not None:
            raise UsageError("--ask", "there is a question on the command line, too", hint="leave one of them out")
        questions = (sources.pop().strip(),)
    elif ask is None and os.path.isfile(last) and not (is_row_file(last) or is_picture(last)):  # noqa: PTH113
        hint = "questions in a file are asked with --ask FILE"
        raise UsageError(shown(last), "it is neither a picture nor a question", hint=hint)
    if questions == ("",):
        raise UsageError("question", "it is empty", hint='say what you want to know: llava run photos/ "…"')
    if all(one != "-" and is_missing(one) and not is_row_file(one) for one in sources):
        # A misspelt folder is no picture that failed: whatever comes of it is not worth a line.
        open_source(sources[0])
    if sources.count("-") + (ask == "-") > 1:
        raise UsageError("stdin", "it can be read once only", hint="- is one list of names, or the questions")
    if null and "-" not in sources:
        raise UsageError("--null", "it is about the names on stdin", hint="give - for them: … | llava run -0 - …")
    if ask is not None:
        questions = read_questions(read_stdin("questions") if ask == "-" else _read(Path(ask)))
    names = listed(read_stdin("list of pictures"), null=null) if "-" in sources else []
    return Asked(sources, names, questions, fields, search)


def _read(path: Path) -> bytes:
    from llava_cli.pictures import shown

    try:
        return path.read_bytes()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(shown(str(path)), why, hint="--ask names a file of questions, one on a line") from error
