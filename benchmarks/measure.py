"""Times and memory of one row: an operator and its rivals, forward and backward, taking turns."""

import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from .cases import Row

BURST_SECONDS = 2e-3  # one turn: as many calls as it takes to be long against the clock's resolution
ROW_SECONDS = 1.0  # all turns of a row together
TURNS = (7, 200)  # at least, at most


@dataclass
class Result:
    row: Row
    seconds: dict[str, float]  # the median call of each, and of copying as many bytes as the floor has
    peak_bytes: dict[str, int]  # allocated at once beyond the inputs, in one call
    failures: dict[str, str]  # rivals that do not run here, and why

    @property
    def gb_per_second(self) -> float:
        return self.row.floor_bytes / self.seconds["ours"] / 1e9

    def ratio(self, name: str) -> float:
        """How many times as long as ours."""
        return self.seconds[name] / self.seconds["ours"]

    def summary(self) -> dict:
        return {
            "row": str(self.row),
            "operator": self.row.operation.name,
            "size": str(self.row.size),
            "dtype": str(self.row.dtype).removeprefix("torch."),
            "seconds": self.seconds,
            "times_ours": {name: self.ratio(name) for name in self.seconds},
            "floor_bytes": self.row.floor_bytes,
            "gb_per_second": self.gb_per_second,
            "of_a_copy_of_the_floor": self.ratio("copy"),
            "peak_bytes": self.peak_bytes,
            "failures": self.failures,
        }


def measure(row: Row, device: torch.device) -> Result:
    calls, failures = {}, {}
    implementations = dict(row.operation.implementations)
    implementations["compiled"] = torch.compile(implementations["eager"], fullgraph=True, dynamic=False)
    tensors = row.operation.tensors(row.size, device, row.dtype)
    torch._dynamo.reset()
    for name, function in implementations.items():
        try:
            call = step(function, tensors)
            for _ in range(3):
                call()
        except Exception as error:
            if name == "ours":
                raise
            failures[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            calls[name] = call
    peak = {name: peak_bytes(call, device) for name, call in calls.items()}
    calls["copy"] = copy_of(row.floor_bytes, device)
    return Result(row, interleaved(calls, device), peak, failures)


def copy_of(moved_bytes: int, device: torch.device) -> Callable:
    """A copy that reads and writes `moved_bytes` in all."""
    source = torch.zeros(max(moved_bytes // 2, 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a large copy reads and writes: what a kernel that only moves data can reach here."""
    moved = 1 << (29 if device.type == "cpu" else 32)
    return moved / interleaved({"copy": copy_of(moved, device)}, device)["copy"]


def interleaved(calls: dict[str, Callable], device: torch.device) -> dict[str, float]:
    """Seconds of the median call of each, which take turns so that what disturbs one disturbs all."""
    timer = _cuda_seconds if device.type == "cuda" else _cpu_seconds
    repeats = {name: _repeats(call, timer) for name, call in calls.items()}
    turns = {name: [] for name in calls}
    end = time.perf_counter() + ROW_SECONDS
    while len(turns["copy"]) < TURNS[0] or (time.perf_counter() < end and len(turns["copy"]) < TURNS[1]):
        for name, call in calls.items():
            turns[name].append(timer(call, repeats[name]))
    return {name: statistics.median(seconds) for name, seconds in turns.items()}


def step(function: Callable, tensors: dict[str, torch.Tensor]) -> Callable:
    """Forward and backward, with cotangents that are there already."""
    inputs = [t for t in tensors.values() if t.requires_grad]

    def forward():
        outputs = function(**tensors)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    cotangents = tuple(torch.ones_like(o) for o in forward())
    return lambda: torch.autograd.grad(forward(), inputs, cotangents)


def _repeats(call, timer) -> int:
    seconds = min(timer(call, 1) for _ in range(3))
    return max(1, round(BURST_SECONDS / seconds))


def _cpu_seconds(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _cuda_seconds(call, repeats):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def peak_bytes(call: Callable, device: torch.device) -> int:
    """The most that PyTorch's allocator had handed out at once during a call, beyond what was there before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    # Each allocation and each release, in order; sizes of releases are negative.
    changes = sorted((e["ts"], e["args"]["Ev Idx"], e["args"]["Bytes"]) for e in events if e["name"] == "[memory]")
    held = peak = 0
    for *_, change in changes:
        held += change
        peak = max(peak, held)
    return peak
