"""From a source to a table: one run, which goes on where it was stopped."""

import itertools
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from clip2clap.core.concurrency import map_ahead, read_ahead
from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.rows import Row, Source
from clip2clap.embeddings.download.downloader import ImageDownloader
from clip2clap.embeddings.extraction.merge_columns import Partner
from clip2clap.embeddings.extraction.plan import EncoderPlan, Encoders
from clip2clap.embeddings.extraction.stages import (
    Embedded,
    checked,
    downloaded,
    embedded,
    grouped,
    prepared,
)
from clip2clap.embeddings.table.format import Dtype, TableError
from clip2clap.embeddings.table.writer import TableWriter

Engine = Literal["local", "ray"]

# What was embedded is on disk after so many rows or seconds, whichever come first.
_ROWS_PER_SHARD = 4096
_SECONDS_PER_SHARD = 30.0
_MOST_WORKERS = 16


@dataclass(frozen=True)
class Progress:
    """Where a run stands."""

    rows: int
    """Rows in the table."""

    failures: int
    """Rows that failed."""


@dataclass(frozen=True)
class ExtractionReport:
    """What a run did."""

    folder: Path
    """The table."""

    rows: int
    """Rows in the table, those of earlier runs among them."""

    failures: int
    """Rows that failed; the reasons stand in `failures.parquet`."""

    new_rows: int
    """Rows that this run embedded."""

    seconds: float
    """How long this run took, without loading the models."""

    waiting_seconds: float | None
    """How long the encoders waited for rows, beyond the first batch's; not known of Ray's."""


