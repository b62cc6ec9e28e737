"""Hostile uploads and requests by number: files, names, paths, addresses, calls, forms and bytes.

A number always gives the same one, and each kind comes as often as any other.
"""

import base64
import io
import json
import random
import socket
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import soundfile
from PIL import Image

FILE_META = {"_type": "gradio.FileData"}
SECRET = "root:hostile"
"""Content of the file and of the page that nobody may read."""


@dataclass
class Target:
    """Server to attack, what it must not read, and a server that counts as public."""

    http: httpx.Client
    port: int
    secret_path: str
    """Path of a file outside of the server's folders."""
    secret_url: str
    """Page at a private address, which counts its requests."""
    redirecting_url: str
    """Page at an address that counts as public, which redirects to what follows `?to=`."""


@dataclass
class Answer:
    """Status of an answer, 0 of a connection that was dropped; and its text."""

    status: int
    text: str


def file_data(path: Any, **changes: Any) -> dict[str, Any]:
    """Return an uploaded file as calls name it."""
    return {"path": path, "meta": FILE_META, **changes}


def upload(http: httpx.Client, content: bytes, name: str = "image.png") -> httpx.Response:
    """Upload a file."""
    return http.post("/gradio_api/upload", files={"files": (name, content)})


def call(http: httpx.Client, name: str, data: Any) -> tuple[int, str]:
    """Return the status and text of a call that is joined, or of what refuses it."""
    joined = http.post(f"/gradio_api/call/{name}", json={"data": data})
    if joined.status_code != 200:
        return joined.status_code, joined.text
    return 200, http.get(f"/gradio_api/call/{name}/{joined.json()['event_id']}").text


def raw(port: int, sent: bytes) -> bytes:
    """Return what the server answers to bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        answer = b""
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(65_536):
                answer += part
        except TimeoutError:
            raise
        except OSError:
            pass  # What is refused before it is read whole is dropped.
        return answer


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, pixels: bytes = b"", *extra: bytes) -> bytes:
    """Return a PNG of any declared size, with whatever pixels and chunks."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), *extra, chunk(b"IDAT", zlib.compress(pixels, 9))]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts) + chunk(b"IEND", b"")


def text_bomb(size: int = 50_000_000) -> bytes:
    """Return a PNG whose text is a thousand times larger than the file."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(size), 9))
    return png(8, 8, bytes(72), text)


def gif(width: int, height: int) -> bytes:
    """Return a GIF of any declared size."""
    sizes = struct.pack("<HH", width, height)
    image = b"," + bytes(4) + sizes + b"\x00\x02\x02\x4c\x01\x00;"
    return b"GIF89a" + sizes + b"\xf0\x00\x00" + bytes(6) + image


def audio(seconds: float, rate: int = 8000, format: str = "WAV", *, level: float = 0.1) -> bytes:
    """Return noise, or silence, which as FLAC is a file of few bytes however long it is."""
    noise = np.random.default_rng(0).normal(0, 1, int(seconds * rate)) if level else 0
    samples = np.broadcast_to(np.asarray(level * noise, np.float32), int(seconds * rate))
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=format)
    return file.getvalue()


def photograph(format: str) -> bytes:
    """Return an image that can be read."""
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    Image.fromarray(pixels).save(file, format)
    return file.getvalue()


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Return a file with changed bytes, most of them in its header; or cut, or with more."""
    whole = bytearray(content)
    for _ in range(chance.randrange(1, 12)):
        whole[chance.randrange(chance.choice([len(whole), min(64, len(whole))]))] = (
            chance.randrange(256)
        )
    end = chance.choice([len(whole), chance.randrange(1, len(whole))])
    return bytes(whole[:end]) + chance.choice([b"", b"", chance.randbytes(2000)])


