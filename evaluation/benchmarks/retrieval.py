"""Retrieval between audio and captions: recall and mean average precision, both ways."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.math import unit_norm
from clip2clap.metrics.bootstrap import Estimate, Resamples

RECALLS = (1, 5, 10)
_PRECISION_AT = 10


@dataclass(frozen=True)
class Retrieval:
    """Recall at 1, 5 and 10 and mAP@10 of one direction, with 95 % intervals over clips."""

    direction: str
    """Name, such as `text to audio` and `audio to text`."""

    metrics: dict[str, Estimate]
    shuffled: dict[str, Estimate]
    """The same with each clip's captions replaced by another clip's."""


def measure_caption_retrieval(
    audio_embeds: Tensor,
    text_embeds: Tensor,
    clips: Sequence[int],
    *,
    directions: tuple[str, str] = ("text to audio", "audio to text"),
    resamples: int = 1000,
    seed: int = 0,
) -> list[Retrieval]:
    """Retrieve audio by each caption, and captions by each clip.

    Recall at k of audio to text is 1 if any caption of the clip is among the first k. Average
    precision at 10 sums the precision at each right hit among the first 10 and divides by the
    number of right answers, at most 10.

    Args:
        audio_embeds: Shape (n, d).
        text_embeds: Shape (m, d).
        clips: Index of each caption's clip, shape (m,).
        directions: Names of the two directions.
        resamples: Bootstrap draws.
        seed: Seed of the draws and of the control.

    Returns:
        Text to audio, and audio to text.

    Examples:
        >>> found = measure_caption_retrieval(torch.eye(4), torch.eye(4), range(4))
        >>> [(one.direction, one.metrics["recall_at_1"].value) for one in found]
        [('text to audio', 1.0), ('audio to text', 1.0)]
    """
    owners = torch.as_tensor(list(clips))
    scores = unit_norm(text_embeds) @ unit_norm(audio_embeds).T  # (m, n)
    count = len(audio_embeds)
    shift = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    following = torch.empty_like(shift)
    # Each clip's answers become those of the next one in a random cycle.
    following[shift] = shift.roll(-1)
    results = []
    for direction, table, items in (
        (directions[0], scores, owners.tolist()),
        (directions[1], scores.T, list(range(count))),
    ):
        draws = Resamples(items, resamples=resamples, seed=seed)
        found = []
        for answers in (owners, following[owners]):
            right = answers[:, None] == torch.arange(count)  # (m, n)
            found.append(_metrics(table, right if table is scores else right.T, draws))
        results.append(Retrieval(direction, *found))
    return results


def _metrics(scores: Tensor, right: Tensor, draws: Resamples) -> dict[str, Estimate]:
    """Measure queries (rows) against a gallery (columns), whose right answers are True."""
    best = scores.topk(min(_PRECISION_AT, scores.shape[1])).indices
    hits = right.gather(1, best)  # (queries, 10)
    ranks = torch.arange(1, hits.shape[1] + 1)
    precision = hits.cumsum(1) / ranks
    most = right.sum(1).clamp(min=1, max=_PRECISION_AT)
    average = (precision * hits).sum(1) / most
    metrics: dict[str, Any] = {
        f"recall_at_{k}": draws.share(hits[:, :k].any(1).numpy()) for k in RECALLS
    }
    return {**metrics, "map_at_10": draws.mean(np.asarray(average, np.float64))}
