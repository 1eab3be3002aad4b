"""Asks the hub what it knows about a file, and says in sentences what can go wrong on the way there.

huggingface_hub does the asking: endpoint, token and proxies are where its own tools look for them. What it cannot do
(try again with patience, tell a captive portal from a hub, obey `Retry-After` within reason) is here.
"""

from __future__ import annotations

import contextlib
import email.utils
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import urlsplit

from llava_cli.connection import Fault, fault_of
from llava_cli.errors import DownloadFailed
from llava_cli.hub_cache import is_commit, is_sha256
from llava_cli.registry import FileSpec

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """How long to wait for what, in seconds, and how often to try."""

    connect: float = 10
    silence: float = 30
    """Without one byte, until the connection is given up."""
    slow_bytes: int = 16_384
    """Fewer bytes than these within `silence`, and a new connection is made: that often helps."""
    first_tries: int = 3
    """Until the hub has answered once."""
    tries: int = 8
    """In a row that bring nothing."""
    fruit: int = 65_536
    """Bytes that make a try worth counting anew."""
    first_wait: float = 0.5
    longest_wait: float = 30
    longest_pause: float = 120
    """That a server may ask for (`Retry-After`) before we rather end."""
    poll: float = 0.3
    """Between two looks at another process that fetches the same file."""


LIMITS = Limits()

OnPause = Callable[[str, float], None]
"""Hears why nothing happens, and for how many seconds."""


class Interruption(Exception):  # noqa: N818, RUF100 - not an error yet: it may pass
    """Carry a failure that may pass, and the pause the server asked for."""

    def __init__(self, failure: DownloadFailed, pause: float | None = None) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.pause = pause


@dataclass(frozen=True)
class Published:
    """One version of a file on the hub."""

    file: FileSpec
    url: str
    commit: str
    size: int
    sha256: str
    announced: bool = True
    """Whether the hub itself said this sha256; else only the registry did."""


