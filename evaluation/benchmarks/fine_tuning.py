"""Fine-tuning of a CLAP by official folds: tuned on all folds but one, measured on that one."""

import copy
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clip2clap.core.errors import UserError
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.zero_shot import ZeroShotClassifier
from clip2clap.evaluation.benchmarks.classification import check_folds
from clip2clap.evaluation.benchmarks.folders import Clip
from clip2clap.training.finetuning.config import FineTuningConfig
from clip2clap.training.finetuning.files import LabeledFiles
from clip2clap.training.finetuning.run import REPORT_FILE, finetune


def fine_tuned_scores(
    clap: ClapEncoder,
    clips: Sequence[Clip],
    labels: Sequence[str],
    folder: Path,
    config: FineTuningConfig,
    *,
    batch_size: int = 16,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Tensor, dict[int, int]]:
    """Tune the encoder once for each fold, on the other folds, and score the clips of that fold.

    The epoch is chosen on a share of the training files, so a fold's labels are never seen by the
    encoder that names it. The tuned encoders stay in the folder; folds that are finished are not
    tuned again, and one that was stopped goes on.

    Args:
        clap: Encoder in transformers' format; it stays as it is.
        clips: Clips with a fold and a label.
        labels: Texts of the labels.
        folder: Folder of the tuned encoders, `fold-1` and so on.
        config: Settings of the tuning.
        batch_size: Clips per batch of the measurement.
        on_progress: Called with the share of the folds that is done.

    Returns:
        Probability of each label, shape (n, labels), and the best epoch of each fold.

    Raises:
        UserError: If there are fewer than three folds, the encoder cannot be tuned, or a folder
            holds an encoder that was tuned in another way.
    """
    folds = np.array([clip.fold for clip in clips])
    targets = np.array([clip.label for clip in clips])
    scores, epochs = torch.zeros(len(clips), len(labels)), {}
    for number, fold in enumerate(names := check_folds(folds.tolist(), param="fine_tuning")):
        rows = np.flatnonzero(folds != fold).tolist()
        files = LabeledFiles(
            "audio", tuple(labels), tuple(clips[row].path for row in rows), targets[rows]
        )
        place = folder / f"fold-{fold}"
        epochs[fold] = _tune(clap, files, place, config)
        tuned = ClapEncoder.from_pretrained(place, device=clap.device)
        test = np.flatnonzero(folds == fold).tolist()
        embeds = tuned.encode_audio([clips[row].path for row in test], batch_size=batch_size)
        scores[test] = ZeroShotClassifier(tuned, labels).probabilities(embeds)
        if on_progress is not None:
            on_progress((number + 1) / len(names))
    return scores, epochs


def _tune(clap: ClapEncoder, files: LabeledFiles, folder: Path, config: FineTuningConfig) -> int:
    """Tune a copy of an encoder into a folder, unless it is there; return the best epoch."""
    report = folder / REPORT_FILE
    if report.is_file():
        found: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        before = clap.space("audio").fingerprint
        settings = json.loads(json.dumps(vars(config)))
        if (found["fingerprint_before"], found["settings"]) != (before, settings):
            raise UserError(
                f"{folder} holds an encoder that was tuned from another one or with other "
                "settings. Give another output folder, or remove it.",
                param="output",
            )
        return found["best_epoch"]
    return finetune(copy.deepcopy(clap), files, folder, config).best_epoch
