"""The steps from rows to embeddings, which every engine runs: open, prepare, embed."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.datasets.rows import Row, Url, problem_of
from clip2clap.embeddings.download.downloader import ImageDownloader
from clip2clap.embeddings.encoders.base import Preprocessed
from clip2clap.embeddings.extraction.plan import Column, EncoderPlan, Encoders, modality_of
from clip2clap.media.audio import load_audio
from clip2clap.media.images import load_image

# Captions alone are sorted by length over this many batches, so that little is padded.
_TEXT_BATCHES = 8
# So many rows in a row without a full batch are put away as they are: failures alone.
_MOST_FAILURES = 8


@dataclass(frozen=True)
class PreparedRow:
    """A row made ready for the encoders, or the reason why it can't be."""

    row: Row
    prepared: Mapping[Column, Preprocessed]
    reason: str | None = None


@dataclass(frozen=True)
class Group:
    """Rows that are embedded together, and failures that stand between them."""

    rows: Sequence[PreparedRow]
    texts: Mapping[Column, Sequence[Preprocessed]]
    """The captions of the rows that are no failures, made ready together."""


@dataclass(frozen=True)
class Embedded:
    """A batch's outcome: every row of it is among the rows or among the failures."""

    ids: Sequence[str]
    columns: Mapping[str, Sequence[Any]]
    """What is kept beside the embeddings, the norms of the encoders' own output among it."""

    embeds: Mapping[str, Tensor]
    """Embeddings by column, shape (n, d), float32, unit norm."""

    failures: Sequence[tuple[str, str]]
    """Ids with the reason."""


def rows_in_group(plan: EncoderPlan) -> int:
    """Give how many rows are embedded together."""
    texts_only = plan.wanted == {"text"}
    return plan.rows_in_batch * (_TEXT_BATCHES if texts_only else 1)


def checked(rows: Iterable[Row], plan: EncoderPlan) -> Iterator[Row]:
    """Note on each row why it can't be embedded, as far as that shows without opening anything.

    What no encoder wants of a row is left out, so that no picture is fetched for its caption.
    """
    for row in rows:
        wanted = {what: value for what, value in row.content.items() if what in plan.wanted}
        yield replace(row, content=wanted, problem=problem_of(row, sorted(plan.wanted)))


def downloaded(
    rows: Iterable[Row], open_downloader: Callable[[], ImageDownloader]
) -> Iterator[Row]:
    """Replace addresses by what lies there, in the order of the rows."""
    downloader: ImageDownloader | None = None
    for remote, run in itertools.groupby(rows, _is_remote):
        if remote:
            downloader = downloader or open_downloader()
            yield from _fetched(run, downloader)
        else:
            yield from run


def _is_remote(row: Row) -> bool:
    return isinstance(row.content.get("image"), Url)


def _fetched(rows: Iterable[Row], downloader: ImageDownloader) -> Iterator[Row]:
    waiting: deque[Row] = deque()

    def addresses() -> Iterator[tuple[str, str]]:
        for row in rows:
            waiting.append(row)
            if row.problem is None:
                yield row.id, row.content["image"]

    for download in downloader(addresses()):
        while waiting[0].problem is not None:
            yield waiting.popleft()
        row = waiting.popleft()
        content = {**row.content, "image": download.content}
        yield replace(row, content=content, problem=download.reason)
    yield from waiting


def prepared(row: Row, encoders: Encoders) -> PreparedRow:
    """Open and preprocess a row's picture and sound; captions wait for their batch.

    Whatever is wrong with the row becomes its reason.
    """
    if row.problem is not None:
        return PreparedRow(row, {}, row.problem)
    try:
        ready = {}
        for column in encoders.plan.columns:
            modality = modality_of(column)
            if modality == "text":
                continue
            content = row.content[modality]
            opened = load_image(content) if modality == "image" else load_audio(content)
            (ready[column],) = encoders.of(column).preprocess(modality, [opened])
        return PreparedRow(row, ready)
    except MemoryError:
        raise
    except UserError as error:
        return PreparedRow(row, {}, one_line(error, limit=None))
    except Exception as error:  # a damaged file can make a library raise almost anything
        return PreparedRow(row, {}, f"{type(error).__name__}: {one_line(error, limit=200)}")


def grouped(rows: Iterable[PreparedRow], encoders: Encoders) -> Iterator[Group]:
    """Put together as many rows as the encoders take at once, and the failures between them.

    Where a group ends depends on nothing but the rows since the last one, so that a run that goes
    on embeds the same rows together as one that was never stopped.
    """
    size = rows_in_group(encoders.plan)
    group: list[PreparedRow] = []
    good = 0
    for row in rows:
        group.append(row)
        good += row.reason is None
        if good == size or len(group) == _MOST_FAILURES * size:
            yield as_group(group, encoders)
            group, good = [], 0
    if group:
        yield as_group(group, encoders)


def as_group(rows: Sequence[PreparedRow], encoders: Encoders) -> Group:
    """Prepare the captions of rows that are embedded together."""
    good = [row.row for row in rows if row.reason is None]
    return Group(
        rows,
        {
            column: encoders.of(column).preprocess("text", [row.content["text"] for row in good])
            for column in encoders.plan.columns
            if modality_of(column) == "text"
        },
    )


def embedded(group: Group, encoders: Encoders) -> Embedded:
    """Embed a group's rows, each column by its encoder."""
    failures = [(row.row.id, row.reason) for row in group.rows if row.reason is not None]
    good = [row for row in group.rows if row.reason is None]
    embeds: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    for column in encoders.plan.columns:
        texts = group.texts.get(column)
        ready = [row.prepared[column] for row in good] if texts is None else texts
        output = encoders.of(column).encode_preprocessed(
            modality_of(column), ready, batch_size=encoders.plan.rows_in_batch, normalize=False
        )
        norms[column] = output.norm(dim=-1)
        embeds[column] = unit_norm(output)
    finite = torch.ones(len(good), dtype=torch.bool)
    for norm in norms.values():
        finite &= norm.isfinite() & (norm > 0)
    kept = finite.nonzero().flatten()
    for row, is_finite in zip(good, finite.tolist(), strict=True):
        if not is_finite:
            reason = "the encoder gave no vector of finite length; use --dtype fp32"
            failures.append((row.row.id, reason))
    rows = [good[place].row for place in kept.tolist()]
    names = list(group.rows[0].row.columns)
    columns: dict[str, Sequence[Any]] = {
        name: [row.columns.get(name) for row in rows] for name in names
    }
    columns |= {f"{name}_norm": norm[kept].tolist() for name, norm in norms.items()}
    return Embedded(
        [row.id for row in rows],
        columns,
        {name: values[kept] for name, values in embeds.items()},
        failures,
    )
