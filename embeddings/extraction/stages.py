"""Stages of an extraction, shared by all engines: check, download, preprocess, group, embed."""

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.datasets.base import Row, Url, check_row
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.encoders.base import Preprocessed
from clip2clap.embeddings.extraction.plan import Column, EncoderPlan, Encoders, modality_of

if TYPE_CHECKING:
    from clip2clap.embeddings.download.downloader import ImageDownloader

# Captions alone are sorted by length over this many batches, to reduce padding.
_TEXT_BATCHES = 8
# Groups of failures alone end after this many batches' rows.
_MAX_FAILED_BATCHES = 8


@dataclass(frozen=True)
class PreprocessedRow:
    """Row with its encoder inputs, or the reason of its failure."""

    row: Row
    inputs: Mapping[Column, Preprocessed]
    reason: str | None = None


@dataclass(frozen=True)
class Group:
    """Rows that are embedded together, and the failures between them."""

    rows: Sequence[PreprocessedRow]
    texts: Mapping[Column, Sequence[Preprocessed]]
    """Preprocessed captions of the rows that did not fail."""


@dataclass(frozen=True)
class EmbeddedGroup:
    """Outcome of a group: each of its rows is embedded or failed."""

    ids: Sequence[str]
    columns: Mapping[str, Sequence[Any]]
    """Source columns, and the norms of the encoders' output."""

    embeds: Mapping[str, Tensor]
    """Embeddings by column, shape (n, dim), float32, unit norm."""

    failures: Sequence[tuple[str, str]]
    """Ids with the reason of failure."""


def rows_in_group(plan: EncoderPlan) -> int:
    """Return the number of rows that are embedded together."""
    texts_only = plan.wanted == {"text"}
    return plan.rows_in_batch * (_TEXT_BATCHES if texts_only else 1)


def check_rows(rows: Iterable[Row], plan: EncoderPlan) -> Iterator[Row]:
    """Yield the rows with the problems that can be found without opening a file.

    Content that no encoder needs is dropped, so that no image is downloaded for its caption.
    """
    for row in rows:
        wanted = {name: value for name, value in row.content.items() if name in plan.wanted}
        yield replace(row, content=wanted, problem=check_row(row, sorted(plan.wanted)))


def download_images(rows: Iterable[Row], config: DownloadConfig, stack: ExitStack) -> Iterator[Row]:
    """Yield the rows, URLs replaced by image files; the stack closes the downloader."""
    downloader = None
    for remote, run in itertools.groupby(rows, _is_remote):
        if remote:
            downloader = downloader or _open_downloader(config, stack)
            yield from _download(run, downloader)
        else:
            yield from run


def _open_downloader(config: DownloadConfig, stack: ExitStack) -> "ImageDownloader":
    from clip2clap.embeddings.download.downloader import ImageDownloader

    return stack.enter_context(ImageDownloader(config))


def _is_remote(row: Row) -> bool:
    return isinstance(row.content.get("image"), Url)


def _download(rows: Iterable[Row], downloader: "ImageDownloader") -> Iterator[Row]:
    waiting: deque[Row] = deque()

    def urls() -> Iterator[tuple[str, str]]:
        for row in rows:
            waiting.append(row)
            if row.problem is None:
                yield row.id, row.content["image"]

    for download in downloader(urls()):
        while waiting[0].problem is not None:
            yield waiting.popleft()
        row = waiting.popleft()
        content = {**row.content, "image": download.content}
        yield replace(row, content=content, problem=download.reason)
    yield from waiting


def preprocess_row(row: Row, encoders: Encoders) -> PreprocessedRow:
    """Open and preprocess a row's image and audio; captions are preprocessed with their group.

    Any error becomes the row's reason of failure.
    """
    if row.problem is not None:
        return PreprocessedRow(row, {}, row.problem)
    try:
        ready = {}
        for column in encoders.plan.columns:
            modality = modality_of(column)
            if modality == "text":
                continue
            (ready[column],) = encoders.of(column).preprocess(modality, [row.content[modality]])
        return PreprocessedRow(row, ready)
    except MemoryError:
        raise
    except UserError as error:
        return PreprocessedRow(row, {}, one_line(error, limit=None))
    except Exception as error:  # a damaged file can make a library raise almost anything
        return PreprocessedRow(row, {}, f"{type(error).__name__}: {one_line(error, limit=200)}")


def group_rows(rows: Iterable[PreprocessedRow], encoders: Encoders) -> Iterator[Group]:
    """Yield groups of as many rows as the encoders embed at once, and the failures between them.

    The end of a group depends only on the rows since the last one, so that a resumed run
    embeds the same rows together as an uninterrupted one.
    """
    size = rows_in_group(encoders.plan)
    group: list[PreprocessedRow] = []
    good = 0
    for row in rows:
        group.append(row)
        good += row.reason is None
        if good == size or len(group) == _MAX_FAILED_BATCHES * size:
            yield make_group(group, encoders)
            group, good = [], 0
    if group:
        yield make_group(group, encoders)


def make_group(rows: Sequence[PreprocessedRow], encoders: Encoders) -> Group:
    """Preprocess the captions of rows that are embedded together."""
    good = [row.row for row in rows if row.reason is None]
    return Group(
        rows,
        {
            column: encoders.of(column).preprocess("text", [row.content["text"] for row in good])
            for column in encoders.plan.columns
            if modality_of(column) == "text"
        },
    )


def embed_group(group: Group, encoders: Encoders) -> EmbeddedGroup:
    """Embed a group's rows, each column by its encoder."""
    failures = [(row.row.id, row.reason) for row in group.rows if row.reason is not None]
    good = [row for row in group.rows if row.reason is None]
    embeds: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    for column in encoders.plan.columns:
        texts = group.texts.get(column)
        ready = [row.inputs[column] for row in good] if texts is None else texts
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
            reason = (
                "the norm of the encoder's output is zero or not finite; use "
                "weights_dtype=torch.float32"
            )
            failures.append((row.row.id, reason))
    rows = [good[index].row for index in kept.tolist()]
    names = list(group.rows[0].row.columns)
    columns: dict[str, Sequence[Any]] = {
        name: [row.columns.get(name) for row in rows] for name in names
    }
    columns |= {f"{name}_norm": norm[kept].tolist() for name, norm in norms.items()}
    return EmbeddedGroup(
        [row.id for row in rows],
        columns,
        {name: values[kept] for name, values in embeds.items()},
        failures,
    )
