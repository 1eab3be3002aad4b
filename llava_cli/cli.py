"""Puts the commands together; `main` runs them and is the one place that shows errors."""

from __future__ import annotations

import atexit
import errno
import io
import json
import os
import re
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from llava_cli import __version__
from llava_cli.commands import cache, log, options, template
from llava_cli.commands.ask import ask
from llava_cli.commands.bench import bench
from llava_cli.commands.chat import chat
from llava_cli.commands.config import config, use
from llava_cli.commands.doctor import doctor
from llava_cli.commands.help import help_
from llava_cli.commands.look import shown
from llava_cli.commands.models import models, show
from llava_cli.commands.pull import pull
from llava_cli.commands.rm import rm
from llava_cli.commands.run import run
from llava_cli.commands.serve import serve
from llava_cli.commands.shell_scripts import teach_typer
from llava_cli.commands.verify import verify
from llava_cli.commands.web import web
from llava_cli.errors import LlavaError, NotEnoughRoom, ReaderGone, Stopped, UsageError
from llava_cli.look import forget_look
from llava_cli.render import Output
from llava_cli.standard_output import give_up, guard
from llava_cli.supervision import Work, in_a_child, opens_llama_cpp

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


for about_pictures in (ask, chat, run):
    app.command(rich_help_panel="Ask")(opens_llama_cpp(about_pictures))
for for_others in (web, serve):
    app.command(rich_help_panel="Serve")(opens_llama_cpp(for_others))
for about_models in (models, pull, show, rm, verify, use):
    app.command(rich_help_panel="Models")(about_models)
app.add_typer(log.app, name="log", rich_help_panel="Memory")
app.add_typer(cache.app, name="cache", rich_help_panel="Memory")
app.add_typer(template.app, name="template", rich_help_panel="Memory")
for about_the_machine in (opens_llama_cpp(doctor), opens_llama_cpp(bench), config):
    app.command(rich_help_panel="Machine")(about_the_machine)
app.command("help", rich_help_panel="Machine")(help_)


def _look_the_same(commands: typer.Typer) -> None:
    """Give all commands the same options for how they show what they have to say."""
    for declared in (*commands.registered_commands, commands.registered_callback):
        if declared is not None and declared.callback not in (None, llava):
            declared.callback = shown(declared.callback)
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _look_the_same(group.typer_instance)


_look_the_same(app)


def main() -> None:
    """Run the command line; the one place that turns errors into messages and exit codes."""
    _prepare_streams()
    guard()
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    code = _run(in_a_child)
    try:
        sys.stdout.flush()
    except LlavaError as error:
        give_up()
        code = code or error.exit_code
    _leave(code)


def _prepare_streams() -> None:
    """Let no stream that is closed, or knows few letters, cost an answer or a file."""
    # A file that is opened later must not get the number of a closed stream: libraries write their complaints there.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(descriptor)
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _run(have_done: Callable[[Work], Any] = lambda work: work()) -> int:
    """Run the command line, having done elsewhere what opens llama.cpp, and return the exit code."""
    forget_look()
    output = Output()
    if any("completion" in word for word in sys.argv[1:]):
        teach_typer()
    try:
        result = app(standalone_mode=False, prog_name="llava")
        return _exit_code(have_done(result) if callable(result) else result)
    except typer.Exit as error:
        return error.exit_code
    except ReaderGone as error:
        give_up()
        return error.exit_code
    except SystemExit as error:
        # So typer ends when the reader of its help has left.
        if error.code != 1:
            raise
        return ReaderGone.exit_code
    except (KeyboardInterrupt, typer.Abort):
        output.end_stage()
        return _as_json(output, Stopped("stopped", "by Ctrl-C"))
    except Exception as error:  # noqa: BLE001 - a bug, which is told like everything else
        _show_where(error, output)
        if hasattr(error, "format_message") and not error.format_message():
            return 2  # a group of commands alone has shown its help
        return _show(output, _in_our_words(error))


def _in_our_words(error: Exception) -> LlavaError:
    if isinstance(error, LlavaError):
        return error
    if hasattr(error, "format_message"):
        # What typer raises for a command line it cannot parse.
        return _usage_error(error)
    if isinstance(error, MemoryError):
        why = f"there is not enough of it ({error})" if str(error) else "there is not enough of it"
        return NotEnoughRoom("memory", why, hint="llava doctor says what a model takes, and what there is")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
        # typer writes the help by itself.
        return LlavaError("standard output", str(error.strerror).lower())
    hint = "LLAVA_DEBUG=1 shows where; please report it"
    return LlavaError("unexpected", f"{type(error).__name__}: {error}", hint=hint)


def _usage_error(error: Any) -> UsageError:
    """Say what typer says of a command line, and how the command is used."""
    path = error.ctx.command_path if getattr(error, "ctx", None) is not None else "llava"
    if re.fullmatch("-[^-]", getattr(error, "option_name", "")):
        hint = f"a file of such a name is ./{error.option_name}…, other words go behind --; {path} --help"
        return UsageError("usage", error.message.rstrip("."), hint=hint)
    if possible := getattr(error, "possibilities", None):
        hint = f"did you mean {' or '.join(sorted(possible))}? {path} --help shows all"
        return UsageError("usage", error.message.rstrip("."), hint=hint)
    return UsageError("usage", error.format_message().rstrip("."), hint=f"{path} --help")


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


def _leave(code: int) -> NoReturn:
    """End this process without taking Python apart, which takes 40 ms, and twice that where there are two."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # What mattered was written and flushed before, or was an error then.
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _exit_code(result: object) -> int:
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
