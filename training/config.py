"""Settings of one training run: the only declaration of its options. Imports no torch."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, cast, get_args, get_origin

from clip2clap.core.errors import UserError, expect
from clip2clap.embeddings.space import EmbeddingSpace

LossName = Literal["cosine", "mse", "contrastive", "infonce", "bank"]
Architecture = Literal["mlp", "residual", "prior", "ridge", "procrustes", "unpaired"]
Monitor = Literal["mrr", "recall_at_1", "recall_at_5", "recall_at_10", "cosine"]
Schedule = Literal["cosine", "constant"]
Precision = Literal["auto", "fp32", "bf16"]
Init = Literal["auto", "ridge", "random"]

DEFAULT_TEMPERATURES: dict[LossName, float] = {"contrastive": 0.5, "infonce": 0.07, "bank": 0.07}

# The reference's recipe; the defaults differ from it to be faster.
REFERENCE_RECIPE: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup": 0.0,
    "init": "random",
    "noise": 0.0,
    "epochs": 50,
    "precision": "fp32",
}

# The recipe of the translator that the reference deploys.
DEPLOYED_RECIPE: dict[str, Any] = {
    **REFERENCE_RECIPE,
    "loss": "contrastive",
    "dropout": 0.5,
    "learning_rate": 2e-3,
    "epochs": 60,
}

# Dropout in residual blocks.
_BLOCK_DROPOUT = 0.1

# Larger batches are no faster; an epoch with fewer steps underfits.
_MAX_BATCH_SIZE = 2_048
_STEPS_PER_EPOCH = 64

# Adam's rate at batches of 64; it grows with the square root of the batch (Malladi et al. 2022,
# https://arxiv.org/abs/2205.10287).
_BASE_LEARNING_RATE = 1.5e-3

# For images on a translator of captions; docs/results.md has the effect.
_TEXT_NOISE = 0.05

_FITTED = ("ridge", "procrustes", "unpaired")

_LARGEST = {
    "hidden_size": 2**16,
    "blocks": 1_000,
    "rank": 2**16,
    "epochs": 2**31,
    "batch_size": 2**31,
    "patience": 2**31,
}
_TYPE_NAMES = {
    bool: "True or False",
    float: "a number",
    int: "a whole number",
    str: "text",
    type(None): "None",
}

# Names of fields in the settings that older versions wrote.
_RENAMED = {"hidden": "hidden_size", "centre": "center", "model": "architecture", "start": "init"}


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run; the defaults are a fast recipe with early stopping.

    Examples:
        >>> from clip2clap import TrainingConfig
        >>> TrainingConfig(hidden_size=256).resolved(10_000).batch_size
        128
        >>> TrainingConfig.reference().epochs
        50
    """

    source: str | None = None
    """Source column, such as `clip_text`; `clip` or None is the only CLIP column, and `clap` the
    only CLAP column."""

    target: str | None = None
    """Target column, such as `clap_text`; `clap` or None is the only CLAP column, and `clip` the
    only CLIP column."""

    item: str | None = None
    """Column of the items, whose rows stay on one side of the split; None is the first that exists
    of `item`, `file`, `url`, `caption` and `id`."""

    architecture: Architecture = "mlp"
    """Translator to train: `mlp`, `residual` and `prior` are trained, `ridge` and `procrustes` are
    fitted in closed form, `unpaired` is a rotation that is fitted to the two sides of different
    items, as if there were no pairs."""

    hidden_size: int = 512
    """Width of the hidden layers, or of the residual blocks of `residual` and `prior`."""

    blocks: int = 3
    """Number of residual blocks."""

    dropout: float | None = None
    """Dropout probability in the residual blocks, or after the hidden layers of an `mlp`; None is
    0.1 in blocks, and none in an `mlp`."""

    condition_dropout: float = 0.1
    """Share of the pairs on which the prior is trained without its condition, which makes
    classifier-free guidance possible."""

    prior_guidance_scale: float = 1.0
    """Default guidance scale of the prior; 1 is no guidance."""

    alpha: float | None = None
    """Penalty of ridge, also of the ridge that an mlp starts from; None picks the best of several
    on held-out pairs."""

    center: bool | None = None
    """Subtract each side's mean first, which closes the modality gap (C3, Zhang et al. 2024,
    https://arxiv.org/abs/2401.08567); None does so for what is fitted, not trained. The means are
    saved with the translator."""

    rank: int | None = None
    """Largest rank of the map of ridge and Procrustes; of Procrustes it is COMET's spectral
    truncation (Zhu et al. 2026, https://arxiv.org/abs/2605.29628). None does not bound it."""

    scale: bool = False
    """Divide each dimension by its standard deviation first; for ridge and Procrustes."""

    loss: str = "cosine"
    """Training loss: `cosine`, `mse`, `contrastive`, `infonce`, `bank`, or a weighted sum such as
    `cosine:1+contrastive:0.1`. The prior has a denoising loss of its own."""

    temperature: float | None = None
    """Temperature of the `contrastive`, `infonce` and `bank` losses; None is 0.5, 0.07 and 0.07."""

    learn_temperature: bool = False
    """Learn the temperature."""

    noise: float | None = None
    """Standard deviation of the Gaussian noise on the source's unit vectors in training, which lets
    a translator trained on captions map images (CapDec, Nukrai et al. 2022,
    https://arxiv.org/abs/2211.00575, has 0.126). Ridge adds the equivalent penalty; Procrustes
    would not change. None is 0.05 for text embeddings, else 0."""

    init: Init = "auto"
    """Initial weights of an `mlp`: the linear map that `ridge` fits, as far as its width can hold
    it, or `random`. `auto` is `ridge` for an `mlp` without `init_from`, else `random`."""

    init_from: str | None = None
    """Translator to continue from, such as one trained on captions that is fine-tuned on a few
    pairs of images and audio; its width counts."""

    epochs: int = 20
    """Largest number of epochs."""

    batch_size: int | None = None
    """Pairs per step; the last, partial batch counts too. None is a 64th of the pairs, rounded down
    to a power of two, but at least 64 and at most 2,048."""

    learning_rate: float | None = None
    """Peak learning rate of Adam. None is 1.5e-3 times the square root of `batch_size` / 64, and a
    tenth of that with `init_from`."""

    schedule: Schedule = "cosine"
    """Learning rate schedule: cosine decay to zero over all epochs, or constant."""

    warmup: float = 0.02
    """Share of all steps in which the learning rate rises from zero."""

    precision: Precision = "auto"
    """Precision of the network's arithmetic; the weights stay in float32. `auto` is bfloat16 where
    the CPU or GPU multiplies it faster."""

    patience: int | None = 10
    """Epochs without a better `monitor` before training stops; None never stops early."""

    monitor: Monitor = "mrr"
    """Held-out metric that selects the best epoch, and ridge's penalty."""

    validation: float = 0.1
    """Share of the items held out, if the table has no `split` column."""

    seed: int = 0
    """Seed of the weights, the order of the pairs and the split."""

    def __post_init__(self) -> None:
        for field in fields(self):
            self._check_type(field.name, field.type)
        check_loss(
            self.loss, temperature=self.temperature, learn_temperature=self.learn_temperature
        )
        for name, most in _LARGEST.items():
            expected = f"a positive whole number up to {most:,}"
            self._check(name, lambda x, most=most: 1 <= x <= most, expected)
        positive = "a positive number"
        self._check("learning_rate", lambda x: 0 < x < math.inf, positive)
        for name in ("alpha", "noise", "prior_guidance_scale"):
            self._check(name, lambda x: 0 <= x < math.inf, f"0 or {positive}")
        for name in ("dropout", "condition_dropout", "warmup"):
            self._check(name, lambda x: 0 <= x < 1, "from 0 to below 1")
        self._check("validation", lambda x: 0 < x < 1, "between 0 and 1")
        self._check("seed", lambda x: 0 <= x < 2**63, "a whole number from 0")
        if self.init == "ridge" and not self._can_start_as_ridge:
            raise UserError(
                "Only an mlp of width 2 or more can start as ridge, and only without init_from.",
                param="init",
            )
        is_fitted = self.architecture in _FITTED
        if self.init_from is not None and (is_fitted or self.center):
            raise UserError(
                "init_from continues training a network, with its own means: it goes with neither "
                f"{', '.join(_FITTED)} nor center.",
                param="init_from",
            )
        if self.rank is not None and self.architecture not in ("ridge", "procrustes"):
            raise UserError("rank bounds ridge and procrustes only.", param="rank")
        if self.architecture == "unpaired" and (self.center is False or self.scale):
            raise UserError(
                "unpaired always subtracts the means, and never scales dimensions.",
                param="scale" if self.scale else "center",
            )

    @classmethod
    def reference(cls, **changes: Any) -> Self:
        """Return the reference's recipe, Adam at 1e-3, batches of 64, 50 epochs, with changes."""
        return cls(**{**REFERENCE_RECIPE, "patience": None, **changes})

    @classmethod
    def deployed(cls, **changes: Any) -> Self:
        """Return the recipe of the translator that the reference deploys, with changes.

        It is `reference` with the contrastive loss, dropout of 0.5, Adam at 2e-3 and 60 epochs.
        """
        return cls(**{**DEPLOYED_RECIPE, "patience": None, **changes})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Read settings as `training.json` has them, written by this version or an older one."""
        settings = upgrade_settings(settings)
        return cls(**{f.name: settings[f.name] for f in fields(cls) if f.name in settings})

    def resolved(self, pairs: int, source: EmbeddingSpace | None = None) -> Self:
        """Return the settings with everything filled in that depends on the pairs.

        Those are `batch_size`, `learning_rate`, `noise`, `init`, `center` and `dropout`.

        Args:
            pairs: Number of training pairs.
            source: Source space, if known.
        """
        is_text = source is not None and source.modality == "text"
        power = 2 ** math.floor(math.log2(max(1, pairs / _STEPS_PER_EPOCH)))
        batch_size = self.batch_size or min(max(power, 64), _MAX_BATCH_SIZE)
        rate = _BASE_LEARNING_RATE * math.sqrt(batch_size / 64)
        if self.init_from is not None:
            rate /= 10
        init = "ridge" if self._can_start_as_ridge else "random"
        is_fitted = self.architecture in _FITTED
        dropout = 0.0 if self.architecture == "mlp" else _BLOCK_DROPOUT
        return replace(
            self,
            batch_size=batch_size,
            learning_rate=self.learning_rate or rate,
            noise=(_TEXT_NOISE if is_text else 0.0) if self.noise is None else self.noise,
            init=init if self.init == "auto" else self.init,
            center=is_fitted if self.center is None else self.center,
            dropout=dropout if self.dropout is None else self.dropout,
        )

    @property
    def _can_start_as_ridge(self) -> bool:
        return self.architecture == "mlp" and self.hidden_size > 1 and self.init_from is None

    def _check_type(self, name: str, kind: Any) -> None:
        """Check a value by its annotation; NumPy's numbers and paths become Python's and text."""
        value: Any = getattr(self, name)
        # Importing NumPy would double the start-up time of the command.
        is_numpy = type(value).__module__ == "numpy" and value.shape == ()
        if is_numpy:
            value = value.item()
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        if is_numpy or value is not getattr(self, name):
            object.__setattr__(self, name, value)
        kinds = get_args(kind) or (kind,)
        if get_origin(kind) is Literal:
            is_valid, expected = isinstance(value, str) and value in kinds, ", ".join(kinds)
            expect(is_valid, name, f"one of {expected}", value)
            return
        is_valid = type(value) in kinds or (type(value) is int and float in kinds)
        expect(is_valid, name, " or ".join(_TYPE_NAMES[each] for each in kinds), value)

    def _check(self, name: str, is_valid: Callable[[Any], bool], expected: str) -> None:
        value = getattr(self, name)
        expect(value is None or is_valid(value), name, expected, value)


def upgrade_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings of any version under today's names."""
    return {_RENAMED.get(name, name): value for name, value in settings.items()}


