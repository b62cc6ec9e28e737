"""Builders of inputs and of image-to-audio pipelines."""

import copy
from typing import Any

import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.inference.image_to_audio import ImageToAudioPipeline
from clip2clap.translator.mlp import MLPTranslator
from clip2clap.translator.saving import Provenance

SECONDS = 0.064
FAST = {"audio_length_in_s": SECONDS, "num_inference_steps": 3, "output_type": "pt"}
needs_bfloat16_attention = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT" and torch.cpu._is_avx512_bf16_supported(),
    reason="torch's bfloat16 attention fails where kernels are set below the CPU's",
)
COLORS = ("red", "blue", "white", "black", "green")


def colored_images(count=3):
    return [Image.new("RGB", (40, 40), color) for color in COLORS[:count]]


def unit_vectors(count, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, 16, generator=generator), dim=-1)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def make_translator(clip_folder, clap_folder, *, seed=0):
    torch.manual_seed(seed)
    return MLPTranslator(
        source_dim=12,
        target_dim=16,
        hidden_size=16,
        provenance=Provenance(
            ClipEncoder.from_pretrained(clip_folder).space("image"),
            ClapEncoder.from_pretrained(clap_folder).space("text"),
        ),
    )


def load(generator_folder, clip_folder) -> Any:
    pipeline = ImageToAudioPipeline.from_audioldm(
        generator_folder,
        clip=clip_folder,
        translator=make_translator(clip_folder, generator_folder),
        torch_dtype=None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def joined(pipeline, **parts) -> Any:
    """Make a pipeline of another's parts, some of them replaced."""
    components = {**pipeline.components, "scheduler": copy.deepcopy(pipeline.scheduler), **parts}
    other = ImageToAudioPipeline(**components, **pipeline.parameters)
    other.set_progress_bar_config(disable=True)
    return other
