"""Packs distributions that are installed here into wheels again, so that they can be installed elsewhere at once:
nothing is compiled, and nothing comes from the network.
"""

from __future__ import annotations

import base64
import hashlib
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def write_wheels(directory: Path, *wanted: str) -> None:
    """Write a wheel of each distribution `wanted`, and of all that they require."""
    todo, seen = list(wanted), set[str]()
    while todo:
        requirement = Requirement(todo.pop())
        name = canonicalize_name(requirement.name)
        if name in seen or not (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        found = distribution(name)
        _write_wheel(directory, found)
        todo += found.requires or []


def _write_wheel(directory: Path, found: Distribution) -> None:
    tags = [line.removeprefix("Tag: ") for line in (found.read_text("WHEEL") or "").splitlines() if "Tag: " in line]
    sets = [".".join(dict.fromkeys(words)) for words in zip(*(tag.split("-") for tag in tags), strict=True)]
    stem = "-".join([canonicalize_name(found.name).replace("-", "_"), found.version, *sets])
    files = dict(_files(found))
    list_of_all = next(name for name in files if name.endswith(".dist-info/WHEEL")).replace("/WHEEL", "/RECORD")
    # Stored as they are: packing tightly takes longer than all else.
    with zipfile.ZipFile(directory / f"{stem}.whl", "w") as wheel:
        rows = [f'"{list_of_all}",,\n']
        for name, path in files.items():
            data = path.read_bytes()
            wheel.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f'"{name}",sha256={digest},{len(data)}\n')
        wheel.writestr(list_of_all, "".join(rows))


def _files(found: Distribution) -> Iterator[tuple[str, Path]]:
    """Give what its wheel held; what pip wrote beside that (programs, byte code, its own notes) is made anew."""
    for file in found.files or []:
        left_out = file.suffix == ".pyc" or file.name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
        if not left_out and ".." not in file.parts:
            yield file.as_posix(), Path(str(found.locate_file(file)))
