"""Time of writing and reading an embedding table, compared with pyarrow alone and CSV text.

A million rows of 512 float16 values by default. pyarrow writes the same columns as one Arrow file,
the lower bound. The reference project stores CSV text, which is timed on fewer rows and
extrapolated.

    python benchmarks/table.py
"""

import ast
import csv
import json
import os
import shutil
import sys
import tempfile
from collections import defaultdict
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
    """Yield ids and unit-norm vectors; the vectors are the same in every batch."""
    vectors = unit_norm(torch.randn(BATCH, DIM, generator=torch.Generator().manual_seed(0)))
    for start in range(0, rows, BATCH):
        ids = [str(number) for number in range(start, min(start + BATCH, rows))]
        yield ids, vectors[: len(ids)]


def write_table(folder: Path, rows: int) -> None:
    """Write a table of one shard."""
    with TableWriter(folder, {"clip_text": SPACE}, rows_per_shard=rows) as writer:
        for ids, vectors in batches(rows):
            writer.append(ids, {}, {"clip_text": vectors})


def write_arrow(file: Path, rows: int) -> None:
    """Write the same columns with pyarrow alone, and sync them to disk."""
    schema = pa.schema([("id", pa.string()), ("clip_text", pa.list_(pa.float16(), DIM))])
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        for ids, vectors in batches(rows):
            flat = pa.array(vectors.half().reshape(-1).numpy())
            columns = [pa.array(ids), pa.FixedSizeListArray.from_arrays(flat, DIM)]
            stream.write_batch(pa.record_batch(columns, schema=schema))
    with file.open("rb") as written:
        os.fsync(written.fileno())


def read_table(folder: Path) -> float:
    """Map a table and read every value."""
    return float(EmbeddingTable.open(folder).to_numpy("clip_text").sum(dtype=np.float32))


def read_arrow(file: Path) -> float:
    """Map an Arrow file and read every value."""
    with pa.memory_map(str(file)) as source:
        column = pa.ipc.open_stream(source).read_all()["clip_text"]
        parts = (chunk.flatten().to_numpy() for chunk in column.chunks)
        return float(sum(part.sum(dtype=np.float32) for part in parts))


def write_text(file: Path, rows: int) -> None:
    """Write every vector as a list in a CSV cell."""
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        for ids, vectors in batches(rows):
            for row_id, vector in zip(ids, vectors.numpy(), strict=True):
                writer.writerow([row_id, vector.tolist()])


def read_text(file: Path, parse: Callable[[str], Any]) -> np.ndarray:
    """Read the vectors of a CSV."""
    csv.field_size_limit(sys.maxsize)
    with file.open(newline="") as stream:
        return np.array([parse(row[1]) for row in csv.reader(stream)], np.float16)


def main(
    rows: Annotated[int, typer.Option(help="Rows of the table.")] = 1_000_000,
    text_rows: Annotated[int, typer.Option(help="Rows of the CSV.")] = 5_000,
    rounds: Annotated[int, typer.Option(help="Rounds.")] = 3,
    folder: Annotated[
        Path | None, typer.Option(help="Folder on the disk to measure; /tmp by default.")
    ] = None,
) -> None:
    """Time all alternately and compare the best times."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        times = measure(Path(scratch), rows, text_rows, rounds)
    scaled = f"extrapolated from {text_rows:,} rows"
    print(f"{rows:,} rows of {DIM} float16")
    print(f"write  pyarrow alone   {times['arrow write']:9.2f} s, synced to disk as ours is")
    print(
        f"write  TableWriter     {times['table write']:9.2f} s, "
        f"{times['table write'] / times['arrow write']:.2f} times as long (goal: at most 1.5)"
    )
    print(
        f"write  text in CSV     {times['text write']:9.2f} s, "
        f"{times['text write'] / times['table write']:.0f} times TableWriter's (goal: at "
        f"least 100; {scaled})"
    )
    print(f"map    EmbeddingTable  {times['table map']:9.4f} s")
    print(f"read   pyarrow alone   {times['arrow read']:9.2f} s")
    print(
        f"read   EmbeddingTable  {times['table read']:9.2f} s, "
        f"{times['table read'] / times['arrow read']:.2f} times as long (goal: at most 1.5)"
    )
    print(
        f"read   text, json      {times['text read']:9.2f} s, "
        f"{times['text read'] / times['table read']:.0f} times EmbeddingTable's (goal: at least "
        f"100; {scaled})"
    )
    print(f"read   text, literal_eval {times['text eval']:6.2f} s ({scaled})")


def measure(folder: Path, rows: int, text_rows: int, rounds: int) -> dict[str, float]:
    """Return the best seconds of each job; those of text are scaled up to `rows`."""
    table, arrow, text = folder / "table", folder / "vectors.arrow", folder / "vectors.csv"
    times: dict[str, list[float]] = defaultdict(list)

    def run(name: str, job: Callable[[], Any], scale: float = 1.0) -> None:
        times[name].append(seconds(job) * scale)

    for _ in range(rounds):
        # Files are removed between the jobs, so that each starts with the same free memory.
        run("arrow write", lambda: write_arrow(arrow, rows))
        arrow.unlink()
        run("table write", lambda: write_table(table, rows))
        shutil.rmtree(table)
    write_arrow(arrow, rows)
    write_table(table, rows)
    for _ in range(rounds):
        run("arrow read", lambda: read_arrow(arrow))
        run("table read", lambda: read_table(table))
        run("table map", lambda: EmbeddingTable.open(table).tensor("clip_text"))
    shutil.rmtree(table)
    arrow.unlink()
    scale = rows / text_rows
    run("text write", lambda: write_text(text, text_rows), scale)
    run("text read", lambda: read_text(text, json.loads), scale)
    run("text eval", lambda: read_text(text, ast.literal_eval), scale)
    return {name: min(taken) for name, taken in times.items()}


if __name__ == "__main__":
    typer.run(main)
