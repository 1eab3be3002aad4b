"""`llava bench`: how fast a model is on this machine, and how much memory it takes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from llava_cli import settings
from llava_cli.amounts import in_bytes
from llava_cli.commands import options
from llava_cli.render import Output

if TYPE_CHECKING:
    from llava_cli.measure import Measurement
    from llava_cli.model import Model
    from llava_cli.prefix_cache import PrefixCache


def bench(
    model: options.Model = None,
    tokens: Annotated[int, typer.Option("--tokens", help="Length of each answer, at most.", min=2)] = 32,
    as_json: options.Json = False,
    plain: options.Plain = False,
    quiet: options.Quiet = False,
    model_path: options.ModelPath = None,
    projector_path: options.ProjectorPath = None,
    prompt_layout: options.PromptLayout = None,
    context: options.Context = None,
    threads: options.Threads = None,
) -> None:
    """Measure a model on this machine: loading, looking, reading, writing, memory.

    llava bench -m shapes

    Asks three questions about a picture made for it, about a minute with a 7B model on two cores; it leaves the
    pictures you have on disk alone. In a pipe: name and number, with a tab between; seconds, tokens or bytes.
    """
    chosen = settings.resolve({"model": model, "context": context, "threads": threads, "temperature": 0.0})
    with Output(plain=plain, quiet=quiet) as output:
        from llava_cli.measure import measure
        from llava_cli.model import load

        said: set[str] = set()

        def open_model(cache: PrefixCache) -> Model:
            opened = load(
                chosen.model,
                model_path=model_path,
                projector_path=projector_path,
                prompt_layout=prompt_layout,
                options=chosen.load,
                sampling=chosen.sampling,
                on_stage=output.stage,
                cache=cache,
            )
            for note in opened.notes:
                if note not in said:
                    output.note(note)
            said.update(opened.notes)
            return opened

        result = measure(open_model, tokens)
        output.end_stage()
        if as_json:
            output.write(json.dumps(result.numbers(), indent=2) + "\n")
        elif output.rich:
            output.table(("", ""), _for_people(result), (str, _as_it_is))
        else:
            output.table(("", ""), result.numbers().items(), (str, _as_it_is))


def _for_people(result: Measurement) -> list[tuple[str, str]]:
    speed = f"{result.tokens_per_second:.1f} tokens/s" if result.tokens_per_second else "-"
    rows = [
        ("loading the model", f"{result.load_seconds:.2f} s"),
        ("looking at the picture", f"{result.look_seconds:.2f} s"),
        (f"reading {result.read_cells} tokens", f"{result.read_seconds:.2f} s"),
        (f"writing {result.answer_tokens} tokens", speed),
        ("first token, a new picture", f"{result.first_token_seconds:.2f} s"),
        ("first token, the next question", f"{result.next_token_seconds:.2f} s"),
        ("first token, the same picture later", f"{result.again_token_seconds:.2f} s"),
    ]
    return [*rows, ("most memory at once", in_bytes(result.peak_memory))] if result.peak_memory else rows


def _as_it_is(text: object) -> str:
    return str(text)
