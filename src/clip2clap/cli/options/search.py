"""Options of the verbs that name files by texts."""

from pathlib import Path

from clip2clap.cli.command import argument, option
from clip2clap.cli.options.common import (
    AllowPrivate,
    BatchSize,
    Device,
    Encoders,
    Output,
    Translator,
)


class Classify(AllowPrivate, Device, BatchSize, Output, Translator, Encoders, panel="Labels"):
    """Options of `classify`."""

    inputs: list[str] = argument(
        "Images and audio: files, folders, http(s) URLs of images.", "INPUT", required=True
    )
    labels: str = option(
        "Labels to choose from: separated by commas, a file with one per line, or demo, esc50, "
        "us8k, audioset, fsd50k, imagenet.",
        "LABELS",
        default="demo",
    )
    template: list[str] | None = option(
        'Prompt of a label, by default "a photo of a {}" and, for audio, "the sound of a {}"; '
        "several are averaged.",
        "TEXT",
        api="templates",
    )
    temperature: float | None = option(
        "Temperature of a softmax. train: contrastive (by default 0.5), infonce and bank (0.07); "
        "classify: by default the model's own.",
    )
    top_k: int = option("Labels per file.", default=5, min=1, api="k")
    window_s: float | None = option(
        "Classify audio in windows of this length, in seconds, over time.", "S", min=0.05
    )
    timeline: Path | None = option(
        "Draw the labels of one audio file over time as a PNG; windows of 2 s unless --window-s is "
        "given.",
        "FILE",
        panel="Files",
    )
    as_csv: bool = option(
        "Print CSV on stdout: file, start_s, end_s, rank, label, probability.",
        flags="--csv",
        default=False,
        panel="Files",
    )
