"""The verb `guide`."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import check_device, choose_device, choose_dtype, require
from clip2clap.cli.loading import check_models, load_pipeline
from clip2clap.cli.options.generation import Guide
from clip2clap.cli.outputs import choose_destination
from clip2clap.cli.painter import TargetEncoder, parse_targets
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.cli.spoken import load_speech_encoder
from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing

_FOLDER = "clip2clap-guide"


def guide(options: Guide) -> None:
    """Generate images guided by texts, audio and images together, with weights.

    In each denoising step the decoder's prediction follows the gradient of its CLIP similarity to
    the targets (universal guidance). A target with a weight below 0 is avoided.

    The similarities of each image NAME.png to the targets, and those without guidance, are written
    to NAME.json.
    """
    targets = parse_targets(options)
    weights = [weight for each in targets.values() for _, weight in each]
    require(
        any(weights),
        "target_text",
        "there is no target with a weight other than 0. Give --target-text, --target-audio, "
        "--target-image or --speech.",
    )
    require(
        options.condition == "none" or any(weight > 0 for weight in weights),
        "condition",
        "no target has a weight above 0 to condition the decoder on. Give --condition none.",
    )
    require(options.guide_from < options.guide_until, "guide_from", "expected below --guide-until.")
    check_models(options)
    check_device(options.device, None)
    destination = choose_destination("image", options, options.batches, default=_FOLDER, sole=True)
    report = RunReport(options)
    with Console(stderr=True).status("Loading the models"):
        pipeline, found = _load(options, targets)
    report.lap("load")
    call = _call(pipeline, found, options)
    report.settings |= {"width": call["width"], "height": call["height"]}
    with progress_bar("Generating") as progress:
        task = progress.add_task("", total=options.batches)
        try:
            for seed in range(options.seed, options.seed + options.batches):
                entry = _generate(pipeline, found, call, seed, destination)
                report.results.append(entry)
                report.show(entry["output"])
                progress.advance(task)
        except KeyboardInterrupt:
            report.interrupted = True
    report.lap("generate")
    report.end()


def _load(options: Guide, targets: dict[str, list[tuple[str, float]]]) -> tuple[Any, list[Any]]:
    """Return the pipeline and the targets in its CLIP's space."""
    device = choose_device(options.device)
    pipeline = load_pipeline(
        "decoder",
        options.decoder,
        device=device,
        dtype=choose_dtype("fp32", device),
        **{part: getattr(options, part) for part in ("clap", "translator", "clip")},
    )
    if pipeline.clip is None:
        raise UserError(f"{options.decoder} has no CLIP. Name one.", param="clip")
    encoder = TargetEncoder(
        pipeline.clip, pipeline.clap, pipeline.translator, allow_private=options.allow_private
    )
    if options.speech:
        space = pipeline.clip.space(pipeline.clip.modalities[0])
        encoder.speech = load_speech_encoder(options, device, space)
    return pipeline, encoder.targets(targets, options.break_audio)


def _call(pipeline: Any, targets: list[Any], options: Guide) -> dict[str, Any]:
    """Return the arguments of the pipeline's call."""
    import torch

    from clip2clap.inference.mixing import mix_embeds
    from clip2clap.inference.painting.paint import default_cut_size
    from clip2clap.inference.similarity_guidance import GuidanceOptions, SimilarityGuidance

    settings = GuidanceOptions(
        strength=options.guidance_strength,
        iterations=options.gradient_steps,
        start=options.guide_from,
        end=options.guide_until,
        cutouts=options.cutouts,
        cut_size=options.cut_size or default_cut_size(pipeline.clip),
        augment=options.augment,
        total_variation=options.tv_scale,
        range_scale=options.range_scale,
    )
    call: dict[str, Any] = {
        "guidance": SimilarityGuidance(pipeline.clip, targets, settings),
        "width": options.width or pipeline.decoder.size,
        "height": options.height or pipeline.decoder.size,
        "num_inference_steps": options.num_inference_steps,
    }
    if options.condition == "targets":
        wanted = [each for each in targets if each.weight > 0]
        embeds = torch.stack([each.embed for each in wanted])
        return {**call, "image_embeds": mix_embeds(embeds, [t.weight for t in wanted])[None]}
    learned = pipeline.negative_embedding
    nothing = torch.zeros(1, pipeline.embed_dim) if learned is None else learned(1).float()
    # What guidance is away from: there is nothing to be guided away from then.
    return {**call, "image_embeds": nothing.detach().cpu(), "guidance_scale": 1.0}


def _generate(
    pipeline: Any, targets: list[Any], call: dict[str, Any], seed: int, destination: Any
) -> dict[str, Any]:
    """Generate and write one image; return the report's entry."""
    import torch

    from clip2clap.media.images import write_image

    def similarities(guidance: Any) -> tuple[Any, list[float]]:
        generator = torch.Generator().manual_seed(seed)
        (image,) = pipeline(**{**call, "guidance": guidance}, generator=generator).images
        embed = pipeline.clip.encode_image([image])[0]
        return image, [round(float(embed @ target.embed), 4) for target in targets]

    image, guided = similarities(call["guidance"])
    _, plain = similarities(None)
    path, beside = destination.reserve("guided", [f".{destination.format}", ".json"])
    write_image(path, image)
    entry = {
        "output": str(path),
        "seed": seed,
        "similarities": [
            {"target": target.name, "weight": target.weight, "similarity": own, "unguided": other}
            for target, own, other in zip(targets, guided, plain, strict=True)
        ],
    }
    with replacing(Path(beside)) as partial:
        partial.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")
    return entry
