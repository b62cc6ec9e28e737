"""Read-ahead in threads, and batches."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Executor, Future
from itertools import islice
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield items in lists of `size`, the last one shorter if need be.

    Examples:
        >>> list(batched("abcde", 2))
        [['a', 'b'], ['c', 'd'], ['e']]
    """
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], pool: Executor, *, ahead: int
) -> Generator[Result]:
    """Yield `function(item)` in the order of the items, computed in a pool, which is left open.

    The items are read in the caller's thread, `ahead` of them beyond the one whose result is next.
    """
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def read_ahead(items: Iterable[Item]) -> Generator[Item]:
    """Yield items while a thread reads ahead by one item.

    The thread is a daemon, so that an interrupted run does not wait for a slow server; when the
    generator is closed, the thread stops after the current item and closes the iterator.
    """
    wanted = threading.Semaphore(1)
    results: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    closed = threading.Event()

    def read() -> None:
        iterator = iter(items)
        try:
            while True:
                wanted.acquire()
                if closed.is_set():
                    return
                results.put(("item", next(iterator)))
        except StopIteration:
            results.put(("end", None))
        except BaseException as error:  # any error is raised again in the caller's thread
            results.put(("error", error))
        finally:
            # Generators release their files and threads.
            getattr(iterator, "close", bool)()

    threading.Thread(target=read, name="clip2clap-reading", daemon=True).start()
    try:
        while True:
            what, value = results.get()
            if what == "end":
                return
            if what == "error":
                raise value
            wanted.release()
            yield value
    finally:
        closed.set()
        wanted.release()
