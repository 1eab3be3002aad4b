"""`llava log`: what was asked about which picture, and what the answer was."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.completion import picture_files
from llava_cli.commands.placing import placed
from llava_cli.errors import AnswerUnfit, UsageError
from llava_cli.render import Output
from llava_cli.stopping import ctrl_c_stops
from llava_cli.supervision import opens_llama_cpp

if TYPE_CHECKING:
    from llava_cli.history import History, Turn
    from llava_cli.reply import Decision, Reply

app = typer.Typer(context_settings=options.HELP)

_HIGHEST = 2**63 - 1
"""What a database can count to."""

Number = Annotated[
    int | None,
    typer.Argument(metavar="[ID]", min=1, max=_HIGHEST, help="Its number in the log.", show_default="the newest"),
]


@app.callback(invoke_without_command=True)
def log(
    context: typer.Context,
    words: Annotated[
        str, typer.Option("--query", "-q", help="Only where all these words stand.", show_default=False)
    ] = "",
    picture: Annotated[
        str | None,
        typer.Option(
            "--picture",
            "-p",
            help="Only what was asked about this picture, whatever its name.",
            autocompletion=picture_files,
        ),
    ] = None,
    count: Annotated[int, typer.Option("-n", min=0, help="How many at most; 0: all.")] = 20,
    as_json: options.Json = False,
    plain: options.Plain = False,
) -> None:
    """Show what was asked about which picture, the newest first.

    llava log -q "red bicycle"

    llava log --picture photo.jpg

    llava log --json -n 0 > log.json

    In a pipe: number, time, pictures, question and answer, with tabs between.
    """
    if context.invoked_subcommand is not None:
        return
    with Output(plain=plain) as output, _opened_log(output) as history:
        sha256 = None
        if picture is not None:
            from llava_cli.pictures import open_picture

            sha256 = open_picture(picture, limits=options.picture_limits(settings.resolve({}))).sha256
        turns = history.find(words=words, picture=sha256, limit=count + 1 if count else -1)
        if count and len(turns) > count:
            turns = turns[:count]
            output.note(f"these are the newest {count}; -n 0 shows all")
        if not turns:
            output.note("nothing was found" if words or picture else "nothing was asked yet")
        if as_json:
            output.write(json.dumps([_as_json(turn) for turn in turns], indent=2) + "\n")
        elif output.rich:
            with output.paged():
                for turn in turns:
                    _brief(output, turn)
        else:
            rows = [(turn.id, _when(turn, "seconds"), _names(turn), turn.question, turn.answer) for turn in turns]
            output.table((), rows, ())


@app.command()
def show(number: Number = None, as_json: options.Json = False, plain: options.Plain = False) -> None:
    """Show one turn whole: question, answer, and everything it was answered with.

    llava log show 12
    """
    with Output(plain=plain) as output, _opened_log(output) as history:
        turn = history.turn(number)
        if as_json:
            pictures = _as_json(turn)["pictures"]
            for one in pictures:
                thumbnail = base64.b64encode(history.thumbnail(one["sha256"]) or b"").decode()
                one["thumbnail"] = f"data:image/jpeg;base64,{thumbnail}"
            output.write(json.dumps({**_as_json(turn), "pictures": pictures}, indent=2) + "\n")
            return
        with output.paged():
            output.styled(_heading(turn), "dim")
            output.styled(turn.question, "bold")
            output.markdown(turn.answer)
            output.styled("\n" + "\n".join(_details(turn)), "dim")


@app.command()
def rm(
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="[ID]...", min=1, max=_HIGHEST, help="Their numbers in the log.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="The whole log.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove turns from the log, for good.

    llava log rm 12 13

    llava log rm --all --yes
    """
    if everything == bool(numbers):
        raise UsageError("log rm", "it takes the numbers of turns, or --all", hint="llava log shows the numbers")
    with Output() as output, _opened_log(output) as history:
        for turn in [history.turn(number) for number in sorted(set(numbers or []))]:
            if not yes:
                output.say(f"{turn.id}: {_shortened(turn.question, 1)}")
        if not yes:
            what = "the whole log" if everything else "this" if len(set(numbers or [])) == 1 else "these"
            agreed = output.confirm(f"Remove {what}, for good?", default=False)
            if agreed is None:
                raise UsageError("log rm", "it asks before it removes, and there is nobody to ask", hint="add --yes")
            if not agreed:
                raise typer.Exit(130)
        output.write(f"removed {history.remove(None if everything else numbers)}\n")


