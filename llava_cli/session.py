"""What a chat at the terminal consists of: a model on its way, the turns, the pictures for the next question."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from llava_cli.chat import Chat
from llava_cli.errors import LlavaError, UsageError
from llava_cli.journal import Journal
from llava_cli.opening import Opening
from llava_cli.pictures import LIMITS, Picture, PictureLimits, RememberedPicture
from llava_cli.places import Place
from llava_cli.schemas import AnswerSchema
from llava_cli.settings import Sampling
from llava_cli.sources import open_source
from llava_cli.turns import PastChat, messages_of

if TYPE_CHECKING:
    from llava_cli.chat import Opened
    from llava_cli.reply import Reply


class Session:
    """One chat with one model at a time; the chat stays when the model changes."""

    def __init__(
        self,
        place: Place,
        name: str,
        *,
        sampling: Sampling,
        journal: Journal,
        system: str | None = None,
        limits: PictureLimits = LIMITS,
    ) -> None:
        self.place = place
        self.model_name = name
        self.sampling = sampling
        self.journal = journal
        self.limits = limits
        """Of pictures that are opened."""
        self.staged: list[Picture | RememberedPicture] = []
        """Pictures that wait for the next question."""
        self.last: Reply | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called, perhaps from another thread, when there is news of the model."""
        self._is_new = True
        """Whether the reply under way answers a new question."""
        self.chat = Chat(self, system)
        self._opening = self._begin_opening()

    # The model.

    @property
    def model(self) -> Opened:
        """Wait for the model and return it; raise what went wrong while it was opened."""
        return self._opening.model()

    @property
    def is_loading(self) -> bool:
        return self._opening.is_under_way

    @property
    def has_failed(self) -> bool:
        """Tell whether the model could not be opened."""
        return self._opening.has_failed

    def use(self, name: str) -> None:
        """Close the model and begin to open another one; the chat goes on with it."""
        with suppress(LlavaError):
            self.model.close()
        self.model_name = name
        self._opening = self._begin_opening()

    def close(self) -> None:
        """Wait for the model and close it, which keeps what was read of pictures."""
        self._opening.close()

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what is worth saying about the model and the log; closing may add to it."""
        return (*self._opening.notes, *self.journal.history.notes)

    def _begin_opening(self) -> Opening:
        def open_and_prepare() -> Opened:
            model = self.place.open(self.model_name)
            # A list of its own: the user may stage more meanwhile.
            for picture in list(self.staged):
                model.prepare(picture)
            return model

        return Opening(open_and_prepare, self._tell)

    def _tell(self) -> None:
        self.on_change()

    # What the chat needs of a model, whichever is open.

    @property
    def context(self) -> int:
        return self.model.context

    def count(self, messages: Sequence[Mapping[str, Any]]) -> int:
        return self.model.count(messages)

    def reply(
        self,
        messages: Sequence[Mapping[str, Any]],
        sampling: Sampling,
        on_end: Callable[[str], None],
        schema: AnswerSchema | None = None,
    ) -> Reply:
        return self.model.reply(messages, sampling, on_end, schema)

    # Turns and pictures.

    def stage(self, source: str | Picture) -> Picture:
        """Open a picture for the next question, and let the model begin to look at it; nothing is sent."""
        picture = open_source(source, limits=self.limits) if isinstance(source, str) else source
        self.staged.append(picture)
        if not self.is_loading and not self.has_failed:
            self.model.prepare(picture)
        return picture

    # Each of these begins a reply; `keep` follows when it has ended.

    def ask(self, question: str) -> Reply:
        """Send a question with the pictures that wait for it."""
        self._is_new = True
        self.journal.announce(self.model, self.sampling, question, self.staged, self.chat.system)
        try:
            return self._begun(self.chat.send(question, picture=self.staged))
        except BaseException:
            self.journal.history.announce(None)
            raise

    def retry(self, temperature: float | None = None) -> Reply:
        """Answer the last question again."""
        self._is_new = False
        other = {} if temperature is None else {"temperature": temperature}
        return self._begun(self.chat.retry(**other))

    def go_on(self) -> Reply:
        """Go on with the last answer."""
        self._is_new = False
        return self._begun(self.chat.go_on())

    def keep(self, reply: Reply) -> None:
        """Write a reply that has ended into the log."""
        reply.close()
        self.journal.history.announce(None)
        if not reply.is_worth_keeping:
            return
        question, answer = self.chat.last_turn
        if self._is_new:
            self.journal.write(reply, self.model, question, self.staged, self.chat.system)
            self.staged = []
        else:
            self.journal.write_instead(reply, self.model, question, answer, self.chat.system)

    def undo(self) -> str:
        """Take back the last question; its pictures wait for the next one."""
        text, pictures = self.chat.undo()
        self.staged = [*pictures, *self.staged]
        self.journal.take_back()
        return text

    def begin_anew(self) -> None:
        """Forget all turns and pictures; the system prompt and the settings stay."""
        self.chat = Chat(self, self.chat.system)
        self.staged = []
        self.last = None
        self.journal.begin_anew()

    def resume(self, past: PastChat) -> None:
        """Go on with a chat of the log."""
        turns = self.journal.resume(past)
        self.chat = Chat(self, turns[-1].system if turns else self.chat.system, messages_of(turns))
        self.staged = []
        self.last = None

    @property
    def pictures(self) -> list[Picture | RememberedPicture]:
        """Return the pictures of the chat, then those that wait."""
        return [*self.chat.pictures, *self.staged]

    def picture(self, number: str) -> Picture | RememberedPicture:
        """Return a picture by its number in `/images`, the newest without one."""
        return self.pictures[self._index(number)]

    def drop(self, number: str) -> Picture | RememberedPicture:
        """Take a picture out of the chat, or out of those that wait."""
        index, shown = self._index(number), len(self.chat.pictures)
        return self.chat.drop(index) if index < shown else self.staged.pop(index - shown)

    def _index(self, number: str) -> int:
        count = len(self.pictures)
        if not count:
            raise UsageError("pictures", "there is none in this chat", hint="/image FILE shows one")
        if not number:
            return count - 1
        if not number.isdecimal() or not 1 <= int(number) <= count:
            raise UsageError("pictures", f"there is no number {number}", hint="/images shows the numbers")
        return int(number) - 1

    def _begun(self, reply: Reply) -> Reply:
        self.last = reply
        return reply

    @property
    def share_in_use(self) -> float | None:
        """Return how full the context window is, from 0 to 1; None while nobody knows."""
        if self.is_loading or self.has_failed or not self.context:
            return None
        with suppress(LlavaError):
            return self.chat.cells / self.context
        return None
