"""Fetches the bytes of one file: goes on where it stopped, hashes what flows, and takes nothing for the file but it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from llava_cli.errors import DownloadFailed
from llava_cli.hub import (
    Interruption,
    Limits,
    OnPause,
    Published,
    check_status,
    http,
    not_a_hub,
    not_the_known_one,
    patiently,
    translated,
    user_agent,
)
from llava_cli.hub_cache import is_sha256
from llava_cli.partial_file import PartialFile


def fetch(
    published: Published, part: PartialFile, *, limits: Limits, on_bytes: Callable[[int], None], on_pause: OnPause
) -> None:
    """Bring `part` to its full length; raise `DownloadFailed`, or `OSError` if the disk does not take it.

    `on_bytes` hears how many bytes are there. A part that is whole but wrong is removed.
    """

    def read() -> None:
        with translated(published.file, published.url):
            _read(published, part, limits, on_bytes)

    if part.length < published.size:
        patiently(
            read, tries=limits.tries, limits=limits, on_pause=on_pause, progress=lambda: part.length
        )  # fmt: skip
    if part.sha256 != published.sha256:
        part.discard()
        raise _wrong_bytes(published, part.sha256)


def _read(published: Published, part: PartialFile, limits: Limits, on_bytes: Callable[[int], None]) -> None:
    """Read from one connection until the file is whole or the connection ends."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined] # public, not declared so

    # Compressed, the bytes could not be counted.
    headers = {"user-agent": user_agent(), "Accept-Encoding": "identity", "Range": f"bytes={part.length}-"}
    timeout = http().Timeout(limits.silence, connect=limits.connect)
    # Each time from the hub's own address: where that leads to is valid for an hour only.
    with get_session().stream(
        "GET", published.url, headers=build_hf_headers(headers=headers), timeout=timeout, follow_redirects=True
    ) as response:
        check_status(published.file, response)
        skip = part.length - _start(published, part.length, response)
        watch = _Watch(limits)
        for chunk in response.iter_raw():
            watch.heard(len(chunk), published)
            # A server that cannot begin in the middle sends again what is here already.
            new, skip = chunk[skip:], max(0, skip - len(chunk))
            if part.length + len(new) > published.size:
                raise _wrong_length(published, "more")
            part.append(new)
            on_bytes(part.length)
    if part.length < published.size:
        raise Interruption(DownloadFailed(published.file.name, "the connection ended early"))


def _start(published: Published, wanted: int, response: Any) -> int:
    """Return at which byte a response begins, `wanted` or 0; raise `DownloadFailed` if it is not of this file."""
    hub = response.history[0] if response.history else response
    etag = (hub.headers.get("X-Linked-ETag") or hub.headers.get("ETag") or "").strip('W/"')
    if is_sha256(etag) and etag != published.sha256:
        raise DownloadFailed(
            published.file.name,
            "it was replaced on the hub while it was fetched",
            hint="the same command takes the new one",
        )
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise not_a_hub(published.file, published.url)
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is None or int(found[1]) != wanted:
            raise not_a_hub(published.file, published.url)
        size = found[2]
    elif response.status_code == 200:
        wanted, size = 0, response.headers.get("Content-Length", "*")
    else:
        raise not_a_hub(published.file, published.url)
    if "text/html" in response.headers.get("Content-Type", ""):
        raise not_a_hub(published.file, published.url)
    if size not in ("*", str(published.size)):
        raise _wrong_length(published, size)
    return wanted


def _wrong_length(published: Published, size: str) -> DownloadFailed:
    why = f"the hub announced {published.size:,} bytes, but sends {int(size):,}" if size.isdigit() else (
        f"the hub announced {published.size:,} bytes, but sends more"
    )  # fmt: skip
    return DownloadFailed(published.file.name, why, hint="try again later")


def _wrong_bytes(published: Published, sha256: str) -> DownloadFailed:
    if not published.announced:
        return not_the_known_one(published.file, sha256)
    return DownloadFailed(
        published.file.name,
        f"the bytes that came are not those the hub announced (sha256 {sha256} instead of {published.sha256})",
        hint="something changed them on the way or on this disk; the same command fetches them again",
    )


class _Watch:
    """Ends a connection that trickles: no single silence is long, but nothing comes."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._since, self._bytes = time.monotonic(), 0

    def heard(self, count: int, published: Published) -> None:
        """Count what came; raise `Interruption` if it was too little for too long."""
        self._bytes += count
        if self._bytes >= self._limits.slow_bytes:
            self._since, self._bytes = time.monotonic(), 0
        elif time.monotonic() - self._since > self._limits.silence:
            raise Interruption(DownloadFailed(published.file.name, "hardly a byte comes", hint="try again later"))