@app.command()
@opens_llama_cpp
def replay(
    number: Number = None,
    plain: options.Plain = False,
    quiet: options.Quiet = False,
    threads: options.Threads = None,
    cache: options.Cache = True,
) -> None:
    """Ask the same again: same model, picture, seed and parameters. Exit code 8 if the answer is another one.

    llava log replay 12
    """
    with Output(plain=plain, quiet=quiet) as output, _opened_log(output) as history:
        turn = history.turn(number)
        # How many threads there are, and how large the cache may be, is this machine's matter and shapes no answer.
        shaping = {name: value for name, value in turn.parameters.items() if name not in ("threads", "cache_size")}
        if turn.finish_reason == "stopped":
            shaping["max_tokens"] = max(1, turn.usage["answer_tokens"])
        chosen = settings.resolve({**shaping, "threads": threads})

        from llava_cli.history import messages_of, turn_of

        place, name = placed(chosen, output, output.stage, last=turn, cache=cache)
        with place.open(name) as opened, ctrl_c_stops(opened):
            output.made_with(opened.facts(), opened.options)
            before, wanted = messages_of(history.turns_before(turn)), turn.parameters
            reply: Reply | Decision
            if choices := wanted.get("choices"):
                reply = opened.choose(turn.pictures, turn.question, choices, system=turn.system, after=before)
                output.answer([reply.text])
            else:
                chat = opened.chat(system=turn.system, messages=before)
                reply = chat.send(turn.question, picture=turn.pictures, schema=wanted.get("schema"))
                output.answer(reply, markdown=reply.schema is None)
            again = turn_of(reply, opened, turn.question, turn.pictures, system=turn.system)
        if again.finish_reason == "stopped":
            raise typer.Exit(130)
        if again.answer == turn.answer or (turn.finish_reason == "stopped" and again.answer.startswith(turn.answer)):
            output.note(f"the same answer as on {_when(turn)}")
            return
        for difference in _differences(turn, again):
            output.note(f"since then, {difference}")
        raise AnswerUnfit("answer", f"it is not that of {_when(turn)}, which is: {_shortened(turn.answer, 1)}")


@app.command()
def off() -> None:
    """Write nothing down from now on; what is in the log stays.

    llava log off
    """
    _switch("off")


@app.command()
def on() -> None:
    """Write questions and answers down, as is usual.

    llava log on
    """
    _switch("on")


@app.command()
def path() -> None:
    """Say where the log is, and whether it is on.

    sqlite3 "$(llava log path)" "SELECT question, answer FROM turns"
    """
    with Output() as output, _opened_log(output, recording=settings.resolve({}).log) as history:
        output.write(f"{history.path}\n")
        if not history.is_on:
            output.note("the log is off")


def _switch(wanted: str) -> None:
    from llava_cli.config_file import write_setting

    with Output() as output:
        path = write_setting("log", wanted)
        output.write(f"the log is {wanted} now ({path})\n")
        if set_there := os.environ.get("LLAVA_LOG"):
            output.note(f"LLAVA_LOG in the environment goes before it: {set_there}")


@contextmanager
def _opened_log(output: Output, *, recording: bool = True) -> Iterator[History]:
    """Open the log, and say what it has to say in the end."""
    from llava_cli.history import History

    history = History(recording=recording)
    try:
        yield history
    finally:
        for note in history.notes:
            output.note(note)


def _brief(output: Output, turn: Turn) -> None:
    output.styled(_heading(turn), "dim")
    output.styled(_shortened(turn.question, 2), "bold")
    output.styled(_shortened(turn.answer, 3) + "\n")


def _heading(turn: Turn) -> str:
    what = _names(turn) or (f"after {turn.before}" if turn.before else "no picture")
    return " · ".join((str(turn.id), _when(turn), what, turn.model))


def _details(turn: Turn) -> list[str]:
    usage = turn.usage
    facts = {
        "ended": turn.finish_reason,
        "system": turn.system,
        "layout": turn.layout,
        "parameters": ", ".join(f"{name} {value}" for name, value in turn.parameters.items() if value is not None),
        "tokens": usage.get("answer_tokens"),
        "seconds": ", ".join(
            f"{k.removesuffix('_seconds')} {v:.2f}" for k, v in usage.items() if k.endswith("seconds")
        ),
        "model": turn.model_path,
        "projector": turn.projector_path,
        "with": turn.program,
    }
    for one in turn.pictures:
        facts[f"picture {one.name}"] = (
            f"{one.width} by {one.height} pixels, {one.sha256[:12]}, {one.path or 'from no file'}"
        )
    return [f"{name}: {value}" for name, value in facts.items() if value not in (None, "")]


def _as_json(turn: Turn) -> dict[str, Any]:
    facts = {**asdict(turn), "time": _when(turn, "milliseconds")}
    del facts["thumbnails"]
    return {"id": facts.pop("id"), "chat": facts.pop("chat"), "before": facts.pop("before"), **facts}


def _differences(turn: Turn, again: Turn) -> Iterator[str]:
    """Say what is not as it was, as far as that shows from outside."""
    for what, then, now in (
        ("the model file", turn.model_bytes, again.model_bytes),
        ("the projector file", turn.projector_bytes, again.projector_bytes),
    ):
        if then != now:
            yield f"{what} has become another one ({then:,} bytes then, {now:,} now)"
    if turn.program != again.program:
        yield f"the program has changed ({turn.program} then, {again.program} now)"


def _names(turn: Turn) -> str:
    return ", ".join(one.name for one in turn.pictures)


def _when(turn: Turn, exactly: str = "") -> str:
    """Write when it was: in local time for people, in full for programs."""
    moment = datetime.fromtimestamp(turn.time, UTC)
    return moment.isoformat(timespec=exactly) if exactly else moment.astimezone().strftime("%Y-%m-%d %H:%M")


def _shortened(text: str, lines: int) -> str:
    """Return the first few lines of `text`, each of moderate length."""
    kept = [line for line in text.splitlines() if line.strip()]
    cut = "\n".join(kept[:lines])[: lines * 100]
    return cut + ("…" if len(cut) < len("\n".join(kept)) else "")
