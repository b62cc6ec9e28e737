"""Actors on Ray: processes of this machine or a cluster, each with models that it holds."""

import contextlib
import logging
import os
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from typing import Any

from clip2clap.core.errors import MissingExtraError, UserError, expect, one_line

_DEFAULT_ACTORS = 2
_PREPARING_CPUS = 0.5
_KNOCKING_S = 10.0
# Items per actor that are prepared or wait for it.
_ITEMS_AHEAD = 4


@dataclass(frozen=True)
class RayConfig:
    """Ray cluster that a run uses."""

    address: str | None = None
    """Address of a cluster with clip2clap and the same files; None starts one on this
    machine."""

    actors: int | None = None
    """Actors side by side; by default one per GPU, or two."""

    def __post_init__(self) -> None:
        expect(self.actors is None or self.actors > 0, "actors", "at least 1", self.actors)


class Stored:
    """Value that is stored once for all actors, each of which reads it once."""

    def __init__(self, reference: Any):
        self._reference = reference

    def read(self) -> Any:
        """Return the value."""
        import ray  # pyright: ignore[reportMissingImports]

        return ray.get(self._reference)


def require_ray() -> None:
    """Raise a `MissingExtraError` if Ray is not installed."""
    if find_spec("ray") is None:
        raise MissingExtraError(
            "Running on Ray needs the package ray: install it with `pip install 'clip2clap[ray]'`."
        )


def map_on_actors(
    actor_class: type,
    value: Any,
    method: str,
    items: Iterable[Any],
    config: RayConfig,
    *,
    on_gpu: bool = False,
    prepare: Callable[[Any], Any] | None = None,
) -> Generator[Any]:
    """Yield what a method of actors returns for each item, in the order of the items.

    Ray starts an actor that dies again, and repeats its items. A `UserError` of an actor, or if the
    cluster can't be reached, is raised here.

    Args:
        actor_class: Class of the actors, whose `__init__` takes no argument.
        value: Value that they need, such as models.
        method: Name of the method, which takes the `Stored` value and an item.
        items: Items, read a few per actor ahead.
        config: Cluster and number of actors.
        on_gpu: Give each actor a GPU.
        prepare: Function that runs on each item before, in a task of its own.

    Raises:
        MissingExtraError: If Ray is not installed.
        UserError: If the cluster can't be reached; what a method raises is raised too.
    """
    require_ray()
    import ray  # pyright: ignore[reportMissingImports]

    with _connected(ray, config.address, config.actors or _DEFAULT_ACTORS):
        gpus = int(ray.cluster_resources().get("GPU", 0)) if on_gpu else 0
        count = config.actors or gpus or _DEFAULT_ACTORS
        task: Any = prepare and ray.remote(num_cpus=_PREPARING_CPUS, max_retries=-1)(prepare)
        remote: Any = ray.remote(
            num_cpus=1, num_gpus=int(on_gpu), max_restarts=-1, max_task_retries=-1
        )(actor_class)
        # It goes with every item, since a restarted actor may lack arguments of its `__init__`.
        stored = Stored(ray.put(value))
        actors = [remote.remote() for _ in range(count)]
        pending: deque[Any] = deque()
        try:
            for item, actor in zip(items, cycle(actors)):
                ready = item if prepare is None else task.remote(item)
                pending.append(getattr(actor, method).remote(stored, ready))
                if len(pending) > _ITEMS_AHEAD * count:
                    yield ray.get(pending.popleft())
            while pending:
                yield ray.get(pending.popleft())
        except UserError as error:  # Ray's own class, which has the original as its cause
            original = getattr(error, "cause", error)
            raise UserError(str(original), param=original.param) from error


@contextlib.contextmanager
def _connected(ray: Any, address: str | None, actors: int) -> Iterator[None]:
    if ray.is_initialized():
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        # One more than the actors, for a preparing task on the smallest machine.
        cpus = max(os.cpu_count() or 1, actors + 1)
        options |= {"num_cpus": cpus, "include_dashboard": False}
    try:
        if address is not None:
            _knock(address)
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


def _knock(address: str) -> None:
    """Raise an `OSError` if no server is at HOST:PORT, for which Ray would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), _KNOCKING_S).close()
