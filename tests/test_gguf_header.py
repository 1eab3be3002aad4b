"""Facts about reading GGUF headers, and refusing what is none or is damaged."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest

from llava_cli.errors import ModelMissing
from llava_cli.gguf_file import read_header
from llava_cli.gguf_format import GgufArray, pack_value
from tests.gguf_draft import Draft, Edit, refusal, tensor_data
from tests.tiny_model import tiny_vocabulary


def test_a_header_says_what_the_file_holds(tiny_pair: tuple[Path, Path]) -> None:
    """Scalars, arrays and tensors come back as they were written."""
    header = read_header(tiny_pair[0])
    assert header.metadata["llama.embedding_length"] == 64
    assert header.types["llama.embedding_length"] == "u32"
    assert header.types["tokenizer.ggml.tokens"] == "str[]"
    tokens = header.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, GgufArray)
    assert tokens.values() == tuple(text for text, _, _ in tiny_vocabulary())
    scores = header.metadata["tokenizer.ggml.scores"]
    assert isinstance(scores, GgufArray)
    assert scores.values()[262] == -3.0
    assert header.tensors["blk.1.ffn_down.weight"].shape == (128, 64)
    assert header.tensors["token_embd.weight"].nbytes == len(tokens.values()) * 64 * 4


def test_tensor_data_is_found_where_the_header_says(tiny_pair: tuple[Path, Path]) -> None:
    """`data_start` and `offset` lead to the numbers `tiny_model` wrote."""
    header = read_header(tiny_pair[1])
    first, spread = np.random.default_rng(1).standard_normal((32, 3, 14, 14)), (3 * 14 * 14) ** -0.5
    raw = tensor_data(tiny_pair[1].read_bytes(), header, header.tensors["v.patch_embd.weight"])
    assert np.array_equal(np.frombuffer(raw, np.float32), (first * spread).astype(np.float32).ravel())


# Files that are something else

NOT_GGUF = {
    "empty": (b"", "the file is empty"),
    "one byte": (b"G", "not a GGUF file"),
    "zeros": (bytes(4096), "filled with zeros"),
    "text": (b"hello there", "not a GGUF file (it begins with b'hell')"),
    "web page": (b"\n<!DOCTYPE html><html>", "a web page"),
    "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "a git-lfs pointer"),
    "safetensors": (struct.pack("<Q", 60) + b'{"model.weight":{}}', "a safetensors file"),
    "zip": (b"PK\x03\x04archive/data.pkl", "PyTorch"),
    "pickle": (b"\x80\x02}q\x00", "PyTorch"),
    "old ggml": (b"tjgg\x03\x00\x00\x00", "before GGUF"),
    "swapped bytes": (b"FUGG\x00\x00\x00\x03", "big-endian"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "a picture"),
    "JPEG": (b"\xff\xd8\xff\xe0", "a picture"),
    "JSON": (b'{"error": "not found"}', "JSON"),
    "gzip": (b"\x1f\x8b\x08", "compressed"),
    "program": (b"\x7fELF\x02", "a program"),
    "magic only": (b"GGUF", "ends inside its header"),
}


@pytest.mark.parametrize(("content", "words"), NOT_GGUF.values(), ids=NOT_GGUF)
def test_other_files_are_called_what_they_are(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    error = refusal(lambda: read_header(path))
    assert words in error.why
    assert error.what == "model.gguf"


def test_a_missing_file_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    """None of them hangs or crashes."""
    os.mkfifo(tmp_path / "pipe")
    assert isinstance(refusal(lambda: read_header(tmp_path / "none")), ModelMissing)
    assert refusal(lambda: read_header(tmp_path)).why == "a directory, not a file"
    assert refusal(lambda: read_header(tmp_path / "pipe")).why == "not an ordinary file"
    assert refusal(lambda: read_header(Path("/dev/zero"))).why == "not an ordinary file"
    assert "not a file name" in refusal(lambda: read_header(Path("a\0b"))).why
    assert "file name too long" in refusal(lambda: read_header(tmp_path / ("a" * 300))).why


def test_a_file_that_may_not_be_read_says_how_to_change_that(
    tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulated: the superuser may read everything."""

    def denied(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    error = refusal(lambda: read_header(tiny_pair[0]))
    monkeypatch.undo()
    assert (error.why, error.hint) == ("cannot be opened (permission denied)", f"chmod u+r '{tiny_pair[0]}'")


def test_a_header_may_be_longer_than_the_first_read(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """Vocabularies of today make headers of 10 MB."""
    draft = Draft(tiny_pair[0]).set("some.text", "str", "x" * 3_000_000).set("some.list", "str[]", ["y" * 99] * 70_000)
    header = read_header(draft.write(tmp_path / "model.gguf"))
    assert len(header.raw) > 10_000_000
    assert header.tensors == read_header(tiny_pair[0]).tensors


# Damaged files


def _counts(tensors: int, entries: int) -> Edit:
    return lambda draft: setattr(draft, "counts", (tensors, entries))


def _text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def _align(alignment: int) -> Edit:
    def edit(draft: Draft) -> None:
        draft.set("general.alignment", "u32", alignment)
        draft.alignment = alignment

    return edit


DAMAGED: dict[str, tuple[Edit, str]] = {
    "version 1": (lambda d: setattr(d, "version", 1), "GGUF version 1"),
    "version 4": (lambda d: setattr(d, "version", 4), "GGUF version 4"),
    "big-endian": (lambda d: setattr(d, "version", 3 << 24), "big-endian"),
    "tensor count": (_counts(1 << 40, 1), "claims to hold 1,099,511,627,776 tensors"),
    "negative count": (_counts(-1, 1), "claims to hold -1 tensors"),
    "entry count": (_counts(1, 70_000), "claims to hold 70,000 metadata entries"),
    "key length": (lambda d: d.entry(struct.pack("<Q", 1 << 62)), "ends inside its header"),
    "text length": (lambda d: d.entry(_text(b"k") + struct.pack("<IQ", 8, 1 << 63)), "ends inside its header"),
    "array length": (lambda d: d.entry(_text(b"k") + struct.pack("<IIQ", 9, 4, 1 << 61)), "ends inside its header"),
    "array of strings": (lambda d: d.entry(_text(b"k") + struct.pack("<IIQ", 9, 8, 1 << 61)), "claims to hold"),
    "array of arrays": (lambda d: d.entry(_text(b"k") + struct.pack("<IIQ", 9, 9, 1)), "unknown type 9"),
    "value type": (lambda d: d.entry(_text(b"k") + struct.pack("<II", 13, 1)), "unknown type 13"),
    "key twice": (lambda d: d.entry(pack_value("general.name", "str", "x")), "general.name occurs twice"),
    "empty key": (lambda d: d.entry(pack_value("", "u32", 1)), "is empty or holds a NUL"),
    "NUL in a key": (lambda d: d.entry(pack_value("general.name\0", "u32", 1)), "is empty or holds a NUL"),
    "key of bytes": (lambda d: d.entry(_text(b"\xff\xfe") + struct.pack("<II", 4, 1)), "is not text"),
    "alignment 0": (lambda d: d.set("general.alignment", "u32", 0), "its alignment is 0"),
    "alignment 48": (_align(48), "its alignment is 48"),
    "alignment 16": (_align(16), "its alignment is 16"),
    "alignment 2**17": (_align(1 << 17), "its alignment is 131072"),
    "alignment type": (lambda d: d.set("general.alignment", "i32", 32), "its alignment is 32"),
    "alignment text": (lambda d: d.set("general.alignment", "str", "32"), "its alignment is '32'"),
    "tensor twice": (lambda d: d.add("output.weight", (32,)), "output.weight occurs twice"),
    "overlap": (lambda d: d.offset_error.update({"output.weight": -32}), "output.weight overlaps"),
    "gap": (lambda d: d.offset_error.update({"output.weight": 32}), "is not where it should be"),
    "misaligned": (lambda d: d.offset_error.update({"output.weight": 1}), "is not where it should be"),
    "tensor type": (lambda d: d.change("output.weight", type=4), "output.weight has the type 4"),
    "tensor type 2": (lambda d: d.change("output.weight", type=1 << 31), "llama.cpp does not know"),
    "five axes": (lambda d: d.change("output.weight", shape=(1, 1, 1, 1, 1)), "has 5 axes"),
    "empty axis": (lambda d: d.change("output.weight", shape=(64, 0)), "impossible shape (64, 0)"),
    "negative axis": (lambda d: d.change("output.weight", shape=(64, -1)), "impossible shape"),
    "huge axis": (lambda d: d.change("output.weight", shape=(1 << 62, 1 << 62)), "impossible shape"),
    "part of a block": (
        lambda d: d.change("output.weight", shape=(33, 1), type=2),
        "impossible shape (33, 1) for Q4_0",
    ),
    "tensor name": (lambda d: d.add("x" * 64, (32,)), "is longer than 63 bytes"),
    "no tensor name": (lambda d: d.add("", (32,)), "is empty or holds a NUL"),
}


@pytest.mark.parametrize(("edit", "words"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused(tiny_pair: tuple[Path, Path], tmp_path: Path, edit: Edit, words: str) -> None:
    draft = Draft(tiny_pair[0])
    edit(draft)
    path = draft.write(tmp_path / "model.gguf")
    assert words in refusal(lambda: read_header(path)).why


@pytest.mark.parametrize("share", [0.001, 0.01, 0.5, 0.9, 0.999])
def test_a_header_that_is_cut_is_refused(tiny_pair: tuple[Path, Path], tmp_path: Path, share: float) -> None:
    header = read_header(tiny_pair[0])
    path = tmp_path / "cut.gguf"
    path.write_bytes(header.raw[: int(len(header.raw) * share)])
    assert "ends inside its header" in refusal(lambda: read_header(path)).why


@pytest.mark.parametrize("place", range(20))
@pytest.mark.parametrize("half", [0, 1], ids=["model", "projector"])
def test_a_file_that_is_cut_anywhere_is_refused(
    tiny_pair: tuple[Path, Path], tmp_path: Path, half: int, place: int
) -> None:
    """In magic, counts, keys and tensor list; then in the data, up to the middle of the last tensor."""
    header, data = read_header(tiny_pair[half]), tiny_pair[half].read_bytes()
    last = max(header.tensors.values(), key=lambda tensor: tensor.offset)
    in_header = [0, 1, 4, 7, 8, 15, 16, 23, 24, 30, *(len(header.raw) * share // 4 for share in (1, 2, 3, 4))]
    end = header.data_start + last.offset
    in_data = [
        header.data_start,
        header.data_start + 1,
        *(end * share // 4 for share in (2, 3, 4)),
        end + last.nbytes // 2,
    ]
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[: [*in_header, *in_data][place]])
    why = refusal(lambda: read_header(cut)).why
    assert "ends inside its header" in why or "bytes are missing at its end" in why or place < 3
    assert cut.name not in why


def test_a_projector_that_lacks_its_last_byte_is_refused(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """llama.cpp would load it silently, with garbage for weights."""
    header = read_header(tiny_pair[1])
    last = max(header.tensors.values(), key=lambda tensor: tensor.offset)
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_pair[1].read_bytes()[: header.data_start + last.offset + last.nbytes - 1])
    assert "1 bytes are missing at its end" in refusal(lambda: read_header(path)).why


def test_a_header_without_end_is_not_read_into_memory(tmp_path: Path) -> None:
    """A sparse file of 3 GB that claims to be one long text."""
    path = tmp_path / "endless.gguf"
    path.write_bytes(struct.pack("<4sIqq", b"GGUF", 3, 0, 1) + _text(b"k") + struct.pack("<IQ", 8, 2 << 30))
    os.truncate(path, 3 << 30)
    assert "claims to be longer than 64 MiB" in refusal(lambda: read_header(path)).why
