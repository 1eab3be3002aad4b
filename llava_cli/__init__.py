"""Ask questions about pictures on your own computer, with LLaVA on a CPU.

>>> from llava_cli import load
>>> with load("shapes") as model:
...     print(model.ask("examples/scene.png", "What color is the circle?"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llava_cli.chat import Chat
    from llava_cli.errors import LlavaError
    from llava_cli.handler import LlavaChatHandler
    from llava_cli.model import Model, load
    from llava_cli.pictures import Picture, open_picture
    from llava_cli.prefix_cache import PrefixCache
    from llava_cli.reply import Reply
    from llava_cli.settings import LoadOptions, Sampling

__version__ = "0.1.0"

__all__ = [
    "Chat",
    "LlavaChatHandler",
    "LlavaError",
    "LoadOptions",
    "Model",
    "Picture",
    "PrefixCache",
    "Reply",
    "Sampling",
    "load",
    "open_picture",
]

_ROOMS = {
    "Chat": "chat",
    "LlavaChatHandler": "handler",
    "LlavaError": "errors",
    "LoadOptions": "settings",
    "Model": "model",
    "Picture": "pictures",
    "PrefixCache": "prefix_cache",
    "Reply": "reply",
    "Sampling": "settings",
    "load": "model",
    "open_picture": "pictures",
}


def __getattr__(name: str) -> Any:
    # `llava --help` imports this package; the engine is imported when a name is first used.
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"llava_cli.{_ROOMS[name]}"), name)
