"""The verb `train-speech`."""

import shlex
from pathlib import Path
from typing import Any

from clip2clap.cli.checks import check_device, check_exists, check_model_folder, require
from clip2clap.cli.loading import check_models
from clip2clap.cli.options.training import TrainSpeech
from clip2clap.cli.progress import RunReport, is_main_process, share_bar
from clip2clap.cli.train import config_settings

_FOLDER = "clip2clap-train-speech"


def train_speech(options: TrainSpeech) -> None:
    """Distill a CLIP into a speech encoder, on spoken captions of images.

    What is said comes near to the CLIP's embeddings of the caption and of its image. Written is
    the encoder of the best epoch, a folder that every --speech-encoder takes.

    A run that was stopped continues where it stopped if it is started again in the same way.
    `accelerate launch -m clip2clap train-speech ...` spreads it over processes or GPUs.
    """
    check_exists(options.data, "data")
    check_device(options.device, None)
    check_models(options)
    if options.image_dir is not None:
        require(options.image_dir.is_dir(), "image_dir", f"{options.image_dir} is not a folder.")
    is_own = options.preset in (None, "saliclip")
    require(is_own, "preset", f"expected saliclip, got {options.preset}.")

    from clip2clap.training.speech.config import SpeechTrainingConfig

    make = SpeechTrainingConfig if options.preset is None else SpeechTrainingConfig.saliclip
    config = make(**config_settings(options, SpeechTrainingConfig))
    output = options.output or Path(_FOLDER)
    check_model_folder(output)
    report = RunReport(options)

    from clip2clap.embeddings.datasets.spoken import read_spoken_captions

    captions = read_spoken_captions(
        options.data, image_dir=options.image_dir, partial=options.partial
    )
    training = _train(options, captions, output, config)
    if not is_main_process():
        return
    for source, reason in training.unreadable.items():
        report.skip(source, reason)
    best = training.best
    kept = "" if best is None else f", held-out MRR {best.validation['mrr']:.3f}"
    measured = [
        f"Speech to {kind} on {training.measured_on}: recall at 1 "
        f"{100 * found['recall_at_1']:.1f} %, at 10 {100 * found['recall_at_10']:.1f} % of "
        f"{found['gallery']:.0f} (shuffled {100 * training.shuffled[kind]['recall_at_1']:.1f} %)."
        for kind, found in training.metrics.items()
    ]
    report.show(
        f"{training.output}: {training.captions['train']} spoken captions, epoch "
        f"{training.best_epoch} of {len(training.history)} kept{kept} ({training.seconds:.1f} s).",
        *measured,
        "Next: clip2clap classify IMAGES --speech say.wav --speech-encoder "
        f"{shlex.quote(str(output))}",
    )
    report.end(training.to_dict())


def _train(options: TrainSpeech, captions: Any, output: Path, config: Any) -> Any:
    from clip2clap.training.speech.train import train_speech_encoder

    with share_bar("Training") as advance:

        def on_progress(state: Any) -> None:
            best = "" if state.best is None else f", best MRR {state.best.validation['mrr']:.3f}"
            epochs = state.epoch - 1 + state.step / state.steps
            advance(epochs / config.epochs, f"Epoch {state.epoch}{best}")

        _, training = train_speech_encoder(
            captions,
            output,
            options.clip or ("clip-vit-base-patch16" if options.preset else "demo"),
            config,
            device=None if options.device == "auto" else options.device,
            overwrite=options.overwrite,
            trackers=options.tracker or (),
            on_targets=lambda share: advance(0, f"Encoding targets, {100 * share:.0f} %"),
            on_progress=on_progress,
        )
    return training
