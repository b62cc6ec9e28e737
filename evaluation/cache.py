"""Generation cache: generated files in a folder, so that an interrupted run resumes."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.concurrency import batched
from clip2clap.core.files import replacing
from clip2clap.core.output_folder import writing_to
from clip2clap.inference.audio_to_image import AudioToImagePipeline
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.media.images import write_image
from clip2clap.media.writing import write_audio

CACHE_FILE = "generation.json"

Pipeline = ImageToAudioPipeline | AudioToImagePipeline


@dataclass(frozen=True)
class GenerationConfig:
    """Options of an evaluation of generated audio or images.

    Examples:
        >>> from clip2clap.evaluation import GenerationConfig
        >>> GenerationConfig(num_inference_steps=10, batch_size=4).seed
        0
    """

    seed: int = 0
    """Seed of the noise: item i is generated with seed + i."""

    num_inference_steps: int | None = None
    """Denoising steps; the pipeline's default if None."""

    audio_length_in_s: float | None = None
    """Length of generated audio; the pipeline's default if None. Images have none."""

    batch_size: int = 8
    """Items generated at a time."""

    resamples: int = 1000
    """Bootstrap draws."""


class GenerationCache:
    """Folder of files generated from embeddings (n, d), one file per embedding.

    Files that were generated with other settings, which are everything else that decides the
    outputs, are replaced.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        suffix: str,
        settings: dict[str, Any],
        embeds: Tensor,
    ):
        self.folder = folder
        digest = hashlib.blake2b(embeds.numpy().tobytes(), digest_size=8).hexdigest()
        self.settings = {**settings, "embeds": digest}
        plain = [name.replace("/", "-") for name in names]
        self.files = [folder / f"{at:05d}-{name}{suffix}" for at, name in enumerate(plain)]
        self.seconds: dict[str, float] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            kept = json.loads((folder / CACHE_FILE).read_text(encoding="utf-8"))
            self.seconds = kept["seconds"] if kept["settings"] == self.settings else {}

    @property
    def mean_seconds(self) -> float:
        """Mean time to generate one file."""
        return sum(self.seconds.values()) / len(self.seconds)

    @property
    def missing(self) -> list[int]:
        """Indices of the files that are not generated yet."""
        return [
            at
            for at, file in enumerate(self.files)
            if file.name not in self.seconds or not file.is_file()
        ]

    def add(
        self,
        batch: Sequence[int],
        outputs: Sequence[Any],
        write: Callable[[Path, Any], object],
        seconds: float,
    ) -> None:
        """Write the outputs at some indices, which took `seconds` each to generate."""
        with writing_to(self.folder):
            for at, output in zip(batch, outputs, strict=True):
                write(self.files[at], output)
                self.seconds[self.files[at].name] = seconds
            kept = {"settings": self.settings, "seconds": self.seconds}
            with replacing(self.folder / CACHE_FILE) as hidden:
                hidden.write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def generate(
    pipeline: Pipeline,
    embeds: Tensor,
    folder: Path,
    names: Sequence[str],
    *,
    config: GenerationConfig,
    advance: Callable[[float], None],
) -> GenerationCache:
    """Generate audio (WAV) or images (PNG) from conditions (n, d) on the CPU, and keep them.

    Audio is generated without candidates, regardless of the pipeline's default: a choice by the
    CLAP that also measures would bias the metrics. `advance` is called with the share that is done.
    """
    steps = config.num_inference_steps or pipeline.config["default_num_inference_steps"]
    settings: dict[str, Any] = {
        "pipeline": str(pipeline.config.get("_name_or_path")),
        "seed": config.seed,
        "steps": steps,
    }
    is_audio = isinstance(pipeline, ImageToAudioPipeline)
    if is_audio:
        settings["seconds"] = config.audio_length_in_s or pipeline.default_audio_length_in_s
    cache = GenerationCache(folder, names, ".wav" if is_audio else ".png", settings, embeds)
    for batch in batched(cache.missing, config.batch_size):
        start = time.perf_counter()
        shared: dict[str, Any] = {
            "generator": [torch.Generator().manual_seed(config.seed + at) for at in batch],
            "num_inference_steps": steps,
            "batch_size": config.batch_size,
        }
        if is_audio:
            output = pipeline(
                prompt_embeds=embeds[batch],
                audio_length_in_s=settings["seconds"],
                num_candidates=1,
                **shared,
            )
            write = partial(write_audio, sampling_rate=output.sampling_rate, fade_s=0)
            outputs = output.audios
        else:
            write, outputs = write_image, pipeline(image_embeds=embeds[batch], **shared).images
        seconds = (time.perf_counter() - start) / len(batch)
        cache.add(batch, list(outputs), write, seconds)
        advance((batch[-1] + 1) / len(cache.files))
    return cache
