"""Options of the verbs that extract and evaluate embeddings: extract, norms, fit and evaluate."""

from pathlib import Path
from typing import Literal

from clip2clap.cli.command import Options, argument, option
from clip2clap.cli.options.common import (
    AllowPrivate,
    Back,
    Encoders,
    Engine,
    Generator,
    ImageDir,
    Output,
    Overwrite,
    Resamples,
    Rows,
    Running,
    Seed,
    StepsAndDuration,
    Table,
)
from clip2clap.cli.options.words import Captioners, TextModel
from clip2clap.training.config import Architecture
from clip2clap.training.speech.config import SpeechArchitecture

AnyArchitecture = Literal[Architecture, SpeechArchitecture]

PairName = Literal["image-audio", "image-caption", "caption-caption", "audio-caption"]
SourceFormat = Literal[
    "auto", "audiocaps", "conceptual-captions", "wit", "folder", "table", "datasets", "webdataset"
]


class Data(Rows, panel="Data"):
    """Files of a published data set."""

    captions: list[Path] | None = option(
        "Captions file of a published data set, instead of --split; for wit any number.", "FILE"
    )
    data: Path = option(
        "Folder with a published data set's files, to which missing ones are downloaded.",
        "FOLDER",
        default=Path("."),
    )


class Demo(Options, panel="Models"):
    """Demo models in place of real ones."""

    demo: bool = option("Use the demo models.", default=False)


class Downloads(AllowPrivate, panel="Downloads"):
    """Downloads of images."""

    cache: Path | None = option("Keep downloaded images here, for the next encoder.", "FOLDER")
    connections: int = option("Parallel downloads.", default=64, api="concurrency")
    per_host: int = option("Parallel downloads per host.", default=4)
    contact: str | None = option(
        "Your address, sent to the servers; Wikimedia asks for one.", "ADDRESS"
    )


class OwnColumns(Options, panel="Columns of your own data"):
    """Columns of the user's data set."""

    id_column: str | None = option("Column of row ids.", "COLUMN")
    caption_column: str | None = option("Column of captions.", "COLUMN")
    image_column: str | None = option("Column of image paths or URLs.", "COLUMN")
    audio_column: str | None = option("Column of audio paths.", "COLUMN")
    keep: list[str] | None = option(
        "Further column to keep in the table; may be given several times.", "COLUMN"
    )


class Extract(Output, Engine, Downloads, Running, Demo, Encoders, OwnColumns, Data, panel="Data"):
    """Options of `extract`."""

    source: list[str] = argument(
        "audiocaps, conceptual-captions or wit; or a folder, CSV, TSV, JSON lines or Parquet "
        "files, tar shards, or a datasets id or folder.",
        "SOURCE...",
        required=True,
    )
    pair: PairName | None = option("Modalities to pair: the CLIP's, then the CLAP's.")
    only: Literal["clip", "clap"] | None = option("Embed one side of the pair.")
    pair_with: str | None = option(
        "Join the rows of this table, made from the same data set with --only; auto is the table "
        "that --only of the other side writes by default.",
        "TABLE",
    )
    source_format: SourceFormat = option(
        "Format of SOURCE.", default="auto", was="--format", api="format"
    )
    audio: Path | None = option("audiocaps: folder of its audio, which is embedded too.", "FOLDER")
    frames: Path | None = option(
        "audiocaps: folder of its video frames, which are embedded too.", "FOLDER"
    )
    language: str = option("wit: language code; en is English, uk Ukrainian.", "CODE", default="en")
    caption_field: Literal["auto", "reference", "attribution", "alt"] = option(
        "wit: caption to use; auto is the first that is there.", default="auto"
    )
    stored: Literal["float16", "float32"] = option(
        "Number format of the table.", default="float16", panel="Models"
    )


class Norms(Output, Table):
    """Options of `norms`."""

    bins: int = option("Bins of the histograms.", default=50)
    cosine: float = option(
        "Cosine similarity from which two rows are near-duplicates.",
        default=0.999,
        api="near_duplicate_cosine",
    )


class ArchitectureChoice(Options, panel="Translator"):
    """Architecture of what is trained: of a translator, or of a speech encoder."""

    architecture: AnyArchitecture | None = option(
        "mlp, residual and prior (which samples) are trained, ridge and procrustes are fitted in "
        "closed form, unpaired is a rotation fitted without using pairs; train-speech: whisper "
        "(its default), ast (SAliCLIP's), wav2vec2, hubert or moonshine. Default mlp.",
        was="--model",
    )


class Fit(Seed, Overwrite, Running, Demo, Generator, ArchitectureChoice, Data, panel="Data"):
    """Options of `fit`."""

    dataset: str = option(
        "audiocaps, conceptual-captions or wit; or any SOURCE of extract.",
        "NAME",
        default="audiocaps",
        api="source",
    )


class SourceColumns(Options, panel="Data"):
    """Columns of the embeddings to read, and of the items that a split keeps together."""

    source: str | None = option(
        "Source column: a name such as clip_text, or clip or clap for the only column of that "
        "encoder. By default clip; for evaluate the translators' source.",
        "COLUMN",
        was="--from",
    )
    item: str | None = option(
        "Column of item ids; rows of one item stay on one side of the split. By default item, "
        "file, url, caption or id.",
        "COLUMN",
    )


class Columns(SourceColumns, panel="Data"):
    """Columns of a table."""

    target: str | None = option(
        "Target column: a name such as clap_text, or clap or clip for the only column of that "
        "encoder. By default clap; for evaluate the translators' target.",
        "COLUMN",
        was="--to",
    )


class GeneratedFiles(
    StepsAndDuration,
    Captioners,
    TextModel,
    Back,
    ImageDir,
    Encoders,
    panel="Generated audio and images",
):
    """Generated audio or images to evaluate."""

    pipeline: str | None = option(
        "Also evaluate what this pipeline generates: demo, a preset, a hub id or a folder; a "
        "generator, or a decoder if the translators go from CLAP to CLIP.",
        "NAME",
    )
    audio_dir: Path | None = option(
        "Folder of audio to generate images from (by default the table's audio), or of real audio "
        "to compare with; subfolders name the classes.",
        "FOLDER",
        was="--recordings",
        api="recordings audios",
    )
    classifier: str | None = option(
        "Classifier of audio or images with these classes; by default zero-shot, by the CLAP's "
        "or CLIP's text encoder.",
        "NAME",
        was="--judge",
    )
    round_trip: str | None = option(
        "Pipeline of the opposite direction, to compare the result of a round trip with its start.",
        "NAME",
    )
    contact_sheet: bool = option(
        "Also write contact-sheet.png: audio of each class and three images of it, by the first "
        "translator.",
        default=False,
    )


class Evaluate(Seed, Output, Resamples, Running, GeneratedFiles, Rows, Columns, panel="Data"):
    """Options of `evaluate`."""

    inputs: list[str] = argument(
        "Translators: folders, hub ids, demo or demo-back. With --compare: one or two "
        "results.json files.",
        "TRANSLATOR...",
        required=True,
        api="translators",
    )
    compare: bool = option(
        "Report which differences between two evaluations are real.", default=False
    )
    table: Path | None = option("Folder of an embedding table with pairs.", "TABLE")
    label_column: str | None = option(
        "Column of class labels.", "COLUMN", was="--labels", api="labels"
    )
