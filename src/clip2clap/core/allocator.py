"""Memory allocator settings of the C library."""

import os
import sys

# Parameters of mallopt, from glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4
# The largest value of mallopt: bytes kept free at the end of the heap.
_KEPT = 2**31 - 1
# glibc's initial threshold of buffers with a mapping of their own, in bytes.
_RETURNED = 2**17


def keep_freed_memory() -> bool:
    """Set the C library to reuse freed memory rather than return it to the kernel.

    On CPU a network allocates and frees buffers of many megabytes at every layer. By default glibc
    returns each to the kernel, which clears every page again; that can be slower than the
    arithmetic (`python benchmarks/allocator.py`). With this setting up to 2 GB of freed memory stay
    with the process.

    The setting is global to the process, so the command line makes it and importing the library
    does not. Call it before loading models. It returns False where the C library is not glibc, or
    the user's own settings (`MALLOC_MMAP_MAX_` and the like, or `GLIBC_TUNABLES`) stay.

    Examples:
        >>> keep_freed_memory() in (True, False)
        True
    """
    # All buffers come from the heap, not from a mapping each, and the heap does not shrink.
    return _set({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _KEPT})


def return_freed_memory() -> bool:
    """Set the C library to return every freed buffer of 128 KiB or more to the kernel at once.

    That is glibc's initial behavior, which it leaves for buffers as large as those that were freed
    before: a network in low memory keeps half a gigabyte otherwise. As `keep_freed_memory`, which
    it undoes, it sets the process, and returns whether it did.
    """
    return _set({_M_MMAP_MAX: 65_536, _M_MMAP_THRESHOLD: _RETURNED, _M_TRIM_THRESHOLD: _RETURNED})


def _set(settings: dict[int, int]) -> bool:
    """Set parameters of mallopt, unless the C library has none or the user's own stay."""
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    own = {"MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"}
    if sys.platform != "linux" or "glibc.malloc." in tunables or own & os.environ.keys():
        return False
    import ctypes

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all([mallopt(*each) == 1 for each in settings.items()])
