"""`llava doctor --fidelity`: are the picture features those of LLaVA's authors, on this computer, with this model?"""

from __future__ import annotations

import json
from pathlib import Path

from llava_cli.errors import EngineFailed
from llava_cli.render import Output
from llava_cli.settings import LoadOptions


def check_fidelity(
    output: Output,
    name: str,
    options: LoadOptions,
    model_path: Path | None = None,
    projector_path: Path | None = None,
    *,
    as_json: bool = False,
) -> None:
    """Compare the fast path with the second opinion on a built-in picture; raise `EngineFailed` if they differ."""
    from llava_cli.model import load
    from llava_cli.second_opinion import compare, paint_test_card, reference_features
    from llava_cli.weights import find_weights

    picture = paint_test_card()
    with load(
        name,
        model_path=model_path,
        projector_path=projector_path,
        prompt_layout="llava_v1",  # of files given; no word is asked
        options=options,
        on_stage=output.stage,
        cache=False,
    ) as model:
        for note in model.notes:
            output.note(note)
        ours = model.embed(picture)
        projector = find_weights(model.spec).projector
    output.stage("checking", 0)
    verdict = compare(reference_features(projector, picture), ours, projector)
    output.end_stage()
    if as_json:
        facts = {"projector": projector.name, "is_faithful": verdict.is_faithful, **vars(verdict)}
        output.write(json.dumps(facts, indent=2) + "\n")
    used = ", used as Q8_0" if options.projector_quant == "q8_0" else ""
    rows = [
        ("projector", f"{projector.name} ({verdict.storage}{used})"),
        ("picture tokens", str(verdict.tokens)),
        ("cosine of the worst token", f"{verdict.cosine:.7f}"),
        ("needed", f"{verdict.needed}"),
        ("verdict", "faithful" if verdict.is_faithful else "not faithful"),
    ]
    if not as_json:
        output.table(("fidelity", ""), rows, (str, str))
    if not verdict.is_faithful:
        raise EngineFailed(
            projector.name,
            f"its picture features differ from the reference (cosine {verdict.cosine:.4f} at worst)",
            hint="this llama-cpp-python may be unknown: pip install 'llama-cpp-python==0.3.36'; if it stays, report it",
        )
