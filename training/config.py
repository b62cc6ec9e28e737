"""The settings of one training run."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from clip2clap.embeddings import UserError
from clip2clap.training.losses import LossName, check_loss

ModelName = Literal["mlp", "residual", "ridge", "procrustes"]
Monitor = Literal["mrr", "recall_at_1", "recall_at_5", "recall_at_10", "cosine"]


@dataclass(frozen=True)
class TrainingConfig:
    """What to train, on what, and how; the defaults are the reference's, with early stopping."""

    source: str | None = None
    """Column to map from, such as `clip_text`; None takes the only CLIP column."""

    target: str | None = None
    """Column to map to, such as `clap_text`; None takes the only CLAP column."""

    item: str | None = None
    """Column that says which rows come from one thing and so stay on one side of the split; None
    takes the first there is of `item`, `file`, `url`, `caption` and `id`."""

    model: ModelName = "mlp"
    """`mlp` and `residual` are trained, `ridge` and `procrustes` are fitted in closed form."""

    hidden: int = 512
    """Width of the hidden layers, or of the residual blocks."""

    blocks: int = 3
    """Number of residual blocks."""

    dropout: float = 0.1
    """Share of the residual blocks' hidden values that is set to 0 in training."""

    alpha: float | None = None
    """Ridge's penalty; None tries several and keeps the best on held-out pairs."""

    centre: bool = True
    """Whether ridge and Procrustes take the means off first."""

    scale: bool = False
    """Whether they divide each dimension by its deviation first."""

    loss: LossName = "cosine"
    """What training makes small."""

    temperature: float | None = None
    """Of the `contrastive` and `infonce` losses; None is 0.5 and 0.07."""

    learn_temperature: bool = False
    """Whether `infonce` adjusts its temperature."""

    epochs: int = 50
    """How often all pairs are gone through, at most."""

    batch_size: int = 64
    """Pairs a step; the last, partial batch counts too."""

    learning_rate: float = 1e-3
    """Adam's."""

    patience: int | None = 10
    """Stop after so many epochs without a better `monitor`; None never stops early."""

    monitor: Monitor = "mrr"
    """Held-out figure that picks the epoch to keep, and ridge's penalty."""

    validation: float = 0.1
    """Share of the items held out, if the table has no `split` column that says which."""

    seed: int = 0
    """Of the weights, the order of the pairs and the split."""

    def __post_init__(self) -> None:
        for name, options in (("model", ModelName), ("monitor", Monitor)):
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
            if value is None and name == "patience":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"Expected {name} to be a positive whole number, got {value!r}.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise UserError(f"Expected a positive learning_rate, got {self.learning_rate!r}.")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha >= 0):
            raise UserError(f"Expected alpha to be 0 or a positive number, got {self.alpha!r}.")
        if not 0 <= self.dropout < 1:
            raise UserError(
                f"Expected dropout to be a share from 0 to below 1, got {self.dropout!r}."
            )
        if not 0 < self.validation < 1:
            raise UserError(
                f"Expected validation to be a share between 0 and 1, got {self.validation!r}."
            )
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise UserError(f"Expected seed to be a whole number from 0, got {self.seed!r}.")
