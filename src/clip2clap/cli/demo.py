"""The verb `demo`."""

import hashlib
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from clip2clap.cli.checks import check_image, require
from clip2clap.cli.generate import Bar
from clip2clap.cli.options.generation import Demo
from clip2clap.cli.outputs import keep_others_out
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.presets import DEMO_FOLDER, resolve
from clip2clap.inference.batch.jobs import image_stem
from clip2clap.search.labels import read_labels

_LABELS_SHOWN = 5
_LONGEST_SIDE = 1600
_LONGEST_SIDE_ON_PAGE = 960
_FILES = {"image": "photograph.jpg", "spectrogram": "spectrogram.png", "page": "index.html"}
_AUDIO_FILES = ("sound.wav", "sound-2.wav", "sound-3.wav", "sound-4.wav")
_INTRO = """\
<p>CLIP encoded the image as a vector, and a small network translated that vector into the space of
CLAP, which embeds audio and text. A diffusion model generated each audio below from it, in place of
a text prompt. The most similar to the vector comes first.</p>
"""


def demo(options: Demo) -> None:
    """Generate audio from one image with the demo models.

    Writes the image, four audio files, the best first, and a page to see and hear them.
    """
    check_image(options.image, "image")
    folder = options.output or Path("clip2clap-demo")
    _prepare_folder(folder)
    report = RunReport(options)
    with Console(stderr=True).status("Encoding the image"):
        image, title, source = load_demo_image(options.image, options.allow_private)
        encoders, embeds = _encode(image)
        nearest = _nearest_labels(embeds)
    report.lap("encode")
    report.show(_label_table(nearest))
    with Console(stderr=True).status("Loading the generator"):
        from clip2clap.inference.image_to_audio import ImageToAudioPipeline

        pipeline = ImageToAudioPipeline.from_pretrained("demo", **encoders)
        pipeline.set_progress_bar_config(disable=True)
    report.lap("load")
    result = _generate(pipeline, image, options.seed, report)
    assert result.similarities is not None
    seconds = len(result.audios[0]) / result.sampling_rate
    entry = {
        "input": title,
        "seed": options.seed,
        "heard_as": nearest[:_LABELS_SHOWN],
        "outputs": [
            {"path": path, "similarity": round(similarity, 4), "seconds": seconds}
            for path, similarity in zip(
                _AUDIO_FILES, result.similarities[0].sort(descending=True)[0].tolist(), strict=True
            )
        ],
    }
    _write_files(folder, image, result, entry, *_describe(pipeline, source, options.seed))
    report.lap("write")

    report.settings["image"] = options.image or "skimage.data.chelsea"
    shown = shlex.quote(options.image or str(folder / _FILES["image"]))
    report.show(
        _stage_table(report.seconds),
        f"Open {folder / _FILES['page']} in a browser to see and hear it.",
        f"Next: clip2clap image-to-audio {shown} -o audio",
    )
    files = {name: str(folder / file) for name, file in _FILES.items()}
    audio = [{**output, "path": str(folder / output["path"])} for output in entry["outputs"]]
    report.end({**files, "audio": audio[0]["path"], "candidates": audio, "nearest": nearest})


def _prepare_folder(folder: Path) -> None:
    """Create the folder.

    Raises:
        UserError: If it cannot be created, or has such files that are not from a demo.
    """
    from clip2clap.report.audio_page import is_page

    foreign = [name for name in (*_FILES.values(), *_AUDIO_FILES) if (folder / name).exists()]
    require(
        not foreign or is_page(folder / _FILES["page"], "demo"),
        "output",
        f"{folder} already has {', '.join(foreign)}, not written by clip2clap demo. "
        "Name another folder.",
    )
    keep_others_out(folder)


def load_demo_image(
    source: str | None, allow_private: bool = False
) -> tuple[Any, str, dict[str, str]]:
    """Return an image, by default a cat, with its title, and its name and SHA-256 for tags."""
    from clip2clap.inference.batch.tags import SAMPLE_IMAGE, read_image
    from clip2clap.media.images import load_image

    title = "Chelsea the cat, photographed by Stéfan van der Walt (CC0)"
    title, name = (title, SAMPLE_IMAGE) if source is None else (image_stem(source), source)
    content = read_image(name, allow_private=allow_private)
    facts = {"input": name, "sha256": hashlib.sha256(content).hexdigest()}
    return load_image(content, name=name), title, facts


