"""The verb `demo`."""

import json
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from clip2clap.cli.checks import check_image, require
from clip2clap.cli.inputs import image_stem
from clip2clap.cli.options.common import Json, Output, Seed
from clip2clap.cli.options.generation import DemoInput
from clip2clap.cli.outputs import make_folder
from clip2clap.cli.progress import plain_console
from clip2clap.core.presets import DEMO_FOLDER
from clip2clap.core.version import __version__

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from clip2clap.inference.image_to_audio import ImageToAudioOutput, ImageToAudioPipeline

_LABELS_SHOWN = 5
_LONGEST_SIDE = 1600
_FILES = {
    "photograph": "photograph.jpg",
    "sound": "sound.wav",
    "spectrogram": "spectrogram.png",
    "page": "index.html",
}


@dataclass(frozen=True, kw_only=True)
class DemoRun(Output, Seed, Json):
    """Output and seed of the demo."""


class Stopwatch:
    """Duration of each stage in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now


def demo(image: DemoInput, run: DemoRun) -> None:
    """Generate audio from one image with the demo models.

    Writes the image, the audio, its spectrogram, and a page that shows all three.
    """
    stopwatch = Stopwatch()
    check_image(image.image, "image")
    paths = _prepare_folder(run.output or Path("clip2clap-demo"))
    console = Console(stderr=True)
    with console.status("Loading the models"):
        loaded, title = load_demo_image(image.image)

        from clip2clap.inference.image_to_audio import ImageToAudioPipeline

        pipeline = ImageToAudioPipeline.from_pretrained("demo")
        pipeline.set_progress_bar_config(disable=True)
    stopwatch.lap("load")
    with console.status("Generating audio"):
        result = _generate(pipeline, loaded, run.seed, stopwatch)
        nearest = _nearest_labels(result.audio_embeds[0])
        _write_files(paths, loaded, title, result, nearest, run.seed)
    stopwatch.lap("write")

    if run.as_json:
        document = {
            "photograph": image.image or "skimage.data.chelsea",
            "files": {name: str(path) for name, path in paths.items()},
            "seed": run.seed,
            "nearest": [{"kind": label, "similarity": round(value, 4)} for label, value in nearest],
            "seconds": {stage: round(value, 3) for stage, value in stopwatch.seconds.items()},
        }
        typer.echo(json.dumps(document, indent=2))
        return
    out = plain_console()
    out.print(_table(nearest, stopwatch.seconds))
    out.print(f"Open {paths['page']} in a browser to see and hear it.", soft_wrap=True)
    shown = image.image or paths["photograph"]
    out.print(f"Next: clip2clap image-to-audio {shown} -o sounds", soft_wrap=True)


def _prepare_folder(folder: Path) -> dict[str, Path]:
    """Create the folder, and return the files in it.

    Raises:
        UserError: If it cannot be created, or has such files that are not from a demo.
    """
    from clip2clap.report.demo import is_demo_page

    paths = {name: folder / file for name, file in _FILES.items()}
    foreign = [path.name for path in paths.values() if path.exists()]
    require(
        not foreign or is_demo_page(paths["page"]),
        "output",
        f"{folder} already has {', '.join(foreign)}, not written by clip2clap demo. "
        "Name another folder.",
    )
    make_folder(folder)
    return paths


def load_demo_image(source: str | None) -> "tuple[Image, str]":
    """Return an image and its title; by default a cat."""
    from clip2clap.media.images import load_image

    if source is not None:
        return load_image(source), image_stem(source)
    # Reading through skimage.io would import scipy.
    chelsea = resources.files("skimage.data") / "chelsea.png"
    with resources.as_file(chelsea) as file:
        return load_image(file), "Chelsea the cat, photographed by Stéfan van der Walt (CC0)"


def _generate(
    pipeline: "ImageToAudioPipeline", image: "Image", seed: int, stopwatch: Stopwatch
) -> "ImageToAudioOutput":
    """Run the pipeline stage by stage, and time each."""
    import torch

    assert pipeline.clip is not None
    assert pipeline.translator is not None

    def on_step_end(*_: Any) -> dict[str, Any]:
        stopwatch.lap("denoise")
        return {}

    with torch.no_grad():
        image_embeds = pipeline.clip.encode_image([image])
        stopwatch.lap("encode")
        audio_embeds = pipeline.translator(image_embeds)
        stopwatch.lap("translate")
        result = pipeline(
            prompt_embeds=audio_embeds,
            generator=[torch.Generator().manual_seed(seed)],
            callback_on_step_end=on_step_end,
        )
    stopwatch.lap("decode")
    return result


def _nearest_labels(audio_embed: "Tensor") -> list[tuple[str, float]]:
    """Return the demo models' classes with the cosine similarities of their prompts.

    Args:
        audio_embed: Embedding in the demo CLAP's space, shape (d,), unit norm.
    """
    from safetensors.torch import load_file

    labels = json.loads((DEMO_FOLDER / "kinds.json").read_text(encoding="utf-8"))["kinds"]
    prompts = load_file(DEMO_FOLDER / "kinds.safetensors")["clap_text"].float()
    similarities = (prompts @ audio_embed.float()).tolist()
    return sorted(zip(labels, similarities, strict=True), key=lambda pair: pair[1], reverse=True)


def _write_files(
    paths: dict[str, Path],
    image: "Image",
    title: str,
    result: "ImageToAudioOutput",
    nearest: list[tuple[str, float]],
    seed: int,
) -> None:
    from clip2clap.core.files import replacing
    from clip2clap.media.audio import write_audio
    from clip2clap.media.spectrogram import write_spectrogram
    from clip2clap.report.demo import write_demo_page

    waveform: Any = result.audios[0]
    sampling_rate = result.sampling_rate
    shown = image.copy()
    shown.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    with replacing(paths["photograph"]) as partial:
        shown.save(partial, "JPEG", quality=95)
    write_audio(paths["sound"], waveform, sampling_rate)
    write_spectrogram(paths["spectrogram"], waveform, sampling_rate)
    write_demo_page(
        paths["page"],
        photograph=image,
        photograph_text=title,
        sound=paths["sound"],
        spectrogram=paths["spectrogram"],
        seconds=len(waveform) / sampling_rate,
        sampling_rate=sampling_rate,
        nearest=nearest[:_LABELS_SHOWN],
        seed=seed,
        version=__version__,
    )


def _table(nearest: list[tuple[str, float]], seconds: dict[str, float]) -> Table:
    """Return the nearest classes beside the seconds of each stage."""
    labels = Table("nearest class", "similarity", box=None, pad_edge=False)
    for label, similarity in nearest[:_LABELS_SHOWN]:
        labels.add_row(label, f"{similarity:.2f}")
    stages = Table("stage", "seconds", box=None, pad_edge=False)
    for stage, value in seconds.items():
        stages.add_row(stage, f"{value:6.2f}")
    stages.add_row("total", f"{sum(seconds.values()):6.2f}", style="bold")
    both = Table.grid(padding=(0, 6))
    both.add_row(labels, stages)
    return both
