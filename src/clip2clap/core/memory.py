"""Memory of this machine, and of this process."""

import re
import sys
from pathlib import Path


def measure_memory() -> dict[str, int]:
    """Measure the `total` and `free` memory in bytes, within the container's limit if there is one.

    Examples:
        >>> 0 <= measure_memory()["free"] <= measure_memory()["total"]
        True
    """
    import psutil

    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # not in a container, or one without a limit ("max")
        return {"total": total, "free": free}
    return {"total": min(total, limit), "free": max(0, min(free, limit - used))}


def peak_bytes() -> int:
    """Return this process's peak memory in bytes, with mapped files."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage includes the memory of the parent process before the exec.
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
        return 1024 * int(kilobytes)
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset  # pyright: ignore[reportAttributeAccessIssue]
    # In bytes on macOS, in kB elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
