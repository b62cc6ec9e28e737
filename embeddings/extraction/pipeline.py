"""Extraction of embeddings from a data set into a table, resumable after a killed run."""

import itertools
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.actors import RayConfig
from clip2clap.core.concurrency import map_ahead, read_ahead
from clip2clap.core.errors import UserError, expect
from clip2clap.embeddings.datasets.base import Row, Source
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.extraction.plan import EncoderPlan, Encoders
from clip2clap.embeddings.extraction.stages import (
    EmbeddedGroup,
    check_rows,
    download_images,
    embed_group,
    group_rows,
    preprocess_row,
)
from clip2clap.embeddings.table.format import Dtype, TableError
from clip2clap.embeddings.table.ids import hash_ids
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter

_MAX_WORKERS = 16
_SKIPPED_ROWS = 4096


@dataclass(frozen=True)
class ExtractionReport:
    """Outcome of an extraction."""

    folder: Path
    """Folder of the table."""

    rows: int
    """Rows in the table, including those of earlier runs."""

    failures: int
    """Rows that failed; `failures.parquet` has the reasons."""

    new_rows: int
    """Rows that this run embedded."""

    seconds: float
    """Duration of this run, without loading the models."""

    waiting_seconds: float | None
    """Time that the encoders waited for rows after the first batch; None with Ray."""


