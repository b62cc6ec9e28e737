"""Data sets and jobs of a sweep: models that share their batches, spread over processes."""

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.training.config import TrainingConfig
from clip2clap.training.pairs import Pairs, join_pairs, read_pairs
from clip2clap.training.run_folder import RunFolder
from clip2clap.training.splits import Split, split_together
from clip2clap.training.sweep.group import Member


@dataclass(frozen=True)
class DataSet:
    """Pairs of some of the tables, with their split for one seed."""

    name: str
    """Names of the tables, joined, or `all`."""

    pairs: Pairs
    """All pairs."""

    split: Split
    """Their split."""

    data: str
    """Fingerprint of pairs and split."""


@dataclass
class Job:
    """Models that one process trains together."""

    data: DataSet
    """Data set of the models."""

    members: list[Member]
    """The models."""

    settings: dict[str, TrainingConfig]
    """Settings of each model as given, by its name."""

    @property
    def cost(self) -> float:
        """Work in multiply-adds, up to a factor."""
        dims = sum((self.data.pairs.source.shape[1], self.data.pairs.target.shape[1]))
        return len(self.data.split.train) * sum(
            config.epochs * config.hidden_size * (dims + config.hidden_size)
            for config in (member.config for member in self.members)
        )

    @property
    def key(self) -> str:
        """Hash of data and settings, for the name of the checkpoint."""
        settings = {name: asdict(config) for name, config in self.settings.items()}
        text = json.dumps([self.data.data, settings], sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def halves(self) -> "list[Job]":
        """Return two jobs with half of the models each."""
        middle = len(self.members) // 2
        return [
            Job(self.data, part, {member.name: self.settings[member.name] for member in part})
            for part in (self.members[:middle], self.members[middle:])
        ]


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
            name, pairs = place.expanduser().resolve().name, read_pairs(table, base)
        parts[name if name not in parts else f"{name}{number + 1}"] = pairs
    join_pairs(list(parts.values()))
    return parts


def make_data_sets(parts: dict[str, Pairs], base: TrainingConfig, seed: int) -> list[DataSet]:
    """Return the first table, the others together, and all, each with its split."""
    splits = split_together(list(parts.values()), validation=base.validation, seed=seed)
    by_name = dict(zip(parts, splits, strict=True))
    first, *others = parts
    chosen = {first: [first]}
    if others:
        chosen |= {"+".join(others): others, "all": [first, *others]}
    return [
        _join(name, [parts[key] for key in keys], [by_name[key] for key in keys])
        for name, keys in chosen.items()
    ]


def _join(name: str, parts: Sequence[Pairs], splits: Sequence[Split]) -> DataSet:
    pairs = join_pairs(parts)
    starts = [0, *itertools.accumulate(len(part) for part in parts)]
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
    return DataSet(name, pairs, split, digest.hexdigest())


def list_models(
    folder: Path,
    data_sets: dict[int, list[DataSet]],
    settings: dict[str, TrainingConfig],
    overwrite: bool,
) -> Iterator[tuple[DataSet, str, TrainingConfig, RunFolder]]:
    """Yield every model with its data, name, settings and folder.

    Raises:
        UserError: If a folder holds something else, and `overwrite` is False.
    """
    for number in range(len(next(iter(data_sets.values())))):
        for mark, config in settings.items():
            data = data_sets[config.seed][number]
            name = f"{data.name}-{mark}"
            run = RunFolder(
                folder / name, settings=asdict(config), data=data.data, overwrite=overwrite
            )
            yield data, name, config, run


def plan_jobs(
    todo: Sequence[tuple[DataSet, str, TrainingConfig]], processes: int
) -> list[list[Job]]:
    """Group models that share their batches, and give each process its share of the work."""
    groups: dict[tuple[Any, ...], Job] = {}
    for data, name, config in todo:
        resolved = config.resolved(len(data.split.train))
        key = (data.data, config.seed, resolved.batch_size)
        job = groups.setdefault(key, Job(data, [], {}))
        job.members.append(Member(name, resolved))
        job.settings[name] = config
    jobs = list(groups.values())
    while 0 < len(jobs) < processes and any(len(job.members) > 1 for job in jobs):
        largest = max((job for job in jobs if len(job.members) > 1), key=lambda job: job.cost)
        jobs.remove(largest)
        jobs += largest.halves()
    shares: list[list[Job]] = [[] for _ in range(processes)]
    for job in sorted(jobs, key=lambda job: -job.cost):
        min(shares, key=lambda share: sum(other.cost for other in share)).append(job)
    return shares
