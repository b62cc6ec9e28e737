"""Pipelines loaded by name, with checks of the names before torch is imported."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clip2clap.cli.checks import check_translator, require
from clip2clap.cli.options.generation import (
    OffloadName,
    SchedulerName,
)
from clip2clap.core.presets import Kind, check_name, resolve

if TYPE_CHECKING:
    from clip2clap.inference.audio_to_image import AudioToImagePipeline
    from clip2clap.inference.image_to_audio import ImageToAudioPipeline

_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
}


_COMPLETE: dict[Kind, str] = {
    "generator": "ImageToAudioPipeline",
    "decoder": "AudioToImagePipeline",
}


def check_models(models: Any) -> None:
    """Check the names of models, and the contents of existing folders.

    Raises:
        UserError: If a name cannot be a model's, or a generator's folder holds something else.
    """
    for kind in ("generator", "decoder", "clip", "clap"):
        name = getattr(models, kind, None)
        if name is not None:
            check_name(name, kind, param=kind)
    if getattr(models, "ranker", None) is not None:
        check_name(models.ranker, "clap", param="ranker")
    for kind in _COMPLETE:
        name = getattr(models, kind, None)
        if name is not None and (kind == "generator" or hasattr(models, "ip_adapter")):
            own = _class_on_disk(name, kind)
            if own is not None:
                _require_translator(name, models.translator, own, kind)
    for param in ("translator", "ranker_translator"):
        check_translator(getattr(models, param, None), param)


def _class_on_disk(name: str, kind: Kind) -> str | None:
    """Return the class of the pipeline in a folder, which is checked; None if it is not on disk."""
    if not Path(resolve(name, kind)).expanduser().is_dir():
        return None
    from clip2clap.inference.loading.formats import open_checkpoint

    return str(open_checkpoint(name, kind).index["_class_name"])


def _require_translator(name: str, translator: str | None, own: str, kind: Kind) -> None:
    sides = "CLIP into its CLAP" if kind == "generator" else "CLAP into its CLIP"
    require(
        own == _COMPLETE[kind] or translator is not None,
        "translator",
        f"{name} has no translator of its own. Give one from a {sides} (clip2clap train makes "
        "one).",
    )


def load_generator(
    name: str,
    *,
    device: Any,
    dtype: Any,
    clip: str | None = None,
    translator: str | None = None,
    ranker: str | None = None,
    ranker_translator: str | None = None,
    num_candidates: int = 1,
    scheduler: SchedulerName = "default",
) -> "ImageToAudioPipeline":
    """Load an image-to-audio pipeline, after checking that the names suffice.

    Raises:
        UserError: If a generator without a translator is named alone, candidates cannot be ranked,
            a model cannot be found, or two models are incompatible.
    """
    from clip2clap.inference.image_to_audio import ImageToAudioPipeline
    from clip2clap.inference.loading.formats import open_checkpoint

    own = open_checkpoint(name, "generator").index["_class_name"]
    _require_translator(name, translator, own, "generator")
    require(
        num_candidates == 1 or ranker is not None or own != "AudioLDMPipeline",
        "num_candidates",
        f"ranking candidates needs a CLAP with an audio encoder, and {name} has a text-only CLAP. "
        "Add --ranker laion/clap-htsat-unfused and --ranker-translator, a translator from the same "
        "CLIP into that CLAP.",
    )
    if clip is None and own != _COMPLETE["generator"]:
        clip = _source_model(translator, "clip")
    pipeline = ImageToAudioPipeline.from_pretrained(
        name,
        clip=clip,
        translator=translator,
        ranker=ranker,
        ranker_translator=ranker_translator,
        torch_dtype=dtype,
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    _use_scheduler(pipeline, scheduler)
    return pipeline


def load_decoder(
    name: str,
    *,
    device: Any,
    dtype: Any,
    clap: str | None = None,
    translator: str | None = None,
    clip: str | None = None,
    ip_adapter: str | None = None,
    offload: OffloadName = "none",
    scheduler: SchedulerName = "default",
) -> "AudioToImagePipeline":
    """Load an audio-to-image pipeline, after checking that the names suffice.

    Raises:
        UserError: If a decoder without a translator is named alone, nothing tells which CLAP the
            translator was trained for, a model cannot be found, or two models were not made for
            one another.
    """
    from clip2clap.inference.audio_to_image import AudioToImagePipeline
    from clip2clap.inference.loading.formats import open_checkpoint

    own = open_checkpoint(name, "decoder").index["_class_name"]
    _require_translator(name, translator, own, "decoder")
    if clap is None and own != _COMPLETE["decoder"]:
        clap = _source_model(translator, "clap")
    pipeline = AudioToImagePipeline.from_pretrained(
        name,
        clap=clap,
        translator=translator,
        clip=clip,
        ip_adapter=ip_adapter,
        torch_dtype=dtype,
    )
    if offload == "none":
        pipeline.to(device)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    pipeline.set_progress_bar_config(disable=True)
    _use_scheduler(pipeline, scheduler)
    return pipeline


def _source_model(translator: str | None, param: str) -> str:
    """Return the id of the model that a translator was trained for."""
    from clip2clap.translator.checkpoint import read_config

    space = (read_config(str(translator)).get("source_space") or {}) if translator else {}
    model = space.get("model_id")
    require(
        model is not None,
        param,
        f"{translator} does not record which {param.upper()} it was trained for. Name it.",
    )
    return str(model)


def _use_scheduler(pipeline: Any, name: SchedulerName) -> None:
    """Replace a pipeline's solver by another on its own noise schedule."""
    if name == "default":
        return
    import diffusers

    from clip2clap.core.hub import quiet

    solver = getattr(diffusers, _SCHEDULERS[name])
    # AudioLDM and Stable Diffusion were published with DDIM and PNDM at this spacing.
    spacing = {"timestep_spacing": "leading"} if name in ("ddim", "pndm") else {}
    with quiet():
        pipeline.scheduler = solver.from_config(pipeline.scheduler.config, **spacing)
