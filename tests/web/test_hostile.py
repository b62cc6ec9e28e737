"""Hostile uploads and requests: each is answered in one clear line, and the server lives.

CLIP2CLAP_FUZZ sets their number; without it there are a few of each kind.
"""

import base64
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from clip2clap.core import http as safe_http

from .hostile import KINDS, SECRET, Target, attack

COUNT = int(os.environ.get("CLIP2CLAP_FUZZ", 3 * len(KINDS)))


@pytest.fixture(scope="module")
def target(server, tmp_path_factory):
    """The server, with a secret file and a secret page on its machine."""
    secret = tmp_path_factory.mktemp("secrets") / "secret.png"
    secret.write_text(SECRET)
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            query = parse_qs(urlsplit(self.path).query)
            if "to" not in query:
                asked.append(self.path)
                self.send_response(200)
            else:
                self.send_response(302)
                place = base64.urlsafe_b64decode(query["to"][0]).decode()
                self.send_header("Location", place.encode("ascii", "ignore").decode())
            self.end_headers()
            if "to" not in query:
                self.wfile.write(SECRET.encode())

        def log_message(self, format, *args):
            pass

    served = ThreadingHTTPServer(("0.0.0.0", 0), Handler)
    Thread(target=served.serve_forever, daemon=True).start()
    port = served.server_port
    is_public = safe_http._is_public
    safe_http._is_public = lambda address: address == "127.0.0.3" or is_public(address)
    with httpx.Client(base_url=server.url, timeout=120) as http:
        yield Target(
            http,
            server.port,
            str(secret),
            f"http://127.0.0.2:{port}/secret.png",
            f"http://127.0.0.3:{port}/",
        )
    safe_http._is_public = is_public
    served.shutdown()
    assert asked == []


def reason_of(answer):
    """Return what an answer says of what is wrong; None of one that is no refusal."""
    if "event: error" in answer.text:
        return json.loads(answer.text.rsplit("data: ", 1)[1].split("\n")[0])["error"]
    if answer.status < 400:
        return None
    if answer.text.startswith("{"):
        return json.loads(answer.text)["detail"]
    return answer.text


@pytest.mark.parametrize("number", range(COUNT))
def test_a_hostile_request_is_answered_clearly_and_reads_nothing(target, server, number):
    answer = attack(number, target)
    assert answer.status < 500, answer
    assert SECRET not in answer.text
    assert "root:x:" not in answer.text
    assert "Traceback" not in answer.text
    reason = reason_of(answer)
    if reason is not None:
        assert len(reason) > 20 or answer.status in (400, 405), answer
        assert str(server.service.folders.root) not in reason
    assert target.http.get("/healthz").json()["status"] == "ok"
