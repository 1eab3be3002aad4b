"""Says of the files of a model on this computer whether they are what they should be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llava_cli import checksums, hub_cache
from llava_cli.errors import ModelUnusable
from llava_cli.gguf_file import check_model, check_pair, check_projector, read_header
from llava_cli.gguf_header import DOWNLOAD_AGAIN
from llava_cli.inventory import Holding
from llava_cli.registry import FileSpec


@dataclass(frozen=True)
class Verdict:
    """What came out for one file."""

    path: Path
    sound: bool
    result: str
    hint: str = ""
    """What mends it."""


def verify(holding: Holding, *, anew: Callable[[Path], bool], on_reading: Callable[[Path], None]) -> Iterator[Verdict]:
    """Check each file of a model that is there, and that they fit each other.

    What was read before is not read again unless `anew` says so; `on_reading` hears which file it is now.
    """
    spec = holding.spec
    again = "install llava again" if spec.bundled else f"llava pull {spec.full_name} fetches it again"
    misfit = _misfit(holding)
    for file, path in holding.files:
        if path is None:
            continue
        fault = _structural_fault(path, is_projector=file is spec.projector)
        if fault is None and misfit is not None and misfit.what == path.name:
            fault = misfit
        if fault is not None:
            yield Verdict(path, False, fault.why, again if fault.hint == DOWNLOAD_AGAIN else fault.hint)
            continue
        on_reading(path)
        try:
            yield _by_content(file, path, anew(path), again)
        except OSError as error:
            yield Verdict(path, False, f"it cannot be read ({(error.strerror or str(error)).lower()})", again)


def _by_content(file: FileSpec, path: Path, anew: bool, again: str) -> Verdict:
    # The hub tells the sha256 of large files, and the cache names them by it.
    upstream = hub_cache.named_sha256(path)
    expected = file.sha256 or upstream
    if expected is None:
        return Verdict(path, True, "sound; no sha256 is known to compare with")
    found = checksums.sha256_of(path, anew=anew)
    if found == expected:
        return Verdict(path, True, "sha256 as published" if file.sha256 else "sha256 as the hub told at download")
    if found == upstream:
        why = f"the file upstream is not the one this list knows (sha256 {found}, here {expected})"
        return Verdict(path, False, why, "a newer llava may know it; until then it is for you to trust it")
    return Verdict(path, False, f"damaged: its sha256 is {found}, not {expected}", again)


def _structural_fault(path: Path, *, is_projector: bool) -> ModelUnusable | None:
    try:
        header = read_header(path)
        (check_projector if is_projector else check_model)(header)
    except ModelUnusable as error:
        return error
    return None


def _misfit(holding: Holding) -> ModelUnusable | None:
    if holding.model is None or holding.projector is None:
        return None
    try:
        check_pair(read_header(holding.model), read_header(holding.projector))
    except ModelUnusable as error:
        return error
    return None
