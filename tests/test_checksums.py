"""Facts about sums that are computed once, and about files that have only come in part."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from llava_cli import partial_file
from llava_cli.checksums import remember, sha256_of
from llava_cli.partial_file import open_part
from llava_cli.settings import cache_dir

BODY = bytes(range(256)) * 1000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "file").write_bytes(BODY)
    return tmp_path / "file"


def test_a_file_is_read_once(file: Path) -> None:
    read: list[int] = []
    for _ in range(2):
        assert sha256_of(file, on_bytes=read.append) == hashlib.sha256(BODY).hexdigest()
    assert read == [len(BODY)]


def test_it_is_read_anew_if_asked(file: Path) -> None:
    remember(file, "0" * 64)
    assert sha256_of(file) == "0" * 64
    assert sha256_of(file, anew=True) == sha256_of(file) == hashlib.sha256(BODY).hexdigest()


def test_another_time_another_length_or_another_file_is_read(file: Path, tmp_path: Path) -> None:
    remember(file, "0" * 64)
    os.utime(file, ns=(0, 1))
    assert sha256_of(file) != "0" * 64
    remember(file, "0" * 64)
    file.write_bytes(BODY[1:])
    os.utime(file, ns=(0, 1))
    assert sha256_of(file) != "0" * 64
    remember(file, "0" * 64)
    (tmp_path / "new").write_bytes(BODY[1:])
    os.utime(tmp_path / "new", ns=(0, 1))
    (tmp_path / "new").replace(file)
    assert sha256_of(file) != "0" * 64


def test_a_spoilt_memory_is_no_memory(file: Path) -> None:
    sha256_of(file)
    (entry,) = (cache_dir() / "checksums").iterdir()
    for text in (b"", b"short", b"\xff" * 64, b"0" * 65):
        entry.write_bytes(text)
        assert sha256_of(file) == hashlib.sha256(BODY).hexdigest()


def test_where_nothing_can_be_kept_it_is_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLAVA_CACHE", str(file))
    assert sha256_of(file) == sha256_of(file) == hashlib.sha256(BODY).hexdigest()


# Parts


@pytest.mark.parametrize(
    ("kept", "there"),
    [(0, 0), (0, 1), (0, 1000), (1000, 1001), (1000, 2000), (2000, 2001), (2000, 2999), (3000, 3000), (0, 3001)],
)
def test_what_may_not_have_reached_the_disk_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: int, there: int
) -> None:
    """All of it is kept if it is all there: its hash tells."""
    monkeypatch.setattr(partial_file, "MARK", 1000)
    path = tmp_path / "part"
    path.write_bytes(BODY[:there])
    with open_part(path) as part:
        assert part is not None
        part.take_up(3000, lambda _: None)
        assert (kept, hashlib.sha256(BODY[:kept]).hexdigest()) == (part.length, part.sha256)
        part.append(BODY[kept:3000])
        part.become(tmp_path / "whole")
    assert (tmp_path / "whole").read_bytes() == BODY[:3000]
    assert not path.exists()


def test_what_is_whole_is_on_the_disk_at_every_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[int] = []
    monkeypatch.setattr(partial_file, "MARK", 1000)
    monkeypatch.setattr("os.fsync", lambda descriptor: marks.append(os.fstat(descriptor).st_size))
    with open_part(tmp_path / "part") as part:
        assert part is not None
        for start in range(0, 3000, 300):
            part.append(BODY[start : start + 300])
    assert marks == [1200, 2100, 3000]


def test_a_part_has_one_writer(tmp_path: Path) -> None:
    with open_part(tmp_path / "part") as first, open_part(tmp_path / "part") as second:
        assert first is not None
        assert second is None
    with open_part(tmp_path / "part") as third:
        assert third is not None
