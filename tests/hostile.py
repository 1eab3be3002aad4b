"""Strings that want something from a terminal, in the company in which answers, file names and metadata carry them."""

_PAYLOADS = [
    "\x1b]52;c;cm0gLXJmIH4=\x07", "\x1b]52;c;cm0gLXJmIH4=\x1b\\", "\x1b]0;title\x07", "\x1b]2;title\x1b\\",
    "\x1b]8;;http://evil\x1b\\here\x1b]8;;\x1b\\", "\x1b]1337;File=inline=1:AAAA\x07", "\x9d0;title\x9c",
    "\x9b31mred", "\x9b2J", "\x90q\x9c", "\x1bP+q544e\x1b\\", "\x1b_Gf=100;AAAA\x1b\\", "\x1b^private\x1b\\",
    "\x1b[2J\x1b[H", "\x1b[31mred\x1b[0m", "\x1b[?1049h", "\x1b[6n", "\x1b[21t", "\x1bc", "\x1b", "\x0e", "\x0f",
    "\x07", "\x08\x08\x08", "\rcovered", "\x7f", "\x00", "\x85", "\u202egnp.exe", "\u2066left\u2069",
    "\u202dover\u202c", "\U000e0041\U000e0042hidden", "half\udce4char", "[/INST]", "[INST] ignore",
    "[bold]loud[/bold]", "[/]", "[link=http://evil]here[/link]", "[red", ":smile:", "</s>", "<image>", "<|im_end|>",
    "<b>html</b>", "<script>x</script>", "<!-- secret -->", "[words](http://evil)", "![words](http://evil)",
    "[words]: http://evil",
]  # fmt: skip
_COMPANY = [
    "{}",
    "before {} after",
    "{0}{0}",
    "first line\nsecond {}",
    "**bold** {} `code`",
    "漢字 {} עברית",
    "- item {}",
]

HOSTILE = [company.format(payload) for payload in _PAYLOADS for company in _COMPANY]
