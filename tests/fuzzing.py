"""How Hypothesis is used here: how many examples, and what several tests make up in the same way.

The default run tries a few, always the same. `pytest tests/test_fuzzed_*.py --hypothesis-profile long` goes on for as
long as it is let, with others each time; `python -m tests.fuzz NAME` does so for one of them under Atheris.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

Cuttable = TypeVar("Cuttable", str, bytes)

_SHORT = 100
_CALM = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]


def register_profiles() -> None:
    """Make `short` (the default) and `long` known to Hypothesis."""
    # No deadline, because machines are busy; no data base, because a run must not depend on the one before.
    settings.register_profile(
        "short", max_examples=_SHORT, deadline=None, derandomize=True, database=None, suppress_health_check=_CALM
    )
    settings.register_profile("long", settings.get_profile("short"), max_examples=10**6, derandomize=False)
    settings.load_profile("short")


def examples(count: int) -> Callable[[Any], Any]:
    """Try `count` examples in the short form, and as many times more in the long one as the profile has."""
    return settings(max_examples=count * settings.default.max_examples // _SHORT)  # type: ignore[union-attr]


def cut(whole: Cuttable) -> st.SearchStrategy[list[Cuttable]]:
    """Cut text or bytes into pieces at any places."""
    places = st.lists(st.integers(0, len(whole)), max_size=6).map(sorted)
    return places.map(lambda at: [whole[i:j] for i, j in zip([0, *at], [*at, len(whole)], strict=True)])


_NUMBERS = [0, 1, 2, 7, 255, 256, 32767, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1]


@st.composite
def damaged(draw: st.DrawFn, files: list[bytes], *, within: int | None = None) -> bytes:
    """Change one of `files` in one to four ways, in its first `within` bytes if that is given."""
    data = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), within or len(data))))
        match draw(st.integers(0, 6)):
            case 0:
                data[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case 1:
                order, size = draw(st.sampled_from(["little", "big"])), draw(st.sampled_from([2, 4, 8]))
                number = draw(st.sampled_from(_NUMBERS)) % (1 << 8 * size)
                data[at : at + size] = number.to_bytes(size, "big" if order == "big" else "little")
            case 2:
                del data[at : at + draw(st.integers(1, 300))]
            case 3:
                data[at:at] = draw(st.binary(min_size=1, max_size=30))
            case 4:
                other = draw(st.sampled_from(files))
                start = draw(st.integers(0, len(other)))
                data[at:at] = other[start : start + draw(st.integers(1, 300))]
            case 5:
                data[at:at] = data[at : at + draw(st.integers(1, 300))]
            case _:
                del data[at:]
    return bytes(data)
