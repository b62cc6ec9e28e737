"""Spoken captions with the frozen embeddings of their texts and images."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clip2clap.core.concurrency import batched
from clip2clap.core.errors import UserError
from clip2clap.embeddings.datasets.spoken import SpokenCaption, SpokenCaptions
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.training.checkpoint import load_checkpoint, read_values, save_checkpoint
from clip2clap.training.losses import distinct_targets
from clip2clap.training.pairs import Pairs
from clip2clap.training.speech.config import SpeechTrainingConfig
from clip2clap.training.splits import Split, split_pairs

_ITEMS = 256


@dataclass(frozen=True)
class Targets:
    """Frozen embeddings of texts or of images, and which of them each caption has."""

    embeds: Tensor
    """Distinct ones, shape (m, d), unit norm, float32."""

    places: Tensor
    """Row in `embeds` of each caption, -1 for none, shape (n,)."""

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the places in a batch of rows that have a target, and these targets."""
        places = self.places[rows]
        has = places >= 0
        return has.nonzero().flatten(), self.embeds[places[has]]

    def bank(self) -> Tensor:
        """Return all distinct targets, as `bank_loss` takes them."""
        return distinct_targets(self.embeds)


@dataclass(frozen=True)
class SpeechData:
    """Spoken captions, their split, and their targets by kind: `text` and `image`."""

    rows: Sequence[SpokenCaption]
    split: Split
    targets: dict[str, Targets]
    weights: dict[str, float]
    unreadable: dict[str, str]
    """Reason why a caption, or its image, was left out, by the caption's id."""

    @property
    def kind(self) -> str:
        """Kind of target that picks the best epoch.

        The one with the greater weight of those that held-out captions have.
        """
        held_out = self.split.validation
        there = [kind for kind, own in self.targets.items() if (own.places[held_out] >= 0).any()]
        return max(there, key=lambda kind: self.weights[kind])


def fingerprint_of(rows: Sequence[SpokenCaption], clip: ClipEncoder) -> str:
    """Return a fingerprint of captions, names of files, and the CLIP that is distilled."""
    digest = hashlib.blake2b(clip.space("text").fingerprint.encode(), digest_size=8)
    for row in rows:
        parts = [row.id, row.caption, row.split, row.item]
        parts += [
            each if isinstance(each, bytes) else _name(each) for each in (row.audio, row.image)
        ]
        digest.update(repr(parts).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()


def _name(path: Path | None) -> str | None:
    return None if path is None else path.name


def read_data(
    captions: SpokenCaptions,
    clip: ClipEncoder,
    config: SpeechTrainingConfig,
    *,
    cache: Path | None,
    fingerprint: str,
    on_progress: Callable[[float], None] | None = None,
) -> SpeechData:
    """Split captions, and encode their texts and images with the CLIP to distill.

    Args:
        captions: Spoken captions.
        clip: CLIP.
        config: Settings.
        cache: File that keeps the targets, for a run that is resumed; None keeps none.
        fingerprint: Of the data, by which the file is known.
        on_progress: Called with the share of the targets that is encoded.

    Raises:
        UserError: If there is no target of a weight above 0, the captions cannot be split, or
            there are only images, and none can be read.
    """
    rows = captions.rows
    weights = {"text": config.text_weight, "image": config.image_weight}
    keys: dict[str, list[Any]] = {
        "text": [row.caption for row in rows],
        "image": [row.image for row in rows],
    }
    wanted = [kind for kind in keys if weights[kind] > 0 and any(map(bool, keys[kind]))]
    if not wanted:
        there = [kind for kind in keys if any(map(bool, keys[kind]))]
        raise UserError(
            f"There is nothing to distill into: the captions have {' and '.join(there)} only, "
            "whose weight is 0.",
            param=f"{there[0]}_weight",
        )
    distinct = {kind: [key for key in dict.fromkeys(keys[kind]) if key] for kind in wanted}
    found = _cached(cache, fingerprint, distinct)
    if found is None:
        found = _encode(distinct, clip, on_progress)
        if cache is not None:
            save_checkpoint(cache, found, {"data": fingerprint})
    targets = {kind: _targets(keys[kind], distinct[kind], found[kind]) for kind in wanted}
    unreadable = dict(captions.unreadable)
    if "image" in targets:
        unreadable |= _unreadable_images(rows, targets["image"], clip)
    targets = {kind: each for kind, each in targets.items() if len(each.embeds)}
    if not targets:
        raise UserError(f"No image can be read: {next(iter(unreadable.values()))}", param="data")
    kept = torch.stack([each.places >= 0 for each in targets.values()]).any(dim=0)
    rows = [row for row, is_kept in zip(rows, kept.tolist(), strict=True) if is_kept]
    targets = {kind: replace(each, places=each.places[kept]) for kind, each in targets.items()}
    return SpeechData(rows, _split(rows, config), targets, weights, unreadable)


def _split(rows: Sequence[SpokenCaption], config: SpeechTrainingConfig) -> Split:
    splits = [row.split or "" for row in rows]
    pairs = Pairs(
        torch.ones(len(rows), 1),
        torch.ones(len(rows), 1),
        items=[row.item for row in rows],
        splits=splits if all(splits) else None,
    )
    return split_pairs(pairs, validation=config.validation, seed=config.seed)


def _unreadable_images(
    rows: Sequence[SpokenCaption], targets: Targets, clip: ClipEncoder
) -> dict[str, str]:
    """Return by caption the reason why its image, which is not among the targets, is not read."""
    places = zip(rows, targets.places.tolist(), strict=True)
    broken = [row for row, place in places if row.image is not None and place < 0]
    _, reasons = clip.encode_readable("image", [row.image for row in broken])
    return {broken[place].id: reason for place, reason in reasons.items()}


def _targets(keys: Sequence[Any], distinct: Sequence[Any], embeds: Tensor) -> Targets:
    """Return the targets of captions with these keys; an embedding of zeros is none."""
    is_read = embeds.any(dim=1)
    read = [key for key, own in zip(distinct, is_read.tolist(), strict=True) if own]
    at = {key: place for place, key in enumerate(read)}
    return Targets(embeds[is_read], torch.tensor([at.get(key, -1) for key in keys]))


def _cached(
    cache: Path | None, fingerprint: str, distinct: dict[str, list[Any]]
) -> dict[str, Tensor] | None:
    if cache is None or not cache.is_file() or read_values(cache).get("data") != fingerprint:
        return None
    found, _ = load_checkpoint(cache)
    is_whole = {kind: len(found.get(kind, ())) for kind in distinct} == {
        kind: len(keys) for kind, keys in distinct.items()
    }
    return found if is_whole else None


def _encode(
    distinct: dict[str, list[Any]],
    clip: ClipEncoder,
    on_progress: Callable[[float], None] | None,
) -> dict[str, Tensor]:
    """Return embeddings of texts and images, zeros of images that cannot be read."""
    total, done = sum(map(len, distinct.values())), 0
    found: dict[str, Tensor] = {}
    for kind, keys in distinct.items():
        parts = []
        for part in batched(keys, _ITEMS):
            is_text = kind == "text"
            parts.append(
                clip.encode_text(part) if is_text else clip.encode_readable("image", part)[0]
            )
            done += len(part)
            if on_progress is not None:
                on_progress(done / total)
        found[kind] = torch.cat(parts)
    return found
