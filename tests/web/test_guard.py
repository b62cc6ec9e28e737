"""Hostile uploads and requests: each is answered in one line, and the server lives."""

import io
import json
import random
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import httpx
import numpy as np
import pytest
import soundfile
from PIL import Image

from clip2clap.core import http as safe_http
from clip2clap.core.errors import UserError

from .hostile import audio, call, file_data, gif, png, raw, text_bomb, upload


@pytest.fixture(scope="module")
def http(server):
    with httpx.Client(base_url=server.url, timeout=30) as client:
        yield client


@pytest.fixture(autouse=True)
def lives(http):
    """Check after each test that the server still answers."""
    yield
    assert http.get("/healthz").json()["status"] == "ok"


PATHS = [
    "/etc/passwd",
    "/proc/self/environ",
    "../../../../etc/passwd",
    "%2e%2e/%2e%2e/etc/passwd",
    "file:///etc/passwd",
    "http://127.0.0.1:1/",
    "http://169.254.169.254/latest/meta-data/",
    "https://example.org/x.png",
    "//example.org/x",
    "C:\\windows\\win.ini",
    "/dev/zero",
    "/",
    "",
    ".",
    "\x00",
    "x" * 5000,
]


@pytest.mark.parametrize("path", PATHS)
def test_no_file_but_those_in_the_folders_is_sent(http, path):
    quoted = path if "%" in path else "".join(f"%{byte:02x}" for byte in path.encode())
    for route in ("/gradio_api/file=", "/gradio_api/file/", "/results/", "/static/", "/assets/"):
        answer = http.get(route + quoted)
        assert answer.status_code in (400, 403, 404, 414), (route, answer.status_code)
        assert b"root:" not in answer.content


@pytest.mark.parametrize("path", [*PATHS, None, 7, ["/etc/passwd"], {"path": "/etc/passwd"}])
def test_no_input_names_a_file_outside_of_the_folders(http, path):
    for data in ([file_data(path)], [{"path": path}], [[{"deep": [file_data(path)]}]]):
        status, text = call(http, "image_to_audio", data)
        assert status == 400 or "event: error" in text, (data, text)
        assert "root:" not in text
    # Joining the queue, as pages do, is checked alike.
    body = {"data": [file_data(path)], "fn_index": 0, "session_hash": "s"}
    assert http.post("/gradio_api/queue/join", json=body).status_code == 400


def test_what_a_session_uploads_is_in_a_folder_of_its_own(http, server):
    first, second = (upload(http, b"same").json()[0] for _ in range(2))
    assert first != second
    root = str(server.service.folders.root)
    assert first.startswith(root)
    folder, name = first.rsplit("/", 1)
    assert name == "image.png"
    for listing in (root, folder, f"{folder}/.."):
        assert http.get(f"/gradio_api/file={listing}").status_code == 403


