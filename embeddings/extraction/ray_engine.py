"""Extraction on Ray: tasks download the images of groups, actors preprocess and embed them.

Embedded groups come back in the order of their rows. Ray repeats the groups of an actor or a
machine that dies.
"""

import contextlib
import logging
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import cycle
from typing import Any

from clip2clap.core.concurrency import batched
from clip2clap.core.errors import MissingExtraError, UserError, one_line
from clip2clap.embeddings.datasets.base import Row
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.extraction.plan import EncoderPlan, Encoders, RayConfig
from clip2clap.embeddings.extraction.stages import (
    EmbeddedGroup,
    download_images,
    embed_group,
    preprocess_captions,
    preprocess_row,
    rows_in_group,
)

try:
    import ray  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise MissingExtraError(
        "Extraction on Ray needs the package ray: install it with `pip install 'clip2clap[ray]'`."
    ) from error

_DEFAULT_ACTORS = 2
_PREPROCESSING_THREADS = 4
_DOWNLOADING_CPUS = 0.5
# Groups per actor that are downloaded or wait to be embedded.
_GROUPS_AHEAD = 4


def embed_on_ray(
    rows: Iterable[Row], plan: EncoderPlan, download: DownloadConfig, config: RayConfig
) -> Generator[EmbeddedGroup]:
    """Yield the embedded groups of rows in their order.

    Every actor loads the encoders. A `UserError` of a task, or if the cluster can't be reached, is
    raised here.
    """
    on_gpu = plan.device.startswith("cuda")
    with _connected(config.address, config.actors or _DEFAULT_ACTORS):
        gpus = int(ray.cluster_resources().get("GPU", 0)) if on_gpu else 0
        count = config.actors or gpus or _DEFAULT_ACTORS
        fetch: Any = ray.remote(num_cpus=_DOWNLOADING_CPUS, max_retries=-1)(_download)
        embedder: Any = ray.remote(
            num_cpus=1, num_gpus=int(on_gpu), max_restarts=-1, max_task_retries=-1
        )(_Embedder)
        embedders = [embedder.remote(plan) for _ in range(count)]
        pending: deque[Any] = deque()
        try:
            for group, each in zip(batched(rows, rows_in_group(plan)), cycle(embedders)):
                pending.append(each.embed.remote(fetch.remote(group, download)))
                if len(pending) > _GROUPS_AHEAD * count:
                    yield ray.get(pending.popleft())
            while pending:
                yield ray.get(pending.popleft())
        except UserError as error:  # Ray's own class, which has the original as its cause
            original = getattr(error, "cause", error)
            raise UserError(str(original), param=original.param) from error


@contextlib.contextmanager
def _connected(address: str | None, actors: int) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # One more than the actors, for a download on the smallest machine.
        cpus = max(os.cpu_count() or 1, actors + 1)
        options |= {"num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(address=address, **options)
    except Exception as error:  # Ray raises plain ones, as of a node that does not start
        where = "a Ray cluster on this machine" if address is None else address
        reason = one_line(error, limit=200)
        raise UserError(
            f"{where} can't be used ({reason}). Check the address.", param="address"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _download(group: list[Row], config: DownloadConfig) -> list[Row]:
    with contextlib.ExitStack() as stack:
        return list(download_images(group, config, stack))


class _Embedder:
    """Actor that holds the loaded encoders."""

    def __init__(self, plan: EncoderPlan):
        self._plan = plan

    @cached_property
    def _encoders(self) -> Encoders:
        return self._plan.load()

    def embed(self, group: list[Row]) -> EmbeddedGroup:
        with ThreadPoolExecutor(_PREPROCESSING_THREADS) as pool:
            ready = list(pool.map(partial(preprocess_row, encoders=self._encoders), group))
        return embed_group(preprocess_captions(ready, self._encoders), self._encoders)
