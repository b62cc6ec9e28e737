"""Training of one captioner, from a table to a folder."""

import hashlib
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from clip2clap.captioning.captioner import Captioner
from clip2clap.captioning.language_model import load_language_model
from clip2clap.core.output_folder import sole_run
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.training.accelerating import Processes, has_processes, start_accelerator
from clip2clap.training.captioning.config import CaptionerConfig
from clip2clap.training.captioning.data import CaptionedVectors, read_captions
from clip2clap.training.captioning.trainer import CaptionTrainer, OnProgress
from clip2clap.training.checkpoint import load_checkpoint, train_resumably
from clip2clap.training.report import EpochRecord, EpochReport
from clip2clap.training.run_folder import REPORT_FILE, RunFolder
from clip2clap.training.splits import split_pairs
from clip2clap.training.train import choose_device


@dataclass(frozen=True)
class CaptionerReport(EpochReport):
    """Report of a captioner's training, as in `training.json`.

    Attributes:
        output: Output folder.
        settings: `CaptionerConfig` as plain values.
        data: Fingerprint of embeddings and captions.
        captions: Number of captions in `train`, `validation` and `test`.
        history: Loss curves.
        best_epoch: Best epoch, whose weights are saved.
        stopped_early: True if patience ran out before the epochs did.
        resumed_after: Epoch of the checkpoint that the run was resumed from, if it was.
        seconds: Duration of training over all attempts.
        examples: A few held-out captions, and what the captioner says in their place.
    """

    output: str | None
    settings: dict[str, Any]
    data: str
    captions: dict[str, int]
    history: list[EpochRecord]
    best_epoch: int | None
    stopped_early: bool
    resumed_after: int | None
    seconds: float
    examples: list[dict[str, str]]


def train_captioner(
    table: str | Path | EmbeddingTable | CaptionedVectors,
    output: str | Path | None,
    config: CaptionerConfig | None = None,
    *,
    device: str | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 30.0,
    on_progress: OnProgress | None = None,
) -> tuple[Captioner, CaptionerReport]:
    """Train a captioner, save it, and report.

    A run that was killed resumes from its last checkpoint and ends with the same weights; a
    finished run is not repeated. `accelerate launch` spreads training over processes.

    Args:
        table: Embedding table with captions, its folder, or embeddings with captions.
        output: Output folder, also of checkpoints; None writes nothing.
        config: Settings; the defaults if None.
        device: Device, such as `cpu` or `cuda`; the best available if None.
        overwrite: Replace a captioner or run with other settings in `output`.
        checkpoint_seconds: Least time between two checkpoints, in seconds.
        on_progress: Called after every step.

    Returns:
        The captioner of the best epoch, on the CPU, in evaluation mode, and the report.

    Raises:
        UserError: If the table lacks a column or a caption, or cannot be split; if there is no such
            language model; if `output` holds something else; if training diverges.

    Examples:
        >>> import torch
        >>> from clip2clap.training.captioning import CaptionedVectors, CaptionerConfig
        >>> from clip2clap.training.captioning import train_captioner
        >>> data = CaptionedVectors.of(torch.randn(20, 8), ["a dog barks"] * 20)
        >>> config = CaptionerConfig(language_model="demo", epochs=1)
        >>> captioner, report = train_captioner(data, None, config)
        >>> len(report.history)
        1
    """
    config, folder = config or CaptionerConfig(), None if output is None else Path(output)
    data = table if isinstance(table, CaptionedVectors) else read_captions(table, config)
    fingerprint = f"{data.pairs.fingerprint()}-{_digest(data.captions)}"
    processes, place = _place(device)
    with sole_run(folder) if folder is not None and processes.is_main else nullcontext():
        runs = None
        if folder is not None:
            runs = _open_folder(folder, config, fingerprint, overwrite, processes)
            if runs.is_finished:
                kept = CaptionerReport.read(folder / REPORT_FILE)
                return Captioner.from_pretrained(folder), kept
        trainer = _new_trainer(data, config, place, runs, on_progress, processes)
        _train(trainer, None if runs is None else runs.checkpoint, checkpoint_seconds)
        captioner = trainer.best_captioner()
        report = _report(trainer, captioner, config, fingerprint, folder)
        if runs is not None and processes.is_main:
            runs.publish_with(captioner.save_pretrained, report.to_dict())
        processes.wait()
        return captioner, report


def _place(device: str | None) -> tuple[Processes, torch.device]:
    """Return the processes that train together, and the device of this one."""
    if not has_processes():
        return Processes(), choose_device(device)
    accelerator = start_accelerator(device, None)
    return Processes(accelerator), accelerator.device


def _open_folder(
    folder: Path, config: CaptionerConfig, data: str, overwrite: bool, processes: Processes
) -> RunFolder:
    """Open the output folder, in the main process first, which removes what is replaced."""
    accelerator = processes.accelerator
    with nullcontext() if accelerator is None else accelerator.main_process_first():
        runs = RunFolder(folder, config, data, overwrite=overwrite and processes.is_main)
    processes.wait()
    return runs


def _train(trainer: CaptionTrainer, checkpoint: Path | None, save_every_s: float) -> None:
    """Train to the end; the main process writes the checkpoints that all resume from."""
    processes = trainer.processes
    if not processes.is_main and checkpoint is not None and checkpoint.is_file():
        trainer.restore(*load_checkpoint(checkpoint))
    # The main process resumes, too, and then writes another one.
    processes.wait()
    own = checkpoint if processes.is_main else None
    train_resumably(trainer, own, save_every_s=save_every_s)


def _new_trainer(
    data: CaptionedVectors,
    config: CaptionerConfig,
    device: torch.device,
    runs: RunFolder | None,
    on_progress: OnProgress | None,
    processes: Processes,
) -> CaptionTrainer:
    space = data.pairs.source_space
    return CaptionTrainer(
        data,
        split_pairs(data.pairs, validation=config.validation, seed=config.seed),
        config.resolved(None if space is None else space.modality),
        *load_language_model(config.language_model),
        device,
        run=None if runs is None else runs.identity,
        on_progress=on_progress,
        processes=processes,
    )


def _report(
    trainer: CaptionTrainer,
    captioner: Captioner,
    config: CaptionerConfig,
    fingerprint: str,
    folder: Path | None,
) -> CaptionerReport:
    state, split, data = trainer.progress, trainer.split, trainer.data
    rows = split.measured_rows[:4]
    said = captioner.generate(data.pairs.source[rows].float(), modality=trainer.modality)
    report = CaptionerReport(
        output=None if folder is None else str(folder),
        settings=asdict(config),
        data=fingerprint,
        captions={name: len(part) for name, part in vars(split).items()},
        history=state.history,
        best_epoch=state.best_epoch,
        stopped_early=0 < len(state.history) < config.epochs,
        resumed_after=trainer.resumed_after,
        seconds=round(state.seconds, 3),
        examples=[
            {"caption": data.captions[row], "generated": text}
            for row, (text,) in zip(rows.tolist(), said, strict=True)
        ],
    )
    best = report.best
    captioner.facts |= {
        "recipe": {**asdict(trainer.config), "captions": report.captions["train"]},
        "metrics": {"validation_loss": None if best is None else best.validation_loss},
        "data": fingerprint,
    }
    return report


def _digest(captions: list[str]) -> str:
    return hashlib.blake2b("\n".join(map(str, captions)).encode(), digest_size=8).hexdigest()
