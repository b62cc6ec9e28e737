"""Trainer of a captioner: epochs of steps, each followed by a validation."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from clip2clap.captioning.captioner import Captioner
from clip2clap.captioning.mapper import PrefixMapper
from clip2clap.core.math import unit_norm
from clip2clap.training.accelerating import Processes
from clip2clap.training.batches import generator_for
from clip2clap.training.captioning.config import CaptionerConfig
from clip2clap.training.captioning.data import CaptionedVectors
from clip2clap.training.checkpoint import (
    flatten,
    optimizer_tensors,
    part_of,
    restore_optimizer,
)
from clip2clap.training.report import TrainingProgress
from clip2clap.training.splits import Split, thin_out
from clip2clap.training.trainer import EpochTrainer, add_noise
from clip2clap.training.trainer_state import TrainerState, computes_in_bf16, learning_rate_at

OnProgress = Callable[[TrainingProgress], None]

_WEIGHT_DECAY = 0.01
_LARGEST_NORM = 1.0
_VALIDATION_ROWS = 2_000


class CaptionTrainer(EpochTrainer):
    """Resumable training of one captioner; see `clip2clap.training.checkpoint.Resumable`.

    The language model is frozen unless the settings tune it. Several processes train as one does,
    up to rounding and dropout: each has a part of every batch.
    """

    def __init__(
        self,
        data: CaptionedVectors,
        split: Split,
        config: CaptionerConfig,
        language_model: Any,
        tokenizer: Any,
        device: torch.device,
        *,
        run: dict[str, Any] | None = None,
        on_progress: OnProgress | None = None,
        processes: Processes | None = None,
    ):
        self.data, self.split, self.config, self.device = data, split, config, device
        self.processes = processes or Processes()
        self.run, self.on_progress = run, on_progress
        space = data.pairs.source_space
        self.modality = next(iter(data.means))
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            mapper = PrefixMapper(
                data.pairs.source.shape[1],
                language_model.get_input_embeddings().weight.shape[1],
                config.prefix_length,
                config.mapper,
                config.hidden_size,
                config.mapper_layers,
                modalities=tuple(data.means),
            )
        for modality, mean in data.means.items():
            getattr(mapper, f"mean_{modality}").copy_(mean)
        self.captioner = Captioner(mapper, language_model, tokenizer, space=space).to(device)
        self.captioner.language_model.requires_grad_(config.tune_language_model)
        self.trained = {
            name: value for name, value in self.captioner.named_parameters() if value.requires_grad
        }
        self.optimizer = torch.optim.AdamW(self.trained.values(), weight_decay=_WEIGHT_DECAY)
        self.progress = TrainerState(config, select_by_loss=True)
        self.steps = -(-len(split.train) // config.batch_size)
        self.resumed_after: int | None = None

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all tensors and all plain values, for a checkpoint."""
        parts = {
            "network": self._weights(),
            "best": self.progress.best_weights,
            "adam": optimizer_tensors(self.optimizer),
        }
        return flatten(parts), {**self.progress.state(), "run": self.run}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Load what `state` returned."""
        self._load(part_of(tensors, "network"))
        restore_optimizer(self.optimizer, part_of(tensors, "adam"))
        self.progress.restore(values, part_of(tensors, "best"))
        self.resumed_after = len(self.progress.history)

    def best_captioner(self) -> Captioner:
        """Return the captioner of the best epoch, on the CPU, in evaluation mode."""
        self._load(self.progress.best_weights)
        return self.captioner.to("cpu").eval()

    def _epoch(self) -> float:
        """Train for an epoch; return the mean loss over its captions."""
        config, number = self.config, len(self.progress.history) + 1
        self.captioner.train()
        if not config.tune_language_model:
            self.captioner.language_model.eval()
        order = generator_for("order", config.seed, number)
        noise = generator_for("noise", config.seed, number)
        rows = self.split.train[torch.randperm(len(self.split.train), generator=order)]
        total = torch.zeros((), device=self.device)
        for step, (embeds, captions) in enumerate(self._batches(rows), start=1):
            at = (number - 1) * self.steps + step - 1
            rate = learning_rate_at(config, at, config.epochs * self.steps)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            if config.noise:
                embeds = add_noise(embeds, config.noise, noise)
            self.optimizer.zero_grad()
            loss = self._backward(embeds, captions)
            torch.nn.utils.clip_grad_norm_(self.trained.values(), _LARGEST_NORM)
            self.optimizer.step()
            total += loss * len(embeds)
            if self.on_progress is not None:
                last, best = (self.progress.history or [None])[-1], self.progress.best
                self.on_progress(
                    TrainingProgress(number, config.epochs, step, self.steps, last, best)
                )
        return total.item() / len(rows)

    def _backward(self, embeds: Tensor, captions: list[str]) -> Tensor:
        """Compute the gradients of a batch's loss, and return it."""
        processes = self.processes
        if processes.accelerator is None:
            loss = self._loss(embeds, captions)
            loss.backward()
            return loss.detach()
        # The loss is a mean over tokens, of which each process has some.
        tokens = self.captioner.tokenize(captions, most_tokens=self.config.max_tokens)
        counts = tokens["attention_mask"].sum(dim=1)
        loss = torch.zeros((), device=self.device)
        if own := processes.own(captions):
            share = (processes.own(counts).sum() / counts.sum()).to(self.device)
            part = self._loss(processes.own(embeds), own) * share
            part.backward()
            loss = part.detach()
        processes.sum_gradients(list(self.trained.values()))  # pyright: ignore[reportArgumentType]
        return processes.sum(loss)

    @torch.no_grad()
    def _validate(self) -> tuple[float, dict[str, float]]:
        self.captioner.eval()
        rows, total = thin_out(self.split.validation, _VALIDATION_ROWS), 0.0
        for embeds, captions in self._batches(rows):
            total += self._loss(embeds, captions).item() * len(embeds)
        loss = total / len(rows)
        return loss, {"perplexity": float(torch.tensor(loss).exp())}

    def _loss(self, embeds: Tensor, captions: list[str]) -> Tensor:
        tokens = self.captioner.tokenize(captions, most_tokens=self.config.max_tokens)
        tokens = {name: value.to(self.device) for name, value in tokens.items()}
        bf16 = computes_in_bf16(self.config, self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=bf16):
            return self.captioner(embeds, **tokens, modality=self.modality)

    def _batches(self, rows: Tensor) -> Iterator[tuple[Tensor, list[str]]]:
        for part in rows.split(self.config.batch_size):
            ordered = part.sort().values
            embeds = unit_norm(self.data.pairs.source[ordered].float().to(self.device))
            yield embeds, [self.data.captions[row] for row in ordered.tolist()]

    def _weights(self) -> dict[str, Tensor]:
        return dict(self.trained)

    def _load(self, weights: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in weights.items():
                self.trained[name].copy_(value)
