"""Writes sizes, numbers and times for people."""

from __future__ import annotations


def in_bytes(size: float) -> str:
    """Write a number of bytes for people: `325.1 MB`."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def counted(number: int, what: str) -> str:
    """Write how many there are of what: `1 turn`, `2 turns`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def ago(seconds: float) -> str:
    """Write how long ago something was for people: `3 hours ago`."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if (count := int(seconds // length)) > 0:
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"
