"""An independent judge: a plain log-mel CNN that names the kind of a recording.

It shares nothing with the demo models but the training recordings, and ships with none of them.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES, SoundBank
from clip2clap.training.recipes.demo.loop import Fit, Schedule, compute, fit
from clip2clap.training.recipes.demo.mel import log_mel, mel_filters

BATCH = 16
SCHEDULE = Schedule(steps=2800, learning_rate=1e-3, weight_decay=0.02, ema_decay=0.99)


class Classifier(nn.Module):
    """Four convolution blocks over a log-mel spectrogram, mean and maximum over time."""

    def __init__(self, classes: int):
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm2d(1)]
        for i, o in ((1, 32), (32, 64), (64, 128), (128, 192)):
            layers += [nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
            layers += [nn.MaxPool2d(2)]
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * 192, classes)

    def features(self, mels: Tensor) -> Tensor:
        """Map spectrograms (n, frames, bins) to features (n, 384)."""
        hidden = self.body(mels.unsqueeze(1)).mean(dim=3)
        return torch.cat([hidden.mean(dim=2), hidden.amax(dim=2)], dim=1)

    def forward(self, mels: Tensor) -> Tensor:
        """Map spectrograms (n, frames, bins) to logits (n, classes)."""
        return self.head(F.dropout(self.features(mels), 0.3, self.training))


def train_judge(bank: SoundBank, classes: int, folder: Path, schedule: Schedule = SCHEDULE) -> Fit:
    """Train the judge on real recordings.

    Args:
        bank: Training recordings of the kinds.
        classes: Number of kinds.
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        A `Classifier`, with what it took.
    """
    filters = mel_filters()
    weights = 1 / torch.bincount(bank.kinds)[bank.kinds].float()

    def step(classifier: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        mels = log_mel(bank.batch(rows, CLIP_SAMPLES, generator), filters)
        mels = mels + 1.0 * torch.randn(BATCH, 1, 1, generator=generator)
        mels = _mask(_mask(mels, 64, 1, generator), 12, 2, generator)
        kinds = F.one_hot(bank.kinds[rows], classes).float()
        share = 1 - 0.5 * torch.rand(BATCH, generator=generator).square()
        mels = share[:, None, None] * mels + (1 - share)[:, None, None] * mels.roll(1, 0)
        kinds = share[:, None] * kinds + (1 - share)[:, None] * kinds.roll(1, 0)
        return F.cross_entropy(compute(classifier, mels), kinds, label_smoothing=0.05)

    torch.manual_seed(schedule.seed)
    return fit(Classifier(classes), step, schedule, folder, name="classifier")


def sound_features(classifier: Classifier, waveforms: Tensor) -> Tensor:
    """Compute the judge's features of recordings.

    Args:
        classifier: The trained judge.
        waveforms: Shape (n, samples), at 16 kHz; quieter or louder makes no difference.

    Returns:
        Shape (n, 384).
    """
    filters = mel_filters()
    peaks = waveforms.abs().amax(dim=1, keepdim=True).clamp(min=1e-4)
    with torch.inference_mode():
        parts = (waveforms / peaks * 0.9).split(BATCH)
        return torch.cat([classifier.features(log_mel(part, filters)) for part in parts])


def name_kinds(classifier: Classifier, waveforms: Tensor) -> Tensor:
    """Name the kind of each recording.

    Args:
        classifier: The trained judge.
        waveforms: As in `sound_features`.

    Returns:
        Numbers of the kinds, shape (n,).
    """
    with torch.inference_mode():
        return classifier.head(sound_features(classifier, waveforms)).argmax(dim=1)


def _mask(mels: Tensor, widest: int, dim: int, generator: torch.Generator) -> Tensor:
    """Blank a band of frames or bins (SpecAugment, https://arxiv.org/abs/1904.08779)."""
    width = torch.randint(widest, (len(mels), 1), generator=generator)
    start = torch.randint(mels.shape[dim] - widest, (len(mels), 1), generator=generator)
    places = torch.arange(mels.shape[dim])
    inside = (places >= start) & (places < start + width)
    mean = mels.mean(dim=(1, 2), keepdim=True)
    return torch.where(inside.unsqueeze(3 - dim), mean, mels)
