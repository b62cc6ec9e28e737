"""Evaluation of translators on pairs of embeddings, beside controls."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.math import unit_norm
from clip2clap.evaluation.encoding import translate
from clip2clap.metrics.bootstrap import Estimate, Resamples
from clip2clap.metrics.classification import (
    balanced_accuracy,
    confusion_matrix,
    nearest_class_means,
)
from clip2clap.metrics.retrieval import RECALLS, distinct_rows, measure_retrieval
from clip2clap.training.pairs import Pairs
from clip2clap.translator.base import Translator

NEIGHBORS = 10
"""Nearest neighbors that count for hubness and CSLS."""

MEAN_VECTOR = "mean vector"
"""Baseline that returns the mean target for every prediction."""

# Enough points to show a cloud's shape; a page of ten clouds stays small.
_POINTS = 1000
_BATCH_SIZE = 8192


@dataclass(frozen=True)
class LabelScores:
    """Classification of predictions by the nearest mean target of a class.

    `names` are the classes in alphabetical order, `accuracy` is the share of the rows whose
    prediction is nearest to their own class, `balanced` its mean over the classes, and `confusion`
    counts rows by their class (rows) and the nearest class (columns).
    """

    names: list[str]
    accuracy: Estimate
    balanced: float
    confusion: list[list[int]]


@dataclass(frozen=True)
class Scores:
    """Metrics of one set of predictions: a translator's or a control's.

    `forward` is retrieval of the target by the prediction (`recall_at_1`, `recall_at_5`,
    `recall_at_10`, `median_rank`, `mrr`), `backward` of the prediction by the target, and `csls`
    is `forward` ranked by CSLS. `hubness` is the skewness of the 10-occurrence, 0 if all targets
    are found equally often; `csls_hubness` is that among neighbors by CSLS. `gap_distance` (0 to 2)
    and `gap_angle` (degrees) are between the means of predictions and targets: the modality gap.
    """

    name: str
    forward: dict[str, Estimate]
    backward: dict[str, Estimate]
    csls: dict[str, Estimate]
    cosine: Estimate
    hubness: Estimate
    csls_hubness: Estimate
    gap_distance: Estimate
    gap_angle: Estimate
    nearest_label: LabelScores | None


@dataclass(frozen=True)
class TranslatorScores:
    """Metrics of one translator, and of the same predictions against other items' targets.

    `parameters` is the number of weights, `seconds` the time to translate all rows.
    """

    scores: Scores
    shuffled: Scores
    parameters: int
    seconds: float


@dataclass(frozen=True)
class EmbeddingEvaluation:
    """Evaluation of translators on one set of pairs, in the order of the translators.

    The bootstrap draws `items`, the sources of the rows; `gallery` is the number of distinct
    targets. `gap_before` has the `distance` and `angle` between the means of source and target, if
    they have one size; the axes of two models are unrelated. `mean_vector` is the baseline that
    ignores the source. `per_row` has metrics by `TRANSLATOR/METRIC`, shape (n,): `forward` and
    `backward` ranks, `cosine`, and `nearest_label` (true where it is right); `clouds` the points of
    the principal planes, for drawing.
    """

    rows: int
    items: int
    gallery: int
    resamples: int
    gap_before: dict[str, Estimate] | None
    mean_vector: Scores
    translators: list[TranslatorScores]
    per_row: dict[str, np.ndarray] = field(repr=False)
    clouds: dict[str, Any] = field(repr=False)


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
    """Evaluate translators on pairs of embeddings that they were not trained on.

    Args:
        translators: Translators by name, from the pairs' source space into their target space.
        pairs: Pairs of embeddings, as `choose_rows` reads them from a table.
        labels: Class of each row.
        mean: Constant answer of the baseline, shape (d,); if None the mean of the pairs' own
            targets, which favors it.
        resamples: Bootstrap draws.
        seed: Seed of the bootstrap and of the shuffled control.
        on_progress: Called with the share that is done.

    Returns:
        Metrics with 95 % intervals, and the ranks per row.

    Raises:
        SpaceMismatchError: If a translator belongs to other spaces.
        UserError: If there are fewer than two items, or a vector is zero or not finite.

    Examples:
        >>> import torch
        >>> from clip2clap import AutoTranslator
        >>> from clip2clap.training.pairs import Pairs
        >>> demo = AutoTranslator.from_pretrained("demo")
        >>> pairs = Pairs(torch.randn(20, demo.source_dim), torch.randn(20, demo.target_dim))
        >>> evaluation = evaluate({"demo": demo}, pairs)
        >>> evaluation.translators[0].scores.forward["recall_at_10"]
        Estimate(value=..., low=..., high=...)
    """
    _check(translators, pairs, labels)
    report = on_progress or (lambda share: None)
    steps = 2 * len(translators) + 1
    evaluator = _Evaluator(pairs, labels, resamples, seed, lambda done: report(done / steps))
    constant = unit_norm(evaluator.target.mean(0) if mean is None else mean)
    mean_vector = evaluator.measure(MEAN_VECTOR, constant.expand_as(evaluator.target))
    clouds = evaluator.clouds()
    return EmbeddingEvaluation(
        translators=[
            evaluator.measure_translator(name, translator, clouds["after"])
            for name, translator in translators.items()
        ],
        rows=len(pairs),
        items=evaluator.draws.items,
        gallery=evaluator.gallery,
        resamples=resamples,
        gap_before=evaluator.gap_before(),
        mean_vector=mean_vector,
        per_row=evaluator.per_row,
        clouds=clouds,
    )


def other_rows(items: Sequence[Any], seed: int) -> Tensor:
    """Return for each row a row of another item, in a cycle through the items in random order.

    `items` has the item of each row; at least two distinct ones. The indices have shape (n,).
    """
    names, places = np.unique(np.asarray(items), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    rows = np.split(np.argsort(places, kind="stable"), np.bincount(places).cumsum()[:-1])
    others = np.empty(len(items), np.int64)
    for item, following in zip(order, np.roll(order, -1), strict=True):
        others[rows[item]] = np.resize(rows[following], len(rows[item]))
    return torch.from_numpy(others)


class _Evaluator:
    """Evaluator of predictions on one set of pairs."""

    def __init__(
        self,
        pairs: Pairs,
        labels: Sequence[str] | None,
        resamples: int,
        seed: int,
        on_done: Callable[[int], None],
    ):
        items = pairs.items or range(len(pairs))
        self.draws = Resamples(items, resamples=resamples, seed=seed)
        if self.draws.items < 2:
            raise UserError(
                "All rows come from one item, so nothing can be compared. Choose another item "
                "column or more pairs.",
                param="item",
            )
        everything = torch.arange(len(pairs))
        self.source = pairs.source[everything]
        self.target = unit_norm(pairs.target[everything])
        self.labels, self.done, self.on_done = labels, 0, on_done
        first, self.same = distinct_rows(self.target)
        self.gallery = len(first)
        self.others = other_rows(items, seed)
        self.per_row: dict[str, np.ndarray] = {}
        shown = np.random.default_rng(seed).permutation(len(pairs))[:_POINTS]
        self.shown = torch.from_numpy(np.sort(shown))

    def measure_translator(
        self, name: str, translator: Translator, clouds: dict[str, np.ndarray]
    ) -> TranslatorScores:
        """Measure a translator and its shuffled control, and add its points to `clouds`."""
        start = time.perf_counter()
        batches = self.source.split(_BATCH_SIZE)
        predicted = torch.cat([translate(translator, batch.float()) for batch in batches])
        seconds = time.perf_counter() - start
        both = torch.cat([predicted[self.shown], self.target[self.shown]])
        clouds[name] = principal_plane(both).reshape(2, len(self.shown), 2)
        return TranslatorScores(
            scores=self.measure(name, predicted),
            shuffled=self.measure(f"{name}/shuffled", predicted, self.others),
            parameters=sum(weight.numel() for weight in translator.parameters()),
            seconds=seconds,
        )

    def measure(self, name: str, predicted: Tensor, others: Tensor | None = None) -> Scores:
        """Measure predictions (n, d) of unit norm, and keep the metrics per row.

        With `others` the targets and labels of those rows count as the true ones.
        """
        target = self.target if others is None else self.target[others]
        found = measure_retrieval(predicted, target, neighbors=NEIGHBORS)
        forward, backward = found.forward.numpy(), found.backward.numpy()
        cosine = (predicted * target).sum(1).numpy()
        rows = {"forward": forward, "backward": backward, "cosine": cosine}
        label_scores = None
        if self.labels is not None:
            label_scores, rows["nearest_label"] = self._classify(predicted, self.labels, others)
        self.per_row |= {f"{name}/{metric}": values for metric, values in rows.items()}
        targets = Resamples(range(len(found.occurrences)), resamples=self.draws.resamples)
        distance, angle = modality_gap(predicted, target, self.draws)
        self.done += 1
        self.on_done(self.done)
        return Scores(
            name=name,
            forward=self._summarize(forward),
            backward=self._summarize(backward),
            csls=self._summarize(found.csls.numpy()),
            cosine=self.draws.mean(cosine),
            hubness=hubness(found.occurrences.numpy(), targets),
            csls_hubness=hubness(found.csls_occurrences.numpy(), targets),
            gap_distance=distance,
            gap_angle=angle,
            nearest_label=label_scores,
        )

    def gap_before(self) -> dict[str, Estimate] | None:
        """Measure the gap between source and target, if they have one size."""
        if self.source.shape[1] != self.target.shape[1]:
            return None
        distance, angle = modality_gap(unit_norm(self.source), self.target, self.draws)
        return {"distance": distance, "angle": angle}

    def clouds(self) -> dict[str, Any]:
        """Project each side on its own principal plane."""
        shown = self.shown
        return {
            "labels": None if self.labels is None else [self.labels[i] for i in shown.tolist()],
            "source": principal_plane(unit_norm(self.source[shown])),
            "target": principal_plane(self.target[shown]),
            "after": {},
        }

    def _summarize(self, ranks: np.ndarray) -> dict[str, Estimate]:
        return {
            **{f"recall_at_{k}": self.draws.share(ranks <= k) for k in RECALLS},
            "mrr": self.draws.mean(1 / ranks),
            "median_rank": self.draws.median(ranks),
        }

    def _classify(
        self, predicted: Tensor, labels: Sequence[str], others: Tensor | None
    ) -> tuple[LabelScores, np.ndarray]:
        names, places = np.unique(np.array(labels), return_inverse=True)
        truth = torch.from_numpy(places)
        nearest = nearest_class_means(predicted, self.target, self.same, truth)
        truth = truth if others is None else truth[others]
        right = (nearest == truth).numpy()
        scores = LabelScores(
            names=names.tolist(),
            accuracy=self.draws.share(right),
            balanced=balanced_accuracy(nearest, truth),
            confusion=confusion_matrix(nearest, truth, len(names)).tolist(),
        )
        return scores, right


def _check(
    translators: Mapping[str, Translator], pairs: Pairs, labels: Sequence[str] | None
) -> None:
    if not translators:
        raise UserError("There is no translator to evaluate: name at least one.")
    for translator in translators.values():
        translator.check_source(pairs.source_space)
        translator.check_target(pairs.target_space)
    if labels is not None and len(labels) != len(pairs):
        raise UserError(
            f"Expected a label for each of {len(pairs)} rows, got {len(labels)}.", param="labels"
        )


def hubness(occurrences: np.ndarray, draws: Resamples) -> Estimate:
    """Compute the skewness of the k-occurrence, 0 if all targets are found equally often.

    See Radovanović et al. (2010), https://www.jmlr.org/papers/v11/radovanovic10a.html. Occurrences,
    shape (m,), count how many predictions each target is a nearest neighbor of.
    """
    from scipy import stats

    x = occurrences.astype(np.float64)

    def skewness(means: np.ndarray) -> np.ndarray:
        first, second, third = means.T
        variance = np.maximum(second - first**2, 0)
        # Where every target is found equally often, none is a hub.
        return np.where(
            variance > 1e-9,
            (third - 3 * first * second + 2 * first**3) / np.maximum(variance, 1e-9) ** 1.5,
            0.0,
        )

    value = stats.skew(x) if np.ptp(x) else 0.0
    return Estimate.of(float(value), skewness(draws.means(np.stack([x, x**2, x**3], axis=1))))


def modality_gap(one: Tensor, other: Tensor, draws: Resamples) -> tuple[Estimate, Estimate]:
    """Compute the distance between two means of unit vectors (n, d), and their angle in degrees.

    See Liang et al. (2022), arXiv 2203.02053. Chance adds length across the many dimensions, so
    intervals are those of the gap in its own direction, and of the angle within the plane of the
    two means.
    """
    means = torch.stack([one.double().mean(0), other.double().mean(0)])  # (2, d)
    gap = means[0] - means[1]
    along = ((one - other) @ unit_norm(gap)).numpy()  # (n,)
    plane = torch.linalg.qr(means.T).Q.float()  # (d, 2)
    values = torch.cat([one @ plane, other @ plane], dim=1).numpy()  # (n, 4)
    angle = _angle(values.mean(0, keepdims=True))[0]
    turns = _angle(draws.means(values)) * (1 if angle >= 0 else -1)
    return (
        Estimate.of(gap.norm().item(), draws.means(along)),
        Estimate.of(abs(angle), turns),
    )


def principal_plane(embeds: Tensor) -> np.ndarray:
    """Project embeddings (n, d) on their two principal axes, shape (n, 2)."""
    from sklearn.decomposition import PCA

    if min(embeds.shape) < 2:
        return np.zeros((len(embeds), 2))
    return PCA(2, svd_solver="covariance_eigh").fit_transform(embeds.numpy())


def _angle(coordinates: np.ndarray) -> np.ndarray:
    """Return the turn in degrees between two vectors of a plane, (draws, 4) to (draws,)."""
    one, other = (np.arctan2(coordinates[:, at + 1], coordinates[:, at]) for at in (0, 2))
    return (np.degrees(one - other) + 180) % 360 - 180
