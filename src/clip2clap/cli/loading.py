"""Pipelines loaded by name, with checks of the names before torch is imported."""

from pathlib import Path
from typing import Any, get_args

from clip2clap.cli.checks import check_translator, require
from clip2clap.core.presets import Kind, check_name, resolve

_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "deis": "DEISMultistepScheduler",
    "sa-solver": "SASolverScheduler",
}
_KINDS: dict[str, Kind] = {
    **{kind: kind for kind in get_args(Kind)},
    "ranker": "clap",
}
_DIRECTIONS = {"generator": "CLIP into its CLAP", "decoder": "CLAP into its CLIP"}


def check_models(options: Any) -> None:
    """Check the names of a verb's models.

    Raises:
        UserError: If a name cannot be a model's.
    """
    for param, kind in _KINDS.items():
        given = getattr(options, param, None)
        for name in [given] if isinstance(given, str) else given or ():
            check_name(name, kind, param=param)
    if getattr(options, "low_memory", False):
        offload = getattr(options, "offload", "none")
        require(
            options.device in ("auto", "cpu") and offload == "none",
            "low_memory",
            "the models stay on disk and compute on the CPU. Leave --device and --offload out.",
        )
    for param in ("translator", "ranker_translator"):
        check_translator(getattr(options, param, None), param)
    for kind in ("generator", "decoder"):
        name = getattr(options, kind, None)
        if hasattr(options, "scheduler") and name and Path(resolve(name, kind)).is_dir():
            _checked_class(kind, name, options.translator)


def _checked_class(kind: Kind, name: str, translator: str | None) -> tuple[str, bool]:
    """Return the class of a saved pipeline, and True if it has its own encoders and translator."""
    from clip2clap.inference.loading.formats import open_checkpoint

    own = str(open_checkpoint(name, kind).index["_class_name"])
    is_complete = own in ("ImageToAudioPipeline", "AudioToImagePipeline")
    require(
        is_complete or translator,
        "translator",
        f"{name} has no translator of its own. Give one from a {_DIRECTIONS[kind]} (clip2clap "
        "train makes one).",
    )
    return own, is_complete


def load_pipeline(
    kind: Kind,
    name: str,
    *,
    device: Any,
    dtype: Any,
    scheduler: str = "default",
    offload: str = "none",
    num_candidates: int = 1,
    **parts: Any,
) -> Any:
    """Load an `ImageToAudioPipeline` or an `AudioToImagePipeline`, after checking the names.

    Args:
        kind: `generator` or `decoder`.
        name: Preset, hub id or folder.
        device: Device.
        dtype: Dtype.
        scheduler: Solver on the pipeline's own noise schedule.
        offload: Offloading to the CPU.
        num_candidates: Candidates, which a text-only CLAP cannot rank.
        **parts: Names of its encoders and translators, and `low_memory`.

    Raises:
        UserError: If a published generator or decoder is named without a translator, nothing tells
            which encoder the translator was trained for, candidates cannot be ranked, a model
            cannot be found, or two models are incompatible.
    """
    from clip2clap.inference import AudioToImagePipeline, ImageToAudioPipeline

    own, is_complete = _checked_class(kind, name, parts.get("translator"))
    require(
        num_candidates == 1 or parts.get("ranker") is not None or own != "AudioLDMPipeline",
        "num_candidates",
        f"ranking candidates needs a CLAP with an audio encoder, and {name} has a text-only CLAP. "
        "Add --ranker laion/clap-htsat-unfused and --ranker-translator, a translator from the same "
        "CLIP into that CLAP.",
    )
    if not is_complete:
        encoder = "clip" if kind == "generator" else "clap"
        parts[encoder] = parts.get(encoder) or _source_model(parts["translator"], encoder)
    pipeline_class = ImageToAudioPipeline if kind == "generator" else AudioToImagePipeline
    pipeline = pipeline_class.from_pretrained(name, **parts, torch_dtype=dtype)
    if offload == "none":
        pipeline.to(device)
    elif offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)
    pipeline.set_progress_bar_config(disable=True)
    _use_scheduler(pipeline, scheduler)
    return pipeline


def _source_model(translator: str, param: str) -> str:
    """Return the id of the model that a translator was trained for."""
    from clip2clap.translator.checkpoint import read_config

    model = (read_config(translator).get("source_space") or {}).get("model_id")
    require(
        model is not None,
        param,
        f"{translator} does not record which {param.upper()} it was trained for. Name it.",
    )
    return str(model)


def _use_scheduler(pipeline: Any, name: str) -> None:
    """Replace a pipeline's solver by another on its own noise schedule."""
    if name == "default":
        return
    import diffusers

    from clip2clap.inference.schedulers import replace_solver

    # AudioLDM and Stable Diffusion were published with DDIM and PNDM at this spacing.
    spacing = {"timestep_spacing": "leading"} if name in ("ddim", "pndm") else {}
    solver = getattr(diffusers, _SCHEDULERS[name])
    pipeline.scheduler = replace_solver(pipeline.scheduler, solver, **spacing)
