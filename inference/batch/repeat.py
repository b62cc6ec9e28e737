"""Generation of an audio file once more, from its tags."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from clip2clap.core.errors import UserError
from clip2clap.core.files import is_url
from clip2clap.inference.batch.description import CALL_SETTINGS, describe_models
from clip2clap.inference.batch.manifest import VERSION, Entry
from clip2clap.media.images import download_image, load_image
from clip2clap.media.writing import AudioFileOptions

TAGS = (
    *("version", "clip2clap", "input", "sha256", "prompt", "negative_prompt", "seed", "seconds"),
    *("settings", "models"),
)
"""Entries of a manifest's line that the tags of its files have."""

_SETTINGS = ("num_candidates", "num_variations", "keep_candidates", "scheduler", "file")
_RUN = ("items", "place", "batch_size", "threads", "device", "dtypes", "names")


def describe_run(pipeline: Any, *, items: int, place: int, batch_size: int) -> dict[str, Any]:
    """Return what the last bits of an output depend on, beside its manifest entry.

    The shapes of a batch select the kernels that compute it, and threads the order of their sums;
    what else is in the batch does not matter.

    Args:
        pipeline: Pipeline that generated it.
        items: Number of items of the call.
        place: Position of the output's item in it.
        batch_size: Number of candidates that were generated at once.
    """
    models = {n: part for n, part in pipeline.components.items() if isinstance(part, nn.Module)}
    dtypes = {name: next(model.parameters(), None) for name, model in models.items()}
    return {
        "items": items,
        "place": place,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "device": str(pipeline._execution_device),
        "dtypes": {
            name: str(weight.dtype).removeprefix("torch.")
            for name, weight in dtypes.items()
            if weight is not None
        },
        "names": pipeline.names,
    }


def make_tags(entry: Entry, run: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """Return the tags of one of an entry's files, of which rank 1 is the most similar."""
    return {**{name: entry[name] for name in TAGS}, "run": run, "rank": rank}


def check_tags(tags: Mapping[str, Any], name: str) -> None:
    """Check that tags are those of generated audio.

    Raises:
        UserError: If they are not, or of a later version.
    """
    complete = (*TAGS, "run", "rank")
    known = all(key in tags for key in complete) and all(
        isinstance(tags[key], Mapping) and all(part in tags[key] for part in parts)
        for key, parts in (("settings", _SETTINGS), ("run", _RUN))
    )
    fields = {field.name for field in dataclasses.fields(AudioFileOptions)}
    if not known or set(tags["settings"]["file"]) != fields:
        raise UserError(f"{name} has tags, but not those of audio that clip2clap generated.")
    if tags["version"] != VERSION:
        raise UserError(
            f"{name} has tags of version {tags['version']}, written by clip2clap "
            f"{tags['clip2clap']}; this one reads version {VERSION}. Install that one."
        )


def load_input(tags: Mapping[str, Any], image: str | None, *, allow_private: bool = False) -> Any:
    """Load the image, or return the prompt, that tags were made for.

    Args:
        tags: Tags of an audio file.
        image: File or URL of the image; by default the one that was used.
        allow_private: Also download from private addresses.

    Raises:
        UserError: If the image cannot be read, or is another than then.
    """
    if tags["prompt"] is not None:
        return tags["prompt"]
    source = str(image or tags["input"])
    content: Any = None
    if is_url(source):
        content = download_image(source, allow_private)
    elif (path := Path(source).expanduser()).is_file():
        content = path.read_bytes()
    else:
        raise UserError(
            f"The image {source} does not exist. Say where it is now: image=...", param="image"
        )
    if hashlib.sha256(content).hexdigest() != tags["sha256"]:
        raise UserError(
            f"The image {source} is not the one that was used: its SHA-256 differs. Give that one: "
            "image=...",
            param="image",
        )
    return load_image(content, name=source)


def check_models(pipeline: Any, tags: Mapping[str, Any]) -> None:
    """Check that a pipeline is made of the models that tags name.

    Raises:
        UserError: If one of them differs.
    """
    then, now = tags["models"], describe_models(pipeline)
    for part in sorted({*then, *now}):
        ours, theirs = now.get(part), then.get(part)
        if ours is None or theirs is None or ours["fingerprint"] != theirs["fingerprint"]:
            was, is_now = (
                f"{each['name']} ({each['fingerprint']})" if each else "none"
                for each in (theirs, ours)
            )
            raise UserError(
                f"The {part} is not the one that was used: it was {was}, and now is {is_now}.",
                param="sound",
            )


def repeat_audio(pipeline: Any, tags: Mapping[str, Any], value: Any) -> np.ndarray:
    """Generate the waveform of an audio file once more.

    The samples are the same to the last bit on one machine with equal library versions and as many
    threads of torch as then. The other items of its batch are replaced by copies of its own.

    Args:
        pipeline: Pipeline of the models that the tags name.
        tags: Tags of the file.
        value: Its image, or its prompt.

    Returns:
        Waveform at the pipeline's sampling rate, shape (samples,), float32.
    """
    settings, run = tags["settings"], tags["run"]
    kept = settings["num_candidates" if settings["keep_candidates"] else "num_variations"]
    call = {name: settings[name] for name in CALL_SETTINGS if name in settings}
    if tags["negative_prompt"] is not None:
        call["negative_prompt"] = [tags["negative_prompt"]] * run["items"]
    result = pipeline(
        **{"images" if tags["prompt"] is None else "prompt": [value] * run["items"]},
        **call,
        audio_length_in_s=tags["seconds"],
        num_variations=kept,
        batch_size=run["batch_size"],
        generator=[tags["seed"]] * run["items"],
    )
    return result.audios[run["place"] * kept + tags["rank"] - 1]
