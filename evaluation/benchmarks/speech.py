"""Retrieval between speech and images on published splits, beside recognition and the published."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, replacing
from clip2clap.core.output_folder import writing_to
from clip2clap.core.version import __version__
from clip2clap.embeddings.datasets.spoken import SpokenCaption, read_spoken_captions
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.evaluation.benchmarks.encoding import encode_clips, encode_images
from clip2clap.evaluation.benchmarks.folders import Clip
from clip2clap.evaluation.benchmarks.retrieval import Retrieval, measure_caption_retrieval
from clip2clap.evaluation.benchmarks.run import FORMAT, RESULTS_FILE
from clip2clap.evaluation.benchmarks.transcripts import Transcriber, transcribe

DIRECTIONS = ("speech to image", "image to speech")


@dataclass(frozen=True)
class SpeechProtocol:
    """Published test split of spoken captions."""

    name: str
    title: str
    layout: str
    split: str
    images: int
    captions: int
    """Spoken captions of the complete split."""

    source: str


@dataclass(frozen=True)
class PublishedRecall:
    """Published recall at 1 of images by speech, in percent."""

    model: str
    direction: str
    recall_at_1: float
    source: str


SPEECH_PROTOCOLS = {
    each.name: each
    for each in (
        SpeechProtocol(
            "flickr8k-audio",
            "Flickr8k Audio Captions",
            "flickr8k-audio",
            "test",
            1000,
            5000,
            "Harwath and Glass 2015; test images of Flickr8k",
        ),
        SpeechProtocol(
            "spoken-coco",
            "SpokenCOCO",
            "spoken-coco",
            "test",
            5000,
            25_000,
            "Hsu et al. 2021, arXiv 2012.15454; Karpathy's test images",
        ),
        SpeechProtocol(
            "places-audio",
            "Places Audio Captions",
            "places-audio",
            "validation",
            1000,
            1000,
            "Harwath et al. 2016; the validation split, one caption an image",
        ),
    )
}
"""Protocols by name."""

_TALK = "Sanabria et al. 2021, arXiv 2104.01894, abstract"
PUBLISHED_RECALLS: dict[str, tuple[PublishedRecall, ...]] = {
    "flickr8k-audio": (
        PublishedRecall("Talk, Don't Write", DIRECTIONS[0], 33.2, _TALK),
        PublishedRecall("best before it", DIRECTIONS[0], 21.8, f"quoted by {_TALK}"),
    ),
    "places-audio": (
        PublishedRecall("Talk, Don't Write", DIRECTIONS[0], 53.4, _TALK),
        PublishedRecall("best before it", DIRECTIONS[0], 27.6, f"quoted by {_TALK}"),
    ),
}
"""Published recalls by data set."""


@dataclass(frozen=True)
class SpeechBenchmark:
    """Spoken captions of a published split, and the images that they are of."""

    protocol: SpeechProtocol
    rows: tuple[SpokenCaption, ...]
    images: tuple[Any, ...]
    owners: tuple[int, ...]
    """Index of each caption's image."""

    lacking: str = ""
    """What is missing of the complete split, in words."""