def _generate(pipeline: Any, image: Any, seed: int, report: RunReport) -> Any:
    """Generate all candidates, the most similar first."""
    import torch

    with progress_bar("Generating audio") as progress:
        bar = Bar(progress, total=1)

        def on_step_end(*arguments: Any) -> dict[str, Any]:
            report.lap("denoise")
            return bar.count_step(*arguments)

        result = pipeline(
            image,
            generator=[torch.Generator().manual_seed(seed)],
            num_candidates=len(_AUDIO_FILES),
            num_variations=len(_AUDIO_FILES),
            callback_on_step_end=on_step_end,
        )
        report.lap("decode")
    return result


def _describe(
    pipeline: Any, source: dict[str, str], seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what the audio is made from, for the tags that `repeat` reads."""
    from clip2clap.inference.batch.description import describe, fill_call
    from clip2clap.inference.batch.options import BatchOptions
    from clip2clap.inference.batch.repeat import describe_run
    from clip2clap.media.writing import AudioFileOptions

    count = len(_AUDIO_FILES)
    options = BatchOptions(num_variations=count, file=AudioFileOptions("wav"))
    call = fill_call(pipeline, {"num_candidates": count}, options)
    run = describe_run(pipeline, items=1, place=0, batch_size=count)
    run["names"] = {"generator": "demo"}  # the CLIP and the translator are its own
    return describe(pipeline, call, options) | {**source, "seed": seed}, run


def _encode(image: Any) -> tuple[dict[str, Any], Any]:
    """Return the generator's CLIP and translator, and the image's embedding, shape (1, d).

    They load several times faster than the generator does.
    """
    import torch

    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.translator.auto import AutoTranslator

    folder = Path(resolve("demo", "generator"))
    clip = ClipEncoder.from_pretrained(str(folder / "clip"), modalities=("image",))
    translator = AutoTranslator.from_pretrained(folder / "translator")
    with torch.no_grad():
        embeds = translator(clip.encode_image([image]))
    return {"clip": clip, "translator": translator}, embeds


def _nearest_labels(audio_embeds: Any) -> list[dict[str, Any]]:
    """Return the demo generator's classes with similarities and probabilities, the nearest first.

    Args:
        audio_embeds: Embedding in the demo CLAP's space, shape (1, d).
    """
    from safetensors.torch import load_file

    from clip2clap.metrics.classification import describe_labels, nearest_labels

    stored, labels = load_file(DEMO_FOLDER / "kinds.safetensors"), read_labels("demo-audio")
    (nearest,) = nearest_labels(audio_embeds, stored["clap_text"].float(), labels)
    return describe_labels(nearest, stored["logit_scale"].item())


def _write_files(
    folder: Path,
    image: Any,
    result: Any,
    entry: dict[str, Any],
    facts: dict[str, Any],
    run: dict[str, Any],
) -> None:
    from clip2clap.inference.batch.tags import make_tags
    from clip2clap.media.images import write_image
    from clip2clap.media.spectrogram import write_spectrogram
    from clip2clap.media.writing import write_audio
    from clip2clap.report.audio_page import AudioPage

    page = AudioPage(
        folder / _FILES["page"],
        title="From image to audio",
        verb="demo",
        intro=_INTRO,
        embed=True,
        longest_side=_LONGEST_SIDE_ON_PAGE,
    )
    page.write()  # The page claims the folder, whose files the next run may replace.
    shown = image.copy()
    shown.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    write_image(folder / _FILES["image"], shown)
    for rank, (name, waveform) in enumerate(zip(_AUDIO_FILES, result.audios, strict=True), 1):
        tags = make_tags(facts, run, rank)
        write_audio(folder / name, waveform, result.sampling_rate, tags=tags)
    write_spectrogram(folder / _FILES["spectrogram"], result.audios[0], result.sampling_rate)
    page.add(entry, image)
    page.write()


def _label_table(nearest: list[dict[str, Any]]) -> Table:
    """Return the nearest classes."""
    table = Table("heard as", "probability", "similarity", box=None, pad_edge=False)
    for each in nearest[:_LABELS_SHOWN]:
        table.add_row(each["label"], f"{each['probability']:.0%}", f"{each['similarity']:.2f}")
    return table


def _stage_table(seconds: dict[str, float]) -> Table:
    """Return the seconds of each stage."""
    table = Table("stage", "seconds", box=None, pad_edge=False)
    for stage, value in seconds.items():
        table.add_row(stage, f"{value:6.2f}")
    table.add_row("total", f"{sum(seconds.values()):6.2f}", style="bold")
    return table
