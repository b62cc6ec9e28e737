"""Features of the frozen pretrained towers, computed once and kept."""

from collections.abc import Iterator
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
    DemoData,
    Photo,
    Recording,
    Split,
    fill,
    read_recording,
)
from clip2clap.training.recipes.demo.loop import compute, training_device
from clip2clap.training.recipes.demo.parts import aisfx, efficientnet_lite0

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# Photographs a class that are looked at, of the classes of no kind; those of a kind all are.
PHOTOS_OF_OTHERS = 40
# Windows cut out of each full-size training photograph, of which there are few.
CROPS = 8
# Altered copies of each training recording: cut elsewhere, played faster or slower, in noise.
ALTERED_COPIES = 4
BATCH, PART = 64, 100


def image_processor() -> CLIPImageProcessorPil:
    """Return the demo CLIP's preprocessing: CLIP's own, with EfficientNet-Lite0's (x - 127) / 128.

    The middle square, 224 x 224, bicubic: drawn out to a square, full-size photographs are named
    less often.
    """
    return CLIPImageProcessorPil(image_mean=[127 / 255] * 3, image_std=[128 / 255] * 3)


def photo_features(data: DemoData, path: Path) -> dict[str, Tensor]:
    """Compute EfficientNet-Lite0's features of photographs, or read them where they were kept.

    Args:
        data: The data folder.
        path: Safetensors file that keeps the features.

    Returns:
        `features` (n, 1280), `logits` of ImageNet (n, 1000), `kind` (index or -1), `split` (index
        in `SPLITS`), `full_size`, and `photo` (index in `data.photos`).
    """
    if path.is_file():
        return load_file(path)
    model, classifier = efficientnet_lite0()
    shorten(model)
    network: Any = model
    network.to(training_device())
    processor = image_processor()
    chosen = _choose(data.photos)
    crops = [
        number
        for number in chosen
        if data.photos[number].full_size and data.photos[number].split == "train"
    ] * CROPS
    numbers = [*chosen, *crops]
    rng = np.random.default_rng(0)
    features = []
    for batch in track(list(_batches(len(numbers))), description="photographs"):
        images = [data.photos[numbers[row]].image() for row in batch]
        images = [
            image if row < len(chosen) else random_window(image, rng)
            for row, image in zip(batch, images, strict=True)
        ]
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            pixels = pixels.contiguous(memory_format=torch.channels_last)
            features.append(compute(model, pixels).pooler_output)
    rows = torch.cat(features)
    photos = [data.photos[number] for number in numbers]
    tensors = {
        "features": rows,
        "logits": classifier(rows).detach(),
        "photo": torch.tensor(numbers),
        "full_size": torch.tensor([photo.full_size for photo in photos]),
        **_labels(data, photos),
    }
    keep(tensors, path)
    return tensors