def extract(
    source: Source,
    folder: str | Path,
    plan: EncoderPlan,
    *,
    pair_with: str | Path | None = None,
    dtype: Dtype = "float16",
    limit: int | None = None,
    downloads: Mapping[str, Any] | None = None,
    engine: Engine = "local",
    ray_address: str | None = None,
    ray_actors: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> ExtractionReport:
    """Embed a data set into a table, every row once; a run that was stopped goes on where it was.

    Reading, downloading, decoding and preprocessing go on in threads while the encoders work. Rows
    keep the order of the source. What can't be embedded stands in `failures.parquet` with the
    reason. Beside a column such as "clip_text" its "clip_text_norm" holds the length of the
    encoder's own output, before it was scaled to unit norm.

    Args:
        source: The data set; see `open_source`.
        folder: Where the table is written.
        plan: The columns to make, and the encoders that make them.
        pair_with: A table made from the same data set with other encoders. Its embeddings are taken
            over into the rows of the same id; a row that it lacks is noted as failed.
        dtype: Of the stored embeddings.
        limit: Stop after this many rows of the data set; None embeds all.
        downloads: Options of `ImageDownloader`, by name.
        engine: Where the steps run: in threads of this process, or as stages of Ray Data.
        ray_address: A Ray cluster to run on; by default one that is started on this machine.
        ray_actors: Encoders that work side by side with Ray; by default one a GPU, or two.
        on_progress: Called after every batch.

    Returns:
        What was done.

    Raises:
        UserError: If models, source, tables and options don't fit together, the folder holds
            another run's table, another run is writing to it, or the disk is full. What was
            embedded until then stays.
    """
    if limit is not None and limit < 1:
        raise UserError(f"Expected limit of at least 1, got {limit}.")
    lacking = plan.wanted - source.modalities
    if lacking:
        raise UserError(
            f"The columns {', '.join(plan.columns)} need {' and '.join(sorted(lacking))}, which "
            "the data set does not hold."
        )
    partner = None if pair_with is None else Partner(pair_with, plan.columns)
    spaces = {**plan.spaces(), **({} if partner is None else partner.spaces)}
    settings = {**source.settings, "weights": str(plan.weights_dtype).removeprefix("torch.")}
    with TableWriter(
        folder, spaces, dtype=dtype, rows_per_shard=_ROWS_PER_SHARD, settings=settings
    ) as writer:
        done, rows_before = len(writer), len(writer) - writer.failed
        left = _left(itertools.islice(iter(source), limit), done, writer)
        first = next(left, None)
        if first is None:
            return ExtractionReport(writer.folder, rows_before, writer.failed, 0, 0.0, 0.0)
        waiting = Waiting()
        if engine == "ray":
            from clip2clap.embeddings.extraction.ray_engine import embed_on_ray

            left.close()
            batches = embed_on_ray(
                partial(_rows, source, plan, done, limit, pair_with),
                plan,
                downloads or {},
                address=ray_address,
                actors=ray_actors,
            )
        else:
            encoders = plan.load()
            rows = checked(itertools.chain([first], left), plan)
            rows = rows if partner is None else partner.checked(rows)
            batches = _embed_here(rows, encoders, downloads or {}, waiting)
        start = flushed = time.monotonic()
        with closing(batches):
            for batch in batches:
                _store(batch, writer, partner)
                if time.monotonic() - flushed > _SECONDS_PER_SHARD:
                    writer.flush()
                    flushed = time.monotonic()
                if on_progress is not None:
                    on_progress(Progress(len(writer) - writer.failed, writer.failed))
        rows_now = len(writer) - writer.failed
        seconds = time.monotonic() - start
        return ExtractionReport(
            writer.folder,
            rows_now,
            writer.failed,
            rows_now - rows_before,
            seconds,
            None if engine == "ray" else waiting.seconds,
        )


def _left(rows: Iterable[Row], done: int, writer: TableWriter) -> Generator[Row]:
    """Skip the rows that an earlier run did, and make sure that they are the same."""
    rows = iter(rows)
    skipped = 0
    while skipped < done:
        batch = list(itertools.islice(rows, min(_ROWS_PER_SHARD, done - skipped)))
        if not batch:
            return  # a smaller limit than the earlier run's
        skipped += len(batch)
        for row, known in zip(batch, writer.known([row.id for row in batch]), strict=True):
            if not known:
                raise TableError(
                    f"{writer.folder} was made from other rows: {row.id!r} is not in it, though "
                    f"it stands among the first {done} of the data set. Go on with the same file, "
                    "or give another folder."
                )
    yield from rows


def _rows(
    source: Source, plan: EncoderPlan, done: int, limit: int | None, pair_with: str | Path | None
) -> Iterator[Row]:
    """Read the rows that are left, in any process."""
    rows = checked(itertools.islice(iter(source), done, limit), plan)
    return rows if pair_with is None else Partner(pair_with, plan.columns).checked(rows)


@dataclass
class Waiting:
    """Counts how long the encoders wait, in s."""

    seconds: float = 0.0


def _embed_here(
    rows: Iterable[Row], encoders: Encoders, downloads: Mapping[str, Any], waiting: Waiting
) -> Generator[Embedded]:
    """Run the steps in this process: a thread reads ahead while this one embeds."""
    workers = min(os.cpu_count() or 1, _MOST_WORKERS)
    with ExitStack() as stack:
        pool = ThreadPoolExecutor(workers, "clip2clap-preparing")
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        rows = downloaded(rows, lambda: stack.enter_context(ImageDownloader(**downloads)))
        ready = map_ahead(partial(prepared, encoders=encoders), rows, pool, ahead=2 * workers - 1)
        groups = stack.enter_context(closing(read_ahead(grouped(ready, encoders))))
        start: float | None = None
        for group in groups:
            if start is not None:
                waiting.seconds += time.monotonic() - start
            yield embedded(group, encoders)
            start = time.monotonic()


def _store(batch: Embedded, writer: TableWriter, partner: Partner | None) -> None:
    """Add a batch's rows and failures; an id that comes twice is a failure the second time."""
    seen: set[str] = set()
    kept: list[int] = []
    failures: dict[str, str] = {}

    def fail(row_id: str, reason: str) -> None:
        place = len(writer) + len(kept) + len(failures)
        failures[f"{row_id} (row {place})" if row_id in seen else row_id] = reason

    ids = [*batch.ids, *(row_id for row_id, _ in batch.failures)]
    seen.update(i for i, known in zip(ids, writer.known(ids), strict=True) if known)
    for place, row_id in enumerate(batch.ids):
        if row_id in seen:
            fail(row_id, f"the id {row_id!r} has come before")
        else:
            seen.add(row_id)
            kept.append(place)
    for row_id, reason in batch.failures:
        fail(row_id, reason)
        seen.add(row_id)
    ids = [batch.ids[place] for place in kept]
    columns: dict[str, Sequence[Any]] = {
        name: [values[at] for at in kept] for name, values in batch.columns.items()
    }
    embeds = {name: values[kept] for name, values in batch.embeds.items()}
    if partner is not None:
        joined, norms = partner.columns(ids)
        embeds |= joined
        columns |= norms
    writer.append(ids, columns, embeds, failures=failures)
