"""Reads a GGUF header in plain Python, by the rules of llama.cpp's `gguf.cpp`; tensor data is never touched.

Whatever that file would refuse, or could not survive, is refused here first, with a sentence.
"""

from __future__ import annotations

import errno
import math
import os
import re
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NoReturn

from llava_cli.errors import ModelMissing, ModelUnusable
from llava_cli.gguf_format import ARRAY, FORMATS, SCALARS, STRING, TENSOR_TYPES, GgufArray, GgufHeader, TensorInfo

DOWNLOAD_AGAIN = "download it again: the file is damaged or not complete"
_GIVE_GGUF = "a model is a .gguf file and its projector another, both from the same place"

_FIRST_READ = 1 << 20
_LONGEST_HEADER = 64 << 20
_MOST_ENTRIES = 65_536
_MOST_STRINGS = 2_000_000
_MOST_ALIGNMENT = 65_536


def read_header(path: Path) -> GgufHeader:
    """Read the header of `path`; raise `ModelMissing` or `ModelUnusable` saying what is wrong with the file."""
    with _open(path) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(_FIRST_READ)
        _refuse_other_formats(path, data, size)
        while True:
            try:
                return _Parser(path, data, size).parse()
            except _MoreNeededError as more:
                if more.end > size:
                    _refuse(path, f"the file ends inside its header, at byte {size:,}")
                if more.end > _LONGEST_HEADER:
                    _refuse(path, f"its header claims to be longer than {_LONGEST_HEADER >> 20} MiB")
                # Long vocabularies make headers of up to 20 MB; most fit in the first read.
                data += file.read(max(more.end, 4 * len(data)) - len(data))
                if len(data) < more.end:
                    _refuse(path, "the file became shorter while it was read")


def _refuse(path: Path, why: str, hint: str = DOWNLOAD_AGAIN) -> NoReturn:
    raise ModelUnusable(path.name, why, hint=hint)


def _open(path: Path) -> BinaryIO:
    try:
        # Non-blocking: opening a FIFO must not hang.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            _refuse(path, "a directory, not a file" if path.is_dir() else "not an ordinary file", hint="")
        return os.fdopen(descriptor, "rb")
    except FileNotFoundError as error:
        raise ModelMissing(str(path), "there is no such file") from error
    except (OSError, ValueError) as error:
        reason = error.strerror or str(error) if isinstance(error, OSError) else "not a file name"
        denied = isinstance(error, OSError) and error.errno == errno.EACCES
        _refuse(path, f"cannot be opened ({reason.lower()})", hint=f"chmod u+r '{path}'" if denied else "")


_BIG_ENDIAN = "a big-endian GGUF file; this computer needs little-endian"
_OTHER_FORMATS = (
    (rb"\s*<(!doctype|html|\?xml)", "a web page, not a model (did the download fail?)"),
    (rb"version https://git-lfs", "a git-lfs pointer, not the file itself"),
    (rb".{8}\{\"", "a safetensors file; llava needs GGUF"),
    (rb"PK\x03\x04|\x80[\x02-\x05]", "a ZIP archive or PyTorch checkpoint; llava needs GGUF"),
    (rb"lmgg|tjgg|fmgg|ggml|ggjt|ggmf", "a GGML file from before GGUF; it must be converted again"),
    (rb"FUGG", _BIG_ENDIAN),
    (rb"\x89PNG|\xff\xd8\xff|GIF8|RIFF", "a picture, not a model"),
    (rb"\s*[\[{]", "JSON, not a model"),
    (rb"\x1f\x8b|\x28\xb5\x2f\xfd|\xfd7zXZ|BZh", "compressed; unpack it first"),
    (rb"\x7fELF|MZ", "a program, not a model"),
    (rb"\x00{4}", "filled with zeros (a download that was never finished?)"),
)


def _refuse_other_formats(path: Path, data: bytes, size: int) -> None:
    if size == 0:
        _refuse(path, "the file is empty")
    if data[:4] == b"GGUF":
        return
    for pattern, what in _OTHER_FORMATS:
        if re.match(pattern, data[:64], re.IGNORECASE | re.DOTALL):
            _refuse(path, what, hint=_GIVE_GGUF)
    _refuse(path, f"not a GGUF file (it begins with {data[:4]!r})", hint=_GIVE_GGUF)


class _MoreNeededError(Exception):
    def __init__(self, end: int) -> None:
        self.end = end


