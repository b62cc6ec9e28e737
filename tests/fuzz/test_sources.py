"""Odd addresses, data URIs, paths and servers: read, or refused by one line that says why."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from clip2clap.core.errors import UserError
from clip2clap.core.http import FetchError, fetch
from clip2clap.embeddings.datasets.base import file_of
from clip2clap.embeddings.datasets.registry import open_source
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.download.downloader import ImageDownloader
from clip2clap.inference.batch.jobs import find_jobs
from clip2clap.media.audio import load_audio
from clip2clap.media.images import load_image

from .builders import damaged, few, works_or_says_why

ODD = st.text(st.characters(codec=None), max_size=6) | st.sampled_from(
    [" ", "\n", "\0", "%00", "%zz", "[", "]", "[::1]", "@", "..", "é", "\udce9", "\u202e", "9" * 30]
)
HOSTS = ODD | st.sampled_from(
    "127.0.0.1 localhost 0.0.0.0 0x7f.1 2130706433 [::ffff:7f00:1] [fe80::1%1] 169.254.169.254 "
    f"10.0.0.1 xn-- {'a' * 70}.org {'.'.join('a' * 200)} a..b".split()
)
SCHEMES = ["http://", "https://", "HTTP://", "http:", "ftp://", "file://", "//", "", " "]
ADDRESSES = st.builds(
    lambda *parts: "".join(parts),
    st.sampled_from(SCHEMES),
    st.just("") | ODD.map(lambda user: f"{user}:b@"),
    HOSTS,
    st.just("") | st.integers().map(lambda port: f":{port}") | ODD.map(lambda port: f":{port}"),
    st.just("") | ODD.map(lambda path: f"/{path}.jpg"),
    st.just("") | ODD.map(lambda query: f"?{query}#{query}"),
)
URIS = st.builds(
    lambda kind, mark, body: f"data:{kind}{mark},{body}",
    st.sampled_from(["", "image/png", "audio/wav", "x" * 9]) | ODD,
    st.sampled_from(["", ";base64", ";base64;", ";charset=utf-8"]),
    st.text(st.sampled_from("AQ=+/%é\n "), max_size=9) | ODD,
)
PLACES = st.sampled_from(
    ["/", ".", "..", "/dev/null", "/proc/self/mem", "~", "~nobody-here/a", "a/" * 2000, "x" * 300]
)
PATHS = st.builds("/".join, st.lists(ODD | PLACES, min_size=1, max_size=3))
ANY = ADDRESSES | URIS | PATHS | st.binary(max_size=20) | st.none() | st.integers() | st.floats()


@pytest.fixture(autouse=True)
def no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resolve names to this machine, which is refused, in place of asking a server."""
    real = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **options: Any) -> Any:
        try:
            socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
        except (OSError, ValueError):
            host = "127.0.0.1"
        return real(host, port, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@few(100)
@given(ANY)
def test_any_source_is_read_or_says_why(tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    if isinstance(source, str):
        # All files of this machine are no small input.
        assume(not tmp_path.is_relative_to(os.path.abspath(os.path.expanduser(source))))
    works_or_says_why(lambda: load_image(source))
    works_or_says_why(lambda: load_audio(source))
    works_or_says_why(lambda: file_of(source, tmp_path))
    if isinstance(source, str):
        works_or_says_why(lambda: list(find_jobs([source])))
        works_or_says_why(lambda: open_source([source], wanted=frozenset({"image"})))
        works_or_says_why(lambda: open_source([source], wanted=frozenset({"text"})))


@few(15)
@given(st.lists(ADDRESSES | ODD, max_size=8))
def test_a_download_of_any_address_has_a_reason(addresses):
    with ImageDownloader(DownloadConfig(concurrency=2)) as download:
        found = list(download((str(row), address) for row, address in enumerate(addresses)))
    assert [done.url for done in found] == addresses
    assert all(done.reason and "\n" not in done.reason for done in found)


HEADERS = st.sampled_from(
    [
        *("Content-Length: 3", "Content-Length: -1", "Content-Length: 9999999999999"),
        *("Content-Length: x", "Transfer-Encoding: chunked", "Content-Encoding: gzip"),
        *("Location: /", "Location: http://[", "Location: //a b"),
        *("Location: data:,a", "Retry-After: x", "Retry-After: 1e9"),
        *("Set-Cookie: a", "Content-Type: é", "a"),
        *(":", "\x00"),
    ]
)
STATUSES = st.sampled_from((100, 200, 204, 206, 301, 302, 404, 429, 503, 999))
ANSWERS = st.builds(
    lambda status, headers, body: "\r\n".join([status, *headers, "", ""]).encode() + body,
    STATUSES.map(lambda status: f"HTTP/1.1 {status} x"),
    st.lists(HEADERS, max_size=4),
    st.binary(max_size=9) | st.just(b"3\r\nabc\r\n0\r\n\r\n"),
).flatmap(lambda whole: st.just(whole) | damaged(whole))


@pytest.fixture
def answer() -> Iterator[Callable[[bytes], str]]:
    """Serve bytes to the next requests; returns the address."""
    server = socket.create_server(("127.0.0.1", 0))
    content = [b""]

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65_536)
                connection.sendall(content[0])

    def start(given: bytes) -> str:
        content[0] = given
        return f"http://127.0.0.1:{server.getsockname()[1]}/a.jpg"

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield start
    server.shutdown(socket.SHUT_RDWR)
    server.close()


@few(60)
@given(ANSWERS)
def test_any_answer_of_a_server_is_read_or_says_why(answer, content):
    url = answer(content)
    options: Any = {"max_bytes": 1000, "seconds": 5.0, "allow_private": True}
    works_or_says_why(lambda: fetch(url, **options), FetchError)
    works_or_says_why(lambda: load_image(url, allow_private=True), UserError)
