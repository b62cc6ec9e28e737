"""Strict check of a checkpoint's weights against its model."""

import re
from collections.abc import Collection, Iterable

from clip2clap.core.errors import CheckpointError

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


def _listing(keys: Collection[str], limit: int = 4) -> str:
    shown = ", ".join(list(keys)[:limit])
    return shown if len(keys) <= limit else f"{shown} and {len(keys) - limit} more"
