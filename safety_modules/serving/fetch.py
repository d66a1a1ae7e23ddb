"""Pictures from addresses: only from hosts that the operator allows, and never from this machine's own network.

A name is resolved once, every address it has must be public, and the connection goes to the very address that was
looked at, so a name that changes its mind (DNS rebinding) leads nowhere else. Redirects are followed by the same rules.
"""

import http.client
import ipaddress
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from safety_modules.serving.errors import RequestRefused
from safety_modules.serving.settings import ServeSettings

REDIRECTS = 3
_PORTS = {"http": 80, "https": 443}
_MOVED = (301, 302, 303, 307, 308)
_CHUNK = 65_536
_NAT64 = ipaddress.ip_network("64:ff9b::/32")


@dataclass(frozen=True)
class Fetch:
    """Fetches by one server's settings."""

    settings: ServeSettings

    def __call__(self, address: str) -> bytes:
        """The bytes of a picture.

        Raises:
            RequestRefused: the address is not allowed, or nothing came from it.
        """
        until = time.monotonic() + self.settings.fetch_seconds
        for _ in range(1 + REDIRECTS):
            parts = self._allowed(address)
            try:
                found = self._get(parts, until)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise _refused(f"expected a picture from {parts.hostname}, got {type(error).__name__}") from error
            if isinstance(found, bytes):
                return found
            address = urljoin(address, found)
        raise _refused(f"expected at most {REDIRECTS} redirects, got more")

    def _allowed(self, address: str) -> SplitResult:
        try:
            parts = urlsplit(address)
            port = parts.port or _PORTS.get(parts.scheme)
        except ValueError as error:
            raise _refused("expected an address, got none") from error
        host = (parts.hostname or "").rstrip(".").lower()
        plain = parts.scheme in _PORTS and port == _PORTS[parts.scheme] and parts.username is None
        if not plain or not address.isascii() or not address.isprintable() or " " in address:
            raise _refused("expected a plain http or https address without port and user, got another")
        if host not in self.settings.image_hosts:
            allowed = ", ".join(sorted(self.settings.image_hosts)) or "none: data: URIs only"
            raise _refused(f"expected a host that this server fetches from ({allowed}), got another")
        return parts

    def _get(self, parts: SplitResult, until: float) -> bytes | str:
        """A picture, or where it has moved to."""
        host = str(parts.hostname)
        connection = http.client.HTTPConnection(host, timeout=_left(until))
        try:
            # Kept: the connection forgets its socket where the host closes it behind the answer.
            connection.sock = sock = _connected(host, parts.scheme, until)
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request("GET", path, headers={"Accept": "image/*", "User-Agent": "safety-modules"})
            answer = connection.getresponse()
            if answer.status in _MOVED:
                return answer.getheader("location") or ""
            if answer.status != 200:
                raise _refused(f"expected status 200 from {host}, got {answer.status}")
            return self._body(answer, sock, until)
        finally:
            connection.close()

    def _body(self, answer: http.client.HTTPResponse, sock: Any, until: float) -> bytes:
        data = bytearray()
        while True:
            sock.settimeout(_left(until))  # in all, not for each piece: a slow host must not hold a thread
            piece = answer.read1(_CHUNK)
            data += piece
            if len(data) > self.settings.max_image_bytes:
                raise _refused(f"expected at most {self.settings.max_image_bytes} bytes, got more")
            if not piece:
                if answer.length:
                    raise _refused(f"expected a whole picture, got {len(data)} bytes and {answer.length} missing")
                return bytes(data)


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's: not private, of this machine, or one that leads to such."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo or (None, None))[1]
        if inner is not None or found in _NAT64:
            return False
    return found.is_global and not found.is_multicast


def _connected(host: str, scheme: str, until: float) -> Any:
    """A connection to a public address of this host."""
    found = socket.getaddrinfo(host, _PORTS[scheme], type=socket.SOCK_STREAM)
    addresses = [str(place[4][0]) for place in found]
    if not addresses or not all(map(is_public, addresses)):
        raise _refused(f"expected {host} to be on the internet, got an address of a private network")
    sock = socket.create_connection((addresses[0], _PORTS[scheme]), timeout=_left(until))
    if scheme == "http":
        return sock
    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=host)
    except BaseException:
        sock.close()
        raise


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _refused(what: str) -> RequestRefused:
    return RequestRefused(
        400, f"picture not fetched: {what}. Send it as a data: URI, or ask who runs this server.", "invalid_image_url"
    )
