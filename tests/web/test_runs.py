"""Runs in workers: progress, cancellation one by one, errors."""

import threading
import time
from types import SimpleNamespace

import pytest

from clip2clap.core.errors import InterruptedCallError, UserError
from clip2clap.web.runs import Workers


@pytest.fixture
def workers():
    workers = Workers(2)
    yield workers
    workers.close()


def result_of(runs):
    """Return the result of a run that is followed to its end."""
    while True:
        try:
            next(runs)
        except StopIteration as end:
            return end.value


def endless(started, ended):
    """Return work that reports steps until it is cancelled."""

    def work(run):
        started.set()
        try:
            while True:
                run.count_step(SimpleNamespace(num_timesteps=10))
                time.sleep(0.01)
        except InterruptedCallError:
            ended.set()
            raise

    return work


def test_the_result_or_the_error_of_the_work_is_the_run_s(workers):
    def fail(run):
        raise TimeoutError("the work's own")

    assert result_of(workers.follow(lambda run: 3)) == 3
    with pytest.raises(TimeoutError, match="the work's own"):
        result_of(workers.follow(fail))


def test_a_generator_that_is_closed_cancels_its_own_run_and_no_other(workers):
    events = [threading.Event() for _ in range(4)]
    first, other = workers.follow(endless(*events[:2])), workers.follow(endless(*events[2:]))
    next(first)
    next(other)
    assert events[0].wait(5)
    assert events[2].wait(5)
    first.close()
    assert events[1].wait(5)
    assert not events[3].is_set()
    assert next(other).note != "Starting"
    other.close()
    assert events[3].wait(5)


def test_a_run_that_is_cancelled_before_a_worker_is_free_does_not_begin():
    workers = Workers(1)
    started, ended, begun = threading.Event(), threading.Event(), []
    first = workers.follow(endless(started, ended))
    next(first)
    waiting = workers.follow(begun.append)
    next(waiting)
    waiting.close()
    first.close()
    workers.close()
    assert not begun


def test_closing_cancels_what_runs_and_waits_for_it(workers):
    started, ended = threading.Event(), threading.Event()
    run = workers.follow(endless(started, ended))
    next(run)
    assert started.wait(5)
    workers.close()
    assert ended.is_set()


def test_each_run_that_began_is_observed_once_with_how_it_ended():
    seen = []
    workers = Workers(1, lambda *facts: seen.append(facts))
    error = UserError("a mistake")

    def fail(run):
        raise error

    result_of(workers.follow(lambda run: 3, "good"))
    with pytest.raises(UserError):
        result_of(workers.follow(fail, "bad"))
    started, ended = threading.Event(), threading.Event()
    cancelled = workers.follow(endless(started, ended), "long")
    next(cancelled)
    assert started.wait(5)
    cancelled.close()
    workers.close()
    assert [(task, type(raised)) for task, _, raised in seen] == [
        ("good", type(None)),
        ("bad", UserError),
        ("long", InterruptedCallError),
    ]
    assert all(seconds >= 0 for _, seconds, _ in seen)


def test_progress_counts_steps_of_all_rounds_and_estimates_the_time_left(workers):
    seen = []

    def work(run):
        run.begin_batch(1, 2)
        for _ in range(8):
            run.count_step(SimpleNamespace(num_timesteps=4))
            seen.append((run.share, run.note, run.seconds_left))

    result_of(workers.follow(work))
    shares, notes, left = zip(*seen, strict=True)
    assert list(shares) == pytest.approx([0.1 * number for number in range(1, 9)])
    assert notes[:2] == ("Step 1 of 8", "Step 2 of 8")
    assert notes[-1] == "Decoding and writing"
    assert all(each is not None and each >= 0 for each in left)
