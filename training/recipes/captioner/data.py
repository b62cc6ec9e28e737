"""Embeddings and captions of the demo captioners' training and evaluation."""

import csv
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from clip2clap.core.files import save_tensors
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.training.recipes.captioner.texts import clean
from clip2clap.training.recipes.demo.data import DemoData, Split

# Images per class, and per category of no class, in each split.
IMAGES = {"train": 150, "validation": 8, "test": 10}
OTHER_IMAGES = {"train": 2, "validation": 0, "test": 0}


TextSplit = Literal["train", "val", "test", "images"]
"""Split of AudioCaps, or the captions of Conceptual Captions."""


@dataclass(frozen=True)
class Media:
    """Embeddings (n, d) of images or audio, with the category, label or "", and split of each."""

    embeds: Tensor
    categories: list[str]
    labels: list[str]
    splits: list[Split]

    def rows(self, split: Split, *, labeled: bool = False) -> list[int]:
        """Return the rows of a split, all or those of a demo class."""
        return [
            row
            for row, (own, label) in enumerate(zip(self.splits, self.labels, strict=True))
            if own == split and (label or not labeled)
        ]


class CaptionerData:
    """Captions and media with their embeddings, computed once and saved in a folder."""

    def __init__(self, data: DemoData, folder: Path):
        self.data, self.folder = data, folder
        folder.mkdir(parents=True, exist_ok=True)

    def audiocaps(self, split: Literal["train", "val", "test"]) -> list[dict[str, str]]:
        """Return AudioCaps' rows."""
        path = self.data.folder / f"audiocaps/{split}.csv"
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def captions(self, name: TextSplit) -> list[str]:
        """Return the captions of AudioCaps' split, or of Conceptual Captions."""
        if name == "images":
            return [clean(each) for each in self.data.captions[len(self.audiocaps("train")) :]]
        return [clean(row["caption"]) for row in self.audiocaps(name)]

    def text_embeds(self, name: TextSplit) -> Tensor:
        """Return the embeddings of captions in the demo CLAP, or for `images` in the demo CLIP."""

        def encode() -> Tensor:
            encoder: Any = ClipEncoder if name == "images" else ClapEncoder
            return encoder.from_pretrained("demo").encode_text(self.captions(name))

        return self._cached(f"text_{name}", encode)

    def images(self) -> Media:
        """Return images of all classes and some of other categories."""
        counts: dict[tuple[str, str], int] = defaultdict(int)
        chosen, order = [], list(self.data.images)
        # In the file's order the first images of a class are all of one category.
        random.Random(0).shuffle(order)
        for image in order:
            limits = IMAGES if image.label else OTHER_IMAGES
            key = image.label or image.category, image.split
            if image.full_size or counts[key] < limits.get(image.split, 0):
                counts[key] += not image.full_size
                chosen.append(image)

        def encode() -> Tensor:
            clip = ClipEncoder.from_pretrained("demo", modalities=["image"])
            parts = [
                clip.encode_image([each.load() for each in chosen[start : start + 256]])
                for start in range(0, len(chosen), 256)
            ]
            return torch.cat(parts)

        embeds = self._cached("images", encode)
        rows = [(each.category, each.label, each.split) for each in chosen]
        return Media(embeds, *map(list, zip(*rows, strict=True)))

    def audio(self) -> Media:
        """Return all audio."""
        audio = self.data.audio

        def encode() -> Tensor:
            clap = ClapEncoder.from_pretrained("demo", modalities=["audio"])
            return clap.encode_audio([each.path for each in audio])

        embeds = self._cached("audio", encode)
        return Media(
            embeds,
            [each.category for each in audio],
            [each.label if each.label in self.data.class_names else "" for each in audio],
            [each.split for each in audio],
        )

    def _cached(self, name: str, encode: Any) -> Tensor:
        path = self.folder / f"{name}.safetensors"
        if not path.is_file():
            save_tensors({"embeds": encode().half().contiguous()}, path)
        return load_file(path)["embeds"].float()