@pytest.mark.parametrize(
    "name",
    ["../../../tmp/x.png", "..\\..\\x.png", "/etc/cron.d/x", "\x01\n.png", "a" * 250, "CON"],
)
def test_names_of_uploads_lead_nowhere(http, server, name):
    path = upload(http, b"x", name).json()[0]
    root = server.service.folders.root
    assert root / path == server.service.folders.file(path)
    assert len(path.removeprefix(str(root)).split("/")) == 4


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png(60_000, 60_000, bytes(10_000)), "pixels"),
        (png(1, 30_000, bytes(30_001)), "narrower"),
        (png(100, 100), "damaged"),
        (png(0, 0), "image"),
        (b"", "empty"),
        (b"\x89PNG\r\n\x1a\n", "image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
        (b"<?php system('id'); ?>", "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "not an image"),
        (b"GIF89a" + bytes(50), "image"),
        (b"BM" + b"\xff" * 60, "image"),
        (audio(1), "not an image"),
    ],
)
def test_an_upload_that_is_no_image_costs_its_own_run(http, content, reason):
    path = upload(http, content).json()[0]
    _, text = call(http, "image_to_audio", [file_data(path), None, 1.0, 1, None, 0, 1])
    assert "event: error" in text
    assert reason in text
    assert "clip2clap-serve" not in text
    named = call(http, "classify", [[file_data(path)], "a, b"])[1]
    assert "event: complete" in named
    assert "clip2clap-serve" not in named


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (audio(7), "longer than 5 s"),
        (audio(1)[:2000], "damaged"),
        (b"RIFF" + b"\xff" * 4 + b"WAVEfmt " + b"\x00" * 40, "bark.wav"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "not an audio file"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "not an audio file"),
        (png(8, 8, bytes(72)), "not an audio file"),
        (b"", "empty"),
    ],
)
def test_an_upload_that_is_no_audio_costs_its_own_run(http, content, reason):
    path = upload(http, content, "bark.wav").json()[0]
    text = call(http, "audio_to_image", [file_data(path), 1, 0, 1])[1]
    assert "event: error" in text
    assert reason in text
    assert "root:" not in text
    assert reason in call(http, "classify", [[file_data(path)], "a, b"])[1]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("long.flac", audio(600, format="FLAC", level=0)),
        # A player plays these two, as far as they go.
        ("declared.wav", audio(1)[:40] + b"\xff\xff\xff\x7f" + audio(1)[44:]),
        ("canvas.gif", gif(65_535, 65_535)),
        ("text.png", text_bomb()),
        ("archive.zip", b"PK\x03\x04" + bytes(100)),
        ("page.html", b"<script>alert(1)</script>"),
        ("image.svg", b'<svg xmlns="http://www.w3.org/2000/svg"><script/></svg>'),
        ("list.m3u8", b"#EXTM3U\nhttp://127.0.0.1:1/x.ts\n"),
        ("link.mp4", b"\x00\x00\x00\x18ftypqt  " + b"\xff" * 400),
        ("noise.mp3", random.Random(1).randbytes(20_000)),
        ("noise.webp", b"RIFF\x10\x00\x00\x00WEBPVP8 " + random.Random(2).randbytes(2000)),
    ],
)
def test_a_bomb_or_a_file_of_another_type_costs_its_own_run_in_every_tab(http, name, content):
    path = upload(http, content, name).json()[0]
    file = file_data(path)
    for function, data in (
        ("image_to_audio", [file, None, 1.0, 1, None, 0, 1]),
        ("audio_to_image", [file, 1, 0, 1]),
        ("film", [[file], 2, 0.0, None, 0, 0, 1]),
        ("search", [None, None, file, None, "all", 1, False]),
        ("search", [None, None, None, file, "all", 1, False]),
        ("classify", [[file], "a, b"]),
        ("describe", [[file], "esc50"]),
    ):
        status, text = call(http, function, data)
        assert status == 200
        assert "Traceback" not in text
        if "event: error" in text:
            assert "clip2clap-serve" not in text, function
            # A client is told what is wrong, not only that something is.
            assert len(json.loads(text.split("data: ")[-1].split("\n")[0])["error"]) > 20
        elif function in ("image_to_audio", "audio_to_image", "film"):
            assert name in ("declared.wav", "text.png"), function


@pytest.mark.parametrize(
    "address",
    [
        "http://127.0.0.1/x.png",
        "http://127.1/x.png",
        "http://2130706433/x.png",
        "http://0x7f000001/x.png",
        "http://0177.0.0.1/x.png",
        "http://0.0.0.0/x.png",
        "http://localhost/x.png",
        "http://[::1]/x.png",
        "http://[::]/x.png",
        "http://[::ffff:127.0.0.1]/x.png",
        "http://[fe80::1]/x.png",
        "http://[fd00::1]/x.png",
        "http://10.0.0.1/x.png",
        "http://172.16.0.1/x.png",
        "http://192.168.0.1/x.png",
        "http://100.64.0.1/x.png",
        "http://169.254.169.254/latest/meta-data/",
        "http://224.0.0.1/x.png",
        "http://user:password@127.0.0.1/x.png",
        "http://127.0.0.1:7860/metrics",
        "file:///etc/passwd",
        "ftp://127.0.0.1/x.png",
        "gopher://127.0.0.1:70/x",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http://",
        "https:///etc/passwd",
        "http://a b/x.png",
        "http://\u2028/x.png",
        "http://" + "a" * 300 + "/x.png",
        "http://" + "a" * 5000,
        "/etc/passwd",
    ],
)
def test_addresses_that_are_not_public_are_never_asked(http, address):
    text = call(http, "image_to_audio", [None, address, 1.0, 1, None, 0, 1])[1]
    assert "event: error" in text
    assert "root:" not in text
    assert "Traceback" not in text
    assert len(json.loads(text.split("data: ")[-1].split("\n")[0])["error"]) > 20


def test_a_silent_upload_is_said_to_be_so(http):
    file = io.BytesIO()
    soundfile.write(file, np.zeros(8000), 8000, format="WAV")
    path = upload(http, file.getvalue(), "bark.wav").json()[0]
    assert "bark.wav is silent" in call(http, "audio_to_image", [file_data(path), 1, 0, 1])[1]


def test_uploads_are_bounded_by_what_is_sent_and_by_what_is_declared(http, server):
    large = bytes(server.service.limits.upload_bytes + 1)
    assert upload(http, large).status_code == 413

    def chunks():
        yield b'--x\r\nContent-Disposition: form-data; name="files"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield bytes(2**16)

    before = list(server.service.folders.root.iterdir())
    head = {"Content-Type": "multipart/form-data; boundary=x"}
    assert http.post("/gradio_api/upload", content=chunks(), headers=head).status_code == 413
    assert list(server.service.folders.root.iterdir()) == before


