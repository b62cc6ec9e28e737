"""Tags of generated audio files, from which they are generated once more."""

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from clip2clap.core.errors import UserError, is_integer
from clip2clap.core.files import as_path, is_local_url, is_url
from clip2clap.inference.batch.manifest import VERSION, Entry
from clip2clap.media.images import download_image, load_image
from clip2clap.media.writing import AudioFileOptions

TAGS = (
    *("version", "clip2clap", "input", "sha256", "prompt", "negative_prompt", "seed", "seconds"),
    *("settings", "models"),
)
"""Entries of a manifest's line that the tags of its files have."""

SAMPLE_IMAGE = "skimage.data.chelsea"
"""Name of the image that comes with scikit-image: a cat."""

_DTYPES = {"float32", "float16", "bfloat16", "float64"}
# Far above what a run has, so that tags of unknown origin start no more.
_MOST_ITEMS, _MOST_THREADS = 100_000, 1024


def make_tags(entry: Entry, run: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Return the tags of one of an entry's files, of which rank 1 is the most similar."""
    return {**{name: entry[name] for name in TAGS}, "run": run, "rank": rank}


def check_tags(tags: Mapping[str, Any], name: str) -> None:
    """Check that tags are those of generated audio.

    Raises:
        UserError: If they are not, or of a later version.
    """
    if isinstance(tags.get("version"), int) and tags["version"] > VERSION:
        raise UserError(
            f"{name} has tags of version {tags['version']}, written by clip2clap "
            f"{tags.get('clip2clap')}; this one reads version {VERSION}. Install that one."
        )
    try:
        known = _is_complete(tags)
    except (KeyError, TypeError, AttributeError):
        known = False
    if not known:
        raise UserError(f"{name} has tags, but not those of audio that clip2clap generated.")


def _is_complete(tags: Mapping[str, Any]) -> bool:
    """Return True if tags have all that is read of them, in its types; else that, or an error."""
    settings, run = tags["settings"], tags["run"]
    kept = settings["num_candidates" if settings["keep_candidates"] else "num_variations"]
    texts = [run["device"], settings["scheduler"], tags["clip2clap"]]
    texts += [each[key] for each in tags["models"].values() for key in ("name", "fingerprint")]
    fields = {field.name for field in dataclasses.fields(AudioFileOptions)}
    return (
        all(key in tags for key in TAGS)
        and all(isinstance(each, str) for each in texts)
        and all(isinstance(name, str | None) for name in run["names"].values())
        and all(isinstance(tags[name], str | None) for name in ("input", "prompt", "sha256"))
        and (tags["prompt"] is not None or None not in (tags["input"], tags["sha256"]))
        and set(run["dtypes"].values()) <= _DTYPES
        and isinstance(run["scheduler"], Mapping)
        and isinstance(run["low_memory"], bool)
        and all(is_integer(run[name]) for name in ("items", "place", "batch_size", "threads"))
        and 0 <= run["place"] < run["items"] <= _MOST_ITEMS
        and 1 <= run["threads"] <= _MOST_THREADS
        and is_integer(kept)
        and is_integer(tags["rank"])
        and 1 <= tags["rank"] <= kept <= _MOST_ITEMS
        and set(settings["file"]) == fields
    )


def read_image(source: str, *, allow_private: bool = False) -> bytes:
    """Return the bytes of an image file, of one at a URL, or of the sample image.

    Raises:
        UserError: If it cannot be read.
    """
    if source == SAMPLE_IMAGE:
        # Reading through skimage.io would import scipy.
        return (resources.files("skimage.data") / "chelsea.png").read_bytes()
    if is_url(source):
        return download_image(source, allow_private or is_local_url(source))
    if not as_path(source).is_file():
        load_image(source)  # raises
    return as_path(source).read_bytes()


def load_input(
    tags: Mapping[str, Any],
    image: str | None,
    *,
    sound: Path | None = None,
    allow_private: bool = False,
) -> Any:
    """Load the image, or return the prompt, that tags were made for.

    Args:
        tags: Tags of an audio file.
        image: File or URL of the image; by default the one that was used.
        sound: The audio file. A relative path of the image is also looked for from its folder and
            from those above, since the run may have been called in another folder than this.
        allow_private: Also download from private addresses.

    Raises:
        UserError: If the image cannot be read, or is another than then.
    """
    if tags["prompt"] is not None:
        return tags["prompt"]
    source = str(image or _find_input(tags, sound))
    if not (is_url(source) or source == SAMPLE_IMAGE or as_path(source).exists()):
        raise UserError(
            f"The image {source} does not exist. Say where it is now: image=...", param="image"
        )
    content: Any = read_image(source, allow_private=allow_private)
    if hashlib.sha256(content).hexdigest() != tags["sha256"]:
        raise UserError(
            f"The image {source} is not the one that was used: its SHA-256 differs. Give that one: "
            "image=...",
            param="image",
        )
    return load_image(content, name=source)


def _find_input(tags: Mapping[str, Any], sound: Path | None) -> str:
    """Return the file that tags name, from where it has their SHA-256, else as they name it."""
    source = tags["input"]
    if sound is None or source == SAMPLE_IMAGE or is_url(source) or as_path(source).is_absolute():
        return source
    places = [as_path(source), *(folder / source for folder in sound.absolute().parents)]
    return next((str(place) for place in places if _has_sha256(place, tags["sha256"])), source)


def _has_sha256(path: Path, sha256: str) -> bool:
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError:
        return False
