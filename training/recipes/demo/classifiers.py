"""Independent classifiers that evaluate the demo models' output.

Ridge regression on features that no demo model uses: aiSFX's and statistics of the spectrogram for
audio, EfficientNet-Lite2's for images, whose training images are a split of their own. They are not
shipped.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from clip2clap.core.files import save_tensors
from clip2clap.models.efficientnet import shorten
from clip2clap.training.recipes.demo.aisfx import sfx_features
from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES, AudioBank, log_mel
from clip2clap.training.recipes.demo.features import image_processor
from clip2clap.training.recipes.demo.loop import compute, training_device
from clip2clap.training.recipes.demo.pretrained import aisfx, efficientnet_lite2
from clip2clap.training.recipes.demo.spaces import class_weights

# Penalties, chosen by cross-validation of audio and on validation images.
AUDIO_RIDGE, IMAGE_RIDGE = 1.0, 3.0
AUDIO_BATCH, IMAGE_BATCH = 16, 32
# Small images are not sharper at EfficientNet-Lite2's 260.
IMAGE_SIZE = 192
# Modulation frequencies of the statistics, in steps of 1/5.12 Hz.
MODULATIONS = (1, 2, 4, 8, 14, 24, 40, 63)


class AudioClassifier:
    """Classifier of audio, of five seconds and at any level."""

    def __init__(self, network: nn.Module, head: nn.Module | None = None):
        self.network, self.head = network, head

    def encode(self, waveforms: Tensor) -> Tensor:
        """Compute features (n, d) of waveforms (n, samples) at 16 kHz."""
        peaks = waveforms.abs().amax(dim=1, keepdim=True).clamp(min=1e-4)
        parts = []
        for part in (waveforms / peaks).split(AUDIO_BATCH):
            groups = sfx_features(self.network, part), spectral_statistics(part)
            parts.append(torch.cat(groups, dim=1))
        return torch.cat(parts)

    def predict(self, waveforms: Tensor) -> Tensor:
        """Predict the classes (n,) of waveforms (n, samples) at 16 kHz."""
        assert self.head is not None
        return self.head(self.encode(waveforms)).argmax(dim=1)


class ImageClassifier:
    """Classifier of images, cropped to their centers."""

    def __init__(self, network: nn.Module, head: nn.Module | None = None):
        self.network, self.head = network, head

    def encode(self, images: Sequence[Image.Image]) -> Tensor:
        """Compute features (n, 1280) of images."""
        network: Any = self.network
        network.to(training_device())
        processor = image_processor(IMAGE_SIZE)
        features = []
        for start in range(0, len(images), IMAGE_BATCH):
            part = list(images[start : start + IMAGE_BATCH])
            pixels = processor(part, return_tensors="pt")["pixel_values"]
            with torch.inference_mode():
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                features.append(compute(network, pixels).pooler_output)
        return torch.cat(features)

    def predict(self, images: Sequence[Image.Image]) -> Tensor:
        """Predict the classes (n,) of images."""
        assert self.head is not None
        return self.head(self.encode(images)).argmax(dim=1)


def train_audio_classifier(bank: AudioBank, classes: int, path: Path) -> AudioClassifier:
    """Train an `AudioClassifier` on training audio, whose features are saved in a file."""
    classifier = AudioClassifier(aisfx())

    def encode() -> Tensor:
        parts = torch.arange(len(bank)).split(AUDIO_BATCH)
        tracked = track(parts, description="audio classifier")
        return torch.cat([classifier.encode(bank.batch(rows, CLIP_SAMPLES)) for rows in tracked])

    features = _saved(path, encode)
    statistics = spectral_statistics(torch.zeros(1, CLIP_SAMPLES)).shape[1]
    groups = (features.shape[1] - statistics, statistics)
    classifier.head = fit_head(features, bank.labels, classes, ridge=AUDIO_RIDGE, groups=groups)
    return classifier


def train_image_classifier(
    images: Sequence[Image.Image], labels: Tensor, classes: int, path: Path
) -> ImageClassifier:
    """Train an `ImageClassifier` on images with their class numbers (n,).

    Their features are saved in a file.
    """
    network = efficientnet_lite2()
    shorten(network)
    classifier = ImageClassifier(network)
    features = _saved(path, lambda: classifier.encode(images))
    classifier.head = fit_head(features, labels, classes, ridge=IMAGE_RIDGE)
    return classifier


def fit_head(
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    ridge: float,
    groups: Sequence[int] | None = None,
) -> nn.Linear:
    """Fit a linear classifier of standardized features by ridge regression to one-hot targets.

    All classes weigh alike.

    Args:
        features: Shape (n, d).
        labels: Class numbers, shape (n,).
        classes: Number of classes.
        ridge: Penalty.
        groups: Sizes of the groups of features that weigh alike; one group by default.

    Returns:
        A map from features (n, d), as they are, to scores (n, classes).
    """
    mean = features.mean(dim=0)
    deviations = features.std(dim=0).split(list(groups or (features.shape[1],)))
    scale = torch.cat([(x + 0.05 * x.mean()).clamp(min=1e-6) * len(x) ** 0.5 for x in deviations])
    scaled = (features - mean) / scale
    weights = class_weights(labels)
    weighted = scaled * (weights / weights.mean()).unsqueeze(1)
    targets = F.one_hot(labels, classes).float()
    share = targets.mean(dim=0)
    moments = weighted.T @ scaled + ridge * torch.eye(len(mean))
    solution = torch.linalg.solve(moments, weighted.T @ (targets - share))
    head = nn.Linear(*solution.shape)
    weight = (solution / scale.unsqueeze(1)).T
    head.load_state_dict({"weight": weight, "bias": share - weight @ mean})
    return head.requires_grad_(False)


@torch.inference_mode()
def spectral_statistics(waveforms: Tensor) -> Tensor:
    """Compute statistics of the log-mel spectrograms of waveforms (n, samples), shape (n, d).

    Quantiles, deviations and skewness of changes of each bin over time, then the modulation spectra
    and correlations of 16 bands.
    """
    mels = log_mel(waveforms)  # (n, frames, bins)
    changes = mels.diff(dim=1)
    quantiles = torch.quantile(mels, torch.tensor([0.1, 0.5, 0.9]), dim=1)
    centered = [x - x.mean(dim=-1, keepdim=True) for x in (*quantiles, mels.mean(dim=1))]
    skewness = (changes / (changes.std(dim=1, keepdim=True) + 1e-3)).pow(3).mean(dim=1)
    bands = F.avg_pool1d(mels, mels.shape[2] // 16).transpose(1, 2)  # (n, 16, frames)
    bands = bands - bands.mean(dim=2, keepdim=True)
    power = torch.fft.rfft(bands * torch.hann_window(bands.shape[2])).abs().square()
    edges = pairwise(MODULATIONS)
    modulation = torch.stack([power[:, :, a:b].mean(dim=2) for a, b in edges], dim=2)
    unit = F.normalize(bands, dim=2)
    above = torch.triu_indices(16, 16, 1)
    correlations = (unit @ unit.transpose(1, 2))[:, above[0], above[1]]
    rows = [*centered, mels.std(dim=1), changes.std(dim=1), skewness.clamp(-8, 8)]
    return torch.cat([*rows, (modulation + 1e-2).log().flatten(1), correlations], dim=1)


def _saved(path: Path, compute_features: Callable[[], Tensor]) -> Tensor:
    """Return features, or those of an earlier run's file."""
    if not path.is_file():
        save_tensors({"features": compute_features()}, path)
    return load_file(path)["features"]
