"""`clip2clap paint`."""

import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from clip2clap.cli.audio_inputs import parse_mix
from clip2clap.cli.destination import choose_picture_destination
from clip2clap.cli.options import (
    Device,
    Json,
    Overwrite,
    Seed,
    check_counts,
    check_seed,
    choose_device,
    parse_size,
    require,
)
from clip2clap.cli.progress import RunReport, progress_bar

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.inference.painting.paint import Painted, PaintingOptions, Target
    from clip2clap.translator.base import Translator

# What a part of a sound counts beside the whole.
_PART_WEIGHT = 0.3
_SMALLEST_DEFAULT = 64
_USUAL_DEFAULT = 256


@dataclass
class Painter:
    """The models that paint."""

    canvas: "Canvas"
    """What is painted on."""

    clip: "ClipEncoder"
    """What looks at it."""

    clap: "ClapEncoder | None"
    """What hears, if there are sounds."""

    translator: "Translator | None"
    """From what is heard to what is seen, if there are sounds."""

    @property
    def usual_size(self) -> tuple[int, int]:
        """Width and height of the pictures that the autoencoder was trained on, in pixels."""
        side = self.canvas.autoencoder.config["sample_size"]
        # The published VQModels say nothing: what stands there is the size of their latents.
        side = side if side >= _SMALLEST_DEFAULT else _USUAL_DEFAULT
        return side, side

    def hear(self, source: str, weight: float, parts: int) -> "list[Target]":
        """Make targets of a sound: the whole, and its parts with less weight.

        Raises:
            UserError: If it can't be read, or is silent.
        """
        from clip2clap.inference.painting.paint import Target, break_sound
        from clip2clap.media.audio import is_silent, load_audio, require_audible

        assert self.clap is not None
        assert self.translator is not None
        waveform, rate = load_audio(source)
        require_audible(waveform, source)
        pieces = {source: waveform}
        if parts > 1:
            cut = enumerate(break_sound(waveform, parts), 1)
            pieces |= {f"{source} ({number}/{parts})": piece for number, piece in cut}
        audible = {name: piece for name, piece in pieces.items() if not is_silent(piece)}
        heard = self.clap.encode_audio([(piece, rate) for piece in audible.values()])
        vectors = self.translator(heard.to(self.clip.device)).detach().float().cpu()
        weights = [weight, *[weight * _PART_WEIGHT] * (len(audible) - 1)]
        return [
            Target(vector, each, name)
            for vector, each, name in zip(vectors, weights, audible, strict=True)
        ]


@dataclass
class Report(RunReport):
    """What a run did."""

    pictures: list[dict[str, Any]] = field(default_factory=list)
    """For each picture its file, what it was painted from, and its scores."""


