"""What is left of a thing that went into the other sense and came back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.evaluation.cache import MadeFiles, make_pictures, make_sounds
from clip2clap.evaluation.encoding import hear_files, see_files
from clip2clap.evaluation.translation import nearest_labels
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.metrics.bootstrap import Estimate, Resamples
from clip2clap.metrics.retrieval import distinct_rows


@dataclass(frozen=True)
class RoundTripScores:
    """How much ends are like starts."""

    similarity: Estimate
    """Mean cosine similarity of end and start, in the encoder of the start."""

    kind: Estimate | None
    """Share of the ends that are nearest to their own kind's mean start; None without labels. A
    thing's own start is left out of that mean, unless it is the kind's only one."""


@dataclass(frozen=True)
class RoundTrip:
    """A way there and back, beside its controls."""

    scores: RoundTripScores
    """Of the ends."""

    wrong_source: RoundTripScores
    """The same ends held against the start of another, of another kind if there are labels."""

    real: RoundTripScores | None
    """The other starts of a kind in place of the ends: how alike two real ones are; None without
    labels, or if no kind has two."""


def measure_round_trip(
    starts: Tensor,
    ends: Tensor,
    *,
    labels: Sequence[str] | None,
    others: Sequence[int],
    draws: Resamples,
) -> tuple[RoundTrip, dict[str, np.ndarray]]:
    """Hold ends against starts, in the encoder of the starts.

    Args:
        starts: Shape (n, d), unit norm.
        ends: Shape (n, d), unit norm.
        labels: The kind of each row, at least two in all; None if they aren't known.
        others: For each row another, of another kind.
        draws: Of the rows.

    Returns:
        Figures; and those of single rows: `round_trip` and, with labels, `round_trip_kind`, shape
        (n,).
    """
    rows = {"round_trip": (ends * starts).sum(1).numpy()}
    wrong = {"round_trip": (ends * starts[list(others)]).sum(1).numpy()}
    real = None
    if labels is not None:
        names = sorted(set(labels))
        kinds = torch.tensor([names.index(label) for label in labels])
        same = distinct_rows(starts)[1]
        nearest = nearest_labels(ends, starts, same, kinds)
        rows["round_trip_kind"] = (nearest == kinds).numpy()
        wrong["round_trip_kind"] = (nearest == kinds[list(others)]).numpy()
        alike = similarity_within_kinds(starts, labels)
        known = ~np.isnan(alike)
        if known.any():
            right = (nearest_labels(starts, starts, same, kinds) == kinds).numpy()
            again = Resamples(range(int(known.sum())), resamples=draws.resamples)
            real = RoundTripScores(again.mean(alike[known]), again.share(right[known]))
    return RoundTrip(_scores(rows, draws), _scores(wrong, draws), real), rows


def similarity_within_kinds(embeds: Tensor, labels: Sequence[str]) -> np.ndarray:
    """Tell how much each thing is like the others of its kind.

    Args:
        embeds: Shape (n, d), unit norm; equal vectors are one thing.
        labels: The kind of each.

    Returns:
        Mean cosine similarity with the others, shape (n,); NaN where there are none.
    """
    first, same = distinct_rows(embeds)
    kinds = np.unique(np.array(labels), return_inverse=True)[1]
    similar = (embeds @ embeds[first].T).double().numpy()
    counts = (kinds[:, None] == kinds[first.numpy()]) & (
        same.numpy()[:, None] != np.arange(len(first))
    )
    with np.errstate(invalid="ignore"):
        return (similar * counts).sum(1) / counts.sum(1)


def back_to_sounds(
    pipeline: ImageToAudioPipeline,
    pictures: Sequence[Path],
    folder: Path,
    *,
    seed: int,
    batch_size: int,
    advance: Callable[[float], None],
) -> MadeFiles:
    """Make sounds of pictures that were made of sounds.

    Args:
        pipeline: With its CLIP and its translator.
        pictures: Their files.
        folder: Where sounds go.
        seed: The sound at place i gets the noise of seed + i.
        batch_size: Sounds made at a time.
        advance: Called with the share that is done.

    Raises:
        UserError: If the pipeline has no CLIP or no translator.
    """
    if pipeline.clip is None or pipeline.translator is None:
        raise UserError("The way back lacks its CLIP or its translator. Load it with both.")
    seen = see_files(pipeline.clip, pictures)
    with torch.no_grad():
        vectors = pipeline.translator(seen.to(pipeline.translator.device)).float().cpu()
    return make_sounds(
        pipeline,
        vectors,
        folder,
        [file.stem for file in pictures],
        seed=seed,
        num_inference_steps=None,
        audio_length_in_s=None,
        batch_size=batch_size,
        advance=advance,
    )


def back_to_pictures(
    pipeline: AudioToImagePipeline,
    sounds: Sequence[Path],
    folder: Path,
    *,
    seed: int,
    batch_size: int,
    advance: Callable[[float], None],
) -> MadeFiles:
    """Make pictures of sounds that were made of pictures; the arguments as in `back_to_sounds`.

    Raises:
        UserError: If the pipeline has no CLAP or no translator.
    """
    if pipeline.clap is None or pipeline.translator is None:
        raise UserError("The way back lacks its CLAP or its translator. Load it with both.")
    # Straight from the CLAP: a made sound may be silent, which is bad but measured.
    with torch.no_grad():
        vectors = pipeline.translate(hear_files(pipeline.clap, sounds))
    return make_pictures(
        pipeline,
        vectors,
        folder,
        [file.stem for file in sounds],
        seed=seed,
        num_inference_steps=None,
        batch_size=batch_size,
        advance=advance,
    )


def _scores(rows: Mapping[str, np.ndarray], draws: Resamples) -> RoundTripScores:
    kind = rows.get("round_trip_kind")
    return RoundTripScores(
        draws.mean(rows["round_trip"]), None if kind is None else draws.share(kind)
    )
