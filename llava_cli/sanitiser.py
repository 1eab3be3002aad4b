"""Takes out of text what a terminal would obey."""

from __future__ import annotations

import json
import re
import unicodedata

# Overrides of the reading direction make text look like other text; tag characters are invisible text.
_INVISIBLE = "\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f\ud800-\udfff"
_HIDDEN = re.compile(f"[{_INVISIBLE}]")
_NO_PLAIN_JSON = re.compile(f"[\x7f-\x9f\u2028\u2029{_INVISIBLE}]")


def sanitise(text: str) -> str:
    """Drop what a terminal would obey (control codes, direction overrides); keep all that is text.

    Works on single characters, so an escape sequence cut between two tokens is harmless as well.
    """
    kept = _HIDDEN.sub("", text)
    if kept.isprintable():
        return kept
    return "".join(c for c in kept if c in "\n\t" or unicodedata.category(c) != "Cc")


def escaped(json_text: str) -> str:
    """Write with JSON's own escapes what a terminal would obey, what is half a character, and odd ends of lines."""
    return _NO_PLAIN_JSON.sub(lambda found: json.dumps(found[0])[1:-1], json_text)