def _image_bomb(chance: random.Random) -> tuple[str, bytes]:
    side = chance.choice([0, 1, 20_000, 60_000, 65_535, 2**31 - 1])
    other = chance.choice([1, 30_000, side])
    pixels = bytes(chance.choice([0, 100, 2_000_000]))
    bitmap = b"BM" + struct.pack("<IIIIiiHHI", 54, 0, 54, 40, *[min(side, 2**30)] * 2, 1, 24, 0)
    tiff = b"II*\0\x08\0\0\0\x02\0" + b"".join(
        struct.pack("<HHII", tag, 4, 1, side) for tag in (256, 257)
    )
    webp = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<II", 10, 0) + b"\xff" * 6
    return chance.choice(
        [
            ("bomb.png", png(side, other, pixels)),
            ("bomb.gif", gif(min(side, 65_535), min(other, 65_535))),
            ("text.png", text_bomb(chance.choice([10_000_000, 50_000_000]))),
            ("bomb.bmp", bitmap + bytes(60)),
            ("bomb.tiff", tiff + bytes(8)),
            ("bomb.webp", webp),
        ]
    )


def _audio_bomb(chance: random.Random, target: Target) -> tuple[str, bytes]:
    sound, size = audio(1), struct.pack("<I", chance.choice([0, 1, 2**31 - 1, 2**32 - 1]))
    place = chance.choice([4, 16, 24, 28, 40])
    named = chance.choice([target.secret_path, target.secret_url, "/dev/zero", "concat:/dev/zero"])
    list_of = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{named}\n#EXT-X-ENDLIST\n",
        "list.txt": f"ffconcat version 1.0\nfile '{named}'\n",
        "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 9 RTP/AVP 0\n",
        "list.pls": f"[playlist]\nFile1={named}\n",
    }
    name = chance.choice(list(list_of))
    return chance.choice(
        [
            ("long.flac", audio(chance.choice([60, 600]), format="FLAC", level=0)),
            ("declared.wav", sound[:place] + size + sound[place + 4 :]),
            (chance.choice([name, "bark.wav"]), list_of[name].encode()),
            ("link.mp4", b"\x00\x00\x00\x18ftypqt  " + chance.randbytes(400)),
        ]
    )


def _other_type(chance: random.Random) -> tuple[str, bytes]:
    archive = b"PK\x03\x04" + chance.randbytes(200)
    svg = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    magic = [b"", b"\xff\xd8\xff\xe0", b"RIFF\x10\x00\x00\x00WEBPVP8 ", b"OggS", b"ID3", b"fLaC",
             b"\x1aE\xdf\xa3", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF-3.0", b"\x7fELF", b"#!/bin/sh\n",
             b"<script>", b"\x80\x04c os\nsystem\n"]  # fmt: skip
    suffix = chance.choice(["png", "jpg", "wav", "mp3", "webp", "svg", "html", "zip", "pkl", "eps"])
    content = chance.choice(magic) + chance.randbytes(chance.randrange(3000))
    return f"file.{suffix}", chance.choice([content, content, archive, svg, b""])


def _damaged(chance: random.Random) -> tuple[str, bytes]:
    kind = chance.choice(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "WAV", "FLAC", "OGG", "MP3"])
    whole = audio(0.5, format=kind) if kind in ("WAV", "FLAC", "OGG", "MP3") else photograph(kind)
    return f"file.{kind.lower()}", damaged(whole, chance)


def _use(target: Target, name: str, content: bytes, chance: random.Random) -> Answer:
    """Upload a file, and use it in one of the tabs."""
    sent = upload(target.http, content, name)
    if sent.status_code != 200:
        return Answer(sent.status_code, sent.text)
    file = file_data(sent.json()[0])
    calls = {
        "image_to_audio": [file, None, 0.5, 1, None, 0, 1],
        "audio_to_image": [file, 1, 0, 1],
        "film": [[file], 1, 0.0, None, 0, 0, 1],
        "search": [None, None, file, None, "all", 1, False],
        "classify": [[file], "a, b"],
        "describe": [[file], "esc50"],
    }
    function = chance.choice(list(calls))
    return Answer(*call(target.http, function, calls[function]))


