"""Settings of a captioner's training run. Imports no torch."""

from dataclasses import dataclass, replace
from typing import Literal, Self

from clip2clap.core.errors import expect, is_integer, is_number

MapperName = Literal["linear", "mlp", "transformer"]

_TEXT_NOISE = 0.05
_COUNTS = ("prefix_length", "hidden_size", "mapper_layers", "epochs", "batch_size", "max_tokens")


@dataclass(frozen=True)
class CaptionerConfig:
    """Settings of a captioner's training run.

    Examples:
        >>> from clip2clap.training.captioning import CaptionerConfig
        >>> CaptionerConfig().language_model
        'gpt2'
    """

    source: str | None = None
    """Column of embeddings to caption, such as `clip_text`: texts in place of the images or audio
    (CapDec, Nukrai et al. 2022, https://arxiv.org/abs/2211.00575; WSAC, Kouzelis and Katsouros
    2023, https://arxiv.org/abs/2309.12242), or true pairs. None is the only column."""

    caption: str = "caption"
    """Column of captions."""

    item: str | None = None
    """Column of the items, whose rows stay on one side of the split, as for `TrainingConfig`."""

    language_model: str = "gpt2"
    """Causal language model of transformers: preset, hub id or folder."""

    tune_language_model: bool = False
    """Train the language model, too, as ClipCap's first variant does."""

    mapper: MapperName = "mlp"
    """Mapper from an embedding to the prefix: `linear`, `mlp` or `transformer`."""

    prefix_length: int = 10
    """Input embeddings of the language model that an embedding becomes."""

    hidden_size: int = 512
    """Width of the hidden layer of an `mlp`."""

    mapper_layers: int = 4
    """Layers of a `transformer`."""

    noise: float | None = None
    """Standard deviation of the Gaussian noise on unit vectors in training, which lets a captioner
    of texts caption images and audio. None is 0.05 for text embeddings, else 0."""

    max_tokens: int = 60
    """Longest caption, in tokens; longer ones are cut."""

    epochs: int = 10
    """Largest number of epochs."""

    batch_size: int = 32
    """Captions per step."""

    learning_rate: float = 1e-3
    """Peak learning rate of AdamW; with `tune_language_model` 2e-5 is usual."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate schedule: cosine decay to zero over all epochs, or constant."""

    warmup: float = 0.02
    """Share of all steps in which the learning rate rises from zero."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the arithmetic, as for `TrainingConfig`."""

    patience: int | None = 3
    """Epochs without a lower held-out loss before training stops; None never stops early."""

    validation: float = 0.1
    """Share of the items held out, if the table has no `split` column."""

    seed: int = 0
    """Seed of the weights, the order of the captions and the split."""

    def __post_init__(self) -> None:
        expect(self.mapper in ("linear", "mlp", "transformer"), "mapper", "a mapper", self.mapper)
        for name in _COUNTS:
            value = getattr(self, name)
            is_count = is_integer(value) and 1 <= value < 2**31
            expect(is_count, name, "a positive whole number", value)
        rate, noise, patience = self.learning_rate, self.noise, self.patience
        expect(is_number(rate) and rate > 0, "learning_rate", "a positive number", rate)
        is_noise = noise is None or (is_number(noise) and noise >= 0)
        expect(is_noise, "noise", "0 or a positive number", noise)
        is_patience = patience is None or (is_integer(patience) and patience >= 1)
        expect(is_patience, "patience", "a positive whole number", patience)
        share, warmup, seed = self.validation, self.warmup, self.seed
        expect(is_number(share) and 0 < share < 1, "validation", "between 0 and 1", share)
        expect(is_number(warmup) and 0 <= warmup < 1, "warmup", "from 0 to below 1", warmup)
        expect(is_integer(seed) and 0 <= seed < 2**63, "seed", "a whole number from 0", seed)

    def resolved(self, modality: str | None) -> Self:
        """Return the settings with the noise that embeddings of a modality are trained with."""
        noise = _TEXT_NOISE if modality == "text" else 0.0
        return replace(self, noise=noise if self.noise is None else self.noise)
