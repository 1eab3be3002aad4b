"""Changes small GGUF files at random, and lets llama.cpp run those that the gate lets through, each in a child process.

    python -m tests.mutations SEED COUNT

runs until COUNT of them have passed the gate, and prints how many were refused and which of them were the end of
their process. `python -m tests.mutations SEED COUNT NUMBER` runs the one of that number, with all that llama.cpp says.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llava_cli import registry
from llava_cli.errors import LlavaError, ModelUnusable
from llava_cli.gguf_file import read_header
from llava_cli.gguf_format import TENSOR_TYPES, GgufArray
from llava_cli.model import load
from llava_cli.pictures import Picture, open_picture
from llava_cli.settings import LoadOptions
from llava_cli.weights import open_weights
from tests.gguf_draft import Draft
from tests.processes import SCENE
from tests.tiny_model import write_tiny_pair

_WHOLE = (0, 1, 2, 3, 7, 31, 32, 33, 64, 128, 255, 256, 65_535, 65_536, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 63) - 1)
_REAL = (0.0, -1.0, 1e-38, 1e-5, 0.5, 1.0, 3.0, 1e6, 1e38, float("inf"), float("-inf"), float("nan"))
_RANGES = {"u8": 8, "i8": 7, "u16": 16, "i16": 15, "u32": 32, "i32": 31, "u64": 64, "i64": 63}

Mutation = Callable[[random.Random, Path], None]
"""Changes the file at a path."""


# Files that are well formed, with something else in them


def _drop_key(draw: random.Random, path: Path) -> None:
    Draft(path).drop(draw.choice(list(read_header(path).types))).write(path)


def _change_value(draw: random.Random, path: Path) -> None:
    header = read_header(path)
    key = draw.choice([key for key in header.types if key != "tokenizer.ggml.tokens"])
    kind = header.types[key] if draw.random() < 0.8 else draw.choice(list(_RANGES))
    Draft(path).set(key, kind, _value(draw, kind, header.metadata.get(key))).write(path)


def _change_vocabulary(draw: random.Random, path: Path) -> None:
    header = read_header(path)
    arrays = [key for key, kind in header.types.items() if kind.endswith("[]") and key.startswith("tokenizer.")]
    if not arrays:
        return _change_value(draw, path)
    key = draw.choice(arrays)
    array = header.metadata[key]
    assert isinstance(array, GgufArray)
    values: list[Any] = list(array.values())
    for _ in range(draw.choice((1, 1, 5, 50))):
        place = draw.randrange(len(values))
        values[place] = _value(draw, array.item_type, values[place])
    Draft(path).set(key, f"{array.item_type}[]", values).write(path)
    return None


def _value(draw: random.Random, kind: str, now: object) -> Any:
    if kind.endswith("[]"):
        values = list(now.values()) if isinstance(now, GgufArray) else []
        del values[draw.randrange(len(values) + 1) :]
        return values + [_value(draw, kind[:-2], None) for _ in range(draw.randrange(4))]
    if kind == "str":
        words = ("", "llama", "clip", "mlp", "gpt2", "none", "default", "\0", "x" * 300, "{{ messages }}", "{% for %}")
        return draw.choice(words) if not isinstance(now, bytes) else draw.randbytes(draw.randrange(12))
    if kind == "bool":
        return draw.random() < 0.5
    if kind in ("f32", "f64"):
        return draw.choice(_REAL)
    value = draw.choice(_WHOLE) if draw.random() < 0.7 else draw.randrange(200)
    return value % (1 << _RANGES[kind]) * (1 if kind[0] == "u" else draw.choice((1, 1, -1)))


def _drop_tensor(draw: random.Random, path: Path) -> None:
    draft = Draft(path)
    draft.drop(draw.choice(draft.tensors)["name"]).write(path)


def _reshape_tensor(draw: random.Random, path: Path) -> None:
    draft = Draft(path)
    tensor = draw.choice(draft.tensors)
    shape = list(tensor["shape"])
    place = draw.randrange(len(shape))
    match draw.randrange(4):
        case 0:
            draw.shuffle(shape)
        case 1:
            shape[place] += draw.choice((-1, 1, 31, 32, 224))
        case 2:
            shape.append(draw.choice((1, 2)))
        case _:
            shape[place] = draw.choice((1, 2, 32, 64, 256))
    kinds = [name for name, block, _ in TENSOR_TYPES.values() if shape[0] % block == 0]
    kind = TENSOR_TYPES[tensor["type"]][0]
    if min(shape) > 0 and len(shape) <= 4 and kinds:
        draft.reshape(tensor["name"], tuple(shape), kind if kind in kinds else draw.choice(kinds)).write(path)


def _retype_tensor(draw: random.Random, path: Path) -> None:
    draft = Draft(path)
    tensor = draw.choice(draft.tensors)
    kinds = [name for name, block, _ in TENSOR_TYPES.values() if tensor["shape"][0] % block == 0]
    draft.reshape(tensor["name"], tensor["shape"], draw.choice(kinds)).write(path)


def _rename_tensor(draw: random.Random, path: Path) -> None:
    draft = Draft(path)
    tensor = draw.choice(draft.tensors)
    changes = (("weight", "bias"), ("blk.0", "blk.1"), ("0", "7"), ("attn", "ffn"), ("v.", "a."))
    tensor["name"] = tensor["name"].replace(*draw.choice(changes))
    draft.write(path)


def _exchange_tensors(draw: random.Random, path: Path) -> None:
    draft = Draft(path)
    one, other = draw.sample(draft.tensors, 2)
    one["name"], other["name"] = other["name"], one["name"]
    draft.write(path)


def _fill_tensor(draw: random.Random, path: Path) -> None:
    draft = Draft(path)
    tensor = draw.choice(draft.tensors)
    pattern = draw.choice((struct.pack("<f", draw.choice(_REAL)), draw.randbytes(4), b"\xff" * 4))
    tensor["data"] = (pattern * (len(tensor["data"]) // 4 + 1))[: len(tensor["data"])]
    draft.write(path)


# Files whose bytes are damaged


def _damage(draw: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    header = len(read_header(path).raw)
    end = header if draw.random() < 0.8 else len(data)
    for _ in range(draw.choice((1, 1, 2, 8))):
        data[draw.randrange(4, end)] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _overwrite_number(draw: random.Random, path: Path) -> None:
    data = bytearray(path.read_bytes())
    layout = draw.choice(("<I", "<Q"))
    number = draw.choice(_WHOLE) % (1 << (8 * struct.calcsize(layout)))
    struct.pack_into(layout, data, draw.randrange(4, len(read_header(path).raw) - 8), number)
    path.write_bytes(data)


def _change_length(draw: random.Random, path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))] if draw.random() < 0.5 else data + draw.randbytes(100))


MUTATIONS: tuple[Mutation, ...] = (
    _drop_key, _change_value, _change_value, _change_value, _change_vocabulary, _drop_tensor, _reshape_tensor,
    _retype_tensor, _retype_tensor, _rename_tensor, _exchange_tensors, _fill_tensor, _damage, _damage,
    _overwrite_number, _change_length,
)  # fmt: skip


def mutate(pair: tuple[Path, Path], seed: int, number: int) -> None:
    """Change one file of a pair, or both, in one to three ways, always the same for one seed and number."""
    draw = random.Random(f"{seed}:{number}")
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        try:
            draw.choice(MUTATIONS)(draw, draw.choice(pair))
        except LlavaError:
            return  # what an earlier change made of the file cannot be taken apart any more


def is_let_through(pair: tuple[Path, Path]) -> bool:
    """Tell whether the gate takes a pair."""
    try:
        open_weights(registry.from_files(*pair, "llava_v1"))
    except ModelUnusable:
        return False
    return True


def end_of(pair: tuple[Path, Path], picture: Picture, *, silent: bool = True) -> str:
    """Ask a pair about a picture in a child process; return how that ended badly, or nothing."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        _ask(pair, picture, write, silent)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        words = said.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return f"ended by signal {os.WTERMSIG(status)}"
    return words