def test_uploads_at_once_are_bounded_together(http, server):
    with server.service.folders.receiving() as count:
        with pytest.raises(UserError, match="no room"):
            count(server.service.limits.stored_bytes)
        answer = upload(http, b"x")
        assert answer.status_code == 507
        assert "no room for more files" in answer.json()["detail"]
    assert upload(http, b"x").status_code == 200


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data; boundary=x"),
        (b"--x\r\n", "multipart/form-data; boundary=x"),
        (b"garbage", "multipart/form-data; boundary=x"),
        (b"garbage", "multipart/form-data"),
        (b"{}", "application/json"),
        (b"a=b", "application/x-www-form-urlencoded"),
        (b"garbage", ""),
    ],
)
def test_forms_that_are_none_are_refused(http, content, kind):
    answer = http.post("/gradio_api/upload", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert answer.json()["detail"]


def test_too_many_files_at_once_are_refused(http, server):
    files = [("files", (f"{n}.png", b"x")) for n in range(server.service.limits.files + 1)]
    assert http.post("/gradio_api/upload", files=files).status_code == 400


def test_calls_that_are_no_calls_are_refused(http):
    nested = b"[" * 100_000 + b"]" * 100_000
    for body in (b"", b"x", b"[]", b"7", b"null", nested, b'{"data":', b"\xff\xfe", bytes(300_000)):
        for route in ("queue/join", "call/image_to_audio", "cancel", "call/none"):
            assert http.post(f"/gradio_api/{route}", content=body).status_code in (400, 413)
    for call_of in ({}, {"data": None}, {"data": {}}, {"data": [], "fn_index": "x"}):
        answer = http.post("/gradio_api/queue/join", json={"session_hash": "s", **call_of})
        assert 400 <= answer.status_code < 600


def test_only_what_the_pages_need_is_open(http):
    for method, path in [
        ("GET", "/gradio_api/proxy=http://127.0.0.1:1/"),
        ("GET", "/monitoring/summary"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/stream/a/b/1/playlist.m3u8"),
        ("GET", "/custom_component/a/b/c/d"),
        ("GET", "/docs"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/process_recording"),
        ("POST", "/gradio_api/vibe-edit"),
        ("POST", "/login"),
        ("POST", "/"),
        ("PUT", "/gradio_api/upload"),
        ("DELETE", "/gradio_api/upload"),
        ("TRACE", "/"),
        ("PROPFIND", "/"),
    ]:
        answer = http.request(method, path)
        assert answer.status_code == 404, (method, path)
        assert answer.json()["detail"] == "There is no such page."


def test_runs_are_not_started_past_the_queue(http, server):
    for function in server.blocks.fns.values():
        if function.queue:
            body = {"data": [None] * len(function.inputs), "fn_index": function._id}
            assert http.post("/gradio_api/run/predict", json=body).status_code == 404


def test_what_is_no_http_is_answered_or_dropped(server):
    upgrade = b"GET /gradio_api/queue/join HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    upgrade += (
        b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n\r\n"
    )
    huge = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-Long: " + b"a" * 200_000 + b"\r\n\r\n"
    many = b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: a\r\n" * 50_000 + b"\r\n"
    for sent in (
        upgrade + b"\x81\xfe\xff\xff" + bytes(range(256)) * 20,
        huge,
        many,
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{",
        b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"GET http://127.0.0.1:1/ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n" * 1000,
        random.Random(0).randbytes(10_000),
    ):
        answer = raw(server.port, sent)
        assert not answer or answer.startswith(b"HTTP/1."), answer[:80]
        assert b" 500 " not in answer[:20]


@pytest.fixture
def redirecting(monkeypatch):
    """Serve redirects from an address that counts as public."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(302)
            self.send_header("Location", "http://127.0.0.2:9/secret.png")
            self.end_headers()

        def log_message(self, format, *args):
            pass

    served = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=served.serve_forever, daemon=True).start()
    is_public = safe_http._is_public
    monkeypatch.setattr(
        safe_http, "_is_public", lambda address: address == "127.0.0.1" or is_public(address)
    )
    yield f"http://127.0.0.1:{served.server_port}/dog.png"
    served.shutdown()


def test_addresses_that_redirect_to_private_ones_are_refused(http, redirecting):
    text = call(http, "image_to_audio", [None, redirecting, 1.0, 1, None, 0, 1])[1]
    assert "event: error" in text
    assert "127.0.0.2 is at 127.0.0.2, which is no public address" in text


def test_results_run_no_scripts_of_others_and_are_sent_as_what_they_are(http, server):
    folder = server.service.folders.create()
    (folder / "index.html").write_text("<p>page</p>")
    answer = http.get(f"/results/{folder.name}/index.html")
    assert answer.status_code == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_real_image_is_still_served_after_all_this(http):
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "green").save(file, "JPEG")
    path = upload(http, file.getvalue(), "green.jpg").json()[0]
    text = call(http, "image_to_audio", [file_data(path), None, 1.0, 1, None, 0, 1])[1]
    assert "event: complete" in text
