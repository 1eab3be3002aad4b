"""Where the model of a question is: with the chat that goes on, at the server that was named, or on this computer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from llava_cli.commands.pull import offer
from llava_cli.render import Output
from llava_cli.settings import Settings

if TYPE_CHECKING:
    from llava_cli.handler import StageListener
    from llava_cli.history import Turn
    from llava_cli.places import Here, There


def placed(
    chosen: Settings,
    output: Output,
    on_stage: StageListener,
    *,
    model: str | None = None,
    endpoint: str | None = None,
    own: Mapping[str, Any] | None = None,
    last: Turn | None = None,
    cache: bool = True,
    yes: bool = False,
) -> tuple[Here | There, str]:
    """Return where the model is, and its name; one that is not on this computer yet is offered.

    `model`, `endpoint` and `own` files are what the command line says; without any, it is the model of the `last` turn.
    """
    from llava_cli.places import place_of

    own = own or {}
    if last is not None and (model, endpoint, own) == (None, None, {}):
        which = last.load_arguments()
        chosen, model, own = replace(chosen, **last.place()), which.pop("name", None), which
    place = place_of(chosen, on_stage, cache=cache, own=own)
    name = place.choose(model, chosen.model)
    output.detail(f"model: {name}, {'on this computer' if place.is_here else f'at {chosen.endpoint}'}")
    if place.is_here and not own:
        offer(name, chosen, output, yes=yes)
    return place, name
