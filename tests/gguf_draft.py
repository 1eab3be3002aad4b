"""Takes GGUF files apart to put them together wrongly, and sees how they are refused."""

from __future__ import annotations

import functools
import math
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llava_cli.errors import ModelUnusable
from llava_cli.gguf_file import read_header
from llava_cli.gguf_format import TENSOR_TYPES, GgufHeader, TensorInfo, pack_value

TYPE_NUMBERS = {name: number for number, (name, _, _) in TENSOR_TYPES.items()}


class Draft:
    """A GGUF file taken apart, to be put together again, wrongly."""

    def __init__(self, path: Path) -> None:
        header, data = read_header(path), path.read_bytes()
        self.version = header.version
        self.alignment = header.alignment
        self.entries = [header.raw[start:end] for start, end in header.spans.values()]
        self._keys = list(header.spans)
        self.tensors: list[dict[str, Any]] = [
            {"name": name, "shape": t.shape, "type": TYPE_NUMBERS[t.type], "data": tensor_data(data, header, t)}
            for name, t in header.tensors.items()
        ]
        self.offset_error: dict[str, int] = {}
        self.counts: tuple[int, int] | None = None

    def set(self, key: str, kind: str, value: object) -> Draft:
        return self.drop(key).entry(pack_value(key, kind, value), key)

    def entry(self, raw: bytes, key: str = "") -> Draft:
        self.entries.append(raw)
        self._keys.append(key)
        return self

    def drop(self, name: str) -> Draft:
        if name in self._keys:
            place = self._keys.index(name)
            del self.entries[place], self._keys[place]
        self.tensors = [tensor for tensor in self.tensors if tensor["name"] != name]
        return self

    def add(self, name: str, shape: tuple[int, ...], kind: str = "F32") -> Draft:
        self.tensors.append({"name": name, "shape": shape, "type": TYPE_NUMBERS[kind], "data": b""})
        return self.reshape(name, shape, kind)

    def reshape(self, name: str, shape: tuple[int, ...], kind: str = "F32") -> Draft:
        _, block, size = TENSOR_TYPES[TYPE_NUMBERS[kind]]
        data = bytes(math.prod(shape) // block * size)
        return self.change(name, shape=shape, type=TYPE_NUMBERS[kind], data=data)

    def change(self, name: str, /, **to: object) -> Draft:
        next(tensor for tensor in self.tensors if tensor["name"] == name).update(to)
        return self

    def write(self, path: Path) -> Path:
        counts = self.counts or (len(self.tensors), len(self.entries))
        head = struct.pack("<4sIqq", b"GGUF", self.version, *counts) + b"".join(self.entries)
        body = b""
        for tensor in self.tensors:
            name = tensor["name"].encode()
            head += struct.pack("<Q", len(name)) + name + struct.pack("<I", len(tensor["shape"]))
            head += struct.pack(f"<{len(tensor['shape'])}q", *tensor["shape"])
            head += struct.pack("<IQ", tensor["type"], len(body) + self.offset_error.get(tensor["name"], 0))
            body += tensor["data"] + bytes(-len(tensor["data"]) % self.alignment)
        path.write_bytes(head + bytes(-len(head) % self.alignment) + body)
        return path


def tensor_data(data: bytes, header: GgufHeader, tensor: TensorInfo) -> bytes:
    start = header.data_start + tensor.offset
    return data[start : start + tensor.nbytes]


def refusal(check: Callable[[], object]) -> ModelUnusable:
    """Return how `check` refuses, having seen that it takes less than a second and is exit code 4."""
    start = time.process_time()
    with pytest.raises(ModelUnusable) as caught:
        check()
    assert time.process_time() - start < 1
    assert caught.value.exit_code == 4
    return caught.value


def opens(model: Path, projector: Path) -> bool:
    """Tell whether llama.cpp itself takes both files."""
    import llama_cpp
    from llama_cpp import mtmd_cpp

    llama_cpp.llama_log_set(_silent(), None)
    mtmd_cpp.mtmd_log_set(_silent(), None)
    llama = llama_cpp.Llama(str(model), n_ctx=64, n_threads=1, verbose=False)
    params = mtmd_cpp.mtmd_context_params_default()
    params.use_gpu, params.warmup = False, False
    context = mtmd_cpp.mtmd_init_from_file(str(projector).encode(), llama.model, params)
    if context:
        mtmd_cpp.mtmd_free(context)
    llama.close()
    return bool(context)


@functools.cache
def _silent() -> Any:
    import llama_cpp

    return llama_cpp.llama_log_callback(lambda *_: None)


Edit = Callable[[Draft], object]
