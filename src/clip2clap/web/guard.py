"""Guard before gradio's routes: what is not needed is closed, and what is sent is bounded."""

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from clip2clap.core.errors import UserError
from clip2clap.web.layout import RUNS
from clip2clap.web.models import Service

_JSON_BYTES = 262_144
_LONGEST_PATH = 2000
# gradio's routes that the pages and `gradio_client` use, and those of the app.
_READ = re.compile(
    r"/|/(healthz|metrics|config|theme\.css|favicon\.ico|manifest\.json|robots\.txt|login_check)/?"
    r"|/(assets|static|svelte|results)/.+"
    r"|/gradio_api/(info|openapi\.json|startup-events|theme\.css|app_id|queue/data|queue/status)/?"
    r"|/gradio_api/(heartbeat|file=|call)/?.+|/gradio_api/upload_progress"
)
_SENT_JSON = re.compile(r"/gradio_api/(queue/join|run/predict|cancel|reset|call/.+)/?")
_UPLOAD = "/gradio_api/upload"
_FILE = "/gradio_api/file="


class Guard:
    """Middleware that answers what must not reach the routes behind it.

    Args:
        app: ASGI app behind it.
        service: Service, whose folders hold all files that requests may name.
        blocks: gradio's app, whose queue tells who is waiting.
    """

    def __init__(self, app: Any, service: Service, blocks: Any):
        self._app, self._service, self._blocks = app, service, blocks
        self._cancelled: set[Any] = set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        with contextlib.ExitStack() as request:
            if scope["type"] == "http":
                try:
                    receive = await self._checked(scope, receive, request)
                except HTTPException as error:
                    body = {"detail": error.detail, "error": error.detail}
                    await JSONResponse(body, error.status_code)(scope, receive, send)
                    return
            await self._app(scope, receive, send)

    async def _checked(self, scope: Any, receive: Any, request: contextlib.ExitStack) -> Any:
        """Return the function that receives the body, or raise what answers the request."""
        path, method = scope["path"], scope["method"]
        if len(path) > _LONGEST_PATH:
            raise HTTPException(414, "The address is too long.")
        if method in ("GET", "HEAD") and _READ.fullmatch(path):
            if path.startswith(_FILE):
                self._check_file(path.removeprefix(_FILE), 403)
            return receive
        if method == "POST" and path == _UPLOAD:
            count = request.enter_context(self._service.folders.receiving())
            return _bounded(scope, receive, self._service.limits.upload_bytes, count)
        if method == "POST" and _SENT_JSON.fullmatch(path):
            body = await _read(_bounded(scope, receive, _JSON_BYTES))
            self._check_call(path, body)
            return _replay(body, receive)
        raise HTTPException(404, "There is no such page.")

    def _check_call(self, path: str, body: bytes) -> None:
        try:
            call = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, "Expected a JSON document.") from error
        if not isinstance(call, dict):
            raise HTTPException(400, "Expected a JSON object.")
        for file in _files(call):
            self._check_file(file, 400)
        if path.startswith("/gradio_api/cancel"):
            self._cancelled.add(str(call.get("event_id")))
        if path.startswith("/gradio_api/queue/join"):
            self._check_place(call.get("fn_index"), call.get("session_hash"))

    def _check_file(self, path: Any, status: int) -> None:
        try:
            if not isinstance(path, str) or not path.startswith("/"):
                raise UserError("Expected a file that was uploaded here.")
            self._service.folders.file(path)
        except UserError as error:
            raise HTTPException(status, str(error)) from error

    def _check_place(self, function: Any, session: Any) -> None:
        """Raise if a session has a run already; one that is cancelled ends after its step."""
        if self._queue_of(function) != RUNS:
            return
        events = dict(self._blocks._queue.event_ids_to_events)
        self._cancelled &= events.keys()
        theirs = [
            name
            for name, event in events.items()
            if event.session_hash == session and event.concurrency_id == RUNS
        ]
        if set(theirs) - self._cancelled:
            raise HTTPException(429, "You have a run already. Wait for it, or cancel it.")

    def _queue_of(self, function: Any) -> Any:
        found = self._blocks.fns.get(function) if isinstance(function, int) else None
        return getattr(found, "concurrency_id", None)


def _files(value: Any) -> Iterator[Any]:
    """Yield the paths of all files in a JSON document."""
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            if each.get("meta") is not None or each.get("path") is not None:
                yield each.get("path")
            pending += each.values()
        elif isinstance(each, list):
            pending += each


def _bounded(
    scope: Any, receive: Any, most: int, count: Callable[[int], None] = lambda _: None
) -> Any:
    """Return a function that receives a body of limited size, and counts its bytes."""
    large = HTTPException(413, f"Expected at most {most:,} bytes.")
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > most:
        raise large
    received = 0

    async def limited() -> Any:
        nonlocal received
        message = await receive()
        came = len(message.get("body", b""))
        received += came
        if received > most:
            raise large
        try:
            count(came)
        except UserError as error:
            raise HTTPException(507, str(error)) from error
        return message

    return limited


async def _read(receive: Any) -> bytes:
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise HTTPException(400, "The request broke off.")
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _replay(body: bytes, receive: Any) -> Any:
    """Return a function that receives a body that was read, and then what comes."""
    sent = False

    async def replayed() -> Any:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
