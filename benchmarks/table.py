"""Writing and reading a table of embeddings, against pyarrow alone and against CSV text.

A million rows of 512 float16 values by default. pyarrow writes the same columns as one Arrow file,
which is what a table costs at the least. Text is what the reference project keeps; so many rows of
it take minutes, so it is timed on fewer rows and scaled up, as the output says.

    python benchmarks/table.py
"""

import ast
import csv
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
import typer
from timing import seconds

from clip2clap.core.math import unit_norm
from clip2clap.embeddings.space import (
    EmbeddingSpace,
)
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter

DIM = 512
BATCH = 4096
SPACE = EmbeddingSpace("clip", "random vectors", "text", DIM, True, "none")


def batches(rows: int) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Give ids and unit-norm vectors; the vectors are the same for every batch."""
    vectors = unit_norm(torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(0)))
    for start in range(0, rows, BATCH):
        ids = [str(number) for number in range(start, min(start + BATCH, rows))]
        yield ids, vectors[: len(ids)]


def write_table(folder: Path, rows: int) -> None:
    """Write at once what fits in memory."""
    with TableWriter(folder, {"clip_text": SPACE}, rows_per_shard=rows) as writer:
        for ids, vectors in batches(rows):
            writer.append(ids, {}, {"clip_text": vectors})


def write_arrow(file: Path, rows: int) -> None:
    """Write the same columns with pyarrow, and nothing else, until they are on the disk."""
    schema = pa.schema([("id", pa.string()), ("clip_text", pa.list_(pa.float16(), DIM))])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        for ids, vectors in batches(rows):
            flat = pa.array(vectors.half().reshape(-1).numpy())
            columns = [pa.array(ids), pa.FixedSizeListArray.from_arrays(flat, DIM)]
            stream.write_batch(pa.record_batch(columns, schema=schema))
    with file.open("rb") as written:
        os.fsync(written.fileno())


def read_table(folder: Path) -> float:
    """Map a table and look at every value."""
    return float(EmbeddingTable.open(folder).to_numpy("clip_text").sum(dtype=np.float32))


def read_arrow(file: Path) -> float:
    """Map an Arrow file and look at every value."""
    with pa.memory_map(str(file)) as source:
        column = pa.ipc.open_stream(source).read_all()["clip_text"]
        parts = (chunk.flatten().to_numpy() for chunk in column.chunks)
        return float(sum(part.sum(dtype=np.float32) for part in parts))


def write_text(file: Path, rows: int) -> None:
    """Write every vector as a list in a cell of a CSV."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        for ids, vectors in batches(rows):
            for row_id, vector in zip(ids, vectors.numpy(), strict=True):
                writer.writerow([row_id, vector.tolist()])


def read_text(file: Path, parse: Callable[[str], Any]) -> np.ndarray:
    """Read the vectors back."""
    csv.field_size_limit(sys.maxsize)
    with file.open(newline="") as stream:
        return np.array([parse(row[1]) for row in csv.reader(stream)], np.float16)


def main(
    rows: Annotated[int, typer.Option(help="Rows of the table.")] = 1_000_000,
    text_rows: Annotated[int, typer.Option(help="Rows of the CSV.")] = 5_000,
    rounds: Annotated[int, typer.Option(help="Times that each is measured.")] = 3,
    folder: Annotated[
        Path | None, typer.Option(help="A folder of the disk to measure; by default /tmp.")
    ] = None,
) -> None:
    """Time each by turns; a ratio is that of the best times."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        place = Path(scratch)
        table, arrow = place / "table", place / "vectors.arrow"
        writing, reading = [], []
        for _ in range(rounds):
            # Each begins with the memory that the files of the one before gave back.
            arrow_seconds = seconds(lambda: write_arrow(arrow, rows))
            arrow.unlink()
            table_seconds = seconds(lambda: write_table(table, rows))
            shutil.rmtree(table)
            writing.append((arrow_seconds, table_seconds))
        write_arrow(arrow, rows)
        write_table(table, rows)
        for _ in range(rounds):
            reading.append(
                (
                    seconds(lambda: read_arrow(arrow)),
                    seconds(lambda: read_table(table)),
                    seconds(lambda: EmbeddingTable.open(table).tensor("clip_text")),
                )
            )
        shutil.rmtree(table)
        arrow.unlink()
        text = place / "vectors.csv"
        scale = rows / text_rows
        text_write = seconds(lambda: write_text(text, text_rows)) * scale
        text_read = seconds(lambda: read_text(text, json.loads)) * scale
        text_eval = seconds(lambda: read_text(text, ast.literal_eval)) * scale
    arrow_write, table_write = (min(column) for column in zip(*writing, strict=True))
    arrow_read, table_read, table_map = (min(column) for column in zip(*reading, strict=True))
    scaled = f"reckoned from {text_rows:,} rows"
    print(f"{rows:,} rows of {DIM} float16")
    print(f"write  pyarrow alone   {arrow_write:9.2f} s, on the disk as ours is")
    print(
        f"write  TableWriter     {table_write:9.2f} s, {table_write / arrow_write:.2f} times as "
        "long (goal: at most 1.5)"
    )
    print(
        f"write  text in CSV     {text_write:9.2f} s, {text_write / table_write:.0f} times "
        f"TableWriter's (goal: at least 100; {scaled})"
    )
    print(f"map    EmbeddingTable  {table_map:9.4f} s")
    print(f"read   pyarrow alone   {arrow_read:9.2f} s")
    print(
        f"read   EmbeddingTable  {table_read:9.2f} s, {table_read / arrow_read:.2f} times as long "
        "(goal: at most 1.5)"
    )
    print(
        f"read   text, json      {text_read:9.2f} s, {text_read / table_read:.0f} times "
        f"EmbeddingTable's (goal: at least 100; {scaled})"
    )
    print(f"read   text, literal_eval {text_eval:6.2f} s ({scaled})")


if __name__ == "__main__":
    typer.run(main)
