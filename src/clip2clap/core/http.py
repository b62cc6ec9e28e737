"""The HTTP client for files of unknown origin: checked addresses, bounded bytes and time.

A request returns the file's bytes or raises a one-line error, for any server behavior.
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from functools import cache, partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from clip2clap.core.errors import one_line
from clip2clap.core.version import __version__

MAX_REDIRECTS = 5
"""Maximum number of redirects."""

_BUSY_STATUSES = frozenset({429, 500, 502, 503, 504})
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class FetchError(Exception):
    """Failed request; the message is the reason, in one line."""


class PrivateAddressError(FetchError):
    """Refused request to this machine or its network."""


class BusyError(FetchError):
    """Failed request that may succeed later, after the seconds that the server asks to wait.

    `overloaded` is True if it asks for fewer requests.
    """

    def __init__(self, reason: str, *, pause: float | None = None, overloaded: bool = False):
        super().__init__(reason)
        self.pause = pause
        self.overloaded = overloaded


class Client:
    """Asynchronous HTTP client that connects to public addresses only.

    A body of more than `max_bytes` fails. With `use_proxy` the proxy that the environment names, if
    any, resolves host names, so that addresses are not checked. The purpose is a note in the
    User-Agent. `DownloadConfig` says what the other limits are.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        connections: int = 1,
        connect_seconds: float = 10.0,
        read_seconds: float = 10.0,
        allow_private: bool = False,
        use_proxy: bool = False,
        purpose: str = "",
        accept: str = "*/*",
    ):
        self._max_bytes = max_bytes
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        proxied = use_proxy and bool(urllib.request.getproxies())
        note = f"({purpose}) " if purpose else ""
        self._client = httpx.AsyncClient(
            transport=None if proxied else _CheckedTransport(connections, allow_private),
            timeout=httpx.Timeout(read_seconds, connect=connect_seconds, pool=None),
            headers={
                "User-Agent": f"clip2clap/{__version__} {note}python-httpx/{httpx.__version__}",
                "Accept": accept,
                # A compressed body can unpack to any size, and images gain nothing by it.
                "Accept-Encoding": "identity",
            },
            # None kept: over millions of requests they would pile up.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            trust_env=proxied,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def send(
        self, request: httpx.Request, *, write: Callable[[bytes], object] | None = None
    ) -> bytes | httpx.Request:
        """Send a request once; return the body, or the request that the server redirects to.

        Parts of the body are not returned but written, if `write` is given. Raises a `BusyError` if
        the server is busy (429, 500, 502, 503, 504) or the connection breaks, and a `FetchError` if
        the request fails for good.
        """
        url = request.url
        has_port = 0 <= (url.port or 0) <= 65_535
        if url.scheme not in ("http", "https") or not url.host or not has_port:
            raise FetchError(f"{one_line(url, limit=200)!r} is no http or https address")
        try:
            response = await self._client.send(request, stream=True)
            try:
                return await self._read(response, write)
            finally:
                await response.aclose()
        except httpx.ConnectTimeout as error:
            raise FetchError(f"no connection within {self._connect_seconds:g} s") from error
        except httpx.TimeoutException as error:
            raise FetchError(f"the server is silent for {self._read_seconds:g} s") from error
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError) as error:
            reason = one_line(error, limit=200)
            raise BusyError(f"the connection broke off ({reason})") from error
        except httpx.HTTPError as error:
            raise FetchError(one_line(error, limit=200)) from error

    async def follow(
        self,
        url: str,
        send: Callable[[httpx.Request], Awaitable[bytes | httpx.Request]],
        redirects: int = MAX_REDIRECTS,
    ) -> bytes:
        """Send requests, by `send` or what calls it, until one of them returns the body."""
        request = self._client.build_request("GET", url.strip())
        for _ in range(redirects + 1):
            answer = await send(request)
            if isinstance(answer, bytes):
                return answer
            request = answer
        raise FetchError(f"redirected more than {redirects} times")

    async def _read(
        self, response: httpx.Response, write: Callable[[bytes], object] | None
    ) -> bytes | httpx.Request:
        if response.next_request is not None:
            return response.next_request
        status = response.status_code
        if status in _BUSY_STATUSES:
            pause = _retry_after(response.headers)
            overloaded = status == 429 or pause is not None
            raise BusyError(f"the server answers {status}", pause=pause, overloaded=overloaded)
        if status != 200:
            raise FetchError(f"the server answers {status}")
        encoding = response.headers.get("content-encoding", "identity")
        if encoding.strip().lower() not in ("", "identity"):
            raise FetchError(f"sent in the encoding {encoding[:40]!r}, which was not requested")
        limit = self._max_bytes
        # A content-length above the limit is rejected; a small one is not trusted.
        size = int(response.headers.get("content-length", 0))
        parts, received = [], 0
        if size <= limit:
            async for part in response.aiter_raw():
                received += len(part)
                if received > limit:
                    break
                (write or parts.append)(part)
        if max(size, received) > limit:
            raise FetchError(f"larger than {limit:,} bytes")
        return b"".join(parts)


