"""Peak memory of the current process."""

import re
import sys
from pathlib import Path


def peak_bytes() -> int:
    """Return this process's peak memory in bytes, with mapped files."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage includes the memory of the parent process before the exec.
        (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())
        return 1024 * int(kilobytes)
    # Missing on some systems.
    import resource

    # In bytes on macOS, in kB elsewhere.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
