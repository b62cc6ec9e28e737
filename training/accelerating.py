"""Processes, devices and trackers of accelerate, for trainers that are spread over processes."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

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
