"""Checks of the arguments of a pipeline's call, before anything is computed."""

from collections.abc import Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from clip2clap.core.errors import (
    CheckpointError,
    UserError,
    expect,
    is_integer,
    is_number,
    with_article,
)
from clip2clap.inference.audio_guidance import AudioSimilarityGuidance
from clip2clap.inference.inputs import (
    Negative,
    check_embeds,
    check_number,
    check_one_or_each,
    check_only_one,
    check_texts,
    embeds_on_cpu,
    is_count,
)
from clip2clap.inference.similarity_guidance import MOST_STRENGTH, SimilarityGuidance
from clip2clap.media.audio import MAX_SECONDS

# Beyond it any UNet's output overflows or is noise.
_MAX_GUIDANCE = 10_000.0
# Beyond them one output would need tens of gigabytes.
_MAX_SIDE = 16_384


def check_finite(values: Tensor, pipeline: Any, call: Any) -> Tensor:
    """Return generated values, or raise a `UserError` that says why they are not finite."""
    if torch.isfinite(values).all():
        return values
    components = pipeline.components.items()
    models = {name: part for name, part in components if isinstance(part, torch.nn.Module)}
    for name, model in models.items():
        # Placeholders of weights that are in memory only while they are used have no strides.
        weights = [each for each in model.parameters() if not each.is_meta and any(each.stride())]
        if not all(weight.isfinite().all() for weight in weights):
            raise CheckpointError(
                f"The weights of the {name} are not finite: the checkpoint is damaged. Fetch or "
                "train it again."
            )
    if any(
        weight.dtype == torch.float16 for each in models.values() for weight in each.parameters()
    ):
        raise UserError(
            "The output is not finite: float16 overflowed. Use torch_dtype=torch.bfloat16 or "
            "torch.float32.",
            param="torch_dtype",
        )
    raise UserError(
        f"The output is not finite with guidance_scale={call.guidance_scale:g}. Use a smaller one, "
        f"such as {pipeline.config['default_guidance_scale']:g}.",
        param="guidance_scale",
    )


def check_generator_call(pipeline: Any, call: Any) -> int:
    """Check the arguments of an image-to-audio call, and return the number of items.

    Raises:
        UserError: If an argument is invalid.
    """
    check_only_one(images=call.images, prompt=call.prompt, prompt_embeds=call.prompt_embeds)
    if call.images is not None:
        if pipeline.clip is None or pipeline.translator is None:
            raise UserError(
                "Images need a CLIP and a translator, and this pipeline has none: load it with "
                "clip=... and translator=..., or give prompt_embeds."
            )
        if not call.images:
            raise UserError("There are no images: images is an empty list.", param="images")
    elif call.prompt is not None:
        check_texts(call.prompt, "prompt")
    else:
        space = "the space of the generator's own CLAP"
        check_embeds(call.prompt_embeds, "prompt_embeds", pipeline.embed_dim, space=space)
    count = len(call.images or call.prompt or embeds_on_cpu(call.prompt_embeds))
    samples = pipeline.count_samples(call.audio_length_in_s)
    interval = tuple(call.guidance_interval) if isinstance(call.guidance_interval, Sequence) else ()
    numbers = [value for value in interval if is_number(value)]
    holds = len(interval) == len(numbers) == 2 and 0 <= numbers[0] <= numbers[1] <= 1
    expected = "two numbers (start, end) with 0 <= start <= end <= 1"
    expect(holds, "guidance_interval", expected, call.guidance_interval)
    _check_guidance(call, AudioSimilarityGuidance)
    _check_negative(pipeline, call, count)
    _check_sampling(pipeline, call, count, ("np", "pt"))
    expected = f"from 1 to num_candidates={call.num_candidates}"
    holds = is_count(call.num_variations, call.num_candidates)
    expect(holds, "num_variations", expected, call.num_variations)
    total = count * call.num_candidates
    what = f"{total} waveforms of {samples} samples"
    _check_latents(call, (total, *pipeline.latent_shape(samples)), what)
    if call.num_candidates > 1:
        _check_ranking(pipeline, call)
    if call.draft_candidates is None:
        call.draft_candidates = pipeline.makes_drafts
    expect(
        isinstance(call.draft_candidates, bool),
        "draft_candidates",
        "True or False",
        call.draft_candidates,
    )
    if call.draft_candidates and not pipeline.makes_drafts:
        name = type(pipeline.vocoder).__name__
        raise UserError(
            f"draft_candidates=True needs a vocoder that makes drafts, a SpectralVocoder, and this "
            f"one is a {name}. Leave it out.",
            param="draft_candidates",
        )
    return count


