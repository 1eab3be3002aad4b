"""`llava web`: a page in the browser, with a picture on the left and a chat about it on the right."""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.pull import offer
from llava_cli.errors import UsageError
from llava_cli.render import Output
from llava_cli.stopping import stops_in_order

if TYPE_CHECKING:
    from llava_cli.handler import StageListener
    from llava_cli.model import Model

_PASSWORD = "LLAVA_WEB_PASSWORD"


def web(
    picture: Annotated[
        str | None,
        typer.Argument(help="A picture to begin with: a file, an http(s) address or clip:.", show_default=False),
    ] = None,
    model: options.Model = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where the page is; 0: wherever there is room.")] = 7860,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Who can reach it: this computer alone, or 0.0.0.0 for the network.")
    ] = "127.0.0.1",
    password: Annotated[
        bool,
        typer.Option("--password", help=f"Ask for a password: that in {_PASSWORD}, or one that is made up and shown."),
    ] = False,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    top_p: options.TopP = None,
    log: options.Log = None,
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
    """Chat about pictures in the browser.

    llava web photo.jpg

    llava web --host 0.0.0.0 --password    # for phones in the same network, too
    """
    chosen = settings.resolve(
        {
            "model": model, "system": system, "temperature": temperature, "max_tokens": max_tokens,
            "seed": seed, "top_p": top_p, "detail": detail, "context": context, "threads": threads,
            "ubatch": ubatch, "flash_attention": flash_attention, "repack": repack, "kv": kv,
            "memory_check": memory_check, "log": log,
        }
    )  # fmt: skip
    from llava_cli.web_guard import Guard, is_loopback
    from llava_cli.web_server import address_of, listen, open_browser, serve

    secret = os.environ.get(_PASSWORD, "") or (secrets.token_hex(6) if password else "")
    if not secret and not is_loopback(host):
        why = "others could use this model and see its pictures, so it needs a password"
        raise UsageError(f"--host {host}", why, hint=f"add --password, or set {_PASSWORD}")
    with (
        Output(quiet=quiet) as output,
        listen(host, port) as sock,
        tempfile.TemporaryDirectory(prefix="llava-web-", ignore_cleanup_errors=True) as uploads,
    ):
        _require_gradio(uploads)
        from llava_cli import inventory
        from llava_cli.engine import Engine
        from llava_cli.history import History
        from llava_cli.model import load
        from llava_cli.sources import open_source
        from llava_cli.web_chat import Models, Visitors

        first = None if picture is None else open_source(picture)
        named, files = chosen.model, {"model_path": model_path, "projector_path": projector_path}
        if own := any(files.values()):
            named = Path(model_path or "model").stem
            files["prompt_layout"] = prompt_layout
        else:
            offer(named, chosen, output)
            named = inventory.choose(named).spec.full_name

        names = inventory.names_on_disk()

        def open_model(wanted: str, on_stage: StageListener) -> Model:
            which: dict[str, Any] = files if own and wanted == named else {}
            return load(wanted, **which, options=chosen.load, sampling=chosen.sampling, on_stage=on_stage, cache=cache)

        opened = open_model(named, output.stage)
        output.end_stage()
        for note in opened.notes:
            output.note(note)
        engine, history = Engine(opened), History(recording=chosen.log)
        try:
            from llava_cli.web_page import build

            models = Models(engine, [named, *(name for name in names if name != named)], named, open_model)
            visitors = Visitors(models, history, chosen.sampling)
            app = Guard(build(visitors, Path(uploads), chosen, first, _notice(chosen.log)), host, Path(uploads), secret)
            address = address_of(sock)

            def say_where() -> None:
                output.write(f"{address}\n")
                if secret and not os.environ.get(_PASSWORD):
                    output.say(f"password: {secret}")
                if not is_loopback(host):
                    output.note("what goes between here and other computers is not encrypted; their cameras need that")
                output.report("Ctrl-C ends it")
                if browser:
                    open_browser(address)

            with stops_in_order(lambda: None), suppress(KeyboardInterrupt):
                serve(app, sock, on_start=say_where, on_stop=opened.stop)
        finally:
            engine.close()
            said = engine.model.notes
            engine.model.close()
        for note in (*history.notes, *engine.model.notes[len(said) :]):
            output.note(note)


def _require_gradio(uploads: str) -> None:
    """Raise `UsageError` if Gradio is not here; tell it where files go, and that nobody else is to hear of them."""
    os.environ.update(
        GRADIO_TEMP_DIR=uploads, GRADIO_ANALYTICS_ENABLED="False", GRADIO_ALLOWED_PATHS="", GRADIO_SHARE="False"
    )
    try:
        import gradio  # noqa: F401
    except ImportError as error:
        why = f"it needs Gradio, which is not installed ({error})"
        raise UsageError("llava web", why, hint="pip install 'llava-cli[web]'") from error


def _notice(log: bool) -> str:
    kept = "Questions and answers are written into its log (`llava log`)." if log else "Nothing is written down."
    return f"Pictures, questions and answers stay on the computer that runs llava. {kept}"
