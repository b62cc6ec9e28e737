"""How well translators do on pairs of embeddings, beside what chance and a constant answer give."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import stats
from sklearn.decomposition import PCA
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.metrics.bootstrap import Estimate, Resamples
from clip2clap.metrics.retrieval import RECALLS, Retrieval, distinct_rows, measure_retrieval
from clip2clap.training.pairs import Pairs
from clip2clap.translator.base import Translator

NEIGHBOURS = 10
"""How many nearest neighbours count, for hubs and for CSLS."""

MEAN_VECTOR = "mean vector"
"""The baseline that gives the mean target for every prediction."""

# So many points show the shape of a cloud, and a page of ten clouds stays small.
_POINTS = 1000
_AT_ONCE = 8192


@dataclass(frozen=True)
class LabelSet:
    """Which kind each prediction is nearest to."""

    names: list[str]
    """All kinds, in alphabetical order."""

    accuracy: Estimate
    """Share of the rows whose prediction is nearest to their own kind."""

    balanced: float
    """The mean over the kinds of that share."""

    confusion: list[list[int]]
    """Rows of a kind (first index) by the kind they are nearest to (second)."""


@dataclass(frozen=True)
class Scores:
    """What was measured of one set of predictions."""

    name: str
    """The translator's, or the control's."""

    forward: dict[str, Estimate]
    """From prediction to target: `recall_at_1`, `recall_at_5`, `recall_at_10`, `median_rank`,
    `mrr`."""

    backward: dict[str, Estimate]
    """The same from target to prediction."""

    csls: dict[str, Estimate]
    """The same from prediction to target, ranked by CSLS."""

    cosine: Estimate
    """Mean cosine similarity of prediction and target."""

    hubness: Estimate
    """Skewness of the 10-occurrence: 0 if all targets are found equally often."""

    csls_hubness: Estimate
    """The same among neighbours by CSLS."""

    gap_distance: Estimate
    """Distance between the means of predictions and targets (the modality gap), 0 to 2."""

    gap_angle: Estimate
    """Angle between the two means, in degrees."""

    kinds: LabelSet | None
    """Where rows have labels."""


@dataclass(frozen=True)
class TranslatorScores:
    """One translator beside its control."""

    scores: Scores
    """On the pairs."""

    shuffled: Scores
    """The same predictions against other items' targets."""

    parameters: int
    """The translator's weights."""

    seconds: float
    """To translate all rows."""


@dataclass(frozen=True)
class EmbeddingEvaluation:
    """All that was measured on one set of pairs."""

    rows: int
    """Pairs measured on."""

    items: int
    """Things they come from, which the bootstrap draws."""

    gallery: int
    """Distinct targets."""

    resamples: int
    """Draws of the bootstrap."""

    gap_before: dict[str, Estimate] | None
    """`distance` and `angle` between the means of source and target, where they are of one size;
    across two models these axes have nothing to do with each other."""

    mean_vector: Scores
    """The baseline that ignores the source."""

    translators: list[TranslatorScores]
    """In the order given."""

    per_row: dict[str, np.ndarray] = field(repr=False)
    """By `TRANSLATOR/figure`: `forward` and `backward` ranks, `cosine`, and `kind`, whether the
    nearest kind is right; shape (n,)."""

    clouds: dict[str, Any] = field(repr=False)
    """Points of the principal planes, for drawing."""


