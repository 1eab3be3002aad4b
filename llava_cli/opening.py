"""Opens a model in a thread, while its user already types."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llava_cli.chat import Opened


class Opening:
    """A model on its way. What goes wrong shows when it is asked for."""

    def __init__(self, open_model: Callable[[], Opened], on_end: Callable[[], None]) -> None:
        self._open = open_model
        self._on_end = on_end
        self._model: Opened | None = None
        self._error: BaseException | None = None
        self._ended = threading.Event()
        # Nobody waits for a model that is not wanted any more: it ends with the process.
        self._thread = threading.Thread(target=self._run, name="llava opens a model", daemon=True)
        self._thread.start()

    @property
    def is_under_way(self) -> bool:
        """Tell whether there is neither a model nor an error yet."""
        return not self._ended.is_set()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is worth saying about the model, if there is one."""
        return self._model.notes if self._model is not None else ()

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def model(self) -> Opened:
        """Wait for the model and return it, or raise what went wrong. Ctrl-C ends the waiting, not the opening."""
        while not self._ended.wait(0.1):
            continue
        if self._error is not None:
            raise self._error
        assert self._model is not None
        return self._model

    def close(self) -> None:
        """Wait for the model and close it, if there is one."""
        self._thread.join()
        if self._model is not None:
            self._model.close()

    def _run(self) -> None:
        try:
            self._model = self._open()
        except BaseException as error:  # noqa: BLE001 - it is raised again, where somebody waits
            self._error = error
        self._ended.set()
        self._on_end()
