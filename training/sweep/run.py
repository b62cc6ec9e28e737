"""Sweep: train many translators on one or several tables, together where they share batches."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, remove_leftovers, replacing
from clip2clap.core.output_folder import sole_run, writing_to
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.metrics.retrieval import retrieval_metrics
from clip2clap.training.accelerating import log_epoch, start_accelerator
from clip2clap.training.checkpoint import train_resumably
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs
from clip2clap.training.report import SweepResult
from clip2clap.training.splits import Split, TrainingData, split_together
from clip2clap.training.sweep.grid import SweepGrid
from clip2clap.training.sweep.group import Group, Member
from clip2clap.training.sweep.jobs import (
    Job,
    Model,
    cost_of,
    key_of,
    list_models,
    make_data_sets,
    plan_jobs,
    read_tables,
)
from clip2clap.training.train import measure_and_report
from clip2clap.training.trainer import recipe_of
from clip2clap.training.validation import predict
from clip2clap.translator.auto import AutoTranslator

if TYPE_CHECKING:
    from accelerate import Accelerator

RESULTS_FILE = "results.csv"
REPORT_FILE = "report.html"
_UNFINISHED = "unfinished"


@dataclass(frozen=True)
class SweepProgress:
    """Progress of this process, for a progress bar.

    Attributes:
        models: Models that this process trains in all.
        training: Models in training now.
        done: Completed share of the work, from 0 to 1; it jumps when models stop early.
    """

    models: int
    training: int
    done: float


def sweep(
    table: str | Path | EmbeddingTable | Pairs,
    output: str | Path,
    *,
    plus: Sequence[str | Path | EmbeddingTable | Pairs] = (),
    grid: SweepGrid | None = None,
    base: TrainingConfig | None = None,
    device: str | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 10.0,
    trackers: Sequence[str] = (),
    on_progress: Callable[[SweepProgress], None] | None = None,
) -> list[SweepResult]:
    """Train every combination of a grid on the first table, on the others together, and on all.

    The same items are held out of all tables, so that models can be compared on each. A killed
    sweep resumes; `accelerate launch` spreads the models over its processes.

    Args:
        table: Embedding table, its folder, or pairs.
        output: Output folder: one subfolder per translator, `results.csv` and `report.html`.
        plus: More tables, of the same encoders.
        grid: Settings to vary; the reference's two widths and three losses if None.
        base: Settings of all models; by default the reference's recipe with early stopping.
        device: Device, such as `cpu` or `cuda`; accelerate's choice if None.
        overwrite: Replace translators with other settings in `output`.
        checkpoint_seconds: Least time between two checkpoints, in seconds.
        trackers: accelerate's trackers that log the curves too, such as `tensorboard`.
        on_progress: Called after every few thousand pairs.

    Returns:
        Results in the order of the grid, in every process.

    Raises:
        UserError: If the tables, a setting, a tracker or `output` do not fit; if all diverge.

    Examples:
        >>> import torch
        >>> from clip2clap.training import Pairs, SweepGrid, sweep
        >>> pairs = Pairs(torch.randn(99, 8), torch.randn(99, 6))
        >>> grid = SweepGrid(hidden_size=8, loss=("cosine", "mse"), epochs=1)
        >>> [result.name for result in sweep(pairs, "sweep", grid=grid, device="cpu")]
        ['pairs1-8-cosine', 'pairs1-8-mse']
    """
    grid, base = grid or SweepGrid(), base or TrainingConfig.reference(patience=10)
    _check(base)
    settings = grid.settings(base)
    folder, parts = as_path(output), read_tables([table, *plus], base)
    data_sets = make_data_sets(parts, base, {config.seed for config in settings.values()})
    accelerator = start_accelerator(device, folder, trackers)
    with sole_run(folder) if accelerator.is_main_process else nullcontext():
        accelerator.init_trackers(folder.name, config={"grid": json.dumps(grid.values)})
        models = _list_models(folder, data_sets, settings, overwrite, accelerator)
        jobs = plan_jobs(models, accelerator.num_processes)
        _train(jobs, folder, accelerator, checkpoint_seconds, on_progress)
        accelerator.wait_for_everyone()
        results = _results(models, parts, base)
        if accelerator.is_main_process:
            _write_results(folder, results, jobs, base.monitor, accelerator)
    return _checked(results)


def _list_models(
    folder: Path,
    data_sets: dict[int, list[TrainingData]],
    settings: dict[str, TrainingConfig],
    overwrite: bool,
    accelerator: "Accelerator",
) -> list[Model]:
    """Return the models, once the main process has removed old and half written output."""
    with accelerator.main_process_first():
        is_main = accelerator.is_main_process
        models = list_models(folder, data_sets, settings, overwrite=overwrite and is_main)
        for model in models if is_main else ():
            remove_leftovers(model.run.path)
    return models


def _train(
    jobs: Sequence[Sequence[Job]],
    folder: Path,
    accelerator: "Accelerator",
    checkpoint_seconds: float,
    on_progress: Callable[[SweepProgress], None] | None,
) -> None:
    """Train this process's share, and write every translator into its folder."""
    own = jobs[accelerator.process_index]
    models, work, done = sum(map(len, own)), sum(map(cost_of, own)), 0.0
    for job in own:
        cost = cost_of(job)

        def show(training: int, share: float, start: float = done, cost: float = cost) -> None:
            if on_progress is not None:
                on_progress(SweepProgress(models, training, (start + share * cost) / work))

        def log(members: Sequence[Member]) -> None:
            for member in members:
                if member.error is None:
                    log_epoch(accelerator, member.progress.history[-1], prefix=f"{member.name}/")

        data = job[0].data
        members = [Member(one.name, one.config.resolved(len(data.split.train))) for one in job]
        group = Group(data, members, accelerator.device, on_step=show, on_epoch=log)
        checkpoint = folder / _UNFINISHED / f"{key_of(job)}.safetensors"
        train_resumably(group, checkpoint, save_every_s=checkpoint_seconds)
        for model, member in zip(job, members, strict=True):
            if member.error is None:
                _publish(model, member, group)
        checkpoint.unlink(missing_ok=True)
        done += cost


