"""Running of a benchmark: encoding, measuring, and the files of the report."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, replacing
from clip2clap.core.output_folder import writing_to
from clip2clap.core.version import __version__
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.evaluation.benchmarks.classification import Accuracy, Classification
from clip2clap.evaluation.benchmarks.encoding import encode_clips
from clip2clap.evaluation.benchmarks.fine_tuning import fine_tuned_scores
from clip2clap.evaluation.benchmarks.folders import Benchmark, Clip
from clip2clap.evaluation.benchmarks.protocols import PUBLISHED, TRAINED_ON, Protocol
from clip2clap.evaluation.benchmarks.retrieval import measure_caption_retrieval
from clip2clap.training.finetuning.config import FineTuningConfig

RESULTS_FILE, PREDICTIONS_FILE = "benchmark.json", "predictions.csv"

FORMAT = 1
"""Version of the results' layout."""


@dataclass(frozen=True)
class BenchmarkConfig:
    """Options of a benchmark's run."""

    protocols: Sequence[Protocol] = ()
    """Protocols of zero-shot classification; not used by retrieval."""

    linear_probe: bool = False
    """Whether to fit a linear probe too, of data sets with labels."""

    fine_tuning: FineTuningConfig | None = None
    """Settings to fine-tune the encoder by folds with, too; None does not."""

    partial: bool = False
    """Whether to leave out clips that cannot be read."""

    batch_size: int = 16
    """Clips per batch; it does not change the embeddings."""

    resamples: int = 1000
    """Bootstrap draws."""

    seed: int = 0
    """Seed of the draws and of the controls."""


