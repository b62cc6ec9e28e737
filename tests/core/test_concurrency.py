"""Order, read-ahead and errors of the threads."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from clip2clap.core.concurrency import batched, map_ahead, read_ahead


def test_the_last_batch_is_shorter() -> None:
    assert list(batched(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(batched([], 3)) == []


def test_reading_ahead_keeps_order_stays_close_and_hands_over_errors() -> None:
    made: list[int] = []
    got: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number
        raise OSError("the disk is gone")

    def consume() -> None:
        for number in read_ahead(numbers()):
            got.append(number)
            assert len(made) <= len(got) + 1

    with pytest.raises(OSError, match="the disk is gone"):
        consume()
    assert got == list(range(100))


def test_a_closed_read_ahead_closes_the_iterator() -> None:
    closed = threading.Event()

    def numbers() -> Iterator[int]:
        try:
            yield from range(100)
        finally:
            closed.set()

    ahead = read_ahead(numbers())
    assert next(ahead) == 0
    ahead.close()
    assert closed.wait(10)


def test_results_of_a_pool_come_in_order_and_no_further_ahead_than_allowed() -> None:
    begun: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            begun.append(number)
            yield number

    with ThreadPoolExecutor(4) as pool:
        for count, square in enumerate(map_ahead(lambda n: n * n, items(), pool, ahead=3), 1):
            assert square == (count - 1) ** 2
            assert len(begun) <= count + 3
