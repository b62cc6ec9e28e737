"""Stages of an extraction, shared by all engines: check, download, preprocess, group, embed."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError, one_line
from clip2clap.core.math import unit_norm
from clip2clap.embeddings.datasets.base import Row, Url, check_row
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.encoders.base import Preprocessed
from clip2clap.embeddings.extraction.plan import Column, EncoderPlan, Encoders, modality_of
from clip2clap.media.audio import load_audio
from clip2clap.media.images import load_image

# Captions alone are sorted by length over this many batches, to reduce padding.
_TEXT_BATCHES = 8
# Groups of failures alone end after this many batches' rows.
_MAX_FAILED_BATCHES = 8


@dataclass(frozen=True)
class PreprocessedRow:
    """Row with its encoder inputs, or the reason of its failure."""

    row: Row
    inputs: dict[Column, Preprocessed]
    reason: str | None = None


@dataclass(frozen=True)
class EmbeddedGroup:
    """Outcome of a group: each of its rows is embedded or failed.

    `columns` are the source columns and the norms of the encoders' output; the embeddings have
    shape (n, dim), float32, unit norm; the failures are ids with the reason.
    """

    ids: Sequence[str]
    columns: Mapping[str, Sequence[Any]]
    embeds: Mapping[str, Tensor]
    failures: Sequence[tuple[str, str]]


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
    for is_remote, run in itertools.groupby(rows, _is_remote):
        if not is_remote:
            yield from run
            continue
        if downloader is None:
            from clip2clap.embeddings.download.downloader import ImageDownloader

            downloader = stack.enter_context(ImageDownloader(config))
        urls = ((row, None if row.problem else row.content["image"]) for row in run)
        for done in downloader(urls):
            content = {**done.key.content, "image": done.content}
            reason = done.reason or done.key.problem
            yield replace(done.key, content=content, problem=reason)


def _is_remote(row: Row) -> bool:
    return isinstance(row.content.get("image"), Url)


def preprocess_row(row: Row, encoders: Encoders) -> PreprocessedRow:
    """Open and preprocess a row's image and audio; captions are preprocessed with their group.

    Any error becomes the row's reason of failure.
    """
    if row.problem is not None:
        return PreprocessedRow(row, {}, row.problem)
    try:
        inputs: dict[Column, Preprocessed] = {}
        for column in encoders.plan.columns:
            if (modality := modality_of(column)) != "text":
                content = row.content[modality]
                opened = load_image(content) if modality == "image" else load_audio(content)
                (inputs[column],) = encoders.of(column).preprocess(modality, [opened])
        return PreprocessedRow(row, inputs)
    except MemoryError:
        raise
    except UserError as error:
        return PreprocessedRow(row, {}, one_line(error, limit=None))
    except Exception as error:  # a damaged file can make a library raise almost anything
        return PreprocessedRow(row, {}, f"{type(error).__name__}: {one_line(error, limit=200)}")


def group_rows(
    rows: Iterable[PreprocessedRow], encoders: Encoders
) -> Iterator[list[PreprocessedRow]]:
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
            yield preprocess_captions(group, encoders)
            group, good = [], 0
    if group:
        yield preprocess_captions(group, encoders)


def preprocess_captions(group: list[PreprocessedRow], encoders: Encoders) -> list[PreprocessedRow]:
    """Add the preprocessed captions to rows that are embedded together."""
    good = [row for row in group if row.reason is None]
    for column in encoders.plan.columns:
        if modality_of(column) == "text":
            captions = [row.row.content["text"] for row in good]
            texts = encoders.of(column).preprocess("text", captions)
            for row, text in zip(good, texts, strict=True):
                row.inputs[column] = text
    return group


def embed_group(group: Sequence[PreprocessedRow], encoders: Encoders) -> EmbeddedGroup:
    """Embed a group's rows, each column by its encoder."""
    failures = [(row.row.id, row.reason) for row in group if row.reason is not None]
    good = [row for row in group if row.reason is None]
    embeds: dict[str, Tensor] = {}
    norms: dict[str, Tensor] = {}
    for column in encoders.plan.columns:
        output = encoders.of(column).encode_preprocessed(
            modality_of(column),
            [row.inputs[column] for row in good],
            batch_size=encoders.plan.rows_in_batch,
            normalize=False,
        )
        norms[column] = output.norm(dim=-1)
        embeds[column] = unit_norm(output)
    finite = torch.ones(len(good), dtype=torch.bool)
    for norm in norms.values():
        finite &= norm.isfinite() & (norm > 0)
    kept = finite.nonzero().flatten()
    fault = "the norm of the encoder's output is zero or not finite"
    reason = f"{fault}; use weights_dtype=torch.float32"
    failures += [(good[index].row.id, reason) for index in (~finite).nonzero().flatten().tolist()]
    rows = [good[index].row for index in kept.tolist()]
    columns: dict[str, Sequence[Any]] = {
        name: [row.columns.get(name) for row in rows] for name in group[0].row.columns
    }
    columns |= {f"{name}_norm": norm[kept].tolist() for name, norm in norms.items()}
    return EmbeddedGroup(
        [row.id for row in rows],
        columns,
        {name: values[kept] for name, values in embeds.items()},
        failures,
    )