def fetch(
    url: str,
    *,
    max_bytes: int,
    seconds: float | None = None,
    allow_private: bool = False,
    write: Callable[[bytes], object] | None = None,
) -> bytes:
    """Fetch a file's bytes, following redirects; parts go to `write` instead, if it is given.

    Without a limit on the seconds of the whole fetch, the server may be silent for 30 s. A
    `FetchError` has the reason.
    """

    async def run() -> bytes:
        limit = seconds or 30.0
        client = Client(
            max_bytes=max_bytes,
            connect_seconds=limit,
            read_seconds=limit,
            allow_private=allow_private,
            use_proxy=True,
        )
        try:
            async with asyncio.timeout(seconds):
                return await client.follow(url, partial(client.send, write=write))
        except TimeoutError as error:
            raise FetchError(f"not there within {seconds:g} s") from error
        except (httpx.InvalidURL, UnicodeError) as error:
            raise FetchError(one_line(error, limit=200)) from error
        finally:
            await client.close()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(run())
    # A notebook's loop runs in this thread already.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, run()).result()


@cache
def _ssl_context() -> ssl.SSLContext:
    """Return the context of all clients: reading the certificates takes longer than a request."""
    return httpx.create_ssl_context()


class _CheckedTransport(httpx.AsyncHTTPTransport):
    """httpx's own transport, over connections to checked addresses."""

    def __init__(self, connections: int, allow_private: bool):
        context = _ssl_context()
        super().__init__(verify=context)
        # httpx has no parameter for a network backend, but its pool does.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=connections,
            network_backend=_CheckedBackend(allow_private=allow_private),
        )


# httpcore declares a second, empty class for installations without anyio, which httpx requires.
_AnyIOBackend: Any = httpcore.AnyIOBackend


class _CheckedBackend(_AnyIOBackend):
    """Network backend that connects to the address that was checked.

    Resolving a name again after the check could return another address (DNS rebinding). All
    connections are made here, including those after redirects.
    """

    def __init__(self, *, allow_private: bool):
        self._allow_private = allow_private

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Resolve a name, check its addresses, and connect."""
        try:
            async with asyncio.timeout(timeout):
                addresses = await self._addresses(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"no address of {host} in time") from error
        # One of each family, since a machine may be able to use only one of the two.
        by_family = {":" in address: address for address in reversed(addresses)}
        *first, last = sorted(by_family.values(), key=addresses.index)
        share = None if timeout is None else timeout / (len(first) + 1)
        for address in first:
            with contextlib.suppress(httpcore.ConnectError, httpcore.ConnectTimeout):
                return await super().connect_tcp(
                    address, port, share, local_address, socket_options
                )
        return await super().connect_tcp(last, port, share, local_address, socket_options)

    async def _addresses(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise httpcore.ConnectError(f"no address of {host} is known") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        allowed = [a for a in addresses if self._allow_private or _is_public(a)]
        if not allowed:
            raise PrivateAddressError(f"{host} is at {addresses[0]}, which is no public address")
        return allowed


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        # These carry an IPv4 address, which is where the connection ends up.
        ip = ip.ipv4_mapped or ip.sixtofour or ip
        if ip in _NAT64:
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.is_global and not ip.is_multicast


def _retry_after(headers: httpx.Headers) -> float | None:
    """Return the seconds that a server asks to wait, as a number or as a date."""
    value = headers.get("retry-after", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
