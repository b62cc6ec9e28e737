"""`clip2clap demo`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from clip2clap.cli.image_inputs import stem_of
from clip2clap.cli.options import Json, OptionError, Seed, check_seed, require
from clip2clap.core.presets import DEMO_FOLDER
from clip2clap.core.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_SHOWN_KINDS = 5
_LONGEST_SIDE = 1600
_FILES = {
    "photograph": "photograph.jpg",
    "sound": "sound.wav",
    "spectrogram": "spectrogram.png",
    "page": "index.html",
}


class Stopwatch:
    """Adds up how long each stage takes, in s."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Count the time since the last lap to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def demo(
    photo: Annotated[
        str | None,
        typer.Argument(metavar="PHOTO", help="A file or URL; by default a cat named Chelsea."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the files are written.")
    ] = Path("clip2clap-demo"),
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Turn one photograph into sound with the demo models.

    Writes the photograph, the sound, its spectrogram, and a page that shows all three.
    """
    stopwatch = Stopwatch()
    check_seed(seed)
    console = Console(stderr=True)
    with console.status("Loading the models"):
        paths = prepare_folder(output)
        picture, title = load_photograph(photo)

        import torch

        from clip2clap.inference.image_to_audio import ImageToAudioOutput, ImageToAudioPipeline

        pipeline = ImageToAudioPipeline.from_pretrained("demo")
        pipeline.set_progress_bar_config(disable=True)
    stopwatch.lap("load")

    def count_denoising(*_: Any) -> dict[str, Any]:
        stopwatch.lap("denoise")
        return {}

    with console.status("Making the sound"), torch.no_grad():
        assert pipeline.clip is not None
        assert pipeline.translator is not None
        image_embeds = pipeline.clip.encode_image([picture])
        stopwatch.lap("encode")
        audio_embeds = pipeline.translator(image_embeds)
        stopwatch.lap("translate")
        result = pipeline(
            prompt_embeds=audio_embeds,
            generator=[torch.Generator().manual_seed(seed)],
            callback_on_step_end=count_denoising,
        )
        assert isinstance(result, ImageToAudioOutput)
        stopwatch.lap("decode")
        nearest = nearest_labels(audio_embeds[0])
        waveform = result.audios[0]
        _write_files(
            paths, picture, title, waveform, result.sampling_rate, nearest=nearest, seed=seed
        )
    stopwatch.lap("write")

    if as_json:
        document = {
            "photograph": photo or "skimage.data.chelsea",
            "files": {what: str(path) for what, path in paths.items()},
            "seed": seed,
            "nearest": [{"kind": kind, "similarity": round(value, 4)} for kind, value in nearest],
            "seconds": {stage: round(value, 3) for stage, value in stopwatch.seconds.items()},
        }
        typer.echo(json.dumps(document, indent=2))
        return
    out = Console(highlight=False, markup=False)
    out.print(_table(nearest, stopwatch.seconds))
    out.print(f"Open {paths['page']} in a browser to see and hear it.", soft_wrap=True)
    out.print(
        f"Next: clip2clap image-to-audio {photo or paths['photograph']} -o sounds", soft_wrap=True
    )


def prepare_folder(folder: Path) -> dict[str, Path]:
    """Make the folder, and name the files in it.

    Raises:
        OptionError: If it cannot be made, or holds files of these names that are not from
            an earlier demo.
    """
    from clip2clap.report.demo import is_demo_page

    paths = {what: folder / name for what, name in _FILES.items()}
    foreign = [path.name for path in paths.values() if path.exists()]
    require(
        not foreign or is_demo_page(paths["page"]),
        "--output",
        f"{folder} already has {', '.join(foreign)}, not written by clip2clap demo. "
        "Name another folder.",
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(f"--output: {folder} cannot be made: {error.strerror}.") from error
    return paths


def load_photograph(source: str | None) -> "tuple[Image, str]":
    """Read the photograph a user named, or the cat; give it with what to call it."""
    from clip2clap.media.images import load_image

    if source is not None:
        return load_image(source), stem_of(source)
    from PIL import Image
    from skimage.data import chelsea

    return Image.fromarray(chelsea()), "Chelsea the cat, photographed by Stéfan van der Walt (CC0)"


def nearest_labels(audio_embed: "Tensor") -> list[tuple[str, float]]:
    """Compare a vector with the prompts of the kinds that the demo models know.

    Args:
        audio_embed: A vector in the demo CLAP's space, shape (d,), unit norm.

    Returns:
        The kinds with their cosine similarities, the nearest first.
    """
    from safetensors.torch import load_file

    kinds = json.loads((DEMO_FOLDER / "kinds.json").read_text(encoding="utf-8"))["kinds"]
    prompts = load_file(DEMO_FOLDER / "kinds.safetensors")["clap_text"].float()
    similarities = (prompts @ audio_embed.float()).tolist()
    return sorted(zip(kinds, similarities, strict=True), key=lambda pair: pair[1], reverse=True)


def _write_files(
    paths: dict[str, Path],
    picture: "Image",
    title: str,
    waveform: Any,
    sampling_rate: int,
    *,
    nearest: list[tuple[str, float]],
    seed: int,
) -> None:
    from clip2clap.core.files import replacing
    from clip2clap.media.audio_writer import write_audio
    from clip2clap.media.spectrogram import write_spectrogram
    from clip2clap.report.demo import write_demo_page

    shown = picture.copy()
    shown.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    with replacing(paths["photograph"]) as partial:
        shown.save(partial, "JPEG", quality=95)
    write_audio(paths["sound"], waveform, sampling_rate)
    write_spectrogram(paths["spectrogram"], waveform, sampling_rate)
    write_demo_page(
        paths["page"],
        photograph=picture,
        photograph_text=title,
        sound=paths["sound"],
        spectrogram=paths["spectrogram"],
        seconds=len(waveform) / sampling_rate,
        sampling_rate=sampling_rate,
        nearest=nearest[:_SHOWN_KINDS],
        seed=seed,
        version=__version__,
    )


def _table(nearest: list[tuple[str, float]], seconds: dict[str, float]) -> Table:
    """Lay the nearest kinds and the seconds of each stage side by side."""
    kinds = Table("nearest kind", "similarity", box=None, pad_edge=False)
    for kind, similarity in nearest[:_SHOWN_KINDS]:
        kinds.add_row(kind, f"{similarity:.2f}")
    stages = Table("stage", "seconds", box=None, pad_edge=False)
    for stage, value in seconds.items():
        stages.add_row(stage, f"{value:6.2f}")
    stages.add_row("in all", f"{sum(seconds.values()):6.2f}", style="bold")
    both = Table.grid(padding=(0, 6))
    both.add_row(kinds, stages)
    return both
