"""Training loop of the recipe's stages: seeded, resumable, with averaged weights."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_to_fp32, send_to_device
from rich.progress import Progress, TextColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_avg_fn

from clip2clap.inference.loading.components import fastest_dtype
from clip2clap.training.checkpoint import (
    flatten,
    optimizer_tensors,
    part_of,
    restore_optimizer,
    train_resumably,
)

BatchLoss = Callable[[nn.Module, torch.Generator], Tensor]


@dataclass(frozen=True)
class Schedule:
    """Steps, learning rate and weight averaging of a stage.

    With `ema_decay`, the rate follows half a cosine and the weights an exponential moving average.
    Without, the rate stays constant after the warmup and all steps' weights count alike (stochastic
    weight averaging: Izmailov et al. 2018, https://arxiv.org/abs/1803.05407).
    """

    steps: int
    learning_rate: float
    warmup: int = 100
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    ema_decay: float | None = 0.999
    seed: int = 0

    def rate(self, step: int) -> float:
        """Return the factor on the learning rate at a step: a linear warmup, then the decay."""
        rise = min(1.0, (step + 1) / self.warmup)
        if self.ema_decay is None:
            return rise
        fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return rise * max(fall, 0.01)


@cache
def training_device() -> torch.device:
    """Return the device that stages train on: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def mixed_precision() -> torch.autocast:
    """Return bfloat16 autocast, disabled on CPUs without bfloat16 units."""
    device = training_device().type
    enabled = device != "cpu" or fastest_dtype() is torch.bfloat16
    return torch.autocast(device, torch.bfloat16, enabled=enabled)


def compute(function: Callable[..., Any], *inputs: Any, **named: Any) -> Any:
    """Call a model on the training device in mixed precision, with inputs and outputs on the CPU.

    Args:
        function: A model on `training_device()`, or a method of one.
        *inputs: Its arguments: tensors, or lists, tuples or dicts of tensors.
        **named: Its keyword arguments.

    Returns:
        Its output on the CPU in float32, with its gradient.
    """
    device = training_device()
    with mixed_precision():
        output = function(*send_to_device(inputs, device), **send_to_device(named, device))
    return send_to_device(convert_to_fp32(output), torch.device("cpu"))


@dataclass(frozen=True)
class Stage:
    """Stage of the recipe: its name, the recipe's folder, and how it trains.

    Args:
        name: Name in the progress bar, of the folder of its files, and in `stages.json`.
        recipe_folder: Folder of all stages.
        schedule: Steps and rates.
        save_every_s: Seconds between checkpoints.
    """

    name: str
    recipe_folder: Path
    schedule: Schedule
    save_every_s: float = 60.0

    @property
    def folder(self) -> Path:
        """Folder of the stage's own files."""
        return self.recipe_folder / f"{self.name}_run"

    def train(
        self,
        build: Callable[[], nn.Module],
        batch_loss: BatchLoss,
        *,
        device: torch.device | None = None,
    ) -> Any:
        """Train a model, resuming from the checkpoint if there is one.

        Every step draws from a generator seeded by the schedule's seed and the step's number, so a
        resumed run ends with the weights of an uninterrupted one. Steps, seconds and the smoothed
        training loss at the end are added to `stages.json`.

        Args:
            build: Builds the model, once the global generator is seeded.
            batch_loss: Computes the loss of one batch from the model and a generator.
            device: Training device; `training_device()` by default.

        Returns:
            The average of the model over its steps, in evaluation mode and on the CPU.
        """
        torch.manual_seed(self.schedule.seed)
        model = build().to(device or training_device())
        columns = (*Progress.get_default_columns(), TextColumn("loss {task.fields[loss]:.4f}"))
        with Progress(*columns) as progress:
            bar = progress.add_task(self.name, total=self.schedule.steps, loss=float("nan"))
            run = _StageRun(
                model,
                batch_loss,
                self.schedule,
                lambda step, loss: progress.update(bar, completed=step, loss=loss),
            )
            checkpoint = self.folder / "checkpoint.safetensors"
            train_resumably(run, checkpoint, save_every_s=self.save_every_s)
        path = self.recipe_folder / "stages.json"
        stages = json.loads(path.read_text()) if path.is_file() else {}
        loss = round(run.loss, 4)
        stages[self.name] = {"steps": run.step, "seconds": round(run.seconds), "loss": loss}
        path.write_text(json.dumps(stages, indent=2) + "\n")
        return run.average.module.eval().to("cpu")


class _StageRun:
    """Training run of one stage; a `Resumable`."""

    def __init__(
        self,
        model: nn.Module,
        batch_loss: BatchLoss,
        schedule: Schedule,
        on_step: Callable[[int, float], None],
    ):
        self.model, self.batch_loss, self.schedule = model, batch_loss, schedule
        self.on_step = on_step
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.trained,
            lr=schedule.learning_rate,
            betas=schedule.betas,
            weight_decay=schedule.weight_decay,
        )
        if schedule.ema_decay is None:
            # get_swa_multi_avg_fn fails on the integers among a batch normalization's buffers.
            self.average = AveragedModel(model, avg_fn=get_swa_avg_fn(), use_buffers=True)
        else:
            averaging = get_ema_multi_avg_fn(schedule.ema_decay)
            self.average = AveragedModel(model, multi_avg_fn=averaging, use_buffers=True)
        self.step, self.seconds, self.loss = 0, 0.0, float("nan")
        model.train()

    @property
    def is_over(self) -> bool:
        return self.step >= self.schedule.steps

    def advance(self) -> None:
        started, schedule = time.monotonic(), self.schedule
        seed = schedule.seed * 1_000_003 + self.step
        # Dropout inside the model draws from the global generator.
        torch.manual_seed(seed)
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.learning_rate * schedule.rate(self.step)
        loss = self.batch_loss(self.model, torch.Generator().manual_seed(seed))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.average.update_parameters(self.model)
        value = loss.item()
        self.loss = value if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * value
        self.step += 1
        self.seconds += time.monotonic() - started
        self.on_step(self.step, self.loss)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        parts = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": optimizer_tensors(self.optimizer),
        }
        return flatten(parts), {"step": self.step, "seconds": self.seconds, "loss": self.loss}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.model.load_state_dict(part_of(tensors, "model"))
        self.average.load_state_dict(part_of(tensors, "average"))
        restore_optimizer(self.optimizer, part_of(tensors, "optimizer"))
        self.step, self.seconds, self.loss = values["step"], values["seconds"], values["loss"]
        self.on_step(self.step, self.loss)
