"""Train many translators on one or several tables, together where they share their batches."""

import csv
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from accelerate.tracking import get_available_trackers
from safetensors import safe_open
from safetensors.torch import save_file

from clip2clap.core.errors import UserError
from clip2clap.core.files import replacing
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.metrics.retrieval import retrieval_metrics
from clip2clap.training.config import TrainingConfig
from clip2clap.training.loss_names import DEFAULT_TEMPERATURES, parse_loss
from clip2clap.training.pairs import Pairs, Split, join_pairs, read_pairs, split_together, thin_out
from clip2clap.training.report import SweepResult, TrainingReport
from clip2clap.training.run_folder import RunFolder
from clip2clap.training.sweep.stacked import Group, Member
from clip2clap.training.trainer import finish, recipe_of
from clip2clap.translator.auto import AutoTranslator

RESULTS_FILE = "results.csv"
REPORT_FILE = "report.html"
_UNFINISHED = "unfinished"
_TRACKING = "tracking"

# One process may have to wait for the others as long as these train.
_LONGEST_WAIT = timedelta(days=30)


@dataclass(frozen=True)
class SweepGrid:
    """What is varied: every combination is trained on every data set."""

    hidden_size: tuple[int, ...] = (256, 512)
    """Widths of the hidden layers."""

    loss: tuple[str, ...] = ("cosine", "mse", "contrastive")
    """Losses, or weighted sums of losses."""

    learning_rate: tuple[float, ...] = (1e-3,)
    """Adam's."""

    batch_size: tuple[int, ...] = (64,)
    """Pairs a step."""

    temperature: tuple[float | None, ...] = (None,)
    """Of the losses that have one; None is their default, 0.5 for `contrastive`."""

    epochs: tuple[int, ...] = (50,)
    """At most so many."""

    seeds: tuple[int, ...] = (0,)
    """Of the weights, the order and the split."""

    noise: tuple[float, ...] = (0.0,)
    """Deviation of the noise on the source."""

    center: tuple[bool, ...] = (False,)
    """Whether each side's mean is taken off."""

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            if not values:
                raise UserError(f"Expected at least one value of {name}, got none.")
            if len(set(values)) < len(values):
                raise UserError(f"A value of {name} is given twice: {values}.")

    def settings(self, base: TrainingConfig) -> dict[str, TrainingConfig]:
        """Give the settings of every combination by its name, which says what differs.

        Args:
            base: What they have in common.

        Raises:
            UserError: If a setting makes no sense.
        """
        names = {"seeds": "seed"}
        keys = [names.get(key, key) for key in asdict(self)]
        found: dict[str, TrainingConfig] = {}
        for values in itertools.product(*asdict(self).values()):
            chosen = dict(zip(keys, values, strict=True))
            if not any(term in DEFAULT_TEMPERATURES for term in parse_loss(chosen["loss"])):
                chosen["temperature"] = None
            found[self._name(chosen)] = replace(base, **chosen)
        return found

    def _name(self, chosen: dict[str, Any]) -> str:
        marks = [str(chosen["hidden_size"]), chosen["loss"].replace(":", "")]
        for key, values, mark in (
            ("learning_rate", self.learning_rate, "lr"),
            ("batch_size", self.batch_size, "batch"),
            ("temperature", self.temperature, "temperature"),
            ("epochs", self.epochs, "epochs"),
            ("noise", self.noise, "noise"),
            ("seed", self.seeds, "seed"),
        ):
            if len(values) > 1 and chosen[key] is not None:
                marks.append(f"{mark}{chosen[key]:g}")
        if len(self.center) > 1 and chosen["center"]:
            marks.append("centered")
        return "-".join(marks)


@dataclass(frozen=True)
class SweepProgress:
    """How far this process is, for a progress bar."""

    models: int
    """Models this process trains in all."""

    training: int
    """Models that are training now."""

    done: float
    """Share of the work that is done, from 0 to 1; models that stop early make it jump."""


@dataclass(frozen=True)
class _DataSet:
    """Some of the tables, with what is held out of them for one seed."""

    name: str
    pairs: Pairs
    split: Split
    fingerprint: str


