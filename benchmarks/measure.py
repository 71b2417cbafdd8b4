"""Times one case: ours and its rivals, forward and backward, taking turns."""

import os
import random
import statistics
import time
import types
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .cases import LARGE_COPY_ELEMENTS, Case
from .memory import peak_bytes

BURST_SECONDS = 1e-2  # one turn: enough calls to be long compared with the clock's resolution
TURNS = (7, 200)  # the least and the most turns
LAUNCHES = 50  # launches whose host time is measured, on a GPU


@dataclass(frozen=True)
class Effort:
    """The total time of one case's turns, and the least number of turns."""

    seconds: float = 1.5
    turns: int = TURNS[0]


FULL, QUICK = Effort(), Effort(0.3, 3)

# torch.compile's ways. Everything else at its default was the quickest that we found; random numbers may come from
# PyTorch's own generator or be made in the compiled kernel, and neither is always ahead.
COMPILED = {"compile": {}}
COMPILED_DRAWS = {"compile": {}, "compile, fallback_random": {"fallback_random": True}}
OURS_COMPILED = "compiled: ours"


def candidates(case: Case, formulations=None, compiled: bool = True) -> dict[str, Callable]:
    """Ours, and "kind: formulation" for each rival, as functions of the inputs; with all of these, ours compiled."""
    operation = case.operation
    found = {"ours": case.bind(operation.ours)}
    if compiled and formulations is None:
        found[OURS_COMPILED] = compiled_apart(case.bind(operation.ours), OURS_COMPILED)
    for name, function in operation.rivals.items():
        if formulations is not None and name not in formulations:
            continue
        found[f"eager: {name}"] = case.bind(function)
        if not compiled:
            continue
        for kind, options in (COMPILED_DRAWS if operation.draws else COMPILED).items():
            found[f"{kind}: {name}"] = compiled_apart(case.bind(function), f"{kind}: {name}", options)
    return found


def compiled_apart(function: Callable, name: str, options=None) -> Callable:
    """torch.compile of a function whose code is its own. What it finds of code, it applies to all functions of that
    code: where it gave up on one rival, as after eight compilations, all would run in eager from then on."""
    code = function.__code__.replace(co_name=name)
    own = types.FunctionType(code, function.__globals__, name, function.__defaults__, function.__closure__)
    return torch.compile(own, dynamic=False, options=options)


def kind_of(name: str) -> str:
    """The kind of rival of that name: "eager", "compile", ..."""
    return name.partition(":")[0].partition(",")[0]


def step(function: Callable, inputs: dict[str, torch.Tensor], case: Case) -> Callable:
    """Forward and backward to the leaves' `grad`, as in a training step."""

    def forward():
        return as_tuple(function(**inputs))

    leaves = [t for t in inputs.values() if t.requires_grad]
    cotangents = cotangents_of(forward(), case.reduction)

    def call():
        torch.autograd.backward(forward(), cotangents)
        # Freed here rather than before the next call, which may be a rival's: freeing memory takes time too.
        for leaf in leaves:
            leaf.grad = None

    return call