def evaluate(
    translators: Mapping[str, Translator],
    pairs: Pairs,
    *,
    labels: Sequence[str] | None = None,
    mean: Tensor | None = None,
    resamples: int = 1000,
    seed: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> EmbeddingEvaluation:
    """Measure translators on pairs that they should not have learnt from.

    Args:
        translators: By name; each from the pairs' source space into their target space.
        pairs: The pairs.
        labels: The kind of each row.
        mean: What the baseline answers always, shape (d,); the mean of the pairs' own targets if
            None, which favours it.
        resamples: Draws of the bootstrap.
        seed: Of the bootstrap and of the shuffled control.
        on_progress: Called with the share that is done.

    Returns:
        Figures with 95 % intervals, and the ranks row by row.

    Raises:
        SpaceMismatchError: If a translator was made for other spaces.
        UserError: If there are fewer than two items, or a vector is zero or not finite.
    """
    if not translators:
        raise UserError("There is no translator to evaluate: name at least one.")
    for translator in translators.values():
        if pairs.source_space is not None:
            translator.check_source(pairs.source_space)
        if pairs.target_space is not None:
            translator.check_target(pairs.target_space)
    bench = _Bench(pairs, labels, Resamples(_items(pairs), resamples=resamples, seed=seed), seed)
    done, steps = 0, 2 * len(translators) + 1

    def measure(name: str, predicted: Tensor, others: Tensor | None = None) -> Scores:
        nonlocal done
        scores = bench.measure(name, predicted, others)
        done += 1
        if on_progress is not None:
            on_progress(done / steps)
        return scores

    constant = unit_norm(bench.target.mean(0) if mean is None else mean)
    mean_vector = measure(MEAN_VECTOR, constant.expand_as(bench.target))
    results, clouds = [], bench.clouds()
    for name, translator in translators.items():
        start = time.perf_counter()
        predicted = _translate(translator, bench.source)
        seconds = time.perf_counter() - start
        results.append(
            TranslatorScores(
                scores=measure(name, predicted),
                shuffled=measure(f"{name}/shuffled", predicted, bench.others),
                parameters=sum(weight.numel() for weight in translator.parameters()),
                seconds=seconds,
            )
        )
        clouds["after"][name] = bench.cloud_after(predicted)
    return EmbeddingEvaluation(
        rows=len(pairs),
        items=bench.resamples.items,
        gallery=bench.gallery,
        resamples=resamples,
        gap_before=bench.gap_before(),
        mean_vector=mean_vector,
        translators=results,
        per_row=bench.per_row,
        clouds=clouds,
    )


class _Bench:
    """The pairs and what all measurements on them share."""

    def __init__(self, pairs: Pairs, labels: Sequence[str] | None, resamples: Resamples, seed: int):
        everything = torch.arange(len(pairs))
        self.source = pairs.source[everything]
        self.target = unit_norm(pairs.target[everything])
        self.labels, self.resamples = labels, resamples
        if labels is not None and len(labels) != len(pairs):
            raise UserError(f"Expected a label for each of {len(pairs)} rows, got {len(labels)}.")
        if resamples.items < 2:
            raise UserError(
                "All rows come from one item, so nothing can be told apart. Name another --item "
                "column or give more pairs."
            )
        first, self.truth = distinct_rows(self.target)
        self.gallery = len(first)
        self.others = other_items(_items(pairs), seed)
        self.per_row: dict[str, np.ndarray] = {}
        rng = np.random.default_rng(seed)
        shown = rng.permutation(len(pairs))[:_POINTS]
        self.shown = torch.from_numpy(np.sort(shown))

    def measure(self, name: str, predicted: Tensor, others: Tensor | None) -> Scores:
        """Measure predictions, and keep the figures of every row.

        Args:
            name: What to call them.
            predicted: Shape (n, d), unit norm.
            others: The rows whose targets and labels are held to be the true ones; each row's own
                if None.
        """
        target = self.target if others is None else self.target[others]
        found = measure_retrieval(predicted, target, neighbours=NEIGHBOURS)
        forward, backward = found.forward.numpy(), found.backward.numpy()
        cosine = (predicted * target).sum(1).numpy()
        keep = {"forward": forward, "backward": backward, "cosine": cosine}
        kinds = None
        if self.labels is not None:
            kinds, keep["kind"] = self._kinds(predicted, self.labels, others)
        self.per_row |= {f"{name}/{figure}": values for figure, values in keep.items()}
        hubness, csls_hubness = self._hubness(found)
        distance, angle = self._gap(predicted, target)
        return Scores(
            name=name,
            forward=self._summary(forward),
            backward=self._summary(backward),
            csls=self._summary(found.csls.numpy()),
            cosine=self.resamples.mean(cosine),
            hubness=hubness,
            csls_hubness=csls_hubness,
            gap_distance=distance,
            gap_angle=angle,
            kinds=kinds,
        )

    def gap_before(self) -> dict[str, Estimate] | None:
        """Measure the gap between the two sides as they are, where they are of one size."""
        if self.source.shape[1] != self.target.shape[1]:
            return None
        distance, angle = self._gap(unit_norm(self.source), self.target)
        return {"distance": distance, "angle": angle}

    def clouds(self) -> dict[str, Any]:
        """Lay each side on its own principal plane."""
        shown = self.shown
        return {
            "labels": None if self.labels is None else [self.labels[i] for i in shown.tolist()],
            "source": _plane(unit_norm(self.source[shown])),
            "target": _plane(self.target[shown]),
            "after": {},
        }

    def cloud_after(self, predicted: Tensor) -> np.ndarray:
        """Lay predictions and targets on one plane, shape (2, points, 2)."""
        both = torch.cat([predicted[self.shown], self.target[self.shown]])
        return _plane(both).reshape(2, len(self.shown), 2)

    def _summary(self, ranks: np.ndarray) -> dict[str, Estimate]:
        return {
            **{f"recall_at_{k}": self.resamples.share(ranks <= k) for k in RECALLS},
            "mrr": self.resamples.mean(1 / ranks),
            "median_rank": self.resamples.median(ranks),
        }

    def _hubness(self, found: Retrieval) -> tuple[Estimate, Estimate]:
        draws = Resamples(range(len(found.occurrences)), resamples=self.resamples.resamples)
        return (
            _skewness(found.occurrences.numpy(), draws),
            _skewness(found.csls_occurrences.numpy(), draws),
        )

    def _gap(self, one: Tensor, other: Tensor) -> tuple[Estimate, Estimate]:
        """Give the distance and the angle between two means (Liang et al. 2022, 2203.02053).

        Chance adds length across the many dimensions, so intervals are those of the gap seen in
        its own direction, and of the angle within the plane of the two means.
        """
        means = torch.stack([one.double().mean(0), other.double().mean(0)])
        gap = means[0] - means[1]
        along = ((one - other) @ unit_norm(gap)).numpy()
        plane = torch.linalg.qr(means.T).Q.float()
        values = torch.cat([one @ plane, other @ plane], dim=1).numpy()
        angle = _angle(values.mean(0, keepdims=True))[0]
        turns = _angle(self.resamples.means(values)) * (1 if angle >= 0 else -1)
        return (
            Estimate.of(gap.norm().item(), self.resamples.means(along)),
            Estimate.of(abs(angle), turns),
        )

    def _kinds(
        self, predicted: Tensor, labels: Sequence[str], others: Tensor | None
    ) -> tuple[LabelSet, np.ndarray]:
        names = sorted(set(labels))
        places = {name: place for place, name in enumerate(names)}
        truth = torch.tensor([places[label] for label in labels])
        nearest = nearest_labels(predicted, self.target, self.truth, truth)
        truth = truth if others is None else truth[others]
        confusion = torch.zeros(len(names), len(names), dtype=torch.long)
        confusion.index_put_((truth, nearest), torch.ones_like(truth), accumulate=True)
        right = (nearest == truth).numpy()
        return (
            LabelSet(
                names=names,
                accuracy=self.resamples.share(right),
                balanced=(confusion.diag() / confusion.sum(1)).mean().item(),
                confusion=confusion.tolist(),
            ),
            right,
        )


def nearest_labels(predicted: Tensor, target: Tensor, same: Tensor, kinds: Tensor) -> Tensor:
    """Find the kind whose mean target is nearest to each prediction.

    A prediction's own target is left out of the mean of its kind, unless it is the only one: the
    answer must not help to find itself. Equal targets count once in a kind's mean.

    Args:
        predicted: Shape (n, d), unit norm.
        target: Shape (n, d), unit norm.
        same: Which rows have an equal target, as `distinct_rows` tells, shape (n,).
        kinds: The kind of each row, from 0, shape (n,).

    Returns:
        The nearest kind of each row, shape (n,).
    """
    count = int(kinds.max()) + 1
    marks = torch.stack([kinds, same], dim=1)
    pairs, inverse = marks.unique(dim=0, return_inverse=True)
    first = torch.full((len(pairs),), len(kinds)).scatter_reduce(
        0, inverse, torch.arange(len(kinds)), "amin"
    )
    sums = torch.zeros(count, target.shape[1]).index_add_(0, pairs[:, 0], target[first])
    sizes = pairs[:, 0].bincount(minlength=count)
    scores = predicted @ unit_norm(sums).T
    alone = sizes[kinds] == 1
    without = unit_norm(sums[kinds] - target)
    own = torch.where(alone, scores.gather(1, kinds[:, None])[:, 0], (predicted * without).sum(1))
    return scores.scatter(1, kinds[:, None], own[:, None]).argmax(1)


def _items(pairs: Pairs) -> Sequence[Any]:
    return range(len(pairs)) if pairs.items is None else pairs.items


def other_items(items: Sequence[Any], seed: int) -> Tensor:
    """Give each row a row of another item, in a cycle through the items in random order.

    Args:
        items: What each row comes from; of at least two kinds.
        seed: Of the order.

    Returns:
        For each row the place of another, shape (n,).
    """
    names = sorted(set(items))
    rng = np.random.default_rng(seed)
    order = [names[i] for i in rng.permutation(len(names))]
    following = dict(zip(order, [*order[1:], order[0]], strict=True))
    rows: dict[Any, list[int]] = {}
    for row, item in enumerate(items):
        rows.setdefault(item, []).append(row)
    seen: dict[Any, int] = {}
    others = []
    for item in items:
        at = seen[item] = seen.get(item, -1) + 1
        choice = rows[following[item]]
        others.append(choice[at % len(choice)])
    return torch.tensor(others)


@torch.no_grad()
def _translate(translator: Translator, source: Tensor) -> Tensor:
    return torch.cat([translator(part.float()).float() for part in source.split(_AT_ONCE)])


def _plane(vectors: Tensor) -> np.ndarray:
    """Project vectors on their two principal axes, shape (n, 2)."""
    if min(vectors.shape) < 2:
        return np.zeros((len(vectors), 2))
    return PCA(2, svd_solver="covariance_eigh").fit_transform(vectors.numpy())


def _skewness(occurrences: np.ndarray, draws: Resamples) -> Estimate:
    """Give the skewness of the k-occurrence (Radovanovic et al. 2010) with its interval."""
    x = occurrences.astype(np.float64)

    def skewness(means: np.ndarray) -> np.ndarray:
        first, second, third = means.T
        spread = np.maximum(second - first**2, 0)
        # Where every target is found equally often, none is a hub.
        return np.where(
            spread > 1e-9,
            (third - 3 * first * second + 2 * first**3) / np.maximum(spread, 1e-9) ** 1.5,
            0.0,
        )

    value = stats.skew(x) if np.ptp(x) else 0.0
    return Estimate.of(float(value), skewness(draws.means(np.stack([x, x**2, x**3], axis=1))))


def _angle(coordinates: np.ndarray) -> np.ndarray:
    """Give the turn in degrees from one vector of a plane to another, (draws, 4) to (draws,)."""
    one, other = (np.arctan2(coordinates[:, at + 1], coordinates[:, at]) for at in (0, 2))
    return (np.degrees(one - other) + 180) % 360 - 180
