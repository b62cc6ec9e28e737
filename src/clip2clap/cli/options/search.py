"""Options of the verbs that name files by texts, and find them."""

from pathlib import Path
from typing import Literal

from clip2clap.cli.command import Options, argument, option
from clip2clap.cli.options.common import (
    AllowPrivate,
    Back,
    BatchSize,
    Device,
    Encoders,
    Json,
    Output,
    Recursive,
    Seed,
    Speech,
    Translator,
    WindowLength,
)
from clip2clap.cli.options.words import Captioners, Vocabulary


class LabelChoice(Options, panel="Labels"):
    """Labels to choose from."""

    labels: str = option(
        "Labels to choose from: separated by commas, a file with one per line, or demo, esc50, "
        "us8k, audioset, fsd50k, imagenet, imagehear, objectnet.",
        "LABELS",
        default="demo",
    )


class MediaFiles(Recursive, AllowPrivate, Device, BatchSize, Translator, Encoders):
    """Image and audio files, and the encoders that read them."""

    inputs: list[str] = argument(
        "Images and audio: files, folders, http(s) URLs of images.", "INPUT", required=True
    )


class NamedFiles(MediaFiles, WindowLength, panel="Labels"):
    """Files to name, and how over time."""

    template: list[str] | None = option(
        'Prompt of a label, by default "a photo of a {}" and, for audio, "the sound of a {}"; '
        "several are averaged.",
        "TEXT",
        api="templates",
    )
    timeline: Path | None = option(
        "Draw the labels of one audio file over time as a PNG; windows of 2 s unless --window-s is "
        "given.",
        "FILE",
        panel="Files",
    )
    as_csv: bool = option(
        "Print CSV on stdout: a row per file or window and label.",
        flags="--csv",
        default=False,
        panel="Files",
    )


class IndexOptions(Output, Device, BatchSize, Encoders, panel="Files"):
    """Options of `index`."""

    inputs: list[str] | None = argument(
        "Folders, searched at any depth for images, audio and videos; such files; text files, each "
        "line of which is a text. Without any, all earlier ones are brought up to date.",
        "INPUT",
    )
    forget: list[str] | None = option("Input of an earlier run to leave out from now on.", "PATH")


class Search(Device, Json, Back, Translator, Encoders, Speech, LabelChoice, panel="Search"):
    """Options of `search`."""

    index: Path = argument("Folder of an index, as index writes it.", "LIBRARY", required=True)
    query: list[str] | None = argument(
        "Images, audio files and words, with + or - between them, each with a weight if need be: "
        'photo.jpg + rain:0.5 - "many people"; speech:FILE stands for what it says.',
        "QUERY",
    )
    find: Literal["all", "image", "audio", "text"] = option("Type to find.", default="all")
    top: int = option("Results per type; keywords per file or window.", default=10, min=1, api="k")
    csls: bool = option(
        "Rank by cross-domain similarity local scaling, which keeps entries back that are near to "
        "everything.",
        default=False,
    )
    distinct: bool = option("Leave out near-duplicates of better results.", default=False)
    exact: bool = option("Compare with every entry, without the fast search.", default=False)
    within: str | None = option(
        "Results in this folder only, or with paths of this pattern, such as '*/dogs/*.wav'.",
        "FOLDER",
        panel="Filters",
    )
    since: str | None = option(
        "Files changed since this date (2026-05-31, or 7d for seven days).", "DATE", panel="Filters"
    )
    until: str | None = option("Files changed before this date.", "DATE", panel="Filters")
    label: str | None = option(
        "Images and audio whose likeliest label of --labels is this one, and texts with the word.",
        "LABEL",
        panel="Filters",
    )
    html: Path | None = option(
        "Also write the results as a page of images and players.", "FILE", panel="Files"
    )


class Classify(Output, NamedFiles, Speech, LabelChoice, panel="Labels"):
    """Options of `classify`."""

    spoken_labels: str | None = option(
        "Name images by the nearest spoken name: folder with a subfolder of audio per name, or "
        "with dog_1.wav, dog_2.wav, ...; or objectnet, 313 names spoken by the synthesizer that is "
        "installed.",
        "FOLDER",
        panel="Speech",
    )
    speak: bool = option(
        "Write the answer for IMAGE as IMAGE-spoken.wav too, spoken by the synthesizer that is "
        "installed, espeak-ng or flite.",
        default=False,
        panel="Speech",
    )
    temperature: float | None = option(
        "Temperature of a softmax. train: contrastive (by default 0.5), infonce and bank (0.07); "
        "classify: by default the model's own; caption, with --top-p: 1.",
    )
    top_k: int = option("Labels per file.", default=5, min=1, api="k")


class Keywords(Json, Vocabulary, NamedFiles, panel="Labels"):
    """Options of `keywords`."""

    top: int = option("Results per type; keywords per file or window.", default=10, min=1, api="k")


class Caption(Seed, Json, Captioners, MediaFiles, panel="Captions"):
    """Options of `caption`."""

    num_captions: int = option("Captions per file.", default=1, min=1, max=100)
    num_beams: int = option(
        "Beams of the search; 1 is greedy. With --num-candidates as many as these.",
        default=4,
        min=1,
        max=100,
    )
    num_candidates: int | None = option(
        "Candidates per input; those closest to the condition, or for caption to the file, are "
        "kept. By default the pipeline's own number, for images --num-images, for caption none.",
        was="--candidates",
        min=1,
    )
    top_p: float | None = option(
        "Sample from the likeliest tokens of this total probability, in place of beam search.",
        "SHARE",
        above=0,
    )
    temperature: float | None = option(
        "Temperature of a softmax. train: contrastive (by default 0.5), infonce and bank (0.07); "
        "classify: by default the model's own; caption, with --top-p: 1.",
    )
    max_tokens: int | None = option(
        "Longest caption in tokens. Default 60.", min=1, api="max_new_tokens"
    )
