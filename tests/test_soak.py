"""Facts about a process that answers for long: it takes no more of anything, and says the same."""

from __future__ import annotations

import gc
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from llava_cli import LoadOptions, Sampling, load
from llava_cli.model import Model
from llava_cli.pictures import open_picture
from tests.processes import SCENE
from training.evaluate import FIRST_SEED, picture_bytes
from training.scenes import make_scene

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
    opened = sorted(os.path.realpath(one) for one in Path("/proc/self/fd").iterdir())
    lying = sorted(path.name for path in Path(tempfile.gettempdir()).iterdir())
    return [one for one in opened if not one.startswith("/proc/")], lying


def soaked(work: Callable[[int], str], period: int, warm: int) -> dict[str, object]:
    """Do `work`, which repeats itself, until all that is kept is kept, then COUNT times more; return what that cost."""
    first = [work(number) for number in range(period * warm)]
    memory, before = resident(), held()
    later = [work(number) for number in range(COUNT)]
    grown, after = resident() / memory - 1, held()
    print(f"{COUNT} times: memory {memory / 1e6:.1f} MB {grown:+.1%}, descriptors {len(after[0]) - len(before[0]):+d}")
    return {
        "memory grows": grown > 0.05,
        "descriptors": [one for one in after[0] if one not in before[0]],
        "temporary files": [one for one in after[1] if one not in before[1]],
        "other answers": [answer for number, answer in enumerate(later) if answer != first[number % period]],
    }


NOTHING = {"memory grows": False, "descriptors": [], "temporary files": [], "other answers": []}


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Model]]:
    """Return what opens the bundled model, with little room on disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    options = LoadOptions(threads=1, context=512, cache_size=4 << 20)
    with ExitStack() as models:
        yield lambda: models.enter_context(
            load("shapes", options=options, sampling=Sampling(temperature=0, max_tokens=40))
        )


def test_a_thousand_asks_cost_nothing(opened: Callable[[], Model]) -> None:
    """About 25 pictures in turn, so that what is kept of them comes and goes, in memory and on disk."""
    model = opened()
    pictures = [open_picture(picture_bytes(make_scene(FIRST_SEED + number))) for number in range(25)]

    def work(number: int) -> str:
        return model.ask(pictures[number % 25], QUESTIONS[number % 4]).text

    assert NOTHING == soaked(work, period=100, warm=2)


def test_a_thousand_chat_turns_cost_nothing(opened: Callable[[], Model]) -> None:
    """One chat whose window is soon full, so that turns are dropped all the time; a new model goes on as this one."""
    chat = opened().chat()
    assert "red" == chat.send(QUESTIONS[0], picture=SCENE).text

    def work(number: int) -> str:
        # What `shapes` says after so many turns is beyond all it has learnt; that it says something is enough here.
        return "" if chat.send(QUESTIONS[number % 4]).text else "nothing"

    assert NOTHING == soaked(work, period=100, warm=2)
    assert chat.dropped > 500
    so_far = chat.messages
    assert chat.send(QUESTIONS[0]).text == opened().chat(messages=so_far).send(QUESTIONS[0]).text
