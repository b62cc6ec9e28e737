"""Features of the frozen pretrained networks, computed once and saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from PIL import Image, ImageOps
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPImageProcessorPil

from clip2clap.core.files import replacing
from clip2clap.models.efficientnet import shorten
from clip2clap.models.sfx_clap import SfxAudioModel, SfxClapFeatureExtractor
from clip2clap.training.recipes.demo.data import (
    SAMPLING_RATE,
    SPLITS,
    DemoAudio,
    DemoData,
    DemoImage,
    Split,
    fit_length,
    read_audio,
)
from clip2clap.training.recipes.demo.loop import compute, training_device
from clip2clap.training.recipes.demo.pretrained import aisfx, efficientnet_lite0

# Images per category and split, of the categories of no demo class.
IMAGES_PER_CATEGORY = 40
# Windows of each full-size training image, of which there are few.
CROPS = 8
# Altered copies of each training file: other start, other speed, added noise.
ALTERED_COPIES = 4
BATCH, PART = 64, 100


def image_processor() -> CLIPImageProcessorPil:
    """Return the demo CLIP's preprocessing: CLIP's, with EfficientNet-Lite0's (x - 127) / 128.

    It crops the center, 224 x 224, bicubic: stretched full-size images are classified worse.
    """
    return CLIPImageProcessorPil(image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3)


def image_features(data: DemoData, path: Path) -> dict[str, Tensor]:
    """Compute EfficientNet-Lite0's features of images, or read them from an earlier run's file.

    Returns:
        `features` (n, 1280), `label` (class number or -1), `number` (of the ImageNet class, or
        -1), `split` (index in `SPLITS`), `full_size`, and `index` (in `data.images`).
    """
    if path.is_file():
        return load_file(path)
    model, _ = efficientnet_lite0()
    shorten(model)
    network: Any = model
    network.to(training_device())
    processor = image_processor()
    chosen = _choose(data.images)
    crops = [
        index
        for index in chosen
        if data.images[index].full_size and data.images[index].split == "train"
    ] * CROPS
    indices = [*chosen, *crops]
    rng = np.random.default_rng(0)
    features = []
    for start in track(range(0, len(indices), BATCH), description="images"):
        rows = range(start, min(start + BATCH, len(indices)))
        loaded = [data.images[indices[row]].load() for row in rows]
        loaded = [
            image if row < len(chosen) else random_window(image, rng)
            for row, image in zip(rows, loaded, strict=True)
        ]
        pixels = processor(loaded, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            features.append(compute(model, pixels).pooler_output)
    images = [data.images[index] for index in indices]
    numbers = {name: number for number, name in enumerate(data.imagenet_names)}
    tensors = {
        "features": torch.cat(features),
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


def audio_maps(data: DemoData, path: Path) -> dict[str, Tensor]:
    """Compute feature maps of audio with aiSFX's lower blocks, which are not trained.

    The first copy of a file is unaltered, in the windows and blocks of `ClapEncoder`; training
    files have altered copies too. Parts of a hundred files are saved one by one, so that little is
    lost when a run is killed.

    Returns:
        `maps` (n, 256, 12, 12), float16, one row per block of 2.3 s; `index` (in `data.audio`) and
        `copy` (0 is the unaltered one) of each row.
    """
    if path.is_file():
        return load_file(path)
    model = aisfx().to(training_device())
    parts = []
    for start in track(range(0, len(data.audio), PART), description="audio"):
        part = path.with_name(f"{path.stem}-{start}.safetensors")
        parts.append(part)
        if not part.is_file():
            save_tensors(_maps_of(data.audio, range(start, start + PART), model), part)
    read = [load_file(part) for part in parts]
    tensors = {name: torch.cat([part[name] for part in read]) for name in read[0]}
    save_tensors(tensors, path)
    for part in parts:
        part.unlink()
    return tensors


def audio_features(
    data: DemoData, maps: dict[str, Tensor], model: SfxAudioModel
) -> dict[str, Tensor]:
    """Compute features of audio from its `audio_maps` with aiSFX's last block.

    Returns:
        One row per copy of a file, its blocks averaged as `ClapEncoder` does: `features` (n, 512),
        `copy`, `index` (in `data.audio`), `label` and `split`.
    """
    model.to(training_device())
    outputs = []
    for part in track(maps["maps"].split(BATCH), description="audio features"):
        with torch.inference_mode():
            outputs.append(compute(model.upper_features, part.float()))
    rows = torch.cat(outputs)
    keys = torch.stack([maps["index"], maps["copy"]], dim=1)
    copies, place = torch.unique(keys, dim=0, return_inverse=True)
    sums = torch.zeros(len(copies), rows.shape[1]).index_add_(0, place, rows)
    indices = copies[:, 0].clone()
    return {
        "features": sums / torch.bincount(place).unsqueeze(1),
        "index": indices,
        "copy": copies[:, 1].clone(),
        **_labels(data, [data.audio[index] for index in indices.tolist()]),
    }


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file atomically: a killed run leaves no partial file."""
    with replacing(path) as partial:
        save_file(tensors, partial)


