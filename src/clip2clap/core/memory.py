"""Memory of this machine."""

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
