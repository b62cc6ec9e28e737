"""Description of what a batch is made with: settings and models, as the manifest has them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from clip2clap.core.errors import expect
from clip2clap.core.presets import public_name
from clip2clap.core.version import __version__
from clip2clap.embeddings.encoders.base import Encoder
from clip2clap.embeddings.fingerprint import digest, fingerprint_tensors
from clip2clap.inference.arguments import refuse_unknown
from clip2clap.inference.batch.manifest import VERSION, Entry
from clip2clap.inference.batch.options import BatchOptions
from clip2clap.translator.base import Translator

_DEFAULTS = ("num_inference_steps", "guidance_scale", "guidance_interval", "num_candidates")
CALL_SETTINGS = (*_DEFAULTS, "draft_candidates", "negative", "eta", "cache_interval")
"""Arguments of a call that are settings of all jobs."""

_CALL = (*CALL_SETTINGS, "audio_length_in_s", "negative_prompt")


def fill_call(pipeline: Any, call: Mapping[str, Any], options: BatchOptions) -> dict[str, Any]:
    """Return the arguments of the pipeline's calls, with the defaults filled in.

    Raises:
        UserError: If an argument is unknown or invalid.
    """
    refuse_unknown(call, _CALL, where="generate_audio")
    filled = {name: value for name, value in call.items() if value is not None}
    for name in _DEFAULTS:
        filled.setdefault(name, pipeline.config[f"default_{name}"])
    filled.setdefault("draft_candidates", pipeline.makes_drafts)
    # They can be kept only if they are made.
    filled["num_candidates"] = max(int(filled["num_candidates"]), options.num_variations)
    filled.setdefault("audio_length_in_s", pipeline.default_audio_length_in_s)
    pipeline.count_samples(filled["audio_length_in_s"])
    text = filled.get("negative_prompt")
    expect(text is None or isinstance(text, str), "negative_prompt", "a text", text)
    return filled


def describe(pipeline: Any, call: Mapping[str, Any], options: BatchOptions) -> Entry:
    """Return the manifest entry of a job with all defaults."""
    of_jobs = ("audio_length_in_s", "negative_prompt")
    settings = {
        **{name: value for name, value in call.items() if name not in of_jobs},
        "seed": options.seed,
        "scheduler": type(pipeline.scheduler).__name__,
        "dtype": str(pipeline.unet.dtype).removeprefix("torch."),
        "num_variations": options.num_variations,
        "keep_candidates": options.keep_candidates,
        "spectrogram": options.spectrogram,
        "file": {**asdict(options.file), "format": options.format},
    }
    if options.description is not None:
        settings["description"] = dict(options.description)
    return {
        "version": VERSION,
        "clip2clap": __version__,
        "input": None,
        "sha256": None,
        "prompt": None,
        "negative_prompt": call.get("negative_prompt"),
        "seed": options.seed,
        "seconds": call["audio_length_in_s"],
        "settings": settings,
        "models": describe_models(pipeline),
        "name": None,
        "heard_as": [],
        "fits": None,
        "outputs": [],
        "status": "done",
        "reason": None,
    }


def describe_models(pipeline: Any) -> dict[str, dict[str, Any]]:
    """Return the name and the fingerprint of each component, and of the generator's own CLAP."""
    generator = pipeline.config.get("_name_or_path")
    models = {}
    for part, model in pipeline.components.items():
        if isinstance(model, nn.Module):
            is_translator = isinstance(model, Translator)
            name = public_name(model.name_or_path) if is_translator else generator
            fingerprint = fingerprint_tensors(model.state_dict().values())
            if isinstance(model, Encoder):
                space = model.space(model.modalities[0])
                name, fingerprint = space.model_id, space.fingerprint
            models[part] = {"name": name, "fingerprint": fingerprint}
    if (space := pipeline.generator_space) is not None:
        models["generator_clap"] = {"name": space.model_id, "fingerprint": space.fingerprint}
    models["scheduler"] = describe_scheduler(pipeline.scheduler)
    return models


def describe_scheduler(scheduler: Any) -> dict[str, Any]:
    """Return the class and the fingerprint of the settings of a scheduler."""
    return {"name": type(scheduler).__name__, "fingerprint": digest(scheduler_settings(scheduler))}


def scheduler_settings(scheduler: Any) -> dict[str, Any]:
    """Return the settings of a scheduler."""
    return {key: value for key, value in scheduler.config.items() if not key.startswith("_")}
