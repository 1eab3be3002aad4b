"""Takes the picture that is on the clipboard."""

from __future__ import annotations

import subprocess

from llava_cli.errors import UnreadablePicture
from llava_cli.pictures import LIMITS, Picture, PictureLimits, open_picture


def open_clipboard(*, frame: int = 0, allow_truncated: bool = False, limits: PictureLimits = LIMITS) -> Picture:
    """Return the picture, or the one picture file, that was copied; raise `UnreadablePicture` if there is none."""
    from PIL import ImageGrab

    try:
        found = ImageGrab.grabclipboard()
    except NotImplementedError as error:
        hint = "install wl-clipboard (Wayland) or xclip (X11)"
        raise UnreadablePicture("clipboard", "no program here can read it", hint=hint) from error
    except (OSError, ValueError, SyntaxError, subprocess.SubprocessError) as error:
        raise UnreadablePicture("clipboard", f"cannot be read ({error})", hint="copy the picture again") from error
    if isinstance(found, list) and len(found) == 1:
        return open_picture(found[0], frame=frame, allow_truncated=allow_truncated, limits=limits)
    if found is None or isinstance(found, list):
        raise UnreadablePicture("clipboard", "there is no picture on it", hint="copy one picture first")
    return open_picture(found, name="clipboard", limits=limits)
