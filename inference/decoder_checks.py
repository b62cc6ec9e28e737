"""Checks of an audio-to-image pipeline's components and of the arguments of its calls."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.inference.compatibility import check_channels, check_dims
from clip2clap.inference.inputs import (
    AudioSource,
    ImageSource,
    check_callback_inputs,
    check_choice,
    check_counts,
    check_embeds,
    check_generators,
    check_latents,
    check_numbers,
    check_one_or_each,
    check_only_one,
    check_steps,
    check_texts,
    is_count,
)


def check_decoder_call(
    pipeline: Any,
    *,
    audios: list[AudioSource] | None,
    audio_embeds: Tensor | None,
    image_embeds: Tensor | None,
    weights: Sequence[float] | None,
    image: list[ImageSource] | None,
    strength: float,
    noise_level: int,
    num_inference_steps: int | None,
    guidance_scale: float,
    num_candidates: int,
    eta: float,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    latents: Tensor | None,
    batch_size: int,
    output_type: str,
    callback_on_step_end_tensor_inputs: Sequence[str],
    **others: Any,
) -> int:
    """Check the arguments of a call, before anything is computed.

    Returns:
        Number of items.

    Raises:
        UserError: If an argument is invalid.
    """
    sources = {"audios": audios, "audio_embeds": audio_embeds, "image_embeds": image_embeds}
    count = _check_sources(pipeline, check_only_one(**sources), sources, weights)
    check_steps(num_inference_steps, pipeline.scheduler)
    check_numbers(math.inf, guidance_scale=guidance_scale)
    check_numbers(1.0, strength=strength, eta=eta)
    check_counts(num_candidates=num_candidates, batch_size=batch_size)
    levels = pipeline.decoder.noise_levels
    if not isinstance(noise_level, int) or not 0 <= noise_level < levels:
        raise UserError(
            f"Expected noise_level to be from 0 to {levels - 1}, got {noise_level!r}.",
            param="noise_level",
        )
    check_choice(output_type, ("pil", "np", "pt", "latent"), "output_type")
    check_callback_inputs(callback_on_step_end_tensor_inputs, pipeline._callback_tensor_inputs)
    _check_texts(
        pipeline, others["prompt"], others["prompt_weight"], others["negative_prompt"], count
    )
    _check_negative_embeds(pipeline, others["negative_image_embeds"], count)
    if image is not None:
        if not image:
            raise UserError("There are no images to start from: image is an empty list.")
        check_one_or_each(image, "image", count)
    check_generators(generator, count)
    height, width = check_size(pipeline, others["height"], others["width"])
    shape = (count * num_candidates, *pipeline.decoder.latent_shape(height, width))
    check_latents(latents, shape, f"images of {width} x {height}")
    return count


def _check_sources(
    pipeline: Any,
    given: str,
    sources: dict[str, Any],
    weights: Sequence[float] | None,
) -> int:
    """Check the conditions, and return the number of items."""
    source = sources[given]
    if given == "image_embeds":
        check_embeds(source, given, pipeline.embed_dim)
    elif given == "audio_embeds":
        check_embeds(source, given, pipeline.translator and pipeline.translator.source_dim)
    elif not source:
        raise UserError("There is no audio: audios is an empty list.", param="audios")
    elif pipeline.clap is None or pipeline.translator is None:
        raise UserError(
            "Audio needs a CLAP and a translator, and this pipeline has none: load it with "
            "clap=... and translator=..., or give image_embeds."
        )
    count = len(source if given == "audios" else torch.atleast_2d(source))
    if weights is None:
        return count
    if len(weights) != count:
        raise UserError(
            f"Expected a weight for each of the {count} {given}, got {len(weights)}.",
            param="weights",
        )
    return 1


def _check_texts(
    pipeline: Any,
    prompt: list[str] | None,
    prompt_weight: float | None,
    negative_prompt: list[str] | None,
    count: int,
) -> None:
    if prompt_weight is not None:
        check_numbers(1.0, prompt_weight=prompt_weight)
        if prompt is None:
            raise UserError(
                "prompt_weight is the weight of a prompt, and there is none.",
                param="prompt_weight",
            )
    for name, texts in (("prompt", prompt), ("negative_prompt", negative_prompt)):
        if texts is not None:
            check_texts(texts, name)
            check_one_or_each(texts, name, count)
    if negative_prompt is not None and not pipeline.decoder.has_text_encoder:
        raise UserError(
            f"The {pipeline.decoder.kind} decoder is not conditioned on text: leave "
            "negative_prompt out.",
            param="negative_prompt",
        )


def _check_negative_embeds(pipeline: Any, embeds: Tensor | None, count: int) -> None:
    if embeds is None:
        return
    if not pipeline.decoder.has_negative_embeds:
        raise UserError(
            f"The {pipeline.decoder.kind} decoder can't be guided away from embeddings: leave "
            "negative_image_embeds out and use negative_prompt.",
            param="negative_image_embeds",
        )
    check_embeds(embeds, "negative_image_embeds", pipeline.embed_dim)
    check_one_or_each(embeds, "negative_image_embeds", count)


def check_size(pipeline: Any, height: int | None, width: int | None) -> tuple[int, int]:
    """Return height and width in pixels, which are checked."""
    sizes = {"height": height or pipeline.decoder.size, "width": width or pipeline.decoder.size}
    for name, value in sizes.items():
        if not is_count(value) or value % pipeline.decoder.multiple:
            raise UserError(
                f"Expected {name} to be a multiple of {pipeline.decoder.multiple} pixels, got "
                f"{value!r}.",
                param=name,
            )
    return sizes["height"], sizes["width"]


def check_decoder_sizes(pipeline: Any) -> None:
    """Raise a `UserError` if the sizes of a pipeline's components do not match."""
    negative, memory = pipeline.negative_embedding, pipeline.retrieval_memory
    sizes = (
        ("the translator returns", pipeline.translator and pipeline.translator.target_dim),
        ("the negative embedding has", negative and negative.config["dim"]),
        ("the retrieval memory has", memory and memory.config["dim"]),
        ("its CLIP has", pipeline.decoder.space and pipeline.decoder.space.dim),
    )
    check_dims("The decoder", pipeline.embed_dim, sizes)
    check_channels(pipeline.unet, pipeline.vae)