def paint(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A folder; for a single picture also a .png file.",
            rich_help_panel="Files",
        ),
    ],
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SOUND]...",
            help="Recordings and videos, files or folders: a picture is painted of each. May be "
            "left out beside --text, --image or --sound.",
        ),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORDS:W",
            help="Words to paint towards too, with a weight; below 0, away from.",
            rich_help_panel="Further targets",
        ),
    ] = None,
    sound: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE:W",
            help="A sound to paint towards too, with a weight.",
            rich_help_panel="Further targets",
        ),
    ] = None,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE:W",
            help="A picture to paint towards too, with a weight.",
            rich_help_panel="Further targets",
        ),
    ] = None,
    break_audio: Annotated[
        int,
        typer.Option(
            metavar="N",
            help=f"Cut each sound in N parts, which count {_PART_WEIGHT} each beside the whole; "
            "1 leaves it whole.",
            rich_help_panel="Further targets",
        ),
    ] = 2,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="PICTURE", help="Start from it, not from noise.", rich_help_panel="Painting"
        ),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="WxH",
            help="Of the picture in pixels, such as 256 or 384x256.",
            rich_help_panel="Painting",
        ),
    ] = None,
    iterations: Annotated[
        int, typer.Option(metavar="N", help="Steps to take.", rich_help_panel="Painting")
    ] = 150,
    step_size: Annotated[
        float,
        typer.Option(metavar="X", help="How far a step goes.", rich_help_panel="Painting"),
    ] = 0.1,
    cutouts: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Random cut-outs that CLIP sees in a step.",
            rich_help_panel="Painting",
        ),
    ] = 8,
    cut_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Side of a cut-out in pixels, where the CLIP takes any: smaller is faster.",
            rich_help_panel="Painting",
        ),
    ] = None,
    augment: Annotated[
        bool,
        typer.Option(help="Mirror, turn, shear and tint the cut-outs.", rich_help_panel="Painting"),
    ] = True,
    total_variation: Annotated[
        float,
        typer.Option(metavar="W", help="More paints smoother.", rich_help_panel="Painting"),
    ] = 1.0,
    codebook: Annotated[
        float,
        typer.Option(
            metavar="W",
            help="More stays nearer to what the autoencoder knows.",
            rich_help_panel="Painting",
        ),
    ] = 0.0,
    seed: Seed = 0,
    save_every: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Write the picture as it is, every N steps; 0 only at the end.",
            rich_help_panel="Files",
        ),
    ] = 25,
    overwrite: Overwrite = False,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="An audio-to-image model, whose parts are used: demo, a preset, a hub id or a "
            "folder.",
            rich_help_panel="Models",
        ),
    ] = "demo",
    autoencoder: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What to paint on: a pipeline with a VQModel, an AutoencoderKL or a "
            "PatchAutoencoder, or a folder of one; by default the model's.",
            rich_help_panel="Models",
        ),
    ] = None,
    clip: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The CLIP that looks: a preset, a hub id or a folder; by default the model's.",
            rich_help_panel="Models",
        ),
    ] = None,
    clap: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The CLAP that hears; by default the model's.",
            rich_help_panel="Models",
        ),
    ] = None,
    translator: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="From that CLAP to that CLIP; by default the model's.",
            rich_help_panel="Models",
        ),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Paint a picture towards a sound, step by step, as CLIP sees it.

    No picture decoder is asked: the latent of an autoencoder is optimised until random cut-outs
    of the picture lie near the sound's translated vector, and near the further targets.

    Beside each picture NAME.png its scores are written to NAME.json: its cosine similarity to
    every target, and BRISQUE if the extra is installed.

    Ctrl-C keeps the best picture so far; --init goes on from it.
    """
    given = list(inputs or [])
    words = parse_mix(text or [], "--text", "WORDS:WEIGHT such as 'a red dog:0.5'")
    sounds = parse_mix(sound or [], "--sound")
    pictures = parse_mix(image or [], "--image", "FILE:WEIGHT such as dog.jpg:0.5")
    require(
        bool(given) or any(weight > 0 for _, weight in words + sounds + pictures),
        "SOUND",
        "there is nothing to paint towards. Give a sound, or --text, --image or --sound.",
    )
    check_counts(break_audio=break_audio)
    require(save_every >= 0, "--save-every", f"expected 0 or more, got {save_every}.")
    require(init is None or init.is_file(), "--init", f"{init} is no file.")
    check_seed(seed)
    shape = None if size is None else parse_size(size)
    torch_device = choose_device(device)

    import torch

    from clip2clap.core.errors import UserError
    from clip2clap.inference.painting.paint import PaintingOptions, Target, default_cut_size
    from clip2clap.media.audio import find_audio

    options = PaintingOptions(
        iterations=iterations,
        step_size=step_size,
        cutouts=cutouts,
        cut_size=cut_size,
        augment=augment,
        total_variation=total_variation,
        codebook=codebook,
    )
    sources: list[str | None] = [*find_audio(given)] if given else [None]
    destination = choose_picture_destination(
        output, count=len(sources), format=None, overwrite=overwrite, grid=False
    )
    console = Console(stderr=True)
    start = time.perf_counter()
    with console.status("Loading the models"):
        painter = load_painter(
            model,
            autoencoder=autoencoder,
            clip=clip,
            clap=clap,
            translator=translator,
            hears=bool(given or sounds),
            device=torch_device,
        )
        common = [
            *(Target(painter.clip.encode_text([each])[0], weight, each) for each, weight in words),
            *(
                Target(painter.clip.encode_image([path])[0], weight, path)
                for path, weight in pictures
            ),
        ]
        for path, weight in sounds:
            common += painter.hear(path, weight, break_audio)
    loaded = time.perf_counter()
    options = replace(options, cut_size=cut_size or default_cut_size(painter.clip))
    width, height = shape or painter.usual_size
    multiple = painter.canvas.multiple
    require(
        not width % multiple and not height % multiple,
        "--size",
        f"this autoencoder paints multiples of {multiple} pixels, not {width} x {height}.",
    )
    report = Report(
        {
            "model": model,
            "autoencoder": autoencoder,
            "clip": clip,
            "clap": clap,
            "translator": translator,
            "init": None if init is None else str(init),
            "width": width,
            "height": height,
            "seed": seed,
            "break_audio": break_audio,
            "device": str(torch_device),
            **asdict(options),
        },
    )
    for index, source in enumerate(sources):
        try:
            own = [] if source is None else painter.hear(source, 1.0, break_audio)
            generator = torch.Generator().manual_seed(seed + index)
            if init is None:
                latent = painter.canvas.noise(height, width, generator)
            else:
                latent = painter.canvas.latent_of(init, height, width)
        except UserError as error:
            report.skip(source, error)
            continue
        name = "painting" if source is None else Path(source).stem
        stem = destination.reserve(name, [f".{destination.format}", ".json"])
        path = destination.folder / f"{stem}.{destination.format}"
        targets = [*own, *common]
        painted, report.interrupted = _paint(
            painter, targets, latent, options, generator, path, save_every, console
        )
        entry = _scores(painted, targets, source=source, seed=seed + index, path=path)
        report.pictures.append(entry)
        if not as_json:
            typer.echo(str(path))
        if report.interrupted:
            break
    report.seconds = {
        "load": round(loaded - start, 3),
        "paint": round(time.perf_counter() - loaded, 3),
    }
    report.end(as_json=as_json)


def load_painter(
    model: str,
    *,
    autoencoder: str | None,
    clip: str | None,
    clap: str | None,
    translator: str | None,
    hears: bool,
    device: "torch.device",
) -> Painter:
    """Load what paints; of an audio-to-image model only the parts that are not named apart.

    Raises:
        OptionError: If a part is neither named nor in the model.
        UserError: If a part cannot be had, or two were not made for one another.
    """
    from clip2clap.core.presets import resolve
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.loading.generator import fetch_folder, read_index
    from clip2clap.inference.painting.canvas import Canvas
    from clip2clap.translator.auto import AutoTranslator

    names = {"autoencoder": autoencoder, "clip": clip}
    names |= {"clap": clap, "translator": translator} if hears else {}
    if None in names.values():
        wanted = [part for part, name in names.items() if name is None and part != "autoencoder"]
        folder = fetch_folder(resolve(model, "decoder"), wanted, kind="decoder")
        index = read_index(folder, expected="AudioToImagePipeline.save_pretrained")
        names["autoencoder"] = autoencoder or resolve(model, "decoder")
        for part in wanted:
            saved = (index.get(part) or [None])[0] is not None
            names[part] = str(folder / part) if saved else index.get(f"{part}_id")
            require(
                names[part] is not None,
                f"--{part}",
                f"{model} brings none of its own. Name one.",
            )
    painter = Painter(
        canvas=Canvas.from_pretrained(str(names["autoencoder"]), device=device),
        clip=ClipEncoder.from_pretrained(str(names["clip"]), device=device),
        clap=(
            ClapEncoder.from_pretrained(str(names["clap"]), device=device, modalities=["audio"])
            if hears
            else None
        ),
        translator=(
            AutoTranslator.from_pretrained(str(names["translator"])).to(device) if hears else None
        ),
    )
    if painter.translator is not None and painter.clap is not None:
        painter.translator.check_source(painter.clap.space("audio"))
        painter.translator.check_target(painter.clip.space("image"))
    return painter


def _paint(
    painter: Painter,
    targets: "list[Target]",
    latent: "torch.Tensor",
    options: "PaintingOptions",
    generator: "torch.Generator",
    path: Path,
    save_every: int,
    console: Console,
) -> "tuple[Painted, bool]":
    """Paint one picture and write it; gives the best, and whether Ctrl-C ended it."""
    from clip2clap.inference.painting.canvas import to_image
    from clip2clap.inference.painting.paint import Painting, paint
    from clip2clap.media.image_writer import write_image

    started: list[Painting] = []
    interrupted = False
    with progress_bar(console, "{task.description}") as progress:
        task = progress.add_task("Painting", total=options.iterations)

        def go_on(painting: Painting, loss: float) -> None:
            started[:] = [painting]
            progress.update(
                task, completed=painting.iteration, description=f"Painting, loss {loss:.3f}"
            )
            if save_every and painting.iteration % save_every == 0:
                write_image(path, to_image(painter.canvas.pixels(painting.latent)))

        try:
            best = paint(
                painter.canvas,
                painter.clip,
                targets,
                latent=latent,
                options=options,
                generator=generator,
                on_step=go_on,
            )
        except KeyboardInterrupt:
            if not started:
                raise
            interrupted = True
            best = started[0].best
            assert best is not None
    write_image(path, best.image)
    return best, interrupted


def _scores(
    painted: "Painted", targets: "list[Target]", *, source: str | None, seed: int, path: Path
) -> dict[str, Any]:
    """Score a picture, and write the scores beside it."""
    from clip2clap.core.files import replacing

    scores = {
        "input": source,
        "output": str(path),
        "seed": seed,
        "iteration": painted.iteration,
        "loss": round(painted.loss, 4),
        "similarities": [
            {"target": target.name, "weight": target.weight, "similarity": round(value, 4)}
            for target, value in zip(targets, painted.similarities, strict=True)
        ],
        **_brisque(painted.image),
    }
    with replacing(path.with_suffix(".json")) as partial:
        partial.write_text(json.dumps(scores, indent=2) + "\n", encoding="utf-8")
    return scores


def _brisque(image: "Image") -> dict[str, Any]:
    from clip2clap.core.errors import MissingExtraError
    from clip2clap.metrics.image_quality import brisque

    try:
        score = brisque(image)
    except MissingExtraError as error:
        return {"brisque": None, "brisque_missing": str(error)}
    return {"brisque": None if score is None else round(score, 2)}
