"""How the C library treats memory that the networks free."""

import os
import sys

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
# The largest that mallopt takes: what is kept free at the end of the heap, in bytes.
_KEPT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Have the process keep the memory that it frees, for the next buffer of a network.

    A network on the processor allocates and frees buffers of many megabytes at every layer. glibc
    gets each from the kernel and gives it back, so that the kernel clears every page again and
    again; that can take longer than the arithmetic (`python benchmarks/allocator.py`). Instead up
    to 2 GB now stay with the process, which therefore looks as large as it ever was.

    It holds for the whole process, so the command line does it and importing the library does not.
    Call it before the models are loaded. A setting of the user's own, by `MALLOC_MMAP_MAX_` and
    the like or by `GLIBC_TUNABLES`, is left as it is.

    Returns:
        Whether memory is kept from now on: False where the C library is not glibc, or has been
        told otherwise.
    """
    if sys.platform != "linux" or _is_set_by_user():
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # All buffers come from the heap, not from a mapping each; and the heap does not shrink.
    settings = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT))
    return all([mallopt(parameter, value) == 1 for parameter, value in settings])


def _is_set_by_user() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    own = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")
    return "glibc.malloc." in tunables or any(name in os.environ for name in own)
