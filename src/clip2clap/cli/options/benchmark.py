"""Options of `benchmark`."""

from pathlib import Path
from typing import Literal

from clip2clap.cli.command import argument, option
from clip2clap.cli.options.common import BatchSize, Device, EncoderName, Output, Resamples, Seed

DatasetName = Literal["esc50", "us8k", "vggsound", "audiocaps", "clotho"]


class Benchmark(Seed, Output, Resamples, BatchSize, Device, EncoderName, panel="Protocol"):
    """Options of `benchmark`."""

    dataset: DatasetName = argument("Data set.", "DATASET", required=True)
    folder: Path = argument("Its folder, as published.", "FOLDER", required=True)
    protocol: list[str] | None = option(
        "Prompts and audio of zero-shot classification: clip2clap (the default), laion, "
        "transformers, mteb, msclap, audioclip, or all; may be given several times.",
        "NAME",
    )
    linear_probe: bool = option(
        "Also fit a linear probe, trained on the other official folds.", default=False
    )
    partial: bool = option(
        "Measure on the clips that are there, if the folder is not complete.", default=False
    )
