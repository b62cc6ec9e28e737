"""Options of the verbs that extract and evaluate embeddings: extract, norms, fit and evaluate."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clip2clap.cli.command import argument, option
from clip2clap.cli.options.common import (
    DATA,
    MODELS,
    RUNNING,
    BatchSize,
    Clap,
    Clip,
    Device,
    Dtype,
    Duration,
    Json,
    Limit,
    Seed,
    Steps,
)

PairName = Literal["image-audio", "image-caption", "caption-caption", "audio-caption"]
SourceFormat = Literal[
    "auto", "audiocaps", "conceptual-captions", "wit", "folder", "table", "datasets", "webdataset"
]

COLUMNS = "Columns of your own data"
DOWNLOADS = "Downloads"
GENERATION = "Generated audio and images"


@dataclass(frozen=True, kw_only=True)
class SourceInput:
    """Data set to extract embeddings from."""

    source: list[str] = argument(
        "audiocaps, conceptual-captions or wit; or a folder, a CSV, TSV or Parquet file, tar "
        "shards, or a datasets id or folder.",
        "SOURCE...",
        required=True,
    )


@dataclass(frozen=True, kw_only=True)
class Split:
    """Split to read."""

    split: str | None = option(
        "Split: train (the default), val or test. evaluate: auto (the default, rows that were held "
        "out), test, validation, train, held-out or all.",
        "NAME",
        panel=DATA,
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions(Split, Limit):
    """Files of a published data set."""

    captions: list[Path] | None = option(
        "Captions file of a published data set, instead of --split; for wit any number.",
        "FILE",
        panel=DATA,
    )
    data: Path = option(
        "Folder with a published data set's files, to which missing ones are downloaded.",
        "FOLDER",
        default=Path("."),
        panel=DATA,
    )


@dataclass(frozen=True, kw_only=True)
class SourceOptions(DataOptions):
    """Options of the source that is read."""

    source_format: SourceFormat = option(
        "Format of SOURCE.", default="auto", panel=DATA, was=["--format"], api=["format"]
    )
    audio: Path | None = option(
        "audiocaps: folder of its audio, which is embedded too.", "FOLDER", panel=DATA
    )
    frames: Path | None = option(
        "audiocaps: folder of its video frames, which are embedded too.", "FOLDER", panel=DATA
    )
    language: str = option(
        "wit: language code; en is English, uk Ukrainian.", "CODE", default="en", panel=DATA
    )
    caption_field: Literal["auto", "reference", "attribution", "alt"] = option(
        "wit: caption to use; auto is the first that is there.", default="auto", panel=DATA
    )
    id_column: str | None = option("Column of row ids.", "COLUMN", panel=COLUMNS)
    caption_column: str | None = option("Column of captions.", "COLUMN", panel=COLUMNS)
    image_column: str | None = option("Column of image paths or URLs.", "COLUMN", panel=COLUMNS)
    audio_column: str | None = option("Column of audio paths.", "COLUMN", panel=COLUMNS)
    keep: list[str] | None = option(
        "Further column to keep in the table; may be given several times.",
        "COLUMN",
        panel=COLUMNS,
    )


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Options of the embeddings that are paired."""

    pair: PairName | None = option("Modalities to pair: the CLIP's, then the CLAP's.", panel=DATA)
    only: Literal["clip", "clap"] | None = option("Embed one side of the pair.", panel=DATA)
    pair_with: str | None = option(
        "Join the rows of this table, made from the same data set with --only; auto is the table "
        "that --only of the other side writes by default.",
        "TABLE",
        panel=DATA,
    )


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Demo models in place of real ones."""

    demo: bool = option("Use the demo models.", default=False, panel=MODELS)


@dataclass(frozen=True, kw_only=True)
class EncoderOptions(Clip, Clap, Demo, Dtype, Device, BatchSize):
    """Encoders of `extract`."""

    stored: Literal["float16", "float32"] = option(
        "Number format of the table.", default="float16", panel=MODELS
    )


@dataclass(frozen=True, kw_only=True)
class DownloadOptions:
    """Downloads of images."""

    cache: Path | None = option(
        "Keep downloaded images here, for the next encoder.", "FOLDER", panel=DOWNLOADS
    )
    connections: int = option(
        "Parallel downloads.", "N", default=64, panel=DOWNLOADS, api=["concurrency"]
    )
    per_host: int = option("Parallel downloads per host.", "N", default=4, panel=DOWNLOADS)
    allow_private: bool = option(
        "Also download from this machine and its network.", default=False, panel=DOWNLOADS
    )
    contact: str | None = option(
        "Your address, sent to the servers; Wikimedia asks for one.", "ADDRESS", panel=DOWNLOADS
    )


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of the machines that extraction runs on."""

    engine: Literal["local", "ray"] = option(
        "local, or ray for a cluster.", default="local", panel=RUNNING
    )
    ray_address: str | None = option(
        "ray: address of the cluster; by default one is started here.", "ADDRESS", panel=RUNNING
    )
    actors: int | None = option(
        "ray: number of encoders; by default one per GPU, or 2.",
        "N",
        panel=RUNNING,
        api=["ray_actors"],
    )


