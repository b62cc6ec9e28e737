"""The peak memory of the process that asks, for the benchmarks beside this file."""

import re
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Give this process's peak memory so far in bytes, mapped files included."""
    status = Path("/proc/self/status")
    if status.is_file():
        # What getrusage gives counts from the process that started this one.
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
        return 1024 * int(kilobytes)
    # It is not on every system.
    import resource

    # In bytes on macOS, in kB elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
