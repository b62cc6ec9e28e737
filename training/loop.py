"""Train a translator on pairs, stop when it no longer gets better, and measure it."""

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from torch import Tensor

from clip2clap.embeddings import UserError, unit_norm
from clip2clap.embeddings.table import EmbeddingTable
from clip2clap.training.config import TrainingConfig
from clip2clap.training.losses import TranslationLoss
from clip2clap.training.metrics import retrieval_metrics
from clip2clap.training.pairs import Pairs, Split, read_pairs, split_pairs, thin_out
from clip2clap.training.report import EpochRecord, TrainingProgress, TrainingReport
from clip2clap.training.run_folder import RunFolder
from clip2clap.translator import (
    AutoTranslator,
    LinearFitter,
    MLPTranslator,
    ResidualTranslator,
    Translator,
)

OnProgress = Callable[[TrainingProgress], None]

# Unit vectors and thousands of pairs: below the first ridge hardly shrinks, above the last it is
# little more than the mean.
_ALPHAS = (0.01, 0.1, 1.0, 10.0, 100.0)

# A large table is gone through so many rows at a time.
_ROWS = 65_536


def train(
    table: str | Path | EmbeddingTable | Pairs,
    output: str | Path,
    config: TrainingConfig | None = None,
    *,
    device: str | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 10.0,
    on_progress: OnProgress | None = None,
) -> TrainingReport:
    """Train a translator, write it into a folder, and report.

    A run that was killed continues where its last checkpoint stands and ends with the weights it
    would have had; one that was finished is not repeated.

    Args:
        table: An embedding table or its folder; or pairs.
        output: The translator's folder: `config.json`, one safetensors file, and `training.json`.
        config: Settings; the defaults if None.
        device: Such as `cpu` or `cuda`; accelerate's choice if None.
        overwrite: Whether a translator or run with other settings in `output` may be replaced.
        checkpoint_seconds: How often the state is written, at the end of an epoch.
        on_progress: Called after every step.

    Returns:
        Loss curves, held-out figures and controls.

    Raises:
        UserError: If the table lacks a column, can't be split, or holds vectors without direction;
            if `output` holds something else; if the device isn't there; if training diverges.
    """
    _, report = _train(
        table,
        config or TrainingConfig(),
        output=Path(output),
        device=device,
        overwrite=overwrite,
        checkpoint_seconds=checkpoint_seconds,
        on_progress=on_progress,
    )
    return report


def train_translator(
    table: str | Path | EmbeddingTable | Pairs,
    config: TrainingConfig | None = None,
    *,
    output_dir: str | Path | None = None,
    device: str | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 10.0,
    on_progress: OnProgress | None = None,
) -> Translator:
    """Train a translator and give it back; as `train`, but a folder isn't needed.

    Args:
        table: An embedding table or its folder; or pairs.
        config: Settings; the defaults if None.
        output_dir: Where to write it, and the checkpoints of the run; nothing is written if None.
        device: Such as `cpu` or `cuda`; accelerate's choice if None.
        overwrite: Whether a translator or run with other settings there may be replaced.
        checkpoint_seconds: How often the state is written, at the end of an epoch.
        on_progress: Called after every step.

    Returns:
        The translator of the best epoch, on the CPU, in evaluation mode; its config holds both
        spaces, the recipe and the held-out figures.

    Raises:
        UserError: As in `train`.
    """
    translator, _ = _train(
        table,
        config or TrainingConfig(),
        output=None if output_dir is None else Path(output_dir),
        device=device,
        overwrite=overwrite,
        checkpoint_seconds=checkpoint_seconds,
        on_progress=on_progress,
    )
    return translator


