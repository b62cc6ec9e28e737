"""Checks of a checkpoint's JSON configs: types, choices and sizes of their fields."""

import inspect
import math
import re
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from clip2clap.core.errors import CheckpointError, one_line
from clip2clap.embeddings.checkpoint import read_json

# Beyond these sizes a config is damaged, and building its model would take forever.
_MAX_NUMBER = 10_000_000
_MAX_DEPTH = 128
_DEPTHS = ("layers", "depth", "blocks", "iterations")
_POSITIVE = {
    *("block_out_channels", "in_channels", "out_channels", "latent_channels", "patch_size"),
    *("sample_size", "scaling_factor", "num_train_timesteps", "sampling_rate", "model_in_dim"),
    *("upsample_rates", "window_size", "dim", "norm_num_groups"),
}
_RANGES = (
    (0, 0.999, {"beta_start", "beta_end", "trained_betas"}),
    (0, 1, {"downsample_padding"}),
)
_EQUALLY_LONG = ("upsample_rates", "upsample_kernel_sizes")
_REMEDY = "Fetch or save the checkpoint again."
# diffusers accepts null for it, whatever its annotation says.
_OPTIONAL = {"cross_attention_dim"}

# Types of the settings in a pipeline's index.
_SETTINGS = {
    **dict.fromkeys(("clap_id", "clip_id", "clap_revision"), str | None),
    **dict.fromkeys(("clap_space", "clip_space"), dict | None),
    "decoder_kind": str,
    **dict.fromkeys(("embed_norm", "default_guidance_scale"), float),
    **dict.fromkeys(("default_clip_guidance_scale", "default_refine_strength"), float),
    "default_guidance_interval": list[float],
    **dict.fromkeys(("default_num_inference_steps", "default_num_candidates"), int),
    "default_size": int | None,
}


def check_config(path: Path, model_class: Any) -> dict[str, Any]:
    """Return a config, or raise a `CheckpointError` that names the file and the damaged field.

    Values are compared with the annotations of the class that reads the config: a diffusers model
    or scheduler, or a transformers model's `config_class`.
    """
    owner = getattr(model_class, "config_class", None) or model_class.__init__
    try:
        hints = typing.get_type_hints(owner)
    except NameError:
        hints = {}
    config = read_json(path)
    for name, value in config.items():
        if not name.startswith("_"):
            _check(path, name, value, _Expected.of(hints.get(name, Any)))
    lists = [config[name] for name in _EQUALLY_LONG if isinstance(config.get(name), list)]
    if len({len(each) for each in lists}) > 1:
        raise CheckpointError(f"{path}: {' and '.join(_EQUALLY_LONG)} differ in length. {_REMEDY}")
    return config


def check_settings(path: Path, index: dict[str, Any]) -> None:
    """Raise a `CheckpointError` that names the setting of a pipeline's index that is damaged."""
    for name in index.keys() & _SETTINGS.keys():
        _check(path, name, index[name], _Expected.of(_SETTINGS[name]))


def named_in(error: object, config: dict[str, Any], model_class: Any) -> str:
    """Return the fields of a config whose words an error's message has, for a message."""
    parameters = inspect.signature(model_class.__init__).parameters
    usual = {name: parameter.default for name, parameter in parameters.items()}

    def is_named(name: str, word: Any) -> bool:
        plain = isinstance(word, str) and word and word not in _leaves(usual.get(name))
        return bool(plain and re.search(rf"\b{re.escape(word)}\b", str(error), re.IGNORECASE))

    fields = [k for k, value in config.items() if any(is_named(k, word) for word in _leaves(value))]
    fields = [name for name in fields if not name.startswith("_")]
    return f" (see {', '.join(fields)} in its config)" if fields else ""


@dataclass(frozen=True)
class _Expected:
    """Plain types, literals and containers that an annotation accepts."""

    kinds: frozenset[Any] = frozenset()
    choices: frozenset[Any] = frozenset()
    lists: bool = False
    only_lists: bool = False

    @classmethod
    def of(cls, annotation: Any) -> "_Expected":
        """Read an annotation."""
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if origin is Literal:
            return cls(choices=frozenset(arguments))
        is_list = origin in (list, tuple) or annotation in (list, tuple, np.ndarray)
        plain = frozenset() if is_list or arguments else frozenset({annotation})
        found = [cls.of(each) for each in arguments if each is not ...]
        return cls(
            plain.union(*(each.kinds for each in found)),
            frozenset().union(*(each.choices for each in found)),
            is_list or any(each.lists for each in found),
            is_list,
        )

    @property
    def known(self) -> bool:
        """True if all that is accepted is known."""
        return self.kinds <= {bool, int, float, str, dict, type(None)} and bool(
            self.kinds - {type(None)} or self.choices
        )

    def __str__(self) -> str:
        names = [kind.__name__ for kind in self.kinds if kind is not type(None)]
        words = sorted(names + [repr(each) for each in self.choices])
        return f"{' or '.join(words)}{', or a list of them' if self.lists else ''}"


def _check(path: Path, name: str, value: Any, expected: _Expected) -> None:
    """Raise a `CheckpointError` if a field's value cannot be right."""
    wrong = None
    allowed = expected.lists if isinstance(value, list) else not expected.only_lists
    if expected.known and not allowed and name != "sample_size":
        wrong = str(expected)
    for leaf in _leaves(value):
        wrong = wrong or _complaint(name, leaf, expected)
    if wrong:
        shown = one_line(repr(value), limit=80)
        raise CheckpointError(f"{path}: {name} is {shown}; expected {wrong}. {_REMEDY}")


def _leaves(value: Any) -> Iterator[Any]:
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, list | tuple):
            stack += each
        else:
            yield each


def _complaint(name: str, leaf: Any, expected: _Expected) -> str | None:
    """Return what a field should hold, if a single value in it cannot be right."""
    kinds, numeric = expected.kinds, expected.kinds & {int, float}
    if isinstance(leaf, int | float) and not isinstance(leaf, bool):
        # Schedulers have -Infinity as a bound.
        if leaf != -math.inf and not abs(leaf) <= _MAX_NUMBER:
            return f"a number up to {_MAX_NUMBER:,}"
        if any(word in name for word in _DEPTHS) and leaf > _MAX_DEPTH:
            return f"a number up to {_MAX_DEPTH}"
        for low, high, names in _RANGES:
            if name in names and not low <= leaf <= high:
                return f"a number from {low:g} to {high:g}"
        if name in _POSITIVE and not leaf > 0:
            return "a number above 0"
    if not expected.known:
        return None
    if leaf is None:
        required = numeric and type(None) not in kinds and name not in _OPTIONAL
        return str(expected) if required else None
    if isinstance(leaf, float) or type(leaf) is int:
        fits = float in kinds or (int in kinds and leaf == leaf // 1)
    else:
        fits = type(leaf) in kinds or (isinstance(leaf, str) and leaf in expected.choices)
    return None if fits else str(expected)
