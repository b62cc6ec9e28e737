"""Strict check of a checkpoint's weights against its model."""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clip2clap.core.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

# Constant buffers that older versions of transformers saved with the weights.
_CONSTANT_BUFFERS = re.compile(r"(^|\.)(position_ids|token_type_ids)$")


def check_weights(
    what: str,
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    mismatched: Iterable[str] = (),
    remedy: str = "Fetch the checkpoint again, or correct its config.json.",
) -> None:
    """Raise a `CheckpointError` if a checkpoint does not hold exactly the weights of its model.

    Constant buffers are ignored. The message names the faults, those of other shapes as mismatched,
    begins with the model or file, and ends with the remedy.
    """
    groups = (("missing", missing), ("unexpected", unexpected), ("mismatched", mismatched))
    faults = [
        f"{word} {_listing(kept)}"
        for word, keys in groups
        if (kept := sorted(key for key in keys if not _CONSTANT_BUFFERS.search(key)))
    ]
    if faults:
        raise CheckpointError(
            f"{what}: the weights do not fit the config: {'; '.join(faults)}. {remedy}"
        )


def check_shapes(
    what: str,
    found: "Mapping[str, Tensor]",
    expected: Mapping[str, Sequence[int]],
    *,
    mismatched: Iterable[str] = (),
    **options: Any,
) -> None:
    """Raise a `CheckpointError` unless weights have exactly the expected names and shapes.

    Further faults are named beside those of other shapes as `mismatched`; `options` are those of
    `check_weights`.
    """
    others = [
        f"{name} {tuple(found[name].shape)} where {tuple(shape)} is expected"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != tuple(shape)
    ]
    check_weights(
        what,
        missing=expected.keys() - found.keys(),
        unexpected=found.keys() - expected.keys(),
        mismatched=[*others, *mismatched],
        **options,
    )


def _listing(keys: Collection[str], limit: int = 4) -> str:
    shown = ", ".join(list(keys)[:limit])
    return shown if len(keys) <= limit else f"{shown} and {len(keys) - limit} more"