class _Parser:
    def __init__(self, path: Path, data: bytes, size: int) -> None:
        self._path = path
        self._data = data
        self._view = memoryview(data)
        self._size = size
        self._position = 4
        self._strings_left = _MOST_STRINGS

    def parse(self) -> GgufHeader:
        version = self._number("u32")
        # A big-endian file shows its small version number in the upper half.
        if version & 0xFFFF == 0:
            _refuse(self._path, _BIG_ENDIAN, hint=_GIVE_GGUF)
        if version not in (2, 3):
            _refuse(self._path, f"GGUF version {version}; llama.cpp reads versions 2 and 3", hint="convert it again")
        counts = {"tensors": self._number("i64"), "metadata entries": self._number("i64")}
        for what, count in counts.items():
            if not 0 <= count <= _MOST_ENTRIES:
                _refuse(self._path, f"claims to hold {count:,} {what}")
        metadata: dict[str, Any] = {}
        types: dict[str, str] = {}
        spans: dict[str, tuple[int, int]] = {}
        for _ in range(counts["metadata entries"]):
            start = self._position
            key = self._name("metadata key", taken=metadata)
            types[key], metadata[key] = self._value(key)
            spans[key] = (start, self._position)
        alignment = self._alignment(metadata, types)
        tensors = self._tensors(counts["tensors"], alignment)
        end = self._position
        data_start = _padded(end, alignment)
        self._refuse_cut_data(tensors, data_start)
        return GgufHeader(
            path=self._path,
            version=version,
            metadata=MappingProxyType(metadata),
            types=MappingProxyType(types),
            tensors=MappingProxyType(tensors),
            alignment=alignment,
            data_start=data_start,
            file_size=self._size,
            raw=self._data[:end],
            spans=MappingProxyType(spans),
        )

    def _take(self, length: int) -> int:
        """Step over `length` bytes; return where they begin."""
        start, self._position = self._position, self._position + length
        if self._position > len(self._data):
            raise _MoreNeededError(self._position)
        return start

    def _number(self, kind: str) -> Any:
        layout = struct.Struct(f"<{FORMATS[kind]}")
        value = layout.unpack_from(self._data, self._take(layout.size))[0]
        return value != 0 if kind == "bool" else value

    def _text(self) -> bytes:
        length = self._number("u64")
        start = self._take(length)
        return self._data[start : start + length]

    def _name(self, what: str, taken: Mapping[str, object]) -> str:
        raw = self._text()
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            _refuse(self._path, f"a {what} is not text ({raw[:20]!r})")
        # llama.cpp compares names as C strings: a NUL would make two different names one.
        if not name or "\0" in name:
            _refuse(self._path, f"a {what} is empty or holds a NUL")
        if name in taken:
            _refuse(self._path, f"the {what} {name} occurs twice")
        return name

    def _value(self, key: str) -> tuple[str, Any]:
        kind = self._number("u32")
        if kind in SCALARS:
            return SCALARS[kind], self._number(SCALARS[kind])
        if kind == STRING:
            return "str", self._text().decode(errors="replace")
        if kind != ARRAY:
            _refuse(self._path, f"the value of {key} has the unknown type {kind}")
        item, length = self._number("u32"), self._number("u64")
        if item not in SCALARS and item != STRING:
            _refuse(self._path, f"the array {key} has items of the unknown type {item}")
        start = self._position
        if item == STRING:
            self._skip_strings(key, length)
        else:
            self._take(length * struct.calcsize(FORMATS[SCALARS[item]]))
        name = SCALARS.get(item, "str")
        return f"{name}[]", GgufArray(name, length, self._view[start : self._position])

    def _skip_strings(self, key: str, count: int) -> None:
        self._strings_left -= count
        if self._strings_left < 0:
            _refuse(self._path, f"the array {key} claims to hold {count:,} strings")
        # Written out for speed: a vocabulary with its merges has half a million of them.
        data, position, read = self._data, self._position, int.from_bytes
        for _ in range(count):
            position += 8 + read(data[position : position + 8], "little")
        self._position = position
        self._take(0)

    def _alignment(self, metadata: Mapping[str, Any], types: Mapping[str, str]) -> int:
        alignment = metadata.get("general.alignment", 32)
        sound = types.get("general.alignment", "u32") == "u32" and alignment & (alignment - 1) == 0
        # Below 32, llama.cpp's own check of mapped addresses ends the process.
        if not sound or not 32 <= alignment <= _MOST_ALIGNMENT:
            _refuse(self._path, f"its alignment is {alignment!r}, not a power of two from 32 to {_MOST_ALIGNMENT:,}")
        return int(alignment)

    def _tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        tensors: dict[str, TensorInfo] = {}
        expected = 0
        for _ in range(count):
            name = self._name("tensor name", taken=tensors)
            if len(name.encode()) >= 64:
                _refuse(self._path, f"the tensor name {name[:30]}… is longer than 63 bytes")
            axes = self._number("u32")
            if axes > 4:
                _refuse(self._path, f"the tensor {name} has {axes:,} axes; 4 are possible")
            shape = tuple(self._number("i64") for _ in range(axes)) or (1,)
            kind, offset = self._number("u32"), self._number("u64")
            if kind not in TENSOR_TYPES:
                _refuse(self._path, f"the tensor {name} has the type {kind}, which llama.cpp does not know")
            type_name, block, block_bytes = TENSOR_TYPES[kind]
            if min(shape) < 1 or shape[0] % block or math.prod(shape) >= 1 << 60:
                _refuse(self._path, f"the tensor {name} has the impossible shape {shape} for {type_name}")
            if offset != expected:
                fault = "overlaps another" if offset < expected else "is not where it should be"
                _refuse(self._path, f"the tensor {name} {fault} (offset {offset:,}, expected {expected:,})")
            tensors[name] = TensorInfo(shape, type_name, offset, math.prod(shape) // block * block_bytes)
            expected = _padded(offset + tensors[name].nbytes, alignment)
        return tensors

    def _refuse_cut_data(self, tensors: Mapping[str, TensorInfo], data_start: int) -> None:
        for name, tensor in tensors.items():
            end = data_start + tensor.offset + tensor.nbytes
            if end > self._size:
                missing = data_start + max(t.offset + t.nbytes for t in tensors.values()) - self._size
                _refuse(self._path, f"{missing:,} bytes are missing at its end (from the tensor {name} on)")


def _padded(length: int, alignment: int) -> int:
    return -(-length // alignment) * alignment
