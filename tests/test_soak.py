"""Facts about a process that answers for long: it takes no more of anything, and says the same."""

from __future__ import annotations

import gc
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from llava_cli import LoadOptions, Sampling, load
from llava_cli.model import Model
from llava_cli.pictures import Picture
from tests.drawings import Shape, draw
from tests.processes import SCENE

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process what it takes"),
]

COUNT = 1000
QUESTIONS = ("What color is the circle?", "How many shapes are there?", "Is there a star?", "Describe this picture.")


def resident() -> int:
    """Return the memory of this process that no file stands behind, in bytes."""
    gc.collect()
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def held() -> tuple[list[str], list[str]]:
    """Return what is open, and what lies about for the time being."""
    opened = sorted(os.readlink(f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd") if int(one) > 2)
    return [one for one in opened if "/proc/" not in one], sorted(os.listdir(tempfile.gettempdir()))


def soaked(work: Callable[[int], str], warm: int) -> dict[str, object]:
    """Do `work` until all that is kept is kept, then COUNT times more; return what that has cost."""
    first = [work(number) for number in range(warm)]
    memory, before = resident(), held()
    later = [work(number) for number in range(COUNT)]
    grown, after = resident() / memory - 1, held()
    print(f"{COUNT} times: memory {memory / 1e6:.1f} MB {grown:+.1%}, descriptors {len(after[0]) - len(before[0]):+d}")
    return {
        "memory grows": grown > 0.05,
        "descriptors": [one for one in after[0] if one not in before[0]],
        "temporary files": [one for one in after[1] if one not in before[1]],
        "other answers": [a for a, b in zip(first, later, strict=False) if a != b],
    }


NOTHING = {"memory grows": False, "descriptors": [], "temporary files": [], "other answers": []}


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options = LoadOptions(threads=1, context=512, cache_size=4 << 20)
    with load("shapes", options=options, sampling=Sampling(temperature=0, max_tokens=40)) as model:
        yield model


def test_a_thousand_asks_cost_nothing(shapes: Model) -> None:
    """About forty pictures in turn, so that what is kept of them comes and goes, in memory and on disk."""
    pictures: list[Picture | str] = [SCENE, *(drawn(number) for number in range(40))]

    def work(number: int) -> str:
        return shapes.ask(pictures[number % len(pictures)], QUESTIONS[number % len(QUESTIONS)]).text

    assert NOTHING == soaked(work, warm=328)


def test_a_thousand_chat_turns_cost_nothing(shapes: Model) -> None:
    """One chat, whose window is full after a few turns; its picture stays, and is asked about again and again."""
    chat = shapes.chat()
    chat.send(QUESTIONS[0], picture=SCENE).text  # noqa: B018 - it waits for the answer

    def work(number: int) -> str:
        return chat.send(QUESTIONS[number % len(QUESTIONS)]).text and ""

    assert NOTHING == soaked(work, warm=100)
    assert chat.dropped > 0
    again = shapes.chat()
    assert "red" == again.send(QUESTIONS[0], picture=SCENE).text