def read_speech_benchmark(
    name: str,
    folder: str | Path,
    *,
    image_dir: str | Path | None = None,
    partial: bool = False,
) -> SpeechBenchmark:
    """Read the test split of a folder as published.

    Args:
        name: A name of `SPEECH_PROTOCOLS`.
        folder: Top folder of the data set.
        image_dir: Folder of the images; by default beside the audio.
        partial: Whether to measure on what is there.

    Raises:
        UserError: If there is no such protocol, the folder has another layout, or it is not
            complete; the message names what is missing.
    """
    if name not in SPEECH_PROTOCOLS:
        raise UserError(
            f"Expected dataset to be one of {', '.join(SPEECH_PROTOCOLS)}, got {name!r}.",
            param="dataset",
        )
    protocol = SPEECH_PROTOCOLS[name]
    found = read_spoken_captions(folder, image_dir=image_dir, partial=partial)
    if found.layout != protocol.layout:
        raise UserError(
            f"{folder} has the layout of {found.layout}, not of {protocol.title}.", param="folder"
        )
    rows = tuple(row for row in found.of_split(protocol.split).rows if row.image is not None)
    places: dict[Any, int] = {}
    owners = tuple(places.setdefault(row.image, len(places)) for row in rows)
    short = [] if not found.lacking else [found.lacking]
    if (len(places), len(rows)) != (protocol.images, protocol.captions):
        short.append(
            f"there are {len(rows)} of {protocol.captions} captions of {len(places)} of "
            f"{protocol.images} images"
        )
    lacking = "; ".join(short)
    if lacking and not partial:
        raise UserError(
            f"{protocol.title} in {folder} is not complete: {lacking}. Complete it, or give "
            "partial=True to measure on what is there.",
            param="folder",
        )
    return SpeechBenchmark(protocol, rows, tuple(places), owners, lacking)


