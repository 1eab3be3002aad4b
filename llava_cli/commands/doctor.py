"""`llava doctor`: what is wrong, what mends it, and what a model takes beside what this machine has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from llava_cli import inventory, settings
from llava_cli.amounts import in_bytes
from llava_cli.commands import options
from llava_cli.commands.fidelity import check_fidelity
from llava_cli.errors import UsageError
from llava_cli.render import Output

if TYPE_CHECKING:
    from llava_cli.checkup import Checkup
    from llava_cli.fitting import Fit
    from llava_cli.settings import LoadOptions


def doctor(
    model: options.Model = None,
    model_path: options.ModelPath = None,
    projector_path: options.ProjectorPath = None,
    prompt_layout: options.PromptLayout = None,
    context: options.Context = None,
    threads: options.Threads = None,
    ubatch: options.Ubatch = None,
    flash_attention: options.FlashAttention = None,
    repack: options.Repack = None,
    kv: options.KvType = None,
    tune: Annotated[
        bool,
        typer.Option("--tune", help="Measure for up to two minutes which way of opening this model is the fastest."),
    ] = False,
    fidelity: Annotated[
        bool, typer.Option("--fidelity", help="Compare the picture features with the authors' computation, in NumPy.")
    ] = False,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
) -> None:
    """Look over this installation: problems first, then memory, processor, versions and places.

    llava doctor

    llava doctor -m shapes --fidelity

    The exit code is that of the first problem that stops llava.
    """
    flags = {
        "model": model, "context": context, "threads": threads, "ubatch": ubatch,
        "flash_attention": flash_attention, "repack": repack, "kv": kv,
    }  # fmt: skip
    mistake = _mistake()
    chosen = settings.resolve(flags) if mistake is None else settings.Settings()
    with Output(quiet=quiet) as output:
        if fidelity:
            check_fidelity(output, chosen.model, chosen.load, model_path, projector_path, as_json=as_json)
            return
        from llava_cli.checkup import Finding, check_up

        spec = inventory.spec_of(chosen.model, model_path, projector_path, prompt_layout)
        found = check_up(spec, chosen.load)
        if tune and found.fit is not None and not found.exit_code:
            _tune(found.fit, chosen.load, output)
            found = check_up(spec, chosen.load)
        if mistake is not None:
            found.findings.insert(0, Finding(mistake))
        if as_json:
            output.write(json.dumps(found.as_json(), indent=2) + "\n")
        else:
            _show(found, output)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def _mistake() -> UsageError | None:
    """Return what is wrong with the config file or the environment: that is a finding, and must not hide the others."""
    try:
        settings.resolve({})
    except UsageError as error:
        return error
    return None


def _tune(fitted: Fit, asked: LoadOptions, output: Output) -> None:
    """Measure the choices that are left open, and keep the winner for every later run."""
    from llava_cli import engine_log, policy, tuning
    from llava_cli.weights import find_weights

    engine_log.silence()
    path = find_weights(fitted.spec).model
    tries = tuning.candidates(fitted, asked)
    trials = tuning.measure(path, tries, lambda number, count: output.busy(f"trying way {number} of {count}"))
    output.end_stage()
    for trial in trials:
        output.note(
            f"{output.options_line(trial.options)}: loads in {trial.load_seconds:.1f} s,"
            f" reads {trial.cells_per_second:.1f} tokens/s"
        )
    winner = tuning.best(trials, tuning.PICTURE_CELLS)
    kept = policy.remember(path, winner.options, asked)
    output.note(f"{'from now on' if kept else 'best, but it cannot be kept'}: {output.options_line(winner.options)}")


def _show(found: Checkup, output: Output) -> None:
    for finding in found.findings:
        output.finding(finding.error, stops=finding.stops)
    if not found.findings:
        output.write("no problems\n")
    if found.fit is not None:
        output.write(f"\nmemory for {found.fit.spec.name}, {output.options_line(found.fit.options)}\n\n")
        output.table(("what", "takes", "when"), list(_memory(found)), (str, in_bytes, str))
    output.write("\n")
    output.table(
        ("what this machine has", "free", "of"),
        [(limit.name, limit.room, limit.total) for limit in found.limits],
        (str, in_bytes, in_bytes),
    )
    output.write("\n")
    output.table(("fact", ""), list(found.facts.items()), (str, str))


def _memory(found: Checkup) -> Iterator[tuple[str, int, str]]:
    if found.fit is None:
        return
    plan = found.fit.plan
    yield "weights", plan.weights, "always; mapped, so the system may take pages back, but then it is slow"
    if plan.repacked:
        yield "weights, repacked", plan.repacked, "always"
    yield "context (KV cache)", plan.kv, "always"
    yield "program and vocabulary", plan.program, "always"
    yield "working memory", plan.reading, "while it reads and writes"
    yield "vision tower", plan.looking, "while it looks at a new picture"
    yield "picture on its way to disk", plan.keeping, "after the answer"
    yield "highest at one time", plan.peak, "of it not to be given up: " + in_bytes(plan.private)