def ask_hub(file: FileSpec, *, limits: Limits, on_pause: OnPause) -> Published:
    """Return what the hub says about `file` as it is now; raise `DownloadFailed`."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    quieten()
    url = hf_hub_url(file.repo, file.name, revision=file.revision)

    def ask() -> Any:
        with translated(file, url):
            return get_hf_file_metadata(url, timeout=limits.connect, headers={"user-agent": user_agent()})

    said = patiently(ask, tries=limits.first_tries, limits=limits, on_pause=on_pause)
    if not is_commit(said.commit_hash):
        raise not_a_hub(file, url)
    size = file.size if said.size is None else said.size
    sha256 = said.etag if is_sha256(said.etag) else None
    if file.sha256 and sha256 and sha256 != file.sha256:
        raise not_the_known_one(file, sha256)
    wanted = sha256 or file.sha256
    if size is None or wanted is None:
        raise DownloadFailed(file.name, f"{_host(url)} does not say its size and sha256", hint=_ENDPOINT_HINT)
    exact = hf_hub_url(file.repo, file.name, revision=said.commit_hash)
    return Published(file, exact, said.commit_hash, size, wanted, announced=sha256 is not None)


def list_files(repo: str) -> list[str]:
    """Return the GGUF files of a repository, if the hub tells."""
    from huggingface_hub import HfApi

    quieten()
    try:
        files = HfApi().model_info(repo, timeout=LIMITS.connect).siblings or []
    except Exception:  # noqa: BLE001 - only a hint hangs on it
        return []
    return sorted(file.rfilename for file in files if file.rfilename.endswith(".gguf"))


def quieten() -> None:
    """Stop huggingface_hub from reporting on this computer, and from writing to the terminal what a server says."""
    from huggingface_hub import constants

    constants.HF_HUB_DISABLE_TELEMETRY = True
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)


def user_agent() -> str:
    from llava_cli import __version__

    return f"llava/{__version__}"


def http() -> ModuleType:
    """Return the HTTP library that huggingface_hub works with: httpx, or httpx2 since its version 2."""
    from huggingface_hub.errors import HfHubHTTPError

    # Its own error is one of that library's.
    return sys.modules[HfHubHTTPError.__bases__[0].__module__.partition(".")[0]]


def patiently(
    attempt: Callable[[], T],
    *,
    tries: int,
    limits: Limits,
    on_pause: OnPause,
    progress: Callable[[], int] = lambda: 0,
) -> T:
    """Do `attempt` until it succeeds, with growing pauses; raise its failure after `tries` without `progress`."""
    fruitless = 0
    while True:
        before = progress()
        try:
            return attempt()
        except Interruption as interruption:
            if progress() - before >= limits.fruit:
                fruitless = 0
            fruitless += 1
            growing = min(limits.longest_wait, limits.first_wait * 2 ** (fruitless - 1))
            pause = growing if interruption.pause is None else interruption.pause
            if fruitless >= tries or pause > limits.longest_pause:
                raise interruption.failure from interruption
            on_pause(interruption.failure.why, pause)
            time.sleep(pause)


@contextlib.contextmanager
def translated(file: FileSpec, url: str) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP library raise into `DownloadFailed` or `Interruption`."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    library = http()
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise DownloadFailed(
            file.name, "HF_HUB_OFFLINE is set: nothing is fetched", hint="unset HF_HUB_OFFLINE"
        ) from error
    except HfHubHTTPError as error:
        check_status(file, error.response)
        raise not_a_hub(file, url) from error
    except (library.HTTPError, library.InvalidURL, ValueError) as error:
        raise _broken(file, url, error) from error


def check_status(file: FileSpec, response: Any) -> None:
    """Raise `DownloadFailed` or `Interruption` if a response is a refusal."""
    status, headers = response.status_code, response.headers
    if status < 400:
        return
    host, code = _host(str(response.url)), headers.get("X-Error-Code", "")
    if status in (408, 425, 429) or status >= 500:
        why = f"{host} wants a pause ({status})" if status == 429 else f"{host} is out of order ({status})"
        pause = _retry_after(headers)
        if pause is not None and pause > 1:
            why += f" of {_duration(pause)}"
        hint = "try again later: what has come is kept"
        raise Interruption(DownloadFailed(file.name, why, hint=hint), pause)
    if code == "GatedRepo" or "gated" in headers.get("X-Error-Message", "").lower():
        why = f"its owners want to be asked first ({status})"
        hint = f"ask on the page of {file.repo} on {host}, then say who you are: hf auth login"
    elif status == 401:
        sent = "authorization" in response.request.headers
        why = (
            f"{host} does not accept this token ({status})"
            if sent
            else f"there is no {file.repo}, or it is private ({status})"
        )
        hint = (
            "hf auth login, or set HF_TOKEN"
            if sent
            else "is the name right? If it is private: hf auth login, or set HF_TOKEN"
        )
    elif status == 403:
        why, hint = f"{host} refuses it ({status})", "this token may not read it, or a proxy or firewall forbids it"
    elif status == 404 and code == "EntryNotFound":
        why, hint = f"{file.repo} has no file of this name (404)", ""
        if names := list_files(file.repo):
            hint = f"it has {', '.join(names[:12])}"
    elif status == 404:
        what = (
            f"{file.repo} has no revision {file.revision}" if code == "RevisionNotFound" else f"there is no {file.repo}"
        )
        why, hint = f"{what} on {host} (404)", "is the name right?"
    else:
        why, hint = f"{host} answers {status}", "llava pull goes on where it stopped"
    raise DownloadFailed(file.name, why, hint=hint)


_ENDPOINT_HINT = "is this network's login page in the way, or HF_ENDPOINT wrong?"


def not_a_hub(file: FileSpec, url: str) -> DownloadFailed:
    """Return the failure of a server that answers, but not as a hub does."""
    return DownloadFailed(file.name, f"{_host(url)} answers, but not as a model hub does", hint=_ENDPOINT_HINT)


def not_the_known_one(file: FileSpec, sha256: str) -> DownloadFailed:
    """Return the failure of a file that was replaced by another one under the same name."""
    return DownloadFailed(
        file.name,
        "the file upstream is not the one this list knows"
        f" (sha256 {sha256} instead of {file.sha256})",
        hint="it was replaced since; if you trust whoever did that, add --trust",
    )  # fmt: skip


def _broken(file: FileSpec, url: str, error: Exception) -> DownloadFailed | Interruption:
    library, host = http(), _host(url)
    with contextlib.suppress(RuntimeError, AttributeError):
        # After a redirect it is another one.
        host = _host(str(error.request.url))  # type: ignore[attr-defined] # of httpx; unset in some errors
    keeps = "try again: what has come is kept"

    def failure(why: str, hint: str = keeps) -> DownloadFailed:
        return DownloadFailed(file.name, why, hint=hint)

    fault = fault_of(error, library)
    if fault is not Fault.CERTIFICATE:
        if isinstance(error, library.TooManyRedirects):
            return failure(f"{host} sends in circles (too many redirects)", _ENDPOINT_HINT)
        if isinstance(
            error, library.UnsupportedProtocol | library.InvalidURL | library.LocalProtocolError | ValueError
        ):
            why = f"the address of the hub or of a proxy is none ({error})"
            return failure(why, "are HF_ENDPOINT and HTTPS_PROXY right?")
    hints = {
        Fault.CERTIFICATE: "is this network's login page in the way, or is the clock of this computer wrong?",
        Fault.PROXY: "is HTTPS_PROXY right?",
        Fault.NAME: f"is this computer online? {keeps}",
    }
    failed = failure(fault.sentence(host), hints.get(fault, keeps))
    return failed if fault is Fault.CERTIFICATE else Interruption(failed)


def _host(url: str) -> str:
    # Never the whole address: it may hold a password or a signature.
    parts = urlsplit(url)
    return (parts.hostname or "the hub") if parts.port is None else f"{parts.hostname}:{parts.port}"


def _retry_after(headers: Any) -> float | None:
    """Return the seconds that a server asks to wait, given as a number or as a date."""
    text = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", text):
        return float(text)
    with contextlib.suppress(TypeError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    return None


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
