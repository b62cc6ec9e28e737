"""The app: pages and endpoints by gradio, uploads, results and health by FastAPI."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import PurePosixPath
from typing import Any

from clip2clap.core.errors import MissingExtraError, UserError
from clip2clap.core.version import __version__
from clip2clap.web.folders import safe_name
from clip2clap.web.models import Service

_TITLE = "clip2clap: images to sound, sound to images"
_RESULT_HEADERS = {
    # Results are shown in frames: their scripts are those of the page, and reach nothing else.
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; media-src 'self' blob: "
    "data:; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "private, max-age=3600",
}
# Where gradio says no more than the status.
_REFUSALS = {403: "This file is not open.", 404: "There is no such page or file."}


def create_app(service: Service) -> Any:
    """Return the FastAPI app of a service, which is closed when the server ends.

    Raises:
        MissingExtraError: If gradio is not installed.
    """
    # Before gradio is imported: it reports its use to its makers by default.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(service.folders.root)
    try:
        import gradio as gr
        from fastapi import FastAPI
    except ImportError as error:
        raise MissingExtraError(
            'The app needs gradio. Install it: pip install "clip2clap[web]".'
        ) from error
    from clip2clap.web.guard import Guard
    from clip2clap.web.layout import create_theme, read_static

    @asynccontextmanager
    async def closing(_: Any) -> AsyncIterator[None]:
        try:
            yield
        finally:
            service.close()

    app = FastAPI(lifespan=closing, docs_url=None, redoc_url=None, openapi_url=None)
    blocks = _create_blocks(service)
    _add_routes(app, service, blocks)
    app.state.blocks = blocks
    app.add_middleware(Guard, service=service, blocks=blocks)
    served = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        show_error=False,
        footer_links=["api"],
        run_history=False,
        max_file_size=service.limits.upload_bytes,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        pwa=False,
        theme=create_theme(),
        css=read_static("app.css"),
        head=f"<script>{read_static('app.js')}</script>",
    )
    _explain_refusals(served)
    return served


def _explain_refusals(app: Any) -> None:
    """Let gradio's routes answer what they refuse in one line."""
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException
    from starlette.responses import JSONResponse
    from starlette.routing import Mount

    async def refuse(_: Any, error: HTTPException) -> JSONResponse:
        detail = str(error.detail)
        if detail == HTTPStatus(error.status_code).phrase:
            detail = _REFUSALS.get(error.status_code, f"The request is refused: {detail}.")
        return JSONResponse({"detail": detail}, error.status_code, error.headers)

    async def refuse_call(_: Any, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = " ".join(map(str, first["loc"]))
        return JSONResponse({"detail": f"The call is not valid: {where}: {first['msg']}."}, 422)

    mounted: Any = next(route.app for route in app.routes if isinstance(route, Mount))
    mounted.add_exception_handler(HTTPException, refuse)
    mounted.add_exception_handler(RequestValidationError, refuse_call)


def _create_blocks(service: Service) -> Any:
    import gradio as gr

    from clip2clap.web import compare_tab, describe_tab, image_tab, name_tab, search_tab, sound_tab
    from clip2clap.web.about_tab import add_about_tab

    with gr.Blocks(title=_TITLE, analytics_enabled=False) as blocks:
        gr.Markdown("# clip2clap")
        with gr.Tabs(overflow_behavior="wrap"):
            image = image_tab.ImageTab(service)
            sound = sound_tab.SoundTab(service)
            name_tab.add_name_tab(service)
            describe_tab.add_describe_tab(service)
            search = search_tab.SearchTab(service)
            compare = compare_tab.CompareTab(service)
            add_about_tab(service)
        for each in (image_tab, sound_tab, name_tab, describe_tab, search_tab):
            each.add_endpoint(service)
        keeping: list[Any] = [image, sound]
        keeping += [search] if service.models.index is not None else []
        keeping += [compare] if service.contest is not None else []
        for tab in keeping:
            # Beside the tabs: what is in a tab is read only once the tab is opened.
            tab.kept.render()
            blocks.load(
                tab.restore,
                tab.kept,
                tab.restored,
                concurrency_limit=None,
                show_progress="hidden",
                api_visibility="private",
            )
    blocks.queue(max_size=service.limits.max_users, api_open=False)
    # gradio checks the paths of inputs only of apps that it launched itself.
    blocks.has_launched = True
    return blocks


def _add_routes(app: Any, service: Service, blocks: Any) -> None:
    from fastapi import HTTPException, Request
    from fastapi.responses import FileResponse, JSONResponse, Response

    folders, limits = service.folders, service.limits
    service.metrics.watch("runs_waiting", lambda: len(blocks._queue))

    @app.get("/healthz")
    def report_health() -> dict[str, Any]:
        waiting = len(blocks._queue)
        return {"status": "ok", "version": __version__, "waiting": waiting}

    @app.get("/metrics")
    def report_metrics() -> Response:
        metrics = service.metrics
        return Response(metrics.text(), media_type=metrics.media_type)

    @app.api_route("/results/{path:path}", methods=["GET", "HEAD"])
    def send_result(path: str) -> FileResponse:
        try:
            return FileResponse(folders.file(path), headers=_RESULT_HEADERS)
        except UserError as error:
            raise HTTPException(404, str(error)) from error

    @app.get("/gradio_api/upload_progress")
    def end_progress() -> Response:
        # The page asks how far an upload is, which is known once it is done.
        return Response('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    @app.post("/gradio_api/upload")
    async def receive_upload(request: Request) -> JSONResponse:
        async with request.form(max_files=limits.files, max_fields=limits.files) as form:
            files = [each for each in form.getlist("files") if not isinstance(each, str)]
            if not files:
                raise HTTPException(400, "Expected files in a form of type multipart/form-data.")
            try:
                folder = folders.create()
            except UserError as error:
                raise HTTPException(507, str(error)) from error
            paths = []
            for number, each in enumerate(files):
                # Files of one name have folders of their own.
                path = folder / str(number) / safe_name(PurePosixPath(each.filename or "").name)
                path.parent.mkdir()
                with path.open("wb") as file:
                    while block := await each.read(2**20):
                        file.write(block)
                paths.append(str(path))
            return JSONResponse(paths)