def run_speech_benchmark(
    benchmark: SpeechBenchmark,
    speech: SpeechEncoder,
    clip: ClipEncoder,
    folder: str | Path,
    *,
    transcriber: Transcriber | None = None,
    batch_size: int = 16,
    partial: bool = False,
    resamples: int = 1000,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Measure retrieval of images by speech, and of speech by images; write `benchmark.json`.

    Beside the speech encoder stand the CLIP's text encoder on transcripts, if there is a
    recognizer, and on the captions as written, if the data set has them.

    Args:
        benchmark: Benchmark, as `read_speech_benchmark` reads it.
        speech: Speech encoder into the CLIP's space.
        clip: CLIP with image and text encoders.
        folder: Folder of the results, and of embeddings and transcripts so far.
        transcriber: Recognizer of the baseline.
        batch_size: Captions per batch; it does not change the embeddings.
        partial: Leave out captions whose audio or image cannot be read.
        resamples: Bootstrap draws, over images.
        seed: Seed of the draws and of the control.
        on_progress: Called with the share of the encoding that is done.

    Returns:
        Content of `benchmark.json`.

    Raises:
        SpaceMismatchError: If the speech encoder is another CLIP's.
        UserError: If audio or an image cannot be read and `partial` is False, or the folder cannot
            be written to or holds embeddings of other captions.
    """
    speech.check_clip(clip.space("image"))
    folder = as_path(folder)
    with writing_to(folder):
        shares = _Shares(on_progress, parts=2 if transcriber is None else 3)
        part = _read(benchmark, speech, clip, folder, batch_size, partial, shares)
        rows = _embed(part, speech, clip, folder, transcriber, batch_size, shares)
        draws = {"resamples": resamples, "seed": seed}
        results = {
            **_facts(benchmark, part, speech),
            **draws,
            "results": [
                {"method": method, **asdict(one)}
                for method, embeds in rows.items()
                for one in _measure(part.images, embeds, part.owners, draws)
            ],
            "published": [
                asdict(row) for row in PUBLISHED_RECALLS.get(benchmark.protocol.name, ())
            ],
        }
        with replacing(folder / RESULTS_FILE) as path:
            path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return results


@dataclass(frozen=True)
class _Readable:
    """Captions that can be read, with their embeddings and those of their images."""

    rows: list[SpokenCaption]
    spoken: Tensor
    images: Tensor
    owners: list[int]
    unreadable: dict[str, str]


def _read(
    benchmark: SpeechBenchmark,
    speech: SpeechEncoder,
    clip: ClipEncoder,
    folder: Path,
    batch_size: int,
    partial: bool,
    shares: "_Shares",
) -> _Readable:
    """Encode speech and images; captions of which either cannot be read are left out."""
    embeds, unreadable = _encode_speech(benchmark, speech, folder, batch_size, shares)
    images, reasons = encode_images(clip, benchmark.images, on_progress=shares.next())
    owned = zip(benchmark.rows, benchmark.owners, strict=True)
    unreadable |= {row.id: reasons[owner] for row, owner in owned if owner in reasons}
    if unreadable and not partial:
        raise UserError(
            f"{len(unreadable)} spoken captions or their images cannot be read: "
            f"{next(iter(unreadable.values()))} Get them again, or give partial=True to leave them "
            "out.",
            param="folder",
        )
    kept = [
        (row, owner)
        for row, owner in zip(benchmark.rows, benchmark.owners, strict=True)
        if row.id not in unreadable
    ]
    if not kept:
        raise UserError(
            f"No spoken caption can be read: {next(iter(unreadable.values()))}", param="folder"
        )
    places = {owner: place for place, owner in enumerate(dict.fromkeys(o for _, o in kept))}
    return _Readable(
        rows=[row for row, _ in kept],
        spoken=torch.stack([embeds[row.id] for row, _ in kept]),
        images=images[list(places)],
        owners=[places[owner] for _, owner in kept],
        unreadable=unreadable,
    )


def _embed(
    part: _Readable,
    speech: SpeechEncoder,
    clip: ClipEncoder,
    folder: Path,
    transcriber: Transcriber | None,
    batch_size: int,
    shares: "_Shares",
) -> dict[str, Tensor]:
    """Return by method the embeddings of spoken captions."""
    rows = {f"speech encoder {speech.fingerprint}": part.spoken}
    if transcriber is not None:
        audio = {row.id: row.audio for row in part.rows}
        texts = transcribe(
            transcriber,
            audio,
            folder / "transcripts.jsonl",
            batch_size=batch_size,
            on_progress=shares.next(),
        )
        method = f"{transcriber.name}, CLIP text encoder"
        rows[method] = clip.encode_text([texts[key] for key in audio])
    words = [row.caption for row in part.rows if row.caption]
    if len(words) == len(part.rows):
        rows["captions as written, CLIP text encoder"] = clip.encode_text(words)
    return rows


def _facts(benchmark: SpeechBenchmark, part: _Readable, speech: SpeechEncoder) -> dict[str, Any]:
    """Return what is measured, for `benchmark.json`."""
    protocol = benchmark.protocol
    return {
        "format": FORMAT,
        "clip2clap": __version__,
        "benchmark": protocol.name,
        "title": protocol.title,
        "encoder": speech.space("audio").model_id,
        "fingerprint": speech.fingerprint,
        "clips": len(part.rows),
        "expected": protocol.captions,
        "lacking": benchmark.lacking,
        "unreadable": part.unreadable,
        "trained_on": [],
        "labels": [],
        "protocol": f"{len(part.images)} images; {protocol.source}",
    }


class _Shares:
    """Progress of several parts as one share."""

    def __init__(self, on_progress: Callable[[float], None] | None, *, parts: int):
        self._on_progress, self._parts, self._part = on_progress, parts, -1

    def next(self) -> Callable[[float], None]:
        """Return the function that takes the share of the next part."""
        self._part += 1
        part = self._part

        def advance(share: float) -> None:
            if self._on_progress is not None:
                self._on_progress((part + share) / self._parts)

        return advance


def _measure(
    images: Tensor, spoken: Tensor, owners: Sequence[int], draws: dict[str, int]
) -> list[Retrieval]:
    return measure_caption_retrieval(images, spoken, owners, directions=DIRECTIONS, **draws)


def _encode_speech(
    benchmark: SpeechBenchmark,
    speech: SpeechEncoder,
    folder: Path,
    batch_size: int,
    shares: _Shares,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return embeddings by caption, and the reasons of those that cannot be read."""
    clips = [Clip(row.id, _path(row), str(row.item)) for row in benchmark.rows]
    return encode_clips(
        speech,
        clips,
        folder / "embeddings",
        settings={
            "benchmark": benchmark.protocol.name,
            "int16": False,
            "encoder": speech.fingerprint,
        },
        batch_size=batch_size,
        on_progress=shares.next(),
    )


def _path(row: SpokenCaption) -> Path:
    assert isinstance(row.audio, Path)
    return row.audio
