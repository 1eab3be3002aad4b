"""Facts about odd and bad pictures: each is seen as a person sees it, or refused with the sentence that helps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from llava_cli.errors import UnreadablePicture
from llava_cli.pictures import open_picture
from tests import drawings
from tests.corpus import CPU_SECONDS, MEGABYTES
from tests.odd_pictures import GROUPS, Odd, drawn, write
from tests.processes import ROOT


def outcome(odd: Odd) -> tuple[str, str] | str:
    """Tell what becomes of a file: why it is refused and the hint, or how far it is from what should be seen."""
    try:
        picture = open_picture(odd.data)
    except UnreadablePicture as error:
        return error.why, error.hint
    if odd.seen is None:
        return "opened"
    seen = np.frombuffer(picture.rgb, np.uint8).reshape(picture.height, picture.width, 3)
    if seen.shape != odd.seen.shape:
        return f"{seen.shape}"
    worst = int(np.abs(seen.astype(int) - odd.seen).max())
    return "as expected" if worst <= odd.off_by else f"off by {worst} levels"


@pytest.mark.parametrize("group", GROUPS)
def test_odd_pictures_are_seen_as_they_are_or_refused_with_their_sentence(group: str) -> None:
    files = drawn(group)
    expected = {odd.name: odd.refused or "as expected" for odd in files}
    assert expected == {odd.name: outcome(odd) for odd in files}
    assert len(expected) == len(files)


def test_there_are_enough_of_them() -> None:
    assert sum(len(drawn(group)) for group in GROUPS) >= 150


def test_no_odd_picture_takes_long_or_much_memory_or_says_a_word(tmp_path: Path) -> None:
    """Each is opened in a process of its own, as anybody's directory of pictures can be: CONTRIBUTING says how."""
    everything = write(tmp_path)
    command = [sys.executable, "-m", "tests.corpus", "--all", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    outcomes = {Path(one["file"]).name: one for one in map(json.loads, done.stdout.splitlines())}
    assert (0, {}) == (done.returncode, {name: one["fault"] for name, one in outcomes.items() if one["fault"]})
    assert {odd.name: 3 if odd.refused else 0 for odd in everything} == {
        name: one["exit_code"] for name, one in outcomes.items()
    }
    assert (2.0, 500.0) == (CPU_SECONDS, MEGABYTES)


def largest(directory: Path) -> int:
    """Write the largest pictures there may be of each kind, in the forms that take most memory; return how many."""
    size, turned = (8000, 5000), {"exif": drawings.exif(6), "icc_profile": drawings.icc_display_p3()}
    base = Image.linear_gradient("L").resize(size)
    rgb = Image.merge("RGB", (base, base.transpose(Image.Transpose.ROTATE_180), base))
    grey = Image.frombytes("I;16", size, bytes(range(250)) * (size[0] * size[1] * 2 // 250))
    few = rgb.resize((6000, 4800))
    files: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "turned.jpg": (rgb, turned), "four.jpg": (rgb.convert("CMYK"), {}), "turned.png": (rgb, turned),
        "clear.png": (rgb.convert("RGBA"), turned), "grey.png": (base.convert("LA"), {}), "deep.png": (grey, {}),
        "key.png": (rgb, {"transparency": (0, 0, 0)}), "palette.png": (rgb.quantize(9), {"transparency": b"\0\x80"}),
        "still.gif": (rgb.quantize(9), {}), "moving.png": (base, {"save_all": True, "append_images": [base]}),
        "deep.tif": (grey, {"compression": "tiff_adobe_deflate"}), "tiles.tif": (rgb, {"compression": "jpeg"}),
        "bits.tif": (rgb.convert("1"), {"compression": "group4"}), "plain.ppm": (few, {}),
        "turned.webp": (few, {"method": 0, **turned}),
        "plain.webp": (few.resize((5500, 4800)), {"method": 0, "lossless": True}),
        "clear.webp": (few.resize((6000, 4300)).convert("RGBA"), {"method": 0}),
        "turned.avif": (rgb, {"speed": 10, **turned}), "clear.avif": (few.convert("RGBA"), {"speed": 10}),
    }  # fmt: skip
    for name, (image, options) in files.items():
        # For a PNG: what it is compressed with makes no difference to its reader.
        image.save(directory / name, **{"compress_level": 1, **options})
    return len(files)


@pytest.mark.faults
def test_the_largest_pictures_stay_within_the_memory_that_is_promised(tmp_path: Path) -> None:
    count = largest(tmp_path)
    command = [sys.executable, "-m", "tests.corpus", "--all", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    outcomes = [json.loads(line) for line in done.stdout.splitlines()]
    assert [0] * count == [one["exit_code"] for one in outcomes]
    assert {} == {one["file"]: one["megabytes"] for one in outcomes if one["megabytes"] > MEGABYTES}


_ASKED = """
import os, sys
from llava_cli import cli
for path in sys.argv[1:]:
    sys.argv = ["llava", "ask", path, "What?"]
    os.write(2, b"%d\\0" % cli._run())
"""


def test_a_refusal_is_its_sentence_and_its_hint_and_exit_code_3(tmp_path: Path) -> None:
    """Of each sentence one, and all in one process: one for each would take a minute."""
    refused = list({odd.refused: odd for group in GROUPS for odd in drawn(group) if odd.refused}.values())
    for odd in refused:
        (tmp_path / odd.name).write_bytes(odd.data)
    command = [sys.executable, "-c", _ASKED, *(str(tmp_path / odd.name) for odd in refused)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    expected = [
        f"llava: {tmp_path / odd.name}: {odd.refused[0]}\nhint: {odd.refused[1]}\n3" for odd in refused if odd.refused
    ]
    assert expected == done.stderr.split("\0")[:-1]
    assert done.stdout == ""


_OPENED = "return Picture('', 1, 1, b'abc')"
_BAD = {
    "a crash: SIGSEGV": "os.kill(os.getpid(), signal.SIGSEGV)",
    "a traceback: ": "raise ZeroDivisionError",
    "a hang: no end after 1 seconds": "time.sleep(60)",
    "a hang: no end of computing": "resource.setrlimit(resource.RLIMIT_CPU, (1, 1))\n    while True: pass",
    "words on the terminal: 'oops": f"os.write(2, b'oops')\n    {_OPENED}",
    "large: ": f"b'x' * 600_000_000\n    {_OPENED}",
    "slow: ": _OPENED,
}
_LIMITS = {"a hang: no end after 1 seconds": "corpus._HANG = 1", "slow: ": "corpus.CPU_SECONDS = 0"}


@pytest.mark.parametrize("fault", _BAD)
def test_what_must_not_happen_is_found_and_told(fault: str) -> None:
    code = f"""
import os, resource, signal, time
from pathlib import Path
from llava_cli.pictures import Picture
from tests import corpus

def bad(*_arguments, **_options):
    {_BAD[fault]}

corpus.open_picture = bad
{_LIMITS.get(fault, "")}
print(corpus.examine(Path("picture.png")).fault)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert fault in done.stdout
