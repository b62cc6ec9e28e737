"""Options of `benchmark`."""

from pathlib import Path
from typing import Literal

from clip2clap.cli.command import argument, option
from clip2clap.cli.options.common import (
    BatchSize,
    Clip,
    Device,
    EncoderName,
    ImageDir,
    Output,
    Partial,
    Resamples,
    Seed,
    SpeechEncoderName,
    Translator,
)
from clip2clap.cli.options.training import Epochs

DatasetName = Literal[
    "esc50",
    "us8k",
    "vggsound",
    "imagehear",
    "audiocaps",
    "clotho",
    "flickr8k-audio",
    "spoken-coco",
    "places-audio",
]


class Benchmark(
    Seed,
    Output,
    Resamples,
    BatchSize,
    Device,
    Partial,
    ImageDir,
    Clip,
    Epochs,
    SpeechEncoderName,
    Translator,
    EncoderName,
    panel="Protocol",
):
    """Options of `benchmark`."""

    dataset: DatasetName = argument("Data set.", "DATASET", required=True)
    folder: Path = argument("Its folder, as published.", "FOLDER", required=True)
    protocol: list[str] | None = option(
        "Prompts and audio of zero-shot classification: clip2clap (the default), laion, "
        "transformers, mteb, msclap, audioclip, or all; may be given several times.",
        "NAME",
    )
    asr: str | None = option(
        "Recognizer of the baseline of spoken captions, whose transcripts the CLIP's text encoder "
        "reads: hub id or folder, such as openai/whisper-tiny.en.",
        "NAME",
        panel="Models",
    )
    linear_probe: bool = option(
        "Also fit a linear probe, trained on the other official folds.", default=False
    )
    fine_tune: Literal["head", "partial", "lora", "all", "audioclip"] | None = option(
        "Also tune the encoder by folds, these weights of it as finetune does, or by its preset "
        "audioclip, and measure each fold with the encoder that was tuned on the others."
    )
