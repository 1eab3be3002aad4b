"""Draws docs/terminal.svg from a real terminal session: `python docs/make_terminal_svg.py` (needs tmux and `llava`)."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH, HEIGHT = 88, 14
LINES = (
    'llava ask examples/scene.png "What color is the circle?" -m shapes',
    "llava ask examples/scene.png -m shapes --stats",
    "llava ask examples/sceen.png -m shapes",
)


def tmux(*arguments: str) -> str:
    """Run one tmux command in a session of its own and return what it prints."""
    done = subprocess.run(["tmux", "-L", "llava-svg", *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def main() -> None:
    """Type the lines, wait for each prompt, and keep what the screen shows."""
    top = Path(__file__).parent.parent
    shell = "env PS1='$ ' bash --norc --noprofile"
    tmux("new-session", "-d", "-x", str(WIDTH), "-y", str(HEIGHT), "-c", str(top), shell)
    try:
        for line in LINES:
            tmux("send-keys", line, "Enter")
            time.sleep(8)
        screen = tmux("capture-pane", "-e", "-p")
    finally:
        tmux("kill-server")
    with Path("/dev/null").open("w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(screen.rstrip().removesuffix("$").rstrip()))
        console.save_svg(str(top / "docs" / "terminal.svg"), title="llava")


if __name__ == "__main__":
    main()
