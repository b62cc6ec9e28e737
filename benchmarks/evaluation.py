"""Time and memory of ranking 50,000 against 50,000, and of the report on 10,000 rows.

Each job runs in its own process, for its peak memory. Retrieval is compared with the tiled matrix
product of the two sides, its lower bound.

    python benchmarks/evaluation.py
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from clip2clap.core.memory import peak_bytes

DIM = 512
TILE = 1024
BATCH = 10_000

app = typer.Typer(add_completion=False)


def write_table(folder: Path, rows: int) -> None:
    """Write pairs of twenty classes, whose targets are noisy linear maps of the sources."""
    import torch

    from clip2clap.core.math import unit_norm
    from clip2clap.embeddings.space import (
        EmbeddingSpace,
    )
    from clip2clap.embeddings.table.writer import TableWriter

    generator = torch.Generator().manual_seed(0)
    mapping = torch.randn(DIM, DIM, generator=generator)
    centers = torch.randn(20, DIM, generator=generator)
    spaces = {
        f"{family}_text": EmbeddingSpace(family, f"random {family}", "text", DIM, True, "none")
        for family in ("clip", "clap")
    }
    with TableWriter(folder, spaces, rows_per_shard=rows) as writer:
        for start in range(0, rows, BATCH):
            ids = [f"row {row}" for row in range(start, min(start + BATCH, rows))]
            labels = torch.arange(start, start + len(ids)) % len(centers)
            source = unit_norm(centers[labels] + torch.randn(len(ids), DIM, generator=generator))
            target = source @ mapping + 12 * torch.randn(len(ids), DIM, generator=generator)
            writer.append(
                ids,
                {"label": [f"class {label}" for label in labels], "caption": ids},
                {"clip_text": source, "clap_text": unit_norm(target)},
            )


def report(job: Callable[[], Any]) -> None:
    """Run a job and print its seconds and its memory in bytes as JSON."""
    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    job()
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "before": before, "peak": peak_bytes()}))


@app.command()
def product(table: Path) -> None:
    """Multiply the two sides of a table, tile by tile."""
    import torch

    from clip2clap.core.math import unit_norm
    from clip2clap.embeddings.table.reader import EmbeddingTable

    opened = EmbeddingTable.open(table)
    source, target = (unit_norm(opened.tensor(name)) for name in ("clip_text", "clap_text"))

    def multiply() -> None:
        out = torch.empty(TILE, TILE)
        for one in source.split(TILE):
            for other in target.split(TILE):
                scores = out.view(-1)[: len(one) * len(other)].view(len(one), -1)
                torch.mm(one, other.T, out=scores)

    report(multiply)


@app.command()
def retrieval(table: Path, everything: bool = False) -> None:
    """Rank forward; with `--everything` rank backward and by CSLS, and find hubs, too."""
    from clip2clap.embeddings.table.reader import EmbeddingTable
    from clip2clap.metrics.retrieval import measure_retrieval, retrieval_metrics

    opened = EmbeddingTable.open(table)

    def rank() -> None:
        source, target = (opened.tensor(name) for name in ("clip_text", "clap_text"))
        if everything:
            measure_retrieval(source, target)
        else:
            retrieval_metrics(source, target)

    report(rank)


@app.command()
def page(table: Path, output: Path, translators: int = 1) -> None:
    """Evaluate translators on a table and write the whole report."""
    from clip2clap.cli.app import main
    from clip2clap.translator.mlp import MLPTranslator

    names = []
    for number in range(translators):
        names.append(str(output / f"translator {number}"))
        MLPTranslator(DIM, DIM, hidden_size=DIM).save_pretrained(names[-1])

    options = [
        "--table",
        str(table),
        "--label-column",
        "label",
        "-o",
        str(output / "report"),
        "--json",
    ]

    def evaluate() -> None:
        try:
            main(["evaluate", *names, *options])
        except SystemExit as ended:
            if ended.code:
                raise

    report(evaluate)


@app.command()
def measure(
    rows: Annotated[int, typer.Option(help="Pairs to rank.")] = 50_000,
    page_rows: Annotated[int, typer.Option(help="Rows of the page.")] = 10_000,
    translators: Annotated[int, typer.Option(help="Translators on the page.")] = 1,
) -> None:
    """Run every job once, each in its own process."""
    with tempfile.TemporaryDirectory() as scratch:
        large, small = Path(scratch) / "large", Path(scratch) / "small"
        write_table(large, rows)
        write_table(small, page_rows)
        bare = run("product", large)
        ranks = run("retrieval", large)
        full = run("retrieval", large, "--everything")
        shown = run("page", small, scratch, "--translators", translators)
    print(f"{rows:,} against {rows:,} of {DIM}, from a mapped table of float16")
    print(f"bare product, once          {bare['seconds']:7.1f} s")
    for name, one, passes in (("ranks", ranks, 1), ("both ways, hubs and CSLS", full, 3)):
        print(
            f"{name:27s} {one['seconds']:7.1f} s, "
            f"{one['seconds'] / (passes * bare['seconds']):.2f} times its {passes} products; "
            f"{memory(one)} (goals: 60 s, 1 GB)"
        )
    print(
        f"report of {page_rows:,} rows, {translators} translators "
        f"{shown['seconds']:.1f} s; {memory(shown)} (goal: 60 s)"
    )


def memory(job: dict[str, float]) -> str:
    """Format a job's peak memory, and what it adds to the imports'."""
    beyond = (job["peak"] - job["before"]) / 1e9
    return f"peak {job['peak'] / 1e9:.2f} GB, {beyond:.2f} GB beyond what was imported"


def run(*arguments: object) -> dict[str, float]:
    """Run another command of this script in a new process and return its report."""
    done = subprocess.run(
        [sys.executable, __file__, *(str(argument) for argument in arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    app(sys.argv[1:] or ["measure"])
