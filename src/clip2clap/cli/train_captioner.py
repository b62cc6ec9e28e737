"""The verb `train-captioner`."""

import shlex
from dataclasses import fields
from typing import Any

from clip2clap.cli.checks import check_device, check_exists, check_model_folder, choose_device
from clip2clap.cli.loading import check_models
from clip2clap.cli.options.training import TrainCaptioner
from clip2clap.cli.progress import RunReport, is_main_process, share_bar


def train_captioner(options: TrainCaptioner) -> None:
    """Train a captioner on a table of embeddings with captions.

    With the embeddings of the captions themselves, in place of those of images or audio, no images
    and no audio are needed: noise and the means of the modalities bridge the gap. A column of
    embeddings of images or audio of the same model, paired or not, supplies their mean.

    A run that was stopped continues where it stopped if it is started again in the same way.
    `accelerate launch -m clip2clap train-captioner ...` spreads it over processes or GPUs.
    """
    check_exists(options.table, "table")
    check_device(options.device, None)
    check_models(options)

    from clip2clap.training.captioning.config import CaptionerConfig

    given = {each.name: getattr(options, each.name, None) for each in fields(CaptionerConfig)}
    given["caption"] = options.caption_column
    given = {name: value for name, value in given.items() if value is not None}
    if "patience" in given:
        given["patience"] = given["patience"] or None
    config = CaptionerConfig(**given)
    table = options.table.absolute()
    output = options.output or table.with_name(f"{table.name}-captioner")
    check_model_folder(output)
    report = RunReport(options)
    training = _train(options, output, config)
    if not is_main_process():
        return
    for each in training.examples:
        report.show(f"{each['caption']}\n  {each['generated']}")
    best = training.best
    loss = "" if best is None else f", validation loss {best.validation_loss:.3f}"
    report.show(
        f"{training.output}: {training.captions['train']} captions, epoch {training.best_epoch} "
        f"of {len(training.history)} kept{loss} ({training.seconds:.1f} s).",
        f"Next: clip2clap caption INPUT --captioner {shlex.quote(str(output))}",
    )
    report.end(training.to_dict())


def _train(options: TrainCaptioner, output: Any, config: Any) -> Any:
    from clip2clap.training.captioning.train import train_captioner as train

    with share_bar("Training") as advance:

        def on_progress(state: Any) -> None:
            best = "" if state.best is None else f", best loss {state.best.validation_loss:.3f}"
            epochs = state.epoch - 1 + state.step / state.steps
            advance(epochs / config.epochs, f"Epoch {state.epoch}{best}")

        _, report = train(
            options.table,
            output,
            config,
            device=None if options.device == "auto" else str(choose_device(options.device)),
            overwrite=options.overwrite,
            on_progress=on_progress,
        )
    return report
