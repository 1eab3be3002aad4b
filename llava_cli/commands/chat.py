"""`llava chat`: a chat about pictures, at the terminal or from a script."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.pull import offer
from llava_cli.errors import UsageError
from llava_cli.render import Output

if TYPE_CHECKING:
    from llava_cli.model import Model


def chat(
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PICTURE]...",
            help="Pictures to begin with: files, http(s) addresses or clip:.",
            show_default=False,
        ),
    ] = None,
    go_on: options.GoOn = False,
    name: Annotated[
        str,
        typer.Option(
            "--chat", metavar="NAME", help="Go on with the chat of this name, or begin it.", show_default=False
        ),
    ] = "",
    model: options.Model = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    top_p: options.TopP = None,
    log: options.Log = None,
    preview: Annotated[bool, typer.Option("--preview/--no-preview", help="Show pictures in the terminal.")] = True,
    plain: options.Plain = False,
    quiet: options.Quiet = False,
    model_path: options.ModelPath = None,
    projector_path: options.ProjectorPath = None,
    prompt_layout: options.PromptLayout = None,
    detail: options.Detail = None,
    context: options.Context = None,
    threads: options.Threads = None,
    ubatch: options.Ubatch = None,
    flash_attention: options.FlashAttention = None,
    repack: options.Repack = None,
    kv: options.KvType = None,
    memory_check: options.MemoryCheck = None,
    cache: options.Cache = True,
) -> None:
    """Chat about pictures; /help lists what can be done in it.

    llava chat photo.jpg

    llava chat -c
    """
    if go_on and name:
        raise UsageError("--continue", "it goes on with the last chat, --chat with one of its own", hint="choose one")
    chosen = settings.resolve(
        {
            "model": model, "system": system, "temperature": temperature, "max_tokens": max_tokens,
            "seed": seed, "top_p": top_p, "detail": detail, "context": context, "threads": threads,
            "ubatch": ubatch, "flash_attention": flash_attention, "repack": repack, "kv": kv,
            "memory_check": memory_check,
            "log": log, "preview": None if preview else "off",
        }
    )  # fmt: skip
    if sys.stdin is None:
        raise UsageError("stdin", "it is closed, so there is nothing to chat with", hint="llava ask PICTURE QUESTION")
    with Output(plain=plain, quiet=quiet) as output:
        from llava_cli import inventory
        from llava_cli.history import History
        from llava_cli.journal import Journal
        from llava_cli.repl import Repl
        from llava_cli.session import Session
        from llava_cli.sources import open_source
        from llava_cli.weights import find_weights

        seen = [open_source(source) for source in pictures or []]
        history = History(recording=chosen.log)
        past = history.last_chat() if go_on else history.named(name) if name else None
        if go_on and past is None:
            raise UsageError("--continue", "there is no chat in the log yet", hint="llava chat PICTURE begins one")
        files: dict[str, Any] = {"model_path": model_path, "projector_path": projector_path}
        named = chosen.model
        if past is not None and model is None and model_path is None and projector_path is None:
            last = history.turns(past.id)[-1:]
            files = last[0].load_arguments() if last else files
            named = files.pop("name", named)
        own_files = files.get("model_path") is not None or files.get("projector_path") is not None
        if own_files:
            named = Path(files.get("model_path") or "model").stem
            files.setdefault("prompt_layout", prompt_layout)
        else:
            # They may be missing: that is said before the greeting, not after it.
            offer(named, chosen, output)
            find_weights(inventory.choose(named).spec)

        def open_model(wanted: str) -> Model:
            from llava_cli.model import load

            which = files if own_files and wanted == named else {}
            return load(
                wanted, **which, options=chosen.load, sampling=chosen.sampling, on_stage=output.stage_here, cache=cache
            )

        session = Session(
            open_model, named, sampling=chosen.sampling, journal=Journal(history, name), system=chosen.system
        )
        if past is not None:
            session.resume(past)
            session.chat.system = session.chat.system if system is None else system
        repl = Repl(session, output, chosen.chat, is_terminal=sys.stdin.isatty())
        try:
            repl.run(seen)
        finally:
            if session.is_loading and isinstance(sys.exc_info()[1], KeyboardInterrupt | NoneType):
                _leave_at_once()
            session.close()
            repl.say_notes()


def _leave_at_once() -> None:
    """End the process while a thread of it is still inside llama.cpp, which would not outlive its libraries."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0 if sys.exc_info()[1] is None else 130)
