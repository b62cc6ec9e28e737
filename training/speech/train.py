"""Training of one speech encoder, from spoken captions to a folder."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clip2clap.core.card import CARD_FILE
from clip2clap.core.output_folder import sole_run
from clip2clap.embeddings.datasets.spoken import SpokenCaptions, read_spoken_captions
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.metrics.retrieval import retrieval_metrics
from clip2clap.training.accelerating import start_accelerator
from clip2clap.training.checkpoint import load_checkpoint, train_resumably
from clip2clap.training.report import EpochRecord, EpochReport
from clip2clap.training.run_folder import REPORT_FILE, RunFolder
from clip2clap.training.speech.config import SpeechTrainingConfig
from clip2clap.training.speech.data import fingerprint_of, read_data
from clip2clap.training.speech.networks import new_speech_model
from clip2clap.training.speech.trainer import OnProgress, SpeechTrainer

if TYPE_CHECKING:
    from accelerate import Accelerator

_TARGETS_FILE = "targets.safetensors"


@dataclass(frozen=True)
class SpeechReport(EpochReport):
    """Report of a speech encoder's training, as in `training.json`.

    Attributes:
        output: Output folder.
        settings: `SpeechTrainingConfig` as plain values.
        data: Fingerprint of captions, files and CLIP.
        clip: Name of the CLIP.
        captions: Number of spoken captions in `train`, `validation` and `test`.
        history: Loss curves.
        best_epoch: Best epoch, whose weights are saved.
        stopped_early: True if patience ran out before the epochs did.
        resumed_after: Epoch of the checkpoint that the run was resumed from, if it was.
        seconds: Duration of training over all attempts.
        measured_on: Split of the metrics below.
        metrics: Retrieval metrics of speech to `text` and to `image`.
        shuffled: Control: the same with each caption's target replaced by another's.
        unreadable: Reason why a spoken caption, or its image, was left out, by its id.
    """

    output: str | None
    settings: dict[str, Any]
    data: str
    clip: str
    captions: dict[str, int]
    history: list[EpochRecord]
    best_epoch: int | None
    stopped_early: bool
    resumed_after: int | None
    seconds: float
    measured_on: str
    metrics: dict[str, dict[str, float]]
    shuffled: dict[str, dict[str, float]]
    unreadable: dict[str, str]


def train_speech_encoder(
    captions: str | Path | SpokenCaptions,
    output: str | Path | None,
    clip: str | Path | ClipEncoder = "demo",
    config: SpeechTrainingConfig | None = None,
    *,
    device: str | None = None,
    overwrite: bool = False,
    checkpoint_seconds: float = 30.0,
    trackers: Sequence[str] = (),
    on_targets: Callable[[float], None] | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[SpeechEncoder, SpeechReport]:
    """Distill a CLIP into a speech encoder, save it, and report.

    A killed run resumes and ends with the same weights; a finished run is not repeated.
    `accelerate launch` spreads each batch over its processes.

    Args:
        captions: Spoken captions, or what `read_spoken_captions` reads.
        output: Output folder, also of checkpoints; None writes nothing.
        clip: CLIP to distill, or its name.
        config: Settings; the defaults if None.
        device: Device; accelerate's choice if None.
        overwrite: Replace an encoder or run with other settings in `output`.
        checkpoint_seconds: Least time between two checkpoints, in seconds.
        trackers: accelerate's trackers that log the curves too, such as `tensorboard`.
        on_targets: Called with the share of targets that are encoded.
        on_progress: Called after every step.

    Returns:
        The encoder of the best epoch, on the CPU, in evaluation mode, and the report.

    Raises:
        UserError: If the captions cannot be read or split; if there is no such CLIP, backbone,
            device or tracker; if `output` holds something else; if training diverges.
    """
    config = config or SpeechTrainingConfig()
    if not isinstance(captions, SpokenCaptions):
        captions = read_spoken_captions(captions)
    folder = None if output is None else Path(output)
    accelerator = _start(device, folder, trackers)
    if not isinstance(clip, ClipEncoder):
        clip = ClipEncoder.from_pretrained(clip, device=accelerator.device)
    fingerprint, is_main = fingerprint_of(captions.rows, clip), accelerator.is_main_process
    with sole_run(folder) if folder is not None and is_main else nullcontext():
        runs = None
        if folder is not None:
            with accelerator.main_process_first():
                runs = RunFolder(folder, config, fingerprint, overwrite=overwrite and is_main)
            if runs.is_finished:
                report = SpeechReport.read(folder / REPORT_FILE)
                return SpeechEncoder.from_pretrained(folder), report
        trainer = _new_trainer(
            captions, clip, config, accelerator, runs, fingerprint, on_targets, on_progress
        )
        _train(trainer, runs, accelerator, checkpoint_seconds)
        return _finish(trainer, clip, fingerprint, runs)


def _finish(
    trainer: SpeechTrainer, clip: ClipEncoder, fingerprint: str, runs: RunFolder | None
) -> tuple[SpeechEncoder, SpeechReport]:
    """Return the best encoder and the report, which the main process writes."""
    encoder = trainer.best_encoder()
    folder = None if runs is None else runs.path
    report = _report(trainer, encoder, clip, fingerprint, folder)
    if runs is not None and trainer.accelerator.is_main_process:
        _publish(runs, encoder, report)
    trainer.accelerator.end_training()
    return encoder, report


def _start(device: str | None, folder: Path | None, trackers: Sequence[str]) -> "Accelerator":
    from accelerate import DistributedDataParallelKwargs

    # Some backbones have weights that a batch does not use, such as those of masked frames.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return start_accelerator(device, folder, trackers, unused)


def _new_trainer(
    captions: SpokenCaptions,
    clip: ClipEncoder,
    config: SpeechTrainingConfig,
    accelerator: "Accelerator",
    runs: RunFolder | None,
    fingerprint: str,
    on_targets: Callable[[float], None] | None,
    on_progress: OnProgress | None,
) -> SpeechTrainer:
    # Names of checkpoints are checked before thousands of targets are encoded.
    model, extractor = new_speech_model(config, clip.space("text"))
    with accelerator.main_process_first():
        data = read_data(
            captions,
            clip,
            config,
            cache=None if runs is None else runs.path / _TARGETS_FILE,
            fingerprint=fingerprint,
            on_progress=on_targets,
        )
    return SpeechTrainer(
        data,
        config,
        model,
        extractor,
        accelerator,
        run=None if runs is None else runs.identity,
        on_progress=on_progress if accelerator.is_main_process else None,
    )


def _train(
    trainer: SpeechTrainer, runs: RunFolder | None, accelerator: "Accelerator", every_s: float
) -> None:
    """Train to the end; every process resumes, and the main one writes checkpoints."""
    if accelerator.trackers or accelerator.log_with:
        plain = {name: str(value) for name, value in asdict(trainer.config).items()}
        name = "speech" if runs is None else runs.path.resolve().name
        accelerator.init_trackers(name, config=plain)
    checkpoint = None if runs is None else runs.checkpoint
    if checkpoint is not None and not accelerator.is_main_process:
        if checkpoint.is_file():
            trainer.restore(*load_checkpoint(checkpoint))
        checkpoint = None
    accelerator.wait_for_everyone()
    train_resumably(trainer, checkpoint, save_every_s=every_s)


def _report(
    trainer: SpeechTrainer,
    encoder: SpeechEncoder,
    clip: ClipEncoder,
    fingerprint: str,
    folder: Path | None,
) -> SpeechReport:
    state, split, config = trainer.progress, trainer.data.split, trainer.config
    rows, embeds = trainer.encode(split.measured_rows.tolist())
    metrics: dict[str, dict[str, float]] = {}
    shuffled: dict[str, dict[str, float]] = {}
    order = torch.Generator().manual_seed(config.seed)
    for kind, targets in trainer.data.targets.items():
        places, target = targets.of(rows)
        if len(places) > 1:
            cycle = torch.randperm(len(places), generator=order)
            other = torch.empty_like(cycle)
            other[cycle] = cycle.roll(1)
            metrics[kind] = retrieval_metrics(embeds[places], target)
            shuffled[kind] = retrieval_metrics(embeds[places], target[other])
    return SpeechReport(
        output=None if folder is None else str(folder),
        settings=asdict(config),
        data=fingerprint,
        clip=clip.space("text").model_id,
        captions={name: len(part) for name, part in vars(split).items()},
        history=state.history,
        best_epoch=state.best_epoch,
        stopped_early=0 < len(state.history) < config.epochs,
        resumed_after=trainer.resumed_after,
        seconds=round(state.seconds, 3),
        measured_on=split.measured_on,
        metrics=metrics,
        shuffled=shuffled,
        unreadable=trainer.unreadable,
    )


def _publish(runs: RunFolder, encoder: SpeechEncoder, report: SpeechReport) -> None:
    name = runs.path.resolve().name
    facts = {
        "recipe": {**report.settings, "clip": report.clip, "captions": report.captions["train"]},
        "data": report.data,
        "metrics": {
            f"speech to {kind}, {metric}": value
            for kind, found in report.metrics.items()
            for metric, value in found.items()
        },
    }

    def save(scratch: Path) -> None:
        if (runs.path / CARD_FILE).is_file():
            shutil.copy(runs.path / CARD_FILE, scratch)
        encoder.save_pretrained(scratch, name=name, facts=facts)

    runs.publish_with(save, report.to_dict())
    (runs.path / _TARGETS_FILE).unlink(missing_ok=True)
