"""Embed the captions of a published AudioCaps file (Kim et al., 2019) into a table."""

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from clip2clap.embeddings.encoders import ClapEncoder, ClipEncoder
from clip2clap.embeddings.errors import UserError
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table import Dtype, EmbeddingTable, TableWriter

_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
# The published files are named after their splits; of any other file the split is not known.
_SPLITS = ("train", "val", "test")
# Captions written at once; sorted by length within, so that little is padded.
_CHUNK = 512


def embed_captions(
    captions: str | Path,
    encoder: ClipEncoder | ClapEncoder,
    folder: str | Path,
    *,
    pair_with: str | Path | None = None,
    dtype: Dtype = "float16",
    batch_size: int = 64,
    limit: int | None = None,
    show_progress: bool = False,
) -> EmbeddingTable:
    """Embed every caption of an AudioCaps CSV; a run that was stopped goes on where it was.

    Args:
        captions: A CSV as published, with the columns audiocap_id, youtube_id, start_time and
            caption.
        encoder: A CLIP or a CLAP with a text tower.
        folder: Where the table is written: one row a caption, named by its audiocap_id, with the
            embeddings under "clip_text" or "clap_text".
        pair_with: A table made from the same captions with the other encoder. Its embeddings are
            taken over into the rows of the same id; a caption it lacks is noted as failed.
        dtype: Of the stored embeddings.
        batch_size: Captions in a batch of the encoder.
        limit: Stop after this many captions of the file; None embeds all.
        show_progress: Draw a progress bar on stderr.

    Returns:
        The table.

    Raises:
        UserError: If the file is no AudioCaps CSV, or the tables don't fit together.
    """
    rows = _read_captions(Path(captions).expanduser())[:limit]
    split = Path(captions).stem
    column = f"{encoder.family}_text"
    partner = None if pair_with is None else _Partner(pair_with, column)
    spaces = {column: encoder.space("text"), **({} if partner is None else partner.spaces)}
    with TableWriter(folder, spaces, dtype=dtype) as writer:
        done = writer.done_ids
        todo = []
        for row in rows:
            if row["audiocap_id"] in done:
                continue
            reason = _why_not(row, partner)
            if reason is None:
                todo.append(row)
            else:
                writer.fail(row["audiocap_id"], reason)
        chunks = [todo[start : start + _CHUNK] for start in range(0, len(todo), _CHUNK)]
        bar = track(
            chunks,
            f"{len(todo)} captions",
            console=Console(stderr=True),
            disable=not show_progress,
        )
        for chunk in bar:
            ids = [row["audiocap_id"] for row in chunk]
            texts = [row["caption"] for row in chunk]
            embeds = {column: encoder.texts(texts, batch_size=batch_size)}
            if partner is not None:
                embeds |= partner.embeds(ids)
            sources = {
                "caption": texts,
                "youtube_id": [row["youtube_id"] for row in chunk],
                "start_time": [row["start_time"] for row in chunk],
                # A clip of the validation and test files has five captions: one thing to split by.
                "item": [f"{row['youtube_id']}_{row['start_time']}" for row in chunk],
            }
            if split in _SPLITS:
                sources["split"] = [split] * len(chunk)
            writer.append(ids, sources, embeds)
    return EmbeddingTable.open(folder)


class _Partner:
    """The table of the other encoder, looked up by id."""

    def __init__(self, folder: str | Path, column: str):
        self._table = EmbeddingTable.open(folder)
        if column in self._table.spaces:
            raise UserError(
                f"{folder} has {column} already: pair the embeddings of a CLIP with those of a "
                "CLAP."
            )
        self.spaces: dict[str, EmbeddingSpace] = self._table.spaces
        captions = self._table.source("caption")
        self._places = {row_id: place for place, row_id in enumerate(self._table.ids)}
        self._captions = dict(zip(self._table.ids, captions, strict=True))
        self._vectors = {name: self._table.tensor(name) for name in self.spaces}

    def why_not(self, row_id: str, caption: str) -> str | None:
        if row_id not in self._places:
            return f"not in {self._table.folder}"
        if self._captions[row_id] != caption:
            return f"another caption in {self._table.folder}"
        return None

    def embeds(self, ids: Sequence[str]) -> dict[str, torch.Tensor]:
        places = torch.tensor([self._places[row_id] for row_id in ids])
        return {name: vectors[places] for name, vectors in self._vectors.items()}


def _why_not(row: dict[str, str], partner: _Partner | None) -> str | None:
    if not row["caption"]:
        return "empty caption"
    return None if partner is None else partner.why_not(row["audiocap_id"], row["caption"])


def _read_captions(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise UserError(
                    f"{path} is no AudioCaps file: expected the columns {', '.join(_COLUMNS)}; "
                    f"{', '.join(missing)} missing."
                )
            return [{name: (row[name] or "").strip() for name in _COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path} can't be read ({' '.join(str(error).split())}). Give the CSV as published."
        ) from error
