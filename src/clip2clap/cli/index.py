"""The verb `index`."""

from pathlib import Path
from typing import Any

from clip2clap.cli.checks import check_device, choose_device, require
from clip2clap.cli.loading import check_models
from clip2clap.cli.options.search import IndexOptions
from clip2clap.cli.progress import RunReport, progress_bar
from clip2clap.core.files import as_path
from clip2clap.search.files import find_roots

_DEFAULT_OUTPUT = Path("clip2clap-index")
_CHANGES = ("added", "changed", "moved", "removed")


def index(options: IndexOptions) -> None:
    """Index images, audio and texts, so that search finds any of them by any of them.

    Only files that are new or have changed are encoded. Files that are gone drop out, and those
    that were moved or renamed are recognized by their content.

    A file that cannot be read is skipped; the exit code is then 1.
    """
    folder = options.output or _DEFAULT_OUTPUT
    _check(options, as_path(folder))
    report = RunReport(options)
    found = _update(options, folder)
    report.lap("generate")
    for path, reason in sorted(found.failures.items()):
        report.skip(path, reason)
    counts = {name: getattr(found, name) for name in ("files", *_CHANGES, "encoded")}
    report.results = {"folder": str(folder), **counts}
    parts = [f"{counts[name]} {name}" for name in _CHANGES if counts[name]]
    made = ", ".join(parts) or "nothing has changed"
    report.summarize(f"{made}; {found.files} entries in {folder}", 0)
    report.end()


def _check(options: IndexOptions, folder: Path) -> None:
    find_roots(options.inputs or [])
    is_index = (folder / "index.json").is_file()
    require(options.inputs or is_index, "inputs", "name the files and folders to index.")
    require(not folder.is_file(), "output", f"{folder} is a file, not a folder.")
    check_models(options)
    check_device(options.device, None)


def _update(options: IndexOptions, folder: Path) -> Any:
    from clip2clap.search.update import update_index

    with progress_bar("Indexing") as progress:
        task = progress.add_task("", total=None)
        return update_index(
            options.inputs or [],
            folder,
            forget=options.forget or [],
            clip=options.clip,
            clap=options.clap,
            device=choose_device(options.device),
            batch_size=options.batch_size,
            on_progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
