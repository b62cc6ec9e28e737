"""The settings of one training run."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

from clip2clap.core.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.training.losses import check_loss

ModelName = Literal["mlp", "residual", "prior", "ridge", "procrustes"]
Monitor = Literal["mrr", "recall_at_1", "recall_at_5", "recall_at_10", "cosine"]
Schedule = Literal["cosine", "constant"]
Precision = Literal["auto", "fp32", "bf16"]
Start = Literal["auto", "ridge", "random"]

# What the reference does, which our default departs from to be faster.
REFERENCE_RECIPE: dict[str, Any] = {
    "batch_size": 64,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup": 0.0,
    "start": "random",
    "noise": 0.0,
    "epochs": 50,
    "precision": "fp32",
}

# Larger batches give no more speed; in an epoch of fewer steps than these too little is learnt.
_MOST_A_BATCH = 2_048
_STEPS_AN_EPOCH = 64

# Adam's rate at batches of 64; it grows with the square root of the batch (Malladi et al. 2022,
# https://arxiv.org/abs/2205.10287).
_RATE = 1.5e-3

# For pictures on a translator of captions; docs/results.md says what it does.
_TEXT_NOISE = 0.05


@dataclass(frozen=True)
class TrainingConfig:
    """What to train, on what, and how; the defaults are a fast recipe, with early stopping."""

    source: str | None = None
    """Column to map from, such as `clip_text`; `clip`, or None, takes the only CLIP column, and
    `clap` the only CLAP column."""

    target: str | None = None
    """Column to map to, such as `clap_text`; `clap`, or None, takes the only CLAP column, and
    `clip` the only CLIP column."""

    item: str | None = None
    """Column that says which rows come from one thing and so stay on one side of the split; None
    takes the first there is of `item`, `file`, `url`, `caption` and `id`."""

    model: ModelName = "mlp"
    """`mlp`, `residual` and `prior` are trained, `ridge` and `procrustes` are fitted in closed
    form."""

    hidden: int = 512
    """Width of the hidden layers, or of the residual blocks of `residual` and `prior`."""

    blocks: int = 3
    """Number of residual blocks."""

    dropout: float = 0.1
    """Share of the residual blocks' hidden values that is set to 0 in training."""

    condition_dropout: float = 0.1
    """Share of the pairs of which the prior isn't told the source, to make guidance possible."""

    prior_guidance_scale: float = 1.0
    """The prior's guidance where a call doesn't say another; 1 is none."""

    alpha: float | None = None
    """Ridge's penalty, also where it is only the start; None tries several and keeps the best on
    held-out pairs."""

    centre: bool | None = None
    """Whether each side's mean is taken off first, which closes the gap between modalities (C3,
    Zhang et al. 2024, https://arxiv.org/abs/2401.08567). None does so for ridge and Procrustes
    only. The means are kept in the translator."""

    scale: bool = False
    """Whether ridge and Procrustes divide each dimension by its deviation first."""

    loss: str = "cosine"
    """What training makes small: `cosine`, `mse`, `contrastive`, `infonce`, `bank`, or a
    weighted sum such as `cosine:1+contrastive:0.1`. The prior has a loss of its own."""

    temperature: float | None = None
    """Of the `contrastive`, `infonce` and `bank` losses; None is 0.5, 0.07 and 0.07."""

    learn_temperature: bool = False
    """Whether these losses adjust their temperature."""

    noise: float | None = None
    """Standard deviation of the Gaussian noise on each value of the source's unit vectors while
    training, so that a translator trained on captions takes pictures (CapDec, Nukrai et al. 2022,
    https://arxiv.org/abs/2211.00575, takes 0.126). Ridge adds the penalty that amounts to it;
    Procrustes would not change. None is 0.05 where the source is embedded text, else 0."""

    start: Start = "auto"
    """What `mlp` starts as: the linear map that `ridge` would give, as far as its width can hold
    it, or `random` weights. `auto` is `ridge` for `mlp` without `init_from`, else `random`."""

    init_from: str | None = None
    """Translator to go on from, such as one trained on captions that is to be tuned on a few true
    pairs; its width counts."""

    epochs: int = 20
    """How often all pairs are gone through, at most."""

    batch_size: int | None = None
    """Pairs a step; the last, partial batch counts too. None takes a 64th of the pairs, down to a
    power of two, but at least 64 and at most 2,048."""

    learning_rate: float | None = None
    """Adam's, at its highest. None is 1.5e-3 times the square root of `batch_size` / 64, and a
    tenth of that with `init_from`."""

    schedule: Schedule = "cosine"
    """How the learning rate falls: along a cosine to zero over all epochs, or not at all."""

    warmup: float = 0.02
    """Share of all steps in which the learning rate rises from zero."""

    precision: Precision = "auto"
    """Of the network's arithmetic; the weights stay in float32. `auto` is bfloat16 where the
    processor or GPU multiplies it faster."""

    patience: int | None = 10
    """Stop after so many epochs without a better `monitor`; None never stops early."""

    monitor: Monitor = "mrr"
    """Held-out figure that picks the epoch to keep, and ridge's penalty."""

    validation: float = 0.1
    """Share of the items held out, if the table has no `split` column that says which."""

    seed: int = 0
    """Of the weights, the order of the pairs and the split."""

    def __post_init__(self) -> None:
        for name, options in (
            ("model", ModelName),
            ("monitor", Monitor),
            ("schedule", Schedule),
            ("precision", Precision),
            ("start", Start),
        ):
            if getattr(self, name) not in get_args(options):
                raise UserError(
                    f"Expected {name} to be one of {', '.join(get_args(options))}, got "
                    f"{getattr(self, name)!r}."
                )
        check_loss(
            self.loss, temperature=self.temperature, learn_temperature=self.learn_temperature
        )
        for name in ("hidden", "blocks", "epochs", "batch_size", "patience"):
            value = getattr(self, name)
            if value is None and name in ("patience", "batch_size"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"Expected {name} to be a positive whole number, got {value!r}.")
        rate = self.learning_rate
        if rate is not None and not (math.isfinite(rate) and rate > 0):
            raise UserError(f"Expected a positive learning_rate, got {rate!r}.")
        for name in ("alpha", "noise"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise UserError(f"Expected {name} to be 0 or a positive number, got {value!r}.")
        for name in ("dropout", "condition_dropout"):
            share = getattr(self, name)
            if not 0 <= share < 1:
                raise UserError(f"Expected {name} to be a share from 0 to below 1, got {share!r}.")
        if not 0 <= self.prior_guidance_scale < math.inf:
            raise UserError(
                f"Expected prior_guidance_scale to be 0 or more, got {self.prior_guidance_scale!r}."
            )
        if not 0 < self.validation < 1:
            raise UserError(
                f"Expected validation to be a share between 0 and 1, got {self.validation!r}."
            )
        if not 0 <= self.warmup < 1:
            raise UserError(f"Expected warmup to be a share below 1, got {self.warmup!r}.")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise UserError(f"Expected seed to be a whole number from 0, got {self.seed!r}.")
        if self.start == "ridge" and not self._can_start_as_ridge:
            raise UserError(
                "Only an mlp of width 2 or more can start as ridge, and only without init_from."
            )
        if self.init_from is not None and (self.model in ("ridge", "procrustes") or self.centre):
            raise UserError(
                "init_from goes on training a network, with its own means: it goes with neither "
                "ridge, procrustes nor centre."
            )

    @classmethod
    def reference(cls, **changes: Any) -> Self:
        """Give the reference's recipe: Adam at 1e-3, batches of 64, 50 epochs, all of them.

        Args:
            **changes: Settings that differ.
        """
        return cls(**{**REFERENCE_RECIPE, "patience": None, **changes})

    def resolved(self, pairs: int, source: EmbeddingSpace | None = None) -> Self:
        """Fill in what is chosen by the pairs.

        Args:
            pairs: Number of pairs to train on.
            source: The space to map from, if it is known.

        Returns:
            The same with a `batch_size`, a `learning_rate`, a `noise`, a `start` and a `centre`.
        """
        of_text = source is not None and source.modality == "text"
        power = 2 ** math.floor(math.log2(max(1, pairs / _STEPS_AN_EPOCH)))
        batch_size = self.batch_size or min(max(power, 64), _MOST_A_BATCH)
        rate = _RATE * math.sqrt(batch_size / 64)
        if self.init_from is not None:
            rate /= 10
        return replace(
            self,
            batch_size=batch_size,
            learning_rate=self.learning_rate or rate,
            noise=(_TEXT_NOISE if of_text else 0.0) if self.noise is None else self.noise,
            start=("ridge" if self._can_start_as_ridge else "random")
            if self.start == "auto"
            else self.start,
            centre=self.model in ("ridge", "procrustes") if self.centre is None else self.centre,
        )

    @property
    def _can_start_as_ridge(self) -> bool:
        return self.model == "mlp" and self.hidden > 1 and self.init_from is None
