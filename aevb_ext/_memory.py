"""How much memory this process may have, and whether an error says that there was too little."""

import os
from pathlib import Path, PurePosixPath

import torch

__all__ = ["memory_limit", "out_of_memory"]

# What PyTorch's CPU allocator, its sizes and the C++ library say of it, in RuntimeErrors of no kind of their own.
_SIGNS = (
    "can't allocate memory",
    "not enough memory",
    "Storage size calculation overflowed",
    "bad_alloc",
    "numel: integer",
)


def memory_limit(root: Path = Path("/")) -> int:
    """Bytes: of the machine, or of the control group that this process is in (a container, a job), if that is less."""
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
    # Not there (a container sees a part of the tree), or "max".
    except (OSError, ValueError):
        return None


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory could not be had, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)
