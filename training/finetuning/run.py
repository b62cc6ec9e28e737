"""Fine-tuning run: epochs that can be resumed, early stopping, and the tuned encoder's folder."""

import contextlib
import hashlib
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clip2clap.core.concurrency import batched, map_ahead
from clip2clap.core.errors import UserError, one_line
from clip2clap.core.files import as_path, replacing
from clip2clap.core.math import unit_norm
from clip2clap.core.output_folder import sole_run, writing_to
from clip2clap.embeddings.checkpoint import NOTE_FILE
from clip2clap.embeddings.encoders.base import Encoder
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.media.audio import load_audio
from clip2clap.metrics.classification import balanced_accuracy
from clip2clap.training.accelerating import Processes, has_processes, start_accelerator
from clip2clap.training.checkpoint import (
    flatten,
    load_checkpoint,
    optimizer_tensors,
    part_of,
    restore_optimizer,
    save_checkpoint,
)
from clip2clap.training.finetuning.config import FineTuningConfig
from clip2clap.training.finetuning.files import (
    LabeledFiles,
    augment_waveform,
    mask_spectrogram,
    mix,
)
from clip2clap.training.finetuning.parts import choose_weights, merge_adapters
from clip2clap.training.trainer_state import TrainerState, copied

REPORT_FILE, CHECKPOINT_FILE = "finetuning.json", "checkpoint.safetensors"
_MOMENTUM, _MONITOR = 0.9, "accuracy"


@dataclass(frozen=True)
class FineTuning:
    """Report of a fine-tuning run, as `finetuning.json` has it.

    Accuracies are of the held-out files, averaged over the labels.
    """

    files: dict[str, int]
    weights: int
    before: float
    best: float
    best_epoch: int
    history: list[dict[str, float]]
    unreadable: dict[str, str]
    fingerprint_before: str
    fingerprint: str
    seconds: float
    settings: dict[str, Any]


def finetune(
    encoder: Encoder,
    files: LabeledFiles,
    output: str | Path,
    config: FineTuningConfig | None = None,
    *,
    on_progress: Callable[[int, float], None] | None = None,
) -> FineTuning:
    """Tune an encoder so that files are nearest to the text of their own label.

    The text encoder stays as it is, so the tuned encoder takes any texts. The loss is the cross
    entropy of the encoder's own softmax over the labels' prompts. Labels are drawn equally often.
    Normalization layers keep their statistics. The weights of the best epoch are saved; if none
    is better than the encoder was, those are saved. `accelerate launch` spreads the computation of
    each batch over processes, which train as one does, up to rounding.

    Args:
        encoder: CLIP or CLAP in transformers' format, with a text encoder; it is changed.
        files: Files with labels, as `read_labeled_files` reads them.
        output: Folder of the tuned encoder, which `from_pretrained` loads; its space has a
            fingerprint of its own. A run that was stopped continues.
        config: Settings.
        on_progress: Called with the epoch and the held-out accuracy so far.

    Returns:
        Report of the run.

    Raises:
        UserError: If the encoder cannot be tuned, no file can be read, or the folder cannot be
            written to or has an unfinished run with other settings.
    """
    config, folder = config or FineTuningConfig(), as_path(output)
    began, processes = time.perf_counter(), Processes()
    if has_processes():
        accelerator = start_accelerator(encoder.device.type, None)
        processes = Processes(accelerator)
        encoder.to(accelerator.device)
    with sole_run(folder) if processes.is_main else contextlib.nullcontext():
        run = _Run(encoder, files, config, folder / CHECKPOINT_FILE, processes)
        while not run.is_over:
            run.advance()
            if on_progress is not None:
                on_progress(run.epoch, run.accuracies[1])
        run.load_best()
        if processes.is_main:
            _finish(run, encoder, files, folder, config, began)
        processes.wait()
    return FineTuning(**json.loads((folder / REPORT_FILE).read_text(encoding="utf-8")))


def _finish(
    run: "_Run",
    encoder: Encoder,
    files: LabeledFiles,
    folder: Path,
    config: FineTuningConfig,
    began: float,
) -> None:
    """Save the encoder and the report, and only then remove the checkpoint."""
    before, best = run.accuracies
    report = FineTuning(
        files={"train": len(run.train), "held out": len(run.held_out)},
        weights=sum(weight.numel() for weight in run.weights.values()),
        before=before,
        best=best,
        best_epoch=run.progress.best_epoch or 0,
        history=[{"loss": each.train_loss, **each.validation} for each in run.progress.history],
        unreadable=run.unreadable,
        fingerprint_before=encoder.space(files.modality).fingerprint,
        fingerprint=_publish(encoder, files, folder, config),
        seconds=round(time.perf_counter() - began, 1),
        settings=asdict(config),
    )
    with writing_to(folder), replacing(folder / REPORT_FILE) as partial:
        partial.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)


