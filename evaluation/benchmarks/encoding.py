"""Embeddings of a benchmark's clips, kept in a table so that a killed run goes on."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from torch import Tensor

from clip2clap.core.concurrency import batched, map_ahead
from clip2clap.core.errors import UserError, one_line
from clip2clap.embeddings.encoders.clap import ClapEncoder
from clip2clap.embeddings.encoders.clip import ClipEncoder
from clip2clap.embeddings.encoders.speech import SpeechEncoder
from clip2clap.embeddings.table.reader import EmbeddingTable
from clip2clap.embeddings.table.writer import TableWriter
from clip2clap.evaluation.benchmarks.folders import Clip
from clip2clap.media.audio import load_audio

# A killed run loses fewer clips than these.
_CLIPS_PER_SHARD = 256
# Images between two reports of progress.
_IMAGES = 256


def encode_images(
    clip: ClipEncoder,
    images: Sequence[Any],
    *,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[Tensor, dict[int, str]]:
    """Encode images.

    Args:
        clip: CLIP.
        images: As for `ClipEncoder.encode_image`.
        on_progress: Called with the share that is done.

    Returns:
        Embeddings, shape (n, d), float32, unit norm, zero where an image cannot be read; and by
        place the reasons.
    """
    done = 0
    parts: list[Tensor] = []
    reasons: dict[int, str] = {}
    for part in batched(images, _IMAGES):
        embeds, unreadable = clip.encode_readable("image", part)
        parts.append(embeds)
        reasons |= {done + place: reason for place, reason in unreadable.items()}
        done += len(part)
        if on_progress is not None:
            on_progress(done / len(images))
    return torch.cat(parts), reasons


def encode_clips(
    encoder: ClapEncoder | SpeechEncoder,
    clips: Sequence[Clip],
    folder: Path,
    *,
    settings: Mapping[str, Any],
    batch_size: int = 16,
    on_progress: Callable[[float], None] | None = None,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Encode clips, or read those that an earlier run encoded.

    Args:
        encoder: CLAP with an audio encoder, or a speech encoder.
        clips: Clips of a benchmark.
        folder: Folder of the embedding table to write or to continue.
        settings: Settings of the table; with `int16`, resampled audio is rounded to 16 bits, as
            LAION's scripts do.
        batch_size: Clips per batch; it does not change the embeddings.
        on_progress: Called with the share that is done.

    Returns:
        Embeddings by clip id, shape (d,), float32, unit norm; and by clip id the reason why one
        cannot be read.

    Raises:
        TableError: If the folder holds something else, or embeddings with other settings.
        SpaceMismatchError: If it holds embeddings of another encoder.
    """
    column = f"{encoder.family}_audio"
    unreadable: dict[str, str] = {}
    with (
        TableWriter(
            folder,
            {column: encoder.space("audio")},
            dtype="float32",
            rows_per_shard=_CLIPS_PER_SHARD,
            settings=settings,
        ) as writer,
        ThreadPoolExecutor(min(torch.get_num_threads(), 8)) as pool,
    ):
        known = writer.known([clip.id for clip in clips])
        new = [clip for clip, is_known in zip(clips, known, strict=True) if not is_known]
        read = partial(_read, encoder, bool(settings["int16"]))
        done = len(clips) - len(new)
        with contextlib.closing(map_ahead(read, new, pool, ahead=2 * batch_size)) as inputs:
            for batch in batched(zip(new, inputs, strict=True), batch_size):
                unreadable |= {c.id: found for c, found in batch if isinstance(found, str)}
                good = {c.id: found for c, found in batch if not isinstance(found, str)}
                if good:
                    values = list(good.values())
                    embeds = encoder.encode_preprocessed("audio", values, batch_size=batch_size)
                    writer.append(list(good), {}, {column: embeds})
                done += len(batch)
                if on_progress is not None:
                    on_progress(done / len(clips))
    table = EmbeddingTable.open(folder)
    wanted = {clip.id for clip in clips}
    rows = zip(table.ids, table.tensor(column), strict=True)
    return {row_id: embed for row_id, embed in rows if row_id in wanted}, unreadable


def _read(encoder: ClapEncoder | SpeechEncoder, int16: bool, clip: Clip) -> Any:
    """Return the preprocessed audio of a clip, or the reason why it cannot be read."""
    try:
        waveform, rate = load_audio(clip.path)
        if int16:
            target = encoder.backend.sampling_rate
            waveform = soxr.resample(waveform, rate, target) if rate != target else waveform
            steps = np.trunc(np.clip(waveform, -1, 1) * 32767)
            waveform, rate = (steps / 32767).astype(np.float32), target
        return encoder.preprocess("audio", [(waveform, rate)])[0]
    except (UserError, OSError) as error:
        return one_line(error, limit=None)
