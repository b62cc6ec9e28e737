"""Metrics of a server in the format of Prometheus."""

from collections.abc import Callable
from typing import Any

from clip2clap.core.errors import InterruptedCallError, MissingExtraError, UserError

# Seconds of a run: from a label on a GPU to a painting on a CPU.
_SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)


class Metrics:
    """Metrics of the runs of a server, and of its process.

    Raises:
        MissingExtraError: If prometheus_client is not installed.

    Examples:
        >>> metrics = Metrics()
        >>> metrics.observe("image_to_audio", 1.5, None)
        >>> lines = metrics.text().decode().splitlines()
        >>> [line.split()[-1] for line in lines if line.startswith("clip2clap_runs_total")]
        ['1.0']
    """

    def __init__(self) -> None:
        try:
            import prometheus_client as prometheus
        except ImportError as error:
            raise MissingExtraError(
                'The app needs prometheus_client. Install it: pip install "clip2clap[web]".'
            ) from error
        self._write: Any = prometheus.generate_latest
        self.media_type = prometheus.CONTENT_TYPE_LATEST
        """Media type of the text."""
        self._registry = prometheus.CollectorRegistry()
        prometheus.ProcessCollector(registry=self._registry)
        self._runs = prometheus.Counter(
            "clip2clap_runs",
            "Runs that ended: done, refused for a mistake, cancelled, or failed.",
            ["task", "outcome"],
            registry=self._registry,
        )
        self._seconds = prometheus.Histogram(
            "clip2clap_run_seconds",
            "Seconds of runs that were done, without the time in the queue.",
            ["task"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._gauges = {
            name: prometheus.Gauge(f"clip2clap_{name}", text, registry=self._registry)
            for name, text in (
                ("runs_waiting", "Runs in the queue."),
                ("runs_running", "Runs that are computed."),
                ("stored_bytes", "Bytes of uploads and results."),
            )
        }

    def watch(self, name: str, value: Callable[[], float]) -> None:
        """Set the function that a gauge is read from."""
        self._gauges[name].set_function(value)

    def observe(self, task: str, seconds: float, error: BaseException | None) -> None:
        """Count a run that ended after some seconds, with or without an error."""
        if error is None:
            outcome = "done"
            self._seconds.labels(task).observe(seconds)
        elif isinstance(error, InterruptedCallError):
            outcome = "cancelled"
        else:
            outcome = "refused" if isinstance(error, UserError) else "failed"
        self._runs.labels(task, outcome).inc()

    def text(self) -> bytes:
        """Return all metrics as text."""
        return self._write(self._registry)
