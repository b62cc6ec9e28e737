"""Concurrent image downloads from untrusted servers.

Many URLs in published data sets are dead, slow, huge or hostile. Each costs a bounded time and
memory, and a failed one ends as one line of reason.
"""

import asyncio
import contextlib
import hashlib
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from weakref import WeakValueDictionary

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import as_path, replacing
from clip2clap.core.http import BusyError, Client, FetchError
from clip2clap.core.output_folder import writing_to
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.media.images import UnreadableImageError, load_image

if TYPE_CHECKING:
    import httpx

# Consecutive failed rows, despite all retries, after which a server gets no more retries.
_MAX_FAILED_ROWS = 8
# Failed rows whose servers are remembered; over millions of rows all servers would pile up.
_REMEMBERED = 10_000


@dataclass(frozen=True)
class Download:
    """Outcome of one row: an image file, decoded once as a check, or the reason of a failure."""

    key: Any
    url: str | None
    content: bytes | None
    reason: str | None


@dataclass(eq=False)
class _Host:
    """State of a server."""

    slots: asyncio.Semaphore
    """Acquired while a connection to the server is in use."""

    resume_at: float = 0.0
    """Monotonic time before which no request is sent to the server."""

    failed_rows: int = 0
    """Rows since the last success that failed after all retries."""


class _Budget:
    """Connection time left for a row, in seconds; waits for a free connection do not count."""

    def __init__(self, seconds: float):
        self._limit = self._left = seconds

    @contextlib.asynccontextmanager
    async def spending(self) -> AsyncIterator[None]:
        """Cancel the block once the seconds are spent."""
        start = time.monotonic()
        try:
            async with asyncio.timeout(max(self._left, 0)):
                yield
        except TimeoutError as error:
            raise FetchError(f"not there within {self._limit:g} s") from error
        finally:
            self._left -= time.monotonic() - start


