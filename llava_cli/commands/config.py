"""`llava config` and `llava use`: what is set, and by whom; the default model."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Annotated

import typer

from llava_cli import settings
from llava_cli.amounts import in_bytes
from llava_cli.commands import options
from llava_cli.render import Output


def config(
    path: Annotated[bool, typer.Option("--path", help="Print only where the config file is.")] = False,
    as_json: options.Json = False,
) -> None:
    """Show every setting, its value, and where that comes from.

    llava config

    $EDITOR "$(llava config --path)"

    An option of a command comes first, then the environment, then the config file, then the default.
    """
    with Output() as output:
        if path:
            output.write(f"{settings.config_path()}\n")
            return
        found = settings.explain()
        if as_json:
            output.write(json.dumps([asdict(setting) for setting in found], indent=2) + "\n")
            return
        rows = [(one.key, _told(one) if output.rich else _written(one.value), one.origin) for one in found]
        output.table(("setting", "value", "from"), rows, (str, str, str))
        if output.rich and not settings.config_path().exists():
            output.note(f"there is no config file yet; it would be {settings.config_path()}")


def use(model: options.ModelName) -> None:
    """Make a model the one that is asked when none is named.

    llava use llava-v1.5-7b:Q3_K_M

    It is written into the config file; comments and other settings there stay as they are.
    """
    from llava_cli import inventory, registry
    from llava_cli.config_file import write_setting

    with Output() as output:
        spec = registry.find(model)
        name = f"{spec.name}:{spec.quant}" if ":" in model else spec.name
        path = write_setting("model", name)
        output.write(f"{name} is the default now ({path})\n")
        if not inventory.choose(name).complete:
            output.note("it is not on this computer yet")
        if set_there := os.environ.get("LLAVA_MODEL"):
            output.note(f"LLAVA_MODEL in the environment goes before it: {set_there}")


_AUTOMATIC = {"context", "threads", "ubatch", "max_megapixels", "flash_attention", "repack"}
"""Settings whose 0 or nothing leaves the choice to llava."""


def _told(setting: settings.Setting) -> str:
    """Write a value for people."""
    value = setting.value
    if setting.key in _AUTOMATIC and value is not False and not value:
        return "automatic"
    if isinstance(value, int) and setting.key == "cache_size":
        return in_bytes(value)
    return "not set" if value == "" else _written(value)


def _written(value: object) -> str:
    """Write a value as it stands in the config file."""
    if value is None:
        return "not set"
    return str(value).lower() if isinstance(value, bool) else str(value)
