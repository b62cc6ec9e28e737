"""Trainer of a speech encoder: epochs of steps, each followed by a validation."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import soxr
import torch
from torch import Tensor

from clip2clap.core.concurrency import batched, map_ahead
from clip2clap.core.errors import UserError, one_line
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.media.audio import load_audio
from clip2clap.metrics.retrieval import retrieval_metrics
from clip2clap.training.accelerating import log_epoch
from clip2clap.training.batches import generator_for
from clip2clap.training.checkpoint import (
    flatten,
    optimizer_tensors,
    part_of,
    restore_optimizer,
)
from clip2clap.training.losses import TranslationLoss
from clip2clap.training.report import TrainingProgress
from clip2clap.training.speech.alterations import alter_speech, mask_inputs
from clip2clap.training.speech.config import SpeechTrainingConfig
from clip2clap.training.speech.data import SpeechData
from clip2clap.training.splits import thin_out
from clip2clap.training.trainer import EpochTrainer
from clip2clap.training.trainer_state import TrainerState, computes_in_bf16, learning_rate_at

if TYPE_CHECKING:
    from accelerate import Accelerator

OnProgress = Callable[[TrainingProgress], None]

_LARGEST_NORM = 1.0
_VALIDATION_ROWS = 2_000


class SpeechTrainer(EpochTrainer):
    """Resumable training of a speech encoder; see `clip2clap.training.checkpoint.Resumable`.

    Every process of accelerate trains on its share of each batch.
    """

    def __init__(
        self,
        data: SpeechData,
        config: SpeechTrainingConfig,
        model: Any,
        extractor: Any,
        accelerator: "Accelerator",
        *,
        run: dict[str, Any] | None = None,
        on_progress: OnProgress | None = None,
    ):
        self.data, self.config, self.accelerator = data, config, accelerator
        self.run, self.on_progress, self.model = run, on_progress, model
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.encoder = SpeechEncoder.of(model, extractor).to(accelerator.device)
        groups: dict[str, list[Any]] = {name: [] for name in config.rates}
        for name, parameter in trained.items():
            groups[name.partition(".")[0]].append(parameter.requires_grad_(True))
        self.optimizer = torch.optim.AdamW(
            [{"params": groups[name], "lr": rate} for name, rate in config.rates.items()],
            weight_decay=config.weight_decay,
        )
        self.network: Any = accelerator.prepare(model)
        self.loss = TranslationLoss(config.loss, temperature=config.temperature)
        self.banks = {
            kind: targets.bank().to(accelerator.device) if self.loss.needs_bank else None
            for kind, targets in data.targets.items()
        }
        self.progress = TrainerState(config)
        self.steps = -(-len(data.split.train) // config.batch_size)
        self.unreadable = dict(data.unreadable)
        self.resumed_after: int | None = None

    def advance(self) -> None:
        """Train for an epoch, measure it, and log it to the trackers."""
        super().advance()
        log_epoch(self.accelerator, self.progress.history[-1])

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all tensors and all plain values, for a checkpoint."""
        parts = {
            "network": self._weights(),
            "best": self.progress.best_weights,
            "adam": optimizer_tensors(self.optimizer),
        }
        values = {**self.progress.state(), "run": self.run, "unreadable": self.unreadable}
        return flatten(parts), values

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Load what `state` returned."""
        self.model.load_state_dict(part_of(tensors, "network"))
        restore_optimizer(self.optimizer, part_of(tensors, "adam"))
        self.progress.restore(values, part_of(tensors, "best"))
        self.unreadable |= values["unreadable"]
        self.resumed_after = len(self.progress.history)

    def best_encoder(self) -> SpeechEncoder:
        """Return the encoder of the best epoch, on the CPU, in evaluation mode."""
        self.model.load_state_dict(self.progress.best_weights)
        return self.encoder.to("cpu").eval().requires_grad_(False)

    def encode(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Encode whole captions; returns the rows that can be read, and embeddings (n, d)."""
        self.encoder.eval()

        def read(row: int) -> tuple[int, Any]:
            return row, self._checked(
                row, lambda: self.encoder.preprocess("audio", [self._file(row)])
            )

        kept, parts = [], [torch.empty(0, self.encoder.space("audio").dim)]
        for batch in batched(self._ahead(read, rows), self.config.batch_size):
            good = [(row, found[0]) for row, found in batch if found is not None]
            if good:
                kept += [row for row, _ in good]
                inputs = [found for _, found in good]
                parts.append(
                    self.encoder.encode_preprocessed(
                        "audio", inputs, batch_size=self.config.batch_size
                    )
                )
        return torch.tensor(kept, dtype=torch.long), torch.cat(parts)

    def _epoch(self) -> float:
        """Train for an epoch; return the mean loss over its captions."""
        config, number = self.config, len(self.progress.history) + 1
        self.encoder.train()
        train = self.data.split.train
        order = torch.randperm(len(train), generator=generator_for("order", config.seed, number))
        total, count = 0.0, 0
        for step, (rows, inputs) in enumerate(self._batches(train[order], number), start=1):
            self._set_rates((number - 1) * self.steps + step - 1, number)
            if inputs:
                loss = self._loss(self._embed(inputs), rows)
                self.optimizer.zero_grad()
                self.accelerator.backward(loss)
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), _LARGEST_NORM)
                self.optimizer.step()
                total, count = total + loss.item() * len(rows), count + len(rows)
            self._show(number, step)
        sums = torch.tensor([total, float(count)], device=self.accelerator.device)
        reduced: Any = self.accelerator.reduce(sums, reduction="sum")
        total, count = reduced.tolist()
        if not count:
            raise UserError(
                f"No spoken caption can be read: {next(iter(self.unreadable.values()))}",
                param="data",
            )
        return total / count

    @torch.no_grad()
    def _validate(self) -> tuple[float, dict[str, float]]:
        rows = thin_out(self.data.split.validation, _VALIDATION_ROWS)
        rows, embeds = self.encode(rows.tolist())
        if not len(rows):
            raise UserError("No held-out spoken caption can be read.", param="data")
        if not bool(embeds.isfinite().all()):
            return float("nan"), {self.config.monitor: 0.0}
        metrics: dict[str, float] = {}
        for kind, targets in self.data.targets.items():
            places, target = targets.of(rows)
            if len(places):
                prefix = "" if kind == self.data.kind else f"{kind}_"
                found = retrieval_metrics(embeds[places], target)
                metrics |= {f"{prefix}{name}": value for name, value in found.items()}
        parts = zip(
            rows.split(self.config.batch_size), embeds.split(self.config.batch_size), strict=True
        )
        device = self.accelerator.device
        losses = [self._loss(e.to(device), r).item() * len(r) for r, e in parts]
        return sum(losses) / len(rows), metrics

    def _loss(self, embeds: Tensor, rows: Tensor) -> Tensor:
        """Return the weighted losses against the targets that the rows have."""
        losses = [embeds.sum() * 0]
        for kind, targets in self.data.targets.items():
            places, target = targets.of(rows)
            if len(places):
                predicted, target = embeds[places.to(embeds.device)], target.to(embeds.device)
                loss = self.loss(predicted, target, self.banks[kind])
                # The mean over the batch, also where some captions have no such target.
                losses.append(self.data.weights[kind] * loss * len(places) / len(rows))
        return torch.stack(losses).sum()

    def _embed(self, inputs: dict[str, Tensor]) -> Tensor:
        device = self.accelerator.device
        bf16 = computes_in_bf16(self.config, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            moved = {name: value.to(device) for name, value in inputs.items()}
            return self.network(**moved).pooler_output.float()

    def _batches(self, rows: Tensor, epoch: int) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield the rows of each batch that can be read, and their inputs.

        Where none can be, the inputs are empty, or silence that the other processes wait for.
        """
        config, accelerator = self.config, self.accelerator
        share = slice(accelerator.process_index, None, accelerator.num_processes)
        own = [batch[share].tolist() for batch in rows.split(config.batch_size)]

        def read(row: int) -> tuple[int, Any]:
            rng = np.random.default_rng([config.seed, epoch, row])
            return row, self._checked(row, lambda: self._altered(row, rng))

        found = self._ahead(read, [row for batch in own for row in batch])
        for step, batch in enumerate(own):
            good = [(row, x) for row, x in (next(found) for _ in batch) if x is not None]
            if not good:
                silence = np.zeros(self.encoder.backend.window, np.float32)
                is_alone = accelerator.num_processes == 1
                inputs = {} if is_alone else self.encoder.backend.preprocess_audio([silence])
                yield torch.empty(0, dtype=torch.long), inputs
                continue
            inputs = {name: torch.cat([x[name] for _, x in good]) for name in good[0][1]}
            if config.spec_augment:
                rng = np.random.default_rng([config.seed, epoch, step, accelerator.process_index])
                inputs["inputs"] = mask_inputs(inputs["inputs"], rng)
            yield torch.tensor([row for row, _ in good]), inputs

    def _altered(self, row: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """Return the inputs of one window of a caption, altered."""
        backend = self.encoder.backend
        waveform, rate = load_audio(self._file(row), name=self.data.rows[row].id)
        if rate != backend.sampling_rate:
            waveform = soxr.resample(waveform, rate, backend.sampling_rate)
        waveform = alter_speech(waveform, backend.sampling_rate, self.config, rng)
        start = int(rng.integers(max(0, len(waveform) - backend.window) + 1))
        return backend.preprocess_audio([waveform[start : start + backend.window]])

    def _file(self, row: int) -> Any:
        return self.data.rows[row].audio

    def _checked(self, row: int, read: Callable[[], Any]) -> Any:
        """Return what is read of a caption, None if it cannot be."""
        try:
            return read()
        except (UserError, OSError) as error:
            self.unreadable[self.data.rows[row].id] = one_line(error, limit=None)
            return None

    def _ahead(self, read: Callable[[int], Any], rows: Sequence[int]) -> Iterator[Any]:
        with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:
            ahead = 2 * self.config.batch_size
            with contextlib.closing(map_ahead(read, rows, pool, ahead=ahead)) as found:
                yield from found

    def _set_rates(self, step: int, epoch: int) -> None:
        config = self.config
        if config.gamma is not None:
            factor = config.gamma ** (epoch - 1)
        else:
            rate = learning_rate_at(config, step, config.epochs * self.steps)
            factor = rate / config.learning_rate
        for group, rate in zip(self.optimizer.param_groups, config.rates.values(), strict=True):
            group["lr"] = rate * factor

    def _weights(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def _show(self, epoch: int, step: int) -> None:
        if self.on_progress is not None:
            last, best = (self.progress.history or [None])[-1], self.progress.best
            self.on_progress(
                TrainingProgress(epoch, self.config.epochs, step, self.steps, last, best)
            )
