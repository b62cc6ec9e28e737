"""Features of the pretrained networks, computed once and saved."""

import math
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil

from clip2clap.core.files import replacing, save_tensors
from clip2clap.models.efficientnet import shorten
from clip2clap.models.yamnet_clap import YamnetFeatureExtractor, YamnetModel
from clip2clap.training.recipes.demo.data import (
    SAMPLING_RATE,
    SPLITS,
    DemoAudio,
    DemoData,
    DemoImage,
    Split,
    read_audio,
)
from clip2clap.training.recipes.demo.loop import compute, training_device
from clip2clap.training.recipes.demo.pretrained import Tail, Trunk, efficientnet_lite0, yamnet

# Images per category and split, of the categories of no demo class.
IMAGES_PER_CATEGORY = 40
# Windows of each full-size training image, of which there are few.
CROPS = 8
# Shorter side of windows that are made small.
SMALL_SIDE = 64
# Altered copies of each training file: other start, other speed, added noise.
ALTERED_COPIES = 4
BATCH, PART = 64, 100


def image_processor(size: int = 224) -> CLIPImageProcessorPil:
    """Return the demo CLIP's preprocessing: CLIP's, with EfficientNet-Lite's (x - 127) / 128.

    It crops the center, 224 x 224, bicubic: stretched full-size images are classified worse.
    """
    return CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
    )


@dataclass(frozen=True)
class View:
    """An image of `DemoData.images`, or one of its random windows, as it is or made small."""

    index: int
    window: int | None = None
    is_small: bool = False

    def load(self, data: DemoData) -> Image.Image:
        """Return the image or the window, drawn by the view's numbers."""
        image = data.images[self.index].load()
        if self.window is not None:
            image = random_window(image, np.random.default_rng([self.index, self.window]))
        if self.is_small:
            image = ImageOps.scale(image, min(1.0, SMALL_SIDE / min(image.size)))
        return image


def image_views(data: DemoData) -> list[View]:
    """Return the images of the recipe, then the windows of full-size training images."""
    chosen = _choose(data.images)
    large = [n for n in chosen if data.images[n].full_size and data.images[n].split == "train"]
    windows = [View(index, window) for window in range(CROPS) for index in large]
    return [*map(View, chosen), *windows]


def view_pixels(data: DemoData, views: Sequence[View]) -> Iterator[Tensor]:
    """Yield batches (n, 3, 224, 224) of views as the demo CLIP reads them, with a progress bar."""
    processor = image_processor()
    for start in track(range(0, len(views), BATCH), description="images"):
        loaded = [view.load(data) for view in views[start : start + BATCH]]
        pixels = processor(loaded, return_tensors="pt")["pixel_values"]
        yield pixels.contiguous(memory_format=torch.channels_last)


def image_activations(data: DemoData, path: Path) -> np.ndarray:
    """Compute what EfficientNet-Lite0's first blocks make of images, or map an earlier run's file.

    Returns:
        Of `image_views`, then of their windows made small: (n, channels, 14, 14), float16.
    """
    if not path.is_file():
        trunk = Trunk(efficientnet_lite0()[0]).eval()
        shorten(trunk)
        trunk.to(training_device())
        views = image_views(data)
        views += [View(x.index, x.window, is_small=True) for x in views if x.window is not None]
        with replacing(path) as partial:
            array, rows = None, 0
            for pixels in view_pixels(data, views):
                with torch.inference_mode():
                    part = compute(trunk, pixels).half().numpy()
                if array is None:
                    shape = len(views), *part.shape[1:]
                    array = np.lib.format.open_memmap(partial, "w+", np.float16, shape)
                array[rows : rows + len(part)] = part
                rows += len(part)
    return np.load(path, mmap_mode="r")


def read_rows(activations: np.ndarray, rows: Tensor) -> Tensor:
    """Read some rows of a memory-mapped array, as float32."""
    return torch.from_numpy(activations[rows.numpy()].astype(np.float32))


def compute_rows(model: nn.Module, activations: np.ndarray) -> Tensor:
    """Compute the outputs (n, d) of a `Tail`, or of a model that begins with one."""
    model = deepcopy(model).eval().to(training_device())
    shorten(model)
    parts = torch.arange(len(activations)).split(BATCH)
    with torch.inference_mode():
        outputs = torch.cat([compute(model, read_rows(activations, rows)) for rows in parts])
    return outputs.clone()


