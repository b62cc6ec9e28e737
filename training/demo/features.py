"""Features of the frozen pretrained towers, computed once and kept."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr
import torch
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import EfficientNetImageProcessorPil

from clip2clap.embeddings.sfx_clap import SfxClapFeatureExtractor
from clip2clap.training.demo.data import (
    SAMPLING_RATE,
    DemoData,
    Photo,
    Recording,
    Split,
    fill,
    read_recording,
)
from clip2clap.training.demo.parts import aisfx, efficientnet_lite0

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
# Photographs a class that are looked at: more of the kinds than of the other classes.
PHOTOS_OF_A_KIND, PHOTOS_OF_OTHERS = 250, 40
# Altered copies of each training recording: cut elsewhere, played faster or slower, in noise.
ALTERED_COPIES = 2
BATCH = 64


def image_processor() -> EfficientNetImageProcessorPil:
    """Return the demo CLIP's preprocessing: 224 x 224 by bicubic resizing, (x - 127) / 128."""
    return EfficientNetImageProcessorPil(
        size={"height": 224, "width": 224},
        resample=3,
        do_rescale=True,
        rescale_factor=1 / 255,
        rescale_offset=False,
        do_normalize=True,
        image_mean=[127 / 255] * 3,
        image_std=[128 / 255] * 3,
        include_top=False,
    )


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
    processor = image_processor()
    chosen = _choose(data.photos)
    features = []
    for batch in track(list(_batches(chosen)), description="photographs"):
        images = [data.photos[number].image() for number in batch]
        pixels = processor(images, return_tensors="pt")["pixel_values"]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            features.append(model(pixels).pooler_output.float())
    rows = torch.cat(features)
    photos = [data.photos[number] for number in chosen]
    tensors = {
        "features": rows,
        "logits": classifier(rows).detach(),
        "photo": torch.tensor(chosen),
        "full_size": torch.tensor([photo.full_size for photo in photos]),
        **_labels(data, photos),
    }
    keep(tensors, path)
    return tensors


def sound_features(data: DemoData, path: Path) -> dict[str, Tensor]:
    """Compute aiSFX's features of recordings, or read them where they were kept.

    The first row of a recording is the recording as it is, its windows averaged as `ClapEncoder`
    averages them; altered copies of training recordings follow.

    Args:
        data: The data folder.
        path: Safetensors file that keeps the features.

    Returns:
        `features` (n, 512), `kind`, `split`, `label` (index in the sorted labels), `recording`
        (index in `data.recordings`) and `altered`.
    """
    if path.is_file():
        return load_file(path)
    model = aisfx()
    extractor = SfxClapFeatureExtractor()
    rows: list[Tensor] = []
    recordings: list[int] = []
    altered: list[bool] = []
    for number, recording in enumerate(track(data.recordings, description="recordings")):
        copies = [_windows(recording)]
        if recording.split == "train":
            rng = np.random.default_rng(number)
            whole = read_recording(recording)
            copies += [[_alter(whole, rng)] for _ in range(ALTERED_COPIES)]
        flat = [window for copy in copies for window in copy]
        inputs = extractor(flat, sampling_rate=extractor.sampling_rate)["input_features"]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            outputs = model(inputs).float().split([len(copy) for copy in copies])
        rows += [output.mean(0) for output in outputs]
        recordings += [number] * len(copies)
        altered += [place > 0 for place in range(len(copies))]
    owners = [data.recordings[number] for number in recordings]
    labels = sorted({recording.label for recording in data.recordings})
    tensors = {
        "features": torch.stack(rows),
        "recording": torch.tensor(recordings),
        "altered": torch.tensor(altered),
        "label": torch.tensor([labels.index(owner.label) for owner in owners]),
        **_labels(data, owners),
    }
    keep(tensors, path)
    return tensors


def keep(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors whole or not at all: a killed run must not leave half a file that looks done.

    Args:
        tensors: What to keep, by name.
        path: Safetensors file; what it held is replaced.
    """
    partial = path.with_suffix(".part")
    save_file(tensors, partial)
    partial.replace(path)


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
        limit = PHOTOS_OF_A_KIND if photo.kind else PHOTOS_OF_OTHERS
        count = seen.get((photo.class_name, photo.split), 0)
        if photo.full_size or count < limit:
            chosen.append(number)
            seen[photo.class_name, photo.split] = count + 1
    return chosen


def _labels(data: DemoData, rows: list[Photo] | list[Recording]) -> dict[str, Tensor]:
    kinds = {name: number for number, name in enumerate(data.kind_names)}
    return {
        "kind": torch.tensor([kinds.get(row.kind, -1) for row in rows]),
        "split": torch.tensor([SPLITS.index(row.split) for row in rows]),
    }


def _batches(numbers: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(numbers), BATCH):
        yield numbers[start : start + BATCH]
