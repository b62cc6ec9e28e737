"""Download the pictures of a data set: many at once, from servers of which none is trusted.

Many addresses in published data sets are dead, slow, huge or hostile. Whatever a server does costs
a bounded time and a bounded memory, and ends as one line of reason.
"""

import asyncio
import contextlib
import hashlib
import os
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self
from weakref import WeakValueDictionary

import httpx

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import replacing
from clip2clap.core.http import BusyError, Client, FetchError
from clip2clap.media.images import UnreadableImageError, load_image

MAX_BYTES = 20_000_000
"""Bytes of one picture above which its download is given up."""

# Downloads stay this many times the concurrency ahead of the reader, so that one slow picture, for
# which the order makes the others wait, leaves the connections busy.
_AHEAD = 4
# Bytes of finished pictures that wait for the reader; above it no further download starts.
_WAITING_BYTES = 64_000_000
_DECODING_THREADS = min(4, os.cpu_count() or 1)
# A server that failed so many rows in a row despite all retries is asked once a row from then on.
_PATIENCE = 8
# Failed rows whose servers are remembered: over millions of rows all servers would pile up.
_REMEMBERED = 10_000


@dataclass(frozen=True)
class Download:
    """What became of one row."""

    key: str
    """The row's id."""

    url: str
    """The address that was asked for."""

    content: bytes | None
    """The picture's file, which has been decoded to the end once; None if it could not be had."""

    reason: str | None
    """Why it could not be had, in one line; None if it was."""


@dataclass(eq=False)
class _Host:
    """What is known of a server."""

    slots: asyncio.Semaphore
    """Taken while a connection to it is in use."""

    resume_at: float = 0.0
    """The monotonic clock's time before which it asked to be left alone."""

    failed_in_a_row: int = 0
    """Rows since the last success that failed after all retries."""


