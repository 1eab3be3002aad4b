"""What the gate lets through is never the end of the process, whatever is in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.processes import ROOT


def run(tmp_path: Path, seed: int, count: int) -> dict[str, Any]:
    # A process of its own: the children must not inherit what pytest has open.
    environment = {**os.environ, "LLAVA_CACHE": str(tmp_path)}
    command = [sys.executable, "-m", "tests.mutations", str(seed), str(count)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_fifty_changed_pairs_that_pass_the_gate_end_no_process(tmp_path: Path) -> None:
    """`python -m tests.mutations 1 50 NUMBER` runs one of them again."""
    found = run(tmp_path, 1, 50)
    assert (50, {}) == (found["passed"], found["faults"])
    assert found["refused"] > 20


@pytest.mark.slow
def test_two_thousand_changed_pairs_that_pass_the_gate_end_no_process(tmp_path: Path) -> None:
    found = run(tmp_path, 2, 2000)
    assert (2000, {}) == (found["passed"], found["faults"])
