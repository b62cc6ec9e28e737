"""Extraction on Ray Data: the stages with a pool of encoders, on this machine or a cluster.

One task reads the remaining rows in groups, tasks download their images, actors preprocess and
embed them; groups come back in the order of the source. Ray repeats the groups of an actor or a
machine that dies.
"""

import contextlib
import copy
import logging
import os
import pickle
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pyarrow as pa

from clip2clap.core.concurrency import batched
from clip2clap.core.errors import MissingExtraError, UserError, one_line
from clip2clap.embeddings.datasets.base import Row
from clip2clap.embeddings.download.config import DownloadConfig
from clip2clap.embeddings.extraction.plan import EncoderPlan, RayConfig
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
    from ray.data import ActorPoolStrategy, DataContext, Datasource, read_datasource  # pyright: ignore[reportMissingImports]
    from ray.data.block import BlockMetadata  # pyright: ignore[reportMissingImports]
    from ray.data.datasource import ReadTask  # pyright: ignore[reportMissingImports]
except ImportError as error:
    raise MissingExtraError(
        "Extraction on Ray needs the package ray: install it with `pip install 'clip2clap[ray]'`."
    ) from error

_DEFAULT_ACTORS = 2
_PREPROCESSING_THREADS = 4
# Shares of a CPU that differ between stages: Ray would fuse stages with equal ones, and download in
# the task that reads.
_READING_CPUS = 0.25
_DOWNLOADING_CPUS = 0.5


def embed_on_ray(
    read_rows: Callable[[], Iterable[Row]],
    plan: EncoderPlan,
    download: DownloadConfig,
    config: RayConfig,
) -> Generator[EmbeddedGroup]:
    """Yield the embedded groups of rows in their order, computed by the stages on Ray.

    The remaining rows are read on the machine that Ray chooses, and every actor loads the encoders.
    A `UserError` of a stage, or if the cluster can't be reached, is raised here.
    """
    actors = config.actors
    on_gpu = plan.device.startswith("cuda")
    with _connected(config.address, actors or _DEFAULT_ACTORS):
        if actors is None:
            gpus = int(ray.cluster_resources().get("GPU", 0)) if on_gpu else 0
            actors = gpus or _DEFAULT_ACTORS
        with _one_group_a_block():
            read: Any = read_datasource(
                _Groups(read_rows, rows_in_group(plan)),
                override_num_blocks=1,
                num_cpus=_READING_CPUS,
            )
            full = read.map(_download, fn_args=(download,), num_cpus=_DOWNLOADING_CPUS)
            groups = full.map(
                _Embed,
                fn_constructor_args=(plan,),
                compute=ActorPoolStrategy(size=actors),
                num_cpus=1,
                num_gpus=1 if on_gpu else None,
            )
        try:
            for row in groups.iter_rows():
                yield pickle.loads(row["group"])
        except Exception as error:
            raise _user_error(error) from error


def _user_error(error: BaseException) -> BaseException:
    """Return the `UserError` among the causes of an error of Ray, otherwise the error itself."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            original = getattr(cause, "cause", cause)
            return UserError(str(original), param=getattr(original, "param", None))
        cause = getattr(cause, "cause", None) or cause.__cause__
    return error


@contextlib.contextmanager
def _connected(address: str | None, actors: int) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # One more than the actors, for the reader and a download on the smallest machine.
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


@contextlib.contextmanager
def _one_group_a_block() -> Iterator[None]:
    """Keep Ray Data from merging groups, and preserve their order."""
    context = DataContext.get_current()
    before = copy.copy(context.execution_options), context.target_max_block_size
    bars = context.enable_progress_bars
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.execution_options.preserve_order = True
    context.target_max_block_size = 1
    context.enable_progress_bars = False
    try:
        yield
    finally:
        context.execution_options, context.target_max_block_size = before
        context.enable_progress_bars = bars


class _Groups(Datasource):
    """Datasource of the remaining rows in order: one pickled group per row."""

    def __init__(self, read_rows: Callable[[], Iterable[Row]], size: int):
        super().__init__()
        self._read_rows = read_rows
        self._size = size

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
    ) -> list[ReadTask]:
        read_rows, size = self._read_rows, self._size

        def read() -> Iterator[pa.Table]:
            for group in batched(read_rows(), size):
                yield pa.table({"group": pa.array([pickle.dumps(group)], pa.binary())})

        metadata = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(read, metadata)]


def _download(row: dict[str, Any], config: DownloadConfig) -> dict[str, Any]:
    """Download the images of a group."""
    group: list[Row] = pickle.loads(row["group"])
    with contextlib.ExitStack() as stack:
        return {"group": pickle.dumps(list(download_images(group, config, stack)))}


class _Embed:
    """Actor that holds the loaded encoders."""

    def __init__(self, plan: EncoderPlan):
        self._encoders = plan.load()
        self._pool = ThreadPoolExecutor(_PREPROCESSING_THREADS, "clip2clap-preprocessing")

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        group: list[Row] = pickle.loads(row["group"])
        ready = list(self._pool.map(partial(preprocess_row, encoders=self._encoders), group))
        batch = embed_group(preprocess_captions(ready, self._encoders), self._encoders)
        return {"group": pickle.dumps(batch)}
