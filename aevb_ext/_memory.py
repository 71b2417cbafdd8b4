"""How much memory this process may use, and whether an error means that memory ran out."""

import os
from pathlib import Path, PurePosixPath

import torch

__all__ = ["memory_limit", "out_of_memory"]

# How PyTorch's CPU allocator, its size computations and the C++ library word it: they raise plain RuntimeErrors.
_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "bad_alloc",
    "numel: integer",
)


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes of the machine's memory, or the limit of this process's control group (container, job) if that is less."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        # cgroups(7): "0::/path" in version 2, "4:memory:/path" in version 1.
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            folder, name = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            folder, name = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))
        limits += [limit for part in (group, *group.parents) if (limit := _number(folder / part / name))]
    return min(limits)


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    # The file is missing (a container sees only a part of the tree), or says "max".
    except (OSError, ValueError):
        return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on any device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
