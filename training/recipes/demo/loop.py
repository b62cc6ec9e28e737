"""One resumable training loop for every stage of the recipe."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_to_fp32, send_to_device
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

from clip2clap.core.files import replacing
from clip2clap.inference.loading.components import fastest_dtype

Step = Callable[[nn.Module, torch.Generator], Tensor]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a stage learns, and how its steps' weights are averaged.

    Without an `ema_decay`, the rate stays where it rose to and all steps' weights count alike
    (stochastic weight averaging: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407).
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: float | None = 0.999
    seed: int = 0

    def rate(self, step: int) -> float:
        """Return a step's share of the rate: a linear rise, then half a cosine or level."""
        rise = min(1.0, (step + 1) / self.warmup)
        if self.ema_decay is None:
            return rise
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return rise * max(fall, 0.01)


@cache
def training_device() -> torch.device:
    """Tell where the stages compute: on a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision() -> torch.autocast:
    """Compute in bfloat16 on a GPU and on a processor that has it, else in float32."""
    device = training_device().type
    enabled = device != "cpu" or fastest_dtype() is torch.bfloat16
    return torch.autocast(device, torch.bfloat16, enabled=enabled)


def compute(function: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """Compute in mixed precision, on the training device, what is drawn and used on the processor.

    Args:
        function: A model that lies on `training_device()`, or a method of one.
        *inputs: What it takes: tensors, or lists, tuples or dicts of tensors.
        **named: The same, by name.

    Returns:
        What it gives, on the processor and in float32, with its gradient.
    """
    device = training_device()
    with mixed_precision():
        made = function(*send_to_device(inputs, device), **send_to_device(named, device))
    return send_to_device(convert_to_fp32(made), torch.device("cpu"))


@dataclass(frozen=True)
class Fit:
    """What a training loop leaves: the averaged model, seconds of training, the last loss."""

    model: nn.Module
    seconds: float
    loss: float


def fit(
    model: nn.Module,
    step: Step,
    schedule: Schedule,
    folder: Path,
    *,
    name: str,
    device: torch.device | None = None,
    save_every_s: float = 60.0,
) -> Fit:
    """Train a model, or go on where a killed run stopped.

    Every step draws from a generator seeded by the schedule's seed and the step's number, so that a
    resumed run sees what an unkilled one would have seen.

    Args:
        model: The model to train, changed in place and left on the device.
        step: Computes the loss of one batch from the model and a generator.
        schedule: Steps and rates.
        folder: Where the run keeps its checkpoint.
        name: The stage's name, for the progress bar.
        device: Where to train; `training_device()` by default.
        save_every_s: Seconds between checkpoints.

    Returns:
        The average of the model over its steps, in evaluation mode and on the processor, with what
        it took.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    model.to(device or training_device())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=schedule.learning_rate, betas=schedule.betas, weight_decay=schedule.weight_decay
    )
    if schedule.ema_decay is None:
        # get_swa_multi_avg_fn fails on the integers among a batch normalisation's buffers.
        average = AveragedModel(model, avg_fn=get_swa_avg_fn(), use_buffers=True)
    else:
        averaging = get_ema_multi_avg_fn(schedule.ema_decay)
        average = AveragedModel(model, multi_avg_fn=averaging, use_buffers=True)
    done, before, loss_mean = 0, 0.0, float("nan")
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        done, before, loss_mean = state["step"], state["seconds"], state["loss"]

    def save(step_number: int) -> None:
        state = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
            "step": step_number,
            "seconds": before + time.monotonic() - start,
            "loss": loss_mean,
        }
        with replacing(checkpoint) as partial:
            torch.save(state, partial)

    start = saved = time.monotonic()
    model.train()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
    )
    with Progress(*columns) as progress:
        bar = progress.add_task(name, total=schedule.steps, completed=done, loss=loss_mean)
        for number in range(done, schedule.steps):
            generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + number)
            # Dropout inside the model draws from the global stream.
            torch.manual_seed(schedule.seed * 1_000_003 + number)
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate * schedule.rate(number)
            loss = step(model, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            average.update_parameters(model)
            value = loss.item()
            loss_mean = value if loss_mean != loss_mean else 0.98 * loss_mean + 0.02 * value
            progress.update(bar, advance=1, loss=loss_mean)
            if time.monotonic() - saved > save_every_s:
                save(number + 1)
                saved = time.monotonic()
        if done < schedule.steps:
            save(schedule.steps)
    seconds = before + time.monotonic() - start
    return Fit(average.module.eval().to("cpu"), seconds, loss_mean)
