"""Independent classifiers that evaluate the demo models' output.

They share only the training data with the demo models, and are not shipped.
"""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from clip2clap.training.recipes.demo.audio_bank import CLIP_SAMPLES, PEAK, AudioBank, log_mel
from clip2clap.training.recipes.demo.image_decoder import to_pixels
from clip2clap.training.recipes.demo.loop import Stage, compute
from clip2clap.training.recipes.demo.spaces import class_weights, mixup_weights, random_bands

AUDIO_BATCH, IMAGE_BATCH = 16, 64


class AudioClassifier(nn.Module):
    """Log-mel CNN of four convolution blocks, with mean and maximum over time."""

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
        hidden = self.body(mels.unsqueeze(1)).mean(dim=3)  # (n, 192, frames / 16)
        return torch.cat([hidden.mean(dim=2), hidden.amax(dim=2)], dim=1)

    def forward(self, mels: Tensor) -> Tensor:
        """Map spectrograms (n, frames, bins) to logits (n, classes)."""
        return self.head(F.dropout(self.features(mels), 0.3, self.training))

    @torch.inference_mode()
    def encode(self, waveforms: Tensor) -> Tensor:
        """Compute features (n, 384) of waveforms (n, samples) at 16 kHz, level-invariant."""
        peaks = waveforms.abs().amax(dim=1, keepdim=True).clamp(min=1e-4)
        parts = (waveforms / peaks * PEAK).split(AUDIO_BATCH)
        return torch.cat([self.features(log_mel(part)) for part in parts])

    @torch.inference_mode()
    def predict(self, waveforms: Tensor) -> Tensor:
        """Predict the classes (n,) of waveforms (n, samples) at 16 kHz."""
        return self.head(self.encode(waveforms)).argmax(dim=1)


class ImageClassifier(nn.Module):
    """ResNet with one block of each width (He et al. 2016, https://arxiv.org/abs/1512.03385)."""

    def __init__(self, classes: int):
        super().__init__()
        config = ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 128, 256],
            depths=[1, 1, 1, 1],
            layer_type="basic",
        )
        config.num_labels = classes
        self.network = ResNetForImageClassification(config)
        # Its pooling is for 224 x 224 images: the feature maps of 64 x 64 would be too coarse.
        embedder: Any = self.network.resnet.embedder
        embedder.pooler = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """Map images (n, 3, 64, 64) within [-1, 1] to logits (n, classes)."""
        return self.network(pixels.contiguous(memory_format=torch.channels_last)).logits

    @torch.inference_mode()
    def predict(self, images: Sequence[Image.Image]) -> Tensor:
        """Predict the classes (n,) of images, cropped to their centers."""
        parts = to_pixels(images).split(IMAGE_BATCH)
        return torch.cat([self(part.float() / 127.5 - 1).argmax(dim=1) for part in parts])


def train_audio_classifier(bank: AudioBank, classes: int, stage: Stage) -> AudioClassifier:
    """Train an `AudioClassifier` on training audio of the demo classes."""
    weights = class_weights(bank.labels)

    def batch_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.multinomial(weights, AUDIO_BATCH, replacement=True, generator=generator)
        mels = log_mel(bank.batch(rows, CLIP_SAMPLES, generator))
        mels = mels + 1.0 * torch.randn(AUDIO_BATCH, 1, 1, generator=generator)
        mels = _mask(_mask(mels, 64, 1, generator), 12, 2, generator)
        targets = F.one_hot(bank.labels[rows], classes).float()
        mix = mixup_weights(AUDIO_BATCH, generator)
        mels = mix[:, None, None] * mels + (1 - mix)[:, None, None] * mels.roll(1, 0)
        targets = mix[:, None] * targets + (1 - mix)[:, None] * targets.roll(1, 0)
        return F.cross_entropy(compute(model, mels), targets, label_smoothing=0.05)

    return stage.train(lambda: AudioClassifier(classes), batch_loss)


def train_image_classifier(pixels: Tensor, labels: Tensor, stage: Stage) -> ImageClassifier:
    """Train an `ImageClassifier` on images (n, 3, 64, 64), uint8, with class numbers (n,)."""
    weights = class_weights(labels)

    def batch_loss(model: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.multinomial(weights, IMAGE_BATCH, replacement=True, generator=generator)
        images = pixels[rows].float() / 127.5 - 1
        flipped = torch.rand(IMAGE_BATCH, 1, 1, 1, generator=generator) < 0.5
        images = torch.where(flipped, images.flip(3), images)
        top, left = torch.randint(17, (2,), generator=generator).tolist()
        padded = F.pad(images, (8, 8, 8, 8), mode="reflect")
        images = padded[:, :, top : top + 64, left : left + 64]
        # Contrast and brightness.
        shade = torch.randn(2, IMAGE_BATCH, 1, 1, 1, generator=generator)
        images = images * (1 + 0.2 * shade[0]) + 0.15 * shade[1]
        mix = mixup_weights(IMAGE_BATCH, generator)
        mixed = mix[:, None, None, None] * images
        mixed = mixed + (1 - mix)[:, None, None, None] * images.roll(1, 0)
        logits = compute(model, mixed)
        own = F.cross_entropy(logits, labels[rows], reduction="none", label_smoothing=0.05)
        other = F.cross_entropy(logits, labels[rows].roll(1), reduction="none")
        return (mix * own + (1 - mix) * other).mean()

    def build() -> nn.Module:
        return ImageClassifier(int(labels.max()) + 1).to(memory_format=torch.channels_last)

    return stage.train(build, batch_loss)


def _mask(mels: Tensor, widest: int, dim: int, generator: torch.Generator) -> Tensor:
    """Set a band of frames or bins to the mean (SpecAugment, https://arxiv.org/abs/1904.08779)."""
    size = mels.shape[dim]
    inside = random_bands(len(mels), size, widest, size - widest, generator)
    mean = mels.mean(dim=(1, 2), keepdim=True)
    return torch.where(inside.unsqueeze(3 - dim), mean, mels)
