"""The options that several commands share: the same name, the same short form and the same words everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llava_cli import settings
from llava_cli.commands.completion import any_files, model_names, template_names
from llava_cli.errors import UsageError

if TYPE_CHECKING:
    from llava_cli.pictures import PictureLimits

_LOAD, _SAMPLING = settings.LoadOptions(), settings.Sampling()

HELP = {"help_option_names": ["-h", "--help"]}
"""`context_settings` of every command group."""

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help="Which model, as in llava models; NAME:QUANT for one quant of it.",
        show_default=f"{settings.DEFAULT_MODEL}, unless llava use has set another",
        autocompletion=model_names,
    ),
]
ModelName = Annotated[str, typer.Argument(help="NAME or NAME:QUANT.", autocompletion=model_names, show_default=False)]
ModelNames = Annotated[
    list[str], typer.Argument(help="NAME or NAME:QUANT.", autocompletion=model_names, show_default=False)
]
ModelNamesOrAll = Annotated[
    list[str] | None, typer.Argument(help="NAME or NAME:QUANT.", autocompletion=model_names, show_default="all")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask whether to go on; do it.")]
System = Annotated[
    str | None,
    typer.Option("--system", "-s", help="System prompt, in place of the one the model was trained with."),
]
Temperature = Annotated[
    float | None,
    typer.Option(
        "--temperature",
        "-t",
        help="How freely to draw; 0: always the likeliest token.",
        show_default=str(_SAMPLING.temperature),
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option("--max-tokens", "-n", help="Longest answer, in tokens.", show_default=str(_SAMPLING.max_tokens)),
]
Seed = Annotated[int | None, typer.Option(help="Repeat an answer that was drawn with this seed.")]
TopP = Annotated[
    float | None,
    typer.Option(
        help="Draw only from the likeliest tokens that have this share together.", show_default=str(_SAMPLING.top_p)
    ),
]

Schema = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|JSON|FIELDS",
        help="Answer in JSON that satisfies this JSON schema; in short: 'color, count int'.",
        autocompletion=any_files,
        rich_help_panel="Shape of the answer",
    ),
]
Choices = Annotated[
    str | None,
    typer.Option(
        metavar="YES,NO",
        help="Choose one of these answers, and say how probable it is.",
        rich_help_panel="Shape of the answer",
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        "--template", help="Ask as this one says (llava template); flags go before it.",
        autocompletion=template_names,
    ),
]  # fmt: skip
TemplateName = Annotated[str, typer.Argument(help="Its name.", autocompletion=template_names, show_default=False)]

GoOn = Annotated[
    bool, typer.Option("--continue", "-c", help="Go on with the last chat: its picture, its model, what was said.")
]
Log = Annotated[bool | None, typer.Option("--log/--no-log", help="Write it down in the log.", show_default="--log")]

Stats = Annotated[bool, typer.Option("--stats", help="Print one line of numbers to stderr.")]
LOOK = "How it looks"
"""The panel of these, which all commands have (`commands/look.py`)."""
Plain = Annotated[bool, typer.Option("--plain", help="No Markdown, colours or moving lines.", rich_help_panel=LOOK)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No stages and notes on stderr.", rich_help_panel=LOOK)]
Raw = Annotated[
    bool,
    typer.Option(
        "--raw",
        help="Write the answer as the model wrote it, control codes and all; not to a terminal.",
        rich_help_panel=LOOK,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]

Endpoint = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Ask an OpenAI-compatible server (vLLM, llama-server, Ollama …) in place of this computer.",
        show_default=False,
        rich_help_panel="Another server",
    ),
]
ApiKeyEnv = Annotated[
    str | None,
    typer.Option(
        "--api-key-env",
        metavar="NAME",
        help="The variable of the environment that holds the key for it.",
        show_default=False,
        rich_help_panel="Another server",
    ),
]

ModelPath = Annotated[
    Path | None,
    typer.Option(help="A model file (GGUF) on disk.", autocompletion=any_files, rich_help_panel="Your own files"),
]
ProjectorPath = Annotated[
    Path | None,
    typer.Option(help="Its projector file (mmproj GGUF).", autocompletion=any_files, rich_help_panel="Your own files"),
]
PromptLayout = Annotated[
    str | None,
    typer.Option(
        help="Its prompt layout: llava_v1, mistral_instruct, chatml_direct, llama3 or phi3.",
        show_default="what the file tells, if it does",
        rich_help_panel="Your own files",
    ),
]

Detail = Annotated[
    str | None,
    typer.Option(
        metavar="low|high",
        help="How closely LLaVA-1.6 looks: low is quick and coarse. LLaVA-1.5 has one look only.",
        show_default=_LOAD.detail,
        rich_help_panel="Picture",
    ),
]
Crop = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y,WIDTH,HEIGHT",
        help="Show only this part of the picture, in percent (10%,20%,50%,40%) or pixels.",
        rich_help_panel="Picture",
    ),
]
ShowInput = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.png",
        help="Write exactly what the model sees of the picture.",
        autocompletion=any_files,
        rich_help_panel="Picture",
    ),
]
Frame = Annotated[int, typer.Option(help="Which frame or page of an animation, from 0.", rich_help_panel="Picture")]
MaxMegapixels = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Decode pictures of up to so many megapixels.",
        show_default="40, and what 500 MB of memory decode",
        rich_help_panel="Picture",
    ),
]
AllowTruncated = Annotated[
    bool, typer.Option("--allow-truncated", help="Use what is there of a cut file.", rich_help_panel="Picture")
]

Context = Annotated[
    int | None,
    typer.Option(
        help="Context window, in tokens.", show_default="room for the largest picture", rich_help_panel="Machine"
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(help="CPU threads.", show_default="one per physical core", rich_help_panel="Machine"),
]
Ubatch = Annotated[
    int | None,
    typer.Option(help="Cells evaluated in one go.", show_default="a whole picture: 640", rich_help_panel="Machine"),
]
FlashAttention = Annotated[
    bool | None,
    typer.Option("--flash-attention/--no-flash-attention", help="Compute attention the faster way.",
                 show_default="on", rich_help_panel="Machine"),
]  # fmt: skip
Repack = Annotated[
    bool | None,
    typer.Option("--repack/--no-repack", help="Copy the weights into a layout of this processor while loading.",
                 show_default="where that is faster", rich_help_panel="Machine"),
]  # fmt: skip
KvType = Annotated[
    str | None,
    typer.Option("--kv", help="Numbers in the context window: f16, or q8_0 in half the memory.",
                 show_default=_LOAD.kv, rich_help_panel="Machine"),
]  # fmt: skip
MemoryCheck = Annotated[
    bool | None,
    typer.Option("--memory-check/--no-memory-check", help="Refuse a model that does not fit into memory.",
                 show_default="on", rich_help_panel="Machine"),
]  # fmt: skip
Cache = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache",
        help="Keep what was read of the picture on disk, and use what is there.",
        rich_help_panel="Machine",
    ),
]

_ABOUT_A_MODEL_HERE = {
    "model_path", "projector_path", "prompt_layout", "context", "threads", "ubatch", "flash_attention", "repack", "kv",
    "memory_check", "cache",
}  # fmt: skip
"""Parameters that mean nothing to a server."""


def own_files(model_path: Path | None, projector_path: Path | None, prompt_layout: str | None) -> dict[str, Any]:
    """Return files that the user named, as `load` takes them; nothing if there are none."""
    if model_path is None and projector_path is None:
        return {}
    return {"model_path": model_path, "projector_path": projector_path, "prompt_layout": prompt_layout}


def picture_limits(chosen: settings.Settings) -> PictureLimits:
    """Return how large a picture may be that is opened."""
    from llava_cli.pictures import PictureLimits

    return PictureLimits.up_to(chosen.max_megapixels)


def check_endpoint(chosen: settings.Settings, typed: typer.Context) -> None:
    """Raise `UsageError` for an option on the command line that would do nothing without a word."""
    given = {}
    for parameter in typed.command.params:
        source = typed.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "COMMANDLINE":
            off = typed.params.get(parameter.name or "") is False and parameter.secondary_opts
            given[parameter.name] = (parameter.secondary_opts if off else parameter.opts)[0]
    if chosen.endpoint and (useless := sorted(_ABOUT_A_MODEL_HERE & given.keys())):
        why = "it is about a model on this computer, and --endpoint asks one elsewhere"
        raise UsageError(given[useless[0]], why, hint="leave one of the two out")
    if chosen.api_key_env and not chosen.endpoint and "api_key_env" in given:
        raise UsageError("--api-key-env", "there is no server to show a key to", hint="--endpoint URL names it")