def resample_for_aisfx(waveform: np.ndarray) -> np.ndarray:
    """Resample from the data's rate to that of the audio encoder."""
    return soxr.resample(waveform, SAMPLING_RATE, SfxClapFeatureExtractor().sampling_rate)


def _maps_of(audio: Sequence[DemoAudio], indices: range, model: SfxAudioModel) -> dict[str, Tensor]:
    extractor = SfxClapFeatureExtractor()
    maps: list[Tensor] = []
    row_indices: list[int] = []
    row_copies: list[int] = []
    for index in range(indices.start, min(indices.stop, len(audio))):
        copies = [_windows(audio[index])]
        if audio[index].split == "train":
            rng = np.random.default_rng(index)
            whole = read_audio(audio[index])
            copies += [[_alter(whole, rng)] for _ in range(ALTERED_COPIES)]
        windows = [window for copy in copies for window in copy]
        inputs = extractor(windows, sampling_rate=extractor.sampling_rate)["input_features"]
        with torch.inference_mode():
            maps.append(compute(model.lower_maps, inputs).flatten(0, 1).half())
        copy_of = [number for number, copy in enumerate(copies) for _ in copy]
        row_copies += [number for number in copy_of for _ in range(model.num_blocks)]
        row_indices += [index] * len(maps[-1])
    return {
        "maps": torch.cat(maps),
        "index": torch.tensor(row_indices),
        "copy": torch.tensor(row_copies),
    }


def _windows(audio: DemoAudio) -> list[np.ndarray]:
    waveform, _ = soundfile.read(audio.path, dtype="float32")
    waveform = resample_for_aisfx(waveform)
    samples = SfxClapFeatureExtractor().nb_max_samples
    return [waveform[start : start + samples] for start in range(0, len(waveform), samples)]


def _alter(waveform: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    shortest = SAMPLING_RATE // 2
    length = int(rng.integers(min(shortest, len(waveform)), len(waveform) + 1))
    start = int(rng.integers(0, len(waveform) - length + 1))
    crop = waveform[start : start + length]
    speed = 2 ** rng.uniform(-0.25, 0.25)
    crop = np.interp(np.arange(0, len(crop), speed), np.arange(len(crop)), crop)
    noise = rng.standard_normal(len(crop)) * crop.std() * 10 ** (-rng.uniform(15, 40) / 20)
    return resample_for_aisfx(fit_length((crop + noise).astype(np.float32), 5 * SAMPLING_RATE))


def _choose(images: list[DemoImage]) -> list[int]:
    counts: dict[tuple[str, Split], int] = {}
    chosen = []
    for index, image in enumerate(images):
        count = counts.get((image.category, image.split), 0)
        if image.label or image.full_size or count < IMAGES_PER_CATEGORY:
            chosen.append(index)
            counts[image.category, image.split] = count + 1
    return chosen


def _labels(data: DemoData, rows: Sequence[DemoImage | DemoAudio]) -> dict[str, Tensor]:
    numbers = {name: number for number, name in enumerate(data.class_names)}
    return {
        "label": torch.tensor([numbers.get(row.label, -1) for row in rows]),
        "split": torch.tensor([SPLITS.index(row.split) for row in rows]),
    }
