"""The programs that are compared: how each is called for the same question, and what it says about its speed."""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from llava_cli.prompts import find_layout

QUESTION, OTHER = "Describe this picture.", "What color is the circle?"

BEST_FLAGS = ("--no-repack", "-fa", "on", "-ub", "640", "-c", "2048")
"""What makes llama-mtmd-cli fastest for one LLaVA-1.5 picture on x86."""


@dataclass(frozen=True)
class Setting:
    """What all programs share in one comparison."""

    model: Path
    projector: Path
    peers: Path
    """Where llama-mtmd-cli and llama-bench are."""
    threads: int

    def mtmd_cli(self, picture: Path, tokens: int, *flags: str) -> list[str]:
        """Return the call of llama-mtmd-cli, with the prompt that LLaVA was trained with."""
        return [
            str(self.peers / "llama-mtmd-cli"), "-m", str(self.model), "--mmproj", str(self.projector),
            "--image", str(picture), "-p", QUESTION, "-sys", find_layout("llava_v1").default_system,
            "--chat-template", "vicuna", "--temp", "0", "-n", str(tokens), "-t", str(self.threads), *flags,
        ]  # fmt: skip

    def llama_bench(self, depth: int, tokens: int) -> list[str]:
        """Return the call of llama-bench that writes `tokens` behind `depth` others, opened as llava opens it."""
        return [
            str(self.peers / "llama-bench"), "-m", str(self.model), "-p", "0", "-n", str(tokens), "-d", str(depth),
            "-fa", "1", "-b", "640", "-ub", "640", "--repack", "0", "-t", str(self.threads), "-r", "1", "-o", "json",
        ]  # fmt: skip

    def llava(self, picture: Path, question: str, tokens: int, *options: str) -> list[str]:
        """Return the call of llava."""
        return [
            sys.executable, "-m", "llava_cli", "ask", str(picture), question, "--model-path", str(self.model),
            "--projector-path", str(self.projector), "--prompt-layout", "llava_v1", "-t", "0", "-n", str(tokens),
            "--threads", str(self.threads), "--stats", *options,
        ]  # fmt: skip

    def ask_twice(self, program: str, picture: Path) -> list[str]:
        """Return the call that asks two questions in one process; it prints the seconds as JSON."""
        files = [str(self.model), str(self.projector), str(picture)]
        return [sys.executable, "-m", "benchmarks.ask_twice", program, *files, "--threads", str(self.threads)]


def own_environment(home: Path) -> dict[str, str]:
    """Return an environment whose caches and settings are not the user's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LLAVA_", "XDG_", "HF_"))}
    return {**kept, "HOME": str(home)}


def picture(directory: Path, number: int) -> Path:
    """Write a picture that only this round has, 640 by 480."""
    from PIL import Image

    path = directory / f"{number}.png"
    across = Image.linear_gradient("L")
    channels = [channel.resize((640, 480)) for channel in (across, across.rotate(90), Image.radial_gradient("L"))]
    image = Image.merge("RGB", channels)
    image.putpixel((number, 0), (255, 255, 255))
    image.save(path)
    return path


def llama_bench_speed(stdout: str) -> float:
    """Return the tokens per second in llama-bench's JSON."""
    return float(json.loads(stdout)[0]["avg_ts"])


@dataclass(frozen=True)
class Stats:
    """The numbers of llava's `--stats` line."""

    tokens_per_second: float
    reused: int
    new: int


def llava_stats(stderr: str) -> Stats:
    """Read llava's `--stats` line."""
    found = re.search(r"([\d.]+) tokens/s .* (\d+) reused \+ (\d+) new", stderr)
    if found is None:
        raise ValueError(f"llava printed no numbers, but: {stderr[-500:]}")
    return Stats(float(found[1]), int(found[2]), int(found[3]))
