"""Settings of fine-tuning. Importing this module is cheap."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from clip2clap.core.errors import expect, is_integer, is_number

Part = Literal["head", "partial", "lora", "all"]
"""Weights that are tuned: the projection; it and the last quarter of the layers; low-rank adapters
of the linear layers, merged at the end; or all weights."""

# Adam moves every weight by the rate. At 1e-3 the demo CLAP's head, whose weights are near 4e-3,
# forgets within an epoch what it knew.
_LEARNING_RATES = {"head": 1e-5, "partial": 1e-5, "lora": 1e-4, "all": 1e-5}


@dataclass(frozen=True)
class FineTuningConfig:
    """Settings of fine-tuning.

    Examples:
        >>> FineTuningConfig(part="lora").rate
        0.0001
        >>> FineTuningConfig.audioclip().optimizer
        'sgd'
    """

    part: Part = "head"
    """Weights that are tuned."""

    epochs: int = 20
    """Largest number of passes over the training files."""

    learning_rate: float | None = None
    """Learning rate; by default 1e-5, and 1e-4 for low-rank adapters."""

    batch_size: int = 32
    """Files per step."""

    patience: int | None = 10
    """Epochs without a better held-out accuracy before training stops; None never stops early."""

    validation: float = 0.1
    """Share of each label's files that is held out, at least one."""

    mixup: float = 0.0
    """Parameter of mixup's Beta distribution (Zhang et al. 2018, arXiv 1710.09412); 0 for none."""

    spec_augment: bool = True
    """Whether to mask spans of time and frequency (Park et al. 2019, arXiv 1904.08779)."""

    waveforms: bool = False
    """Whether to augment waveforms as AudioCLIP does: inversion of time, scale, and noise."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with Nesterov momentum of 0.9."""

    weight_decay: float = 0.01
    gamma: float = 1.0
    """Factor of the learning rate after each epoch."""

    lora_rank: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        expect(self.part in get_args(Part), "part", f"one of {get_args(Part)}", self.part)
        for name in ("epochs", "batch_size", "lora_rank"):
            value = getattr(self, name)
            expect(is_integer(value) and value >= 1, name, "1 or more", value)
        rate = self.rate
        expect(is_number(rate) and rate > 0, "learning_rate", "above 0", rate)
        share = self.validation
        expect(is_number(share) and 0 < share < 1, "validation", "between 0 and 1", share)
        expect(is_number(self.mixup) and self.mixup >= 0, "mixup", "0 or more", self.mixup)

    @property
    def rate(self) -> float:
        """Learning rate of the first epoch."""
        return _LEARNING_RATES[self.part] if self.learning_rate is None else self.learning_rate

    @classmethod
    def audioclip(cls, **settings: Any) -> "FineTuningConfig":
        """Return AudioCLIP's settings on ESC-50 (Guzhov et al. 2021, arXiv 2106.13043).

        SGD with Nesterov momentum at 5e-5, weight decay of 5e-4, a rate that falls by 4 % each
        epoch, 50 epochs of batches of 64, all weights, and waveforms that are inverted in time,
        scaled by up to 1.5, and noisy at 10 to 120 dB.
        """
        preset: dict[str, Any] = {
            "part": "all",
            "optimizer": "sgd",
            "learning_rate": 5e-5,
            "weight_decay": 5e-4,
            "gamma": 0.96,
            "epochs": 50,
            "batch_size": 64,
            "spec_augment": False,
            "waveforms": True,
        }
        return cls(**{**preset, **settings})
