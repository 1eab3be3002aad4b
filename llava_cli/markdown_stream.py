"""Shows Markdown while it is being written: finished blocks are printed for good, the last one is drawn anew.

A region that keeps redrawing more than a screenful flickers and eats the scrollback.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_SECONDS_BETWEEN_DRAWINGS = 0.05


class MarkdownStream:
    """One answer on its way to a terminal; `on_first` is called before anything of it appears."""

    def __init__(self, console: Console, *, on_first: Callable[[], None], moves: bool = True) -> None:
        """Without `moves`, nothing is drawn anew: the console is no terminal, though it wants colours."""
        self._console = console
        self._region = _Region(console)
        self._on_first = on_first
        self._moves = moves
        self._has_printed = False

    def show(self, pieces: Iterable[str]) -> None:
        """Show `pieces`, which hold nothing a terminal would obey, until they end."""
        block, drawn, begun = "", 0.0, False
        try:
            for piece in pieces:
                if not begun:
                    self._on_first()
                    begun = True
                block += piece
                finished, block = split_blocks(block)
                if finished:
                    self._print(finished)
                if self._moves and (finished or time.monotonic() - drawn > _SECONDS_BETWEEN_DRAWINGS):
                    self._region.draw(self._rendered(block))
                    drawn = time.monotonic()
        finally:
            self._print(block)

    def _rendered(self, text: str) -> Any:
        from rich.console import Group

        return Group("", markdown(text)) if self._has_printed else markdown(text)

    def _print(self, text: str) -> None:
        self._region.erase()
        if text.strip():
            self._console.print(self._rendered(text))
            self._has_printed = True


class _Region:
    """The last lines of the terminal, drawn over and over; the terminal may change its size in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._widths: list[int] = []
        """Of each line that is drawn now, in columns."""

    def draw(self, renderable: Any) -> None:
        """Draw `renderable` in place of what is there; of what is taller than the terminal, its end."""
        from rich.segment import Segment, Segments

        lines = [_trimmed(line) for line in self._console.render_lines(renderable, pad=False)]
        lines = lines[-max(1, self._console.height - 1) :]
        with self._console.capture() as drawn:
            segments = [segment for line in lines for segment in (*line, Segment.line())]
            self._console.print(Segments(segments), end="")
        # In one piece, so that the terminal never shows the gap.
        self._write(self._erasing() + drawn.get())
        self._widths = [Segment.get_line_length(line) for line in lines]

    def erase(self) -> None:
        """Take away what is drawn."""
        self._write(self._erasing())
        self._widths = []

    def _erasing(self) -> str:
        # A terminal that has become narrower has folded the lines that were wider.
        columns = max(1, self._console.width)
        rows = sum(max(1, -(-width // columns)) for width in self._widths)
        return f"\r\x1b[{rows}A\x1b[J" if rows else ""

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


def _trimmed(line: list[Any]) -> list[Any]:
    """Drop the spaces with which rich fills a line: folded, they would be lines of their own."""
    from rich.segment import Segment

    kept = list(line)
    while kept and not (kept[-1].style and kept[-1].style.bgcolor) and not kept[-1].text.strip():
        kept.pop()
    if kept and not (kept[-1].style and kept[-1].style.bgcolor):
        kept[-1] = Segment(kept[-1].text.rstrip(), kept[-1].style)
    return kept


def markdown(text: str) -> Any:
    """Return Markdown for rich that hides nothing: no tag that vanishes, no address behind other words."""
    from markdown_it import MarkdownIt
    from rich.markdown import Markdown

    shown = Markdown(text, hyperlinks=False)
    parser = MarkdownIt().enable(["strikethrough", "table"])
    shown.parsed = parser.disable(["html_block", "html_inline", "reference", "image"]).parse(text)
    return shown


def split_blocks(text: str) -> tuple[str, str]:
    """Split Markdown at its last blank line outside a code fence: what is finished, and what may still grow."""
    cut, position, fence = 0, 0, ""
    for line in text.splitlines(keepends=True):
        stripped = line.strip()
        position += len(line)
        if fence:
            fence = "" if stripped.startswith(fence) else fence
        elif stripped.startswith(("```", "~~~")):
            fence = stripped[:3]
        elif not stripped and line.endswith("\n"):
            cut = position
    return text[:cut], text[cut:]
