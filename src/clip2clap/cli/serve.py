"""The verb `serve`."""

import contextlib
import shlex
import socket
import threading
import webbrowser
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from clip2clap.cli.checks import (
    check_device,
    check_exists,
    check_index,
    check_translator,
    choose_device,
    require,
)
from clip2clap.cli.loading import check_models, load_pipeline
from clip2clap.cli.options.web import Serve
from clip2clap.core.errors import MissingExtraError, UserError
from clip2clap.core.presets import resolve
from clip2clap.web.server import create_server
from clip2clap.web.votes import Votes

_DEMO_CAPTIONERS = ("demo", "demo-clap")


def serve(options: Serve) -> None:
    """Serve the pages that generate in a browser, and the same for programs.

    The models are loaded once. Uploads and results are kept for an hour and removed at the end;
    no page, and no address that a user names, reaches this machine's network.
    """
    check_models(options)
    check_translator(options.decoder_translator, "decoder_translator")
    votes = _check_contest(options)
    if options.index is not None:
        check_index(options.index)
    check_device(options.device, None)
    if find_spec("gradio") is None:
        raise MissingExtraError('serve needs gradio. Install it: pip install "clip2clap[web]".')
    listening = _listen(options.host, options.port)
    with Console(stderr=True).status("Loading the models"):
        models = _load(options)
        app = _create(models, options, votes)
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
    names |= {"speech_encoder": options.speech_encoder}
    names |= {"captioner": shlex.join(options.captioner or ()) or None}
    clip = ClipEncoder.from_pretrained(options.clip or "demo", device=device)
    clap = ClapEncoder.from_pretrained(options.clap or "demo", device=device)
    models = Models(
        load_pipeline("generator", options.generator or "demo", **loaded, **parts),
        load_pipeline("decoder", options.decoder, **loaded, translator=options.decoder_translator),
        clip=clip,
        clap=clap,
        canvas=Canvas.from_pretrained(options.decoder, device=device),
        captioner=_captioner(options.captioner, {"clip": clip, "clap": clap}, device),
        speech=_speech(options.speech_encoder, clip, device),
        names={name: value for name, value in names.items() if value not in (None, "demo")},
    )
    if options.index is None:
        return models
    return _with_index(models, options.index, device, longest_s=options.max_audio_s)


def _speech(name: str | None, clip: Any, device: Any) -> Any:
    """Return the speech encoder of a name, or the demo's if it is there and reads for the CLIP."""
    from clip2clap.embeddings.encoders.speech import SpeechEncoder

    if name is None and not Path(resolve("demo", "speech_encoder")).is_dir():
        return None
    encoder, space = (
        SpeechEncoder.from_pretrained(name or "demo", device=device),
        clip.space("image"),
    )
    if name is None and not encoder.space("audio").same_model_as(space):
        return None
    encoder.check_clip(space)
    return encoder


def _captioner(names: list[str] | None, encoders: dict[str, Any], device: Any) -> Any:
    """Return the captioner of some names, or of those demo captioners that read the encoders."""
    from clip2clap.captioning.captioner import Captioner
    from clip2clap.search.caption import FileCaptioner

    found = [Captioner.from_pretrained(each).to(device) for each in names or _DEMO_CAPTIONERS]
    if not names:
        known = [each.space(each.modalities[0]) for each in encoders.values()]
        found = [each for each in found if any(_reads(each, space) for space in known)]
    if not found:
        return None
    families = {"clip" if each.space is None else each.space.family for each in found}
    used = {family: each for family, each in encoders.items() if family in families}
    return FileCaptioner(found, **used)


def _reads(captioner: Any, space: Any) -> bool:
    return captioner.space is not None and captioner.space.same_model_as(space)


def _with_index(models: Any, folder: Path, device: Any, *, longest_s: float) -> Any:
    """Return the models with an index, which shares those that it was made with."""
    from clip2clap.search.index import Index

    index = Index(folder, device=device, longest_s=longest_s)
    require(len(index), "index", f"{folder} has no entries. Index some files first.")
    pipelines = (models.image_to_audio, models.audio_to_image)
    index.share(
        (models.clip, models.clap), [each.translator for each in pipelines if each.translator]
    )
    return replace(models, index=index, names={**models.names, "index": str(folder)})


def _check_contest(options: Serve) -> Votes:
    """Return the votes of a server, which are read before models are loaded."""
    check_translator(options.second_translator, "second_translator")
    if options.votes is None:
        return Votes()
    require(
        options.second_translator,
        "votes",
        "there is nothing to vote on. Name a translator to compare.",
    )
    check_exists(options.votes.absolute().parent, "votes")
    return Votes(options.votes)


def _contest(models: Any, options: Serve, votes: Votes) -> Any:
    """Return the contest of the generator's translator and another, in a pipeline that shares."""
    from clip2clap.embeddings.space import SpaceMismatchError
    from clip2clap.translator.auto import AutoTranslator
    from clip2clap.web.comparing import Contest, Contestant

    if options.second_translator is None:
        return None
    pipeline = models.image_to_audio
    translator = AutoTranslator.from_pretrained(options.second_translator).to(pipeline.device)
    try:
        other = type(pipeline).from_pipe(pipeline, translator=translator)
    except SpaceMismatchError as error:
        raise UserError(str(error), param="second_translator") from error
    other.set_progress_bar_config(disable=True)
    pair = (
        Contestant.of(options.translator, pipeline),
        Contestant.of(options.second_translator, other),
    )
    differ = pair[0].fingerprint != pair[1].fingerprint
    require(
        differ,
        "second_translator",
        f"{options.second_translator} is the translator that it is compared with.",
    )
    return Contest(*pair, votes)


def _create(models: Any, options: Serve, votes: Votes) -> Any:
    from clip2clap.web.app import create_app
    from clip2clap.web.limits import Limits
    from clip2clap.web.models import Service

    limits = Limits(
        max_users=options.max_users,
        workers=options.workers,
        upload_bytes=1_000_000 * options.max_upload_mb,
        input_s=options.max_audio_s,
    )
    return create_app(Service(models, limits, _contest(models, options, votes)))
