"""An independent judge of pictures: a plain network that has seen nothing but the photographs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from clip2clap.training.recipes.demo.heads import balance
from clip2clap.training.recipes.demo.image_decoder import to_pixels
from clip2clap.training.recipes.demo.loop import Fit, Schedule, compute, fit

BATCH = 64
SCHEDULE = Schedule(steps=3500, learning_rate=2e-3, weight_decay=0.05, ema_decay=0.99)


class PhotoJudge(nn.Module):
    """A ResNet with one block of each width (He et al. 2016, https://arxiv.org/abs/1512.03385).

    Args:
        classes: Kinds to tell apart.
    """

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
        # Made for pictures of 224 x 224: what is left of 64 x 64 would be too coarse.
        embedder: Any = self.network.resnet.embedder
        embedder.pooler = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pictures (n, 3, 64, 64) between -1 and 1 to logits (n, classes)."""
        seen = pixels.contiguous(memory_format=torch.channels_last)
        return self.network(seen).logits

    def names(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Name the kind of each picture.

        Args:
            pictures: Images, cut to their middles.

        Returns:
            Numbers of the kinds, shape (n,).
        """
        with torch.inference_mode():
            batches = to_pixels(pictures).split(BATCH)
            parts = [self(part.float() / 127.5 - 1).argmax(dim=1) for part in batches]
        return torch.cat(parts)


def train_photo_judge(
    pixels: Tensor, kinds: Tensor, folder: Path, schedule: Schedule = SCHEDULE
) -> Fit:
    """Train the judge on real photographs.

    Args:
        pixels: Training photographs of the kinds, shape (n, 3, 64, 64), uint8.
        kinds: Their kinds, shape (n,).
        folder: Where the run keeps its checkpoint.
        schedule: Steps and rates.

    Returns:
        A `PhotoJudge`, with what it took.
    """
    weights = balance(kinds)

    def step(classifier: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.multinomial(weights, BATCH, replacement=True, generator=generator)
        seen = pixels[rows].float() / 127.5 - 1
        turned = torch.rand(BATCH, 1, 1, 1, generator=generator) < 0.5
        seen = torch.where(turned, seen.flip(3), seen)
        top, left = torch.randint(17, (2,), generator=generator).tolist()
        seen = F.pad(seen, (8, 8, 8, 8), mode="reflect")[:, :, top : top + 64, left : left + 64]
        # Brighter, darker, stronger, weaker.
        shade = torch.randn(2, BATCH, 1, 1, 1, generator=generator)
        seen = seen * (1 + 0.2 * shade[0]) + 0.15 * shade[1]
        share = 1 - 0.5 * torch.rand(BATCH, generator=generator).square()
        mixed = share[:, None, None, None] * seen
        mixed = mixed + (1 - share)[:, None, None, None] * seen.roll(1, 0)
        logits = compute(classifier, mixed)
        named = F.cross_entropy(logits, kinds[rows], reduction="none", label_smoothing=0.05)
        other = F.cross_entropy(logits, kinds[rows].roll(1), reduction="none")
        return (share * named + (1 - share) * other).mean()

    torch.manual_seed(schedule.seed)
    classifier = PhotoJudge(int(kinds.max()) + 1).to(memory_format=torch.channels_last)
    return fit(classifier, step, schedule, folder, name="photo judge")
