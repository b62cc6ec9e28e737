"""Download of the files of published data sets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from clip2clap.core.errors import UserError
from clip2clap.core.files import as_path, replacing
from clip2clap.core.output_folder import writing_to

Published = Literal["audiocaps", "conceptual-captions", "wit"]
Split = Literal["train", "val", "test"]

_MAX_FILE_BYTES = 10_000_000_000
_URLS: dict[Published, str] = {
    "audiocaps": "https://raw.githubusercontent.com/cdjkim/audiocaps/master/dataset/",
    "conceptual-captions": "https://storage.googleapis.com/gcc-data/",
    "wit": "https://storage.googleapis.com/gresearch/wit/",
}
_PAGES: dict[Published, str] = {
    "audiocaps": "https://github.com/cdjkim/audiocaps",
    "conceptual-captions": "https://ai.google.com/research/ConceptualCaptions/download",
    "wit": "https://github.com/google-research-datasets/wit/blob/main/DATA.md",
}
_WIT_FILES: dict[Split, int] = {"train": 10, "val": 5, "test": 5}
_CONCEPTUAL_CAPTIONS_FILES = {
    "train": "Train/GCC-training.tsv",
    "val": "Validation/GCC-1.1.0-Validation.tsv",
}


def published_files(
    dataset: Published, split: Split, folder: str | Path, *, base_url: str | None = None
) -> tuple[Path, ...]:
    """Return the files of a published data set's split in a folder; download the missing ones.

    They come from the publisher's server, or from a mirror of that base URL; a message names the
    page to get a file from that can't be downloaded.
    """
    folder = as_path(folder)
    if dataset == "audiocaps":
        files = [f"{split}.csv"]
    elif dataset == "wit":
        count = _WIT_FILES[split]
        files = [f"wit_v1.{split}.all-{n:05}-of-{count:05}.tsv.gz" for n in range(count)]
    elif split in _CONCEPTUAL_CAPTIONS_FILES:
        files = [_CONCEPTUAL_CAPTIONS_FILES[split]]
    else:
        raise UserError(
            "Conceptual Captions has no published test captions: use train or val.", param="split"
        )
    base_url = base_url or _URLS[dataset]
    return tuple(
        # The authors' page adds the folder's name to the file's.
        _find_or_fetch([Path(file).name, file.replace("/", "_")], base_url + file, folder, dataset)
        for file in files
    )


def _find_or_fetch(names: Sequence[str], url: str, folder: Path, dataset: Published) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    from clip2clap.core.http import FetchError, fetch

    target = folder / names[0]
    try:
        with writing_to(folder), replacing(target) as partial, partial.open("wb") as file:
            fetch(url, max_bytes=_MAX_FILE_BYTES, allow_private=True, write=file.write)
    except FetchError as error:
        raise UserError(
            f"{target} does not exist and can't be fetched ({error}). Get it from "
            f"{_PAGES[dataset]} and name the file.",
            param="captions",
        ) from error
    return target
