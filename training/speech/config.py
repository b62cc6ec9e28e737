"""Settings of a speech encoder's training run. Imports no torch."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

from clip2clap.core.errors import expect, is_integer, is_number
from clip2clap.training.config import check_loss

SpeechArchitecture = Literal["ast", "wav2vec2", "hubert", "whisper", "moonshine"]
SpeechPooling = Literal["attention", "mean"]

_COUNTS = ("epochs", "batch_size", "pooling_heads", "pooling_size", "layers", "patience")
_SHARES = ("augment", "validation")


@dataclass(frozen=True)
class SpeechTrainingConfig:
    """Settings of a speech encoder's training run.

    Examples:
        >>> from clip2clap.training.speech import SpeechTrainingConfig
        >>> SpeechTrainingConfig.saliclip().gamma
        0.96
    """

    architecture: SpeechArchitecture = "whisper"
    """Backbone: `ast`, `wav2vec2`, `hubert`, `whisper` or `moonshine`; with `ast` SAliCLIP's
    preprocessing, 128-bin filter banks of 512 frames."""

    backbone: str | None = None
    """Checkpoint of the backbone to start from: hub id or folder; random weights of a small network
    if None."""

    layers: int | None = None
    """Layers of the backbone that are kept, the first ones; None keeps all."""

    window_s: float = 10.0
    """Length of a window in s; `ast` has 5.12 s, the 512 frames, whatever is given."""

    pooling: SpeechPooling = "attention"
    """Pooling of the frames: `attention`, or the `mean` with SAliCLIP's residual head."""

    pooling_heads: int = 4
    """Heads of the attention over frames."""

    pooling_size: int = 512
    """Width of the pooling's hidden layer."""

    loss: str = "cosine:1+bank:0.1"
    """Loss against each kind of target, as for `TrainingConfig`; `bank` has all frozen targets as
    negatives."""

    temperature: float | None = None
    """Temperature of the `contrastive`, `infonce` and `bank` losses, as for `TrainingConfig`."""

    text_weight: float = 1.0
    """Weight of the loss against the CLIP's embeddings of captions."""

    image_weight: float = 1.0
    """Weight of the loss against the CLIP's embeddings of images."""

    augment: float = 0.5
    """Share of the waveforms to which each alteration is applied."""

    speed: float = 0.15
    """Largest relative change of speed and pitch; 0 for none."""

    noise_db: float | None = 5.0
    """Lowest ratio of speech to added noise, in dB; it is uniform from there to 35 dB. None adds no
    noise."""

    reverb_s: float = 0.6
    """Longest reverberation time, in s; 0 for none."""

    spec_augment: bool = True
    """Mask spans of time and frequency (Park et al. 2019, https://arxiv.org/abs/1904.08779); of
    time alone where the backbone reads waveforms."""

    epochs: int = 20
    """Largest number of epochs."""

    batch_size: int = 32
    """Spoken captions per step, over all processes."""

    learning_rate: float = 1e-3
    """Peak learning rate of AdamW for the pooling."""

    backbone_learning_rate: float | None = None
    """Peak learning rate for the backbone; None is that of the pooling for random weights, and a
    tenth of it for a checkpoint's."""

    weight_decay: float = 0.01
    """Weight decay of AdamW."""

    gamma: float | None = None
    """Factor of the learning rates after each epoch; None is cosine decay to zero over all
    epochs."""

    warmup: float = 0.02
    """Share of all steps in which the learning rates rise from zero; without `gamma`."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the arithmetic, as for `TrainingConfig`."""

    patience: int | None = 5
    """Epochs without a better held-out mean reciprocal rank before training stops; None never stops
    early."""

    validation: float = 0.1
    """Share of the items held out, if the data has no splits."""

    seed: int = 0
    """Seed of the weights, the order of the captions, the alterations and the split."""

    monitor = "mrr"
    schedule = "cosine"

    def __post_init__(self) -> None:
        architectures = get_args(SpeechArchitecture)
        expected = f"one of {', '.join(architectures)}"
        expect(self.architecture in architectures, "architecture", expected, self.architecture)
        expect(
            self.pooling in get_args(SpeechPooling), "pooling", "attention or mean", self.pooling
        )
        for name in _COUNTS:
            value = getattr(self, name)
            is_optional = name in ("layers", "patience") and value is None
            is_count = is_optional or (is_integer(value) and 1 <= value < 2**31)
            expect(is_count, name, "a positive whole number", value)
        for name in _SHARES:
            value = getattr(self, name)
            is_share = is_number(value) and 0 <= value <= 1
            expect(is_share, name, "from 0 to 1", value)
        expect(0 < self.validation < 1, "validation", "between 0 and 1", self.validation)
        for name in ("learning_rate", "backbone_learning_rate", "gamma"):
            value = getattr(self, name)
            is_rate = (value is None and name != "learning_rate") or (
                is_number(value) and value > 0
            )
            expect(is_rate, name, "a positive number", value)
        for name in ("text_weight", "image_weight", "reverb_s", "weight_decay"):
            value = getattr(self, name)
            expect(is_number(value) and value >= 0, name, "0 or a positive number", value)
        speed, window, warmup = self.speed, self.window_s, self.warmup
        expect(is_number(speed) and 0 <= speed < 0.5, "speed", "from 0 to below 0.5", speed)
        expect(is_number(window) and 0.5 <= window <= 60, "window_s", "from 0.5 to 60", window)
        expect(is_number(warmup) and 0 <= warmup < 1, "warmup", "from 0 to below 1", warmup)
        noise, seed = self.noise_db, self.seed
        is_level = noise is None or (is_number(noise) and -20 <= noise <= 35)
        expect(is_level, "noise_db", "from -20 to 35", noise)
        expect(is_integer(seed) and 0 <= seed < 2**63, "seed", "a whole number from 0", seed)
        check_loss(self.loss, temperature=self.temperature, learn_temperature=False)

    @property
    def rates(self) -> dict[str, float]:
        """Peak learning rates of `pooling` and `backbone`."""
        rate = self.backbone_learning_rate
        if rate is None:
            rate = self.learning_rate * (1.0 if self.backbone is None else 0.1)
        return {"pooling": self.learning_rate, "backbone": rate}

    @classmethod
    def saliclip(cls, **settings: Any) -> "SpeechTrainingConfig":
        """Return SAliCLIP's settings, of its published code's config.

        AST on 128-bin filter banks of 512 frames, the mean of its tokens and a residual head;
        CLIP's symmetric loss in batches of 48 against the images at temperature 1; AdamW at 5e-3
        for the head and 1e-5 for the backbone, weight decay of 5e-3, rates that fall by 4 % each
        epoch, 10 epochs. Theirs has noise on the filter banks in place of noise on the waveform,
        and starts from the AST of AudioSet, which `backbone` may name
        (MIT/ast-finetuned-audioset-10-10-0.4593).
        """
        preset: dict[str, Any] = {
            "architecture": "ast",
            "pooling": "mean",
            "loss": "infonce",
            "temperature": 1.0,
            "text_weight": 0.0,
            "augment": 0.5,
            "speed": 0.0,
            "reverb_s": 0.0,
            "noise_db": 20.0,
            "spec_augment": False,
            "epochs": 10,
            "batch_size": 48,
            "learning_rate": 5e-3,
            "backbone_learning_rate": 1e-5,
            "weight_decay": 5e-3,
            "gamma": 0.96,
            "patience": None,
        }
        return cls(**{**preset, **settings})
