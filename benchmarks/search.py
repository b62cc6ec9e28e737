"""Speed, recall, size and memory of searches, side by side; and the cost of changed files.

Exact and fast search of clip2clap, brute force with NumPy, and other libraries where they are
installed (usearch, faiss's HNSW, LanceDB), each in its own process on the same unit vectors: around
10,000 centers in 64 directions, as embeddings are, or at random, the hardest case. Recall is that
of the 10 nearest against exact search in float32. Seconds of the processors are beside those of the
clock, which other programs of the machine slow down.

    python benchmarks/search.py --rows 1000000
    python benchmarks/search.py --rows 1000000 --vectors random
    python benchmarks/search.py --rows 100000 --engine numpy --engine usearch --engine lancedb
    python benchmarks/search.py --files 4000
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from clip2clap.core.memory import peak_bytes
from clip2clap.embeddings.space import EmbeddingSpace
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.search.nearest import Vectors, renew_nearest

DIM = 512
NEIGHBORS = 10
QUERIES = 200
BLOCK = 65_536
SPACE = EmbeddingSpace("clip", "synthetic vectors", "image", DIM, True, "none")
DEFAULT = ("numpy", "exact", "fast")

Search = Callable[[np.ndarray], Any]


def draw(kind: str, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks of unit vectors, float32."""
    shared = np.random.default_rng(0)
    centers = shared.standard_normal((10_000, 64), np.float32)
    centers = centers @ shared.standard_normal((64, DIM), np.float32)
    centers /= np.linalg.norm(centers, axis=1, keepdims=True)
    random = np.random.default_rng(seed)
    for start in range(0, count, BLOCK):
        size = min(BLOCK, count - start)
        block = random.standard_normal((size, DIM), np.float32)
        if kind == "clustered":
            block *= 0.9 / np.sqrt(DIM)
            block += centers[random.integers(0, len(centers), size)]
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def write_data(folder: Path, kind: str, rows: int) -> None:
    """Write the vectors as an embedding table, the queries, and the true neighbors."""
    queries = np.concatenate(list(draw(kind, QUERIES, seed=2)))
    best = np.full((QUERIES, NEIGHBORS), -np.inf, np.float32)
    places = np.zeros((QUERIES, NEIGHBORS), np.int64)
    start = 0
    clock, processor = time.perf_counter(), time.process_time()
    with TableWriter(folder / "table", {"clip_image": SPACE}, rows_per_shard=2**18) as writer:
        for block in draw(kind, rows, seed=1):
            ids = [f"{row:032x}" for row in range(start, start + len(block))]
            writer.append(ids, {}, {"clip_image": torch.from_numpy(block)})
            scores = np.concatenate([best, queries @ block.T], axis=1)
            new = np.broadcast_to(np.arange(start, start + len(block)), (QUERIES, len(block)))
            order = np.argpartition(-scores, NEIGHBORS, axis=1)[:, :NEIGHBORS]
            places = np.take_along_axis(np.concatenate([places, new], axis=1), order, axis=1)
            best = np.take_along_axis(scores, order, axis=1)
            start += len(block)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    print(f"vectors drawn and written as a table: {clock:.0f} s, {processor:.0f} s of processors")
    np.save(folder / "queries.npy", queries)
    np.save(folder / "nearest.npy", places)


def blocks(folder: Path) -> Iterator[np.ndarray]:
    """Yield the vectors of the table in float32."""
    for (block,) in EmbeddingTable.open(folder / "table").chunks("clip_image"):
        yield block.float().numpy()


def open_numpy(folder: Path, _: Path) -> Search:
    """Hold the vectors in memory in float32."""
    vectors = np.concatenate(list(blocks(folder)))

    def search(query: np.ndarray) -> np.ndarray:
        return np.argpartition(-(vectors @ query), NEIGHBORS)[:NEIGHBORS]

    return search


def open_exact(folder: Path, _: Path) -> Search:
    """Map the table."""
    vectors = Vectors(EmbeddingTable.open(folder / "table"), "clip_image")
    return lambda query: vectors.search(torch.from_numpy(query), NEIGHBORS)[1]


def open_fast(folder: Path, files: Path) -> Search:
    """Build the fast search."""
    table = EmbeddingTable.open(folder / "table")
    renew_nearest(table, files, "image")
    vectors = Vectors(table, "clip_image", folder=files, name="image.clip_image")
    assert vectors.is_fast, "needs faiss and more rows"
    return lambda query: vectors.search(torch.from_numpy(query), NEIGHBORS)[1]


def open_usearch(folder: Path, files: Path, dtype: str = "i8") -> Search:
    """Build usearch's HNSW."""
    from usearch.index import Index  # pyright: ignore[reportMissingImports]

    index = Index(ndim=DIM, metric="cos", dtype=dtype, connectivity=16, expansion_add=64)
    for block in blocks(folder):
        index.add(np.arange(len(index), len(index) + len(block)), block, threads=2)
    index.expansion_search = 64
    index.save(str(files / "usearch"))
    return lambda query: index.search(query, NEIGHBORS).keys


def open_faiss_hnsw(folder: Path, files: Path) -> Search:
    """Build faiss's HNSW of half precision."""
    import faiss  # pyright: ignore[reportMissingImports]

    index = faiss.index_factory(DIM, "HNSW16,SQfp16", faiss.METRIC_INNER_PRODUCT)
    for block in blocks(folder):
        if not index.is_trained:
            index.train(block)
        index.add(block)
    faiss.ParameterSpace().set_index_parameter(index, "efSearch", 64)
    faiss.write_index(index, str(files / "faiss"))
    return lambda query: index.search(query[None], NEIGHBORS)[1][0]


