"""Check of a batch's output folder, which loads no models."""

from pathlib import Path

from clip2clap.core.output_folder import check_unused

PAGE_FILE = "index.html"


def check_folder(folder: Path) -> None:
    """Check an output folder before models are loaded.

    Raises:
        UserError: If another run is writing to it, or it has a manifest or a page that another
            program wrote.
    """
    # The command's help, which imports this module, does without imaging libraries.
    from clip2clap.inference.batch.manifest import check_manifest
    from clip2clap.report.audio_page import AudioPage

    check_unused(folder)
    check_manifest(folder)
    AudioPage(folder / PAGE_FILE, title="")
