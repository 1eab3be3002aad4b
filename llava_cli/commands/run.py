"""`llava run`: many pictures, one after another, into a file that a later run goes on with."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.ask import answer_shape, template_named
from llava_cli.commands.completion import any_files
from llava_cli.commands.placing import placed
from llava_cli.commands.run_arguments import read_arguments
from llava_cli.errors import RunIncomplete, UnreadablePicture, UsageError
from llava_cli.render import Output

if TYPE_CHECKING:
    from llava_cli.crops import Crop
    from llava_cli.model import Model
    from llava_cli.pictures import Picture, PictureLimits
    from llava_cli.places import Here, There
    from llava_cli.recipe import Recipe
    from llava_cli.remote_model import RemoteModel
    from llava_cli.result_lines import Shape
    from llava_cli.results import Record
    from llava_cli.run import Tally
    from llava_cli.run_display import RunDisplay
    from llava_cli.schemas import AnswerSchema
    from llava_cli.sidecars import Sidecars
    from llava_cli.tasks import Task

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
    schema: options.Schema = None,
    choices: options.Choices = None,
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
    template: options.Template = None,
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
    crop: options.Crop = None,
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
    output_file = None if output_file == Path("-") else output_file
    kept = template_named(template)
    drawing = {"temperature": temperature, "max_tokens": max_tokens, "seed": seed, "top_p": top_p}
    held, possible = answer_shape(schema, choices, kept, exit_code=False, drawing=drawing)
    flags = {
        **drawing, "model": model, "system": system, "detail": detail, "context": context, "threads": threads,
        "ubatch": ubatch, "flash_attention": flash_attention, "repack": repack, "kv": kv,
        "memory_check": memory_check, "max_megapixels": max_megapixels,
        "endpoint": endpoint, "api_key_env": api_key_env,
    }  # fmt: skip
    chosen = settings.resolve(kept.settings() | {key: value for key, value in flags.items() if value is not None})
    options.check_endpoint(chosen, typed)
    with Output(plain=plain, quiet=quiet) as output:
        from llava_cli.crops import read_crop
        from llava_cli.folders import Search
        from llava_cli.result_lines import Shape
        from llava_cli.run import Run
        from llava_cli.run_display import RunDisplay
        from llava_cli.sidecars import Sidecars
        from llava_cli.tasks import Fields, Shard

        shape = "" if held is None else "parsed"
        fields = Fields(image_field, question_field, answer_field, "choices" if possible else shape)
        part = None if crop is None else read_crop(crop)
        limits = options.picture_limits(chosen)
        share = Shard() if shard is None else Shard.parse(shard)
        form = _format(form, output_file)
        search = Search(None if output_file is None else output_file.resolve(), sidecar or "")
        asked = read_arguments(pictures or [], ask, kept.question, null=null, fields=fields, search=search)
        tasks = [task for task in asked.tasks() if share.has(task)]
        if asked.search.left_out:
            output.note(f"files that are no pictures, and are left out: {asked.search.left_out}")

        own = options.own_files(model_path, projector_path, prompt_layout)
        place, name = placed(
            chosen, output, output.stage, model=model or kept.model, endpoint=endpoint, own=own, yes=yes
        )
        output.end_stage()
        recipe = _recipe(place, name, own, chosen, held, possible)
        texts = None if sidecar is None else Sidecars(sidecar, tasks)
        # Lines on a terminal show how it goes by themselves.
        is_seen = output_file is None and texts is None and sys.stdout is not None and sys.stdout.isatty()
        with (
            _record(output_file, Shape(form, fields, tasks), tasks, texts, output) as record,
            RunDisplay(output, has_bar=not is_seen) as display,
        ):
            walk = Run(
                partial(_opened_model, place, name, cache, display, output),
                partial(_opened, part=part, frame=frame, allow_truncated=allow_truncated, limits=limits),
                recipe,
                record,
                display,
                to_stdout=output_file is None and texts is None,
                by_file=part is None and not frame and not allow_truncated and not chosen.max_megapixels,
            )
            try:
                tally = walk.play(tasks, limit=limit, fail_fast=fail_fast)
            except KeyboardInterrupt:
                if output_file is not None:
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


def _opened(source: str, *, part: Crop | None, frame: int, allow_truncated: bool, limits: PictureLimits) -> Picture:
    """Open a picture, or a part of it; in another one there may be such a part."""
    from llava_cli.sources import open_source

    picture = open_source(source, frame=frame, allow_truncated=allow_truncated, limits=limits)
    try:
        return picture if part is None else part.of(picture)
    except UsageError as error:
        raise UnreadablePicture(picture.name, error.why, hint=error.hint) from error


def _recipe(
    place: Here | There,
    name: str,
    own: Mapping[str, Any],
    chosen: settings.Settings,
    held: AnswerSchema | None,
    possible: tuple[str, ...] | None,
) -> Recipe:
    """Return how answers are made, from what is known before a model is opened."""
    from llava_cli import inventory
    from llava_cli.endpoint import find_endpoint
    from llava_cli.places import Here
    from llava_cli.recipe import Recipe
    from llava_cli.weights import find_weights

    schema = None if held is None else held.schema
    if not isinstance(place, Here):
        return Recipe.at(find_endpoint(place.address).url, name, chosen, schema=schema, choices=possible)
    spec = inventory.spec_of(name, *map(own.get, ("model_path", "projector_path", "prompt_layout")))
    return Recipe.of(spec, find_weights(spec), chosen, schema=schema, choices=possible)


@contextmanager
def _opened_model(
    place: Here | There, name: str, cache: bool, display: RunDisplay, output: Output
) -> Iterator[Model | RemoteModel]:
    from llava_cli.places import Here

    place = replace(place, on_stage=display.stage)
    if isinstance(place, Here):
        from llava_cli.prefix_cache import PrefixCache

        size = place.options.cache_size
        place = replace(place, cache=PrefixCache(size=size, keeps_prefixes=False) if cache and size else False)
    with place.open(name) as opened:
        output.made_with(opened.facts(), opened.options)
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