def _path(target: Target, chance: random.Random) -> str:
    """Return a path or address that leads out of the folders."""
    up = "../" * chance.randrange(1, 12)
    secret = target.secret_path
    return chance.choice(
        [secret, f"{up}{secret}", f"{up}etc/passwd", f"/./{secret}", f"file://{secret}",
         f"/proc/self/root{secret}", "/proc/self/environ", "/dev/zero", f"{secret}\0.png",
         f"\\\\127.0.0.1\\x{secret}", target.secret_url, "//127.0.0.1/x", "~/.ssh/id_rsa",
         ".", "", "/", "C:\\windows\\win.ini", "%2e%2e%2f" * 5 + "etc/passwd", "x" * 5000]
    )  # fmt: skip


def _address(target: Target, chance: random.Random) -> str:
    """Return an address that is private, or none."""
    port = target.secret_url.rsplit(":", 1)[1].split("/")[0]
    host = chance.choice(
        ["127.0.0.2", "127.1", "2130706434", "0x7f000002", "0177.0.0.2", "localhost", "[::1]",
         "[::ffff:127.0.0.2]", "[64:ff9b::7f00:2]", "0.0.0.0", "10.0.0.1", "172.16.0.1",
         "192.168.1.1", "169.254.169.254", "100.64.0.1", "[fe80::1]", "[fd00::1]", "224.0.0.1"]
    )  # fmt: skip
    user = chance.choice(["", "", "user:password@", "example.org@"])
    return chance.choice(
        [f"http://{user}{host}:{port}/x.png", f"https://{host}:{port}/", f"http://{host}/x.png",
         target.secret_url, f"ftp://{host}/x", f"file://{target.secret_path}", "gopher://x/_",
         "data:image/png;base64,AAAA", "http://", f"http://{host}:99999/", "http://\u2028/x.png",
         f"http://{'a' * chance.randrange(5000)}/x.png", f"http:\\\\{host}\\x.png"]
    )  # fmt: skip


def _files_of_names(target: Target, chance: random.Random) -> Answer:
    """Upload a file by a name that leads elsewhere, and read it back."""
    parts = ["..", "/", "\\", "~", "etc", "cron.d", "\x01", "\n", "\0", "CON", ".ssh", "a" * 300,
             "\u202e", "%00", ":", "|", ";ls", "$(id)", ".png", "\u2025"]  # fmt: skip
    name = "".join(chance.choices(parts, k=chance.randrange(1, 8)))
    sent = upload(target.http, b"x", name)
    if sent.status_code != 200:
        return Answer(sent.status_code, sent.text)
    (path,) = sent.json()
    assert ".." not in path.split("/")
    answer = target.http.get(f"/gradio_api/file={path}")
    assert answer.content == b"x", path
    return Answer(answer.status_code, answer.text)


def _files_of_paths(target: Target, chance: random.Random) -> Answer:
    """Ask for a file outside of the folders."""
    path = _path(target, chance)
    quoted = "".join(f"%{byte:02x}" for byte in path.encode())
    routes = ("/gradio_api/file=", "/gradio_api/file/", "/results/", "/static/", "/assets/")
    route = chance.choice(routes)
    answer = target.http.get(route + chance.choice([quoted, quoted.replace("%", "%25")]))
    assert answer.status_code >= 400, path
    return Answer(answer.status_code, answer.text)


def _inputs_of_paths(target: Target, chance: random.Random) -> Answer:
    """Give a run a file outside of the folders."""
    path = _path(target, chance)
    file = chance.choice(
        [file_data(path), {"path": path}, file_data(path, url=target.secret_url), path, [path],
         {"deep": [file_data(path)]}, file_data([path]), file_data(None, url=target.secret_url)]
    )  # fmt: skip
    function = chance.choice(["image_to_audio", "audio_to_image", "film", "classify", "describe"])
    answer = Answer(*call(target.http, function, [chance.choice([file, [file]]), None, 1.0]))
    assert "event: complete" not in answer.text, (function, file)
    return answer


