"""Options of `serve`."""

from clip2clap.cli.command import Options, option
from clip2clap.cli.options.common import Decoder, Device, Generator


class Server(Options, panel="Server"):
    """Address and limits of the server."""

    host: str = option(
        "Address to listen at; 0.0.0.0 also lets other machines in.", "ADDRESS", default="127.0.0.1"
    )
    port: int = option("Port to listen at; 0 for any that is free.", default=7860, min=0, max=65535)
    browser: bool = option("Open the page in a browser.", default=True)
    max_users: int = option(
        "Users whose runs wait or are computed at the same time; each has one.", default=20, min=1
    )
    workers: int = option("Runs that are computed at the same time.", default=1, min=1)


class Serve(Server, Device, Decoder, Generator):
    """Options of `serve`."""

    decoder_translator: str | None = option(
        "Translator from the decoder's CLAP into its CLIP: hub id or folder. By default the "
        "decoder's own.",
        "NAME",
        panel="Models",
    )
