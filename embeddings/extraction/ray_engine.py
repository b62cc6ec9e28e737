"""Extraction on Ray: tasks download the images of groups, actors preprocess and embed them."""

import contextlib
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from clip2clap.core.actors import RayConfig, Stored, map_on_actors
from clip2clap.core.concurrency import batched
from clip2clap.embeddings.datasets.base import Row
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.extraction.plan import EncoderPlan, Encoders
from clip2clap.embeddings.extraction.stages import (
    EmbeddedGroup,
    download_images,
    embed_group,
    preprocess_captions,
    preprocess_row,
    rows_in_group,
)

_PREPROCESSING_THREADS = 4


def embed_on_ray(
    rows: Iterable[Row], plan: EncoderPlan, download: DownloadConfig, config: RayConfig
) -> Generator[EmbeddedGroup]:
    """Yield the embedded groups of rows in their order; every actor loads the encoders."""

    def fetch(group: list[Row]) -> list[Row]:
        with contextlib.ExitStack() as stack:
            return list(download_images(group, download, stack))

    return map_on_actors(
        _Embedder,
        plan,
        "embed",
        batched(rows, rows_in_group(plan)),
        config,
        on_gpu=plan.device.startswith("cuda"),
        prepare=fetch,
    )


class _Embedder:
    """Actor that holds the loaded encoders."""

    def __init__(self) -> None:
        self._encoders: Encoders | None = None

    def embed(self, plan: Stored, group: list[Row]) -> EmbeddedGroup:
        encoders = self._encoders = self._encoders or plan.read().load()
        with ThreadPoolExecutor(_PREPROCESSING_THREADS) as pool:
            ready = list(pool.map(partial(preprocess_row, encoders=encoders), group))
        return embed_group(preprocess_captions(ready, encoders), encoders)
