"""`llava ask`: one question about one picture."""

from __future__ import annotations

import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.pull import offer
from llava_cli.commands.streams import read_stdin
from llava_cli.errors import UsageError
from llava_cli.render import Output
from llava_cli.stopping import ctrl_c_stops

if TYPE_CHECKING:
    from llava_cli.history import History, Turn


def ask(
    picture: Annotated[
        str | None,
        typer.Argument(
            help="The picture: a file, an http(s) address, clip: (the clipboard) or - (stdin). Not needed with -c.",
            show_default=False,
        ),
    ] = None,
    question: Annotated[
        str | None,
        typer.Argument(help="What you want to know; - reads it from stdin.", show_default=settings.DEFAULT_QUESTION),
    ] = None,
    go_on: options.GoOn = False,
    model: options.Model = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    top_p: options.TopP = None,
    log: options.Log = None,
    stats: options.Stats = False,
    plain: options.Plain = False,
    quiet: options.Quiet = False,
    yes: options.Yes = False,
    model_path: options.ModelPath = None,
    projector_path: options.ProjectorPath = None,
    prompt_layout: options.PromptLayout = None,
    detail: options.Detail = None,
    frame: options.Frame = 0,
    allow_truncated: options.AllowTruncated = False,
    context: options.Context = None,
    threads: options.Threads = None,
    ubatch: options.Ubatch = None,
    flash_attention: options.FlashAttention = None,
    repack: options.Repack = None,
    kv: options.KvType = None,
    memory_check: options.MemoryCheck = None,
    cache: options.Cache = True,
) -> None:
    """Ask one question about one picture.

    llava ask photo.jpg "What is in this picture?"

    llava ask -c "And what is behind it?"
    """
    picture, question = _arguments(picture, question, go_on)
    question = read_stdin("question").decode("utf-8", "replace") if question == "-" else question
    if not question.strip():
        raise UsageError("question", "it is empty", hint='say what you want to know: llava ask photo.jpg "…"')
    chosen = settings.resolve(
        {
            "model": model, "system": system, "temperature": temperature, "max_tokens": max_tokens,
            "seed": seed, "top_p": top_p, "detail": detail, "context": context, "threads": threads,
            "ubatch": ubatch, "flash_attention": flash_attention, "repack": repack, "kv": kv,
            "memory_check": memory_check, "log": log,
        }
    )  # fmt: skip
    with Output(plain=plain, quiet=quiet) as output:
        from llava_cli.sources import open_source

        seen = [] if picture is None else [
            open_source(
                picture, stdin=partial(read_stdin, "picture"), frame=frame, allow_truncated=allow_truncated
            )
        ]  # fmt: skip
        for note in (f"{one.name}: {note}" for one in seen for note in one.notes):
            output.note(note)

        from llava_cli.history import History, messages_of, turn_asked, turn_of
        from llava_cli.model import load

        history = History(recording=chosen.log)
        past = _last_turns(history) if go_on else []
        known = {one.sha256 for turn in past for one in turn.pictures}
        new = [one for one in seen if one.sha256 not in known]
        which: dict[str, Any] = {
            "name": chosen.model, "model_path": model_path, "projector_path": projector_path,
            "prompt_layout": prompt_layout,
        }  # fmt: skip
        if past and (model, model_path, projector_path) == (None, None, None):
            which = past[-1].load_arguments()
        if past and system is None:
            chosen = replace(chosen, system=past[-1].system)
        if which.get("model_path") is None and which.get("projector_path") is None:
            offer(which["name"], chosen, output, yes=yes)
        with (
            load(**which, options=chosen.load, sampling=chosen.sampling, on_stage=output.stage, cache=cache) as opened,
            ctrl_c_stops(opened),
        ):
            said = opened.notes
            for note in said:
                output.note(note)
            chat = opened.chat(system=chosen.system, messages=messages_of(past, seen))
            after = {"chat": past[-1].chat, "after": past[-1].id} if past else {}
            history.announce(turn_asked(opened, chosen.sampling, question.strip(), new, system=chosen.system), **after)
            reply = chat.send(question.strip(), picture=new)
            try:
                output.answer(reply)
            finally:
                # What was written is remembered, even if its reader has left.
                reply.close()
                turn = turn_of(reply, opened, question.strip(), new, system=chosen.system)
                history.record(turn, **after)
            if stats:
                output.stats(reply.usage, reply.seed)
                output.opened(opened.options)
            if reply.finish_reason in _CUT_SHORT:
                output.note(_CUT_SHORT[reply.finish_reason])
        # Closing the model keeps the picture for next time, which can fail.
        for note in (*history.notes, *opened.notes[len(said) :]):
            output.note(note)
        if reply.finish_reason == "stopped":
            raise typer.Exit(130)


def _arguments(picture: str | None, question: str | None, go_on: bool) -> tuple[str | None, str]:
    """Tell the two apart: the one argument that goes on with a chat is the question."""
    if picture is None:
        raise UsageError("usage", f"Missing argument '{'QUESTION' if go_on else 'PICTURE'}'.")
    if go_on and question is None:
        question, picture = picture, None
        if Path(question).is_file():
            hint = f'llava ask -c {shlex.quote(question)} "…"'
            raise UsageError(question, "that is a file, and with -c one argument is the question", hint=hint)
    if picture == question == "-":
        raise UsageError("stdin", "it cannot be both the picture and the question")
    return picture, settings.DEFAULT_QUESTION if question is None else question


def _last_turns(history: History) -> list[Turn]:
    last = history.last_chat()
    turns = history.turns(last.id) if last else []
    if not turns:
        raise UsageError("--continue", "the log knows no chat to go on with", hint='begin one: llava ask photo.jpg "…"')
    return turns


_CUT_SHORT = {
    "length": "the answer was cut at its longest length; -n allows more tokens",
    "context": "the context is full, so the answer stops here; --context makes it larger",
}
