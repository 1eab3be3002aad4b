"""Says in a sentence what kept a server from being reached, or from finishing what it said; cuts the wait for it."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from enum import Enum
from types import ModuleType
from typing import Any


class Fault(Enum):
    """What can happen to a connection; each value is the sentence for it."""

    CERTIFICATE = "the certificate of {host} is not valid"
    PROXY = "the proxy lets nothing through"
    NAME = "{host} is not found"
    CONNECT = "no connection to {host}"
    SILENCE = "{host} fell silent"
    BROKEN = "the connection to {host} broke off"

    def sentence(self, host: str) -> str:
        """Return the sentence about `host`."""
        return self.value.format(host=host)


class Wire:
    """The connection of a request, which is not used for another one; `watch` is the `trace` of that request."""

    def __init__(self) -> None:
        self.is_cut = threading.Event()
        self._socket: socket.socket | None = None

    def watch(self, event: str, facts: Mapping[str, Any]) -> None:
        """Keep hold of the socket as soon as there is one, whatever proxy it leads through."""
        if event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            self._socket = facts["return_value"].get_extra_info("socket")
            if self.is_cut.is_set():
                self.cut()

    def cut(self) -> None:
        """End the connection, and any that follows; safe in a signal handler and in any thread."""
        self.is_cut.set()
        if self._socket is not None:
            # A thread waits for the next byte: this is how it learns that none will come.
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def fault_of(error: Exception, library: ModuleType | None = None) -> Fault:
    """Tell what an error of an HTTP library is about; that is httpx2, or `library`, which looks like it."""
    import httpx2

    library = library or httpx2
    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return Fault.CERTIFICATE
    if isinstance(error, library.ProxyError):
        return Fault.PROXY
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return Fault.NAME
    if isinstance(error, library.ConnectError | library.ConnectTimeout):
        return Fault.CONNECT
    return Fault.SILENCE if isinstance(error, library.TimeoutException) else Fault.BROKEN


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
