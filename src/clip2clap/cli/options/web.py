"""Options of `serve`."""

from pathlib import Path

from clip2clap.cli.command import Options, option
from clip2clap.cli.options.common import Decoder, Device, Generator, SpeechEncoderName
from clip2clap.cli.options.words import Captioners


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
    max_upload_mb: int = option(
        "Size of an upload, of all its files together, in MB.", default=200, min=1
    )
    max_audio_s: float = option(
        "Length of uploaded audio, of a film's files together, in seconds.",
        "S",
        default=300.0,
        min=1,
        max=1200,
    )


class Serve(Server, Device, SpeechEncoderName, Captioners, Decoder, Generator):
    """Options of `serve`."""

    index: Path | None = option(
        "Folder of an index, as index writes it, to search in.", "LIBRARY", panel="Files"
    )
    second_translator: str | None = option(
        "Second translator of the same CLIP into the generator's CLAP, hub id or folder, for users "
        "to compare with the first.",
        "TRANSLATOR",
        panel="Models",
    )
    votes: Path | None = option(
        "CSV file to append the votes on the two translators to; without one they end with the "
        "server.",
        "FILE",
        panel="Files",
    )
    decoder_translator: str | None = option(
        "Translator from the decoder's CLAP into its CLIP: hub id or folder. By default the "
        "decoder's own.",
        "NAME",
        panel="Models",
    )
