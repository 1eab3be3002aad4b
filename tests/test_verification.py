"""Facts about `llava verify`: whether files are what they should be."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from llava_cli import checksums, registry
from llava_cli.inventory import look_up
from llava_cli.verification import Verdict, verify
from tests.downloads import MAIN, OWN_LIST, in_cache, write_own_list
from tests.tiny_model import write_tiny_projector


def verdicts(*, anew: bool = False) -> list[Verdict]:
    return list(verify(look_up(registry.find("tiny")), anew=lambda _: anew, on_reading=lambda _: None))


def results() -> list[tuple[bool, str]]:
    return [(verdict.sound, verdict.result) for verdict in verdicts()]


def sha256(data: bytes | bytearray) -> str:
    return hashlib.sha256(data).hexdigest()


def publish(model: bytes) -> None:
    """Let the user's list know the sha256 of the model file."""
    write_own_list(OWN_LIST.replace('name = "model.gguf"', f'name = "model.gguf"\nsha256 = "{sha256(model)}"'))


@pytest.fixture
def files(hub: Path, tiny_pair: tuple[Path, Path]) -> tuple[bytes, bytes]:
    write_own_list()
    model, projector = (path.read_bytes() for path in tiny_pair)
    in_cache(hub, MAIN, "model.gguf", content=model)
    in_cache(hub, MAIN, "mmproj.gguf", content=projector)
    return model, projector


UNKNOWN = True, "sound; no sha256 is known to compare with"


def test_without_a_known_sum_the_structure_is_checked(files: tuple[bytes, bytes]) -> None:
    assert [UNKNOWN, UNKNOWN] == results()


def test_a_published_sum_is_compared(files: tuple[bytes, bytes]) -> None:
    publish(files[0])
    assert [(True, "sha256 as published"), UNKNOWN] == results()


def test_one_flipped_bit_is_found(files: tuple[bytes, bytes], hub: Path) -> None:
    publish(files[0])
    blob = (hub / "snapshots" / MAIN / "model.gguf").resolve()
    damaged = bytearray(files[0])
    damaged[-1000] ^= 1
    blob.write_bytes(damaged)
    assert (False, f"damaged: its sha256 is {sha256(damaged)}, not {sha256(files[0])}") == results()[0]


def test_the_sum_the_hub_told_is_compared_if_none_is_published(hub: Path, tiny_pair: tuple[Path, Path]) -> None:
    write_own_list()
    model, projector = (path.read_bytes() for path in tiny_pair)
    in_cache(hub, MAIN, "model.gguf", blob=sha256(model), content=model)
    in_cache(hub, MAIN, "mmproj.gguf", blob=sha256(b"another"), content=projector)
    good, bad = results()
    assert (True, "sha256 as the hub told at download") == good
    assert (False, f"damaged: its sha256 is {sha256(projector)}, not {sha256(b'another')}") == bad


def test_a_file_replaced_upstream_is_not_called_damaged(hub: Path, tiny_pair: tuple[Path, Path]) -> None:
    model = tiny_pair[0].read_bytes()
    publish(b"the old one")
    in_cache(hub, MAIN, "model.gguf", blob=sha256(model), content=model)
    ((sound, words),) = results()
    assert not sound
    assert words == (
        f"the file upstream is not the one this list knows (sha256 {sha256(model)}, here {sha256(b'the old one')})"
    )


def test_files_that_do_not_fit_each_other_are_bad(hub: Path, tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    write_own_list()
    in_cache(hub, MAIN, "model.gguf", content=tiny_pair[0].read_bytes())
    wide = write_tiny_projector(tmp_path / "p.gguf", out_width=96).read_bytes()
    in_cache(hub, MAIN, "mmproj.gguf", content=wide)
    assert [UNKNOWN, (False, "its picture embeddings are 96 wide, but model.gguf takes 64")] == results()


def test_a_cut_file_says_what_is_missing_and_is_not_read(hub: Path, tiny_pair: tuple[Path, Path]) -> None:
    write_own_list()
    in_cache(hub, MAIN, "model.gguf", content=tiny_pair[0].read_bytes()[:-100])
    read: list[Path] = []
    (verdict,) = verify(look_up(registry.find("tiny")), anew=lambda _: False, on_reading=read.append)
    assert (False, True, []) == (verdict.sound, "bytes are missing at its end" in verdict.result, read)


def test_a_file_is_read_once_unless_it_changes_or_it_is_wanted(files: tuple[bytes, bytes]) -> None:
    """A bit that flips on the disk leaves no other trace."""
    publish(files[0])
    path = verdicts()[0].path
    time, damaged = path.stat().st_mtime_ns, bytearray(files[0])
    damaged[-1000] ^= 1
    with path.open("r+b") as file:
        file.write(damaged)
    os.utime(path, ns=(time, time))
    assert verdicts()[0].sound
    assert not verdicts(anew=True)[0].sound
    assert not verdicts()[0].sound
    path.write_bytes(files[0])
    os.utime(path, ns=(time + 1, time + 1))
    assert verdicts()[0].sound


def test_a_file_that_cannot_be_read_is_bad(files: tuple[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulated: what a worn-out SD card answers."""
    publish(files[0])

    def worn_out(_path: Path, **_: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checksums, "sha256_of", worn_out)
    assert (False, "it cannot be read (input/output error)") == results()[0]
