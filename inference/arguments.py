"""Arguments as diffusers' users pass them: other names, NumPy numbers and arrays, seeds."""

import difflib
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from clip2clap.core.errors import UserError, expect, is_integer

ACCESS_OPTIONS = ("revision", "token", "cache_dir", "local_files_only")
"""Options of how a hub is reached."""

LOADING_OPTIONS = ("variant", "use_safetensors", *ACCESS_OPTIONS)
"""Options of `from_pretrained` that diffusers has too, beside `torch_dtype`."""

# What to use in place of arguments that diffusers' pipelines have and ours do not.
_ADVICE = {
    "callback": "Use callback_on_step_end.",
    "callback_steps": "Use callback_on_step_end, which is called after every step.",
    "custom_pipeline": "Only the pipelines of clip2clap are loaded: leave it out.",
    "device_map": "Move the pipeline with .to(device), or call enable_model_cpu_offload().",
    "dtype": "Use torch_dtype.",
    "force_download": "Run `hf download ID --force-download`, then load without it.",
    "ip_adapter_image": "Encode the image with encode_image, and use image_embeds.",
    "ip_adapter_image_embeds": "Use image_embeds.",
    "low_cpu_mem_usage": "Leave it out: memory is always saved.",
    "num_images_per_prompt": "Use num_candidates: all of an item's candidates are returned.",
    "num_waveforms_per_prompt": "Use num_variations, the most similar of num_candidates.",
    "output_loading_info": "Leave it out: weights that do not match the config are an error.",
    "seed": "Use generator, which may be an integer.",
    "subfolder": "Give the folder itself as pretrained_model_name_or_path.",
    "torch_dtype": "Cast the pipeline with .to(dtype).",
    "trust_remote_code": "Leave it out: no code of a checkpoint is ever run.",
}


def refuse_unknown(given: Iterable[str], known: Iterable[str], *, where: str) -> None:
    """Raise a `UserError` for the first argument that is not known, with what to use instead."""
    for name in sorted(set(given) - set(known)):
        close = difflib.get_close_matches(name, list(known), n=1)
        meant = f"Did you mean {close[0]}?" if close else f"Known: {', '.join(sorted(known))}."
        raise UserError(f"{where} has no {name}. {_ADVICE.get(name, meant)}", param=name)


def as_python(name: str, value: Any) -> Any:
    """Return an argument with NumPy's numbers as Python's, and arrays of embeddings as tensors."""
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim):
        return value.item()
    if isinstance(value, np.ndarray) and name in ("weights", "guidance_interval"):
        return value.tolist()
    is_tensor = name.endswith("_embeds") or name == "latents"
    return torch.from_numpy(value) if is_tensor and isinstance(value, np.ndarray) else value


def as_generators(generator: Any) -> Any:
    """Return generators of which integers are seeds: one, a list of them, or None.

    Raises:
        UserError: If it is anything else.
    """
    expected = "a torch.Generator, an integer from 0 to 2**64 - 1, or a list with one for each item"
    if isinstance(generator, list | tuple):
        found = [as_generators(each) for each in generator]
        holds = all(isinstance(each, torch.Generator) for each in found)
        expect(holds, "generator", expected, generator)
        return found
    if generator is None or isinstance(generator, torch.Generator):
        return generator
    expect(is_integer(generator) and 0 <= generator < 2**64, "generator", expected, generator)
    return torch.Generator().manual_seed(int(generator))