@dataclass(frozen=True, kw_only=True)
class NormOptions:
    """Norm report."""

    bins: int = option("Bins of the histograms.", "N", default=50)
    cosine: float = option(
        "Cosine similarity from which two rows are near-duplicates.",
        "X",
        default=0.999,
        api=["near_duplicate_cosine"],
    )


@dataclass(frozen=True, kw_only=True)
class DatasetOption:
    """Data set of `fit`."""

    dataset: str = option(
        "audiocaps, conceptual-captions or wit; or any SOURCE of extract.",
        "NAME",
        default="audiocaps",
        panel=DATA,
        api=["source"],
    )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Columns of a table of pairs."""

    source: str | None = option(
        "Source column: a name such as clip_text, or clip or clap for the only column of that "
        "encoder. By default clip; for evaluate the translators' source.",
        "COLUMN",
        panel=DATA,
        was=["--from"],
    )
    target: str | None = option(
        "Target column: a name such as clap_text, or clap or clip for the only column of that "
        "encoder. By default clap; for evaluate the translators' target.",
        "COLUMN",
        panel=DATA,
        was=["--to"],
    )
    item: str | None = option(
        "Column of item ids; rows of one item stay on one side of the split. By default item, "
        "file, url, caption or id.",
        "COLUMN",
        panel=DATA,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationInputs:
    """Translators to evaluate, or evaluations to compare."""

    inputs: list[str] = argument(
        "Translators: folders, hub ids, demo or demo-back. With --compare: one or two "
        "results.json files.",
        "TRANSLATOR...",
        required=True,
        api=["translators"],
    )
    compare: bool = option(
        "Report which differences between two evaluations are real.", default=False
    )


@dataclass(frozen=True, kw_only=True)
class PairsToEvaluate(Columns, Split, Limit):
    """Pairs of embeddings to evaluate on."""

    table: Path | None = option("Folder of an embedding table with pairs.", "TABLE", panel=DATA)
    labels: str | None = option("Column of class labels.", "COLUMN", panel=DATA)


@dataclass(frozen=True, kw_only=True)
class GenerationToEvaluate(Clip, Clap, Steps, Duration):
    """Generated audio or images to evaluate."""

    pipeline: str | None = option(
        "Also evaluate what this pipeline generates: demo, a preset, a hub id or a folder; a "
        "generator, or a decoder if the translators go from CLAP to CLIP.",
        "NAME",
        panel=GENERATION,
    )
    image_dir: Path | None = option(
        "Folder of images to generate audio from, or of real images to compare with; subfolders "
        "name the classes.",
        "FOLDER",
        panel=GENERATION,
        was=["--images"],
        api=["images"],
    )
    audio_dir: Path | None = option(
        "Folder of audio to generate images from (by default the table's audio), or of real audio "
        "to compare with; subfolders name the classes.",
        "FOLDER",
        panel=GENERATION,
        was=["--recordings"],
        api=["recordings", "audios"],
    )
    classifier: str | None = option(
        "Classifier of audio or images with these classes; by default zero-shot, by the CLAP's "
        "or CLIP's text encoder.",
        "NAME",
        panel=GENERATION,
        was=["--judge"],
    )
    back: str | None = option(
        "Translator from the measuring CLAP into the CLIP, for the CLIP-score of audio.",
        "TRANSLATOR",
        panel=GENERATION,
    )
    round_trip: str | None = option(
        "Pipeline of the opposite direction, to compare the result of a round trip with its start.",
        "NAME",
        panel=GENERATION,
    )
    contact_sheet: bool = option(
        "Also write contact-sheet.png: audio of each class and three images of it, by the first "
        "translator.",
        default=False,
        panel=GENERATION,
    )


@dataclass(frozen=True, kw_only=True)
class EvaluationRun(BatchSize, Device, Dtype, Seed, Json):
    """Options of a run of the evaluation."""

    resamples: int = option("Bootstrap resamples.", "N", default=1000, panel=RUNNING, min=100)
