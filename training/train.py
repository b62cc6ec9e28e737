"""Training of one translator, from a table to a folder."""

import os
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from clip2clap.core.errors import UserError
from clip2clap.core.output_folder import sole_run
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.training.checkpoint import train_resumably
from clip2clap.training.config import TrainingConfig
from clip2clap.training.networks import NETWORKS, fit_closed_form
from clip2clap.training.pairs import Pairs, read_pairs
from clip2clap.training.report import TrainingReport
from clip2clap.training.run_folder import RunFolder
from clip2clap.training.splits import TrainingData, split_pairs
from clip2clap.training.trainer import OnProgress, Trainer, recipe_of
from clip2clap.training.trainer_state import TrainerState
from clip2clap.training.validation import measure_with_controls
from clip2clap.translator.auto import AutoTranslator
from clip2clap.translator.base import Translator


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
    """Train a translator, save it, and report.

    A run that was killed resumes from its last checkpoint and ends with the same weights; a
    finished run is not repeated.

    Args:
        table: Embedding table, its folder, or pairs.
        output: Output folder: `config.json`, one safetensors file, and `training.json`.
        config: Settings; the defaults if None.
        device: Device, such as `cpu` or `cuda`; the best available if None.
        overwrite: Replace a translator or run with other settings in `output`.
        checkpoint_seconds: Least time between two checkpoints, in seconds.
        on_progress: Called after every step.

    Returns:
        Loss curves, held-out metrics and controls.

    Raises:
        UserError: If the table lacks a column, cannot be split, or holds zero vectors; if `output`
            holds something else; if the device is missing; if training diverges.

    Examples:
        >>> import torch
        >>> from clip2clap import train, TrainingConfig
        >>> from clip2clap.training import Pairs
        >>> source = torch.randn(100, 8)
        >>> pairs = Pairs(source, source @ torch.randn(8, 6))
        >>> report = train(pairs, "translator", TrainingConfig(architecture="ridge"))
        >>> report.metrics["mrr"] > report.shuffled_pairs["mrr"]
        True
    """
    folder = Path(output)
    return _train(table, config, folder, device, overwrite, checkpoint_seconds, on_progress)[1]


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
    """Train a translator and return it, as `train` does, with or without a folder.

    Arguments and errors are those of `train`, with `output_dir` for `output`: the folder, also of
    checkpoints; None writes nothing.

    Returns:
        The translator of the best epoch, on the CPU, in evaluation mode, with its provenance.

    Examples:
        >>> import torch
        >>> from clip2clap.training import Pairs, TrainingConfig, train_translator
        >>> pairs = Pairs(torch.randn(100, 8), torch.randn(100, 6))
        >>> train_translator(pairs, TrainingConfig(hidden_size=16, epochs=1)).target_dim
        6
    """
    output = None if output_dir is None else Path(output_dir)
    return _train(table, config, output, device, overwrite, checkpoint_seconds, on_progress)[0]


def _train(
    table: str | Path | EmbeddingTable | Pairs,
    config: TrainingConfig | None,
    output: Path | None,
    device: str | None,
    overwrite: bool,
    checkpoint_seconds: float,
    on_progress: OnProgress | None,
) -> tuple[Translator, TrainingReport]:
    started, config = time.monotonic(), config or TrainingConfig()
    pairs = table if isinstance(table, Pairs) else read_pairs(table, config)
    split = split_pairs(pairs, validation=config.validation, seed=config.seed)
    data = TrainingData(pairs, split, pairs.fingerprint())
    with nullcontext() if output is None else sole_run(output):
        folder = run = checkpoint = resumed_after = None
        if output is not None:
            folder = RunFolder(output, config, data.fingerprint, overwrite=overwrite)
            if (report := folder.finished()) is not None:
                return AutoTranslator.from_pretrained(output), report
            run, checkpoint = folder.identity, folder.checkpoint
        resolved = config.resolved(len(split.train), pairs.source_space)
        if config.architecture in NETWORKS:
            place = choose_device(device)
            trainer = Trainer(data, resolved, place, run=run, on_progress=on_progress)
            train_resumably(trainer, checkpoint, save_every_s=checkpoint_seconds)
            translator, state = trainer.best_translator(), trainer.progress
            recipe = recipe_of(resolved, state, trainer.loss.temperatures)
            resumed_after = trainer.resumed_after
            started -= trainer.earlier_seconds
        else:
            (translator, recipe), state = fit_closed_form(data, resolved), TrainerState(resolved)
        report = measure_and_report(translator, recipe, data, config, state, resumed_after)
        report = replace(report, seconds=time.monotonic() - started)
        if folder is not None:
            report = replace(report, output=str(folder.path))
            folder.publish(translator, report)
        return translator, report


def measure_and_report(
    translator: Translator,
    recipe: dict[str, Any],
    data: TrainingData,
    config: TrainingConfig,
    state: TrainerState,
    resumed_after: int | None,
) -> TrainingReport:
    """Measure a trained translator on the CPU, record its provenance, and report.

    `config` has the settings as the user gave them, `state` the end of training, empty for a
    closed-form fit. The report lacks the output folder.
    """
    pairs, split = data.pairs, data.split
    found: dict[str, Any] = measure_with_controls(translator, data, config.seed)
    columns = {"source_column": pairs.source_column, "target_column": pairs.target_column}
    controls = {name: found[name] for name in ("shuffled_pairs", "mean_vector")}
    translator.record(
        source_space=pairs.source_space,
        target_space=pairs.target_space,
        recipe={**recipe, **columns, "pairs": len(split.train), "seed": config.seed},
        data=data.fingerprint,
        metrics={"measured_on": split.measured_on, **found["metrics"], **controls},
    )
    return TrainingReport(
        output=None,
        settings=asdict(config),
        data=data.fingerprint,
        **columns,
        pairs={name: len(rows) for name, rows in vars(split).items()},
        monitor=config.monitor,
        history=state.history,
        best_epoch=state.best_epoch,
        stopped_early=0 < len(state.history) < config.epochs,
        resumed_after=resumed_after,
        seconds=state.seconds,
        measured_on=split.measured_on,
        **found,
    )


def choose_device(name: str | None) -> torch.device:
    """Return the device to train on: the one named, or the best available.

    Raises:
        UserError: If it is missing, or several processes were started.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    best = found or torch.device("cpu")
    if name is not None:
        try:
            named = torch.device(name)
        except RuntimeError as error:
            raise UserError(
                f"Expected a device such as cpu or cuda, got {name!r}.", param="device"
            ) from error
        if named.type not in ("cpu", best.type):
            raise UserError(
                f"Asked to train on {named.type}, but this machine offers {best.type}.",
                param="device",
            )
        best = named
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            "A translator is trained in one process: it is too small for more to be faster. Start "
            "it without `accelerate launch`; a sweep is spread over processes."
        )
    return best