def _ask(pair: tuple[Path, Path], picture: Picture, answer: int, silent: bool) -> None:
    """Ask, write what failed into `answer`, and end this process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    try:
        if silent:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        options = LoadOptions(context=256, threads=1)
        with load(model_path=pair[0], projector_path=pair[1], options=options, cache=False) as model:
            _ = model.ask(picture, "What?", temperature=0, max_tokens=3).text
    except LlavaError as error:
        if not silent:
            print(repr(error), file=sys.stderr)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it must be told
        os.write(answer, f"{type(error).__name__}: {error}".encode())
    os._exit(0)


def _whole_pair(directory: Path, number: int) -> tuple[Path, Path]:
    """Return the pair that is changed: a LLaVA-1.5, and every third time a LLaVA-1.6."""
    kind = directory / ("1.6" if number % 3 == 2 else "1.5")
    if not kind.exists():
        kind.mkdir()
        write_tiny_pair(kind, pinpoints=(56, 112, 112, 56, 112, 112) if kind.name == "1.6" else ())
    return kind / "model.gguf", kind / "mmproj.gguf"


def run(seed: int, count: int) -> dict[str, Any]:
    """Let `count` changed pairs pass the gate; return how many were refused, and the number and end of each bad one."""
    import llama_cpp  # noqa: F401 - once, before the children

    picture = open_picture(SCENE)
    refused, passed, faults = 0, 0, {}
    with tempfile.TemporaryDirectory() as directory:
        pair = (Path(directory) / "m.gguf", Path(directory) / "p.gguf")
        while passed < count:
            number = refused + passed
            for source, copy in zip(_whole_pair(Path(directory), number), pair, strict=True):
                shutil.copyfile(source, copy)
            mutate(pair, seed, number)
            if not is_let_through(pair):
                refused += 1
                continue
            passed += 1
            if fault := end_of(pair, picture):
                faults[number] = fault
    return {"refused": refused, "passed": passed, "faults": faults}


def _run_one(seed: int, number: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        pair = _whole_pair(Path(directory), number)
        mutate(pair, seed, number)
        print(end_of(pair, open_picture(SCENE), silent=False) or "ended well")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    if len(numbers) == 3:
        _run_one(numbers[0], numbers[2])
    else:
        print(json.dumps(run(*numbers)))