def image_features(data: DemoData, activations: np.ndarray, path: Path) -> dict[str, Tensor]:
    """Compute EfficientNet-Lite0's features of images, or read them from an earlier run's file.

    Args:
        data: The data folder.
        activations: `image_activations`.
        path: File of the features.

    Returns:
        `features` (n, 1280), `label` (class number or -1), `number` (of the ImageNet class, or
        -1), `split` (index in `SPLITS`), `full_size`, and `index` (in `data.images`).
    """
    if path.is_file():
        return load_file(path)
    views = image_views(data)
    tail = Tail(efficientnet_lite0()[0])
    indices = [view.index for view in views]
    images = [data.images[index] for index in indices]
    numbers = {name: number for number, name in enumerate(data.imagenet_names)}
    tensors = {
        "features": compute_rows(tail, activations[: len(views)]),
        "index": torch.tensor(indices),
        "full_size": torch.tensor([image.full_size for image in images]),
        "number": torch.tensor([numbers.get(image.category, -1) for image in images]),
        **_labels(data, images),
    }
    save_tensors(tensors, path)
    return tensors


def random_window(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Crop a random window, of half to all of either side, and flip it half the time."""
    width, height = (int(side * rng.uniform(0.5, 1)) for side in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    window = image.crop((left, top, left + width, top + height))
    return ImageOps.mirror(window) if rng.random() < 0.5 else window


def audio_features(data: DemoData, path: Path) -> dict[str, Tensor]:
    """Compute YAMNet's features of audio, or read them from an earlier run's file.

    The first copy of a file is unaltered, in the windows of `ClapEncoder`; training files have
    altered copies too. Parts of a hundred files are saved one by one, so that little is lost when a
    run is killed.

    Returns:
        One row per copy of a file: `features` (n, 3072), `copy` (0 is the unaltered one), `index`
        (in `data.audio`), `label` (class number or -1) and `split` (index in `SPLITS`).
    """
    if path.is_file():
        return load_file(path)
    model = yamnet(data.folder).to(training_device())
    parts = []
    for start in track(range(0, len(data.audio), PART), description="audio"):
        part = path.with_name(f"{path.stem}-{start}.safetensors")
        parts.append(part)
        if not part.is_file():
            save_tensors(_features_of(data.audio, range(start, start + PART), model), part)
    read = [load_file(part) for part in parts]
    tensors = {name: torch.cat([part[name] for part in read]) for name in read[0]}
    tensors |= _labels(data, [data.audio[index] for index in tensors["index"].tolist()])
    save_tensors(tensors, path)
    for part in parts:
        part.unlink()
    return tensors


def _features_of(
    audio: Sequence[DemoAudio], indices: range, model: YamnetModel
) -> dict[str, Tensor]:
    extractor = YamnetFeatureExtractor()
    features: list[Tensor] = []
    row_indices: list[int] = []
    row_copies: list[int] = []
    for index in range(indices.start, min(indices.stop, len(audio))):
        rng, whole = np.random.default_rng(index), read_audio(audio[index])
        copies = [np.array_split(whole, math.ceil(len(whole) / extractor.nb_max_samples))]
        if audio[index].split == "train":
            copies += [[_alter(whole, rng)] for _ in range(ALTERED_COPIES)]
        for copy, windows in enumerate(copies):
            inputs = extractor(windows)["input_features"]
            with torch.inference_mode():
                features.append(compute(model, inputs).mean(dim=0))
            row_indices.append(index)
            row_copies.append(copy)
    return {
        "features": torch.stack(features),
        "index": torch.tensor(row_indices),
        "copy": torch.tensor(row_copies),
    }


def _alter(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shortest = SAMPLING_RATE // 2
    length = int(rng.integers(min(shortest, len(waveform)), len(waveform) + 1))
    start = int(rng.integers(0, len(waveform) - length + 1))
    crop = waveform[start : start + length]
    speed = 2 ** rng.uniform(-0.25, 0.25)
    crop = np.interp(np.arange(0, len(crop), speed), np.arange(len(crop)), crop)
    noise = rng.standard_normal(len(crop)) * crop.std() * 10 ** (-rng.uniform(15, 40) / 20)
    return (crop + noise).astype(np.float32)


def _choose(images: list[DemoImage]) -> list[int]:
    counts: dict[tuple[str, Split], int] = {}
    chosen = []
    for index, image in enumerate(images):
        if image.split == "classifier":
            continue
        count = counts.get((image.category, image.split), 0)
        if image.label or image.full_size or count < IMAGES_PER_CATEGORY:
            chosen.append(index)
            counts[image.category, image.split] = count + 1
    return chosen


def _labels(data: DemoData, rows: Sequence[DemoImage | DemoAudio]) -> dict[str, Tensor]:
    numbers = {name: number for number, name in enumerate(data.audio_class_names)}
    return {
        "label": torch.tensor([numbers.get(row.label, -1) for row in rows]),
        "split": torch.tensor([SPLITS.index(row.split) for row in rows]),
    }
