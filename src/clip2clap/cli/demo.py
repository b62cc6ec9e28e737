"""The verb `demo`."""

import json
import shlex
from importlib import resources
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clip2clap.cli.checks import check_image, require
from clip2clap.cli.inputs import image_stem, load_named_image
from clip2clap.cli.options.generation import Demo
from clip2clap.cli.outputs import make_folder
from clip2clap.cli.progress import RunReport, share_bar
from clip2clap.core.presets import DEMO_FOLDER

_LABELS_SHOWN = 5
_LONGEST_SIDE = 1600
# The rest of the time is for decoding.
_STEPS_SHARE = 0.5
_FILES = {
    "image": "photograph.jpg",
    "audio": "sound.wav",
    "spectrogram": "spectrogram.png",
    "page": "index.html",
}


def demo(options: Demo) -> None:
    """Generate audio from one image with the demo models.

    Writes the image, the audio, its spectrogram, and a page that shows all three.
    """
    check_image(options.image, "image")
    paths = _prepare_folder(options.output or Path("clip2clap-demo"))
    report = RunReport(options)
    with Console(stderr=True).status("Loading the models"):
        import torch

        from clip2clap.inference.image_to_audio import ImageToAudioPipeline

        image, title = load_demo_image(options.image, options.allow_private)
        pipeline = ImageToAudioPipeline.from_pretrained("demo")
        pipeline.set_progress_bar_config(disable=True)
    report.lap("load")
    with share_bar("Generating audio") as advance:

        def on_step_end(_: Any, step: int, *__: Any) -> dict[str, Any]:
            report.lap("denoise")
            advance(_STEPS_SHARE * (step + 1) / pipeline.num_timesteps)
            return {}

        generator = [torch.Generator().manual_seed(options.seed)]
        result = pipeline(image, generator=generator, callback_on_step_end=on_step_end)
        report.lap("decode")
    nearest = _nearest_labels(result.audio_embeds)
    _write_files(paths, image, title, result, nearest, options.seed)
    report.lap("write")

    report.settings["image"] = options.image or "skimage.data.chelsea"
    shown = shlex.quote(options.image or str(paths["image"]))
    report.show(
        _table(nearest, report.seconds),
        f"Open {paths['page']} in a browser to see and hear it.",
        f"Next: clip2clap image-to-audio {shown} -o audio",
    )
    labels = [{"label": label, "similarity": round(value, 4)} for label, value in nearest]
    report.end({**{name: str(path) for name, path in paths.items()}, "nearest": labels})


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


def load_demo_image(source: str | None, allow_private: bool = False) -> tuple[Any, str]:
    """Return an image and its title; by default a cat."""
    if source is not None:
        return load_named_image(source, allow_private=allow_private), image_stem(source)
    # Reading through skimage.io would import scipy.
    chelsea = resources.files("skimage.data") / "chelsea.png"
    with resources.as_file(chelsea) as file:
        return load_named_image(
            str(file)
        ), "Chelsea the cat, photographed by Stéfan van der Walt (CC0)"


def _nearest_labels(audio_embeds: Any) -> list[tuple[str, float]]:
    """Return the demo models' classes with the cosine similarities of their prompts.

    Args:
        audio_embeds: Embedding in the demo CLAP's space, shape (1, d).
    """
    from safetensors.torch import load_file

    from clip2clap.metrics.classification import nearest_labels

    labels = json.loads((DEMO_FOLDER / "kinds.json").read_text(encoding="utf-8"))["kinds"]
    prompts = load_file(DEMO_FOLDER / "kinds.safetensors")["clap_text"].float()
    return nearest_labels(audio_embeds.float(), prompts, labels)[0]


def _write_files(
    paths: dict[str, Path],
    image: Any,
    title: str,
    result: Any,
    nearest: list[tuple[str, float]],
    seed: int,
) -> None:
    from clip2clap.media.images import write_image
    from clip2clap.media.spectrogram import write_spectrogram
    from clip2clap.media.writing import write_audio
    from clip2clap.report.demo import write_demo_page, write_unfinished_page

    waveform, sampling_rate = result.audios[0], result.sampling_rate
    shown = image.copy()
    shown.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    write_unfinished_page(paths["page"])
    write_image(paths["image"], shown)
    write_audio(paths["audio"], waveform, sampling_rate)
    write_spectrogram(paths["spectrogram"], waveform, sampling_rate)
    write_demo_page(
        paths,
        image=image,
        title=title,
        seconds=len(waveform) / sampling_rate,
        sampling_rate=sampling_rate,
        nearest=nearest[:_LABELS_SHOWN],
        seed=seed,
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
