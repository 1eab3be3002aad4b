"""Facts about memory that is given back because it holds nothing but zeros."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from llava_cli.zero_pages import zero_pages_given_back

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux gives pages back like this")

SIZE = 64 << 20


def resident():
    return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def zeroed():
    """Return an array whose pages have all been written to."""
    array = np.empty(SIZE, dtype=np.uint8)
    array.fill(0)
    return array


def test_zeros_take_no_memory_afterwards_and_are_still_zeros():
    before = resident()
    with zero_pages_given_back():
        array = zeroed()
        assert resident() > before + SIZE // 2
    assert resident() < before + SIZE // 2
    assert not array.any()


def test_what_was_written_stays():
    with zero_pages_given_back():
        array = zeroed()
        array[[0, SIZE // 2, SIZE - 1]] = 1, 2, 3
    assert [1, 2, 3] == array[[0, SIZE // 2, SIZE - 1]].tolist()
    assert 6 == array.sum()


def test_it_can_be_written_to_afterwards():
    with zero_pages_given_back():
        array = zeroed()
    array.fill(5)
    assert 5 * SIZE == array.sum(dtype=np.int64)


def test_memory_that_was_there_before_is_left_alone():
    array = zeroed()
    held = resident()
    with zero_pages_given_back():
        pass
    assert resident() > held - SIZE // 2
    assert not array.any()


def test_an_error_inside_is_that_error():
    with pytest.raises(KeyError), zero_pages_given_back():
        raise KeyError
