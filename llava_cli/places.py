"""Knows the two places where models are: this computer, and another server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from llava_cli.chat import Opened
from llava_cli.errors import ModelMissing
from llava_cli.settings import LoadOptions, Sampling, Settings

if TYPE_CHECKING:
    from llava_cli.handler import StageListener
    from llava_cli.model import Model
    from llava_cli.prefix_cache import PrefixCache
    from llava_cli.remote_model import RemoteModel


class Place(Protocol):
    """Where models are, and how one of them is opened."""

    @property
    def is_here(self) -> bool:
        """Tell whether that is this computer."""
        ...

    def choose(self, name: str | None, usual: str) -> str:
        """Return what to open if the user says `name`, and what without it."""
        ...

    def names(self) -> list[tuple[str, str]]:
        """List the models, each with what it is."""
        ...

    def require(self, name: str) -> None:
        """Raise `ModelMissing` if there is no such model."""
        ...

    def open(self, name: str) -> Opened:
        """Open the model called `name`."""
        ...


def place_of(
    chosen: Settings, on_stage: StageListener, *, cache: bool | PrefixCache = True, own: Mapping[str, Any] | None = None
) -> Here | There:
    """Return the place that the settings choose; `own` are files of the user's own here, as `load` takes them."""
    if chosen.endpoint:
        return There(chosen.endpoint, chosen.api_key_env, chosen.sampling, chosen.load, on_stage)
    return Here(chosen.load, chosen.sampling, on_stage, cache, own or {})


@dataclass(frozen=True)
class Here:
    """The models of this computer, and `own` files, which have the name of the model file."""

    options: LoadOptions
    sampling: Sampling
    on_stage: StageListener
    cache: bool | PrefixCache
    own: Mapping[str, Any] = field(default_factory=dict)
    is_here = True

    @property
    def own_name(self) -> str:
        """Return the name of the user's own files, if there are any."""
        return Path(self.own.get("model_path") or "model").stem if self.own else ""

    def choose(self, name: str | None, usual: str) -> str:
        """Return what to open if the user says `name`, and the `usual` model without it."""
        return self.own_name or name or usual

    def names(self) -> list[tuple[str, str]]:
        """List the models of the registry."""
        from llava_cli import registry

        return [(spec.name, spec.summary) for spec in registry.all_specs()]

    def require(self, name: str) -> None:
        """Raise `ModelMissing` if it is unknown or not on disk."""
        from llava_cli import inventory
        from llava_cli.weights import find_weights

        if name != self.own_name:
            find_weights(inventory.choose(name).spec)

    def open(self, name: str) -> Model:
        """Load it."""
        from llava_cli.model import load

        which = self.own if name == self.own_name else {}
        return load(
            name, **which, options=self.options, sampling=self.sampling, on_stage=self.on_stage, cache=self.cache
        )


@dataclass(frozen=True)
class There:
    """The models of an OpenAI-compatible server."""

    address: str
    api_key_env: str
    sampling: Sampling
    options: LoadOptions
    on_stage: StageListener
    is_here = False

    def names(self) -> list[tuple[str, str]]:
        """Ask the server which it has."""
        with self.open("?") as model:
            return [(name, f"at {model.endpoint.host}") for name in model.names()]

    def require(self, name: str) -> None:
        """Raise `ModelMissing` if the server tells which models it has, and this is none of them."""
        known = [known for known, _ in self.names()]
        if known and name not in known:
            raise ModelMissing(name, "the server does not have it", hint=f"it has {', '.join(known[:12])}")

    def choose(self, name: str | None, usual: str) -> str:
        """Return `name`, or without one the server's only model; of several the `usual` one, if it is there."""
        if name is not None:
            return name
        with self.open("?") as model:
            return model.usual(usual)

    def open(self, name: str) -> RemoteModel:
        """Return it; nothing is sent yet."""
        from llava_cli.remote_model import connect

        return connect(
            self.address, name, api_key_env=self.api_key_env, sampling=self.sampling, on_stage=self.on_stage,
            detail="low" if self.options.detail == "low" else None,
        )  # fmt: skip
