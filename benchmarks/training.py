"""Training speed and memory, compared with the reference project's training.

- `stack`: the reference's loop (DataLoader, one model, batch 64, Adam) for each of a sweep's
  models, compared with the sweep's training of all of them, for a few steps on the same batches.
- `target`: the reference's loop to its last epoch, for each of its six recipes, and the time until
  `clip2clap train`'s default reaches the same recall at 10 on the same held-out pairs, without
  noise on the source, since the reference has none.
- `memory`: peak memory of the default sweep of 18, and of a sweep of 6 models from one table of
  millions of pairs, each in its own process, and the share of the imports.

Without `--table` the pairs are synthetic: noisy nonlinear views of common latent variables.

    python benchmarks/training.py stack target memory --pairs 50000
    python benchmarks/training.py target --table audiocaps-train
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from clip2clap.core.math import unit_norm
from clip2clap.core.memory import peak_bytes
from clip2clap.embeddings.space import (
    EmbeddingSpace,
)
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.metrics.retrieval import retrieval_metrics
from clip2clap.training.config import TrainingConfig
from clip2clap.training.losses import contrastive_loss
from clip2clap.training.pairs import Pairs, read_pairs
from clip2clap.training.report import TrainingProgress
from clip2clap.training.splits import Split, TrainingData, split_pairs
from clip2clap.training.sweep.grid import SweepGrid
from clip2clap.training.sweep.group import Group, Member
from clip2clap.training.sweep.run import sweep
from clip2clap.training.train import train

DIM, CAUSES = 512, 64
RECIPES = [(hidden, loss) for hidden in (256, 512) for loss in ("cosine", "mse", "contrastive")]
CLIP = EmbeddingSpace("clip", "synthetic", "text", DIM, True, "none")
CLAP = EmbeddingSpace("clap", "synthetic", "text", DIM, True, "none")


def synthetic(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return two noisy nonlinear views of the same latent variables."""
    ways = torch.randn(2, CAUSES, DIM, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(seed)
    causes = torch.randn(rows, CAUSES, generator=generator)
    source, target = (
        unit_norm(
            torch.tanh(causes @ way / CAUSES**0.5)
            + 0.3 * torch.randn(rows, DIM, generator=generator)
        )
        for way in ways
    )
    return source, target


def prepare(rows: int, table: Path | None) -> tuple[Pairs, Split]:
    """Return the pairs and their split."""
    pairs = Pairs(*synthetic(rows, 0)) if table is None else read_pairs(table, TrainingConfig())
    return pairs, split_pairs(pairs, validation=0.1, seed=0)


class Reference:
    """Training of the reference project: a DataLoader, one network, Adam."""

    def __init__(self, pairs: Pairs, rows: Tensor, hidden: int, loss: str):
        source, target = pairs.source[rows].float(), pairs.target[rows].float()
        torch.manual_seed(0)
        self.network = nn.Sequential(
            nn.Linear(source.shape[1], hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Linear(hidden, target.shape[1]),
        )
        self.loss = loss
        self.loader = DataLoader(TensorDataset(source, target), batch_size=64, shuffle=True)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=1e-3)

    def predict(self, source: Tensor) -> Tensor:
        """Compute translated embeddings, unit norm."""
        return F.normalize(self.network(F.normalize(source, dim=-1)), dim=-1)

    def epoch(self) -> None:
        """Train on all pairs once."""
        for source, target in self.loader:
            predicted, true = self.predict(source), F.normalize(target, dim=-1)
            if self.loss == "cosine":
                loss = (1 - F.cosine_similarity(predicted, true)).mean()
            elif self.loss == "mse":
                loss = F.mse_loss(predicted, true)
            else:
                loss = contrastive_loss(predicted, true)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()


def measure_stack(pairs: Pairs, split: Split, steps: int, rounds: int) -> None:
    """Time the reference's loop and the sweep's alternately on the same pairs."""
    rows = split.train[: 64 * steps]
    few = Split(train=rows, validation=split.validation, test=split.test)
    best = {"reference": float("inf"), "sweep": float("inf"), "batched": float("inf")}
    for _ in range(rounds):
        spent = 0.0
        for hidden, loss in RECIPES:
            reference = Reference(pairs, rows, hidden, loss)
            started = time.perf_counter()
            reference.epoch()
            spent += time.perf_counter() - started
        best["reference"] = min(best["reference"], spent)
        for name, batched in (("sweep", False), ("batched", True)):
            members = [
                Member(
                    f"{hidden}-{loss}",
                    TrainingConfig.reference(hidden_size=hidden, loss=loss).resolved(len(rows)),
                )
                for hidden, loss in RECIPES
            ]
            ends: list[float] = []
            group = Group(
                TrainingData(pairs, few),
                members,
                torch.device("cpu"),
                batched=batched,
                on_step=lambda running, share, ends=ends: ends.append(time.perf_counter()),
            )
            started = time.perf_counter()
            # Timed to the last step: the reference's loop does not validate.
            group.advance()
            best[name] = min(best[name], ends[-1] - started)
    scale = len(split.train) / len(rows) * 3 * 50 / 3600
    print(
        f"stack: {steps} steps of {len(RECIPES)} models: reference {best['reference']:.2f} s, "
        f"sweep {best['sweep']:.2f} s, as one batched computation {best['batched']:.2f} s"
    )
    print(
        f"stack: {best['reference'] / best['sweep']:.2f} times as fast as the reference (goal: "
        f"2.4); 18 models of 50 epochs: {best['reference'] * scale:.2f} h and "
        f"{best['sweep'] * scale:.2f} h, extrapolated"
    )


def recall(predicted: Tensor, target: Tensor) -> float:
    """Compute recall at 10."""
    return retrieval_metrics(predicted, target)["recall_at_10"]


def measure_target(pairs: Pairs, split: Split, epochs: int) -> None:
    """Time the default until it reaches the recall of each of the reference's recipes."""
    source = unit_norm(pairs.source[split.validation])
    target = unit_norm(pairs.target[split.validation])
    # The default noise on captions lowers their recall, in favor of images.
    chosen = TrainingConfig(monitor="recall_at_10", noise=0.0)
    curve: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()

        def watch(progress: TrainingProgress) -> None:
            if progress.step == 1 and progress.last is not None:
                score = progress.last.validation["recall_at_10"]
                curve.append((time.perf_counter() - started, score))

        report = train(pairs, folder, chosen, on_progress=watch)
        curve.append((report.seconds, report.history[-1].validation["recall_at_10"]))
    print(
        f"target: the default, {report.epochs_run} epochs, {report.seconds:.1f} s: recall at 10 "
        f"{report.metrics['recall_at_10']:.4f}"
    )
    gallery = int(report.history[0].validation["gallery"])
    places = torch.linspace(0, len(source) - 1, min(gallery, len(source))).long()
    for hidden, loss in RECIPES:
        reference = Reference(pairs, split.train, hidden, loss)
        started = time.perf_counter()
        for _ in range(epochs):
            reference.epoch()
        spent = time.perf_counter() - started
        with torch.no_grad():
            score = recall(reference.predict(source[places]), target[places])
        reached = next((seconds for seconds, own in curve if own >= score), None)
        verdict = (
            f"not reached, best {max(own for _, own in curve):.4f}"
            if reached is None
            else f"reached after {reached:.1f} s, {spent / reached:.1f} times faster (goal: 10)"
        )
        print(
            f"target: {hidden}-{loss}: reference {epochs} epochs, {spent:.1f} s, recall at 10 "
            f"{score:.4f}; {verdict}"
        )


def write_tables(folder: Path, rows: int, tables: int) -> list[Path]:
    """Write synthetic tables in parts."""
    paths = []
    for number in range(tables):
        path = folder / f"table{number}"
        with TableWriter(path, {"clip_text": CLIP, "clap_text": CLAP}) as writer:
            for start in range(0, rows // tables, 50_000):
                count = min(50_000, rows // tables - start)
                source, target = synthetic(count, 1_000 * number + start // 50_000)
                ids = [f"{number}-{start + row}" for row in range(count)]
                writer.append(ids, {}, {"clip_text": source, "clap_text": target})
        paths.append(path)
    return paths


def run_for_memory(folder: Path, epochs: int, batch_size: int) -> None:
    """Sweep the tables of a folder; print the memory of the imports and the peak memory."""
    imported = peak_bytes()
    tables = sorted(folder.glob("table*"))
    grid = SweepGrid(epochs=(epochs,), batch_size=(batch_size,))
    sweep(tables[0], folder / "out", plus=tables[1:], grid=grid)
    print(json.dumps([imported, peak_bytes()]))


def measure_memory(rows: int, many: int, batch_size: int, place: Path | None) -> None:
    """Measure peak memory of the sweep of 18, and of a sweep from a large table."""
    for count, tables, batch, goal in ((rows, 2, 64, 1.5), (many, 1, batch_size, 3.0)):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            write_tables(Path(folder), count, tables)
            command = [sys.executable, __file__, "run-sweep", "--place", folder]
            command += ["--epochs", "1", "--many-batch-size", str(batch)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            imported, all_of_it = json.loads(done.stdout.splitlines()[-1])
            print(
                f"memory: sweep of {count:,} pairs in {tables} tables: {all_of_it / 1e9:.2f} GB "
                f"peak (goal: under {goal} GB), {imported / 1e9:.2f} GB of it imports"
            )


def main(
    what: Annotated[list[str], typer.Argument(help="Measurements: stack, target, memory.")],
    table: Annotated[Path | None, typer.Option(help="Table of real pairs.")] = None,
    pairs: Annotated[int, typer.Option(help="Synthetic pairs.")] = 50_000,
    many_pairs: Annotated[int, typer.Option(help="Pairs of the table on disk.")] = 5_000_000,
    steps: Annotated[int, typer.Option(help="Timed steps per model.")] = 200,
    rounds: Annotated[int, typer.Option(help="Rounds of `stack`.")] = 3,
    epochs: Annotated[int, typer.Option(help="Epochs of the reference.")] = 50,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    many_batch_size: Annotated[int, typer.Option(help="Batch size with the table on disk.")] = 64,
    place: Annotated[Path | None, typer.Option(help="Folder for large files.")] = None,
) -> None:
    """Run the measurements one after the other."""
    torch.set_num_threads(threads)
    for name in what:
        match name:
            case "stack":
                measure_stack(*prepare(pairs, table), steps, rounds)
            case "target":
                measure_target(*prepare(pairs, table), epochs)
            case "memory":
                measure_memory(pairs, many_pairs, many_batch_size, place)
            case "run-sweep" if place is not None:
                run_for_memory(place, epochs, many_batch_size)
            case _:
                raise typer.BadParameter(f"Expected stack, target or memory, got {name}.")


if __name__ == "__main__":
    typer.run(main)