def random_window(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cut out a random window, of half to all of either side, and turn it over half the time."""
    width, height = (int(side * rng.uniform(0.5, 1)) for side in image.size)
    left = int(rng.integers(image.width - width + 1))
    top = int(rng.integers(image.height - height + 1))
    window = image.crop((left, top, left + width, top + height))
    return ImageOps.mirror(window) if rng.random() < 0.5 else window


def sound_maps(data: DemoData, path: Path) -> dict[str, Tensor]:
    """Compute what aiSFX's lower blocks, which stay as they are, see in recordings.

    The first copy of a recording is the recording as it is, in the windows and blocks that
    `ClapEncoder` looks at; altered copies of training recordings follow. Parts of a hundred
    recordings are kept as they are made, so that a killed run loses little.

    Args:
        data: The data folder.
        path: Safetensors file that keeps the maps.

    Returns:
        `maps` (n, 256, 12, 12), float16, one row for each block of 2.3 s; `recording` (index in
        `data.recordings`) and `copy` (0 is the recording as it is), for each row.
    """
    if path.is_file():
        return load_file(path)
    model = aisfx().to(training_device())
    extractor = SfxClapFeatureExtractor()
    parts = []
    for start in track(range(0, len(data.recordings), PART), description="recordings"):
        part = path.with_name(f"{path.stem}-{start}.safetensors")
        parts.append(part)
        if part.is_file():
            continue
        maps: list[Tensor] = []
        recordings: list[int] = []
        numbers: list[int] = []
        for number, recording in enumerate(data.recordings[start : start + PART], start):
            copies = [_windows(recording)]
            if recording.split == "train":
                rng = np.random.default_rng(number)
                whole = read_recording(recording)
                copies += [[_alter(whole, rng)] for _ in range(ALTERED_COPIES)]
            flat = [window for copy in copies for window in copy]
            inputs = extractor(flat, sampling_rate=extractor.sampling_rate)["input_features"]
            with torch.inference_mode():
                maps.append(compute(model.lower_maps, inputs).flatten(0, 1).half())
            copy_of = [place for place, copy in enumerate(copies) for _ in copy]
            numbers += [place for place in copy_of for _ in range(model.num_blocks)]
            recordings += [number] * len(maps[-1])
        keep(
            {
                "maps": torch.cat(maps),
                "recording": torch.tensor(recordings),
                "copy": torch.tensor(numbers),
            },
            part,
        )
    read = [load_file(part) for part in parts]
    whole_maps = {name: torch.cat([part[name] for part in read]) for name in read[0]}
    keep(whole_maps, path)
    for part in parts:
        part.unlink()
    return whole_maps


def sound_features(
    data: DemoData, maps: dict[str, Tensor], tower: SfxAudioModel
) -> dict[str, Tensor]:
    """Compute the audio tower's features of recordings from what its lower blocks saw.

    Args:
        data: The data folder.
        maps: `sound_maps`.
        tower: The audio tower.

    Returns:
        One row for each copy of a recording, its blocks averaged as `ClapEncoder` averages them:
        `features` (n, 512), `copy`, `recording`, `kind` and `split`.
    """
    tower.to(training_device())
    made = []
    for part in track(maps["maps"].split(BATCH), description="sounds"):
        with torch.inference_mode():
            made.append(compute(tower.upper_features, part.float()))
    rows = torch.cat(made)
    keys = torch.stack([maps["recording"], maps["copy"]], dim=1)
    owners, place = torch.unique(keys, dim=0, return_inverse=True)
    sums = torch.zeros(len(owners), rows.shape[1]).index_add_(0, place, rows)
    recordings = owners[:, 0].clone()
    return {
        "features": sums / torch.bincount(place).unsqueeze(1),
        "recording": recordings,
        "copy": owners[:, 1].clone(),
        **_labels(data, [data.recordings[number] for number in recordings.tolist()]),
    }


def keep(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors whole or not at all: a killed run must not leave half a file that looks done.

    Args:
        tensors: What to keep, by name.
        path: Safetensors file; what it held is replaced.
    """
    with replacing(path) as partial:
        save_file(tensors, partial)


def at_tower_rate(waveform: np.ndarray) -> np.ndarray:
    """Resample from the data's rate to the rate of the audio tower."""
    return soxr.resample(waveform, SAMPLING_RATE, SfxClapFeatureExtractor().sampling_rate)


def _windows(recording: Recording) -> list[np.ndarray]:
    waveform, _ = soundfile.read(recording.path, dtype="float32")
    waveform = at_tower_rate(waveform)
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
    return at_tower_rate(fill((crop + noise).astype(np.float32), 5 * SAMPLING_RATE))


def _choose(photos: list[Photo]) -> list[int]:
    seen: dict[tuple[str, Split], int] = {}
    chosen = []
    for number, photo in enumerate(photos):
        count = seen.get((photo.class_name, photo.split), 0)
        if photo.kind or photo.full_size or count < PHOTOS_OF_OTHERS:
            chosen.append(number)
            seen[photo.class_name, photo.split] = count + 1
    return chosen


def _labels(data: DemoData, rows: list[Photo] | list[Recording]) -> dict[str, Tensor]:
    kinds = {name: number for number, name in enumerate(data.kind_names)}
    return {
        "kind": torch.tensor([kinds.get(row.kind, -1) for row in rows]),
        "split": torch.tensor([SPLITS.index(row.split) for row in rows]),
    }


def _batches(count: int) -> Iterator[range]:
    for start in range(0, count, BATCH):
        yield range(start, min(start + BATCH, count))
