"""Denoising steps that reuse the UNet's deep features."""

import copy

import pytest
import torch
from accelerate import cpu_offload

from clip2clap.core.errors import UserError

from .builders import FAST, joined, seeded, unit_vectors


def test_deep_blocks_run_at_every_second_step_and_where_guidance_ends(pipe):
    runs = {"down": 0, "deep": 0}
    blocks = {"down": pipe.unet.down_blocks[0], "deep": pipe.unet.mid_block}
    hooks = [
        block.register_forward_hook(lambda *_, n=name: runs.__setitem__(n, runs[n] + 1))
        for name, block in blocks.items()
    ]
    call = {"prompt_embeds": unit_vectors(1), **FAST, "num_inference_steps": 6}
    try:
        pipe(**call, generator=seeded(), cache_interval=2, guidance_interval=(0.0, 1.0))
        assert runs == {"down": 6, "deep": 3}
        # Steps 0, 2 (guided), 3 and 5.
        pipe(**call, generator=seeded(), cache_interval=2, guidance_interval=(0.0, 0.5))
        assert runs == {"down": 12, "deep": 7}
    finally:
        for hook in hooks:
            hook.remove()


def test_reused_features_change_the_audio_little_and_the_pipeline_not(pipe):
    call = {"prompt_embeds": unit_vectors(2), **FAST, "num_inference_steps": 20}
    whole = pipe(**call, generator=seeded()).audios
    cached = pipe(**call, generator=seeded(), cache_interval=2).audios
    other = pipe(**call, generator=seeded(1)).audios
    assert 0 < (cached - whole).std() < 0.5 * (other - whole).std()
    assert torch.equal(pipe(**call, generator=seeded()).audios, whole)


def test_reused_features_are_refused_for_offloaded_models(pipe):
    offloaded = joined(pipe, unet=cpu_offload(copy.deepcopy(pipe.unet)))
    with pytest.raises(UserError, match="cache_interval does not work with offloaded"):
        offloaded(prompt_embeds=unit_vectors(1), **FAST, cache_interval=2)
