"""Fetches what stands at an http(s) address, within limits, and tells nobody's password."""

from __future__ import annotations

import ipaddress
import re
import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from llava_cli.connection import Fault, Wire, fault_of
from llava_cli.errors import UnreadablePicture

if TYPE_CHECKING:
    import httpx2


@dataclass(frozen=True)
class FetchLimits:
    """What a picture from the network may cost. Times are seconds."""

    max_bytes: int = 20_000_000
    connect: float = 10
    total: float = 30
    redirects: int = 5


LIMITS = FetchLimits()
_SAVE_IT = "save the picture with a browser and give the file"


def is_address(text: str) -> bool:
    """Tell whether `text` is an http(s) address, and so no file name."""
    return text[:8].lower().startswith(("http://", "https://"))


def public_name(address: str) -> str:
    """Return `address` without user, password and query: they may be secrets."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return "address"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def without_password(source: str) -> str:
    """Return `source` as it is, or, if it is an address, without user and password."""
    return re.sub(r"(?<=://)[^/?#]*@", "", source, count=1) if is_address(source) else source


def fetch(address: str, *, limits: FetchLimits = LIMITS, public_only: bool = False) -> bytes:
    """Return the body at `address`; raise `UnreadablePicture` with a sentence for each way it can fail.

    A redirect may not lead to an address that is not public (a router, this computer, a cloud's metadata), unless
    it is the host that the user typed. If somebody else typed it, even that must be public (`public_only`).
    """
    box: list[bytes | Exception] = []
    wire = Wire()

    def work() -> None:
        try:
            box.append(_follow(address, limits, time.monotonic() + limits.total, public_only, wire))
        except Exception as error:  # noqa: BLE001 - it is raised again, where somebody waits for it
            box.append(error)

    # Neither resolving a name nor a server that trickles its headers can be given a deadline in the same thread.
    worker = threading.Thread(target=work, daemon=True, name="fetch")
    worker.start()
    try:
        worker.join(limits.total + 1)
        result = box[0] if box else _too_slow(public_name(address), limits)
    finally:
        wire.cut()
    if isinstance(result, Exception):
        raise result
    return result


def _follow(address: str, limits: FetchLimits, deadline: float, public_only: bool, wire: Wire) -> bytes:
    """Follow redirects by hand, so that every step is checked before it is taken."""
    import httpx2

    what = public_name(address)
    timeout = httpx2.Timeout(limits.total, connect=limits.connect)
    headers = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "llava"}
    # A connection of its own for each step: only the last one that was made can be cut.
    alone = httpx2.Limits(max_keepalive_connections=0)
    with httpx2.Client(timeout=timeout, headers=headers, limits=alone) as client:
        try:
            typed = url = httpx2.URL(address)
            for _ in range(limits.redirects + 1):
                request: dict[str, Any] = {"url": url, "extensions": {}}
                if public_only:
                    request = _pinned(url, _require_public(what, url, is_redirect=url != typed))
                elif url.host != typed.host:
                    _require_public(what, url, is_redirect=True, may_be_unknown=True)
                request["extensions"]["trace"] = wire.watch
                with client.stream("GET", **request) as response:
                    if not response.has_redirect_location:
                        return _body(what, response, limits, deadline)
                    url = url.join(response.headers["Location"])
        except httpx2.HTTPError as error:
            raise _failure(what, error, limits) from error
        except httpx2.InvalidURL as error:
            raise UnreadablePicture(what, "not a possible address", hint="check the address") from error
    raise UnreadablePicture(what, f"redirected more than {limits.redirects} times", hint=_SAVE_IT)


def _require_public(
    what: str, url: httpx2.URL, *, is_redirect: bool, may_be_unknown: bool = False
) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return the addresses of the host of `url`; refuse anything but http(s) on a public host."""
    to = "redirected to " if is_redirect else "it leads to "
    if url.scheme not in ("http", "https"):
        raise UnreadablePicture(what, f"{to}a {url.scheme}: address", hint=_SAVE_IT)
    try:
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        if may_be_unknown:
            return []  # a proxy may know it; if not, connecting says so
        raise UnreadablePicture(what, f"no such host: {url.host}", hint="check the address") from None
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not all(address.is_global and not address.is_multicast for address in addresses):
        hint = "if you trust it, give that address itself" if is_redirect else "send the picture itself"
        raise UnreadablePicture(what, f"{to}{url.host}, which is not a public address", hint=hint)
    return addresses


def _pinned(url: httpx2.URL, addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> dict[str, Any]:
    """Make the request for `url` go to an address that was checked: asked again, a name may mean another one."""
    chosen = min(addresses, key=lambda address: address.version)
    return {
        "url": url.copy_with(host=str(chosen)),
        "headers": {"Host": url.netloc.decode("ascii")},
        "extensions": {"sni_hostname": url.host},
    }


def _body(what: str, response: httpx2.Response, limits: FetchLimits, deadline: float) -> bytes:
    if response.status_code != 200:
        reason = f" ({response.reason_phrase.lower()})" if response.reason_phrase else ""
        hint = "check the address" if response.status_code in (404, 410) else _SAVE_IT
        raise UnreadablePicture(what, f"the server answered {response.status_code}{reason}", hint=hint)
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > limits.max_bytes:
            why = f"too large: more than {limits.max_bytes / 1e6:.0f} MB"
            raise UnreadablePicture(what, why, hint="save it and make it smaller")
        if time.monotonic() > deadline:
            raise _too_slow(what, limits)
    return bytes(body)


def _too_slow(what: str, limits: FetchLimits) -> UnreadablePicture:
    return UnreadablePicture(what, f"it did not come within {limits.total:g} seconds", hint=_SAVE_IT)


def _failure(what: str, error: httpx2.HTTPError, limits: FetchLimits) -> UnreadablePicture:
    """Say in words what kept the body from coming."""
    import httpx2

    host = urlsplit(what).hostname or "that address"
    if isinstance(error, httpx2.UnsupportedProtocol):
        is_redirect = urlsplit(what).hostname is not None
        why = "redirected to something that is not http(s)" if is_redirect else "the address names no server"
        return UnreadablePicture(what, why, hint=_SAVE_IT if is_redirect else "check the address")
    fault = fault_of(error)
    if fault is Fault.SILENCE:
        return _too_slow(what, limits)
    hints = {
        Fault.CERTIFICATE: "the connection is not safe; save the picture another way",
        Fault.NAME: "check the address and the network",
        Fault.CONNECT: "check the address and the network",
    }
    return UnreadablePicture(what, fault.sentence(host), hint=hints.get(fault, "try again"))
