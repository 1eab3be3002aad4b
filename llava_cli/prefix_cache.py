"""Keeps on disk what a picture costs most: its embeddings, and the KV cells of a prompt up to its first picture.

A KV prefix is everything llama.cpp computed for BOS, the system sentence, `USER: ` and the picture; bringing it back
takes a fraction of a second, computing it up to a minute. The key of an entry is everything that shapes it, down to
how cells are batched, so that an answer is the same to the byte whether its prefix was restored or computed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_cli.cache_files import CacheFiles, Entry, Key
from llava_cli.cells import Cell, PictureCell, view_of
from llava_cli.errors import NotEnoughRoom
from llava_cli.gguf_file import file_identity
from llava_cli.settings import LoadOptions, cache_dir, data_dir
from llava_cli.timeline import KvCache
from llava_cli.vision import FEATURES_VERSION, View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_EMBEDDINGS, _PREFIX, _OPENING = "embeddings", "prefix", "opening"
"""Kinds of entries: a picture's embeddings; the cells up to the first picture; those in front of it, in all prompts."""

_SHAPES_NO_CELL = {"n_ctx", "n_threads", "n_threads_batch", "no_perf"}
"""Fields of llama.cpp's context parameters that may differ. Sums are split by row, not by thread."""


@dataclass(frozen=True)
class KeptPicture:
    """What the cache holds of one picture, for all models and prompts together."""

    sha256: str
    name: str
    """What it was called when it was last read."""
    size: int
    """Bytes on disk."""
    prefixes: int
    """Prompts whose cells are kept; the embeddings may be there without."""
    used: float
    """When any of it was last of use, seconds since the epoch."""


class PrefixCache:
    """The pictures this user's models have read, on disk, at most `size` bytes. One object may serve many models."""

    def __init__(
        self, directory: Path | None = None, *, size: int = LoadOptions.cache_size, keeps_prefixes: bool = True
    ) -> None:
        """Open it. Without `keeps_prefixes`, those that are there are used, but of a new picture only embeddings stay.

        That is for many pictures, few of which are asked about again: their prefixes would push out all others.
        """
        self._keeps_prefixes = keeps_prefixes
        self._files = CacheFiles(directory or cache_dir() / "pictures", data_dir() / "cache.key", size)
        self.notes: list[str] = []
        """Things worth saying once: why it is not used, or why a picture could not be kept."""
        if self._files.refusal:
            self.notes.append(f"the picture cache is not used: {self._files.refusal}")

    def shelf(self, llama: Any, projector: Path, since_ns: int) -> Shelf | None:
        """Return the part of it for one open model; None if it is not used or the files cannot be told for sure.

        `since_ns` is a moment before they were opened.
        """
        paths = Path(llama.model_path), projector
        identities = [file_identity(path, since_ns) for path in paths]
        if self._files.refusal or None in identities:
            return None

        def is_current() -> bool:
            return identities == [file_identity(path, since_ns) for path in paths]

        model, tower = identities
        cells, features = _cell_facts(llama, model), {"projector": tower, **_engine()}
        return Shelf(self._files, self.notes, cells, features, is_current, keeps_prefixes=self._keeps_prefixes)

    def pictures(self) -> list[KeptPicture]:
        """List what is kept, by picture, the most recently used first."""
        of_pictures = [entry for entry in self._files.entries() if entry.kind != _OPENING]
        entries = sorted(of_pictures, key=lambda entry: entry.about["sha256"])
        kept = []
        for sha256, group in groupby(entries, key=lambda entry: entry.about["sha256"]):
            mine = list(group)
            latest = max(mine, key=lambda entry: entry.created)
            size = sum(entry.size for entry in mine)
            prefixes = sum(entry.kind == _PREFIX for entry in mine)
            kept.append(KeptPicture(sha256, latest.about["name"], size, prefixes, max(e.used for e in mine)))
        return sorted(kept, key=lambda picture: picture.used, reverse=True)

    def openings_size(self) -> int:
        """Return the bytes on disk for system prompts, which stand in front of every picture."""
        return sum(entry.size for entry in self._files.entries() if entry.kind == _OPENING)

    def made_by(self, files: Iterable[Path]) -> list[Entry]:
        """List what was read with one of these model files or projectors."""
        identities = {file_identity(path, time.time_ns()) for path in files} - {None}
        return [entry for entry in self._files.entries() if identities & _files_of(entry.key)]

    def forget(self, entries: Iterable[Entry]) -> int:
        """Remove some of what is kept; return the bytes that gives back."""
        return sum(self._files.remove(entry.kind, entry.key) for entry in entries)

    def clear(self) -> int:
        """Remove everything; return the bytes that gives back."""
        return self._files.clear()


