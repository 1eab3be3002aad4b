"""Takes out of text what a terminal would obey."""

from __future__ import annotations

import re
import unicodedata

# Overrides of the reading direction make text look like other text; tag characters are invisible text.
_HIDDEN = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f\ud800-\udfff]")


def sanitise(text: str) -> str:
    """Drop what a terminal would obey (control codes, direction overrides); keep all that is text.

    Works on single characters, so an escape sequence cut between two tokens is harmless as well.
    """
    kept = _HIDDEN.sub("", text)
    if kept.isprintable():
        return kept
    return "".join(c for c in kept if c in "\n\t" or unicodedata.category(c) != "Cc")
