"""`llava run`: many pictures, one after another, into a file that a later run goes on with."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.completion import any_files
from llava_cli.commands.placing import placed
from llava_cli.commands.streams import read_stdin
from llava_cli.errors import RunIncomplete, UsageError
from llava_cli.render import Output

if TYPE_CHECKING:
    from llava_cli.model import Model
    from llava_cli.places import Here, There
    from llava_cli.remote_model import RemoteModel
    from llava_cli.results import Record, Shape
    from llava_cli.run import Tally
    from llava_cli.run_display import RunDisplay
    from llava_cli.sidecars import Sidecars
    from llava_cli.tasks import Asked, Fields, Task

_OUT, _ROWS, _PART = "Output", "Rows", "Part of it"


def run(
    typed: typer.Context,
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PICTURES",
            help="Files, folders, patterns, addresses, - (a list of names on stdin) or a file of rows (.jsonl, .csv,"
            " .tsv). The last one is the question, unless there is but one.",
            autocompletion=any_files,
            show_default=False,
        ),
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(
            "--ask",
            metavar="FILE",
            help="Ask every question in this file, one on a line; - is stdin.",
            autocompletion=any_files,
        ),
    ] = None,
    null: Annotated[
        bool, typer.Option("-0", "--null", help="The names on stdin end with a zero byte, as find -print0 has it.")
    ] = False,
    output_file: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            autocompletion=any_files,
            help="Write to this file: .jsonl, .csv or .tsv. If it is there, go on with it.",
            show_default="stdout",
            rich_help_panel=_OUT,
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="jsonl|csv|tsv",
            help="How lines look.",
            show_default="as FILE ends, else jsonl",
            rich_help_panel=_OUT,
        ),
    ] = None,
    sidecar: Annotated[
        str | None,
        typer.Option(
            metavar=".txt",
            help="Write each answer beside its picture, too: photo.txt for photo.jpg.",
            show_default=False,
            rich_help_panel=_OUT,
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Stop after that many new answers.", rich_help_panel=_PART)
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="N/M",
            help="Only the Nth of M shares, for M machines with a file each.",
            show_default=False,
            rich_help_panel=_PART,
        ),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop at the first picture that fails.", rich_help_panel=_PART)
    ] = False,
    image_field: Annotated[str, typer.Option(help="What names the picture.", rich_help_panel=_ROWS)] = "image",
    question_field: Annotated[str, typer.Option(help="What asks.", rich_help_panel=_ROWS)] = "question",
    answer_field: Annotated[str, typer.Option(help="What the answer is called.", rich_help_panel=_ROWS)] = "answer",
    model: options.Model = None,
    endpoint: options.Endpoint = None,
    api_key_env: options.ApiKeyEnv = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    top_p: options.TopP = None,
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
    """Ask about many pictures. Stop whenever you like: the same command goes on.

    llava run photos/ "Describe this picture." -o captions.jsonl

    llava run photos/ --ask questions.txt -o answers.csv

    find . -name '*.jpg' -print0 | llava run -0 - "What is this?" -o out.jsonl

    llava run rows.jsonl -o answered.jsonl

    Each picture and question makes one line, in order, with all it was made
    with. Rows have an "image", named from where their file is, and a "question";
    whatever else they have comes out again.

    What the output holds is not asked again, judged by the picture itself, the
    question, model and parameters. Failures are, and end with exit code 9.
    Without --seed, each answer has a seed of its own, the same in every run.
    The output is the record of a run: the log has none.
    """
    chosen = settings.resolve(
        {
            "model": model, "system": system, "temperature": temperature, "max_tokens": max_tokens,
            "seed": seed, "top_p": top_p, "detail": detail, "context": context, "threads": threads,
            "ubatch": ubatch, "flash_attention": flash_attention, "repack": repack, "kv": kv,
            "memory_check": memory_check, "endpoint": endpoint, "api_key_env": api_key_env,
        }
    )  # fmt: skip
    options.check_endpoint(chosen, typed)
    with Output(plain=plain, quiet=quiet) as output:
        from llava_cli import inventory
        from llava_cli.endpoint import find_endpoint
        from llava_cli.places import Here
        from llava_cli.recipe import Recipe
        from llava_cli.results import Shape
        from llava_cli.run import Run
        from llava_cli.run_display import RunDisplay
        from llava_cli.sidecars import Sidecars
        from llava_cli.sources import open_source
        from llava_cli.tasks import Fields, Shard
        from llava_cli.weights import find_weights

        fields = Fields(image_field, question_field, answer_field)
        share = Shard() if shard is None else Shard.parse(shard)
        form = _format(form, output_file)
        asked = _asked(pictures or [], ask, null=null, fields=fields, output_file=output_file, sidecar=sidecar)
        tasks = [task for task in asked.tasks() if share.has(task)]
        if asked.search.left_out:
            output.note(f"files in these folders that are no pictures, and are left out: {asked.search.left_out}")

        own = options.own_files(model_path, projector_path, prompt_layout)
        place, name = placed(chosen, output, output.stage, model=model, endpoint=endpoint, own=own, yes=yes)
        output.end_stage()
        if isinstance(place, Here):
            spec = inventory.spec_of(name, model_path, projector_path, prompt_layout)
            recipe = Recipe.of(spec, find_weights(spec), chosen)
        else:
            recipe = Recipe.at(find_endpoint(place.address).url, name, chosen)
        texts = None if sidecar is None else Sidecars(sidecar, tasks)
        # Lines on a terminal show how it goes by themselves.
        is_seen = output_file is None and texts is None and sys.stdout is not None and sys.stdout.isatty()
        with (
            _record(output_file, Shape(form, fields, tasks), tasks, texts, output) as record,
            RunDisplay(output, has_bar=not is_seen) as display,
        ):
            walk = Run(
                partial(_opened_model, place, name, cache, display),
                partial(open_source, frame=frame, allow_truncated=allow_truncated),
                recipe,
                record,
                display,
                by_file=not frame and not allow_truncated,
            )
            try:
                tally = walk.play(tasks, limit=limit, fail_fast=fail_fast)
            except KeyboardInterrupt:
                display.stopped()
                raise
        if texts is not None and texts.others:
            output.note(f"{sidecar} files that hold something else, and are left as they are: {texts.others}")
        _close(tally, output, output_file)


def _format(form: str | None, output_file: Path | None) -> str:
    from llava_cli.row_files import SUFFIXES

    by_name = None if output_file is None else SUFFIXES.get(output_file.suffix.lower())
    chosen = form or by_name or ("jsonl" if output_file is None else "")
    if chosen not in SUFFIXES.values():
        what = f"--format {form}" if form else str(output_file)
        raise UsageError(what, "no format for lines", hint="there are jsonl, csv and tsv; -o out.jsonl")
    return chosen


def _asked(
    arguments: list[str],
    ask: str | None,
    *,
    null: bool,
    fields: Fields,
    output_file: Path | None,
    sidecar: str | None,
) -> Asked:
    """Tell pictures and question apart, and take what comes through stdin."""
    from llava_cli.folders import Search, listed
    from llava_cli.pictures import shown
    from llava_cli.tasks import Asked, is_row_file, read_questions

    if not arguments:
        raise UsageError(
            "usage", "Missing argument 'PICTURES'.", hint=f'llava run photos/ "{settings.DEFAULT_QUESTION}"'
        )
    *sources, last = arguments
    questions: tuple[str, ...] = ()
    if ask is not None or not sources or is_row_file(last):
        sources = arguments
    elif last == "-" or os.path.lexists(last):
        # A thousand descriptions are no good answer to a forgotten question.
        begun = shlex.join(["llava", "run", *arguments[:1]])
        why = "the last argument is the question, and this is something to ask about"
        raise UsageError(shown(last), why, hint=f'{begun} … "{settings.DEFAULT_QUESTION}"')
    elif not last.strip():
        raise UsageError("question", "it is empty", hint='say what you want to know: llava run photos/ "…"')
    else:
        questions = (last.strip(),)
    if sources.count("-") + (ask == "-") > 1:
        raise UsageError("stdin", "it can be read once only", hint="- is one list of names, or the questions")
    if null and "-" not in sources:
        raise UsageError("--null", "it is about the names on stdin", hint="give - for them: … | llava run -0 - …")
    if ask is not None:
        questions = read_questions(read_stdin("questions") if ask == "-" else _read(Path(ask)))
    names = listed(read_stdin("list of pictures"), null=null) if "-" in sources else []
    own = None if output_file is None else output_file.resolve()
    return Asked(sources, names, questions, fields, Search(own, sidecar or ""))


def _read(path: Path) -> bytes:
    from llava_cli.pictures import shown

    try:
        return path.read_bytes()
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(shown(str(path)), why, hint="--ask names a file of questions, one on a line") from error


@contextmanager
def _opened_model(place: Here | There, name: str, cache: bool, display: RunDisplay) -> Iterator[Model | RemoteModel]:
    from llava_cli.places import Here

    place = replace(place, on_stage=display.stage)
    if isinstance(place, Here):
        from llava_cli.prefix_cache import PrefixCache

        size = place.options.cache_size
        place = replace(place, cache=PrefixCache(size=size, keeps_prefixes=False) if cache and size else False)
    with place.open(name) as opened:
        said = opened.notes
        for note in said:
            display.note(note)
        yield opened
    for note in opened.notes[len(said) :]:
        display.note(note)


@contextmanager
def _record(
    output_file: Path | None, shape: Shape, tasks: Sequence[Task], texts: Sidecars | None, output: Output
) -> Iterator[Record]:
    """Open where the lines go."""
    from llava_cli.results import Stream, opened_results
    from llava_cli.sidecars import Beside

    if output_file is None:

        def write(text: str) -> None:
            output.end_stage()
            output.write(text)

        yield Stream(shape, write) if texts is None else texts
        return
    with opened_results(output_file, shape, tasks) as results:
        if results.was_torn:
            output.note(f"the last line of {output_file} had been cut off; it is asked for again")
        yield results if texts is None else Beside(results, texts)


def _close(tally: Tally, output: Output, output_file: Path | None) -> None:
    """Say what has come of a run, and end with the exit code of that."""
    from llava_cli.run_display import STOPPED

    said = [f"{tally.answered} new answer{'' if tally.answered == 1 else 's'}"]
    said += [f"{tally.held} were there already"] * bool(tally.held)
    said += [f"{tally.failed} failed"] * bool(tally.failed)
    left = tally.total - tally.done
    said += [f"{left} left"] * bool(left)
    output.report(", ".join(said))
    if tally.stopped:
        output.report(STOPPED if output_file else "stopped; with -o FILE it could be gone on with")
        raise typer.Exit(130)
    if tally.failed:
        where = f"; their lines in {output_file} have an error" if output_file else ""
        hint = f"the same command tries them again{where}"
        raise RunIncomplete("run", f"{tally.failed} of {tally.total} have no answer", hint=hint)
