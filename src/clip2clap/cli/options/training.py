"""Options of train and sweep. Defaults and checks are those of `TrainingConfig`."""

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

from clip2clap.cli.command import KEY, Options, argument, option
from clip2clap.cli.options.common import (
    BatchSize,
    Clip,
    Device,
    Encoders,
    ImageDir,
    Overwrite,
    Partial,
    Seed,
    Table,
    WindowLength,
)
from clip2clap.cli.options.data import ArchitectureChoice, Columns, SourceColumns
from clip2clap.training.config import Init, Monitor, Schedule


class HeldOut(Options, panel="Training"):
    """Held-out share, and early stopping."""

    validation: float | None = option(
        "Share of the items held out, if the table has no split column. Default 0.1.",
        "SHARE",
        panel="Data",
    )
    patience: int | None = option(
        "Stop after N epochs without a better --monitor, a lower loss of a captioner, or a better "
        "accuracy of finetune; 0 never stops early. Default 10, for train-captioner 3, for "
        "train-speech 5.",
        min=0,
    )


class Stopping(HeldOut, panel="Training"):
    """Held-out share, when to stop, and the schedule."""

    schedule: Schedule | None = option(
        "Learning rate schedule; by default cosine, for sweep and --recipe reference constant."
    )


class Epochs(Options, panel="Training"):
    """Number of epochs."""

    epochs: int | None = option(
        "Maximum number of epochs. Default 20, for train-captioner 10, for the preset audioclip 50."
    )


class Length(Epochs, panel="Training"):
    """Epochs and learning rate."""

    learning_rate: float | None = option(
        "Highest learning rate of Adam; by default it depends on the batch size, for "
        "train-captioner and train-speech 1e-3, for finetune on --part.",
        was="--lr",
    )


class Steps(Length, panel="Training"):
    """Noise, epochs and learning rate."""

    noise: float | None = option(
        "Standard deviation of the noise added to the source while training or fitting ridge, so "
        "that a translator or captioner trained on captions works on images. By default 0.05 on "
        "captions, else 0."
    )


class PairsAndMonitor(Columns, Stopping, panel="Training"):
    """Pairs to train on, and what to monitor."""

    monitor: Monitor | None = option("Held-out metric that picks the epoch to keep. Default mrr.")


class LossName(Options, panel="Training"):
    """Loss, and its temperature."""

    loss: str | None = option(
        "cosine, mse, contrastive, infonce or bank, or a weighted sum such as cosine:1+bank:0.1, "
        "which is train-speech's default. Default cosine.",
        "LOSS",
    )
    temperature: float | None = option(
        "Temperature of a softmax. train: contrastive (by default 0.5), infonce and bank (0.07); "
        "classify: by default the model's own; caption, with --top-p: 1.",
    )


class Preset(Options, panel="Training"):
    """Published recipe."""

    preset: Literal["audioclip", "saliclip"] | None = option(
        "finetune: audioclip is SGD with Nesterov momentum at 5e-5, 50 epochs of all weights, "
        "waveforms inverted in time, scaled, and noisy. train-speech: saliclip is --architecture "
        "ast against the images, 10 epochs of batches of 48. The other options override it."
    )


class SpecAugment(Options, panel="Training"):
    """Masks."""

    spec_augment: bool | None = option(
        "Mask spans of time and frequency while training. Default yes.",
        flags="--spec-augment/--no-spec-augment",
    )


class Tracker(Options, panel="Running"):
    """Trackers of accelerate."""

    tracker: list[str] | None = option(
        "Also log the curves there, for example tensorboard; may be given several times.",
        "NAME",
        api="trackers",
    )


class Architectures(ArchitectureChoice, panel="Translator"):
    """Architecture of the translator; what is not given is left to `TrainingConfig`."""

    hidden_size: int | None = option(
        "Width of the hidden layers or of the residual blocks. Default 512.", was="--hidden"
    )
    blocks: int | None = option("Number of residual blocks. Default 3.")
    dropout: float | None = option(
        "Dropout: by default 0.1 in residual blocks, and none after the hidden layers of an mlp.",
        "SHARE",
    )
    condition_dropout: float | None = option(
        "Share of the pairs on which the prior trains unconditionally, for guidance. Default 0.1.",
        "SHARE",
    )
    prior_guidance_scale: float | None = option(
        "Guidance scale of the prior; 1 turns guidance off. Default 1.0."
    )
    alpha: float | None = option(
        "Ridge penalty, also of the ridge that initializes an mlp; by default the best of several "
        "on held-out pairs."
    )
    center: Literal["auto", "yes", "no"] | None = option(
        "Subtract the mean of each side first; auto does so for ridge, procrustes and unpaired.",
        was="--centre=yes --no-centre=no",
    )
    rank: int | None = option(
        "Largest rank of ridge and procrustes: with procrustes, spectral truncation to this many "
        "axes. By default not bounded."
    )
    scale: bool | None = option(
        "Divide each dimension by its standard deviation first (ridge and procrustes). Default no.",
        flags="--scale/--no-scale",
    )
    init_from: str | None = option(
        "Translator to continue from, for example to fine-tune one trained on captions with a few "
        "true pairs.",
        "TRANSLATOR",
    )


