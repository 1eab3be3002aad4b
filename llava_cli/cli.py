"""Puts the commands together; `main` runs them and is the one place that shows errors."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from typing import Annotated

import typer

from llava_cli import __version__
from llava_cli.commands import cache, log, options, template
from llava_cli.commands.ask import ask
from llava_cli.commands.bench import bench
from llava_cli.commands.chat import chat
from llava_cli.commands.completion import join_words_of_bash
from llava_cli.commands.config import config, use
from llava_cli.commands.doctor import doctor
from llava_cli.commands.models import models, show
from llava_cli.commands.pull import pull
from llava_cli.commands.rm import rm
from llava_cli.commands.run import run
from llava_cli.commands.serve import serve
from llava_cli.commands.verify import verify
from llava_cli.commands.web import web
from llava_cli.errors import LlavaError, ReaderGone, Stopped, UsageError
from llava_cli.render import Output

_EXAMPLES = """\
llava asks LLaVA models about pictures, on this computer.

  llava ask photo.jpg "What is in this picture?"
  echo "How many people are there?" | llava ask photo.jpg -
  llava ask examples/scene.png "What color is the circle?" -m shapes   # built in, no download

Answers go to stdout, everything about them to stderr. All options: llava ask --help
"""

app = typer.Typer(
    add_completion=True,
    no_args_is_help=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings=options.HELP,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        Output().write(f"llava {__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def llava(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Ask questions about pictures on your own computer, with LLaVA on a CPU."""
    if context.invoked_subcommand is None:
        Output().write(_EXAMPLES)


app.command(rich_help_panel="Ask")(ask)
app.command(rich_help_panel="Ask")(chat)
app.command(rich_help_panel="Ask")(run)
app.command(rich_help_panel="Serve")(web)
app.command(rich_help_panel="Serve")(serve)
for about_models in (models, pull, show, rm, verify, use):
    app.command(rich_help_panel="Models")(about_models)
app.add_typer(log.app, name="log", rich_help_panel="Memory")
app.add_typer(cache.app, name="cache", rich_help_panel="Memory")
app.add_typer(template.app, name="template", rich_help_panel="Memory")
for about_the_machine in (doctor, bench, config):
    app.command(rich_help_panel="Machine")(about_the_machine)


def main() -> None:
    """Run the command line; the one place that turns errors into messages and exit codes."""
    sys.exit(_run())


def _run() -> int:
    output = Output()
    join_words_of_bash()
    try:
        return _exit_code(app(standalone_mode=False, prog_name="llava"))
    except typer.Exit as error:
        return error.exit_code
    except ReaderGone as error:
        # Python would complain again while it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return error.exit_code
    except LlavaError as error:
        _show_where(error, output)
        return _show(output, error)
    except (KeyboardInterrupt, typer.Abort):
        output.end_stage()
        return _as_json(output, Stopped("stopped", "by Ctrl-C"))
    except Exception as error:  # noqa: BLE001 - a bug, which is told like everything else
        _show_where(error, output)
        if hasattr(error, "format_message"):
            # What typer raises for a command line it cannot parse.
            return _show(output, UsageError("usage", error.format_message()))
        why = f"{type(error).__name__}: {error}"
        return _show(output, LlavaError("unexpected", why, hint="LLAVA_DEBUG=1 shows where; please report it"))


def _show(output: Output, error: LlavaError) -> int:
    """Show an error and return its exit code."""
    output.error(error)
    return _as_json(output, error)


def _as_json(output: Output, error: LlavaError) -> int:
    """Write the error as the one object that a command with --json writes; return its exit code."""
    words = sys.argv[1:]
    if "--json" in words[: words.index("--") if "--" in words else None]:
        facts = {"what": error.what, "why": error.why, "hint": error.hint or None, "exit_code": error.exit_code}
        with suppress(LlavaError):
            output.write(json.dumps({"error": facts}, indent=2) + "\n")
    return error.exit_code


def _show_where(error: Exception, output: Output) -> None:
    # Not by raising it: Python would show what a server or a file says as it is, control codes and all.
    if os.environ.get("LLAVA_DEBUG"):
        output.traceback(error)


def _exit_code(result: object) -> int:
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