def _train(
    table: str | Path | EmbeddingTable | Pairs,
    config: TrainingConfig,
    *,
    output: Path | None,
    device: str | None,
    overwrite: bool,
    checkpoint_seconds: float,
    on_progress: OnProgress | None,
) -> tuple[Translator, TrainingReport]:
    started = time.monotonic()
    pairs = table if isinstance(table, Pairs) else read_pairs(table, config)
    split = split_pairs(pairs, validation=config.validation, seed=config.seed)
    data = pairs.fingerprint()
    folder = None
    if output is not None:
        folder = RunFolder(output, settings=asdict(config), data=data, overwrite=overwrite)
        if (report := folder.finished()) is not None:
            return AutoTranslator.from_pretrained(output), report
    if config.model in ("mlp", "residual"):
        run = _Run(pairs, split, config, _accelerator(device), folder)
        run.to_the_end(checkpoint_seconds, on_progress)
        translator, recipe = run.best_translator(), run.recipe()
        history, best_epoch, resumed_after = run.history, run.best_epoch, run.resumed_after
        started -= run.earlier_seconds
    else:
        translator, recipe = _fit(pairs, split, config)
        history, best_epoch, resumed_after = [], None, None
    measured_on: Literal["validation", "test"] = "test" if len(split.test) else "validation"
    figures = _measure(translator, pairs, split, measured_on, config.seed)
    translator.record(
        source_space=pairs.source_space,
        target_space=pairs.target_space,
        recipe={
            **recipe,
            "source_column": pairs.source_column,
            "target_column": pairs.target_column,
            "pairs": len(split.train),
            "seed": config.seed,
        },
        metrics={
            "measured_on": measured_on,
            **figures["metrics"],
            "shuffled_pairs": figures["shuffled_pairs"],
            "mean_vector": figures["mean_vector"],
        },
    )
    report = TrainingReport(
        output=None if output is None else str(output),
        settings=asdict(config),
        data=data,
        source_column=pairs.source_column,
        target_column=pairs.target_column,
        pairs={name: len(rows) for name, rows in vars(split).items()},
        monitor=config.monitor,
        history=history,
        best_epoch=best_epoch,
        stopped_early=bool(history) and len(history) < config.epochs,
        resumed_after=resumed_after,
        seconds=time.monotonic() - started,
        measured_on=measured_on,
        **figures,
    )
    if folder is not None:
        folder.publish(translator, report)
    return translator, report