class ImageDownloader:
    """Concurrent image downloader that yields images in the order of their rows.

    Examples:
        >>> from clip2clap.embeddings.download.downloader import ImageDownloader
        >>> with ImageDownloader() as download:
        ...     for done in download([("row-1", "http://127.0.0.1/dog.jpg")]):
        ...         print(done.key, done.reason)
        row-1 127.0.0.1 is at 127.0.0.1, which is no public address

    Args:
        config: Limits and options.

    Raises:
        UserError: If the cache can't be written to.
    """

    def __init__(self, config: DownloadConfig | None = None):
        self.config = config or DownloadConfig()
        self._cache = None if self.config.cache is None else ImageCache(self.config.cache)
        self._loop: asyncio.AbstractEventLoop | None = None

    def __enter__(self) -> Self:
        config = self.config
        self._slots = asyncio.Semaphore(config.concurrency)
        # Servers in use are remembered, and those that failed last.
        self._hosts: WeakValueDictionary[str, _Host] = WeakValueDictionary()
        self._failing: deque[_Host] = deque(maxlen=_REMEMBERED)
        self._client = Client(
            max_bytes=config.max_bytes,
            connections=config.concurrency,
            connect_seconds=config.connect_seconds,
            read_seconds=config.read_seconds,
            allow_private=config.allow_private,
            purpose="; ".join(filter(None, ["image downloads for a data set", config.contact])),
            accept="image/*,*/*;q=0.5",
        )
        loop = asyncio.new_event_loop()
        # The loop resolves names in these threads: more than there are connections, since a thread
        # whose name server does not answer stays busy after its row has failed.
        self._names = ThreadPoolExecutor(4 * config.concurrency, "clip2clap-names")
        loop.set_default_executor(self._names)
        self._decoding = ThreadPoolExecutor(config.decoding_threads, "clip2clap-decoding")
        self._thread = threading.Thread(
            target=loop.run_forever, name="clip2clap-downloads", daemon=True
        )
        self._thread.start()
        self._loop = loop
        return self

    def __exit__(self, *_: object) -> None:
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

    def __call__(self, rows: Iterable[tuple[Any, str | None]]) -> Iterator[Download]:
        """Yield the outcome of each pair of a key and a URL or None, in order, some read ahead.

        Raises:
            UserError: If called outside a `with` block, or the cache can't be written to.
        """
        loop = self._loop
        if loop is None:
            raise UserError("Expected a with block: with ImageDownloader() as download.")
        ahead: deque[Future[Download]] = deque()
        # Bytes of images, counted in the loop's thread and in the reader's.
        finished = yielded = 0
        config = self.config

        async def counted(key: Any, url: str | None) -> Download:
            nonlocal finished
            download = await self._download(key, url)
            finished += len(download.content or b"")
            return download

        def oldest() -> Download:
            nonlocal yielded
            download = ahead.popleft().result()
            yielded += len(download.content or b"")
            return download

        try:
            for key, url in rows:
                while ahead and (
                    len(ahead) >= config.rows_ahead * config.concurrency
                    or finished - yielded > config.bytes_ahead
                ):
                    yield oldest()
                ahead.append(asyncio.run_coroutine_threadsafe(counted(key, url), loop))
            while ahead:
                yield oldest()
        finally:
            for download in ahead:
                download.cancel()

    async def _download(self, key: Any, url: str | None) -> Download:
        if url is None:
            return Download(key, None, None, None)
        try:
            return Download(key, url, await self._image(url), None)
        except (FetchError, UnreadableImageError) as error:
            reason = str(error)
        except UserError:  # of the cache, not of the row
            raise
        except Exception as error:  # a hostile server can make a library raise anything
            reason = f"can't be fetched ({one_line(error, limit=200)})"
        return Download(key, url, None, reason)

    async def _image(self, url: str) -> bytes:
        """Return an image file from the cache or the network, after decoding it once."""
        in_thread = partial(asyncio.get_running_loop().run_in_executor, self._decoding)
        if self._cache is not None:
            content = await in_thread(self._cache.read, url)
            if content is not None:
                return content
        send = partial(self._send, budget=_Budget(self.config.total_seconds))
        content = await self._client.follow(url, send, self.config.max_redirects)
        await in_thread(load_image, content)
        if self._cache is not None:
            await in_thread(self._cache.write, url, content)
        return content

    async def _send(self, request: "httpx.Request", budget: _Budget) -> "bytes | httpx.Request":
        """Return the body or the redirect; retry while the server is busy."""
        host = self._hosts.setdefault(
            request.url.host, _Host(asyncio.Semaphore(self.config.per_host))
        )
        retry = 0
        while True:
            try:
                async with self._turn(host), budget.spending():
                    answer = await self._client.send(request)
                host.failed_rows = 0
                return answer
            except BusyError as busy:
                pause = busy.pause
                if pause is None:
                    pause = self.config.backoff_seconds * 2**retry * random.uniform(0.5, 1.5)
                too_long = pause > self.config.total_seconds
                if too_long or retry >= self.config.retries or host.failed_rows >= _MAX_FAILED_ROWS:
                    host.failed_rows += 1
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
        """Wait for a free connection and until the server accepts requests."""
        async with host.slots:
            while (pause := host.resume_at - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            async with self._slots:
                yield


class ImageCache:
    """Cache of image files; threads, processes and killed runs may share its folder."""

    def __init__(self, folder: str | Path):
        self.folder = as_path(folder)
        with writing_to(self.folder, param="cache"), tempfile.TemporaryFile(dir=self.folder):
            pass

    def read(self, url: str) -> bytes | None:
        """Return the image file of a URL; None if it is missing or damaged."""
        path = self._path(url)
        try:
            content = path.read_bytes()
            load_image(content)
        except (FileNotFoundError, UnreadableImageError):
            # A file is damaged if the power failed before its last bytes reached the disk.
            return None
        except OSError as error:
            raise UserError(f"{path} can't be read: {error.strerror or error}.") from error
        return content

    def write(self, url: str, content: bytes) -> None:
        """Store the image file of a URL."""
        path = self._path(url)
        with writing_to(path.parent, param="cache"), replacing(path) as partial:
            partial.write_bytes(content)

    def _path(self, url: str) -> Path:
        name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
        return self.folder / name[:2] / name
