"""The options that every command has for how it shows what it has to say: declared once, the same everywhere."""

from __future__ import annotations

import functools
import inspect
import os
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Any, get_type_hints

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.errors import UsageError
from llava_cli.look import Look, set_colours, set_look
from llava_cli.render import Output

_COLOURS = ("auto", "always", "never")

Color = Annotated[
    str,
    typer.Option(
        metavar="|".join(_COLOURS),
        help="Colours; auto: on a terminal, unless NO_COLOR is set, or everywhere if FORCE_COLOR is.",
        rich_help_panel=options.LOOK,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Say what was chosen and used, and how long it took; no questions, answers or pictures.",
        rich_help_panel=options.LOOK,
    ),
]
_SHARED: dict[str, tuple[Any, Any]] = {
    "color": (Color, "auto"), "plain": (options.Plain, False), "quiet": (options.Quiet, False),
    "verbose": (Verbose, False),
}  # fmt: skip
_QUIET_WITHOUT_Q = Annotated[
    bool, typer.Option("--quiet", help="No stages and notes on stderr.", rich_help_panel=options.LOOK)
]


def shown(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command those of the options that it does not have itself."""
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    own = [p.replace(annotation=hints[name]) for name, p in signature.parameters.items()]
    missing = {name: shared for name, shared in _SHARED.items() if name not in signature.parameters}
    if "quiet" in missing and any("-q" in _short_names(hint) for hint in hints.values()):
        missing["quiet"] = (_QUIET_WITHOUT_Q, False)
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (annotation, default) in missing.items()
    ]

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        look: dict[str, Any] = {name: given.pop(name) if name in missing else given[name] for name in _SHARED}
        if look["color"] not in _COLOURS:
            raise UsageError("--color", f"must be {', '.join(_COLOURS)}, not {look['color']!r}")
        set_colours(look["color"])
        set_look(Look(look["plain"], look["quiet"], look["verbose"]))
        start = time.monotonic()
        output = Output()
        for fact in _circumstances() if output.verbose else ():
            output.detail(fact)

        def timed(work: Callable[[], Any]) -> Any:
            try:
                return work()
            finally:
                output.detail(f"{time.monotonic() - start:.2f} s in all")

        if not output.verbose:
            return command(**given)
        result = command(**given)
        # What opens llama.cpp is left to be done, in a process of its own.
        return functools.partial(timed, result) if callable(result) else timed(lambda: result)

    by_keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
    run.__signature__ = signature.replace(parameters=[*by_keyword, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*own, *added)}
    del run.__wrapped__  # typer would read the options from there
    return run


def _short_names(hint: Any) -> tuple[str, ...]:
    declared = (getattr(extra, "param_decls", None) or () for extra in getattr(hint, "__metadata__", ()))
    return tuple(name for names in declared for name in names)


def _circumstances() -> Iterator[str]:
    """Yield what decides beside the command line: files and names of variables, and no value of these."""
    path = settings.config_path()
    yield f"config file: {path}" if path.exists() else "config file: none"
    if names := sorted(name for name in os.environ if name.startswith(("LLAVA_", "HF_"))):
        yield f"environment: {', '.join(names)}"