def as_tuple(outputs) -> tuple[torch.Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def cotangents_of(outputs, reduction: str) -> tuple[torch.Tensor | None, ...]:
    """None (one) for a loss, random numbers (the same for outputs of any dtype) for anything that more is done with."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return tuple(torch.randn(o.shape, device=o.device).to(o.dtype) if o.dim() else None for o in outputs)


def measure(case: Case, device: torch.device, effort: Effort = FULL, formulations=None, only=None) -> dict:
    """The figures of a case, as the results file has them.

    formulations: those of the rivals to take; None: all. only: the kinds of candidates to take; None: all.
    """
    torch._dynamo.reset()
    inputs = case.inputs(device)
    calls, functions, failures = {}, {}, {}
    for name, function in candidates(case, formulations, only is None or "compile" in only).items():
        if only is not None and kind_of(name) not in only:
            continue
        try:
            call = step(function, inputs, case)
            warm_up(call)
        except Exception as error:
            if name == "ours":
                raise
            failures[name] = f"{type(error).__name__}: {error}".splitlines()[0]
        else:
            calls[name], functions[name] = call, function
    figures = {
        "case": str(case),
        "operator": case.operation.operator,
        "elements": case.shape.elements,
        "floor_bytes": case.floor_bytes,
        "failures": failures,
        "peak_bytes": {name: peak_of(call, inputs, device) for name, call in calls.items()},
    }
    if device.type == "cuda":
        figures["host_seconds"] = {name: host_seconds(call) for name, call in calls.items()}
        if case.shape.elements >= LARGE_COPY_ELEMENTS and case.reduction != "mean":
            figures["kernels"] = kernels(functions["ours"], inputs, case, device, effort)
    calls["copy"] = copy_of(case.floor_bytes, device)
    figures["seconds"] = interleaved(calls, device, effort)
    return figures


def warm_up(call) -> None:
    """Three warm-up calls; fewer if they are long, since one-time work is then small in comparison."""
    start = time.perf_counter()
    for _ in range(3):
        call()
        if time.perf_counter() - start > 1:
            break


def peak_of(call, inputs, device) -> int:
    for t in inputs.values():
        t.grad = None
    return peak_bytes(call, device)


def kernels(function, inputs, case, device, effort) -> dict:
    """Our forward and our backward alone: seconds, and the fewest bytes of each."""
    outputs = as_tuple(function(**inputs))
    cotangents = cotangents_of(outputs, case.reduction)
    leaves = [t for t in inputs.values() if t.requires_grad]

    def forward():
        with torch.no_grad():
            function(**inputs)

    def backward():
        torch.autograd.grad(outputs, leaves, cotangents, retain_graph=True)

    seconds = interleaved({"forward": forward, "backward": backward}, device, effort)
    return {
        name: {"seconds": seconds[name], "floor_bytes": floor} for name, floor in zip(seconds, case.floors, strict=True)
    }


def copy_of(moved_bytes: int, device: torch.device) -> Callable:
    """A copy that reads and writes `moved_bytes` in total."""
    source = torch.zeros(max(moved_bytes // 2, 1), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def copy_bandwidth(device: torch.device) -> float:
    """Bytes per second of a copy of 64 M floats: the limit for a kernel that only moves data."""
    moved = 2 * 4 * LARGE_COPY_ELEMENTS
    return moved / interleaved({"copy": copy_of(moved, device)}, device)["copy"]


def interleaved(
    calls: dict[str, Callable], device: torch.device, effort: Effort = FULL, timer: Callable | None = None
) -> dict[str, float]:
    """Seconds of the median call of each. They take turns in an order that changes, so that what disturbs one disturbs
    all, and nobody always comes after the same other."""
    timer = timer or (_cuda_seconds if device.type == "cuda" else _cpu_seconds)
    repeats = {name: _repeats(call, timer) for name, call in calls.items()}
    turns = {name: [] for name in calls}
    order, shuffle = list(calls), random.Random(0).shuffle
    end = time.perf_counter() + effort.seconds
    for turn in range(TURNS[1]):
        if turn >= effort.turns and time.perf_counter() > end:
            break
        shuffle(order)
        for name in order:
            turns[name].append(timer(calls[name], repeats[name]))
    return {name: statistics.median(seconds) for name, seconds in turns.items()}


def _repeats(call, timer) -> int:
    return max(1, round(BURST_SECONDS / timer(call, 1)))


def _cpu_seconds(call, repeats):
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def process_seconds(call, repeats):
    """A timer of this process's CPU time, which other processes hardly affect. For a single thread."""
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def _cuda_seconds(call, repeats):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats


def host_seconds(call) -> float:
    """The host time of a call without waiting for its result: the cost of launching."""
    seconds = []
    for _ in range(TURNS[0]):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(LAUNCHES):
            call()
        seconds.append((time.perf_counter() - start) / LAUNCHES)
    torch.cuda.synchronize()
    return statistics.median(seconds)


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
