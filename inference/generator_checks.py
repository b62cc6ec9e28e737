"""Checks of an image-to-audio pipeline's components and of the arguments of its calls."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.inference.compatibility import check_channels, check_dims
from clip2clap.inference.guidance import check_negative
from clip2clap.inference.inputs import (
    ImageSource,
    check_callback_inputs,
    check_choice,
    check_counts,
    check_embeds,
    check_generators,
    check_interval,
    check_latents,
    check_numbers,
    check_only_one,
    check_steps,
    check_texts,
    embeds_on_cpu,
)


def check_generator_call(
    pipeline: Any,
    *,
    images: list[ImageSource] | None,
    prompt: list[str] | None,
    prompt_embeds: Tensor | None,
    audio_length_in_s: float | None,
    num_inference_steps: int | None,
    guidance_scale: float,
    guidance_interval: tuple[float, float],
    eta: float,
    negative: str,
    negative_prompt: list[str] | None,
    negative_prompt_embeds: Tensor | None,
    num_candidates: int,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    latents: Tensor | None,
    batch_size: int,
    output_type: str,
    callback_on_step_end_tensor_inputs: Sequence[str],
    **_: Any,
) -> int:
    """Check the arguments of a call, before anything is computed.

    Returns:
        Number of items.

    Raises:
        UserError: If an argument is invalid.
    """
    check_only_one(images=images, prompt=prompt, prompt_embeds=prompt_embeds)
    if images is not None:
        _check_images(pipeline, images)
    elif prompt is not None:
        check_texts(prompt, "prompt")
    else:
        space = "the space of the generator's own CLAP"
        check_embeds(prompt_embeds, "prompt_embeds", pipeline.embed_dim, space=space)
    count = len(images or prompt or embeds_on_cpu(prompt_embeds))
    samples = pipeline.count_samples(audio_length_in_s)
    check_steps(num_inference_steps, pipeline.scheduler)
    check_numbers(math.inf, guidance_scale=guidance_scale)
    check_numbers(1.0, eta=eta)
    check_interval(guidance_interval, "guidance_interval")
    check_counts(num_candidates=num_candidates, batch_size=batch_size)
    check_choice(output_type, ("np", "pt"), "output_type")
    check_callback_inputs(callback_on_step_end_tensor_inputs, pipeline._callback_tensor_inputs)
    check_negative(pipeline, negative, negative_prompt, negative_prompt_embeds, count)
    check_generators(generator, count)
    total = count * num_candidates
    length = f"{total} waveforms of {samples} samples"
    check_latents(latents, (total, *pipeline.latent_shape(samples)), length)
    if num_candidates > 1:
        _check_ranking(pipeline, has_images=images is not None, has_prompt=prompt is not None)
    return count


def _check_images(pipeline: Any, images: list[ImageSource]) -> None:
    if pipeline.clip is None or pipeline.translator is None:
        raise UserError(
            "Images need a CLIP and a translator, and this pipeline has none: load it with "
            "clip=... and translator=..., or give prompt_embeds."
        )
    if not images:
        raise UserError("There are no images: images is an empty list.", param="images")


def _check_ranking(pipeline: Any, *, has_images: bool, has_prompt: bool) -> None:
    ranker_is_own = pipeline.generator_clap.is_model_of(pipeline.ranker)
    if pipeline.ranker is None:
        try:
            pipeline.generator_clap.load_audio_encoder()
        except UserError as error:
            raise UserError(
                "num_candidates above 1 needs a CLAP with an audio encoder, to rank them, and "
                f"the generator's own has none: {error} Load the pipeline with ranker=... (as "
                "as 'clap-htsat-unfused') and ranker_translator=..., a translator from the "
                "same CLIP into that CLAP's space.",
                param="num_candidates",
            ) from error
    elif not ranker_is_own and not (has_images or has_prompt):
        raise UserError(
            "Candidates for prompt_embeds can't be ranked: they are in the generator's space, "
            "not in the ranker's. Give images or prompt, or num_candidates=1."
        )
    elif has_images and not ranker_is_own and pipeline.ranker_translator is None:
        raise UserError(
            "Candidates for images are ranked in the ranker's space, which is not the "
            "generator's: load the pipeline with ranker_translator=..., from the same CLIP "
            "into that CLAP's space.",
            param="ranker_translator",
        )


def check_generator_sizes(pipeline: Any) -> None:
    """Raise a `UserError` if the sizes of a pipeline's components do not match."""
    if pipeline.unet.config["class_embed_type"] != "simple_projection":
        raise UserError(
            "The UNet accepts no CLAP embedding as class labels (class_embed_type is "
            f"{pipeline.unet.config['class_embed_type']!r}, expected 'simple_projection'): it is "
            "not the UNet of AudioLDM 1 or MusicLDM."
        )
    negative, memory = pipeline.negative_embedding, pipeline.retrieval_memory
    clap_space = pipeline.config["clap_space"]
    sizes = (
        ("the translator returns", pipeline.translator and pipeline.translator.target_dim),
        ("the negative embedding has", negative and negative.config["dim"]),
        ("the retrieval memory has", memory and memory.config["dim"]),
        ("the generator's CLAP has", clap_space and clap_space["dim"]),
    )
    check_dims("The UNet", pipeline.embed_dim, sizes)
    check_channels(pipeline.unet, pipeline.vae)
    if pipeline.vocoder.config.model_in_dim % pipeline.vae_scale_factor:
        raise UserError(
            f"The vocoder's {pipeline.vocoder.config.model_in_dim} frequency bins are not "
            f"divisible by the VAE's scale factor {pipeline.vae_scale_factor}."
        )