class ColumnMerger:
    """Table whose embedding columns are merged into a new one by id, with 16 bytes per row.

    A `UserError` if it has one of the columns that the new table computes itself.
    """

    def __init__(self, folder: str | Path, columns: Sequence[str]):
        self._table = EmbeddingTable.open(folder)
        self.spaces = self._table.spaces
        double = sorted(set(columns) & set(self.spaces))
        if double:
            raise UserError(
                f"{folder} has {' and '.join(double)} already: pair the embeddings of a CLIP with "
                "those of a CLAP.",
                param="pair_with",
            )
        chunks = (hash_ids(chunk.to_pylist()) for chunk in self._table.data["id"].chunks)
        hashes = np.concatenate([np.zeros(0, np.int64), *chunks])
        self._order = hashes.argsort(kind="stable")
        self._hashes = hashes[self._order]
        self._vectors = {name: self._table.tensor(name) for name in self.spaces}
        norms = (f"{name}_norm" for name in self.spaces)
        self._norms = [name for name in norms if name in self._table.sources]

    def _index(self, row_id: str) -> int | None:
        at = int(self._hashes.searchsorted(hash(row_id)))
        if at == len(self._hashes) or self._hashes[at] != hash(row_id):
            return None
        return int(self._order[at])

    def check(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows, with a problem if the table lacks the row or has another caption."""
        for row in rows:
            problem = row.problem or self._problem(row)
            yield row if problem is None else replace(row, problem=problem)

    def _problem(self, row: Row) -> str | None:
        index = self._index(row.id)
        if index is None:
            return f"not in {self._table.folder}"
        if "caption" in self._table.sources and "caption" in row.columns:
            caption = self._table.data["caption"][index].as_py()
            if caption != row.columns["caption"]:
                return f"another caption in {self._table.folder}"
        return None

    def columns(self, ids: Sequence[str]) -> tuple[dict[str, Tensor], Mapping[str, Sequence[Any]]]:
        """Return the rows' embeddings and norms by column."""
        indices = torch.tensor([self._index(row_id) for row_id in ids], dtype=torch.long)
        embeds = {name: vectors[indices] for name, vectors in self._vectors.items()}
        data = self._table.data
        norms = {name: data[name].take(indices.numpy()).to_pylist() for name in self._norms}
        return embeds, norms


def extract(
    source: Source,
    folder: str | Path,
    plan: EncoderPlan,
    *,
    pair_with: str | Path | None = None,
    dtype: Dtype = "float16",
    limit: int | None = None,
    download: DownloadConfig | None = None,
    ray: RayConfig | None = None,
    rows_per_shard: int = 4096,
    seconds_per_shard: float = 30.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> ExtractionReport:
    """Embed a data set into a table; a run that was stopped continues where it was.

    Rows keep the order of the source; `failures.parquet` has those that could not be embedded, with
    the reason. A column `clip_text_norm` holds the norm of the encoder's output before it was
    scaled to unit norm.

    Examples:
        >>> from clip2clap.embeddings import extract, open_source
        >>> from clip2clap.embeddings.extraction.plan import EncoderPlan
        >>> plan = EncoderPlan(("clip_image",), clip="demo")
        >>> source = open_source(["photos"], wanted=plan.wanted, format="folder")
        >>> report = extract(source, "images", plan)
        >>> report.rows, report.failures
        (3, 0)

    Args:
        source: Data set; see `open_source`.
        folder: Folder of the table.
        plan: Embedding columns and their encoders.
        pair_with: Table of the same data set from other encoders, whose columns are merged.
        dtype: Dtype of the stored embeddings.
        limit: Rows of the data set to embed; None for all.
        download: Options of image downloads.
        ray: Cluster to run on; None runs in threads of this process.
        rows_per_shard: Rows after which a shard is written.
        seconds_per_shard: Seconds after which a shard is written.
        on_progress: Called after every batch, with the numbers of rows and of failures.

    Raises:
        UserError: If models, source, table and options do not fit together, another run writes to
            the folder, or the disk is full. Rows embedded until then stay.
    """
    _check_inputs(source, plan, limit)
    merger = None if pair_with is None else ColumnMerger(pair_with, plan.columns)
    spaces = {**plan.spaces(), **({} if merger is None else merger.spaces)}
    settings = {**source.settings, "weights": str(plan.weights_dtype).removeprefix("torch.")}
    options: dict[str, Any] = {"dtype": dtype, "rows_per_shard": rows_per_shard}
    with TableWriter(folder, spaces, settings=settings, **options) as writer:
        rows = check_rows(skip_done(itertools.islice(source, limit), writer), plan)
        rows = rows if merger is None else merger.check(rows)
        store = partial(_store, writer, merger, seconds_per_shard, on_progress)
        return _run(rows, plan, writer, download or DownloadConfig(), ray, store)


def _check_inputs(source: Source, plan: EncoderPlan, limit: int | None) -> None:
    expect(limit is None or limit > 0, "limit", "at least 1", limit)
    lacking = plan.wanted - source.modalities
    if lacking:
        raise UserError(
            f"The columns {', '.join(plan.columns)} need {' and '.join(sorted(lacking))}, which "
            "the data set does not hold."
        )


def _run(
    rows: Iterator[Row],
    plan: EncoderPlan,
    writer: TableWriter,
    download: DownloadConfig,
    ray: RayConfig | None,
    store: Callable[[Generator[EmbeddedGroup]], None],
) -> ExtractionReport:
    before = len(writer) - writer.failed
    seconds, waits = 0.0, []
    if (first := next(rows, None)) is not None:
        rows = itertools.chain([first], rows)
        if ray is None:
            groups = _embed_locally(rows, plan.load(), download, waits)
        else:
            from clip2clap.embeddings.extraction.ray_engine import embed_on_ray

            groups = embed_on_ray(rows, plan, download, ray)
        start = time.monotonic()
        store(groups)
        seconds = time.monotonic() - start
    total, waiting = len(writer) - writer.failed, sum(waits) if ray is None else None
    return ExtractionReport(writer.folder, total, writer.failed, total - before, seconds, waiting)


def _embed_locally(
    rows: Iterable[Row], encoders: Encoders, download: DownloadConfig, waits: list[float]
) -> Generator[EmbeddedGroup]:
    """Run the stages in this process: threads read ahead while the encoders work.

    The seconds that the encoders wait for each group but the first are appended to `waits`.
    """
    workers = min(os.cpu_count() or 1, _MAX_WORKERS)
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(workers, "clip2clap-preprocessing")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        rows = download_images(rows, download, stack)
        preprocess = partial(preprocess_row, encoders=encoders)
        ready = map_ahead(preprocess, rows, pool, ahead=2 * workers - 1)
        groups = stack.enter_context(closing(read_ahead(group_rows(ready, encoders))))
        start = None
        for group in groups:
            if start is not None:
                waits.append(time.monotonic() - start)
            yield embed_group(group, encoders)
            start = time.monotonic()


def skip_done(rows: Iterator[Row], writer: TableWriter) -> Iterator[Row]:
    """Yield the rows after those of earlier runs; raise if the rows before are not in the table."""
    done, skipped = len(writer), 0
    while skipped < done:
        batch = list(itertools.islice(rows, min(_SKIPPED_ROWS, done - skipped)))
        if not batch:
            return  # the limit is smaller than an earlier run's
        skipped += len(batch)
        for row, known in zip(batch, writer.known([row.id for row in batch]), strict=True):
            if not known:
                raise TableError(
                    f"{writer.folder} was made from other rows: it lacks {row.id!r}, one of the "
                    f"first {done} of the data set. Continue with the same data set, or give "
                    "another folder."
                )
    yield from rows


def _store(
    writer: TableWriter,
    merger: ColumnMerger | None,
    seconds_per_shard: float,
    on_progress: Callable[[int, int], None] | None,
    groups: Generator[EmbeddedGroup],
) -> None:
    flushed = time.monotonic()
    with closing(groups):
        for group in groups:
            _store_group(group, writer, merger)
            if time.monotonic() - flushed > seconds_per_shard:
                writer.flush()
                flushed = time.monotonic()
            if on_progress is not None:
                on_progress(len(writer) - writer.failed, writer.failed)


def _store_group(group: EmbeddedGroup, writer: TableWriter, merger: ColumnMerger | None) -> None:
    """Append a group's rows and failures; a repeated id becomes a failure."""
    seen: set[str] = set()
    kept: list[int] = []
    failures: dict[str, str] = {}

    def fail(row_id: str, reason: str) -> None:
        index = len(writer) + len(kept) + len(failures)
        failures[f"{row_id} (row {index})" if row_id in seen else row_id] = reason

    ids = [*group.ids, *(row_id for row_id, _ in group.failures)]
    seen.update(i for i, known in zip(ids, writer.known(ids), strict=True) if known)
    for index, row_id in enumerate(group.ids):
        if row_id in seen:
            fail(row_id, f"the id {row_id!r} is repeated")
        else:
            seen.add(row_id)
            kept.append(index)
    for row_id, reason in group.failures:
        fail(row_id, reason)
        seen.add(row_id)
    ids = [group.ids[index] for index in kept]
    columns: dict[str, Sequence[Any]] = {
        name: [values[index] for index in kept] for name, values in group.columns.items()
    }
    embeds = {name: values[kept] for name, values in group.embeds.items()}
    if merger is not None:
        merged, norms = merger.columns(ids)
        embeds |= merged
        columns |= norms
    writer.append(ids, columns, embeds, failures=failures)