@dataclass
class _Job:
    """Models that one process trains together."""

    data: _DataSet
    members: list[Member]
    settings: dict[str, TrainingConfig]

    @property
    def cost(self) -> float:
        dims = sum((self.data.pairs.source.shape[1], self.data.pairs.target.shape[1]))
        return len(self.data.split.train) * sum(
            member.config.epochs * member.config.hidden_size * (dims + member.config.hidden_size)
            for member in self.members
        )

    @property
    def key(self) -> str:
        settings = {name: asdict(config) for name, config in self.settings.items()}
        text = json.dumps([self.data.fingerprint, settings], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def halves(self) -> "list[_Job]":
        middle = len(self.members) // 2
        return [
            _Job(self.data, part, {member.name: self.settings[member.name] for member in part})
            for part in (self.members[:middle], self.members[middle:])
        ]


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

    Rows of one item are held out together, whichever table they stand in, so that all models of a
    seed can be compared on every table's held-out pairs. A sweep that was killed goes on where its
    last checkpoint stands. Under `accelerate launch` the models are spread over the processes.

    Args:
        table: An embedding table or its folder; or pairs.
        output: A folder that gets one folder a translator, `results.csv` and `report.html`.
        plus: More tables, of the same encoders.
        grid: What is varied; by default the reference's two widths and three losses.
        base: What all have in common; by default the reference's recipe with early stopping.
        device: Such as `cpu` or `cuda`; accelerate's choice if None.
        overwrite: Whether translators with other settings in `output` may be replaced.
        checkpoint_seconds: How often the state is written, at the end of an epoch.
        trackers: Where curves are logged too, by accelerate's names, such as `tensorboard`.
        on_progress: Called after every step.

    Returns:
        The results, in the order of the grid; under `accelerate launch` in every process.

    Raises:
        UserError: If a table can't be read or split, the tables' encoders differ, a vector is zero
            or not finite, a setting makes no sense, a tracker isn't installed, or `output` holds
            something else.
    """
    grid = grid or SweepGrid()
    base = base or TrainingConfig.reference(patience=10)
    if base.architecture != "mlp" or base.init_from is not None:
        raise UserError("A sweep trains perceptrons from the start: model mlp, no init_from.")
    settings = grid.settings(base)
    _check_trackers(trackers)
    folder = Path(output).expanduser()
    parts = _read([table, *plus], base)
    data_sets = {seed: _data_sets(parts, base, seed) for seed in grid.seeds}
    accelerator = Accelerator(
        cpu=device == "cpu",
        log_with=list(trackers) or None,
        project_dir=folder / _TRACKING if trackers else None,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=_LONGEST_WAIT)],
    )
    if device is not None and accelerator.device.type != torch.device(device).type:
        raise UserError(
            f"Asked to train on {device}, but this machine offers {accelerator.device.type}."
        )
    if accelerator.is_main_process:
        # What may not be there is found, and what is to go removed, before anything is trained.
        list(_folders(folder, data_sets, settings, overwrite))
    accelerator.wait_for_everyone()
    jobs = _jobs(
        [
            (data, name, config)
            for data, name, config, run in _folders(folder, data_sets, settings, False)
            if run.finished() is None
        ],
        accelerator.num_processes,
    )
    if trackers:
        accelerator.init_trackers(folder.name, config={"grid": json.dumps(asdict(grid))})
    mine = jobs[accelerator.process_index]
    _train(mine, folder, accelerator, checkpoint_seconds, on_progress)
    accelerator.wait_for_everyone()
    results = _results(folder, parts, data_sets, settings, base)
    if accelerator.is_main_process:
        # It draws with matplotlib, which is not wanted in memory while models train.
        from clip2clap.training.sweep.report import write_sweep_page

        own = {member.name for job in mine for member in job.members}
        others = {member.name for share in jobs for job in share for member in job.members} - own
        for result in results:
            if result.report is not None and result.name in others:
                _log_history(accelerator, result.name, result.report)
        _write_csv(folder / RESULTS_FILE, [result.row() for result in results])
        write_sweep_page(folder / REPORT_FILE, results, monitor=base.monitor)
        _remove(folder / _UNFINISHED)
    for tracker in accelerator.trackers:
        tracker.finish()
    return results


def _read(
    tables: Sequence[str | Path | EmbeddingTable | Pairs], base: TrainingConfig
) -> dict[str, Pairs]:
    """Read all tables, and give them names that differ."""
    parts: dict[str, Pairs] = {}
    for number, table in enumerate(tables):
        if isinstance(table, Pairs):
            name, pairs = f"pairs{number + 1}", table
        else:
            place = table.folder if isinstance(table, EmbeddingTable) else Path(table)
            name, pairs = place.expanduser().resolve().name, read_pairs(table, base)
        parts[name if name not in parts else f"{name}{number + 1}"] = pairs
    join_pairs(list(parts.values()))
    return parts


def _data_sets(parts: dict[str, Pairs], base: TrainingConfig, seed: int) -> list[_DataSet]:
    """Give the first table, the others together, and all, with what is held out of them."""
    splits = dict(
        zip(
            parts,
            split_together(list(parts.values()), validation=base.validation, seed=seed),
            strict=True,
        )
    )
    first, *others = parts
    chosen = {first: [first]}
    if others:
        chosen |= {"+".join(others): others, "all": [first, *others]}
    return [
        _data_set(name, {key: parts[key] for key in keys}, [splits[key] for key in keys])
        for name, keys in chosen.items()
    ]


def _data_set(name: str, parts: dict[str, Pairs], splits: Sequence[Split]) -> _DataSet:
    pairs = join_pairs(list(parts.values()))
    starts = [0, *itertools.accumulate(len(part) for part in parts.values())]
    split = Split(
        **{
            side: torch.cat(
                [getattr(one, side) + start for one, start in zip(splits, starts, strict=False)]
            )
            for side in ("train", "validation", "test")
        }
    )
    digest = hashlib.blake2b(pairs.fingerprint().encode(), digest_size=8)
    for rows in vars(split).values():
        digest.update(rows.numpy().tobytes())
    return _DataSet(name, pairs, split, digest.hexdigest())


def _folders(
    folder: Path,
    data_sets: dict[int, list[_DataSet]],
    settings: dict[str, TrainingConfig],
    overwrite: bool,
) -> Iterator[tuple[_DataSet, str, TrainingConfig, RunFolder]]:
    """Give every model with its data, its name and its folder."""
    for number in range(len(next(iter(data_sets.values())))):
        for mark, config in settings.items():
            data = data_sets[config.seed][number]
            name = f"{data.name}-{mark}"
            run = RunFolder(
                folder / name,
                settings=asdict(config),
                data=data.fingerprint,
                overwrite=overwrite,
            )
            yield data, name, config, run


def _jobs(todo: Sequence[tuple[_DataSet, str, TrainingConfig]], processes: int) -> list[list[_Job]]:
    """Put models that share their batches together, and give each process its share of the work."""
    groups: dict[tuple[Any, ...], _Job] = {}
    for data, name, config in todo:
        settled = config.resolved(len(data.split.train))
        key = (data.fingerprint, config.seed, settled.batch_size)
        job = groups.setdefault(key, _Job(data, [], {}))
        job.members.append(Member(name, settled))
        job.settings[name] = config
    jobs = list(groups.values())
    while 0 < len(jobs) < processes and any(len(job.members) > 1 for job in jobs):
        largest = max((job for job in jobs if len(job.members) > 1), key=lambda job: job.cost)
        jobs.remove(largest)
        jobs += largest.halves()
    shares: list[list[_Job]] = [[] for _ in range(processes)]
    for job in sorted(jobs, key=lambda job: -job.cost):
        min(shares, key=lambda share: sum(other.cost for other in share)).append(job)
    return shares


def _train(
    jobs: Sequence[_Job],
    folder: Path,
    accelerator: Accelerator,
    checkpoint_seconds: float,
    on_progress: Callable[[SweepProgress], None] | None,
) -> None:
    """Train this process's share, and write every translator into its folder."""
    models = sum(len(job.members) for job in jobs)
    work = sum(job.cost for job in jobs)
    done = 0.0
    for job in jobs:

        def show(training: int, share: float, start: float = done, cost: float = job.cost) -> None:
            if on_progress is not None:
                on_progress(SweepProgress(models, training, (start + share * cost) / work))

        _train_job(job, folder, accelerator, checkpoint_seconds, show)
        done += job.cost


def _train_job(
    job: _Job,
    folder: Path,
    accelerator: Accelerator,
    checkpoint_seconds: float,
    show: Callable[[int, float], None],
) -> None:
    """Train models together; `show` is told how many go on, and what share of epochs is done."""
    group = Group(job.data.pairs, job.data.split, job.members, accelerator.device)
    checkpoint = folder / _UNFINISHED / f"{job.key}.safetensors"
    resumed_after = _load(checkpoint, group)
    written = time.monotonic()
    epochs = max(member.config.epochs for member in job.members)
    while not group.is_over:
        going = [member for stack in group.stacks for member in stack.members]
        before = len(going[0].course.history)

        def on_step(
            step: int, steps: int, going: Sequence[Member] = going, before: int = before
        ) -> None:
            show(len(going), (before + step / steps) / epochs)

        group.epoch(on_step)
        for member in going:
            if member.error is None:
                _log_epoch(accelerator, member.name, asdict(member.course.history[-1]))
        if time.monotonic() - written >= checkpoint_seconds:
            _save(checkpoint, group)
            written = time.monotonic()
    # Written before the first translator is, so that a kill in between repeats no epoch.
    _save(checkpoint, group)
    for member in job.members:
        if member.error is None:
            _publish(member, group, job, folder / member.name, resumed_after)
    checkpoint.unlink()


def _publish(
    member: Member, group: Group, job: _Job, folder: Path, resumed_after: int | None
) -> None:
    config = job.settings[member.name]
    run = RunFolder(folder, settings=asdict(config), data=job.data.fingerprint, overwrite=False)
    translator = group.translator(member)
    report = finish(
        translator,
        recipe_of(member.config, member.course, member.loss.temperatures),
        job.data.pairs,
        job.data.split,
        config,
        data=job.data.fingerprint,
        course=member.course,
        output=folder,
        resumed_after=resumed_after,
        seconds=member.course.seconds,
    )
    run.publish(translator, report)


def _load(checkpoint: Path, group: Group) -> int | None:
    """Take up a group where its checkpoint stands; give the epoch it stands after."""
    if not checkpoint.exists():
        return None
    with safe_open(checkpoint, framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        group.restore(tensors, json.loads(file.metadata()["state"]))
    return max(len(member.course.history) for member in group.members)


def _save(checkpoint: Path, group: Group) -> None:
    checkpoint.parent.mkdir(exist_ok=True)
    tensors, plain = group.state()
    with replacing(checkpoint) as partial:
        save_file(
            {name: tensor.contiguous() for name, tensor in tensors.items()},
            partial,
            metadata={"state": json.dumps(plain)},
        )


def _remove(folder: Path) -> None:
    """Remove the checkpoints of jobs that were put together otherwise, as for other processes."""
    for file in folder.glob("*.safetensors"):
        file.unlink()
    if folder.is_dir():
        folder.rmdir()


def _results(
    folder: Path,
    parts: dict[str, Pairs],
    data_sets: dict[int, list[_DataSet]],
    settings: dict[str, TrainingConfig],
    base: TrainingConfig,
) -> list[SweepResult]:
    """Read what every model's folder holds, and measure it on every table's held-out pairs."""
    held_out = {
        seed: {
            name: (pairs, thin_out(split.test if len(split.test) else split.validation))
            for (name, pairs), split in zip(
                parts.items(),
                split_together(list(parts.values()), validation=base.validation, seed=seed),
                strict=True,
            )
        }
        for seed in data_sets
    }
    results = []
    for data, name, config, run in _folders(folder, data_sets, settings, False):
        report = run.finished()
        figures: dict[str, dict[str, float]] = {}
        if report is not None and len(parts) > 1:
            translator = AutoTranslator.from_pretrained(folder / name)
            with torch.no_grad():
                figures = {
                    table: retrieval_metrics(translator(pairs.source[rows]), pairs.target[rows])
                    for table, (pairs, rows) in held_out[config.seed].items()
                }
        results.append(SweepResult(name, data.name, report, figures))
    return results


def _write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _check_trackers(trackers: Sequence[str]) -> None:
    available = [str(name) for name in get_available_trackers()]
    for name in trackers:
        if name not in available:
            raise UserError(
                f"The tracker {name!r} isn't installed, or accelerate doesn't know it; there is "
                f"{', '.join(available) or 'none'}. Install it, as with `pip install {name}`."
            )


def _log_history(accelerator: Accelerator, name: str, report: TrainingReport) -> None:
    for record in report.history:
        _log_epoch(accelerator, name, asdict(record))


def _log_epoch(accelerator: Accelerator, name: str, record: dict[str, Any]) -> None:
    values = {
        "train_loss": record["train_loss"],
        "validation_loss": record["validation_loss"],
        **record["validation"],
    }
    accelerator.log(
        {f"{name}/{figure}": value for figure, value in values.items()}, step=record["epoch"]
    )
