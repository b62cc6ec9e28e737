"""The verb `finetune`."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from clip2clap.cli.checks import check_device, check_model_folder, choose_device, require
from clip2clap.cli.options.finetune import Finetune
from clip2clap.cli.progress import RunReport, is_main_process, share_bar
from clip2clap.cli.train import config_settings
from clip2clap.core.presets import check_name

_MODALITIES: dict[str, Any] = {"clap": "audio", "clip": "image"}


def finetune(options: Finetune) -> None:
    """Tune a CLAP or a CLIP on a folder of audio or images with one subfolder per label.

    Files are drawn to the texts of their labels; the text encoder stays as it is. Written is the
    encoder of the best epoch, a folder that every --clap or --clip takes. Its space has a
    fingerprint of its own, so translators of the former encoder refuse it.

    A run that was stopped continues where it stopped if it is started again in the same way.
    `accelerate launch -m clip2clap finetune ...` spreads it over processes or GPUs.
    """
    require(options.data.is_dir(), "data", f"{options.data} is not a folder.")
    expected = f"expected clap or clip, got {options.encoder!r}."
    require(options.encoder in (None, *_MODALITIES), "encoder", expected)
    is_own = options.preset in (None, "audioclip")
    require(is_own, "preset", f"expected audioclip, got {options.preset}.")
    for kind in ("clap", "clip"):
        if getattr(options, kind) is not None:
            check_name(getattr(options, kind), kind, param=kind)
    check_device(options.device, None)

    from clip2clap.training.finetuning.config import FineTuningConfig

    make = FineTuningConfig.audioclip if options.preset == "audioclip" else FineTuningConfig
    config = make(**config_settings(options, FineTuningConfig))
    output = options.output or Path("clip2clap-finetune")
    check_model_folder(output)
    report = RunReport(options)

    from clip2clap.training.finetuning.files import read_labeled_files

    modality = None if options.encoder is None else _MODALITIES[options.encoder]
    files = read_labeled_files(options.data, modality)
    with Console(stderr=True).status("Loading the models"):
        from clip2clap.embeddings.encoders.clap import ClapEncoder
        from clip2clap.embeddings.encoders.clip import ClipEncoder
        from clip2clap.training.finetuning.run import finetune as tune

        kind = "clap" if files.modality == "audio" else "clip"
        loader: Any = ClapEncoder if kind == "clap" else ClipEncoder
        name = getattr(options, kind) or "demo"
        encoder = loader.from_pretrained(name, device=choose_device(options.device))
    report.lap("load")
    with share_bar("Tuning") as advance:

        def on_progress(epoch: int, best: float) -> None:
            advance(epoch / config.epochs, f"Epoch {epoch}, best {best:.3f}")

        tuned = tune(encoder, files, output, config, on_progress=on_progress)
    report.lap("train")
    if not is_main_process():
        return
    for reason in tuned.unreadable.values():
        report.skip(None, reason)
    report.show(*_lines(tuned, f"{config.part} of {name}", output, len(files.labels)))
    report.show(f"Next: clip2clap classify FILES --{kind} {output}")
    report.end(asdict(tuned))


def _lines(tuned: Any, what: str, output: Path, labels: int) -> tuple[str, str]:
    """Return what was tuned, and the accuracies."""
    return (
        f"{output}: {what} tuned on {tuned.files['train']} files of {labels} labels, epoch "
        f"{tuned.best_epoch} of {len(tuned.history)} kept ({tuned.seconds:.1f} s).",
        f"Accuracy on {tuned.files['held out']} held-out files: {100 * tuned.before:.1f} % before, "
        f"{100 * tuned.best:.1f} % after.",
    )