def _publish(model: Model, member: Member, group: Group) -> None:
    translator, state, resumed_after = (
        group.translator(member),
        member.progress,
        group.resumed_after,
    )
    recipe = recipe_of(member.config, state, member.loss.temperatures)
    report = measure_and_report(translator, recipe, model.data, model.config, state, resumed_after)
    model.run.publish(translator, replace(report, output=str(model.run.path)))


def _results(
    models: Sequence[Model], parts: dict[str, Pairs], base: TrainingConfig
) -> list[SweepResult]:
    """Read every model's report; of several tables, measure it on the held-out pairs of each."""
    compared = parts if len(parts) > 1 else {}

    @cache
    def splits_of(seed: int) -> list[Split]:
        return split_together(list(compared.values()), validation=base.validation, seed=seed)

    results = []
    for data, name, config, run in models:
        report = run.finished()
        metrics: dict[str, dict[str, float]] = {}
        if report is not None and compared:
            translator = AutoTranslator.from_pretrained(run.path)
            splits = splits_of(config.seed)
            for (table, pairs), split in zip(compared.items(), splits, strict=True):
                rows = split.measured_rows
                predicted = predict(translator, pairs.source[rows])
                metrics[table] = retrieval_metrics(predicted, pairs.target[rows])
        results.append(SweepResult(name, data.name, report, metrics))
    return results


def _write_results(
    folder: Path,
    results: Sequence[SweepResult],
    jobs: Sequence[Sequence[Job]],
    monitor: str,
    accelerator: "Accelerator",
) -> None:
    """Write table and page, log other processes' models, and remove old checkpoints."""
    # It draws with matplotlib, which need not be in memory while models train.
    from clip2clap.training.sweep.report import write_sweep_page

    shares = [share for index, share in enumerate(jobs) if index != accelerator.process_index]
    others = {model.name for share in shares for job in share for model in job}
    for result in results:
        if result.report is not None and result.name in others:
            for record in result.report.history:
                log_epoch(accelerator, record, prefix=f"{result.name}/")
    rows = [result.row() for result in results]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (
        writing_to(folder),
        replacing(folder / RESULTS_FILE) as partial,
        partial.open("w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    write_sweep_page(folder / REPORT_FILE, results, monitor=monitor)
    for tracker in accelerator.trackers:
        tracker.finish()
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)


def _checked(results: list[SweepResult]) -> list[SweepResult]:
    if all(result.report is None for result in results):
        raise UserError(
            f"Every model of the sweep diverged ({len(results)} of {len(results)}). Give lower "
            "learning rates, and check the table for broken rows.",
            param="learning_rate",
        )
    return results


def _check(base: TrainingConfig) -> None:
    if base.architecture != "mlp" or base.init_from is not None:
        raise UserError("A sweep trains mlps from scratch: architecture='mlp', no init_from.")
