"""How the C library keeps memory between steps."""

import ctypes

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Ask glibc not to give freed memory back to the system, for the rest of the process; elsewhere nothing is done.

    Every step frees its activations and gradients and asks for the same again. Given back, each page of them is mapped
    and cleared anew: 500 to 1700 page faults a step at M = 100 of the paper's MNIST model, up to a third of its time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    # An older glibc takes no threshold above 32 MiB.
    if not mallopt(_M_MMAP_THRESHOLD, 1 << 30):
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
