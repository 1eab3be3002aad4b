"""`llava template`: questions kept under a name, with all that belongs to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from llava_cli.commands import options
from llava_cli.errors import UsageError
from llava_cli.render import Output

app = typer.Typer(context_settings=options.HELP, no_args_is_help=True)


@app.callback()
def template() -> None:
    """Keep questions under a name, with how to ask them.

    llava template save alt-text "Describe this picture in one sentence." -t 0

    llava ask photo.jpg --template alt-text
    """


@app.command()
def save(
    name: options.TemplateName,
    question: Annotated[str | None, typer.Argument(help="What to ask.", show_default=False)] = None,
    model: options.Model = None,
    system: options.System = None,
    temperature: options.Temperature = None,
    max_tokens: options.MaxTokens = None,
    seed: options.Seed = None,
    top_p: options.TopP = None,
    schema: options.Schema = None,
    choices: options.Choices = None,
) -> None:
    """Keep a question, and how to ask it; what is left out stays open. One of that name is replaced.

    llava template save alt-text "Describe this picture in one sentence." -t 0

    llava ask photo.jpg --template alt-text
    """
    from llava_cli import inventory, templates
    from llava_cli.choices import read_choices
    from llava_cli.schemas import read_schema

    if model is not None:
        inventory.choose(model)
    kept = templates.Template(
        question, system, model, temperature, max_tokens, seed, top_p,
        None if schema is None else read_schema(schema).schema,
        None if choices is None else read_choices(choices),
    )  # fmt: skip
    if not kept.facts():
        raise UsageError(name, "there is nothing to keep", hint=f'llava template save {name} "What is in it?"')
    was_there = name in templates.names()
    templates.save(name, kept)
    Output().write(
        f"{'replaced' if was_there else 'saved'} {name}; ask with it: llava ask photo.jpg --template {name}\n"
    )


@app.command("list")
def list_(as_json: options.Json = False, plain: options.Plain = False) -> None:
    """List the templates; in a pipe: name, question, and the rest as JSON, with tabs between.

    llava template list --json
    """
    from llava_cli import templates

    output = Output(plain=plain)
    kept = {name: _facts(output, name) for name in templates.names()}
    if as_json:
        output.write(json.dumps([{"name": name, **facts} for name, facts in kept.items()], indent=2) + "\n")
        return
    written = _in_words if output.rich else json.dumps
    rows = [(name, facts.pop("question", ""), written(facts)) for name, facts in kept.items()]
    if not rows:
        output.note("there are no templates yet: llava template save NAME QUESTION")
    output.table(("name", "question", "with"), rows, (str, str, str))


@app.command()
def show(name: options.TemplateName, as_json: options.Json = False) -> None:
    """Show one template whole.

    llava template show alt-text
    """
    from llava_cli import templates

    facts = templates.find(name).facts()
    if as_json:
        Output().write(json.dumps({"name": name, **facts}, indent=2) + "\n")
        return
    for key, value in facts.items():
        Output().styled(f"{key}: {_written(value)}")


@app.command()
def rm(name: options.TemplateName) -> None:
    """Remove a template.

    llava template rm alt-text
    """
    from llava_cli import templates

    templates.remove(name)
    Output().write(f"removed {name}\n")


def _facts(output: Output, name: str) -> dict[str, Any]:
    from llava_cli import templates

    try:
        return templates.find(name).facts()
    except UsageError as error:
        output.note(f"{error.what}: {error.why}")
        return {}


def _in_words(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_written(value)}" for key, value in facts.items())


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