def _check_guidance(call: Any, kind: type) -> None:
    holds = call.guidance is None or isinstance(call.guidance, kind)
    expect(holds, "guidance", with_article(kind.__name__), call.guidance)


def check_decoder_call(pipeline: Any, call: Any) -> int:
    """Check the arguments of an audio-to-image call, and return the number of items.

    Raises:
        UserError: If an argument is invalid.
    """
    decoder, count = pipeline.decoder, _check_audio(pipeline, call)
    check_number(call.audio_start_in_s, "audio_start_in_s")
    length = call.audio_length_in_s
    holds = length is None or (is_number(length) and 0 < length <= MAX_SECONDS)
    expect(holds, "audio_length_in_s", f"above 0 and at most {MAX_SECONDS} seconds", length)
    for name in ("strength", "refine_strength"):
        check_number(getattr(call, name), name, 1.0)
    check_number(call.clip_guidance_scale, "clip_guidance_scale", MOST_STRENGTH)
    _check_guidance(call, SimilarityGuidance)
    levels = decoder.noise_levels
    holds = is_integer(call.noise_level) and 0 <= call.noise_level < levels
    expect(holds, "noise_level", f"from 0 to {levels - 1}", call.noise_level)
    _check_prompts(decoder, call, count)
    if call.negative_image_embeds is not None:
        if not decoder.has_negative_embeds:
            raise UserError(
                f"The {decoder.kind} decoder can't be guided away from embeddings: leave "
                "negative_image_embeds out and use negative_prompt.",
                param="negative_image_embeds",
            )
        negatives = call.negative_image_embeds
        check_embeds(negatives, "negative_image_embeds", pipeline.embed_dim, count=count)
    if call.image is not None:
        if not call.image:
            raise UserError("There are no images to start from: image is an empty list.")
        check_one_or_each(call.image, "image", count)
    for name in ("height", "width"):
        value, expected = getattr(call, name), f"a multiple of {decoder.multiple} pixels"
        expect(is_count(value) and not value % decoder.multiple, name, expected, value)
        expect(value <= _MAX_SIDE, name, f"at most {_MAX_SIDE} pixels", value)
    _check_sampling(pipeline, call, count, ("pil", "np", "pt", "latent"))
    shape = (count * call.num_candidates, *decoder.latent_shape(call.height, call.width))
    _check_latents(call, shape, f"images of {call.width} x {call.height}")
    return count


def _check_sampling(pipeline: Any, call: Any, count: int, output_types: Sequence[str]) -> None:
    """Check the arguments that the calls of both pipelines have."""
    most = pipeline.scheduler.config.get("num_train_timesteps", 1000)
    holds, expected = is_count(call.num_inference_steps, most), f"an integer from 1 to {most}"
    expect(holds, "num_inference_steps", expected, call.num_inference_steps)
    check_number(call.guidance_scale, "guidance_scale", _MAX_GUIDANCE)
    check_number(call.eta, "eta", 1.0)
    for name in ("num_candidates", "batch_size", "cache_interval"):
        expect(is_count(getattr(call, name)), name, "a positive integer", getattr(call, name))
    _check_choice(call.output_type, output_types, "output_type")
    callback, known = call.callback_on_step_end, pipeline._callback_tensor_inputs
    expect(callback is None or callable(callback), "callback_on_step_end", "callable", callback)
    unknown = set(call.callback_on_step_end_tensor_inputs) - set(known)
    if unknown:
        raise UserError(
            f"The callback can get {', '.join(known)}, not {', '.join(sorted(unknown))}.",
            param="callback_on_step_end_tensor_inputs",
        )
    generator = call.generator
    if isinstance(generator, Sequence) and len(generator) != count:
        raise UserError(
            f"Expected one generator, or one for each of the {count} items, got {len(generator)}.",
            param="generator",
        )


def _check_choice(value: Any, choices: Sequence[str], name: str) -> None:
    expect(value in choices, name, f"one of {', '.join(choices)}", value)


