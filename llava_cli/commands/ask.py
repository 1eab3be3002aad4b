"""`llava ask`: one question about one picture."""

from __future__ import annotations

from typing import Annotated

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.streams import ctrl_c_stops, read_stdin
from llava_cli.errors import UsageError
from llava_cli.render import Output


def ask(
    picture: Annotated[str, typer.Argument(help="The picture file; - reads one from stdin.", show_default=False)],
    question: Annotated[
        str, typer.Argument(help="What you want to know; - reads it from stdin.")
    ] = settings.DEFAULT_QUESTION,
    model: options.Model = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    top_p: options.TopP = None,
    stats: options.Stats = False,
    plain: options.Plain = False,
    quiet: options.Quiet = False,
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
    """
    if picture == "-" and question == "-":
        raise UsageError("stdin", "it cannot be both the picture and the question")
    question = read_stdin("question").decode("utf-8", "replace") if question == "-" else question
    if not question.strip():
        raise UsageError("question", "it is empty", hint='say what you want to know: llava ask photo.jpg "…"')
    chosen = settings.resolve(
        {
            "model": model, "system": system, "temperature": temperature, "max_tokens": max_tokens,
            "seed": seed, "top_p": top_p, "detail": detail, "context": context, "threads": threads,
            "ubatch": ubatch, "flash_attention": flash_attention, "repack": repack, "kv": kv,
            "memory_check": memory_check,
        }
    )  # fmt: skip
    with Output(plain=plain, quiet=quiet) as output:
        from llava_cli.pictures import open_picture

        seen = open_picture(
            read_stdin("picture") if picture == "-" else picture,
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
            ctrl_c_stops(opened),
        ):
            said = opened.notes
            for note in said:
                output.note(note)
            reply = opened.ask(seen, question.strip(), system=chosen.system)
            output.answer(reply)
            if stats:
                output.stats(reply.usage, reply.seed)
                output.opened(opened.options)
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
