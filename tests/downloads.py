"""Puts files into a Hugging Face cache as `hf download` does, and names a tiny model of the user's own for them."""

from __future__ import annotations

from pathlib import Path

from llava_cli import registry

MAIN, OLD, PINNED = "a" * 40, "b" * 40, "c" * 40
REPO = "someone/tiny-llava"

OWN_LIST = f"""\
schema = 1
[[model]]
id = "tiny"
summary = "for tests"
hf_repo = "{REPO}"
prompt = "llava_v1"
image_tokens = 16
default = "F32"
[[model.file]]
quant = "F32"
name = "model.gguf"
[[model.file]]
quant = "F16"
name = "model-f16.gguf"
[model.mmproj]
name = "mmproj.gguf"
"""


def in_cache(hub: Path, revision: str, name: str, blob: str = "", content: bytes = b"GGUF") -> Path:
    """Put a file into the cache as `hf download` does: a link from the snapshot to a blob."""
    stored, link = hub / "blobs" / (blob or f"{revision}-{name}"), hub / "snapshots" / revision / name
    for directory in (stored.parent, link.parent):
        directory.mkdir(parents=True, exist_ok=True)
    stored.write_bytes(content)
    link.symlink_to(stored)
    return link


def point_main_to(hub: Path, revision: str) -> None:
    (hub / "refs").mkdir(parents=True, exist_ok=True)
    (hub / "refs" / "main").write_text(revision)


def write_own_list(text: str = OWN_LIST) -> Path:
    """Write the user's own list of models; return its path."""
    path = registry.user_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def files_below(directory: Path) -> list[str]:
    """Name all files and links below a directory, sorted."""
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_symlink() or path.is_file()
    )