def _check_latents(call: Any, shape: tuple[int, ...], what: str) -> None:
    if call.latents is None:
        return
    got = tuple(call.latents.shape) if isinstance(call.latents, Tensor) else type(call.latents)
    if got != shape:
        raise UserError(
            f"Expected latents of shape {shape} for {what}, got {got}.", param="latents"
        )
    if not torch.isfinite(call.latents).all():
        raise UserError("latents holds values that are not finite.", param="latents")


def _check_negative(pipeline: Any, call: Any, count: int) -> None:
    prompt, embeds, negative = call.negative_prompt, call.negative_prompt_embeds, call.negative
    _check_choice(negative, get_args(Negative), "negative")
    if prompt is not None and embeds is not None:
        raise UserError("Give negative_prompt or negative_prompt_embeds, not both.")
    if (prompt is not None or embeds is not None) and negative not in ("auto", "prompt"):
        raise UserError(
            f"negative={negative!r} selects another embedding than the negative prompt. Leave one "
            "of the two out.",
            param="negative",
        )
    if negative == "learned" and pipeline.negative_embedding is None:
        raise UserError(
            "This pipeline has no negative_embedding to guide away from. Use negative='auto', "
            "'prompt' or 'zero'.",
            param="negative",
        )
    if prompt is not None:
        check_texts(prompt, "negative_prompt", count)
    if embeds is not None:
        check_embeds(embeds, "negative_prompt_embeds", pipeline.embed_dim, count=count)


def _check_ranking(pipeline: Any, call: Any) -> None:
    ranker_is_own = pipeline.generator_clap.is_model_of(pipeline.ranker)
    if pipeline.ranker is None:
        try:
            pipeline.generator_clap.load_audio_encoder()
        except UserError as error:
            raise UserError(
                "num_candidates above 1 needs a CLAP with an audio encoder, to rank them, and "
                f"the generator's own has none: {error} Load the pipeline with ranker=... (such "
                "as 'clap-htsat-unfused') and ranker_translator=..., a translator from the "
                "same CLIP into that CLAP's space.",
                param="num_candidates",
            ) from error
    elif not ranker_is_own and call.prompt_embeds is not None:
        raise UserError(
            "Candidates for prompt_embeds can't be ranked: they are in the generator's space, "
            "not in the ranker's. Give images or prompt, or num_candidates=1."
        )
    elif call.images is not None and not ranker_is_own and pipeline.ranker_translator is None:
        raise UserError(
            "Candidates for images are ranked in the ranker's space, which is not the "
            "generator's: load the pipeline with ranker_translator=..., from the same CLIP "
            "into that CLAP's space.",
            param="ranker_translator",
        )


def _check_audio(pipeline: Any, call: Any) -> int:
    """Check the audio or embeddings of an audio-to-image call, and return the number of items."""
    names = ("audios", "audio_embeds", "image_embeds")
    given = check_only_one(**{name: getattr(call, name) for name in names})
    source, translator = getattr(call, given), pipeline.translator
    if given == "image_embeds":
        check_embeds(source, given, pipeline.embed_dim)
    elif given == "audio_embeds":
        check_embeds(source, given, translator and translator.source_dim)
    elif not source:
        raise UserError("There is no audio: audios is an empty list.", param="audios")
    elif pipeline.clap is None or translator is None:
        raise UserError(
            "Audio needs a CLAP and a translator, and this pipeline has none: load it with "
            "clap=... and translator=..., or give image_embeds."
        )
    count = len(source if given == "audios" else torch.atleast_2d(source))
    if call.weights is None:
        return count
    if len(call.weights) != count:
        raise UserError(
            f"Expected a weight for each of the {count} {given}, got {len(call.weights)}.",
            param="weights",
        )
    return 1


def _check_prompts(decoder: Any, call: Any, count: int) -> None:
    if call.prompt_weight is not None:
        check_number(call.prompt_weight, "prompt_weight", 1.0)
        if call.prompt is None:
            raise UserError(
                "prompt_weight is the weight of a prompt, and there is none.",
                param="prompt_weight",
            )
    for name in ("prompt", "negative_prompt"):
        if getattr(call, name) is not None:
            check_texts(getattr(call, name), name, count)
    if call.negative_prompt is not None and not decoder.has_text_encoder:
        raise UserError(
            f"The {decoder.kind} decoder is not conditioned on text: leave negative_prompt out.",
            param="negative_prompt",
        )
