"""Generation of an audio file once more, from its tags."""

import os
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from clip2clap.core.errors import UserError, one_line
from clip2clap.inference.batch.description import (
    CALL_SETTINGS,
    describe_models,
    describe_scheduler,
    scheduler_settings,
)


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
        "scheduler": scheduler_settings(pipeline.scheduler),
        "low_memory": pipeline._low_memory,
        "names": {
            part: os.fspath(each) if isinstance(each, str | os.PathLike) else None
            for part, each in pipeline._given.items()
            if each is not None
        },
    }


def restore_scheduler(pipeline: Any, tags: Mapping[str, Any]) -> None:
    """Load the scheduler that tags name into a pipeline that has another.

    Raises:
        UserError: If its settings in the tags are damaged.
    """
    import diffusers

    wanted = tags["models"].get("scheduler")
    scheduler_class = getattr(diffusers, wanted["name"], None) if wanted else None
    is_scheduler = isinstance(scheduler_class, type) and issubclass(
        scheduler_class, diffusers.SchedulerMixin
    )
    if not is_scheduler or describe_scheduler(pipeline.scheduler) == wanted:
        return
    try:
        pipeline.scheduler = cast(Any, scheduler_class).from_config(tags["run"]["scheduler"])
    except Exception as error:  # its constructor may raise anything
        raise UserError(
            f"The settings of the scheduler in the tags are damaged ({one_line(error)}).",
            param="sound",
        ) from error


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
    # Without the setting, a file is from before drafts were ranked by default.
    call: dict[str, Any] = {"draft_candidates": False}
    call |= {name: settings[name] for name in CALL_SETTINGS if name in settings}
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
