"""Declares the commands. Every command is one walk through the other rooms and decides nothing itself."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_cli import __version__, settings
from llava_cli.errors import LlavaError, ReaderGone, UsageError
from llava_cli.render import Output, ago, in_bytes

if TYPE_CHECKING:
    from llava_cli.model import Model

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
    context_settings={"help_option_names": ["-h", "--help"]},
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


_LOAD, _SAMPLING = settings.LoadOptions(), settings.Sampling()


@app.command(rich_help_panel="Ask")
def ask(
    picture: Annotated[str, typer.Argument(help="The picture file; - reads one from stdin.", show_default=False)],
    question: Annotated[
        str, typer.Argument(help="What you want to know; - reads it from stdin.")
    ] = settings.DEFAULT_QUESTION,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Which model.", show_default=settings.DEFAULT_MODEL),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--system", "-s", help="System prompt, in place of the one the model was trained with."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature",
            "-t",
            help="How freely to draw; 0: always the likeliest token.",
            show_default=str(_SAMPLING.temperature),
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", "-n", help="Longest answer, in tokens.", show_default=str(_SAMPLING.max_tokens)),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Repeat an answer that was drawn with this seed.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="Draw only from the likeliest tokens that have this share together.",
            show_default=str(_SAMPLING.top_p),
        ),
    ] = None,
    stats: Annotated[bool, typer.Option("--stats", help="Print one line of numbers to stderr.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="No Markdown, colours or moving lines.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No stages and notes on stderr.")] = False,
    model_path: Annotated[
        Path | None, typer.Option(help="A model file (GGUF) on disk.", rich_help_panel="Your own files")
    ] = None,
    projector_path: Annotated[
        Path | None, typer.Option(help="Its projector file (mmproj GGUF).", rich_help_panel="Your own files")
    ] = None,
    prompt_layout: Annotated[
        str,
        typer.Option(
            help="Its prompt layout: llava_v1, mistral_instruct, chatml_direct, llama3 or phi3.",
            rich_help_panel="Your own files",
        ),
    ] = "llava_v1",
    frame: Annotated[
        int, typer.Option(help="Which frame or page of an animation, from 0.", rich_help_panel="Picture")
    ] = 0,
    allow_truncated: Annotated[
        bool,
        typer.Option("--allow-truncated", help="Use what is there of a cut file.", rich_help_panel="Picture"),
    ] = False,
    context: Annotated[
        int | None,
        typer.Option(help="Context window, in tokens.", show_default=str(_LOAD.context), rich_help_panel="Machine"),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(help="CPU threads.", show_default="one per physical core", rich_help_panel="Machine"),
    ] = None,
    cache: Annotated[
        bool,
        typer.Option(
            "--cache/--no-cache",
            help="Keep what was read of the picture on disk, and use what is there.",
            rich_help_panel="Machine",
        ),
    ] = True,
) -> None:
    """Ask one question about one picture.

    llava ask photo.jpg "What is in this picture?"
    """
    if picture == "-" and question == "-":
        raise UsageError("stdin", "it cannot be both the picture and the question")
    question = _from_stdin("question").decode("utf-8", "replace") if question == "-" else question
    if not question.strip():
        raise UsageError("question", "it is empty", hint='say what you want to know: llava ask photo.jpg "…"')
    chosen = settings.resolve(
        {
            "model": model, "system": system, "temperature": temperature, "max_tokens": max_tokens,
            "seed": seed, "top_p": top_p, "context": context, "threads": threads,
        }
    )  # fmt: skip
    with Output(plain=plain, quiet=quiet) as output:
        from llava_cli.pictures import open_picture

        seen = open_picture(
            _from_stdin("picture") if picture == "-" else picture,
            name="stdin" if picture == "-" else None,
            frame=frame,
            allow_truncated=allow_truncated,
        )
        for note in seen.notes:
            output.note(f"{seen.name}: {note}")

        from llava_cli.model import load

        with (
            load(
                chosen.model,
                model_path=model_path,
                projector_path=projector_path,
                prompt_layout=prompt_layout,
                options=chosen.load,
                sampling=chosen.sampling,
                on_stage=output.stage,
                cache=cache,
            ) as opened,
            _ctrl_c_stops(opened),
        ):
            said = opened.notes
            for note in said:
                output.note(note)
            reply = opened.ask(seen, question.strip(), system=chosen.system)
            output.answer(reply)
            if stats:
                output.stats(reply.usage, reply.seed)
            if reply.finish_reason in _CUT_SHORT:
                output.note(_CUT_SHORT[reply.finish_reason])
        # Closing the model keeps the picture for next time, which can fail.
        for note in opened.notes[len(said) :]:
            output.note(note)
        if reply.finish_reason == "stopped":
            raise typer.Exit(130)


_CUT_SHORT = {
    "length": "the answer was cut at its longest length; -n allows more tokens",
    "context": "the context is full, so the answer stops here; --context makes it larger",
}


kept = typer.Typer(context_settings={"help_option_names": ["-h", "--help"]})
app.add_typer(kept, name="cache", rich_help_panel="Memory")


@kept.callback(invoke_without_command=True)
def cache(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Show which pictures are kept on disk, so that the next question about them starts at once.

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


@kept.command()
def clear() -> None:
    """Remove all of them, and say how much room that gives back."""
    from llava_cli.prefix_cache import PrefixCache

    with Output() as output:
        output.write(f"freed {in_bytes(PrefixCache().clear())}\n")


def _from_stdin(what: str) -> bytes:
    if sys.stdin is None or sys.stdin.isatty():
        raise UsageError("stdin", f"nothing to read the {what} from", hint=f"- means the {what} comes through a pipe")
    return sys.stdin.buffer.read()


@contextmanager
def _ctrl_c_stops(model: Model) -> Iterator[None]:
    """Let Ctrl-C stop the answer and keep its text; a second one ends the program as usual."""

    def stop(_signal: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        model.stop()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def main() -> None:
    """Run the command line; the one place that turns errors into messages and exit codes."""
    sys.exit(_run())


def _run() -> int:
    output = Output()
    try:
        return _exit_code(app(standalone_mode=False, prog_name="llava"))
    except typer.Exit as error:
        return error.exit_code
    except ReaderGone as error:
        # Python would complain again while it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return error.exit_code
    except LlavaError as error:
        if os.environ.get("LLAVA_DEBUG"):
            raise
        output.error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        output.end_stage()
        return 130
    except Exception as error:
        if os.environ.get("LLAVA_DEBUG"):
            raise
        if hasattr(error, "format_message"):
            # What typer raises for a command line it cannot parse.
            output.error(UsageError("usage", error.format_message()))
            return 2
        output.error(
            LlavaError(
                "unexpected",
                f"{type(error).__name__}: {error}",
                hint="LLAVA_DEBUG=1 shows where; please report it",
            )
        )
        return 1


def _exit_code(result: object) -> int:
    return result if isinstance(result, int) else 0


if __name__ == "__main__":
    main()
