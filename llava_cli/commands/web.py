"""`llava web`: a page in the browser, with a picture on the left and a chat about it on the right."""

from __future__ import annotations

import os
import secrets
import tempfile
import threading
import webbrowser
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.pull import offer
from llava_cli.errors import UsageError
from llava_cli.render import Output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llava_cli.handler import StageListener
    from llava_cli.model import Model


def web(
    picture: Annotated[
        str | None,
        typer.Argument(help="A picture to begin with: a file, an http(s) address or clip:.", show_default=False),
    ] = None,
    model: options.Model = None,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 is every network, and needs a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free.", min=0, max=65535)] = 7860,
    password: Annotated[
        bool, typer.Option("--password", help="Ask visitors for a password, which is made up and shown here.")
    ] = False,
    password_env: Annotated[
        str,
        typer.Option(metavar="NAME", help="The environment variable that holds the password.", show_default=False),
    ] = "",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    top_p: options.TopP = None,
    log: options.Log = None,
    quiet: options.Quiet = False,
    yes: options.Yes = False,
    model_path: options.ModelPath = None,
    projector_path: options.ProjectorPath = None,
    prompt_layout: options.PromptLayout = None,
    detail: options.Detail = None,
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
    """Chat about pictures in the browser.

    llava web photo.jpg

    Nothing leaves this computer. Ctrl-C ends it.
    """
    chosen = settings.resolve(
        {
            "model": model, "system": system, "temperature": temperature, "max_tokens": max_tokens,
            "seed": seed, "top_p": top_p, "detail": detail, "context": context, "threads": threads,
            "ubatch": ubatch, "flash_attention": flash_attention, "repack": repack, "kv": kv,
            "memory_check": memory_check, "max_megapixels": max_megapixels, "log": log,
        }
    )  # fmt: skip
    if not find_spec("gradio") or not find_spec("uvicorn"):
        raise UsageError("llava web", "it needs Gradio", hint="pip install 'llava-cli[web]'")
    with Output(quiet=quiet) as output:
        from llava_cli.guard import Rules
        from llava_cli.listening import address_of, bind, is_loopback, own_names, serve
        from llava_cli.sources import open_source

        with bind(host, port) as taken, _uploads() as uploads:
            secret = _password(password_env, is_new=password, is_needed=not is_loopback(taken))
            how: dict[str, Any] = {"allow_truncated": allow_truncated, "limits": options.picture_limits(chosen)}
            first = None if picture is None else open_source(picture, **how)

            from llava_cli import inventory
            from llava_cli.history import History
            from llava_cli.web_chat import Models, Visitors

            own_files = model_path is not None or projector_path is not None
            if own_files:
                named = (model_path or Path("model")).stem
            else:
                offer(chosen.model, chosen, output, yes=yes)
                named = inventory.choose(chosen.model).spec.full_name

            def open_model(name: str, on_stage: StageListener) -> Model:
                from llava_cli.model import load

                files: dict[str, Any] = {
                    "model_path": model_path, "projector_path": projector_path, "prompt_layout": prompt_layout,
                }  # fmt: skip
                which = files if own_files and name == named else {}
                return load(
                    name, **which, options=chosen.load, sampling=chosen.sampling, on_stage=on_stage, cache=cache
                )

            history = History(recording=chosen.log)
            with Models(open_model, named, inventory.names_on_disk(), output.stage) as models:
                output.end_stage()
                said = models.notes
                for note in said:
                    output.note(note)

                from llava_cli.web_guard import PageGuard
                from llava_cli.web_page import build

                visitors = Visitors(models, history, chosen.sampling)
                page = build(visitors, uploads, chosen, first, **how)
                rules = Rules(frozenset(map(str.lower, [host, *own_names()])))
                address = f"{address_of(taken)}/"

                def greet() -> None:
                    output.write(f"{address}\n")
                    if secret:
                        made_up = "" if password_env else f" (shown this once): {secret}"
                        output.say(f"the page asks for the password{made_up}")
                    if not is_loopback(taken):
                        output.note("nothing is encrypted on its way; so browsers elsewhere do not lend their cameras")
                    output.report("Ctrl-C ends it")
                    if browser:
                        _open_browser(address)

                guarded = PageGuard(page, rules, uploads, secret)
                serve(guarded, taken, on_start=greet, on_stop=models.engine.close, has_lifespan=True)
            for note in (*history.notes, *models.notes[len(said) :]):
                output.note(note)


def _password(variable: str, *, is_new: bool, is_needed: bool) -> str:
    if variable:
        if password := os.environ.get(variable, ""):
            return password
        hint = f"export {variable}=…, or let --password make one up"
        raise UsageError(variable, "that variable of the environment holds no password", hint=hint)
    if is_needed and not is_new:
        why = "others could use the model and see what it is shown, so the page must ask for a password"
        raise UsageError("--host", why, hint="add --password, or --password-env NAME")
    return secrets.token_hex(6) if is_new else ""


@contextmanager
def _uploads() -> Iterator[Path]:
    """Make a folder for what visitors upload, for nobody else to look into, and gone with the page."""
    with tempfile.TemporaryDirectory(prefix="llava-web-") as folder:
        # Gradio reads these when it is imported. Of what happens here nobody else is to hear.
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False")
        yield Path(folder)


def _open_browser(address: str) -> None:
    def work() -> None:
        with suppress(webbrowser.Error):
            found = webbrowser.get()
            # One without a window of its own would take this terminal away.
            if isinstance(found, webbrowser.BackgroundBrowser) or not isinstance(found, webbrowser.GenericBrowser):
                found.open(address)

    threading.Thread(target=work, name="llava opens the browser", daemon=True).start()