class _Budget:
    """The seconds that a row may still spend on connections; waiting for a free one is not."""

    def __init__(self, seconds: float):
        self._limit = self._left = seconds

    @contextlib.asynccontextmanager
    async def spending(self) -> AsyncIterator[None]:
        """Give up what is done within once the seconds are spent."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(max(self._left, 0)):
                yield
        except TimeoutError as error:
            raise FetchError(f"not there within {self._limit:g} s") from error
        finally:
            self._left -= time.monotonic() - start


class ImageDownloader:
    """Download pictures, many at once, and give them in the order of their rows.

    Example:
        >>> with ImageDownloader(cache="images") as download:
        ...     for done in download([("row-1", "https://example.org/dog.jpg")]):
        ...         print(done.key, done.reason or len(done.content))
    """

    def __init__(
        self,
        *,
        cache: str | Path | None = None,
        concurrency: int = 64,
        per_host: int = 4,
        connect_seconds: float = 10.0,
        read_seconds: float = 10.0,
        total_seconds: float = 60.0,
        max_bytes: int = MAX_BYTES,
        max_redirects: int = 5,
        retries: int = 3,
        backoff_seconds: float = 1.0,
        allow_private: bool = False,
        contact: str | None = None,
    ):
        """Say how to download; connections are made within the `with` block.

        Args:
            cache: A folder where pictures are kept by their URL and looked for first. Any number
                of runs may share it, and be killed.
            concurrency: Connections in use at once.
            per_host: Connections in use at once to one server.
            connect_seconds: Limit for finding a server's address and connecting to it.
            read_seconds: Limit for a server's silence.
            total_seconds: Limit for one row's time on connections, over redirects and retries, and
                for any one pause between retries.
            max_bytes: Bytes read above which a download is given up.
            max_redirects: Redirects that are followed, one after the other.
            retries: Tries after the first where a server is busy (429, 500, 502, 503, 504) or the
                connection breaks.
            backoff_seconds: The pause before the first retry, doubled for every further one and
                varied by half, unless the server says how long to wait (Retry-After).
            allow_private: Also go to addresses that are not public: this machine and its network.
            contact: An address for the servers' owners, sent along; Wikimedia asks for one.

        Raises:
            UserError: If a number makes no sense or the cache can't be written to.
        """
        counts = {"concurrency": concurrency, "per_host": per_host, "max_bytes": max_bytes}
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"Expected {name} of at least 1, got {count}.")
        for name, count in {"max_redirects": max_redirects, "retries": retries}.items():
            if count < 0:
                raise UserError(f"Expected {name} of 0 or more, got {count}.")
        limits = {
            "connect_seconds": connect_seconds,
            "read_seconds": read_seconds,
            "total_seconds": total_seconds,
            "backoff_seconds": backoff_seconds,
        }
        for name, seconds in limits.items():
            if not 0 < seconds < float("inf"):
                raise UserError(f"Expected {name} above 0, got {seconds}.")
        if contact is not None and not (contact.isascii() and contact.isprintable()):
            raise UserError(f"Expected contact in plain ASCII on one line, got {contact!r}.")
        self._cache = None if cache is None else _writable(Path(cache).expanduser())
        self._concurrency = concurrency
        self._per_host = per_host
        self._connect_seconds = connect_seconds
        self._read_seconds = read_seconds
        self._total_seconds = total_seconds
        self._max_bytes = max_bytes
        self._max_redirects = max_redirects
        self._retries = retries
        self._backoff_seconds = backoff_seconds
        self._allow_private = allow_private
        self._purpose = "image downloads for a data set" + (f"; {contact}" if contact else "")
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        self._slots = asyncio.Semaphore(self._concurrency)
        # A server is known for as long as a row asks it, or it is among those that failed last.
        self._hosts: WeakValueDictionary[str, _Host] = WeakValueDictionary()
        self._failing: deque[_Host] = deque(maxlen=_REMEMBERED)
        self._client = Client(
            max_bytes=self._max_bytes,
            connections=self._concurrency,
            connect_seconds=self._connect_seconds,
            read_seconds=self._read_seconds,
            allow_private=self._allow_private,
            purpose=self._purpose,
            accept="image/*,*/*;q=0.5",
        )
        loop = asyncio.new_event_loop()
        # The loop resolves names in these threads. More than there are connections, since a thread
        # whose name server does not answer stays busy after its row was given up.
        self._names = ThreadPoolExecutor(4 * self._concurrency, "clip2clap-names")
        loop.set_default_executor(self._names)
        self._decoding = ThreadPoolExecutor(_DECODING_THREADS, "clip2clap-decoding")
        self._thread = threading.Thread(
            target=loop.run_forever, name="clip2clap-downloads", daemon=True
        )
        self._thread.start()
        self._loop = loop
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop = self._loop
        assert loop is not None
        self._loop = None
        asyncio.run_coroutine_threadsafe(self._close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        self._thread.join()
        self._decoding.shutdown(cancel_futures=True)
        self._names.shutdown(wait=False, cancel_futures=True)
        loop.close()

    async def _close(self) -> None:
        downloads = asyncio.all_tasks() - {asyncio.current_task()}
        for task in downloads:
            task.cancel()
        await asyncio.gather(*downloads, return_exceptions=True)
        await self._client.close()

    def __call__(self, rows: Iterable[tuple[str, str]]) -> Iterator[Download]:
        """Download rows, a bounded number of them ahead of what is asked for.

        Args:
            rows: Pairs of an id and a URL; read as downloads begin, so there may be any number.

        Yields:
            What became of each row, in the order of the rows.

        Raises:
            UserError: If the downloader was not entered, or the cache can't be written to.
        """
        loop = self._loop
        if loop is None:
            raise UserError("Expected a with block: with ImageDownloader() as download.")
        ahead: deque[Future[Download]] = deque()
        # Bytes of finished pictures; the loop's thread writes the one, the reader's the other.
        arrived = given = 0

        async def arriving(key: str, url: str) -> Download:
            nonlocal arrived
            download = await self._download(key, url)
            arrived += len(download.content or b"")
            return download

        def oldest() -> Download:
            nonlocal given
            download = ahead.popleft().result()
            given += len(download.content or b"")
            return download

        try:
            for key, url in rows:
                while ahead and (
                    len(ahead) >= _AHEAD * self._concurrency or arrived - given > _WAITING_BYTES
                ):
                    yield oldest()
                ahead.append(asyncio.run_coroutine_threadsafe(arriving(key, url), loop))
            while ahead:
                yield oldest()
        finally:
            for download in ahead:
                download.cancel()

    async def _download(self, key: str, url: str) -> Download:
        try:
            return Download(key, url, await self._picture(url), None)
        except (FetchError, UnreadableImageError) as error:
            reason = str(error)
        except UserError:  # of the cache: no row's fault
            raise
        except Exception as error:  # whatever an address of unknown origin makes a library raise
            reason = f"can't be fetched ({one_line(error, limit=200)})"
        return Download(key, url, None, reason)

    async def _picture(self, url: str) -> bytes:
        """Fetch a picture's file from the cache or the network, and decode it once."""
        loop = asyncio.get_running_loop()
        path = None
        if self._cache is not None:
            name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
            path = self._cache / name[:2] / name
            content = await loop.run_in_executor(self._decoding, _read_cached, path)
            if content is not None:
                return content
        content = await self._fetch(url)
        await loop.run_in_executor(self._decoding, _check, content, path)
        return content

    async def _fetch(self, url: str) -> bytes:
        budget = _Budget(self._total_seconds)
        request = self._client.request(url)
        for _ in range(self._max_redirects + 1):
            answer = await self._ask(request, budget)
            if isinstance(answer, bytes):
                return answer
            request = answer
        raise FetchError(f"redirected more than {self._max_redirects} times")

    async def _ask(self, request: httpx.Request, budget: _Budget) -> bytes | httpx.Request:
        """Ask a server, again if it is busy; gives the body or where it redirects to."""
        host = self._hosts.setdefault(request.url.host, _Host(asyncio.Semaphore(self._per_host)))
        retry = 0
        while True:
            try:
                async with self._turn(host), budget.spending():
                    answer = await self._client.send(request)
                host.failed_in_a_row = 0
                return answer
            except BusyError as busy:
                pause = busy.pause
                if pause is None:
                    pause = self._backoff_seconds * 2**retry * random.uniform(0.5, 1.5)
                too_long = pause > self._total_seconds
                if too_long or retry >= self._retries or host.failed_in_a_row >= _PATIENCE:
                    host.failed_in_a_row += 1
                    self._failing.append(host)
                    asks = f" and asks to wait {pause:.0f} s" if too_long else ""
                    raise FetchError(f"{busy}{asks}") from busy
                if busy.overloaded:
                    host.resume_at = max(host.resume_at, time.monotonic() + pause)
                else:
                    await asyncio.sleep(pause)
                retry += 1

    @contextlib.asynccontextmanager
    async def _turn(self, host: _Host) -> AsyncIterator[None]:
        """Wait for a free connection, and for the server to be ready."""
        async with host.slots:
            while (pause := host.resume_at - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            async with self._slots:
                yield


def _writable(cache: Path) -> Path:
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            pass
    except OSError as error:
        raise UserError(
            f"The cache {cache} can't be written to: {error.strerror}. Give another folder."
        ) from error
    return cache


def _read_cached(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
        load_image(content)
    except (FileNotFoundError, UnreadableImageError):
        # Unreadable: its last bytes were still on their way to the disk when the power went.
        return None
    except OSError as error:
        raise UserError(f"{path} can't be read: {error.strerror or error}.") from error
    return content


def _check(content: bytes, path: Path | None) -> None:
    """Decode a picture, and keep its file in the cache if there is one."""
    load_image(content)
    if path is None:
        return
    try:
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as partial:
            partial.write_bytes(content)
    except OSError as error:
        raise UserError(
            f"{path} can't be written: {error.strerror or error}. Make room, or give another cache."
        ) from error
