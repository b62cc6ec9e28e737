"""Batch sizes that fit into memory."""

import math

import psutil
import torch

from clip2clap.core.memory import measure_memory, peak_bytes

# Beyond them a batch is hardly faster.
_LARGEST = {"cpu": 8, "cuda": 32}
# The rest is for the models' other needs, and for other programs.
_SHARE = 0.7


class BatchSize:
    """Number of candidates that are generated at once: fitted once, halved if memory is lacking.

    Args:
        device: Device of the pipeline.
        size: Size to begin with; fitted to the memory that the first call took if None.
    """

    def __init__(self, device: torch.device, size: int | None):
        self._device, self._fitted = device, size is not None
        self._most = self.largest(device.type, size)
        # Seconds of candidates that fit.
        self._room = math.inf if self._fitted else 0.0
        self._before = 0

    @staticmethod
    def largest(device: str, size: int | None = None) -> int:
        """Return a size if there is one, or the largest for a device such as `cuda:0`."""
        return size or _LARGEST.get(device.partition(":")[0], _LARGEST["cpu"])

    def of(self, seconds: float) -> int:
        """Return the number of candidates for a length in seconds; 1 until the size is fitted."""
        return max(1, int(min(self._most, self._room / seconds)))

    def halve(self, size: int) -> None:
        """Use at most half of a size from now on."""
        self._most = max(1, size // 2)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def begin(self) -> None:
        """Begin to measure a call, unless the size is known."""
        if self._fitted:
            return
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            self._before = psutil.Process().memory_info().rss

    def end(self, seconds: float) -> None:
        """Fit the size to what a call of one candidate at once took."""
        if self._fitted:
            return
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            free = torch.cuda.mem_get_info(self._device)[0]
            free += torch.cuda.memory_reserved(self._device) - self._before
        else:
            peak, free = peak_bytes(), measure_memory()["free"]
        self._room = _SHARE * free * seconds / max(peak - self._before, 1)
        self._fitted = True
