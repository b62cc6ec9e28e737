"""Runs in threads: progress with the time left, and cancellation of each one by itself."""

import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event, Lock
from typing import Any, TypeVar

from clip2clap.core.errors import InterruptedCallError

Result = TypeVar("Result")

# Share of a run's time that its denoising steps take, about.
_STEPS_SHARE = 0.8
_POLL_S = 0.4


class Run:
    """State of a run, which its thread reports to; it observes a batch of `generate_audio`.

    A call of a pipeline, whose callback is `count_step`, is cancelled alone, where
    `pipeline.interrupt()` would stop those of other users.
    """

    def __init__(self) -> None:
        self._cancelled = Event()
        self._begun: float | None = None
        self._share, self._rounds, self._steps = 0.0, 1, 0
        self.note = "Starting"
        """Stage of the run, in words."""
        self.preview: Any = None
        """Latest intermediate result."""

    def cancel(self) -> None:
        """Stop the run at its next step."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise `InterruptedCallError` if the run is cancelled."""
        if self._cancelled.is_set():
            raise InterruptedCallError("The run was cancelled.")

    def advance(self, share: float, note: str) -> None:
        """Report the share that is done, from 0 to 1, and the stage."""
        self.check()
        self._begun = self._begun or time.monotonic()
        self._share, self.note = min(share, 1.0), note

    def begin_batch(self, items: int, rounds: int) -> None:
        """Begin a call in some rounds of denoising."""
        self._rounds, self._steps = rounds, 0
        self.advance(0.0, "Encoding")

    def count_step(self, pipeline: Any, *_: Any) -> dict[str, Any]:
        """Count a denoising step."""
        self._steps += 1
        total = max(self._rounds * pipeline.num_timesteps, self._steps)
        last = self._steps == total
        note = "Decoding and writing" if last else f"Step {self._steps} of {total}"
        self.advance(_STEPS_SHARE * self._steps / total, note)
        return {}

    def end_batch(self, count: int) -> None:
        """End a batch."""

    @property
    def share(self) -> float:
        """Share that is done, from 0 to 1."""
        return self._share

    @property
    def seconds_left(self) -> float | None:
        """Seconds to the end, by the share that is done; None before it is known."""
        if self._begun is None or not self._share:
            return None
        return (time.monotonic() - self._begun) * (1 / self._share - 1)


class Workers:
    """Threads that compute runs, as many at a time as there are workers.

    Args:
        count: Number of threads.
        observe: Called with the task of each run that a worker began, the seconds that it took,
            and its error.
    """

    def __init__(
        self,
        count: int,
        observe: Callable[[str, float, BaseException | None], None] = lambda *_: None,
    ):
        self._observe = observe
        self._pool = ThreadPoolExecutor(count, "clip2clap-worker")
        self._runs: set[Run] = set()
        self._lock = Lock()

    @property
    def running(self) -> int:
        """Number of runs that are followed."""
        return len(self._runs)

    def follow(
        self, work: Callable[[Run], Result], task: str = "run"
    ) -> Generator[Run, None, Result]:
        """Compute a run in a worker, and yield its state now and then.

        The run is cancelled when the generator is closed, as it is when its user goes away.

        Args:
            work: Function of the state to report to.
            task: Name of what the run does.

        Returns:
            Result of the function, or raises its error.
        """
        run = Run()
        with self._lock:
            self._runs.add(run)
        try:
            future = self._pool.submit(self._compute, work, run, task)
            while not wait([future], _POLL_S).done:
                yield run
            return future.result()
        finally:
            run.cancel()
            with self._lock:
                self._runs.discard(run)

    def close(self) -> None:
        """Cancel all runs, and wait until they have stopped."""
        with self._lock:
            for run in self._runs:
                run.cancel()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._runs.clear()

    def _compute(self, work: Callable[[Run], Result], run: Run, task: str) -> Result:
        run.check()
        begun, error = time.monotonic(), None
        try:
            return work(run)
        except BaseException as raised:
            error = raised
            raise
        finally:
            self._observe(task, time.monotonic() - begun, error)