class Train(
    Seed,
    Device,
    BatchSize,
    Overwrite,
    Architectures,
    LossName,
    Steps,
    PairsAndMonitor,
    Table,
    panel="Training",
):
    """Options of `train`."""

    recipe: Literal["fast", "reference", "deployed"] = option(
        "fast: initialized by ridge, large batches, cosine schedule, early stopping; reference: "
        "Adam at 1e-3, batches of 64, 50 epochs; deployed: the reference with the contrastive "
        "loss, dropout of 0.5, 2e-3 and 60 epochs. The other options override each.",
        default="fast",
    )
    learn_temperature: bool = option("Learn the temperature.", default=False)
    target_table: Path | None = option(
        "Table of other items with the targets, for --architecture unpaired; by default TABLE, "
        "whose items are then split in halves.",
        "TABLE",
        panel="Columns",
    )
    init: Init | None = option(
        "Initialization of an mlp: the linear map that ridge fits, or random weights. By default "
        "ridge, with --recipe reference random.",
        was="--start",
    )


class TrainCaptioner(
    Seed, Device, BatchSize, Overwrite, Steps, Stopping, SourceColumns, Table, panel="Captioner"
):
    """Options of `train-captioner`."""

    caption_column: str | None = option(
        "Column of captions.", "COLUMN", panel="Columns of your own data", api="caption"
    )
    language_model: str | None = option(
        "Causal language model of transformers: preset (gpt2, gpt2-medium, demo), hub id or "
        "folder. Default gpt2.",
        "NAME",
    )
    tune_language_model: bool = option(
        "Also train the language model; give --learning-rate 2e-5 then.", default=False
    )
    mapper: Literal["linear", "mlp", "transformer"] | None = option(
        "Mapper from an embedding to the language model's prefix. Default mlp."
    )
    prefix_length: int | None = option("Length of the prefix in tokens. Default 10.", min=1)
    max_tokens: int | None = option("Longest caption in tokens. Default 60.", min=1)


class ImportTranslator(Overwrite, Encoders, panel="Translator"):
    """Options of `import-translator`."""

    file: Path = argument("State dict of PyTorch, .pth or .pt.", "FILE", required=True)


def _grid(name: str, metavar: str, was: str = "") -> Any:
    """Declare a grid's option: several values of an option of train, separated by commas."""
    (info,) = (each.metadata[KEY] for each in fields(Train) if each.name == name)
    renamed = " ".join(each for each in info["was"] if "=" not in each)
    return option(info["settings"]["help"], metavar, was=f"{renamed} {was}")


class Grid(Options, panel="Grid"):
    """Grid of a sweep: options of train with several values each, separated by commas."""

    hidden_size: str | None = _grid("hidden_size", "N,…")
    loss: str | None = _grid("loss", "LOSS,…")
    learning_rate: str | None = _grid("learning_rate", "X,…")
    batch_size: str | None = _grid("batch_size", "N,…")
    temperature: str | None = _grid("temperature", "X,…")
    epochs: str | None = _grid("epochs", "N,…")
    seed: str | None = _grid("seed", "N,…", "--seeds")
    noise: str | None = _grid("noise", "X,…")
    center: str | None = _grid("center", "no,yes", "--centre")


class TrainSpeech(
    Seed,
    Tracker,
    Device,
    BatchSize,
    Overwrite,
    Partial,
    ImageDir,
    Clip,
    WindowLength,
    SpecAugment,
    LossName,
    HeldOut,
    Length,
    Preset,
    ArchitectureChoice,
    panel="Network",
):
    """Options of `train-speech`."""

    data: Path = argument(
        "Spoken captions: folder of Flickr8k Audio, SpokenCOCO, Spoken ObjectNet or Places Audio "
        "as published, or a CSV or JSON lines file with the columns audio, and caption or image.",
        "DATA",
        required=True,
        api="captions",
    )
    backbone: str | None = option(
        "Checkpoint of the backbone to start from: hub id or folder, such as openai/whisper-tiny; "
        "by default a small network with random weights.",
        "NAME",
    )
    layers: int | None = option("Layers of the backbone to keep, the first ones.", min=1)
    text_weight: float | None = option(
        "Weight of the loss against embeddings of captions. Default 1.", panel="Training", min=0
    )
    image_weight: float | None = option(
        "Weight of the loss against embeddings of images. Default 1.", panel="Training", min=0
    )
    backbone_learning_rate: float | None = option(
        "Highest learning rate of the backbone; by default --learning-rate, and a tenth of it for "
        "a checkpoint.",
        panel="Training",
        above=0,
    )
    noise_db: float | None = option(
        "Lowest ratio of speech to added noise, in dB. Default 5.", "DB", panel="Alterations"
    )
    speed: float | None = option(
        "Largest relative change of speed and pitch; 0 for none. Default 0.15.",
        "SHARE",
        panel="Alterations",
        min=0,
    )
    reverb_s: float | None = option(
        "Longest reverberation time of a synthetic room, in seconds; 0 for none. Default 0.6.",
        "S",
        panel="Alterations",
        min=0,
    )


class Sweep(Tracker, Device, Overwrite, Grid, PairsAndMonitor, Table, panel="Data"):
    """Options of `sweep`."""

    plus: list[Path] | None = option(
        "Further table, may be given several times. Models are trained on the first table, on the "
        "further ones together, and on all.",
        "TABLE",
    )