def run_benchmark(
    benchmark: Benchmark,
    clap: ClapEncoder,
    folder: str | Path,
    config: BenchmarkConfig,
    *,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Measure a CLAP on a benchmark, and write `benchmark.json`, and `predictions.csv` for labels.

    Embeddings are kept in the folder, so that a killed run goes on, and further protocols cost
    little.

    Args:
        benchmark: Benchmark, as `read_benchmark` reads it.
        clap: CLAP with audio and text encoders.
        folder: Folder of the results; created if it does not exist.
        config: Protocols and options.
        on_progress: Called with the share of the clips that is encoded.

    Returns:
        Content of `benchmark.json`.

    Raises:
        UserError: If the CLAP has no audio or no text encoder, a clip cannot be read, or the folder
            cannot be written to or holds embeddings of other clips.
    """
    space, _ = (clap.space(modality) for modality in ("audio", "text"))
    folder = as_path(folder)
    runner = _Runner(benchmark, clap, folder, config, on_progress)
    found = runner.classify() if benchmark.labels else []
    retrieved = [] if benchmark.labels else runner.retrieve()
    about: dict[str, Any] = {
        "encoder": space.model_id,
        "fingerprint": space.fingerprint,
        "unreadable": runner.unreadable,
        "resamples": config.resamples,
        "seed": config.seed,
        "trained_on": list(runner.seen_folds),
    }
    return write_results(folder, benchmark, found, about, retrieved=retrieved)


def write_results(
    folder: Path,
    benchmark: Benchmark,
    found: Sequence[tuple[list[Clip], Accuracy]],
    about: Mapping[str, Any],
    *,
    retrieved: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """Write `benchmark.json`, and `predictions.csv` for labels, and return the former's content.

    Args:
        folder: Folder of the results.
        benchmark: Benchmark.
        found: Accuracies, each with the clips that it is of.
        about: Encoder, draws, and clips that could not be read, with the reason.
        retrieved: Metrics of retrieval, of data sets without labels.
    """
    results: dict[str, Any] = {
        "format": FORMAT,
        "clip2clap": __version__,
        "benchmark": benchmark.name,
        "title": benchmark.title,
        **about,
        "clips": len(benchmark.clips) - len(about["unreadable"]),
        "expected": benchmark.expected,
        "lacking": benchmark.lacking,
        "labels": list(benchmark.labels),
        "results": [_plain(one) for _, one in found] or list(retrieved),
        "published": [asdict(row) for row in PUBLISHED.get(benchmark.name, ())],
    }
    with writing_to(folder):
        with replacing(folder / RESULTS_FILE) as path:
            path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        if found:
            _write_predictions(folder / PREDICTIONS_FILE, benchmark, found)
    return results


class _Runner:
    """Measurements of one CLAP on one benchmark."""

    def __init__(
        self,
        benchmark: Benchmark,
        clap: ClapEncoder,
        folder: Path,
        config: BenchmarkConfig,
        on_progress: Callable[[float], None] | None,
    ):
        self.unreadable: dict[str, str] = {}
        self.seen_folds = TRAINED_ON.get((clap.space("audio").model_id, benchmark.name), ())
        self._benchmark, self._clap, self._folder = benchmark, clap, folder
        self._config, self._on_progress = config, on_progress
        self._draws: dict[str, Any] = {"resamples": config.resamples, "seed": config.seed}
        self._encoded: dict[bool, tuple[list[Clip], Tensor]] = {}

    def encode(self, *, int16: bool = False) -> tuple[list[Clip], Tensor]:
        """Return the clips that can be read, and their embeddings, shape (n, d)."""
        if int16 in self._encoded:
            return self._encoded[int16]
        benchmark = self._benchmark
        with writing_to(self._folder):
            embeds, unreadable = encode_clips(
                self._clap,
                benchmark.clips,
                self._folder / ("embeddings-int16" if int16 else "embeddings"),
                settings={"benchmark": benchmark.name, "int16": int16},
                batch_size=self._config.batch_size,
                on_progress=self._on_progress,
            )
        if unreadable and not self._config.partial:
            raise UserError(
                f"{len(unreadable)} clips cannot be read: {next(iter(unreadable.values()))} Get "
                "them again, or give partial=True to leave them out.",
                param="folder",
            )
        clips = [clip for clip in benchmark.clips if clip.id in embeds]
        if not clips:
            raise UserError(f"No clip of {benchmark.title} can be read.", param="folder")
        self.unreadable = unreadable
        self._encoded[int16] = clips, torch.stack([embeds[clip.id] for clip in clips])
        return self._encoded[int16]

    def classify(self) -> list[tuple[list[Clip], Accuracy]]:
        """Return the accuracies, each with the clips that it is of."""
        benchmark, config = self._benchmark, self._config
        found: list[tuple[list[Clip], Accuracy]] = []
        for protocol in config.protocols:
            clips, embeds = self.encode(int16=protocol.int16)
            prompts = protocol.prompts(benchmark.name, benchmark.labels)
            accuracy = self._measure(clips).zero_shot(
                embeds,
                self._clap.encode_text(prompts),
                protocol=protocol.name,
                description=protocol.describe(benchmark.name),
            )
            found.append((clips, accuracy))
        if config.linear_probe:
            clips, embeds = self.encode()
            described = (
                "logistic regression of standardized embeddings, trained on the other official "
                "folds; penalty chosen on one of these"
            )
            probe = self._measure(clips).linear_probe(embeds, description=described)
            found.append((clips, probe))
        if config.fine_tuning is not None:
            found.append(self._fine_tune(config.fine_tuning))
        return found

    def _fine_tune(self, config: FineTuningConfig) -> tuple[list[Clip], Accuracy]:
        clips, _ = self.encode()
        scores, epochs = fine_tuned_scores(
            self._clap,
            clips,
            self._benchmark.labels,
            self._folder / "fine-tuned",
            config,
            batch_size=self._config.batch_size,
            on_progress=self._on_progress,
        )
        held_out = f"{100 * config.validation:g} %"
        accuracy = self._measure(clips).scored(
            "fine-tuned",
            f"{len(epochs)} folds",
            scores,
            description=(
                f"{config.part} tuned on the other official folds, the epoch chosen on {held_out} "
                "of their clips"
            ),
            fine_tuning=asdict(config),
            best_epochs={str(fold): epoch for fold, epoch in epochs.items()},
        )
        return clips, accuracy

    def _measure(self, clips: Sequence[Clip]) -> Classification:
        return classification_of(self._benchmark, clips, self._config, self.seen_folds)

    def retrieve(self) -> list[dict[str, Any]]:
        """Return the metrics of both directions."""
        clips, embeds = self.encode()
        captions = [(place, text) for place, clip in enumerate(clips) for text in clip.captions]
        texts = self._clap.encode_text([text for _, text in captions])
        owners = [place for place, _ in captions]
        found = measure_caption_retrieval(embeds, texts, owners, **self._draws)
        return [asdict(one) for one in found]


def classification_of(
    benchmark: Benchmark,
    clips: Sequence[Clip],
    config: BenchmarkConfig,
    seen_folds: Sequence[int] = (),
) -> Classification:
    """Return what measures the labels of a benchmark's clips that can be read."""
    return Classification(
        torch.tensor([clip.label for clip in clips]),
        [clip.fold for clip in clips],
        [clip.item for clip in clips],
        num_labels=len(benchmark.labels),
        seen_folds=seen_folds,
        resamples=config.resamples,
        seed=config.seed,
    )


def _plain(accuracy: Accuracy) -> dict[str, Any]:
    values = {name: value for name, value in vars(accuracy).items() if name != "predicted"}
    for name in ("accuracy", "top_5", "unseen", "shuffled"):
        values[name] = values[name] and asdict(values[name])
    return {**values, "folds": {str(fold): value for fold, value in accuracy.folds.items()}}


def _write_predictions(
    path: Path, benchmark: Benchmark, found: Sequence[tuple[list[Clip], Accuracy]]
) -> None:
    """Write the label that each method gave to each clip."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["clip", "fold", "label", "method", "protocol", "predicted"])
        for clips, one in found:
            for clip, predicted in zip(clips, one.predicted.tolist(), strict=True):
                labels = benchmark.labels
                row = [clip.id, clip.fold, labels[clip.label], one.method, one.protocol]
                table.writerow([*row, labels[predicted]])