def _publish(encoder: Encoder, files: LabeledFiles, folder: Path, config: FineTuningConfig) -> str:
    """Save the encoder without a note of its former space; returns the new fingerprint."""
    if config.part == "lora":
        merge_adapters(encoder.backend.model)  # pyright: ignore[reportArgumentType]
    place = {"dir": folder, "prefix": ".", "suffix": ".part"}
    with writing_to(folder), tempfile.TemporaryDirectory(**place) as scratch:
        encoder.backend.save(Path(scratch))
        (folder / NOTE_FILE).unlink(missing_ok=True)
        for file in Path(scratch).iterdir():
            os.replace(file, folder / file.name)
    from clip2clap.embeddings.encoders.base import read_space

    return read_space(folder, family=encoder.family, modality=files.modality).fingerprint


class _Run:
    """State of a run, in a checkpoint after every epoch."""

    def __init__(
        self,
        encoder: Encoder,
        files: LabeledFiles,
        config: FineTuningConfig,
        checkpoint: Path,
        processes: Processes,
    ):
        self._encoder, self._files, self._config = encoder, files, config
        self._checkpoint, self._processes = checkpoint, processes
        self._classifier = ZeroShotClassifier(encoder, files.labels)
        self._identity = {
            "settings": asdict(config),
            "encoder": encoder.space(files.modality).fingerprint,
            "files": hashlib.sha256("\n".join(map(str, files.paths)).encode()).hexdigest()[:16],
        }
        self.train, self.held_out = files.split(config.validation, config.seed)
        self.unreadable: dict[str, str] = {}
        # Text embeddings are made; adapters of random weights must not depend on what came before.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.weights = choose_weights(encoder, files.modality, config)
        weights = list(self.weights.values())
        options: dict[str, Any] = {"lr": config.rate, "weight_decay": config.weight_decay}
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(weights, **options)
            if config.optimizer == "adamw"
            else torch.optim.SGD(weights, momentum=_MOMENTUM, nesterov=True, **options)
        )
        resolved = replace(config, learning_rate=config.rate)
        self.progress = TrainerState(resolved, monitor=_MONITOR)
        if checkpoint.is_file():
            self._restore()
        else:
            self.progress.start({_MONITOR: self._accuracy()}, lambda: self.weights)

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.progress.history)

    @property
    def is_over(self) -> bool:
        """True when the epochs or the patience have run out."""
        return self.progress.is_over

    @property
    def accuracies(self) -> tuple[float, float]:
        """Accuracies before the run and in its best epoch."""
        before, best = self.progress.before, self.progress.best
        assert before is not None
        assert best is not None
        return before.validation[_MONITOR], best.validation[_MONITOR]

    def advance(self) -> None:
        """Train for one epoch, and write the checkpoint."""
        config, labels = self._config, len(self._files.labels)
        rng = np.random.default_rng([config.seed, self.epoch])
        for group in self._optimizer.param_groups:
            group["lr"] = config.rate * config.gamma**self.epoch
        targets = self._files.targets[self.train]
        odds = 1 / np.bincount(targets, minlength=labels)[targets]
        drawn = self.train[rng.choice(len(targets), len(targets), p=odds / odds.sum())]
        losses = []
        for rows, inputs in self._batches(drawn):
            wanted = F.one_hot(torch.from_numpy(self._files.targets[rows]), labels).float()
            if config.spec_augment and "input_features" in inputs:
                inputs["input_features"] = mask_spectrogram(inputs["input_features"], rng)
            if config.mixup:
                inputs, wanted = mix(inputs, wanted, config.mixup, rng)
            losses.append(self._step(inputs, wanted))
        self.progress.add(float(np.mean(losses)), math.nan, {_MONITOR: self._accuracy()})
        self.progress.keep_if_best(lambda: self.weights)
        if self._processes.is_main:
            self._save()

    def load_best(self) -> None:
        """Load the weights of the best epoch into the encoder."""
        for name, weight in self.weights.items():
            weight.data.copy_(self.progress.best_weights[name])

    def _step(self, inputs: dict[str, Tensor], wanted: Tensor) -> float:
        """Step on a batch, of which this process computes its share; return the loss."""
        processes, rows = self._processes, len(wanted)
        inputs = {name: processes.own(values) for name, values in inputs.items()}
        wanted = processes.own(wanted)
        self._optimizer.zero_grad()
        total = torch.zeros((), device=self._encoder.device)
        if len(wanted):
            embeds = unit_norm(self._encoder(self._files.modality, inputs).float())
            label_embeds = self._classifier.label_embeds.to(embeds.device)
            logits = self._encoder.logit_scale * embeds @ label_embeds.T
            loss = F.cross_entropy(logits, wanted.to(embeds.device), reduction="sum") / rows
            loss.backward()
            total = loss.detach()
        processes.sum_gradients(list(self.weights.values()))
        self._optimizer.step()
        return float(processes.sum(total))

    def _batches(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, dict[str, Tensor]]]:
        """Yield the rows that can be read, and one window of each as the model's input."""

        def read(numbered: tuple[int, int]) -> tuple[int, dict[str, Tensor] | None]:
            place, row = numbered
            rng = np.random.default_rng([self._config.seed, self.epoch, place])
            found = self._preprocess(row, rng)
            if found is None:
                return row, None
            window = int(rng.integers(len(next(iter(found.values())))))
            one = {name: values[window : window + 1] for name, values in found.items()}
            if self._files.modality == "image" and rng.random() < 0.5:
                one = {name: values.flip(-1) for name, values in one.items()}
            return row, one

        for batch in batched(self._read(read, enumerate(rows.tolist())), self._config.batch_size):
            good = [(row, found) for row, found in batch if found is not None]
            if good:
                names = good[0][1]
                inputs = {name: torch.cat([found[name] for _, found in good]) for name in names}
                yield np.array([row for row, _ in good]), inputs

    def _read(self, read: Callable[[Any], Any], items: Any) -> Iterator[Any]:
        with ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool:
            ahead = 2 * self._config.batch_size
            with contextlib.closing(map_ahead(read, items, pool, ahead=ahead)) as found:
                yield from found

    def _preprocess(self, row: int, rng: np.random.Generator | None) -> Any:
        """Return a file's preprocessed windows, augmented with a generator; None if unreadable."""
        path = self._files.paths[row]
        try:
            item: Any = path
            if self._files.modality == "audio" and rng is not None and self._config.waveforms:
                waveform, rate = load_audio(path)
                item = augment_waveform(waveform, rng), rate
            return self._encoder.preprocess(self._files.modality, [item])[0]
        except (UserError, OSError) as error:
            self.unreadable[str(path)] = one_line(error, limit=None)
            return None

    def _accuracy(self) -> float:
        """Return the balanced accuracy on the held-out files."""
        names, targets = [], []
        rows = self.held_out.tolist()
        found = self._read(lambda row: (row, self._preprocess(row, None)), rows)
        for batch in batched(found, self._config.batch_size):
            good = [(row, values) for row, values in batch if values is not None]
            if good:
                embeds = self._encoder.encode_preprocessed(
                    self._files.modality, [values for _, values in good]
                )
                names += self._classifier.probabilities(embeds).argmax(1).tolist()
                targets += self._files.targets[[row for row, _ in good]].tolist()
        if not targets:
            raise UserError("No held-out file can be read.", param="data")
        return balanced_accuracy(torch.tensor(names), torch.tensor(targets))

    def _save(self) -> None:
        tensors = flatten(
            {
                "weights": copied(self.weights),
                "best": self.progress.best_weights,
                "optimizer": optimizer_tensors(self._optimizer),
            }
        )
        values = {**self.progress.state(), "unreadable": self.unreadable}
        save_checkpoint(self._checkpoint, tensors, {"run": self._identity, **values})

    def _restore(self) -> None:
        tensors, values = load_checkpoint(self._checkpoint)
        changed = [
            name for name, value in self._identity.items() if values["run"].get(name) != value
        ]
        if changed:
            raise UserError(
                f"{self._checkpoint.parent} has an unfinished run with other "
                f"{' and '.join(changed)}. Continue it as it was, or name another folder.",
                param="output",
            )
        self.unreadable = values["unreadable"]
        self.progress.restore(values, part_of(tensors, "best"))
        for name, values_of in part_of(tensors, "weights").items():
            self.weights[name].data.copy_(values_of)
        restore_optimizer(self._optimizer, part_of(tensors, "optimizer"))
