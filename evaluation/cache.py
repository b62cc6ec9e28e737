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
from clip2clap.inference.text_to_image import TextToImage
from clip2clap.media.images import write_image
from clip2clap.media.writing import write_audio

CACHE_FILE, PROMPTS_FILE = "generation.json", "prompts.jsonl"

Pipeline = ImageToAudioPipeline | AudioToImagePipeline
Maker = Callable[[list[int]], tuple[Sequence[Any], Callable[[Path, Any], object]]]
"""Map from the indices of items to their outputs, and what writes one to a file."""


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
    pipeline: Pipeline | TextToImage,
    embeds: Tensor,
    folder: Path,
    names: Sequence[str],
    *,
    config: GenerationConfig,
    advance: Callable[[float], None],
    prompts: Sequence[str] | None = None,
) -> GenerationCache:
    """Generate audio (WAV) or images (PNG) from conditions (n, d) on the CPU, and keep them.

    Audio is generated without candidates, regardless of the pipeline's default: a choice by the
    CLAP that also measures would bias the metrics. A text-to-image model generates from the
    prompts. `advance` is called with the share that is done.
    """
    if isinstance(pipeline, TextToImage):
        settings, make = _by_words(pipeline, prompts or [], config)
    else:
        settings, make = _by_embeds(pipeline, embeds, config)
    suffix = ".wav" if isinstance(pipeline, ImageToAudioPipeline) else ".png"
    cache = GenerationCache(folder, names, suffix, {**settings, "seed": config.seed}, embeds)
    for batch in batched(cache.missing, config.batch_size):
        start = time.perf_counter()
        outputs, write = make(batch)
        seconds = (time.perf_counter() - start) / len(batch)
        cache.add(batch, list(outputs), write, seconds)
        advance((batch[-1] + 1) / len(cache.files))
    if prompts is not None:
        lines = [{"name": name, "prompt": each} for name, each in zip(names, prompts, strict=True)]
        with replacing(folder / PROMPTS_FILE) as partial:
            partial.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return cache


def _by_embeds(
    pipeline: Pipeline, embeds: Tensor, config: GenerationConfig
) -> tuple[dict[str, Any], Maker]:
    """Return the settings of a pipeline's calls, and what makes outputs of embeddings (n, d)."""
    steps = config.num_inference_steps or pipeline.config["default_num_inference_steps"]
    settings: dict[str, Any] = {"pipeline": str(pipeline.config.get("_name_or_path"))}
    settings["steps"] = steps
    if isinstance(pipeline, ImageToAudioPipeline):
        settings["seconds"] = config.audio_length_in_s or pipeline.default_audio_length_in_s
    else:
        names = ("size", "refine_strength", "clip_guidance_scale")
        settings |= {name: pipeline.config[f"default_{name}"] for name in names}

    def make(batch: list[int]) -> tuple[Sequence[Any], Callable[[Path, Any], object]]:
        shared: dict[str, Any] = {
            "generator": _generators(config, batch),
            "num_inference_steps": steps,
            "batch_size": config.batch_size,
        }
        if not isinstance(pipeline, ImageToAudioPipeline):
            images: Any = pipeline(image_embeds=embeds[batch], **shared).images
            return images, write_image
        length = settings["seconds"]
        output = pipeline(
            prompt_embeds=embeds[batch], audio_length_in_s=length, num_candidates=1, **shared
        )
        write = partial(write_audio, sampling_rate=output.sampling_rate, fade_s=0)
        return list(output.audios), write

    return settings, make


def _by_words(
    model: TextToImage, prompts: Sequence[str], config: GenerationConfig
) -> tuple[dict[str, Any], Maker]:
    """Return the settings of a text-to-image model's calls, and what makes images of prompts."""
    digest = hashlib.blake2b(json.dumps(list(prompts)).encode(), digest_size=8).hexdigest()
    settings = {"model": model.name_or_path, "prompts": digest, "steps": config.num_inference_steps}

    def make(batch: list[int]) -> tuple[Sequence[Any], Callable[[Path, Any], object]]:
        images = model(
            [prompts[at] for at in batch],
            generator=_generators(config, batch),
            num_inference_steps=config.num_inference_steps,
            batch_size=config.batch_size,
        )
        return images, write_image

    return settings, make


def _generators(config: GenerationConfig, batch: Sequence[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(config.seed + at) for at in batch]
