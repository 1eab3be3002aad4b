"""`llava pull`: fetches a model; and the question `llava ask` puts if its model is not here."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llava_cli import settings
from llava_cli.commands import options
from llava_cli.commands.completion import model_names
from llava_cli.errors import UsageError
from llava_cli.render import Output
from llava_cli.stopping import stops_in_order

if TYPE_CHECKING:
    from llava_cli.pull import Pulled
    from llava_cli.registry import FileSpec, ModelSpec

_LIKE = "hf:OWNER/REPOSITORY:FILE.gguf --projector FILE.gguf"


def pull(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Which model: NAME, NAME:QUANT, or hf:OWNER/REPOSITORY:FILE.gguf for any on the Hugging Face hub.",
            show_default="the one of llava use",
            autocompletion=model_names,
        ),
    ] = None,
    projector: Annotated[
        str | None,
        typer.Option(
            help="Its projector: FILE.gguf in the same repository, or OWNER/REPOSITORY:FILE.gguf.",
            rich_help_panel="With hf:",
        ),
    ] = None,
    layout: Annotated[
        str | None,
        typer.Option(help="Its prompt layout.", show_default="what the file tells", rich_help_panel="With hf:"),
    ] = None,
    as_name: Annotated[
        str | None,
        typer.Option(
            "--name", help="What to call it here.", show_default="the name of the file", rich_help_panel="With hf:"
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Take the file the hub has now, even if it was replaced since it was listed."),
    ] = False,
    plain: options.Plain = False,
    quiet: options.Quiet = False,
) -> None:
    """Download a model: both files, checked. What was interrupted goes on where it stopped.

    llava pull llava-v1.5-7b

    llava pull hf:OWNER/REPOSITORY:MODEL.gguf --projector MMPROJ.gguf
    """
    chosen = settings.resolve({})
    wanted = name or chosen.model
    with Output(plain=plain, quiet=quiet) as output:
        from llava_cli import inventory
        from llava_cli.weights import missing_files

        if wanted.startswith("hf:"):
            spec = _from_hub(wanted, projector, layout, as_name)
            pulled = _fetch(spec, output, chosen, trust=trust)
            spec = _save(pulled, output)
        elif projector or layout or as_name:
            raise UsageError(wanted, "--projector, --layout and --name go with hf: only", hint=f"llava pull {_LIKE}")
        else:
            spec = inventory.choose(wanted).spec
            if spec.bundled:
                output.write(f"{spec.name} is part of llava: there is nothing to fetch\n")
                return
            if missing_files(spec) and not spec.fits_8gb:
                output.note(f"{spec.full_name} needs more than 8 GB of memory")
            _fetch(spec, output, chosen, trust=trust)
        output.write(f"{spec.full_name} is ready: llava ask PICTURE QUESTION -m {spec.full_name}\n")


def offer(name: str, chosen: settings.Settings, output: Output, *, yes: bool = False) -> None:
    """Fetch the model called `name` if it is not on this disk, and the user agrees; `yes` is agreement."""
    from llava_cli import inventory
    from llava_cli.weights import missing_files, size_of

    spec = inventory.choose(name).spec
    missing = missing_files(spec)
    if not missing:
        return
    if not yes:
        from llava_cli.hub_cache import cache_root

        too_large = "" if spec.fits_8gb else " and needs more than 8 GB of memory"
        question = f"Download {size_of(missing) or 'it'} to {_short(cache_root())}?"
        if not output.confirm(f"{spec.full_name} is not on this computer{too_large}. {question}", default=True):
            return
    _fetch(spec, output, chosen)


def _fetch(spec: ModelSpec, output: Output, chosen: settings.Settings, *, trust: bool = False) -> Pulled:
    from llava_cli.hub_cache import cache_root
    from llava_cli.progress import PullDisplay
    from llava_cli.pull import pull as pull_files
    from llava_cli.weights import missing_files, size_of

    missing = missing_files(spec)
    if missing:
        size = size_of(missing)
        output.report(
            f"{spec.full_name}: fetching {f'{size} ' if size else ''}from {missing[0].repo} to {_short(cache_root())}"
        )
    with (
        stops_in_order(lambda: output.report("stopped; what has come is kept: the same command goes on there")),
        PullDisplay(output) as display,
    ):
        pulled = pull_files(
            spec,
            on_progress=display.progress,
            on_note=display.note,
            trust=trust,
            projector_quant=chosen.load.projector_quant,
        )
    for note in pulled.weights.notes:
        output.note(note)
    return pulled


def _from_hub(wanted: str, projector: str | None, layout: str | None, name: str | None) -> ModelSpec:
    """Make the spec of a pair on the hub, as it is named on the command line."""
    from llava_cli import hub, registry
    from llava_cli.prompts import find_layout

    model = _file(wanted, "")
    if projector is None:
        beside = [one for one in hub.list_files(model.repo) if "mmproj" in one]
        hint = f"{model.repo} has {', '.join(beside)}" if beside else f"llava pull {_LIKE}"
        raise UsageError("--projector", "a model needs its projector", hint=hint)
    called = name or Path(model.name).stem
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", called):
        raise UsageError(called, "not a name for a model: letters, digits, dots and dashes", hint="--name NAME")
    if any(one.name.casefold() == called.casefold() for one in registry.published_specs()):
        raise UsageError(called, "there is a model of this name already", hint="--name ANOTHER")
    quant = re.search(r"(?i)(?:^|[-_.])((?:iq|q)\d\w*|bf16|f16|f32)$", Path(model.name).stem)
    return registry.ModelSpec(
        name=called,
        summary=f"{model.name} of {model.repo}",
        layout="" if layout is None else find_layout(layout).name,
        model=model,
        projector=_file(projector, model.repo),
        quant=quant[1] if quant else "gguf",
        quants=(quant[1] if quant else "gguf",),
    )


def _file(text: str, repo: str) -> FileSpec:
    from llava_cli.registry import FileSpec

    if repo and ":" not in text:
        return FileSpec(repo, text)
    owner, _, name = text.removeprefix("hf:").partition(":")
    if not name or owner.count("/") != 1:
        raise UsageError(text, "not a file on the hub", hint=f"llava pull {_LIKE}")
    return FileSpec(owner, name)


def _save(pulled: Pulled, output: Output) -> ModelSpec:
    from llava_cli import own_models
    from llava_cli.gguf_file import read_header
    from llava_cli.gguf_projector import HIDDEN_PINPOINTS, PINPOINTS

    model, projector = (read_header(path).metadata for path in (pulled.weights.model, pulled.weights.projector))
    side, patch = (int(str(projector[f"clip.vision.{key}"])) for key in ("image_size", "patch_size"))
    tiles = PINPOINTS in projector or HIDDEN_PINPOINTS in projector
    context = model.get(f"{model.get('general.architecture')}.context_length")
    spec = replace(
        pulled.spec,
        layout=pulled.weights.layout,
        picture_tokens=None if tiles else (side // patch) ** 2,
        context=int(str(context)) if context else None,
    )
    output.note(f"{spec.name} is kept in {_short(own_models.save(spec))}, in the layout {spec.layout}")
    return spec


def _short(path: Path) -> str:
    try:
        return f"~/{path.relative_to(Path.home())}"
    except ValueError:
        return str(path)
