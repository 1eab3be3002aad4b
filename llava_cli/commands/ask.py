"""`llava ask`: one question about one picture, or about several together."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.completion import picture_files
from llava_cli.commands.placing import placed
from llava_cli.commands.streams import read_stdin
from llava_cli.errors import UnreadablePicture, UsageError
from llava_cli.render import Output
from llava_cli.stopping import ctrl_c_stops

if TYPE_CHECKING:
    from llava_cli.chat import Opened
    from llava_cli.history import History, Turn
    from llava_cli.pictures import Picture, RememberedPicture
    from llava_cli.reply import Decision, Reply
    from llava_cli.schemas import AnswerSchema
    from llava_cli.templates import Template


def ask(
    typed: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PICTURE... [QUESTION]",
            autocompletion=picture_files,
            help="Pictures: files, http(s) addresses, data: URLs, clip: (the clipboard) or - (stdin). Then what you "
            "want to know; - reads it from stdin. With -c, pictures may be left out.",
            show_default=f"question: {settings.DEFAULT_QUESTION}",
        ),
    ] = None,
    go_on: options.GoOn = False,
    template: options.Template = None,
    model: options.Model = None,
    endpoint: options.Endpoint = None,
    api_key_env: options.ApiKeyEnv = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    top_p: options.TopP = None,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json", help="Print one JSON object: the answer and all about it.", rich_help_panel="Shape of the answer"
        ),
    ] = False,
    schema: options.Schema = None,
    choices: options.Choices = None,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code",
            help="With --choices, end with 0 for the first, 11 for the second, 12 for the third …",
            rich_help_panel="Shape of the answer",
        ),
    ] = False,
    log: options.Log = None,
    stats: options.Stats = False,
    plain: options.Plain = False,
    raw: options.Raw = False,
    quiet: options.Quiet = False,
    yes: options.Yes = False,
    model_path: options.ModelPath = None,
    projector_path: options.ProjectorPath = None,
    prompt_layout: options.PromptLayout = None,
    crop: options.Crop = None,
    show_input: options.ShowInput = None,
    detail: options.Detail = None,
    frame: options.Frame = 0,
    allow_truncated: options.AllowTruncated = False,
    max_megapixels: options.MaxMegapixels = None,
    context: options.Context = None,
    threads: options.Threads = None,
    ubatch: options.Ubatch = None,
    flash_attention: options.FlashAttention = None,
    repack: options.Repack = None,
    kv: options.KvType = None,
    memory_check: options.MemoryCheck = None,
    cache: options.Cache = True,
) -> None:  # fmt: skip
    """Ask one question about one picture, or about several together.

    llava ask photo.jpg "What is in this picture?"

    llava ask before.jpg after.jpg "What has changed?"

    llava ask receipt.jpg "What was bought?" --schema 'item, price float'

    if llava ask door.jpg "Is the door open?" --choices yes,no --exit-code; then …

    llava ask -c "And what is behind it?"
    """
    if raw:
        _check_raw(is_in_words=not (as_json or schema or choices))
    kept = template_named(template)
    pictures, question = _arguments(arguments or [], go_on, kept.question)
    drawing = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed, "top_p": top_p}
    held, possible = answer_shape(schema, choices, kept, exit_code=exit_code, drawing=drawing)
    flags = {
        **drawing, "model": model, "system": system, "detail": detail, "context": context, "threads": threads,
        "ubatch": ubatch, "flash_attention": flash_attention, "repack": repack, "kv": kv,
        "memory_check": memory_check, "log": log, "max_megapixels": max_megapixels,
        "endpoint": endpoint, "api_key_env": api_key_env,
    }  # fmt: skip
    chosen = settings.resolve(kept.settings() | {key: value for key, value in flags.items() if value is not None})
    options.check_endpoint(chosen, typed)
    with Output(plain=plain, quiet=quiet) as output:
        seen = _opened(
            pictures, crop, show_input, frame=frame, allow_truncated=allow_truncated,
            limits=options.picture_limits(chosen),
        )  # fmt: skip
        for note in (f"{one.name}: {note}" for one in seen for note in one.notes):
            output.note(note)

        from llava_cli.envelope import envelope
        from llava_cli.history import History, messages_of, turn_asked
        from llava_cli.sheets import write_sheet

        history = History(recording=chosen.log)
        past = _last_turns(history) if go_on else []
        known = {one.sha256: one for turn in past for one in turn.pictures}
        new = [one for one in seen if one.sha256 not in known]
        about: list[Picture | RememberedPicture] = [*known.values(), *new]
        own = options.own_files(model_path, projector_path, prompt_layout)
        if past and (system or kept.system) is None:
            chosen = replace(chosen, system=past[-1].system)
        chosen = replace(chosen, load=replace(chosen.load, pictures=max(1, len(about))))
        place, name = placed(
            chosen, output, output.stage, model=model or kept.model, endpoint=endpoint, own=own,
            last=past[-1] if past else None, cache=cache, yes=yes,
        )  # fmt: skip
        with place.open(name) as opened, ctrl_c_stops(opened):
            output.made_with(opened.facts(), opened.options)
            said = opened.notes
            for note in said:
                output.note(note)
            if show_input is not None:
                write_sheet(show_input, [opened.seen(one) for one in seen or about])
            before = messages_of(past, seen)
            history.announce(
                turn_asked(opened, chosen.sampling, question, new, system=chosen.system), **_place_after(past)
            )
            reply: Reply | Decision = (
                opened.chat(system=chosen.system, messages=before).send(question, picture=new, schema=held)
                if possible is None
                else opened.choose(new, question, possible, system=chosen.system, after=before)
            )
            try:
                _show(reply, output, as_json=as_json, raw=raw)
            finally:
                # What was written is remembered, even if its reader has left.
                turn = _recorded(reply, opened, question, new, chosen.system, history, past)
            if as_json:
                output.write(json.dumps(envelope(turn, reply, about), indent=2) + "\n")
            if stats:
                output.stats(reply.usage, reply.seed)
                output.opened(opened.options)
            _say_how_it_ended(reply, output)
        # Closing the model keeps the picture for next time, which can fail.
        for note in (*history.notes, *opened.notes[len(said) :]):
            output.note(note)
        if code := _exit_code(reply, possible if exit_code else None):
            raise typer.Exit(code)


def template_named(name: str | None) -> Template:
    """Return the template of that name; without a name, one that leaves everything open."""
    from llava_cli.templates import Template, find

    return Template() if name is None else find(name)


def _arguments(arguments: Sequence[str], go_on: bool, kept: str | None) -> tuple[list[str], str]:
    """Tell pictures and question apart: the last argument is the question, unless it names a picture."""
    if not arguments and not (go_on and kept):
        raise UsageError("usage", f"Missing argument '{'QUESTION' if go_on else 'PICTURE'}'.")
    from llava_cli.sources import names_picture

    pictures, question = list(arguments), settings.DEFAULT_QUESTION if kept is None else kept
    if len(pictures) > (0 if go_on else 1) and not names_picture(pictures[-1]):
        question = pictures.pop()
    elif go_on and len(pictures) == 1 and kept is None:
        hint = f'llava ask -c {shlex.quote(pictures[0])} "…"'
        raise UsageError(pictures[0], "that is a picture, and with -c one argument is the question", hint=hint)
    if [*pictures, question].count("-") > 1:
        hint = "- may stand once: for a picture, or the question"
        raise UsageError("stdin", "it cannot be two things at once", hint=hint)
    question = _text(read_stdin("question")) if question == "-" else question
    if not question.strip():
        raise UsageError("question", "it is empty", hint='say what you want to know: llava ask photo.jpg "…"')
    return pictures, question.strip()


def _text(data: bytes) -> str:
    try:
        if b"\0" not in data:
            return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    hint = 'a picture comes first: … | llava ask - "What is it?"'
    raise UsageError("question", "what came through stdin is no text", hint=hint)


def answer_shape(
    schema: str | None, choices: str | None, kept: Template, *, exit_code: bool, drawing: Mapping[str, object]
) -> tuple[AnswerSchema | None, tuple[str, ...] | None]:
    """Return the schema or the choices that the answer is held to; flags go before the template."""
    from llava_cli.choices import read_choices
    from llava_cli.schemas import AnswerSchema, read_schema

    if schema is not None and choices is not None:
        raise UsageError("--schema", "it does not go with --choices", hint="choices alone are enough")
    if schema is not None:
        kept = replace(kept, schema=read_schema(schema).schema, choices=None)
    if choices is not None:
        kept = replace(kept, schema=None, choices=read_choices(choices))
    if exit_code and not 2 <= len(kept.choices or ()) <= 116:
        raise UsageError("--exit-code", "it needs choices, 116 at most", hint="--choices yes,no --exit-code")
    if kept.choices is not None and (idle := [name for name, value in drawing.items() if value is not None]):
        raise UsageError(f"--{idle[0].replace('_', '-')}", "with choices nothing is drawn", hint="leave it out")
    return None if kept.schema is None else AnswerSchema(kept.schema), kept.choices


def _check_raw(*, is_in_words: bool) -> None:
    if sys.stdout.isatty():
        raise UsageError("--raw", "a terminal would obey what the model writes", hint="send it into a file or a pipe")
    if not is_in_words:
        raise UsageError("--raw", "it is about an answer in words alone", hint="leave it out")


def _opened(sources: Sequence[str], crop: str | None, show_input: Path | None, **how: Any) -> list[Picture]:
    """Open all pictures before anything is loaded, and cut out what is to be shown of them."""
    from llava_cli.crops import read_crop
    from llava_cli.sheets import require_writable
    from llava_cli.sources import names_picture, open_source

    idle = {"--crop": crop, "--frame": how["frame"], "--allow-truncated": how["allow_truncated"]}
    if not sources and (given := [name for name, value in idle.items() if value]):
        raise UsageError(given[0], "it is about a picture that is given now", hint="name the picture again, too")
    part = None if crop is None else read_crop(crop)
    seen = []
    for source in sources:
        try:
            picture = open_source(source, stdin=partial(read_stdin, "picture"), **how)
        except UnreadablePicture as error:
            if len(sources) == 1 and " " in source and not names_picture(source):
                hint = f"a picture comes first: llava ask photo.jpg {shlex.quote(source[:60])}"
                raise UnreadablePicture(error.what, error.why, hint=hint) from error
            if len(sources) > 1 and source != "-" and not names_picture(source) and "did you mean" not in error.hint:
                hint = 'pictures come first, then the question, in quotes: llava ask photo.jpg "What is it?"'
                raise UnreadablePicture(error.what, error.why, hint=hint) from error
            raise
        seen.append(picture if part is None else part.of(picture))
    if show_input is not None:
        require_writable(show_input, seen)
    return seen


def _last_turns(history: History) -> list[Turn]:
    last = history.last_chat()
    turns = history.turns(last.id) if last else []
    if not turns:
        raise UsageError("--continue", "the log knows no chat to go on with", hint='begin one: llava ask photo.jpg "…"')
    return turns


def _show(reply: Reply | Decision, output: Output, *, as_json: bool, raw: bool) -> None:
    """Show an answer, unless it goes into one object: as it comes, but in a pipe not before it satisfies its schema."""
    from llava_cli.reply import Decision

    if as_json:
        _ = reply.text
        output.end_stage()
    elif isinstance(reply, Decision):
        output.answer([f"{reply.best.text} {reply.best.probability:.2f}"], markdown=False)
    elif reply.schema is None:
        output.answer(reply, raw=raw)
    elif output.rich:
        output.answer(reply, markdown=False)
        _ = reply.parsed
    else:
        _ = reply.parsed
        output.answer([reply.text])


def _recorded(
    reply: Reply | Decision,
    model: Opened,
    question: str,
    pictures: Sequence[Picture],
    system: str | None,
    history: History,
    past: Sequence[Turn],
) -> Turn:
    """End the answer where it is, and write it down."""
    from llava_cli.history import turn_of
    from llava_cli.reply import Reply

    if isinstance(reply, Reply):
        reply.close()
    turn = turn_of(reply, model, question, pictures, system=system)
    history.record(turn, **_place_after(past))
    return turn


def _place_after(past: Sequence[Turn]) -> dict[str, int]:
    """Return where in the log a turn belongs that goes on from `past`."""
    return {"chat": past[-1].chat, "after": past[-1].id} if past else {}


def _exit_code(reply: Reply | Decision, choices: Sequence[str] | None) -> int:
    if reply.finish_reason == "stopped":
        return 130
    place = choices.index(reply.text) if choices else 0
    return 10 + place if place else 0


def _say_how_it_ended(reply: Reply | Decision, output: Output) -> None:
    from llava_cli.reply import CUT_SHORT

    way_out = {
        "length": "; -n allows more tokens",
        "context": "; --context makes it larger",
        "loop": "; another --seed may not",
        "content_filter": "",
    }
    if reply.finish_reason in way_out:
        output.note(CUT_SHORT[reply.finish_reason] + way_out[reply.finish_reason])
