"""The downloader against a real server on this machine, which misbehaves in every way."""

import contextlib
import io
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpcore
import numpy as np
import pytest
from PIL import Image

from clip2clap.core.errors import UserError
from clip2clap.core.version import __version__
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.download.downloader import Download, ImageDownloader
from clip2clap.media.images import load_image

PUBLIC = "93.184.216.34"
# Shorter limits than a run's, yet long enough for a machine that has other things to do.
LIMITS: dict[str, Any] = {
    "allow_private": True,
    "connect_seconds": 3.0,
    "read_seconds": 3.0,
    "total_seconds": 5.0,
    "backoff_seconds": 0.01,
    "max_bytes": 200_000,
}


def jpeg(number: int, side: int = 16) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


class Server(ThreadingHTTPServer):
    """Remembers what it was asked, and how many requests it had at once."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str, float]] = []
        self.user_agents: set[str] = set()
        self.open: Counter[str] = Counter()
        self.most_open: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}{path}"

    def times(self, path: str) -> list[float]:
        return [when for asked, when in self.asked if asked == path]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients that hang up are what is tested."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        server, host = self.server, self.headers["Host"].rsplit(":", 1)[0]
        with server.lock:
            server.asked.append((self.path, time.monotonic()))
            server.user_agents.add(self.headers["User-Agent"])
            for name in (host, "all"):
                server.open[name] += 1
                server.most_open[name] = max(server.most_open[name], server.open[name])
        try:
            _, kind, *rest = self.path.split("/")
            getattr(self, kind)(*rest)
        finally:
            with server.lock:
                for name in (host, "all"):
                    server.open[name] -= 1

    def answer(self, status: int, body: bytes = b"", /, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def endless(self, chunk: bytes, pause: float) -> None:
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        while not self.server.stopping.wait(pause):
            self.wfile.write(chunk)

    def good(self, number: str = "0") -> None:
        self.answer(200, jpeg(int(number)), Content_Type="image/jpeg")

    def lying_type(self) -> None:
        self.answer(200, jpeg(0), Content_Type="text/html")

    def large(self, number: str) -> None:
        self.answer(200, jpeg(int(number), side=256))

    def slow(self, number: str = "0") -> None:
        self.server.stopping.wait(0.3)
        self.good(number)

    def dead(self) -> None:
        self.answer(404, b"gone")

    def drip(self) -> None:
        self.endless(b"x", 0.1)

    def flood(self) -> None:
        self.endless(b"x" * 250_000, 0)

    def silent(self, *_: str) -> None:
        self.server.stopping.wait(20)

    def page(self) -> None:
        self.answer(200, b"<html>" * 100, Content_Type="image/jpeg")

    def vector(self) -> None:
        self.answer(200, b"<svg xmlns='http://www.w3.org/2000/svg'/>", Content_Type="image/svg+xml")

    def nothing(self) -> None:
        self.answer(200)

    def truncated(self) -> None:
        self.answer(200, jpeg(0, side=64)[:-400])

    def cut(self) -> None:
        self.answer(200, jpeg(0), Content_Length="100000")
        self.close_connection = True

    def huge(self) -> None:
        self.answer(200, jpeg(0), Content_Length="999999999999")

    def bomb(self) -> None:
        self.answer(200, b"\x1f\x8b", Content_Encoding="gzip")

    def garbage(self) -> None:
        self.wfile.write(b"\x00\xff not http\r\n\r\n")
        self.close_connection = True

    def loop(self) -> None:
        self.answer(302, Location="/loop")

    def chain(self, length: str) -> None:
        left = int(length)
        self.answer(301, Location=f"/chain/{left - 1}" if left else "/good/7")

    def nowhere(self) -> None:
        self.answer(302)

    def to_file(self) -> None:
        self.answer(302, Location="file:///etc/passwd")

    def to(self, host: str, *path: str) -> None:
        self.answer(302, Location=self.server.url("/" + "/".join(path), host))

    def busy(self, *_: str) -> None:
        self.answer(429)

    def away(self) -> None:
        self.answer(503, Retry_After="3600")

    def refuses(self, times: str, *wait: str) -> None:
        """Answer 429 or 503 a number of times, and then with a picture."""
        if len(self.server.times(self.path)) > int(times):
            return self.good("3")
        headers = {"Retry_After": wait[0].replace("_", " ")} if wait else {}
        return self.answer(503 if wait else 429, **headers)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.stopping.set()
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(*urls: str, **options: Any) -> list[Download]:
    with ImageDownloader(DownloadConfig(**{**LIMITS, **options})) as downloader:
        return list(downloader((str(place), url) for place, url in enumerate(urls)))


def reason(url: str, **options: Any) -> str:
    (done,) = fetch(url, **options)
    assert done.content is None
    assert done.reason is not None
    assert "\n" not in done.reason
    return done.reason


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return unused.getsockname()[1]


BAD = {
    "/dead": "answers 404",
    "/drip": "not there within 5 s",
    "/flood": "larger than 200,000 bytes",
    "/silent": "silent for 3 s",
    "/page": "not an image",
    "/vector": "not an image",
    "/nothing": "empty",
    "/truncated": "damaged or truncated",
    "/cut": "broke off",
    "/huge": "larger than 200,000 bytes",
    "/bomb": "encoding 'gzip'",
    "/garbage": "broke off",
    "/loop": "redirected more than 5 times",
    "/chain/6": "redirected more than 5 times",
    "/nowhere": "answers 302",
    "/to_file": "no http or https address",
    "/busy": "answers 429",
    "/away": "answers 503 and asks to wait 3600 s",
}
NO_ADDRESSES = {
    "ftp://127.0.0.1/a.jpg": "no http or https address",
    "file:///etc/passwd": "no http or https address",
    "data:image/png;base64,AAAA": "no http or https address",
    "": "no http or https address",
    "http://127.0.0.1:-9223372036854775809/a.jpg": "no http or https address",
    "photo.jpg": "no http or https address",
    "http://": "no http or https address",
    "http://[": "no address",
    "http://a b/": "no address",
    "http://127.0.0.1:99999/": "no http or https address",
    f"http://{'a' * 70}.test/": "no address|can't be fetched",
}


def test_all_good_images_arrive_in_order_among_all_bad_ones_and_on_time(server: Server) -> None:
    rows, reasons = [], {}
    bad = {server.url(path): words for path, words in BAD.items()} | NO_ADDRESSES
    bad[f"http://127.0.0.1:{closed_port()}/"] = "connection attempts failed"
    for place, (url, words) in enumerate(bad.items()):
        rows += [(f"good {place}", server.url(f"/good/{place}")), (f"bad {place}", url)]
        reasons[f"bad {place}"] = words
    start = time.monotonic()
    with ImageDownloader(DownloadConfig(**LIMITS, per_host=64)) as downloader:
        done = list(downloader(rows))
    assert time.monotonic() - start < 20
    assert [(row.key, row.url) for row in done] == rows
    for row in done:
        if row.key in reasons:
            assert row.content is None
            assert re.search(reasons[row.key], row.reason or ""), (row.url, row.reason)
        else:
            assert row.reason is None
            assert row.content is not None
            assert row.content == jpeg(int(row.key.split()[1]))
            assert load_image(row.content).size == (16, 16)


def test_the_servers_content_type_does_not_matter(server: Server) -> None:
    assert fetch(server.url("/lying_type"))[0].content == jpeg(0)


def test_redirects_are_followed_up_to_the_limit(server: Server) -> None:
    assert fetch(server.url("/chain/4"))[0].content == jpeg(7)
    assert fetch(server.url("/chain/0"), max_redirects=1)[0].content == jpeg(7)
    assert "more than 0 times" in reason(server.url("/chain/0"), max_redirects=0)


def test_a_busy_server_is_asked_again_with_growing_pauses(server: Server) -> None:
    path = "/refuses/3"
    (done,) = fetch(server.url(path), backoff_seconds=0.1)
    assert done.content == jpeg(3)
    asked = server.times(path)
    pauses = np.diff(asked)
    assert len(asked) == 4
    for retry, pause in enumerate(pauses):
        assert pause >= 0.1 * 2**retry * 0.5


def test_the_number_of_tries_is_bounded(server: Server) -> None:
    reason(server.url("/busy"), retries=2)
    assert len(server.times("/busy")) == 3
    assert "answers 429" in reason(server.url("/refuses/1"), retries=0)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_waited_for_by_all_who_ask_that_server(server: Server, form: str) -> None:
    # A date has whole seconds, and time passes until the server sends it.
    wait = "1" if form == "seconds" else formatdate(time.time() + 3, usegmt=True)
    path = f"/refuses/1/{wait.replace(' ', '_')}"
    urls = [server.url(path), server.url("/good/1"), server.url("/good/2")]
    done = fetch(*urls, per_host=1)
    assert [row.content for row in done] == [jpeg(3), jpeg(1), jpeg(2)]
    first = server.times(path)[0]
    for asked in ("/good/1", "/good/2"):
        assert server.times(asked)[0] - first > 0.9
    assert server.times(path)[1] - first > 0.9


def test_a_server_that_keeps_failing_gets_no_more_retries_until_it_answers(
    server: Server,
) -> None:
    rows = [server.url("/busy")] * 40 + [server.url(f"/good/{n}") for n in range(8)]
    rows += [server.url("/busy/again")]
    # One row after the other: of rows under way together, time decides which still retry.
    done = fetch(*rows, concurrency=1, rows_ahead=1, retries=2)
    assert [row.content is not None for row in done] == [False] * 40 + [True] * 8 + [False]
    # Eight rows with all their retries.
    assert len(server.times("/busy")) == 40 + 8 * 2
    assert len(server.times("/busy/again")) == 3


def test_connections_are_bounded_overall_and_for_every_server(server: Server) -> None:
    hosts = ["127.0.0.1", "localhost"]
    urls = [server.url("/slow/1", host) for _ in range(6) for host in hosts]
    assert all(row.content for row in fetch(*urls, concurrency=16, per_host=2))
    assert server.most_open["127.0.0.1"] == server.most_open["localhost"] == 2
    server.most_open.clear()
    assert all(row.content for row in fetch(*urls, concurrency=3, per_host=16))
    assert server.most_open["all"] == 3


def test_rows_are_read_as_downloads_begin(server: Server) -> None:
    read = 0

    def rows() -> Iterator[tuple[str, str]]:
        nonlocal read
        for number in range(100):
            read += 1
            yield str(number), server.url("/good/1")

    with ImageDownloader(DownloadConfig(**LIMITS, concurrency=2, per_host=2)) as downloader:
        done = downloader(rows())
        assert next(done).key == "0"
        assert read <= 10
        assert len(list(done)) == 99


def test_finished_images_that_nobody_reads_stop_the_downloads(
    server: Server,
) -> None:
    limits = {**LIMITS, "bytes_ahead": 3 * len(jpeg(0, side=256))}
    with ImageDownloader(DownloadConfig(**limits, concurrency=2, per_host=2)) as downloader:
        slow_reader = downloader((str(n), server.url(f"/large/{n}")) for n in range(40))
        asked_before = []
        for place, row in enumerate(slow_reader):
            assert row.content == jpeg(place, side=256)
            time.sleep(0.02)
            asked_before.append(len(server.asked) - place)
    assert max(asked_before) <= 3 + 2 * 2 + 2


def test_leaving_early_stops_at_once(server: Server) -> None:
    start = time.monotonic()
    with ImageDownloader(
        DownloadConfig(**{**LIMITS, "read_seconds": 15.0, "total_seconds": 15.0})
    ) as downloader:
        rows = [("0", server.url("/good/1"))] + [(str(n), server.url("/silent")) for n in range(9)]
        assert next(downloader(rows)).content == jpeg(1)
    assert time.monotonic() - start < 5


def test_the_user_agent_names_the_project_and_a_contact(server: Server) -> None:
    fetch(server.url("/good/1"), contact="mail@example.org")
    (agent,) = server.user_agents
    assert agent.startswith(f"clip2clap/{__version__} ")
    assert "mail@example.org" in agent


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[fe80::1]",
        "[fd00::1]",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "224.0.0.1",
    ],
)
def test_addresses_that_are_not_public_are_refused_unasked(server: Server, host: str) -> None:
    assert "no public address" in reason(server.url("/good/1", host), allow_private=False)
    assert not server.asked


class Names:
    """A name server of our own, and a network where public addresses lead to the test's server."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: list[str]):
        self.answers = {name.replace("_", "."): given for name, given in answers.items()}
        self.connected: list[str] = []
        # httpcore has a stand-in for where anyio is not installed, of another type.
        backend: Any = httpcore.AnyIOBackend
        resolve, connect = socket.getaddrinfo, backend.connect_tcp

        def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            name = host.decode() if isinstance(host, bytes) else host
            if name in self.answers:
                given = self.answers[name]
                host = given.pop(0) if len(given) > 1 else given[0]
            return resolve(host, port, *args, **kwargs)

        async def connect_tcp(self_: Any, host: str, *args: Any, **kwargs: Any) -> Any:
            self.connected.append(host)
            return await connect(self_, "127.0.0.1" if host == PUBLIC else host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        monkeypatch.setattr(backend, "connect_tcp", connect_tcp)


def test_the_address_that_was_checked_is_the_one_connected_to(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names(monkeypatch, rebinding_test=[PUBLIC, "127.0.0.1"])
    (done,) = fetch(server.url("/good/1", "rebinding.test"), allow_private=False)
    assert done.content == jpeg(1)
    assert names.connected == [PUBLIC]
    # Asked again, the name leads here.
    assert "no public" in reason(server.url("/good/1", "rebinding.test"), allow_private=False)
    assert len(server.asked) == 1


@pytest.mark.parametrize("target", ["127.0.0.1", "inside.test", "rebinding.test"])
def test_redirects_to_addresses_that_are_not_public_are_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    Names(
        monkeypatch,
        outside_test=[PUBLIC],
        inside_test=["192.168.0.7"],
        rebinding_test=["127.0.0.1", PUBLIC],
    )
    url = server.url(f"/to/{target}/good/9", "outside.test")
    assert "no public address" in reason(url, allow_private=False)
    assert [path for path, _ in server.asked] == [f"/to/{target}/good/9"]
    assert fetch(server.url("/to/outside.test/good/9", "outside.test"))[0].content == jpeg(9)


def test_the_cache_saves_the_second_download(server: Server, tmp_path: Path) -> None:
    urls = [server.url("/good/1"), server.url("/dead"), server.url("/good/2")]
    first = fetch(*urls, cache=tmp_path)
    assert len(server.asked) == 3
    assert fetch(*urls, cache=tmp_path) == first
    assert Counter(path for path, _ in server.asked) == {"/good/1": 1, "/good/2": 1, "/dead": 2}


def test_a_damaged_file_in_the_cache_is_downloaded_again(server: Server, tmp_path: Path) -> None:
    url = server.url("/good/1")
    fetch(url, cache=tmp_path)
    (file,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    file.write_bytes(jpeg(1)[:-300])
    assert fetch(url, cache=tmp_path)[0].content == jpeg(1)
    assert file.read_bytes() == jpeg(1)


def test_a_killed_run_leaves_whole_images_in_the_cache(
    server: Server, tmp_path: Path, in_a_fork: Callable[..., int]
) -> None:
    def die_after_ten() -> None:
        with ImageDownloader(DownloadConfig(cache=tmp_path, allow_private=True)) as download:
            rows = ((str(n), server.url(f"/large/{n}")) for n in range(10**6))
            for n, _ in enumerate(download(rows), 1):
                if n == 10:
                    os.kill(os.getpid(), signal.SIGKILL)

    assert os.WIFSIGNALED(in_a_fork(die_after_ten))
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".part"]
    assert len(kept) >= 10
    for path in kept:
        load_image(path.read_bytes())
    again = fetch(*(server.url(f"/large/{n}") for n in range(10)), cache=tmp_path)
    assert [row.content for row in again] == [jpeg(n, side=256) for n in range(10)]


def test_a_cache_that_can_not_be_written_to_is_no_fault_of_the_rows(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file"):
        ImageDownloader(DownloadConfig(cache=tmp_path / "file"))
    with ImageDownloader(DownloadConfig(**LIMITS, cache=tmp_path / "cache")) as downloader:
        (tmp_path / "cache").rmdir()
        (tmp_path / "cache").touch()
        with pytest.raises(UserError, match="cache"):
            list(downloader([("0", server.url("/good/1"))]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"concurrency": 0}, "concurrency to be at least 1, got 0"),
        ({"per_host": 0}, "per_host to be at least 1, got 0"),
        ({"max_bytes": 0}, "max_bytes to be at least 1, got 0"),
        ({"retries": -1}, "retries to be at least 0, got -1"),
        ({"max_redirects": -1}, "max_redirects to be at least 0, got -1"),
        ({"total_seconds": float("nan")}, "total_seconds to be above 0, got nan"),
        ({"read_seconds": 0}, "read_seconds to be above 0, got 0"),
        ({"contact": "a\r\nHost: b"}, "on one line"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        ImageDownloader(DownloadConfig(**options))


def test_outside_its_with_block_a_downloader_says_what_is_missing() -> None:
    with pytest.raises(UserError, match="with block"):
        next(ImageDownloader()([("0", "http://example.org/")]))
    with contextlib.suppress(StopIteration), ImageDownloader() as downloader:
        next(downloader([]))
