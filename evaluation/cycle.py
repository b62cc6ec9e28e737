"""Round trips: image to audio to image, and audio to image to audio."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.evaluation.cache import GenerationCache, GenerationConfig, Pipeline, generate
from clip2clap.evaluation.encoding import encode_files, translate
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.metrics.bootstrap import Estimate, Resamples
from clip2clap.metrics.classification import nearest_class_means
from clip2clap.metrics.retrieval import distinct_rows


@dataclass(frozen=True)
class RoundTripScores:
    """Similarity of the ends of round trips to their sources, in the encoder of the sources.

    `nearest_label` is the share of the ends that are nearest to the mean source of their own class;
    None without labels. An item's own source is left out of that mean, unless it is the class's
    only one.
    """

    similarity: Estimate
    nearest_label: Estimate | None


@dataclass(frozen=True)
class RoundTrip:
    """Round trips beside their controls.

    `wrong_source` compares the ends with the source of another item, of another class if there are
    labels. `real` has other sources of the class in place of the ends: the similarity of two real
    ones; None without labels, or if no class has two.
    """

    scores: RoundTripScores
    wrong_source: RoundTripScores
    real: RoundTripScores | None


def measure_round_trip(
    sources: Tensor,
    ends: Tensor,
    *,
    labels: Sequence[str] | None,
    others: Sequence[int],
    draws: Resamples,
) -> tuple[RoundTrip, dict[str, np.ndarray]]:
    """Compare the ends of round trips with their sources, in the encoder of the sources.

    Sources and ends are unit vectors, shape (n, d); `others` has for each row the index of another,
    of another class if there are `labels`, at least two in all. Returned with the scores are the
    metrics per row, shape (n,): `round_trip` and, with labels, `round_trip_nearest_label`.
    """
    rows = {"round_trip": (ends * sources).sum(1).numpy()}
    wrong = {"round_trip": (ends * sources[list(others)]).sum(1).numpy()}
    real = None
    if labels is not None:
        names = sorted(set(labels))
        truth = torch.tensor([names.index(label) for label in labels])
        same = distinct_rows(sources)[1]
        nearest = nearest_class_means(ends, sources, same, truth)
        rows["round_trip_nearest_label"] = (nearest == truth).numpy()
        wrong["round_trip_nearest_label"] = (nearest == truth[list(others)]).numpy()
        alike = similarity_within_labels(sources, labels)
        known = ~np.isnan(alike)
        if known.any():
            right = (nearest_class_means(sources, sources, same, truth) == truth).numpy()
            again = Resamples(range(int(known.sum())), resamples=draws.resamples)
            real = RoundTripScores(again.mean(alike[known]), again.share(right[known]))
    return RoundTrip(_scores(rows, draws), _scores(wrong, draws), real), rows


def similarity_within_labels(embeds: Tensor, labels: Sequence[str]) -> np.ndarray:
    """Compute the mean cosine similarity of each unit vector to others of its class, shape (n,).

    Equal embeddings are one item; the result is NaN where the class has no other.
    """
    first, same = distinct_rows(embeds)
    places = np.unique(np.array(labels), return_inverse=True)[1]
    similar = (embeds @ embeds[first].T).double().numpy()  # (n, distinct)
    counts = (places[:, None] == places[first.numpy()]) & (
        same.numpy()[:, None] != np.arange(len(first))
    )
    with np.errstate(invalid="ignore"):
        return (similar * counts).sum(1) / counts.sum(1)


def generate_back(
    pipeline: Pipeline,
    files: Sequence[Path],
    folder: Path,
    *,
    config: GenerationConfig,
    advance: Callable[[float], None],
) -> GenerationCache:
    """Generate audio from generated images, or images from generated audio.

    The pipeline of the way back, with its encoder and its translator, uses its own steps and
    length.

    Raises:
        UserError: If the pipeline has no encoder or no translator.
    """
    is_audio = isinstance(pipeline, ImageToAudioPipeline)
    encoder = pipeline.clip if is_audio else pipeline.clap
    if encoder is None or pipeline.translator is None:
        raise UserError(
            f"The round trip's pipeline has no {'CLIP' if is_audio else 'CLAP'} or no translator. "
            "Load it with both.",
            param="round_trip",
        )
    # Without a check for silence: generated audio may be silent, which is bad but measured.
    embeds = translate(pipeline.translator, encode_files(encoder, files))
    return generate(
        pipeline,
        embeds,
        folder,
        [file.stem for file in files],
        config=replace(config, num_inference_steps=None, audio_length_in_s=None),
        advance=advance,
    )


def _scores(rows: Mapping[str, np.ndarray], draws: Resamples) -> RoundTripScores:
    right = rows.get("round_trip_nearest_label")
    return RoundTripScores(
        draws.mean(rows["round_trip"]), None if right is None else draws.share(right)
    )
