"""Grid of training settings."""

import itertools
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from clip2clap.core.errors import UserError
from clip2clap.training.config import DEFAULT_TEMPERATURES, TrainingConfig, parse_loss

REFERENCE_GRID: dict[str, tuple[Any, ...]] = {
    "hidden_size": (256, 512),
    "loss": ("cosine", "mse", "contrastive"),
}
"""The reference's two widths and three losses."""

_MARKS = {"learning_rate": "lr", "batch_size": "batch", "center": "centered"}


class SweepGrid:
    """Grid of settings: values for any fields of `TrainingConfig`, in every combination.

    Args:
        **values: Values to try, or one value, by the name of the field; `hidden_size` and `loss`
            have those of the reference unless they are given.

    Raises:
        UserError: If there is no such field, or it has no values or one twice.

    Examples:
        >>> from clip2clap.training import SweepGrid, TrainingConfig
        >>> grid = SweepGrid(hidden_size=(64,), loss=("cosine", "mse"), learning_rate=(1e-3, 1e-2))
        >>> list(grid.settings(TrainingConfig()))
        ['64-cosine-lr0.001', '64-cosine-lr0.01', '64-mse-lr0.001', '64-mse-lr0.01']
    """

    def __init__(self, **values: Any):
        known = [field.name for field in fields(TrainingConfig)]
        self.values = {
            name: (own,) if isinstance(own, str) or not isinstance(own, Iterable) else tuple(own)
            for name, own in {**REFERENCE_GRID, **values}.items()
        }
        for name, own in self.values.items():
            if name not in known:
                raise UserError(f"Expected fields of TrainingConfig, got {name!r}.", param=name)
            if not own:
                raise UserError(f"Expected at least one value of {name}, got none.", param=name)
            numbers = [float(each) if isinstance(each, int) else each for each in own]
            if len(set(map(repr, numbers))) < len(own):
                raise UserError(f"A value of {name} is given twice: {own}.", param=name)

    def settings(self, base: TrainingConfig) -> dict[str, TrainingConfig]:
        """Return the settings of every combination by name; the name lists the differing fields.

        Args:
            base: Settings of all other fields.

        Raises:
            UserError: If a setting is out of range.
        """
        found: dict[str, TrainingConfig] = {}
        for values in itertools.product(*self.values.values()):
            chosen = dict(zip(self.values, values, strict=True))
            if not any(term in DEFAULT_TEMPERATURES for term in parse_loss(chosen["loss"])):
                chosen["temperature"] = None
            found[self._name(chosen)] = replace(base, **chosen)
        return found

    def _name(self, chosen: dict[str, Any]) -> str:
        parts = [str(chosen["hidden_size"]), chosen["loss"].replace(":", "")]
        for name, values in self.values.items():
            value = chosen[name]
            if name in REFERENCE_GRID or len(values) == 1 or value is None or value is False:
                continue
            mark = _MARKS.get(name, name)
            if value is True:
                parts.append(mark)
            else:
                parts.append(f"{mark}{value}" if isinstance(value, str) else f"{mark}{value:g}")
        return "-".join(parts)
