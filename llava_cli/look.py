"""Knows how the user wants to see things: in colours or not, plainly, quietly, or with all that was chosen and used."""

from __future__ import annotations

import os
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """How all commands show what they have to say."""

    plain: bool = False
    quiet: bool = False
    verbose: bool = False


_NO_WISHES = Look()
_look: ContextVar[Look] = ContextVar("look", default=_NO_WISHES)


def current_look() -> Look:
    """Return how things are to look now."""
    return _look.get()


def forget_look() -> None:
    """Begin anew: nothing is asked for."""
    _look.set(_NO_WISHES)


def set_look(look: Look) -> None:
    """Let every `Output` from now on look like this; what was asked for before stays asked for."""
    before = _look.get()
    _look.set(Look(before.plain or look.plain, before.quiet or look.quiet, before.verbose or look.verbose))


def set_colours(when: str) -> None:
    """Let colours appear `always` or `never`; `auto` leaves that to the terminal and the environment."""
    # Where all libraries look for it, also those that draw the help and the line that is typed.
    if when in ("always", "never"):
        os.environ.pop("NO_COLOR" if when == "always" else "FORCE_COLOR", None)
        os.environ["FORCE_COLOR" if when == "always" else "NO_COLOR"] = "1"
