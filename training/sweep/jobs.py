"""Data sets and jobs of a sweep: models that share their batches, spread over processes."""

import hashlib
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch

from clip2clap.core.files import as_path
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs, join_pairs, read_pairs
from clip2clap.training.run_folder import RunFolder
from clip2clap.training.splits import Split, TrainingData, split_together


class Model(NamedTuple):
    """Model of a sweep: its settings are as given, not resolved."""

    data: TrainingData
    name: str
    config: TrainingConfig
    run: RunFolder


Job = list[Model]
"""Models of one data set that one process trains together."""


def cost_of(job: Job) -> float:
    """Return the work of a job in multiply-adds, up to a factor."""
    pairs, rows = job[0].data.pairs, len(job[0].data.split.train)
    dims = pairs.source.shape[1] + pairs.target.shape[1]
    configs = (model.config for model in job)
    return rows * sum(own.epochs * own.hidden_size * (dims + own.hidden_size) for own in configs)


def key_of(job: Job) -> str:
    """Return a hash of data and settings, for the name of the checkpoint."""
    settings = {model.name: asdict(model.config) for model in job}
    text = json.dumps([job[0].data.fingerprint, settings], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_tables(
    tables: Sequence[str | Path | EmbeddingTable | Pairs], base: TrainingConfig
) -> dict[str, Pairs]:
    """Read all tables, by unique names.

    Raises:
        UserError: If one cannot be read, or their spaces differ.
    """
    parts: dict[str, Pairs] = {}
    for number, table in enumerate(tables):
        if isinstance(table, Pairs):
            name, pairs = f"pairs{number + 1}", table
        else:
            place = table.folder if isinstance(table, EmbeddingTable) else Path(table)
            name, pairs = as_path(place).resolve().name, read_pairs(table, base)
        parts[name if name not in parts else f"{name}{number + 1}"] = pairs
    join_pairs(list(parts.values()))
    return parts


def make_data_sets(
    parts: dict[str, Pairs], base: TrainingConfig, seeds: Iterable[int]
) -> dict[int, list[TrainingData]]:
    """Return the first table, the others together, and all, each with its split, by seed."""
    first, *others = parts
    chosen = {first: [first]}
    if others:
        chosen |= {"+".join(others): others, "all": [first, *others]}
    data_sets = {}
    for seed in seeds:
        splits = split_together(list(parts.values()), validation=base.validation, seed=seed)
        by_name = dict(zip(parts, splits, strict=True))
        data_sets[seed] = [
            _join(name, [parts[key] for key in keys], [by_name[key] for key in keys])
            for name, keys in chosen.items()
        ]
    return data_sets


def _join(name: str, parts: Sequence[Pairs], splits: Sequence[Split]) -> TrainingData:
    pairs = join_pairs(parts)
    starts = [0, *itertools.accumulate(len(part) for part in parts)]
    moved = [
        {side: rows + start for side, rows in vars(one).items()}
        for one, start in zip(splits, starts, strict=False)
    ]
    split = Split(**{side: torch.cat([one[side] for one in moved]) for side in moved[0]})
    digest = hashlib.blake2b(pairs.fingerprint().encode(), digest_size=8)
    for rows in vars(split).values():
        digest.update(rows.numpy().tobytes())
    return TrainingData(pairs, split, digest.hexdigest(), name)


def list_models(
    folder: Path,
    data_sets: dict[int, list[TrainingData]],
    settings: dict[str, TrainingConfig],
    *,
    overwrite: bool = False,
) -> list[Model]:
    """Return every model.

    Raises:
        UserError: If a folder holds something else, and `overwrite` is False.
    """
    models = []
    for number in range(len(next(iter(data_sets.values())))):
        for mark, config in settings.items():
            data = data_sets[config.seed][number]
            name = f"{data.name}-{mark}"
            run = RunFolder(folder / name, config, data.fingerprint, overwrite=overwrite)
            models.append(Model(data, name, config, run))
    return models


def plan_jobs(models: Sequence[Model], processes: int) -> list[list[Job]]:
    """Group unfinished models that share batches, and give each process its share of the work."""
    groups: dict[tuple[Any, ...], Job] = {}
    for model in models:
        if not model.run.finished():
            batch_size = model.config.resolved(len(model.data.split.train)).batch_size
            key = (model.data.fingerprint, model.config.seed, batch_size)
            groups.setdefault(key, []).append(model)
    jobs = list(groups.values())
    while 0 < len(jobs) < processes and any(len(job) > 1 for job in jobs):
        largest = max((job for job in jobs if len(job) > 1), key=cost_of)
        jobs.remove(largest)
        middle = len(largest) // 2
        jobs += [largest[:middle], largest[middle:]]
    shares: list[list[Job]] = [[] for _ in range(processes)]
    for job in sorted(jobs, key=cost_of, reverse=True):
        min(shares, key=lambda share: sum(map(cost_of, share))).append(job)
    return shares
