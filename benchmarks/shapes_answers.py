"""Ask `shapes` the questions of `training/evaluate.py`, and print as JSON what it answered and how it was opened.

`python -m benchmarks.shapes_answers --scenes 10`: five questions about each scene, each alone and all in one chat.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import asdict
from pathlib import Path

from llava_cli import LoadOptions, load, registry
from llava_cli.policy import cpu_features
from llava_cli.weights import find_weights
from training.evaluate import FIRST_SEED, TURNS, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--model", type=Path, help="another quant of the language model of shapes")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--repack", action=argparse.BooleanOptionalAction, help="in place of what llava chooses")
    chosen = parser.parse_args()
    bundled = find_weights(registry.find("shapes"))
    with load(
        model_path=chosen.model or bundled.model,
        projector_path=bundled.projector,
        prompt_layout="llava_v1",
        options=LoadOptions(threads=chosen.threads, repack=chosen.repack),
        cache=False,
    ) as model:
        began = time.monotonic()
        told = {
            "machine": platform.machine(),
            "features": sorted(cpu_features()),
            "options": asdict(model.options),
            "answers": [
                {"scene": scene.seed, "way": way, "question": question.text, "answer": answer, "truth": question.answer}
                for way, scene, question, answer in run(model, range(FIRST_SEED, FIRST_SEED + chosen.scenes), TURNS)
            ],
            "seconds": time.monotonic() - began,
        }
    print(json.dumps(told))


if __name__ == "__main__":
    main()
