"""Vocoders whose residual blocks compute in fewer bits than their other layers."""

import shutil
from typing import Any

import pytest
import torch
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from clip2clap.inference.image_to_audio import ImageToAudioPipeline

from .builders import FAST, colored_images, seeded

MIXED = {"default": torch.float32, "vocoder.resblocks": torch.bfloat16}


@pytest.fixture(scope="module")
def folder(saved_once, tmp_path_factory):
    """Return a pipeline's folder, the first residual blocks of whose vocoder have 64 channels."""
    folder = tmp_path_factory.mktemp("wide") / "pipeline"
    shutil.copytree(saved_once, folder)
    torch.manual_seed(0)
    config = SpeechT5HifiGanConfig(
        model_in_dim=8,
        upsample_initial_channel=128,
        upsample_rates=[4, 2],
        upsample_kernel_sizes=[8, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )
    vocoder = SpeechT5HifiGan(config)
    for name, weight in vocoder.named_parameters():
        if name.endswith("weight"):
            torch.nn.init.xavier_normal_(weight)
    vocoder.save_pretrained(folder / "vocoder")
    return folder


def load(folder, **options) -> Any:
    pipeline: Any = ImageToAudioPipeline.from_pretrained(folder, **options)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def mel():
    return torch.randn(2, 40, 8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_only_wide_residual_blocks_are_rounded_and_the_audio_hardly_changes(folder, mel):
    whole, mixed = load(folder, torch_dtype=None), load(folder, torch_dtype=MIXED)
    half = {name for name, value in mixed.vocoder.named_parameters() if value.dtype != mel.dtype}
    assert half
    assert all(name.startswith("resblocks.0.convs") for name in half)
    expected, got = whole._vocode(mel), mixed._vocode(mel)
    assert got.dtype == torch.float32
    error = (got - expected).std() / expected.std()
    rounded = load(folder, torch_dtype={"vocoder": torch.bfloat16})._vocode(mel)
    assert 0 < error < 0.5 * (rounded - expected).std() / expected.std()


@torch.no_grad()
def test_a_vocoder_of_two_dtypes_runs_by_itself_and_cast_to_one(folder, mel):
    mixed = load(folder, torch_dtype=MIXED)
    torch.testing.assert_close(mixed.vocoder(mel), mixed._vocode(mel), atol=1e-3, rtol=0)
    mixed.to(torch.float32)
    expected = load(folder, torch_dtype=None)._vocode(mel)
    torch.testing.assert_close(mixed._vocode(mel), expected, atol=0.02, rtol=0)


def test_low_memory_gives_the_same_audio_with_no_weights_in_memory(folder):
    call = {"images": colored_images(1), **FAST}
    light = load(folder, torch_dtype=MIXED, low_memory=True)
    expected = load(folder, torch_dtype=MIXED)(**call, generator=seeded()).audios
    torch.testing.assert_close(
        light(**call, generator=seeded()).audios, expected, atol=1e-4, rtol=0
    )
    sizes = {each.untyped_storage().nbytes() for each in light.vocoder.parameters()}
    assert max(sizes) <= 4
