"""Brings the KV cache up to a prompt: from what it holds, from disk, or by reading; and keeps on disk what was read."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from llava_cli.cells import (
    Cell,
    WrittenAnswers,
    cells_of,
    opening_of,
    picture_cells,
    up_to_first_picture,
    view_of,
)
from llava_cli.errors import EngineFailed, Stopped
from llava_cli.picture_embeddings import PictureEmbeddings
from llava_cli.pictures import Picture, RememberedPicture
from llava_cli.prefix_cache import Shelf
from llava_cli.prompts import Layout, Message
from llava_cli.reply import Reading
from llava_cli.timeline import KvCache
from llava_cli.vision import View
from llava_cli.window import require_room

Tell = Callable[[str, int], None]
"""Hears what begins, with the cells there are to read."""

Learn = Callable[[str, int, float], None]
"""Hears how many seconds so many cells took."""


class PromptReader:
    """What was read into one `Llama`, and how the next prompt gets there."""

    def __init__(
        self,
        llama: Any,
        layout: Layout,
        embeddings: PictureEmbeddings,
        written: WrittenAnswers,
        shelf: Shelf | None,
        stopped: threading.Event,
        tell: Tell,
        learn: Learn,
    ) -> None:
        self.cache = KvCache(llama)
        self.is_answered = False
        """Whether an answer to what is in the KV cache has ended by itself."""
        self._llama = llama
        self._layout, self._embeddings, self._written = layout, embeddings, written
        self._shelf = shelf
        self._stopped = stopped
        self._tell, self._learn = tell, learn
        self._names: dict[str, str] = {}
        """What pictures are called, by their hashes."""

    def read(self, messages: Sequence[Message], reading: Reading) -> None:
        """Read the prompt of `messages`, and write down in `reading` what that took.

        Raise `ContextTooSmall` if it leaves no room for an answer, and `Stopped` if somebody stops it.
        """
        timeline = cells_of(self._layout.render(messages), self._llama, self._embeddings.view, self._written)
        require_room(timeline, self._llama, self._embeddings.facts)
        reading.picture_cells = picture_cells(timeline)
        reading.read_seconds += self._recall(timeline)
        pictures = self._pictures(messages)
        self._names.update((picture.sha256, picture.name) for picture in pictures.values())
        looked_at, look_seconds = self._embeddings.looked_at, self._embeddings.look_seconds
        new = timeline[self.cache.shared(timeline) :]
        self._embeddings.look([pictures[view] for view in dict.fromkeys(map(view_of, new)) if view is not None])
        self._tell("reading", len(new))
        start = time.monotonic()
        with self.failures("reading", "stopped before the answer began", "it could not read the prompt"):
            reading.reused, reading.new = self.sync(timeline, messages)
        seconds = time.monotonic() - start
        reading.pictures_encoded = self._embeddings.looked_at - looked_at
        reading.look_seconds = self._embeddings.look_seconds - look_seconds
        reading.read_seconds += seconds
        self._learn("reading", reading.new, seconds)

    def sync(self, timeline: Sequence[Cell], messages: Sequence[Message]) -> tuple[int, int]:
        """Make the KV cache hold `timeline`, whose pictures are those of `messages`; return cells `(reused, new)`."""
        pictures = self._pictures(messages)
        return self.cache.sync(timeline, lambda view: self._embeddings.rows(pictures[view]))

    @contextmanager
    def failures(self, what: str, stopped: str, failed: str) -> Iterator[None]:
        """Say in words why llama.cpp did not go on: somebody stopped it, or it failed."""
        try:
            yield
        except RuntimeError as error:
            if self._stopped.is_set():
                raise Stopped(what, stopped) from error
            raise EngineFailed("llama.cpp", f"{failed} ({error})") from error

    def keep(self) -> None:
        """Put on disk what was read of pictures and is not there; what stands behind the first one is forgotten.

        So it is done when that is needed no more, and not while somebody waits for an answer.
        """
        self._embeddings.keep()
        # A reader who has left, or pressed Ctrl-C, does not want to wait for half a gigabyte.
        if self._shelf is None or not self.is_answered:
            return
        prefix = self.cache.prefix()
        if self._shelf.lacks(prefix):
            self._tell("keeping", 0)
            self._shelf.keep_prefix(prefix, self._names, self.cache)
        if self._shelf.lacks(opening := opening_of(prefix)):
            self._shelf.keep_prefix(opening, self._names, self.cache)

    def _recall(self, timeline: Sequence[Cell]) -> float:
        """Let what is in the KV cache make room, kept on disk, if `timeline` begins otherwise; bring back its own.

        Return the seconds that bringing back took.
        """
        held, prefix, opening = self.cache.cells(), up_to_first_picture(timeline), opening_of(timeline)
        mine = up_to_first_picture(held)
        if not mine or timeline[: len(mine)] != mine:
            self.keep()
            self.is_answered = False
        if self._shelf is None or held[: len(prefix)] == prefix:
            return 0.0
        start = time.monotonic()
        # A new picture stands behind the same system prompt as the last one.
        if not self._shelf.restore(prefix, self.cache) and held[: len(opening)] != opening:
            self._shelf.restore(opening, self.cache)
        return time.monotonic() - start

    def _pictures(self, messages: Sequence[Message]) -> dict[View, Picture | RememberedPicture]:
        return {self._embeddings.view(picture): picture for message in messages for picture in message.pictures}
