"""Says in a sentence what kept a server from being reached, or from finishing what it said."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from enum import Enum


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


def fault_of(error: Exception) -> Fault:
    """Tell what an error of httpx2 is about."""
    import httpx2

    causes = list(_causes(error))
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in causes):
        return Fault.CERTIFICATE
    if isinstance(error, httpx2.ProxyError):
        return Fault.PROXY
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return Fault.NAME
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Fault.CONNECT
    return Fault.SILENCE if isinstance(error, httpx2.TimeoutException) else Fault.BROKEN


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
