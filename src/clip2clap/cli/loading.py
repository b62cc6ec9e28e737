"""The pipelines that a user named, loaded on the device and with the solver that were asked for."""

from typing import TYPE_CHECKING, Any, Literal

from clip2clap.cli.options import require

if TYPE_CHECKING:
    from clip2clap.inference.audio_to_image import AudioToImagePipeline
    from clip2clap.inference.image_to_audio import ImageToAudioPipeline

OffloadName = Literal["none", "model", "sequential"]
SchedulerName = Literal["default", "ddim", "unipc", "euler", "pndm"]
_SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "unipc": "UniPCMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
}


def load_generator(
    model: str,
    *,
    device: Any,
    dtype: Any,
    clip: str | None = None,
    translator: str | None = None,
    ranker: str | None = None,
    ranker_translator: str | None = None,
    candidates: int = 1,
    scheduler: SchedulerName = "default",
) -> "ImageToAudioPipeline":
    """Load what makes sounds of photographs, after checking that what was named suffices.

    Raises:
        OptionError: If a generator without a translator of its own is named alone, or
            candidates are wanted that nothing can rank.
        UserError: If a model cannot be had, or two were not made for one another.
    """
    from clip2clap.core.presets import resolve
    from clip2clap.inference.image_to_audio import ImageToAudioPipeline
    from clip2clap.inference.loading.generator import fetch_folder, read_index
    from clip2clap.translator.checkpoint import read_config

    index = read_index(fetch_folder(resolve(model, "generator"), []))
    own = index.get("_class_name") == ImageToAudioPipeline.__name__
    require(
        own or translator is not None,
        "--translator",
        f"{model} listens to CLAP vectors and brings no translator. Name one that was trained "
        "from a CLIP into its CLAP (clip2clap train makes one).",
    )
    require(
        candidates == 1 or ranker is not None or index.get("_class_name") != "AudioLDMPipeline",
        "--candidates",
        f"choosing among candidates needs a CLAP that hears, and {model} has none: its CLAP is a "
        "text tower alone. Add --ranker laion/clap-htsat-unfused and --ranker-translator, a "
        "translator from the same CLIP into that CLAP.",
    )
    if clip is None and not own and translator is not None:
        space = read_config(translator).get("source_space") or {}
        clip = space.get("model_id")
        require(
            clip is not None,
            "--clip",
            f"the translator {translator} does not say which CLIP it was trained for. Name it.",
        )
    pipeline = ImageToAudioPipeline.from_pretrained(
        model,
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
    model: str,
    *,
    device: Any,
    dtype: Any,
    clap: str | None = None,
    translator: str | None = None,
    clip: str | None = None,
    ip_adapter: str | None = None,
    scheduler: SchedulerName = "default",
    offload: OffloadName = "none",
) -> "AudioToImagePipeline":
    """Load what makes pictures of recordings, after checking that what was named suffices.

    Raises:
        OptionError: If a decoder without a translator of its own is named alone, or nothing says
            which CLAP the translator was trained for.
        UserError: If a model cannot be had, or two were not made for one another.
    """
    from clip2clap.core.presets import resolve
    from clip2clap.inference.audio_to_image import AudioToImagePipeline
    from clip2clap.inference.loading.generator import fetch_folder, read_index
    from clip2clap.translator.checkpoint import read_config

    folder = fetch_folder(resolve(model, "decoder"), [], kind="decoder")
    index = read_index(folder, expected="AudioToImagePipeline.save_pretrained")
    own = index.get("_class_name") == AudioToImagePipeline.__name__
    require(
        own or translator is not None,
        "--translator",
        f"{model} paints CLIP vectors and brings no translator. Name one that was trained from a "
        "CLAP into its CLIP (clip2clap train makes one).",
    )
    if clap is None and not own and translator is not None:
        clap = (read_config(translator).get("source_space") or {}).get("model_id")
        require(
            clap is not None,
            "--clap",
            f"the translator {translator} does not say which CLAP it was trained for. Name it.",
        )
    pipeline = AudioToImagePipeline.from_pretrained(
        model,
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


def _use_scheduler(pipeline: Any, name: SchedulerName) -> None:
    """Give a pipeline the solver that a user named, on its own noise schedule."""
    if name == "default":
        return
    import diffusers

    from clip2clap.inference.loading.generator import quietly

    solver = getattr(diffusers, _SCHEDULERS[name])
    # DDIM's and PNDM's usual spacing, which AudioLDM and Stable Diffusion were published with; the
    # default solver's own does not suit them.
    spacing = {"timestep_spacing": "leading"} if name in ("ddim", "pndm") else {}
    with quietly():
        pipeline.scheduler = solver.from_config(pipeline.scheduler.config, **spacing)
