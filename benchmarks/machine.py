"""The machine and the versions that figures depend on."""

import importlib.metadata
import platform
import re
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path

import torch

import aevb_ext


def cpu_name() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def caches(device: torch.device) -> dict[str, int]:
    """Bytes of the caches beyond the first, those of all cores together: {"L2": ..., "L3": ...}."""
    if device.type == "cuda":
        return {"L2": torch.cuda.get_device_properties(device).L2_cache_size}
    found = {}
    with suppress(OSError):
        # A cache that several cores share is listed by each of them.
        for index in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cache/index*"):
            level, kind, size, shared = (
                (index / name).read_text().strip() for name in ("level", "type", "size", "shared_cpu_list")
            )
            if level != "1" and kind != "Instruction":
                found[f"L{level}", shared] = int(size.removesuffix("K")) * 1024
    total = {}
    for (name, _), size in sorted(found.items()):
        total[name] = total.get(name, 0) + size
    return total


def environment(device: torch.device) -> dict:
    on_gpu = device.type == "cuda"
    try:
        jax = importlib.metadata.version("jax")
    except importlib.metadata.PackageNotFoundError:
        jax = None
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else cpu_name(),
        "type": device.type,
        "threads": None if on_gpu else torch.get_num_threads(),
        "caches": caches(device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "jax": jax,
        "python": platform.python_version(),
        "aevb_ext": aevb_ext.build_info(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def file_name(about: dict) -> str:
    """The name of this machine's results. CPUs of one name may differ in their instructions."""
    cpu = f" {about['aevb_ext']['cpu_in_use']} {about['threads']} threads" if about["threads"] else ""
    return re.sub(r"[^a-z0-9]+", "-", (about["device"] + cpu).lower()).strip("-")
