"""Options that several verbs have, each declared once in a group of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip2clap.cli.command import argument, option

DtypeName = Literal["auto", "fp32", "bf16", "fp16"]

# Headings in the help.
CONDITION = "Condition"
MODELS = "Models"
SAMPLING = "Sampling"
DATA = "Data"
FILES = "Files"
RUNNING = "Running"


@dataclass(frozen=True, kw_only=True)
class TableInput:
    """Embedding table to read."""

    table: Path = argument(
        "Folder of an embedding table, as extract writes it.", "TABLE", required=True
    )


@dataclass(frozen=True, kw_only=True)
class Seed:
    """Random seed."""

    seed: int = option("The same seed gives the same result.", "N", default=0, min=0)


@dataclass(frozen=True, kw_only=True)
class Json:
    """Machine-readable output."""

    as_json: bool = option("Print one JSON document on stdout.", None, "--json", default=False)


@dataclass(frozen=True, kw_only=True)
class Output:
    """Output file or folder."""

    output: Path | None = option(
        "Output folder, or for a single image, audio file or film also a file name. By default it "
        "is named after the table or data set, else clip2clap-VERB.",
        "PATH",
        "--output",
        "-o",
        panel=FILES,
        was=["--out"],
    )


@dataclass(frozen=True, kw_only=True)
class Overwrite:
    """Replacement of existing files."""

    overwrite: bool = option("Replace earlier output.", default=False, panel=FILES)


@dataclass(frozen=True, kw_only=True)
class Device:
    """Device to compute on."""

    device: str = option("auto, cpu, cuda, cuda:1 or mps.", "NAME", default="auto", panel=RUNNING)


@dataclass(frozen=True, kw_only=True)
class Dtype:
    """Number format of the models."""

    dtype: DtypeName | None = option(
        "Number format of the models; auto is the fastest that is safe. By default auto, for "
        "extract and fit fp32.",
        panel=RUNNING,
        api=["torch_dtype"],
    )


@dataclass(frozen=True, kw_only=True)
class BatchSize:
    """Items per batch."""

    batch_size: int | None = option(
        "Items per batch. By default 4 for generation, 8 for evaluate, 64 texts or images or 16 "
        "audio clips for extract, and for train it depends on the number of pairs.",
        "N",
        panel=RUNNING,
        min=1,
    )


@dataclass(frozen=True, kw_only=True)
class Limit:
    """Maximum number of rows."""

    limit: int | None = option(
        "Maximum number of rows; evaluate: by default 50000.", "N", panel=DATA, min=1
    )


@dataclass(frozen=True, kw_only=True)
class Clip:
    """CLIP encoder."""

    clip: str | None = option(
        "CLIP: preset, hub id or folder. By default the one that the translator or pipeline was "
        "made for; for extract and fit clip-vit-base-patch32. evaluate, of generated images: the "
        "CLIP to measure with, preferably another than the decoder's.",
        "NAME",
        panel=MODELS,
    )


@dataclass(frozen=True, kw_only=True)
class Clap:
    """CLAP encoder."""

    clap: str | None = option(
        "CLAP: preset, hub id or folder. By default the one that the translator or pipeline was "
        "made for; for extract the CLAP in audioldm-s-full-v2. evaluate, of generated audio: the "
        "CLAP to measure with, preferably another than the generator's.",
        "NAME",
        panel=MODELS,
    )


@dataclass(frozen=True, kw_only=True)
class Translator:
    """Translator between the models."""

    translator: str | None = option(
        "Translator between CLIP and CLAP: hub id or folder. By default the pipeline's own.",
        "NAME",
        panel=MODELS,
    )


@dataclass(frozen=True, kw_only=True)
class Generator:
    """Text-to-audio generator."""

    generator: str | None = option(
        "Audio generator: demo, a preset (audioldm-s-full-v2 ...), a hub id or a folder. Default "
        "demo, for fit audioldm-s-full-v2.",
        "NAME",
        panel=MODELS,
        was=["--model"],
        api=["pretrained_model_name_or_path"],
    )


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Image decoder."""

    decoder: str = option(
        "Image decoder: demo, a preset (kandinsky-2-2 ...), a hub id or a folder.",
        "NAME",
        default="demo",
        panel=MODELS,
        was=["--model"],
        api=["pretrained_model_name_or_path"],
    )


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Denoising steps."""

    num_inference_steps: int | None = option(
        "Denoising steps; 10 to 25 are enough.", "N", panel=SAMPLING, was=["--steps"], min=1
    )


@dataclass(frozen=True, kw_only=True)
class Duration:
    """Duration of audio."""

    duration_s: float | None = option(
        "Duration in seconds: of generated audio, by default what the model was trained on; of "
        "audio inputs, by default all.",
        "S",
        panel=SAMPLING,
        was=["--seconds"],
        api=["audio_length_in_s"],
        above=0,
    )