class Shelf:
    """What one pair of model files, opened in one way, has in the cache. Nothing here ever fails a question."""

    def __init__(
        self,
        files: CacheFiles,
        notes: list[str],
        cells: Key | None,
        features: Key,
        is_current: Callable[[], bool],
        *,
        keeps_prefixes: bool,
    ) -> None:
        self._files = files
        self._notes = notes
        self._cells = cells
        self._features = features
        self._is_current = is_current
        self._keeps_prefixes = keeps_prefixes
        self._failed: set[str] = set()
        """Kinds that could not be kept: what fails for one picture fails for the next, and costs time each time."""

    def embeddings(self, view: View, width: int) -> NDArray[np.float32] | None:
        """Return the embeddings of a picture, float32 `(view.tokens, width)`, if they are kept."""
        import numpy as np

        payload = self._files.read(_EMBEDDINGS, self._features_key(view))
        if payload is None or len(payload) != view.tokens * width * 4:
            return None
        return np.frombuffer(payload, dtype=np.float32).reshape(view.tokens, width)

    def keep_embeddings(self, view: View, name: str, rows: NDArray[np.float32]) -> None:
        """Keep the embeddings of a picture that people know as `name`."""
        self._keep(_EMBEDDINGS, self._features_key(view), {"sha256": view.sha256, "name": name}, rows.tobytes)

    def lacks(self, prefix: Sequence[Cell]) -> bool:
        """Tell whether `prefix` should be kept and is not."""
        kind = _kind_of(prefix)
        wanted = bool(prefix) and (kind != _PREFIX or self._keeps_prefixes)
        can = wanted and self._cells is not None and kind not in self._failed
        return can and not self._files.has(kind, self._prefix_key(prefix))

    def keep_prefix(self, prefix: Sequence[Cell], names: Mapping[str, str], cache: KvCache) -> None:
        """Keep `prefix`, which must be `cache.prefix()` or its opening; `cache` forgets what stands behind it."""
        view = _view_of(prefix)
        about = {} if view is None else {"sha256": view.sha256, "name": names.get(view.sha256, "")}
        self._keep(_kind_of(prefix), self._prefix_key(prefix), about, lambda: cache.save(prefix))

    def restore(self, prefix: Sequence[Cell], cache: KvCache) -> bool:
        """Make `cache` hold `prefix` and nothing else, if it is kept; else change nothing."""
        if self._cells is None or not prefix:
            return False
        state = self._files.read(_kind_of(prefix), self._prefix_key(prefix))
        if state is None or not cache.restore(prefix, state):
            return False
        # They are small and next to go; a new system prompt will want them.
        if (view := _view_of(prefix)) is not None:
            self._files.touch(_EMBEDDINGS, self._features_key(view))
        return True

    def _keep(self, kind: str, key: Key, about: dict[str, str], make: Callable[[], bytes | bytearray]) -> None:
        if kind in self._failed or self._files.has(kind, key) or not self._is_current():
            return
        try:
            if payload := make():
                self._files.write(kind, key, payload, about)
        except NotEnoughRoom as error:
            self._fail(kind, error.why)
        except (OSError, MemoryError) as error:
            self._fail(kind, (getattr(error, "strerror", None) or str(error) or "not enough memory").lower())

    def _fail(self, kind: str, why: str) -> None:
        if not self._failed:
            self._notes.append(f"the picture is not kept for next time: {why}")
        self._failed.add(kind)

    def _features_key(self, view: View) -> Key:
        return {"picture": view.sha256, "detail": view.detail, "version": FEATURES_VERSION, **self._features}

    def _prefix_key(self, prefix: Sequence[Cell]) -> Key:
        return {"cells": list(_runs(prefix)), "version": FEATURES_VERSION, **self._features, "context": self._cells}


def _files_of(key: Key) -> set[str | None]:
    return {key.get("projector"), (key.get("context") or {}).get("model")}


def _runs(cells: Sequence[Cell]) -> Iterator[int | list[str | int]]:
    """Write cells as JSON: a token as its number, a picture as its view and how many cells it takes."""
    for view, group in groupby(cells, key=view_of):
        run = list(group)
        if view is not None:
            yield [*view, len(run)]
        else:
            yield from (cell for cell in run if isinstance(cell, int))


def _view_of(prefix: Sequence[Cell]) -> View | None:
    return next((cell.view for cell in prefix if isinstance(cell, PictureCell)), None)


def _kind_of(prefix: Sequence[Cell]) -> str:
    return _OPENING if _view_of(prefix) is None else _PREFIX


def _cell_facts(llama: Any, model: str | None) -> Key | None:
    """Return what shapes the cells of an open `Llama` besides the prompt; None if that cannot be told, or kept."""
    from llama_cpp import llama_cpp as c

    weights = llama._model.model
    has_other_files = llama.lora_path or llama.metadata.get("split.count", "1") not in ("0", "1")
    # Only plain attention keeps every cell until it is told to forget it.
    forgets = c.llama_model_n_swa(weights) or c.llama_model_is_recurrent(weights) or c.llama_model_is_hybrid(weights)
    if has_other_files or forgets:
        return None
    facts = {"model": model, "overrides": repr(llama.kv_overrides)}
    if any(name.endswith("rope.scaling.original_context_length") for name in llama.metadata):
        facts["n_ctx"] = str(llama.n_ctx())  # these models turn positions differently in a long window
    for group, params in (("context", llama.context_params), ("model", llama.model_params)):
        for name, *_ in params._fields_:
            value = getattr(params, name)
            if isinstance(value, bool | int | float) and name not in _SHAPES_NO_CELL:
                facts[f"{group}.{name}"] = repr(value)
    return facts


def _engine() -> Key:
    """Return what is known of the installed llama.cpp: another build may round differently, or store otherwise."""
    import llama_cpp
    from llama_cpp import llama_cpp as c

    # `LLAMA_CPP_LIB` can name another library than the one beside the package.
    directory = Path(getattr(getattr(c, "_lib", None), "_name", None) or llama_cpp.__file__).parent
    libraries = sorted((path.name, path.stat()) for path in directory.glob("lib*"))
    build = repr([(name, status.st_size, status.st_mtime_ns) for name, status in libraries])
    return {
        "llama-cpp-python": llama_cpp.__version__,
        "llama.cpp": c.llama_print_system_info().decode("ascii", "replace"),
        "build": hashlib.sha256(build.encode()).hexdigest(),
    }
