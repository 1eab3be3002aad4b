"""Brings the embeddings of pictures into memory: from disk, from looking ahead, or by looking at them now."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_cli import last_words
from llava_cli.ahead import Ahead
from llava_cli.errors import Stopped
from llava_cli.pictures import Picture, RememberedPicture
from llava_cli.vision import Tower, TowerFacts, View

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_cli.prefix_cache import Shelf
    from llava_cli.settings import Detail

_KEPT = 4
"""Pictures whose embeddings stay in memory, 9 MB each on a 7B model, up to 48 MB if it is a LLaVA-1.6: enough to go
back and forth between two."""


class PictureEmbeddings:
    """What the model of one `Llama` sees of pictures, float32 `(n_tokens, n_embd)` each; the last few stay."""

    def __init__(
        self,
        projector: Path,
        detail: Detail,
        stopped: threading.Event,
        on_look: Callable[[int], None],
        on_looked: Callable[[int, float], None],
    ) -> None:
        """`on_look` hears how many rows are about to be made, `on_looked` how many seconds rows took."""
        self.facts = TowerFacts.read(projector)
        self._projector = projector
        self._detail = detail
        self._stopped = stopped
        self._on_look, self._on_looked = on_look, on_looked
        self._rows: OrderedDict[View, NDArray[np.float32]] = OrderedDict()
        self._unkept: dict[View, tuple[str, NDArray[np.float32]]] = {}
        """Those that are not on disk yet."""
        self.looked_at = 0
        """Pictures that had to be looked at so far, made ahead or not."""
        self.look_seconds = 0.0
        """What waiting for that took."""
        self._ahead = Ahead()
        self._llama: Any = None
        self._shelf: Shelf | None = None

    def open(self, llama: Any, shelf: Shelf | None) -> None:
        """Work for `llama`, with what is on `shelf`."""
        self._llama, self._shelf = llama, shelf

    def view(self, picture: Picture | RememberedPicture) -> View:
        """Return what the tower sees of `picture`."""
        return self.facts.view(picture, self._detail)

    def rows(self, picture: Picture | RememberedPicture) -> NDArray[np.float32]:
        """Return the embeddings of one picture, looking at it if need be."""
        view = self.view(picture)
        if view not in self._rows:
            self.look([picture])
        return self._rows[view]

    def look(self, pictures: Sequence[Picture | RememberedPicture]) -> None:
        """Bring the embeddings of `pictures` into memory.

        Raise `UnreadablePicture` for one that is only remembered, if they are not on disk, and its file is gone.
        """
        views = {self.view(picture): picture for picture in pictures}
        self._ahead.give_up_all_but(views)
        for view in views:
            if view in self._rows or self._fetch(view):
                self._rows.move_to_end(view)
        missing = {view: _with_pixels(picture) for view, picture in views.items() if view not in self._rows}
        start = time.monotonic()
        for view, rows in self._encode(missing):
            self._rows[view] = rows
            self.looked_at += 1
            if self._shelf is not None:
                self._unkept[view] = missing[view].name, rows
        self.look_seconds += time.monotonic() - start if missing else 0.0
        while len(self._rows) > max(_KEPT, len(views)):
            self._rows.popitem(last=False)
        # They wait for a moment in which nobody waits, but not for ever.
        if len(self._unkept) > _KEPT:
            self.keep()

    def look_ahead(self, picture: Picture) -> None:
        """Begin to look at `picture` in a thread, and return at once; whoever needs it takes what there is then."""
        view = self.view(picture)
        if view not in self._rows and not self._fetch(view):
            self._ahead.begin(view, partial(self._encode_ahead, picture, view.detail))

    def stop(self) -> None:
        """Stop looking ahead, soon; safe in a signal handler and in any thread."""
        self._ahead.stop()

    def close(self) -> None:
        """Stop looking ahead, and return when that has stopped."""
        self._ahead.close()

    def keep(self) -> None:
        """Put on disk what is not there."""
        while self._unkept and self._shelf is not None:
            view, (name, rows) = self._unkept.popitem()
            self._shelf.keep_embeddings(view, name, rows)

    def _encode(self, pictures: Mapping[View, Picture]) -> Iterator[tuple[View, NDArray[np.float32]]]:
        """Yield embeddings, those that were made ahead first; the tower is open only for the rest."""
        if not pictures:
            return
        self._on_look(sum(view.tokens for view in pictures))
        rest = []
        for view in pictures:
            rows = self._ahead.take(view, self._stopped)
            if rows is None:
                rest.append(view)
            else:
                yield view, rows
        if self._stopped.is_set():
            raise Stopped("picture", "stopped while looking at it")
        if rest:
            self._ahead.await_end()
            start = time.monotonic()
            with Tower(self._projector, self._llama, self._stopped) as tower:
                for view in rest:
                    yield view, tower.encode(pictures[view], view.detail)
            self._on_looked(sum(view.tokens for view in rest), time.monotonic() - start)

    def _encode_ahead(self, picture: Picture, detail: Detail, stopped: threading.Event) -> NDArray[np.float32]:
        last_words.say("stage", "looking")
        with Tower(self._projector, self._llama, stopped) as tower:
            rows = tower.encode(picture, detail)
        last_words.say("stage", "")
        return rows

    def _fetch(self, view: View) -> bool:
        """Take the embeddings of a picture from disk, if they are there."""
        rows = None if self._shelf is None else self._shelf.embeddings(view, int(self._llama.n_embd()))
        if rows is not None:
            self._rows[view] = rows
        return rows is not None


def _with_pixels(picture: Picture | RememberedPicture) -> Picture:
    return picture if isinstance(picture, Picture) else picture.open()
