"""The verb `serve`."""

import contextlib
import socket
import threading
import webbrowser
from importlib.util import find_spec
from typing import Any

import typer
from rich.console import Console

from clip2clap.cli.checks import check_device, check_translator, choose_device
from clip2clap.cli.loading import check_models, load_pipeline
from clip2clap.cli.options.web import Serve
from clip2clap.core.errors import MissingExtraError, UserError
from clip2clap.web.server import create_server


def serve(options: Serve) -> None:
    """Serve the pages that generate in a browser, and the same for programs.

    The models are loaded once. Uploads and results are kept for an hour and removed at the end;
    no page, and no address that a user names, reaches this machine's network.
    """
    check_models(options)
    check_translator(options.decoder_translator, "decoder_translator")
    check_device(options.device, None)
    if find_spec("gradio") is None:
        raise MissingExtraError('serve needs gradio. Install it: pip install "clip2clap[web]".')
    listening = _listen(options.host, options.port)
    with Console(stderr=True).status("Loading the models"):
        models = _load(options)
        app = _create(models, options)
    host, port = listening.getsockname()[:2]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    address = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
    typer.echo(f"Open {address} in a browser; Ctrl-C ends it.", err=True)
    if options.browser:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    with contextlib.suppress(KeyboardInterrupt):
        create_server(app).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket at the address, before models are loaded for nothing.

    Raises:
        UserError: If the address is not this machine's, or the port is taken.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{host} at port {port} cannot be listened at: {reason}. Name another port.",
            param="port",
        ) from error
    return listening


def _load(options: Serve) -> Any:
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.web.models import Models

    device = choose_device(options.device)
    loaded: dict[str, Any] = {"device": device, "dtype": "auto"}
    parts: dict[str, Any] = {"clip": options.clip, "translator": options.translator}
    names = {**parts, "clap": options.clap, "decoder_translator": options.decoder_translator}
    names |= {"generator": options.generator, "decoder": options.decoder}
    return Models(
        load_pipeline("generator", options.generator or "demo", **loaded, **parts),
        load_pipeline("decoder", options.decoder, **loaded, translator=options.decoder_translator),
        clip=ClipEncoder.from_pretrained(options.clip or "demo", device=device),
        clap=ClapEncoder.from_pretrained(options.clap or "demo", device=device),
        canvas=Canvas.from_pretrained(options.decoder, device=device),
        names={name: value for name, value in names.items() if value not in (None, "demo")},
    )


def _create(models: Any, options: Serve) -> Any:
    from clip2clap.web.app import create_app
    from clip2clap.web.limits import Limits
    from clip2clap.web.models import Service

    limits = Limits(max_users=options.max_users, workers=options.workers)
    return create_app(Service(models, limits))
