"""Causal language models of transformers, loaded strictly with their tokenizers."""

from pathlib import Path
from typing import Any

import torch

from clip2clap.core.errors import CheckpointError, ModelNotFoundError, UserError, one_line
from clip2clap.core.files import as_path
from clip2clap.core.hub import fetch, quiet
from clip2clap.core.presets import is_hub_id, resolve
from clip2clap.embeddings.weights import check_weights

_FILES = ["*.json", "*.safetensors", "*.model", "merges.txt", "vocab.txt"]
_HINT = "Give a preset (gpt2), a hub id or the folder of a causal language model of transformers."


def load_language_model(
    name: str | Path, *, torch_dtype: torch.dtype = torch.float32, **access: Any
) -> tuple[Any, Any]:
    """Load a causal language model and its tokenizer, which gets a padding token if it has none.

    Args:
        name: Preset, hub id or folder of any causal language model of transformers.
        torch_dtype: Dtype of the weights.
        **access: How the hub is reached, as in transformers.

    Raises:
        ModelNotFoundError: If there is none.
        CheckpointError: If it is no causal language model, or a weight is missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = _find(str(name), **access)
    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=torch_dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **options,
            )
            model, found = loaded
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:
        raise CheckpointError(
            f"{name} cannot be loaded as a causal language model: {one_line(error)}. {_HINT}"
        ) from error
    mismatched = [each if isinstance(each, str) else each[0] for each in found["mismatched_keys"]]
    check_weights(
        str(name),
        missing=found["missing_keys"],
        unexpected=found["unexpected_keys"],
        mismatched=mismatched,
    )
    return model.eval(), with_padding(tokenizer)


def with_padding(tokenizer: Any) -> Any:
    """Return a tokenizer that pads on the right, with its end token if it has no other.

    Raises:
        UserError: If it has no end token, which a caption ends with.
    """
    if tokenizer.eos_token_id is None:
        raise UserError("The tokenizer has no end token, so no caption would end.")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer


def _find(name: str, **access: Any) -> Path:
    name = resolve(name, "language_model")
    if as_path(name).is_dir():
        return as_path(name)
    if not is_hub_id(name):
        raise ModelNotFoundError(f"There is no language model {name!r}. {_HINT}")
    return fetch(name, lambda _: _FILES, hint=_HINT, **access)
