"""Processes, devices and trackers of accelerate, for trainers that are spread over processes."""

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.training.report import EpochRecord

if TYPE_CHECKING:
    from accelerate import Accelerator

TRACKING_FOLDER = "tracking"
"""Folder of the trackers' files, in that of the run."""

# One process may have to wait for the others as long as these train.
_MAX_WAIT = timedelta(days=30)


def start_accelerator(
    device: str | None, folder: Path | None, trackers: Sequence[str] = (), *handlers: Any
) -> "Accelerator":
    """Start accelerate in every process.

    Args:
        device: Device, such as `cpu` or `cuda`; accelerate's choice if None.
        folder: Folder of the run, for files of trackers.
        trackers: Names of accelerate's trackers.
        *handlers: Further keyword handlers of accelerate.

    Raises:
        UserError: If the device is missing, or a tracker is not installed.
    """
    from accelerate import Accelerator, InitProcessGroupKwargs

    _check_trackers(trackers)
    accelerator = Accelerator(
        cpu=device == "cpu",
        log_with=list(trackers) or None,
        project_dir=folder / TRACKING_FOLDER if trackers and folder is not None else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_MAX_WAIT), *handlers],
    )
    if device is not None and accelerator.device.type != torch.device(device).type:
        raise UserError(
            f"Asked to train on {device}, but this machine offers {accelerator.device.type}.",
            param="device",
        )
    return accelerator


def _check_trackers(trackers: Sequence[str]) -> None:
    if not trackers:
        return
    from accelerate.tracking import get_available_trackers

    available = [str(name) for name in get_available_trackers()]
    for name in trackers:
        if name not in available:
            raise UserError(
                f"The tracker {name!r} isn't installed, or accelerate doesn't know it; there is "
                f"{', '.join(available) or 'none'}. Install it, as with `pip install {name}`.",
                param="trackers",
            )


def log_epoch(accelerator: "Accelerator", record: EpochRecord, *, prefix: str = "") -> None:
    """Log the losses and the metrics of an epoch to the trackers."""
    losses = {"train_loss": record.train_loss, "validation_loss": record.validation_loss}
    values = {
        f"{prefix}{metric}": value for metric, value in {**losses, **record.validation}.items()
    }
    accelerator.log(values, step=record.epoch)


def has_processes() -> bool:
    """Return True if several processes were started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


class Processes:
    """Processes that share the rows of each batch; a single one by default.

    Args:
        accelerator: Accelerator of this process; None for a single process.

    Examples:
        >>> from clip2clap.training.accelerating import Processes
        >>> Processes().own(torch.arange(4))
        tensor([0, 1, 2, 3])
    """

    def __init__(self, accelerator: "Accelerator | None" = None):
        self.accelerator = accelerator
        self.is_main = accelerator is None or accelerator.is_main_process

    def own(self, rows: Any) -> Any:
        """Return this process's share of rows: every n-th."""
        if self.accelerator is None:
            return rows
        return rows[self.accelerator.process_index :: self.accelerator.num_processes]

    def sum(self, value: Tensor) -> Tensor:
        """Return the sum of a tensor over all processes."""
        if self.accelerator is None:
            return value
        summed: Any = self.accelerator.reduce(value, "sum")
        return summed

    def sum_gradients(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """Replace the gradients of parameters by their sums over all processes."""
        if self.accelerator is None:
            return
        rows = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        summed = self.sum(torch.cat([row.flatten() for row in rows]))
        for parameter, row in zip(parameters, summed.split([r.numel() for r in rows]), strict=True):
            parameter.grad = row.view_as(parameter)

    def wait(self) -> None:
        """Wait for the others."""
        if self.accelerator is not None:
            self.accelerator.wait_for_everyone()
