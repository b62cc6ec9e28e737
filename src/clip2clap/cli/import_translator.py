"""The verb `import-translator`."""

from pathlib import Path
from typing import Any

from clip2clap.cli.checks import check_exists, check_model_folder, require
from clip2clap.cli.options.training import ImportTranslator
from clip2clap.cli.progress import RunReport
from clip2clap.core.presets import check_name


def import_translator(options: ImportTranslator) -> None:
    """Make a translator of a .pth file: the state dict of a perceptron with two hidden layers.

    The file is read without unpickling. --clip and --clap record the encoders that it was trained
    for, so that others are refused; without them, any encoder of its size is accepted.
    """
    check_exists(options.file, "file")
    for kind in ("clip", "clap"):
        if getattr(options, kind) is not None:
            check_name(getattr(options, kind), kind, param=kind)
    output = options.output or Path(f"{options.file.stem}-translator")
    check_model_folder(output)
    taken = (output / "config.json").exists() and not options.overwrite
    require(not taken, "overwrite", f"{output} already holds a config.json. Give --overwrite.")
    report = RunReport(options)

    from clip2clap.embeddings.encoders.base import read_space
    from clip2clap.translator.importing import import_state_dict
    from clip2clap.translator.saving import Provenance

    spaces: list[Any] = [None, None]
    if options.clip is not None:
        spaces[0] = read_space(options.clip, family="clip", modality="image")
    if options.clap is not None:
        spaces[1] = read_space(options.clap, family="clap", modality="text")
    translator = import_state_dict(options.file, Provenance(*spaces))
    translator.save_pretrained(output)
    sizes = [translator.source_dim, translator.target_dim]
    report.show(f"{output}: {sizes[0]} to {sizes[1]} values, from {options.file}.")
    if None in spaces:
        report.show("It does not record both encoders: give --clip and --clap, so that it does.")
    report.end({"output": str(output), "source_dim": sizes[0], "target_dim": sizes[1]})