def open_lancedb(folder: Path, files: Path) -> Search:
    """Build LanceDB's inverted file of product-quantized vectors, refined."""
    import lancedb  # pyright: ignore[reportMissingImports]
    import pyarrow as pa

    schema = pa.schema([("id", pa.int64()), ("vector", pa.list_(pa.float32(), DIM))])

    def batches() -> Iterator[pa.RecordBatch]:
        start = 0
        for block in blocks(folder):
            vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.reshape(-1)), DIM)
            ids = pa.array(np.arange(start, start + len(block)))
            yield pa.record_batch([ids, vectors], schema=schema)
            start += len(block)

    table = lancedb.connect(files).create_table("vectors", batches(), schema=schema)
    table.create_index(metric="dot", num_sub_vectors=64)

    def search(query: np.ndarray) -> Any:
        chosen = table.search(query).distance_type("dot").nprobes(20).refine_factor(10)
        return chosen.select(["id"]).limit(NEIGHBORS).to_arrow()["id"].to_pylist()

    return search


ENGINES: dict[str, tuple[str, Callable[[Path, Path], Search]]] = {
    "numpy": ("NumPy, float32 in memory", open_numpy),
    "exact": ("clip2clap, exact", open_exact),
    "fast": ("clip2clap, fast (faiss)", open_fast),
    "usearch": ("usearch HNSW, 8 bits", open_usearch),
    "faiss-hnsw": ("faiss HNSW, half precision", open_faiss_hnsw),
    "lancedb": ("LanceDB IVF-PQ, refined", open_lancedb),
}


def measure(engine: str, folder: Path) -> None:
    """Print what one engine takes, in this process."""
    name, build = ENGINES[engine]
    files = folder / engine
    files.mkdir()
    clock, processor = time.perf_counter(), time.process_time()
    search = build(folder, files)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    queries, nearest = (np.load(folder / f"{each}.npy") for each in ("queries", "nearest"))
    search(queries[0])
    taken, hits, used = [], 0, time.process_time()
    for query, expected in zip(queries, nearest, strict=True):
        start = time.perf_counter()
        found = search(query)
        taken.append(1000 * (time.perf_counter() - start))
        hits += len({*map(int, found)} & {*expected.tolist()})
    used = 1000 * (time.process_time() - used) / len(queries)
    size = sum(path.stat().st_size for path in files.rglob("*") if path.is_file())
    print(
        f"{name:26} build {clock:6.0f} s ({processor:5.0f})  query median "
        f"{np.median(taken):6.1f}, p95 {np.percentile(taken, 95):6.1f} ms ({used:5.1f})  "
        f"{1000 / np.mean(taken):5.0f} queries/s  recall {hits / nearest.size:.3f}  "
        f"{size / 2**20:5.0f} MiB on disk, {peak_bytes() / 2**30:.1f} GiB of memory at most",
        flush=True,
    )


def measure_files(count: int, folder: Path) -> None:
    """Print the time of indexing files, and of taking up 1 % that changed."""
    import soundfile
    from PIL import Image

    from clip2clap.search import update_index

    def write(number: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        if number % 5:
            pixels = random.integers(0, 256, (8, 8, 3), np.uint8)
            image = Image.fromarray(pixels).resize((384, 256), Image.Resampling.BICUBIC)
            image.save(folder / "files" / f"{number}.jpg")
        else:
            sound = np.cumsum(random.standard_normal(5 * 16_000))
            soundfile.write(folder / "files" / f"{number}.wav", sound / np.abs(sound).max(), 16_000)

    (folder / "files").mkdir()
    for number in range(count):
        write(number, number)
    torch.set_num_threads(2)
    times = []
    for change in (0, count // 100):
        for number in range(change):
            write(number, count + number)
        clock, processor = time.perf_counter(), time.process_time()
        report = update_index([folder / "files"], folder / "library")
        times.append((time.perf_counter() - clock, time.process_time() - processor))
        print(
            f"{report.encoded} of {count} files encoded: {times[-1][0]:.1f} s, "
            f"{times[-1][1]:.1f} s of processors",
            flush=True,
        )
    shares = [after / before for before, after in zip(*times, strict=True)]
    print(f"1 % of the files: {shares[0]:.1%} of the time, {shares[1]:.1%} of the processors'")


def main(
    rows: Annotated[int, typer.Option(help="Vectors.")] = 0,
    vectors: Annotated[str, typer.Option(help="clustered or random.")] = "clustered",
    engine: Annotated[
        list[str] | None, typer.Option(help="Engines; by default numpy, exact and fast.")
    ] = None,
    files: Annotated[int, typer.Option(help="Files to index and change.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="Folder for the files.")] = None,
    only: Annotated[str | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure the engines on vectors, the index on files, or both."""
    if only is not None and folder is not None:
        measure(only, folder)
        return
    threads = {"OMP_NUM_THREADS": "2", **os.environ}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if rows:
            load = os.getloadavg()[0]
            print(f"{rows:,} {vectors} vectors of {DIM}; {os.cpu_count()} cores, load {load:.1f}")
            write_data(Path(scratch), vectors, rows)
            for each in engine or DEFAULT:
                call = [sys.executable, __file__, "--only", each, "--folder", scratch]
                subprocess.run(call, env=threads, check=False)
                shutil.rmtree(Path(scratch) / each, ignore_errors=True)
        if files:
            measure_files(files, Path(scratch))


if __name__ == "__main__":
    typer.run(main)