def parse_loss(spec: str) -> dict[LossName, float]:
    """Return the weight of every term of a loss, such as `cosine` or `cosine:1+contrastive:0.1`.

    Args:
        spec: Names joined by `+`, each with `:` and its weight, which is 1 if left out.

    Raises:
        UserError: If there is no such loss, one is named twice, or a weight is not positive.
    """
    terms: dict[LossName, float] = {}
    for part in str(spec).split("+"):
        name, colon, number = part.strip().partition(":")
        if name not in get_args(LossName):
            names = ", ".join(get_args(LossName))
            raise UserError(
                f"Expected loss to be one of {names}, or a sum such as cosine:1+contrastive:0.1, "
                f"got {spec!r}.",
                param="loss",
            )
        try:
            weight = float(number) if colon else 1.0
        except ValueError:
            weight = math.nan
        if not 0 < weight < math.inf:
            raise UserError(
                f"Expected a positive weight after {name}:, got {number!r}.", param="loss"
            )
        if name in terms:
            raise UserError(f"The loss {spec!r} names {name} twice.", param="loss")
        terms[cast(LossName, name)] = weight
    return terms


def check_loss(name: str, *, temperature: float | None, learn_temperature: bool) -> None:
    """Raise an error for an unknown loss, or a temperature that it does not have.

    Raises:
        UserError: If the loss is unknown, or the temperature is invalid or not part of it.
    """
    has_temperature = any(term in DEFAULT_TEMPERATURES for term in parse_loss(name))
    if temperature is not None and not 0 < temperature < math.inf:
        raise UserError(
            f"Expected a positive temperature, got {temperature!r}.", param="temperature"
        )
    if not has_temperature and (temperature is not None or learn_temperature):
        raise UserError(f"The {name} loss has no temperature: leave it out.", param="temperature")