class _Run:
    """The state of a network's training, which a checkpoint holds whole."""

    def __init__(
        self,
        pairs: Pairs,
        split: Split,
        config: TrainingConfig,
        accelerator: Accelerator,
        folder: RunFolder | None,
    ):
        self.pairs, self.config = pairs, config
        self.accelerator, self.folder = accelerator, folder
        self.train_rows = split.train
        self.generator = torch.Generator().manual_seed(config.seed)
        self.translator = _network(config, pairs.source.shape[1], pairs.target.shape[1])
        self.translator.initialise(self.generator)
        self.loss = TranslationLoss(
            config.loss,
            temperature=config.temperature,
            learn_temperature=config.learn_temperature,
        ).to(accelerator.device)
        self.translator.to(accelerator.device)
        self.optimizer = torch.optim.Adam(
            [*self.translator.parameters(), *self.loss.parameters()],
            lr=config.learning_rate,
            fused=accelerator.device.type in ("cpu", "cuda"),
        )
        held_out = thin_out(split.validation)
        self.held_out_source = pairs.source[held_out].to(accelerator.device)
        self.held_out_target = unit_norm(pairs.target[held_out].to(accelerator.device))
        self.history: list[EpochRecord] = []
        self.best_epoch: int | None = None
        self.best_weights: dict[str, Tensor] = {}
        self.earlier_seconds = 0.0
        self.resumed_after: int | None = None
        if folder is not None and (checkpoint := folder.load()) is not None:
            self._restore(*checkpoint)

    def to_the_end(self, checkpoint_seconds: float, on_progress: OnProgress | None) -> None:
        """Train until the epochs or the patience run out."""
        model, optimizer = self.accelerator.prepare(self.translator, self.optimizer)
        started = written = time.monotonic()
        while not self._is_over():
            record = self._epoch(model, optimizer, on_progress)
            self.history.append(record)
            best = self._best()
            if best is None or self._score(record) > self._score(best):
                self.best_epoch = record.epoch
                self.best_weights = _copy(self.translator.state_dict())
            if self.folder is not None and time.monotonic() - written >= checkpoint_seconds:
                self._save(self.folder, self.earlier_seconds + time.monotonic() - started)
                written = time.monotonic()

    def best_translator(self) -> Translator:
        """Give the translator of the best epoch, on the CPU."""
        # Not the one that was trained: in bf16 accelerate leaves its autocast on that.
        best = type(self.translator).from_config(self.translator.config)
        assert isinstance(best, Translator)
        best.load_state_dict(self.best_weights)
        return best.eval()

    def recipe(self) -> dict[str, Any]:
        """Give what made the translator, for its config."""
        config = self.config
        return {
            "method": config.model,
            "loss": config.loss,
            "temperature": self.loss.temperature,
            "optimizer": "adam",
            "learning_rate": config.learning_rate,
            "batch_size": config.batch_size,
            "epochs": len(self.history),
            "best_epoch": self.best_epoch,
            "monitor": config.monitor,
        }

    def _epoch(
        self, model: torch.nn.Module, optimizer: Any, on_progress: OnProgress | None
    ) -> EpochRecord:
        # Dropout draws from torch's own generators: they start alike in every such epoch.
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed + len(self.history))
            return self._measure_epoch(model, self._train_epoch(model, optimizer, on_progress))

    def _train_epoch(
        self, model: torch.nn.Module, optimizer: Any, on_progress: OnProgress | None
    ) -> float:
        model.train()
        order = self.train_rows[torch.randperm(len(self.train_rows), generator=self.generator)]
        batches = order.split(self.config.batch_size)
        total = torch.zeros((), device=self.accelerator.device)
        last, best = (self.history[-1] if self.history else None), self._best()
        for step, rows in enumerate(batches, start=1):
            source = self.pairs.source[rows].to(self.accelerator.device)
            target = unit_norm(self.pairs.target[rows].to(self.accelerator.device))
            loss = self.loss(model(source), target)
            optimizer.zero_grad()
            self.accelerator.backward(loss)
            optimizer.step()
            self.loss.keep_scale_in_bounds()
            total += loss.detach() * len(rows)
            if on_progress is not None:
                on_progress(
                    TrainingProgress(
                        epoch=len(self.history) + 1,
                        epochs=self.config.epochs,
                        step=step,
                        steps=len(batches),
                        last=last,
                        best=best,
                    )
                )
        train_loss = total.item() / len(order)
        if not train_loss < float("inf"):
            raise UserError(
                f"Training diverged in epoch {len(self.history) + 1}: the loss is {train_loss}. "
                f"Give a learning rate below {self.config.learning_rate:g}."
            )
        return train_loss

    @torch.no_grad()
    def _measure_epoch(self, model: torch.nn.Module, train_loss: float) -> EpochRecord:
        model.eval()
        predicted = torch.cat([model(part) for part in self.held_out_source.split(1024)])
        losses = [
            self.loss(*batch).item() * len(batch[0])
            for batch in zip(
                predicted.split(self.config.batch_size),
                self.held_out_target.split(self.config.batch_size),
                strict=True,
            )
        ]
        return EpochRecord(
            epoch=len(self.history) + 1,
            train_loss=train_loss,
            validation_loss=sum(losses) / len(predicted),
            validation=retrieval_metrics(predicted, self.held_out_target),
        )

    def _is_over(self) -> bool:
        done = len(self.history)
        if done >= self.config.epochs:
            return True
        patience = self.config.patience
        return patience is not None and done - (self.best_epoch or 0) >= patience

    def _best(self) -> EpochRecord | None:
        return None if self.best_epoch is None else self.history[self.best_epoch - 1]

    def _score(self, record: EpochRecord) -> tuple[float, float]:
        # Retrieval among few or easy pairs is soon perfect; the loss then still tells epochs apart.
        return record.validation[self.config.monitor], -record.validation_loss

    def _save(self, folder: RunFolder, seconds: float) -> None:
        parts = {
            "translator": self.translator.state_dict(),
            "loss": self.loss.state_dict(),
            "best": self.best_weights,
            **{
                f"adam.{index}": moments
                for index, moments in self.optimizer.state_dict()["state"].items()
            },
        }
        tensors = {
            f"{part}/{key}": t for part, values in parts.items() for key, t in values.items()
        }
        tensors["generator/state"] = self.generator.get_state()
        state = {
            "history": [asdict(record) for record in self.history],
            "best_epoch": self.best_epoch,
            "seconds": seconds,
        }
        folder.save(tensors, state)

    def _restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, key = name.split("/", 1)
            parts.setdefault(part, {})[key] = tensor
        self.translator.load_state_dict(parts["translator"])
        self.loss.load_state_dict(parts.get("loss", {}))
        self.best_weights = parts["best"]
        moments = {
            int(part.removeprefix("adam.")): values
            for part, values in parts.items()
            if part.startswith("adam.")
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})
        self.generator.set_state(parts["generator"]["state"])
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.best_epoch, self.earlier_seconds = state["best_epoch"], state["seconds"]
        self.resumed_after = len(self.history)


