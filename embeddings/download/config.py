"""Limits and options of image downloads."""

import os
from dataclasses import dataclass
from pathlib import Path

from clip2clap.core.errors import expect


@dataclass(frozen=True)
class DownloadConfig:
    """Options of `ImageDownloader`."""

    cache: str | Path | None = None
    """Folder of images stored by URL and looked up first; any number of runs may share it."""

    concurrency: int = 64
    """Connections in use at once."""

    per_host: int = 4
    """Connections in use at once to one server."""

    connect_seconds: float = 10.0
    """Limit for finding a server's address and connecting to it."""

    read_seconds: float = 10.0
    """Limit for a server's silence."""

    total_seconds: float = 60.0
    """Limit for one row's time on connections, over redirects and retries, and for any one pause
    between retries."""

    max_bytes: int = 20_000_000
    """Bytes above which a download fails."""

    max_redirects: int = 5
    """Redirects that are followed."""

    retries: int = 3
    """Attempts after the first if a server is busy (429, 500, 502, 503, 504) or the connection
    breaks."""

    backoff_seconds: float = 1.0
    """Pause before the first retry, doubled for every further one and varied by half, unless the
    server names a pause (Retry-After)."""

    rows_ahead: int = 4
    """Downloads ahead of the reader as a multiple of `concurrency`, so that connections stay busy
    while the order of the rows waits for a slow image."""

    bytes_ahead: int = 64_000_000
    """Bytes of finished images ahead of the reader above which no download starts."""

    decoding_threads: int = min(4, os.cpu_count() or 1)
    """Threads that decode images to check them."""

    allow_private: bool = False
    """Also connect to private addresses: this machine and its network."""

    contact: str | None = None
    """Contact address for the servers' owners, sent in the User-Agent; Wikimedia requires one."""

    def __post_init__(self) -> None:
        least = {"max_redirects": 0, "retries": 0}
        counts = ("concurrency", "per_host", "max_bytes", "rows_ahead", "decoding_threads")
        for name, minimum in [*least.items(), *((name, 1) for name in counts)]:
            value = getattr(self, name)
            expect(value >= minimum, name, f"at least {minimum}", value)
        for name in ("connect_seconds", "read_seconds", "total_seconds", "backoff_seconds"):
            value = getattr(self, name)
            expect(0 < value < float("inf"), name, "above 0", value)
        contact = self.contact or ""
        is_plain = contact.isascii() and contact.isprintable()
        expect(is_plain, "contact", "plain ASCII on one line", contact)
