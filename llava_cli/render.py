"""The only room that writes to the terminal: answers to stdout, everything about them to stderr."""

from __future__ import annotations

import base64
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout, suppress
from typing import TYPE_CHECKING, Any, Literal, TextIO

from llava_cli.amounts import counted
from llava_cli.errors import EngineFailed, LlavaError, ReaderGone
from llava_cli.look import current_look
from llava_cli.markdown_stream import MarkdownStream, markdown
from llava_cli.pager import opened_pager
from llava_cli.sanitiser import sanitise
from llava_cli.stage_line import StageLine, console_on
from llava_cli.standard_output import Guarded
from llava_cli.terminal_state import DUMB, typed_unseen

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from llava_cli.reply import Usage
    from llava_cli.settings import LoadOptions

STAGES = {
    "loading": "loading the model",
    "looking": "looking at the picture",
    "reading": "reading the question",
    "writing": "writing",
    "weighing": "weighing the choices",
    "keeping": "keeping the picture for next time",
    "checking": "computing the same in NumPy",
    "closing": "closing the model",
    "asking": "waiting for the server",
    "pausing": "the server wants a pause",
}
"""What is said of the things that take long, by name."""


_ENDLESS = 10_000
"""Columns: wider than any table."""


class Output:
    """The two streams of one run, opened as the terminal and the options want them."""

    def __init__(self, *, plain: bool = False, quiet: bool = False) -> None:
        look = current_look()
        plain, quiet = plain or look.plain, quiet or look.quiet
        self.quiet = quiet
        self.verbose = look.verbose
        self._dumb = os.environ.get("TERM") in DUMB
        self._moves = not plain and not self._dumb and _is_terminal(sys.stdout)
        # Rich, too, takes any text in this variable for a yes.
        self.rich = self._moves or (not plain and bool(os.environ.get("FORCE_COLOR")))
        self.lively = not plain and not self._dumb and not quiet and _is_terminal(sys.stderr)
        self._announces = not self.lively and not quiet and _is_terminal(sys.stderr)
        self._announced: set[str] = set()
        self._stage: Any = None
        self._stage_began = ("", 0.0)

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        self.end_stage()

    # Answers.

    def answer(self, pieces: Iterable[str], *, markdown: bool = True, raw: bool = False) -> None:
        """Show an answer as it comes: Markdown on a terminal, plain text in a pipe, one newline at the end.

        `raw`: in a pipe even with what a terminal would obey.
        """
        if self.rich and markdown and not raw:
            stream = MarkdownStream(console_on(sys.stdout), on_first=self.end_stage, moves=self._moves)
            try:
                with typed_unseen() if self._moves else nullcontext():
                    stream.show(sanitise(piece) for piece in pieces)
            finally:
                self.end_stage()
            return
        written = False
        try:
            for piece in pieces:
                self._quieten_stage_line()
                (self._send if raw else self.write)(piece)
                written = True
        except EngineFailed:
            # What there is of the answer is a line of its own.
            self.write("\n" if written else "")
            raise
        if written:
            self.write("\n")
        self.end_stage()

    def write(self, text: str) -> None:
        """Write what is text in `text` to stdout now; raise `LlavaError` if it cannot be written."""
        self._send(sanitise(text))

    def _send(self, drawn: str) -> None:
        """Write what this room has drawn itself, colours and all."""
        stdout = Guarded(sys.stdout)
        stdout.write(drawn)
        stdout.flush()

    def table(
        self,
        titles: Sequence[str],
        rows: Iterable[Sequence[Any]],
        show: Sequence[Callable[[Any], str]],
    ) -> None:
        """Write rows: a small table on a terminal, each value shown by its `show`; plain lines with tabs in a pipe."""
        if not self.rich:
            for row in rows:
                self.write("\t".join(_one_line(str(value)).replace("\t", " ") for value in row) + "\n")
            return
        from rich.measure import Measurement
        from rich.table import Table

        shown = [[_one_line(how(value)) for value, how in zip(row, show, strict=True)] for row in rows]
        table = Table(box=None, header_style="dim", pad_edge=False)
        for place, (title, how) in enumerate(zip(titles, show, strict=True)):
            # Long texts are folded, so that names and numbers need not be.
            short = max(len(cell) for cell in (title, *(row[place] for row in shown))) <= 24
            justify: Literal["left", "right"] = "left" if how is str else "right"
            table.add_column(title, justify=justify, overflow="fold", no_wrap=short)
        for row in shown:
            table.add_row(*row)
        console = console_on(sys.stdout)
        if Measurement.get(console, console.options.update(max_width=_ENDLESS), table).minimum > console.width:
            # Side by side, names and numbers would lose their ends.
            width = max(map(len, titles)) + 2
            for row in shown:
                self.write("".join(f"{title:{width}}{cell}\n" for title, cell in zip(titles, row, strict=True)) + "\n")
            return
        console.print(table)

    def styled(self, text: str, style: str = "") -> None:
        """Write lines in a style of rich's, plainly where there are no styles."""
        if not self.rich:
            self.write(f"{text}\n")
            return
        from rich.text import Text

        self._print(Text(sanitise(text), style))

    def markdown(self, text: str) -> None:
        """Write Markdown that is there as a whole."""
        if not self.rich:
            self.write(f"{text}\n")
            return
        self._print(markdown(sanitise(text)))

    @contextmanager
    def paged(self) -> Iterator[None]:
        """Let the reader turn the pages of what is written meanwhile, if there is a terminal; leaving early is fine."""
        with opened_pager() if self._moves else nullcontext() as pager:
            if pager is None:
                yield
                return
            with redirect_stdout(pager), suppress(ReaderGone):
                yield

    def _print(self, what: Any) -> None:
        # The pager is a pipe, but what reads it is a terminal.
        console = console_on(sys.stdout, force_terminal=True)
        with console.capture() as drawn:
            console.print(what)
        self._send(drawn.get())

    def _quieten_stage_line(self) -> None:
        # Both streams on one terminal (`--plain`): the stage line must be gone before text appears.
        if self._stage is not None and _is_terminal(sys.stdout):
            self.end_stage()

    # What is said about them.

    def stage_here(self, name: str, amount: int) -> None:
        """Say what begins if the main thread does it; what another one does goes on beside a prompt."""
        if threading.current_thread() is threading.main_thread():
            self.stage(name, amount)

    def stage(self, name: str, amount: int) -> None:
        """Say on a terminal what begins now; the line shows the time it takes and goes when it is done.

        An `Amount` knows how long that should be.
        """
        self.end_stage()
        if self.verbose:
            self._stage_began = (stage_words(name, amount), time.monotonic())
        if self._announces and name != "writing" and name not in self._announced:
            # A line that changes all the time is noise to a screen reader.
            self._announced.add(name)
            _to_stderr(f"{STAGES[name]}…")
        if not self.lively or (name == "writing" and self.rich):
            return
        self._stage = StageLine(stage_words(name, amount), getattr(amount, "seconds", 0.0))

    def busy(self, text: str) -> None:
        """Say on a terminal, in words of the caller, what takes long now; as `stage`."""
        self.end_stage()
        if self.lively:
            self._stage = StageLine(_one_line(text))

    def end_stage(self) -> None:
        """Take the stage line away, if there is one; with --verbose, say what the stage took."""
        if self._stage is not None:
            self._stage.end()
            self._stage = None
        text, start = self._stage_began
        if text:
            self._stage_began = ("", 0.0)
            self.detail(f"{text}: {time.monotonic() - start:.2f} s")

    def confirm(self, question: str, *, default: bool) -> bool | None:
        """Ask a yes-or-no question on the terminal; None if there is nobody to ask."""
        self.end_stage()
        if not _is_terminal(sys.stdin) or not _is_terminal(sys.stderr):
            return None
        _to_stderr(f"{_one_line(question)} [{'Y/n' if default else 'y/N'}] ", end="")
        answer = ""
        try:
            answer = sys.stdin.readline()
        finally:
            # After Ctrl-C or Ctrl-D, too, the next line begins where lines begin.
            if not answer.endswith("\n"):
                _to_stderr("")
        if not answer:
            return False
        return answer.strip().lower() in ("y", "yes") if answer.strip() else default

    def note(self, text: str) -> None:
        """Say one thing worth knowing on stderr."""
        if not self.quiet:
            self.end_stage()
            _to_stderr(f"note: {sanitise(text)}")

    def detail(self, text: str) -> None:
        """Say with --verbose what was chosen or used; never a question, an answer or a picture."""
        if self.verbose:
            self.end_stage()
            _to_stderr(f"· {_one_line(text)}")

    def say(self, text: str) -> None:
        """Write lines on stderr that somebody asked for, so that --quiet does not silence them."""
        self.end_stage()
        _to_stderr(sanitise(text))

    def report(self, line: str) -> None:
        """Write one line on stderr about what is being done."""
        if not self.quiet:
            self.say(line)

    def console(self) -> Console:
        """Return rich's console on stderr, for what moves there."""
        return console_on(sys.stderr)

    @property
    def has_colours(self) -> bool:
        """Tell whether a picture would look like one."""
        if not self.rich:
            return False
        console = console_on(sys.stdout)
        return not console.no_color and console.color_system in ("256", "truecolor")

    def picture(self, drawn: RenderableType) -> None:
        """Show a picture that `preview` has drawn."""
        console_on(sys.stdout).print(drawn)

    def copy(self, text: str) -> None:
        """Put `text` on the clipboard of whoever looks at this terminal, also through ssh (OSC 52)."""
        self._send(f"\x1b]52;c;{base64.b64encode(sanitise(text).encode()).decode()}\x07")

    def stats(self, usage: Usage, seed: int) -> None:
        """Print the numbers of one reply in one line on stderr."""
        self.end_stage()
        # Another server does not say what the picture took, nor, some of them, what the prompt did.
        here = usage.read_seconds > 0 or usage.picture_cells > 0
        stages = f" (picture {usage.look_seconds:.2f}, prompt {usage.read_seconds:.2f})" if here else ""
        parts = [
            counted(usage.answer_tokens, "token"),
            *([f"{usage.tokens_per_second:.1f} tokens/s"] if usage.tokens_per_second else []),
            f"first token {usage.first_token_seconds:.2f} s{stages}",
            *([f"{usage.picture_cells} picture tokens"] if here else []),
            *([f"prompt {usage.reused_cells} reused + {usage.new_cells} new"] if usage.prompt_cells else []),
            f"seed {seed}",
        ]
        _to_stderr(" · ".join(parts))

    def made_with(self, facts: Mapping[str, Any], options: LoadOptions | None) -> None:
        """Say with --verbose which files a model is, as the log keeps it, and how it was opened."""
        for name, what in (("model_path", "model"), ("projector_path", "projector"), ("program", "program")):
            if facts[name]:
                self.detail(f"{what}: {facts[name]}")
        if options is not None:
            self.detail(self.options_line(options))

    def opened(self, options: LoadOptions | None) -> None:
        """Print how the model was opened, in one line on stderr, if that was done here."""
        if options is not None:
            _to_stderr(self.options_line(options))

    @staticmethod
    def options_line(options: LoadOptions) -> str:
        """Write the choices a model is opened with in one line."""
        return (
            f"context {options.context} · kv {options.kv} · {options.threads} threads · batch {options.ubatch}"
            f" · flash attention {'on' if options.flash_attention else 'off'}"
            f" · repacking {'on' if options.repack else 'off'}"
        )

    def finding(self, error: LlavaError, *, stops: bool) -> None:
        """Write one thing that is not as it should be to stdout, and what mends it."""
        self.write(f"{'problem' if stops else 'note'}: {_one_line(error.what)}: {_one_line(error.why)}\n")
        if error.hint:
            self.write(f"  do: {_one_line(error.hint)}\n")

    def traceback(self, error: BaseException) -> None:
        """Show where an error comes from: the lines of the program, and what it says itself."""
        self.say("".join(traceback.format_exception(error)).rstrip())

    def error(self, error: LlavaError) -> None:
        """Show an error: what and why in one line, the way out in a second."""
        self.end_stage()
        _to_stderr(f"llava: {_one_line(error.what)}: {_one_line(error.why)}")
        if error.hint:
            _to_stderr(f"hint: {_one_line(error.hint)}")


def stage_words(name: str, amount: int) -> str:
    """Say what a stage is for people: `reading the question (616 tokens)`."""
    return STAGES[name] + (f" ({amount} tokens)" if amount else "")


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty()


def _one_line(text: str) -> str:
    return " ".join(sanitise(text).splitlines())


def _to_stderr(line: str, *, end: str = "\n") -> None:
    # A closed stderr must not turn a good answer into a failure, and to print, None is another word for stdout.
    if sys.stderr is None:
        return
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, end=end, flush=True)
