"""Models, targets and outputs of the verb `guide`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from clip2clap.cli.checks import choose_device, choose_dtype, require
from clip2clap.cli.development import Recorder
from clip2clap.cli.inputs import load_named_image
from clip2clap.cli.loading import load_pipeline
from clip2clap.cli.options.generation import Guide
from clip2clap.cli.painter import AudioTargetEncoder, TargetEncoder
from clip2clap.cli.spoken import load_speech_encoder
from clip2clap.core.errors import UserError

Weighted = Mapping[str, Sequence[tuple[str, float]]]
_UNCONDITIONAL_STEPS = 50


@dataclass(frozen=True)
class Made:
    """Guided output, its similarities to the targets, its caption and numbered frames."""

    output: Any
    similarities: list[float]
    caption: str
    frames: list[Path]


@dataclass
class Guided:
    """Generator of guided images or audio.

    Attributes:
        generate: Generates the output of a seed, with guidance or without.
        guidance: Guidance.
        encode: Encodes outputs, shape (n, d), as targets are.
        write: Writes an output to a file.
        modality: Modality of outputs, for captions.
        captioner: Captioner of the outputs' encoder, if there is one.
        audio: Audio that is heard in a film.
        developments: Frames of each output, for a film.
        settings: Settings for the report.
    """

    options: Guide
    generate: Callable[[int, Any], Any]
    guidance: Any
    encode: Callable[[Sequence[Any]], Any]
    write: Callable[[Path, Any], object]
    modality: Literal["image", "audio"]
    steps: int
    captioner: Any = None
    audio: str | None = None
    developments: list[Any] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def targets(self) -> Sequence[Any]:
        """Targets of guidance."""
        return self.guidance.targets

    def make(self, seed: int, stem: Path) -> Made:
        """Generate the guided output of a seed; its frames are named by a stem."""
        from clip2clap.inference.film.development import Development
        from clip2clap.media.images import to_images

        recorder = Recorder(stem, self.options, self.steps)
        if self.modality == "image":
            shown = iter(range(1, self.steps + 1))

            def record(outputs: Any) -> None:
                step = next(shown)
                if recorder.wants(step):
                    recorder.add(step, to_images(outputs.detach().cpu())[0])

            self.guidance.on_outputs = record
        output = self.generate(seed, self.guidance)
        if recorder.frames:
            self.developments.append(Development([*recorder.frames, output], self.audio))
        embeds = self.encode([output])
        caption = ""
        if self.captioner is not None:
            caption = self.captioner.generate(embeds, modality=self.modality)[0][0]
        return Made(output, self._similarities(embeds), caption, recorder.files)

    def plain_similarities(self, seed: int) -> list[float]:
        """Return the similarities of the output of a seed without guidance."""
        return self._similarities(self.encode([self.generate(seed, None)]))

    def _similarities(self, embeds: Any) -> list[float]:
        return [round(float(embeds[0] @ target.embed), 4) for target in self.targets]


def load_image_guided(options: Guide, targets: Weighted) -> Guided:
    """Load what generates guided images.

    Raises:
        UserError: If a model is missing or does not fit another, or a target cannot be read.
    """
    import torch

    from clip2clap.inference.painting.paint import default_cut_size
    from clip2clap.inference.similarity_guidance import SimilarityGuidance
    from clip2clap.media.images import write_image

    device = choose_device(options.device)
    model, clip, encoder = _load_image_models(options, bool(targets["audio"]), device)
    found = encoder.targets(targets, options.break_audio)
    image = options.init_image
    if image is not None:
        image = load_named_image(image, allow_private=options.allow_private)
    settings = _guidance_options(options, options.cut_size or default_cut_size(clip))
    perceptual = _load_perceptual(options, device)
    guidance = SimilarityGuidance(clip, found, settings, init=image, perceptual=perceptual)
    is_unconditional = options.unconditional is not None
    size = model.size if is_unconditional else model.decoder.trained_size
    default = _UNCONDITIONAL_STEPS
    if not is_unconditional:
        default = model.config["default_num_inference_steps"]
    steps = options.num_inference_steps or default
    require(options.skip_timesteps < steps, "skip_timesteps", f"expected below the {steps} steps.")
    call: dict[str, Any] = {
        "width": options.width or size,
        "height": options.height or size,
        "num_inference_steps": steps,
    }
    if image is not None:
        # Half a step more, as the pipeline rounds the number of steps down.
        share = (steps - options.skip_timesteps + 0.5) / steps
        call |= {"image": image, "strength": min(1.0, share)}
    conditions = {} if is_unconditional else _image_condition(model, found, options)

    def generate(seed: int, guide: Any) -> Any:
        own = [torch.Generator().manual_seed(seed)]
        if is_unconditional:
            return model(own, guidance=guide, **call)[0]
        by_targets_alone: dict[str, Any] = {"guidance": guide, "clip_guidance_scale": 0.0}
        return model(generator=own, **by_targets_alone, **call, **conditions).images[0]

    heard = (name for name, weight in [*targets["audio"], *targets["speech"]] if weight > 0)
    return Guided(
        options,
        generate,
        guidance,
        lambda images: clip.encode_image(images),
        write_image,
        "image",
        steps,
        captioner=_load_captioner(options, clip.space("image"), "demo", device),
        audio=next(heard, None),
        settings={name: call[name] for name in ("width", "height", "num_inference_steps")},
    )


def _load_perceptual(options: Guide, device: Any) -> Any:
    from clip2clap.metrics.perceptual import load_perceptual_distance

    return load_perceptual_distance(device=device) if options.init_scale else None


def _load_image_models(options: Guide, has_audio: bool, device: Any) -> tuple[Any, Any, Any]:
    """Return what generates images, its CLIP, and the encoder of targets."""
    parts = {part: getattr(options, part) for part in ("clap", "translator", "clip")}
    if options.unconditional is None:
        pipeline = load_pipeline(
            "decoder", options.decoder, device=device, dtype=choose_dtype("fp32", device), **parts
        )
        if pipeline.clip is None:
            raise UserError(f"{options.decoder} has no CLIP. Name one.", param="clip")
        own = TargetEncoder(pipeline.clip, pipeline.clap, pipeline.translator)
        own.allow_private = options.allow_private
        _load_speech(options, own, device)
        return pipeline, pipeline.clip, own
    from clip2clap.embeddings.encoders.clap import ClapEncoder
    from clip2clap.embeddings.encoders.clip import ClipEncoder
    from clip2clap.inference.unconditional import UnconditionalDiffusion
    from clip2clap.translator.auto import AutoTranslator

    clip = ClipEncoder.from_pretrained(str(options.clip), device=device)
    encoder = TargetEncoder(clip, allow_private=options.allow_private)
    if has_audio:
        name = options.translator or ("demo-back" if options.clip == "demo" else None)
        require(name, "translator", "audio targets need one from the CLAP into the CLIP.")
        encoder.translator = AutoTranslator.from_pretrained(str(name)).to(device)
        source = encoder.translator.source_space
        clap = options.clap or (source.model_id if source is not None else "demo")
        encoder.clap = ClapEncoder.from_pretrained(clap, device=device, modalities=["audio"])
        encoder.translator.check_source(encoder.clap.space("audio"))
        encoder.translator.check_target(clip.space("image"))
    _load_speech(options, encoder, device)
    model = UnconditionalDiffusion.from_pretrained(options.unconditional, device=device)
    return model, clip, encoder


def _load_speech(options: Guide, encoder: TargetEncoder, device: Any) -> None:
    if options.speech:
        space = encoder.clip.space(encoder.clip.modalities[0])
        encoder.speech = load_speech_encoder(options, device, space)


def _image_condition(pipeline: Any, targets: Sequence[Any], options: Guide) -> dict[str, Any]:
    """Return what a decoder is conditioned on beside guidance."""
    if options.condition == "targets":
        return {"image_embeds": _mean_target(targets)}
    # What guidance is away from: there is nothing to be guided away from then.
    return {"image_embeds": _nothing(pipeline), "guidance_scale": 1.0}


def load_audio_guided(options: Guide, targets: Weighted) -> Guided:
    """Load what generates guided audio.

    Raises:
        UserError: As for `load_image_guided`.
    """
    import torch

    from clip2clap.inference.audio_guidance import AudioSimilarityGuidance
    from clip2clap.media.writing import write_audio

    device = choose_device(options.device)
    name = options.generator or "demo"
    pipeline = load_pipeline(
        "generator",
        name,
        device=device,
        dtype=choose_dtype("fp32", device),
        clip=options.clip,
        translator=options.translator,
    )
    clap = pipeline.generator_clap.load_audio_encoder().to(device)
    encoder = AudioTargetEncoder(clap, pipeline, allow_private=options.allow_private)
    found = encoder.targets(targets, options.break_audio)
    rate = pipeline.sampling_rate
    guidance = AudioSimilarityGuidance(clap, rate, found, _guidance_options(options, None))
    steps = options.num_inference_steps or pipeline.config["default_num_inference_steps"]
    call: dict[str, Any] = {"num_inference_steps": steps, "num_candidates": 1}
    call["audio_length_in_s"] = options.duration_s
    if options.condition == "targets":
        conditions = {"prompt_embeds": _mean_target(found)}
    else:
        conditions = {"prompt_embeds": _nothing(pipeline), "guidance_scale": 1.0}

    def generate(seed: int, guide: Any) -> Any:
        own = [torch.Generator().manual_seed(seed)]
        return pipeline(generator=own, guidance=guide, **call, **conditions).audios[0]

    return Guided(
        options,
        generate,
        guidance,
        lambda waveforms: clap.encode_audio([(waveform, rate) for waveform in waveforms]),
        lambda path, waveform: write_audio(path, waveform, rate),
        "audio",
        steps,
        captioner=_load_captioner(options, clap.space("audio"), "demo-clap", device),
        settings={"generator": name, "num_inference_steps": steps},
    )


def _guidance_options(options: Guide, cut_size: int | None) -> Any:
    from clip2clap.inference.similarity_guidance import GuidanceOptions

    return GuidanceOptions(
        strength=options.guidance_strength,
        iterations=options.gradient_steps,
        start=options.guide_from,
        end=options.guide_until,
        cutouts=options.cutouts,
        cut_size=cut_size,
        augment=options.augment,
        total_variation=options.tv_scale,
        range_scale=options.range_scale,
        init_scale=options.init_scale,
    )


def _mean_target(targets: Sequence[Any]) -> Any:
    """Return the weighted mean of the targets to come near to, shape (1, d)."""
    import torch

    from clip2clap.inference.mixing import mix_embeds

    wanted = [each for each in targets if each.weight > 0]
    embeds = torch.stack([each.embed for each in wanted])
    return mix_embeds(embeds, [each.weight for each in wanted])[None]


def _nothing(pipeline: Any) -> Any:
    """Return the embedding that a pipeline is guided away from, shape (1, d)."""
    import torch

    learned = pipeline.negative_embedding
    if learned is None:
        return torch.zeros(1, pipeline.embed_dim)
    return learned(1).float().detach().cpu()


def _load_captioner(options: Guide, space: Any, default: str, device: Any) -> Any:
    """Return the named captioner of a space, or a demo one that fits; None if there is none."""
    from clip2clap.captioning.captioner import Captioner
    from clip2clap.embeddings.space import SpaceMismatchError

    for name in options.captioner or [default]:
        captioner = Captioner.from_pretrained(name).to(device)
        try:
            captioner.check_source(space)
            return captioner
        except SpaceMismatchError:
            if options.captioner and name == options.captioner[-1]:
                raise
    return None