def _private_address(target: Target, chance: random.Random) -> Answer:
    """Name an image at an address that is not public."""
    data = [None, _address(target, chance), 0.5, 1, None, 0, 1]
    answer = Answer(*call(target.http, "image_to_audio", data))
    assert "event: error" in answer.text, data
    return answer


def _redirect(target: Target, chance: random.Random) -> Answer:
    """Name an image at a public address that redirects to one that is not."""
    to = base64.urlsafe_b64encode(_address(target, chance).encode()).decode()
    data = [None, f"{target.redirecting_url}?to={to}", 0.5, 1, None, 0, 1]
    answer = Answer(*call(target.http, "image_to_audio", data))
    assert "event: error" in answer.text, data
    return answer


def _headers(target: Target, chance: random.Random) -> Answer:
    """Send a request whose first line or headers are huge, many or none."""
    size = chance.choice([1000, 70_000, 300_000])
    first = chance.choice([b"GET / HTTP/1.1", b"GET /" + b"a" * size + b" HTTP/1.1", b"GET /",
                           b"\0 / HTTP/1.1", b"GET / HTTP/9.9", b"POST /gradio_api/upload HTTP/1.1",
                           b"GET http://127.0.0.1:1/ HTTP/1.1"])  # fmt: skip
    lines = [b"Host: x", b"X-Long: " + b"a" * size, b"X: a\r\n" * (size // 6) + b"Y: b", b"X : a",
             b"Content-Length: -5", b"Content-Length: 9\r\nContent-Length: 7", b": a", b"X\0: a",
             b"Transfer-Encoding: gzip, chunked", b"Range: bytes=0-" + b"9" * 400,
             b"Cookie: " + b"a=b;" * (size // 4), b"X-Forwarded-For: 127.0.0.1"]  # fmt: skip
    sent = b"\r\n".join([first, *chance.sample(lines, chance.randrange(1, 5))]) + b"\r\n\r\n"
    return _answer(raw(target.port, sent))


def _websocket(target: Target, chance: random.Random) -> Answer:
    """Ask for a WebSocket, and send frames that are none."""
    key = base64.b64encode(chance.randbytes(16))
    path = chance.choice([b"/", b"/gradio_api/queue/join", b"/ws", b"/gradio_api/heartbeat/x"])
    sent = b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    sent += b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key + b"\r\n"
    # It is answered as an ordinary request, and ended after that.
    sent += b"Connection: close\r\n\r\n" + chance.choice(
        [chance.randbytes(5000), b"\x81\xfe\xff\xff" + bytes(100), b"\x88\x80" + bytes(4), b""]
    )
    return _answer(raw(target.port, sent))


def _no_http(target: Target, chance: random.Random) -> Answer:
    """Send bytes that are no request, or a body that is not as it is declared."""
    path = chance.choice([b"/gradio_api/upload", b"/gradio_api/queue/join", b"/"])
    head = b"POST " + path + b" HTTP/1.1\r\nHost: x\r\n"
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    sent = chance.choice(
        [chance.randbytes(chance.randrange(10_000)), b"\r\n" * 1000, b"\0" * 10_000,
         b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(200),
         chunked + b"zz\r\n", chunked + b"f" * 100 + b"\r\n", chunked + b"5\r\nab",
         head + b"Content-Length: 99\r\n\r\n{", head + b"Content-Length: 9e9\r\n\r\n"]
    )  # fmt: skip
    return _answer(raw(target.port, sent))


def _form(target: Target, chance: random.Random) -> Answer:
    """Upload a form that is none."""
    part = b'Content-Disposition: form-data; name="files"; filename="a"\r\n\r\nx\r\n'
    content = chance.choice(
        [b"", b"--x\r\n", b"garbage", chance.randbytes(1000), b"--x\r\n" + part, b"--x\r\n" * 5000,
         (b"--x\r\n" + part) * 200 + b"--x--\r\n", b"--x\r\nX: " + b"a" * 500_000 + b"\r\n\r\n",
         b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"a" * 1_500_000,
         b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--\r\n", bytes(3_000_000)]
    )  # fmt: skip
    kind = chance.choice(["multipart/form-data; boundary=x", "multipart/form-data", "text/plain",
                          "application/x-www-form-urlencoded", "", "multipart/form-data; boundary="
                          + "x" * 500, "multipart/form-data; boundary=x; charset=no"])  # fmt: skip
    answer = target.http.post("/gradio_api/upload", content=content, headers={"Content-Type": kind})
    return Answer(answer.status_code, answer.text)


def _document(target: Target, chance: random.Random) -> Answer:
    """Send a call that is no JSON document, or none that the function takes."""
    odd = [None, True, -1, 10**30, 1e308, "", "x" * 10_000, [], {}, [[]] * 50, {"path": None},
           {"__proto__": {}}, "\ud83d", "<script>alert(1)</script>", float("nan")]  # fmt: skip
    values = chance.choices(odd, k=chance.randrange(10))
    document = {"data": values, "fn_index": chance.choice([0, -1, 10**9, "x", None]),
                "session_hash": chance.choice(["s", None, "x" * 1000, 7])}  # fmt: skip
    body = chance.choice(
        [json.dumps(document).encode(), json.dumps(document).encode(), json.dumps(values).encode(),
         b"", b"null", b'{"data":', b"\xff\xfe", bytes(300_000), b"[" * 100_000 + b"]" * 100_000,
         chance.randbytes(1000)]
    )  # fmt: skip
    functions = ("image_to_audio", "audio_to_image", "film", "classify", "describe", "search")
    route = chance.choice([f"call/{chance.choice(functions)}", "queue/join", "cancel", "reset",
                           "run/predict", "call/none"])  # fmt: skip
    answer = target.http.post(f"/gradio_api/{route}", content=body)
    if answer.is_success and route.startswith("call/"):
        event = answer.json()["event_id"]
        return Answer(200, target.http.get(f"/gradio_api/{route}/{event}").text)
    return Answer(answer.status_code, answer.text)


def _route(target: Target, chance: random.Random) -> Answer:
    """Ask for pages that are not open, by any method."""
    words = ["image_to_audio", "..", "%00", "file=", "etc", "passwd", "queue", "join", "call",
             "data", "results", "gradio_api", "\u2028", "-1", "proxy=http:", "component_server",
             "stream", "custom_component", "monitoring", "docs", "login", "info"]  # fmt: skip
    path = "/" + "/".join(chance.choices(words, k=chance.randrange(1, 6)))
    method = chance.choice(["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE", "PROPFIND"])
    answer = target.http.request(method, path, content=b"{}")
    # An answer to HEAD has no text.
    return Answer(answer.status_code if method != "HEAD" else 0, answer.text)


def _answer(received: bytes) -> Answer:
    if not received:
        return Answer(0, "")
    head, _, body = received.partition(b"\r\n\r\n")
    version, status, *_ = head.split(b" ")
    assert version == b"HTTP/1.1", head[:80]
    return Answer(int(status), body.decode(errors="replace"))


KINDS: dict[str, Callable[[Target, random.Random], Answer]] = {
    "image bomb": lambda target, chance: _use(target, *_image_bomb(chance), chance),
    "audio bomb": lambda target, chance: _use(target, *_audio_bomb(chance, target), chance),
    "other type": lambda target, chance: _use(target, *_other_type(chance), chance),
    "damaged file": lambda target, chance: _use(target, *_damaged(chance), chance),
    "name": _files_of_names,
    "path": _files_of_paths,
    "input": _inputs_of_paths,
    "address": _private_address,
    "redirect": _redirect,
    "headers": _headers,
    "websocket": _websocket,
    "no HTTP": _no_http,
    "form": _form,
    "document": _document,
    "route": _route,
}


def attack(number: int, target: Target) -> Answer:
    """Send one hostile upload or request, and return what is answered."""
    return list(KINDS.values())[number % len(KINDS)](target, random.Random(number))