def _network(
    config: TrainingConfig, source_dim: int, target_dim: int
) -> MLPTranslator | ResidualTranslator:
    """Make the network that is to be trained; its weights are still to be drawn."""
    if config.model == "residual":
        return ResidualTranslator(
            source_dim,
            target_dim,
            hidden=config.hidden,
            blocks=config.blocks,
            dropout=config.dropout,
        )
    return MLPTranslator(source_dim, target_dim, hidden=config.hidden)


def _fit(pairs: Pairs, split: Split, config: TrainingConfig) -> tuple[Translator, dict[str, Any]]:
    """Fit a linear translator; ridge's penalty is the best of several on held-out pairs."""
    fitter = LinearFitter()
    for rows in split.train.split(_ROWS):
        fitter.update(pairs.source[rows], pairs.target[rows])
    options = {"centre": config.centre, "scale": config.scale}
    if config.model == "procrustes":
        fitted = fitter.procrustes(**options)
    else:
        alphas = _ALPHAS if config.alpha is None else (config.alpha,)
        held_out = thin_out(split.validation)
        source, target = pairs.source[held_out], pairs.target[held_out]

        def score(candidate: Translator) -> tuple[float, float]:
            figures = retrieval_metrics(_predict(candidate, source), target)
            return figures[config.monitor], figures["cosine"]

        fitted = max((fitter.ridge(alpha=alpha, **options) for alpha in alphas), key=score)
    return fitted, dict(fitted.config["recipe"])


@torch.no_grad()
def _measure(
    translator: Translator,
    pairs: Pairs,
    split: Split,
    measured_on: Literal["validation", "test"],
    seed: int,
) -> dict[str, dict[str, float]]:
    """Measure the translator beside what chance and a constant answer give."""
    rows = thin_out(split.test if measured_on == "test" else split.validation)
    target = pairs.target[rows]
    predicted = _predict(translator, pairs.source[rows])
    # A random cycle through all rows, so that each gets another's target.
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    other = torch.empty_like(order)
    other[order] = order.roll(1)
    mean = torch.zeros(target.shape[1])
    for part in split.train.split(_ROWS):
        mean += unit_norm(pairs.target[part]).sum(0)
    return {
        "metrics": retrieval_metrics(predicted, target),
        "shuffled_pairs": retrieval_metrics(predicted, target[other]),
        "mean_vector": retrieval_metrics(mean.expand(len(rows), -1), target),
    }


@torch.no_grad()
def _predict(translator: Translator, source: Tensor) -> Tensor:
    return torch.cat([translator(part) for part in source.split(1024)])


def _accelerator(device: str | None) -> Accelerator:
    if device is not None:
        try:
            device = torch.device(device).type
        except RuntimeError as error:
            raise UserError(f"Expected a device such as cpu or cuda, got {device!r}.") from error
    accelerator = Accelerator(cpu=device == "cpu")
    if device is not None and accelerator.device.type != device:
        raise UserError(
            f"Asked to train on {device}, but this machine offers {accelerator.device.type}."
        )
    if accelerator.num_processes > 1:
        raise UserError(
            "A translator is trained in one process: it is too small for more to be faster. Start "
            "it without `accelerate launch`."
        )
    if accelerator.mixed_precision == "fp16":
        raise UserError("Translators train in full precision or bf16: set mixed_precision to no.")
    return accelerator


def _copy(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: weight.detach().cpu().clone() for name, weight in weights.items()}
