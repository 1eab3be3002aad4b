"""`llava serve`: the model for every program that speaks OpenAI's API."""

from __future__ import annotations

import importlib.util
import os
import re
import secrets
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.pull import offer
from llava_cli.engine import PLACES, Engine
from llava_cli.errors import UsageError
from llava_cli.render import Output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llava_cli.guard import App


def serve(
    model: options.Model = None,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free.", min=0, max=65535)] = 8080,
    api_key_env: Annotated[
        str,
        typer.Option(metavar="NAME", help="The environment variable that holds the API key.", show_default=False),
    ] = "",
    alias: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Another name for the model, for programs that insist on one."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name under which this computer is reached, such as pi.local."),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A site whose pages may ask, such as https://example.org."),
    ] = None,
    allow_url_images: Annotated[
        bool, typer.Option("--allow-url-images", help="Fetch pictures from public http(s) addresses in requests.")
    ] = False,
    queue: Annotated[int, typer.Option(help="How many requests may wait.", min=1)] = PLACES,
    log: Annotated[bool, typer.Option("--log", help="Write questions and answers down in the log.")] = False,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    top_p: options.TopP = None,
    plain: options.Plain = False,
    quiet: options.Quiet = False,
    yes: options.Yes = False,
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
    """Serve a model to other programs, by OpenAI's API.

    llava serve -m shapes

    Answers are written one after the other, in fair order; a picture is read once. Ctrl-C ends it.
    """
    chosen = settings.resolve(
        {
            "model": model, "system": system, "temperature": temperature, "max_tokens": max_tokens, "top_p": top_p,
            "detail": detail, "context": context, "threads": threads, "ubatch": ubatch,
            "flash_attention": flash_attention, "repack": repack, "kv": kv, "memory_check": memory_check,
        }
    )  # fmt: skip
    if not all(map(importlib.util.find_spec, ("fastapi", "uvicorn"))):
        raise UsageError("llava serve", "it needs FastAPI and uvicorn", hint="pip install 'llava-cli[serve]'")
    with Output(plain=plain, quiet=quiet) as output:
        from llava_cli.guard import Guard, Rules
        from llava_cli.listening import address_of, bind, is_loopback, own_names

        with bind(host, port) as taken:
            is_private = is_loopback(taken)
            key, is_new = _key(api_key_env, is_needed=not is_private)
            origins = _origins(cors or [], key)
            rules = Rules(frozenset(map(str.lower, [host, *own_names(), *(allow_host or [])])), origins, key)
            if model_path is None and projector_path is None:
                offer(chosen.model, chosen, output, yes=yes)

            from llava_cli.history import History
            from llava_cli.model import load

            history = History(recording=log)
            with load(
                chosen.model, model_path=model_path, projector_path=projector_path, prompt_layout=prompt_layout,
                options=chosen.load, sampling=chosen.sampling, on_stage=output.stage, cache=cache,
            ) as opened, Engine(opened, places=queue) as engine:  # fmt: skip
                output.end_stage()
                said = opened.notes
                for note in said:
                    output.note(note)
                if not is_private:
                    output.note("nothing is encrypted on its way here; across networks use a tunnel (ssh -L)")

                from llava_cli.api import Service, make_app
                from llava_cli.listening import serve as listen
                from llava_cli.request_log import RequestLog

                name = opened.spec.name
                service = Service(
                    engine,
                    names=tuple(dict.fromkeys([name, *([] if model_path else [chosen.model]), *(alias or [])])),
                    created=int(opened.weights.model.stat().st_mtime),
                    system=chosen.system,
                    allow_addresses=allow_url_images,
                    record=RequestLog(history, opened).record if log else None,
                )
                app = Guard(make_app(service), rules, output.report)
                greet = partial(_greet, output, address_of(taken), name, key if is_new else None, needs_key=bool(key))
                listen(_shared(app, origins), taken, on_start=greet, on_stop=engine.close)
        # Closing the model keeps what was read of pictures, which can fail.
        for note in (*history.notes, *opened.notes[len(said) :]):
            output.note(note)


def _key(variable: str, *, is_needed: bool) -> tuple[str | None, bool]:
    """Return the API key, if there is to be one, and whether it has just been made."""
    if variable:
        key = os.environ.get(variable, "").strip()
        if not key:
            hint = f"export {variable}=…, or leave --api-key-env out"
            raise UsageError(variable, "that variable of the environment holds no key", hint=hint)
        return key, False
    return (secrets.token_urlsafe(24), True) if is_needed else (None, False)


def _origins(sites: Sequence[str], key: str | None) -> frozenset[str]:
    for site in sites:
        if site == "*" and key is None:
            raise UsageError("--cors *", "every site's pages could ask", hint="it needs a key: --api-key-env NAME")
        if site != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", site, flags=re.IGNORECASE):
            raise UsageError(f"--cors {site}", "not an origin", hint="scheme, name and port: https://example.org:8000")
    return frozenset(site.lower() for site in sites)


def _shared(app: App, origins: frozenset[str]) -> App:
    """Let pages of these sites read the answers."""
    if not origins:
        return app
    from starlette.middleware.cors import CORSMiddleware

    return CORSMiddleware(
        app,
        allow_origins=sorted(origins),
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        expose_headers=["x-request-id", "retry-after"],
        max_age=600,
    )


def _greet(output: Output, address: str, name: str, new_key: str | None, *, needs_key: bool) -> None:
    """Say where the model is, and how a program finds it."""
    if new_key is not None:
        output.say(f"API key (shown this once): {new_key}")
    output.report(
        f"{name} answers at {address}/v1 (Ctrl-C ends it). In Python:\n"
        f'  client = openai.OpenAI(base_url="{address}/v1", api_key="{"…" if needs_key else "none"}")\n'
        f'  client.chat.completions.create(model="{name}", messages=[…])'
    )
