"""Pictures of recordings, painted batch by batch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clip2clap.cli.audio_inputs import Recording
from clip2clap.cli.progress import RunReport

if TYPE_CHECKING:
    from PIL.Image import Image

    from clip2clap.inference.audio_to_image import AudioToImagePipeline

_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Painting:
    """What was painted of a recording, the best picture first."""

    pictures: "list[Image]"
    """Those that are kept."""

    similarities: list[float] | None
    """Cosine similarity of each to the vector asked for; None without a CLIP."""

    nearest: list[tuple[str, float]]
    """Names nearest to that vector with their cosine similarities; none without a CLIP."""

    seed: int
    """What the noise came from: with it, the pictures can be painted again alone."""


@dataclass
class PictureReport(RunReport):
    """What a run that makes pictures or films of recordings did."""

    pictures: list[dict[str, Any]] = field(default_factory=list)
    """For each recording its pictures' files, and what to know about them."""

    films: list[dict[str, Any]] = field(default_factory=list)
    """For each film its file, the recordings in it, its frames and its length."""


def paint(
    pipeline: "AudioToImagePipeline",
    batches: Iterable[list[Recording]],
    calls: dict[str, Any],
    *,
    weights: Sequence[float] | None,
    names: Sequence[str],
    keep: int,
    seed: int,
    advance: Callable[[float], None],
) -> "Iterator[tuple[Recording, Painting | None]]":
    """Paint recordings, batch by batch.

    Args:
        pipeline: What paints them.
        batches: Recordings, those that cannot be read among them.
        calls: What the pipeline is called with beside them.
        weights: Mix each batch into one item by these weights; nothing is painted of it if one of
            its recordings cannot be read.
        names: What to choose the nearest names from.
        keep: How many of an item's pictures are kept.
        seed: The recording at place i gets a generator of its own, seeded with this plus i.
        advance: Called with the share of a recording that is done, as steps go by.

    Yields:
        Each recording in order with its pictures, or None if it cannot be read; of a mix the first.
    """
    import torch

    for batch in batches:
        readable = [recording for recording in batch if recording.audio is not None]
        if weights is not None and len(readable) < len(batch):
            yield from ((recording, None) for recording in batch if recording.audio is None)
            continue
        advance(0 if weights is not None else len(batch) - len(readable))
        items = readable[:1] if weights is not None else readable
        paintings: dict[int, Painting] = {}
        if items:
            rounds = -(-len(items) * calls["num_images_per_prompt"] // calls["batch_size"])
            share = len(items) / rounds

            def count_step(
                running: Any, step: int, *_: Any, share: float = share
            ) -> dict[str, Any]:
                advance(share / running.num_timesteps)
                return {}

            seeds = [seed + recording.index for recording in items]
            result = pipeline(
                [recording.audio for recording in readable if recording.audio is not None],
                weights=weights,
                generator=[torch.Generator().manual_seed(number) for number in seeds],
                callback_on_step_end=count_step,
                **calls,
            )
            nearest = _nearest(pipeline, result.image_embeds, names)
            for place, recording in enumerate(items):
                each = calls["num_images_per_prompt"]
                pictures: list[Any] = list(result.images[place * each : (place + 1) * each])
                values = None
                if result.similarities is not None:
                    values = result.similarities[place].tolist()
                    order = sorted(range(each), key=lambda at, v=values: -v[at])
                    pictures = [pictures[at] for at in order]
                    values = [values[at] for at in order][:keep]
                paintings[recording.index] = Painting(
                    pictures[:keep], values, nearest[place], seeds[place]
                )
        for recording in batch if weights is None else items:
            yield recording, paintings.get(recording.index)


def _nearest(
    pipeline: "AudioToImagePipeline", image_embeds: Any, names: Sequence[str]
) -> list[list[tuple[str, float]]]:
    if not names or pipeline.clip is None or "text" not in pipeline.clip.modalities:
        return [[] for _ in image_embeds]
    return [row[:_NAMES_SHOWN] for row in pipeline.nearest_labels(image_embeds, names)]
