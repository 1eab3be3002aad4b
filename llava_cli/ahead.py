"""Looks at the next picture in a thread, while its user still types.

The thread only ever returns embeddings: what the engine knows is changed by whoever takes them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from llava_cli.errors import LlavaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from llava_cli.vision import View

Look = Callable[[threading.Event], "NDArray[np.float32]"]
"""Encodes one picture; raises `LlavaError` when it cannot, or when the event is set meanwhile."""


class Ahead:
    """The one picture that is being looked at before it is asked about, or has been."""

    def __init__(self) -> None:
        self._job: _Job | None = None

    def begin(self, view: View, look: Look) -> None:
        """Begin to look at a picture, unless that is done or under way; another picture is given up."""
        before = self._job
        if before is not None and before.view == view and before.is_of_use():
            return
        self.stop()
        self._job = _Job(view, look, before)
        self._job.start()

    def give_up_all_but(self, wanted: Collection[View]) -> None:
        """Let the processor be for what is asked now: stop, unless the picture is one of the `wanted`."""
        if self._job is not None and self._job.is_alive() and self._job.view not in wanted:
            self.stop()

    def take(self, view: View, stopped: threading.Event) -> NDArray[np.float32] | None:
        """Return the embeddings of that picture, waiting for them; None if they were not made, or `stopped` is set.

        Why they were not made shows when the picture is looked at again.
        """
        job = self._job
        if job is None or job.view != view:
            return None
        while job.is_alive():
            if stopped.is_set():
                self.stop()
                return None
            job.join(0.05)
        self._job = None
        return job.rows

    def stop(self) -> None:
        """Stop looking, soon; safe in a signal handler and in any thread."""
        if self._job is not None:
            self._job.stopped.set()

    def await_end(self) -> None:
        """Return when nothing is being looked at: two open towers would take twice the memory."""
        if self._job is not None:
            self._job.join()

    def close(self) -> None:
        """Stop looking, and return when it has stopped."""
        self.stop()
        self.await_end()
        self._job = None


class _Job(threading.Thread):
    def __init__(self, view: View, look: Look, before: _Job | None) -> None:
        super().__init__(name="llava looks ahead")
        self.view = view
        self.stopped = threading.Event()
        self.rows: NDArray[np.float32] | None = None
        self._look, self._before = look, before

    def is_of_use(self) -> bool:
        return self.rows is not None or not self.stopped.is_set()

    def run(self) -> None:
        # Two open towers would take twice the memory.
        if self._before is not None:
            self._before.join()
            self._before = None
        try:
            if not self.stopped.is_set():
                self.rows = self._look(self.stopped)
        except (LlavaError, MemoryError):
            # Nobody waits for this thread to fail: the question will, in the same way.
            self.rows = None
