"""Options of `finetune`."""

from pathlib import Path

from clip2clap.cli.command import argument, option
from clip2clap.cli.options.common import BatchSize, Device, EncoderName, Encoders, Output, Seed
from clip2clap.cli.options.training import HeldOut, Length, Preset, SpecAugment
from clip2clap.training.finetuning.config import Part


class Finetune(
    Seed,
    Output,
    BatchSize,
    Device,
    SpecAugment,
    Preset,
    HeldOut,
    Length,
    Encoders,
    EncoderName,
    panel="Training",
):
    """Options of `finetune`."""

    data: Path = argument("Folder with one subfolder per label.", "DATA", required=True)
    part: Part | None = option(
        "Weights to tune: the projection (head, the default), it and the last quarter of the "
        "layers (partial), low-rank adapters that are merged at the end (lora), or all."
    )
    mixup: float | None = option("Parameter of mixup's Beta distribution; 0, the default, is none.")
