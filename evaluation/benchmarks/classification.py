"""Zero-shot classification and linear probes, with official folds, intervals and controls."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.math import unit_norm
from clip2clap.evaluation.benchmarks.folders import check_folds
from clip2clap.metrics.bootstrap import Estimate, Resamples
from clip2clap.metrics.classification import confusion_matrix

_TOP = 5
# Inverse strengths of the L2 penalty, of standardized embeddings.
_PENALTIES = (0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a method, overall and by official fold."""

    method: str
    """`zero-shot`, `linear probe` or `fine-tuned`."""

    protocol: str
    """Protocol of zero-shot prompts, or folds of a probe or of fine-tuning."""

    accuracy: Estimate
    """Share of clips that are right, with its 95 % interval over recordings."""

    top_5: Estimate | None
    """Share with the right label among the five best; None with fewer than ten labels."""

    folds: dict[int, float]
    """Accuracy by official fold."""

    unseen: Estimate | None
    """Accuracy on the folds that the encoder was not trained on, if it was trained on others."""

    mean_of_folds: float
    standard_deviation_of_folds: float
    shuffled: Estimate
    """Accuracy of the control, whose labels are shuffled."""

    chance: float
    confusion: list[list[int]]
    """Predicted labels (columns) by true label (rows); of the unseen folds, if some are seen."""

    predicted: np.ndarray
    """Index of the predicted label of each clip."""

    settings: dict[str, Any]
    """What else the accuracy depends on."""


class Classification:
    """Accuracies on one set of clips, whose bootstrap draws are shared.

    Args:
        labels: Index of each clip's label, shape (n,).
        folds: Official fold of each clip.
        items: Recording of each clip, whose clips are drawn together.
        num_labels: Number of labels.
        seen_folds: Folds that the encoder was trained on.
        resamples: Bootstrap draws.
        seed: Seed of the draws and of the shuffled controls.

    Examples:
        >>> labels = torch.arange(20) % 4
        >>> clips = Classification(labels, [1, 2] * 10, range(20), num_labels=4)
        >>> found = clips.zero_shot(torch.eye(4)[labels], torch.eye(4), protocol="laion")
        >>> found.accuracy.value, found.folds
        (1.0, {1: 1.0, 2: 1.0})
    """

    def __init__(
        self,
        labels: Tensor,
        folds: Sequence[int],
        items: Sequence[Any],
        *,
        num_labels: int,
        seen_folds: Sequence[int] = (),
        resamples: int = 1000,
        seed: int = 0,
    ):
        self.labels, self.folds = labels, np.asarray(folds)
        self._num_labels, self._seed = num_labels, seed
        self._draws = Resamples(list(items), resamples=resamples, seed=seed)
        self._unseen = None
        unseen = ~np.isin(self.folds, list(seen_folds))
        if unseen.any() and not unseen.all():
            chosen = [item for item, is_unseen in zip(items, unseen, strict=True) if is_unseen]
            self._unseen = unseen, Resamples(chosen, resamples=resamples, seed=seed)
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        self._shuffled = labels[order]

    def zero_shot(
        self, embeds: Tensor, label_embeds: Tensor, *, protocol: str, **settings: Any
    ) -> Accuracy:
        """Name each clip by the label with the most similar embedding.

        The control compares the predictions with the labels of other clips.

        Args:
            embeds: Shape (n, d).
            label_embeds: Embeddings of the labels' prompts, shape (labels, d).
            protocol: Name of the protocol.
            **settings: Entries of `Accuracy.settings`.
        """
        scores = unit_norm(embeds) @ unit_norm(label_embeds).T
        return self.scored("zero-shot", protocol, scores, **settings)

    def scored(self, method: str, protocol: str, scores: Tensor, **settings: Any) -> Accuracy:
        """Name each clip by the label with the highest score, shape (n, labels).

        The control, the method, the protocol and the settings are as in `zero_shot`.
        """
        shuffled = scores.argmax(1) == self._shuffled
        return self._accuracy(method, protocol, scores, shuffled, settings)

    def linear_probe(self, embeds: Tensor, **settings: Any) -> Accuracy:
        """Fit a logistic regression on all folds but one, and name the clips of that one.

        The penalty is chosen on the fold that follows the test fold, without the test fold; the
        regression is then fitted anew on all training folds. The control is trained on shuffled
        labels.

        Args:
            embeds: Shape (n, d).
            **settings: Entries of `Accuracy.settings`.

        Raises:
            UserError: If there are fewer than three folds.
        """
        names = check_folds(self.folds.tolist())
        values, labels = embeds.numpy(), self.labels.numpy()
        scores = torch.zeros(len(labels), self._num_labels)
        control = torch.zeros(len(labels), dtype=torch.bool)
        chosen = {}
        rng = np.random.default_rng(self._seed)
        for place, fold in enumerate(names):
            test, held_out = self.folds == fold, self.folds == names[(place + 1) % len(names)]
            train = ~test & ~held_out
            right = [
                (_fit(values[train], labels[train], c).predict(values[held_out])
                 == labels[held_out]).mean()
                for c in _PENALTIES
            ]  # fmt: skip
            penalty = chosen[fold] = _PENALTIES[int(np.argmax(right))]
            probe = _fit(values[~test], labels[~test], penalty)
            columns = torch.from_numpy(probe[-1].classes_)
            found = torch.full((int(test.sum()), self._num_labels), -torch.inf)
            found[:, columns] = torch.from_numpy(probe.predict_log_proba(values[test])).float()
            scores[torch.from_numpy(test)] = found
            wrong = _fit(values[~test], rng.permutation(labels[~test]), penalty)
            control[torch.from_numpy(test)] = torch.from_numpy(
                wrong.predict(values[test]) == labels[test]
            )
        described = {"penalties": {str(fold): c for fold, c in chosen.items()}, **settings}
        return self._accuracy("linear probe", f"{len(names)} folds", scores, control, described)

    def _accuracy(
        self, method: str, protocol: str, scores: Tensor, shuffled: Tensor, settings: dict[str, Any]
    ) -> Accuracy:
        predicted = scores.argmax(1)
        right = (predicted == self.labels).numpy()
        folds = {
            int(fold): float(right[self.folds == fold].mean()) for fold in np.unique(self.folds)
        }
        top_5 = None
        if self._num_labels >= 2 * _TOP:
            best = scores.topk(_TOP).indices == self.labels[:, None]
            top_5 = self._draws.share(best.any(1).numpy())
        unseen, chosen = None, np.ones(len(right), bool)
        if self._unseen is not None:
            chosen, draws = self._unseen
            unseen = draws.share(right[chosen])
        kept = torch.from_numpy(chosen)
        confusion = confusion_matrix(predicted[kept], self.labels[kept], self._num_labels)
        return Accuracy(
            method=method,
            protocol=protocol,
            accuracy=self._draws.share(right),
            top_5=top_5,
            folds=folds,
            unseen=unseen,
            mean_of_folds=float(np.mean(list(folds.values()))),
            standard_deviation_of_folds=float(np.std(list(folds.values()))),
            shuffled=self._draws.share(shuffled.numpy()),
            chance=1 / self._num_labels,
            confusion=confusion.tolist(),
            predicted=predicted.numpy(),
            settings=settings,
        )


def _fit(embeds: np.ndarray, labels: np.ndarray, penalty: float) -> Any:
    """Fit a logistic regression on standardized embeddings."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=penalty, max_iter=500)
    return make_pipeline(StandardScaler(), regression).fit(embeds, labels)
