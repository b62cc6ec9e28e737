"""Make the next thing while this one is used."""

import threading
from collections.abc import Generator, Iterable
from queue import SimpleQueue
from typing import Any, TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterable[Item]) -> Generator[Item]:
    """Make the next item in a thread while the caller works on this one.

    Beside the item given out there is never more than one. The thread dies with the process, so
    that an interrupted run does not wait for a slow server; if the caller goes no further, it
    ends with the item at hand.
    """
    wanted = threading.Semaphore(1)
    made: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    given_up = threading.Event()

    def make() -> None:
        iterator = iter(items)
        try:
            while True:
                wanted.acquire()
                if given_up.is_set():
                    return
                made.put(("item", next(iterator)))
        except StopIteration:
            made.put(("end", None))
        except BaseException as error:  # handed over to the caller, whatever it is
            made.put(("error", error))
        finally:
            # Generators let go of their files and threads.
            getattr(iterator, "close", bool)()

    threading.Thread(target=make, daemon=True).start()
    try:
        while True:
            what, value = made.get()
            if what == "end":
                return
            if what == "error":
                raise value
            wanted.release()
            yield value
    finally:
        given_up.set()
        wanted.release()
