"""`llava chat`: a chat about pictures, at the terminal or from a script."""

from __future__ import annotations

import os
import sys
from types import NoneType
from typing import Annotated

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.completion import chat_names, picture_files
from llava_cli.commands.placing import placed
from llava_cli.errors import UsageError
from llava_cli.render import Output


def chat(
    typed: typer.Context,
    pictures: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PICTURE]...",
            help="Pictures to begin with: files, http(s) addresses or clip:.",
            autocompletion=picture_files,
            show_default=False,
        ),
    ] = None,
    go_on: options.GoOn = False,
    name: Annotated[
        str | None,
        typer.Option(
            "--chat",
            metavar="NAME",
            help="Go on with the chat of this name, or begin it.",
            show_default=False,
            autocompletion=chat_names,
        ),
    ] = None,
    model: options.Model = None,
    endpoint: options.Endpoint = None,
    api_key_env: options.ApiKeyEnv = None,
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
    """Chat about pictures; /help lists what can be done in it.

    llava chat photo.jpg

    llava chat -c
    """
    if name is not None and not name.strip():
        raise UsageError("--chat", "it needs a name", hint="--chat holiday")
    if go_on and name:
        raise UsageError("--continue", "it goes on with the last chat, --chat with one of its own", hint="choose one")
    chosen = settings.resolve(
        {
            "model": model, "system": system, "temperature": temperature, "max_tokens": max_tokens,
            "seed": seed, "top_p": top_p, "detail": detail, "context": context, "threads": threads,
            "ubatch": ubatch, "flash_attention": flash_attention, "repack": repack, "kv": kv,
            "memory_check": memory_check, "max_megapixels": max_megapixels,
            "log": log, "preview": None if preview else "off",
            "endpoint": endpoint, "api_key_env": api_key_env,
        }
    )  # fmt: skip
    options.check_endpoint(chosen, typed)
    if sys.stdin is None:
        raise UsageError("stdin", "it is closed, so there is nothing to chat with", hint="llava ask PICTURE QUESTION")
    with Output(plain=plain, quiet=quiet) as output:
        from llava_cli.history import History
        from llava_cli.journal import Journal
        from llava_cli.repl import Repl
        from llava_cli.session import Session
        from llava_cli.sources import open_source

        limits = options.picture_limits(chosen)
        seen = [open_source(source, limits=limits) for source in pictures or []]
        history = History(recording=chosen.log)
        past = history.last_chat() if go_on else history.named(name) if name else None
        if go_on and past is None:
            raise UsageError("--continue", "there is no chat in the log yet", hint="llava chat PICTURE begins one")
        if name is not None and past is None:
            output.note(f"there is no chat called {name} yet, so a new one begins")
        own = options.own_files(model_path, projector_path, prompt_layout)
        last = next(iter(history.turns(past.id)[-1:]), None) if past is not None else None
        place, named = placed(
            chosen, output, output.stage_here, model=model, endpoint=endpoint, own=own, last=last, cache=cache
        )
        # It may be missing: that is said before the greeting, not after it.
        place.require(named)
        session = Session(
            place, named,
            sampling=chosen.sampling, journal=Journal(history, name or ""), system=chosen.system, limits=limits,
        )  # fmt: skip
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
