"""The decoder's last layer and its likelihood: one operator, two, eager PyTorch and torch.compile.

python -m benchmarks.head                             the tables of docs/large-batches.md
python -m benchmarks.head --only "65536 x 500"        the sizes with this in their name
python -m benchmarks.head --batches                   a layer of 784 outputs against the batch
python -m benchmarks.head --steps                     whole training steps, with and without the operator
    --cpu-time                                        with OMP_NUM_THREADS=1, where others use the machine too
    --json FILE                                       keep the figures as well, beside those that are there
python -m benchmarks.head --json FILE --plot FILE.png     nothing new: the picture of the batches' figures

Times are of forward and backward, taking turns. Memory is the most that PyTorch's allocator had handed out at once
during them, beyond the inputs: with the gradients of h, weight and bias, which everybody has to write, and without.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

import aevb_ext
from aevb_ext._library import ops
from aevb_ext.nn import Linear, heads

from . import training
from .machine import environment
from .measure import Effort, interleaved, process_seconds, warm_up
from .memory import peak_bytes
from .rivals import gaussian_textbook

CPU = torch.device("cpu")
EFFORT = Effort(3, 3)
SCALE = 1 / 255


@dataclass(frozen=True)
class Head:
    """A last layer for bytes, as Bernoulli logits or as mean and log sigma^2 of Gaussians."""

    rows: int
    hidden: int
    outputs: int
    gaussian: bool = False

    def __str__(self):
        of = "2 x " if self.gaussian else ""
        return f"{self.rows} x {self.hidden} to {of}{self.outputs}" + (", gaussian" if self.gaussian else "")

    @property
    def features(self) -> int:
        return self.outputs * (2 if self.gaussian else 1)

    @property
    def flops(self) -> int:
        """Operations of the three matrix products in forward and backward."""
        return 3 * 2 * self.rows * self.hidden * self.features


HEADS = [
    Head(65536, 500, 784),
    Head(8192, 500, 784),
    Head(100, 500, 784),
    Head(16384, 500, 784, gaussian=True),
    Head(8192, 200, 560, gaussian=True),
    Head(65536, 500, 10),
    Head(8192, 500, 10),
    Head(1024, 500, 12288),
    Head(10240, 500, 12288),
]
BATCHES = [Head(rows, 500, 784) for rows in (1024, 4096, 16384, 65536, 262144)]
STEPS = (8192, 65536)


def one(head: Head, x: Tensor, h: Tensor, layer: Linear, reduction: str = "mean") -> Tensor:
    options = {"x_scale": SCALE, "reduction": reduction}
    if head.gaussian:
        return -aevb_ext.linear_gaussian_log_prob(x, h, layer.weight, layer.bias, sigmoid=True, **options)
    return -aevb_ext.linear_bernoulli_log_prob(x, h, layer.weight, layer.bias, **options)


def two(head: Head, x: Tensor, h: Tensor, layer: Linear, reduction: str = "mean") -> Tensor:
    options = {"x_scale": SCALE, "reduction": reduction}
    if head.gaussian:
        mean, logvar = layer(h).chunk(2, 1)
        return -aevb_ext.gaussian_log_prob(x, mean.sigmoid(), logvar, **options)
    return -aevb_ext.bernoulli_log_prob(x, layer(h), **options)


def eager(head: Head, x: Tensor, h: Tensor, layer: Linear) -> Tensor:
    y = F.linear(h, layer.weight, layer.bias)
    if head.gaussian:
        mean, logvar = y.chunk(2, 1)
        return -gaussian_textbook(x * SCALE, mean.sigmoid(), logvar, "mean")
    return F.binary_cross_entropy_with_logits(y, x * SCALE, reduction="sum") / len(x)


def weighted(way: Callable, rows: int) -> Callable:
    """A loss as in importance weighting: each row has its own cotangent, which cannot be guessed."""
    weights = torch.rand(rows)
    return lambda *inputs: (weights * way(*inputs, reduction="sample")).sum()


def products(h: Tensor, layer: Linear) -> Callable[[], None]:
    """The three matrix products alone, by the fastest library here: a lower bound of a step's time."""
    cotangent = torch.randn(len(h), layer.out_features)

    def run():
        ops.linear(h, layer.weight, layer.bias, False)
        ops.linear_backward(cotangent, h, layer.weight, None, [True] * 3)

    return run


def measure(head: Head, timer: Callable | None) -> dict:
    """Seconds and bytes of each implementation."""
    torch.manual_seed(0)
    x = torch.randint(256, (head.rows, head.outputs), dtype=torch.uint8)
    h = torch.randn(head.rows, head.hidden).requires_grad_()
    layer = Linear(head.hidden, head.features)
    leaves = [h, *layer.parameters()]

    def step(way):
        def run():
            for t in leaves:
                t.grad = None
            way(head, x, h, layer).backward()

        return run

    torch._dynamo.reset()
    ways = {"one operator": one, "two operators": two, "eager": eager, "torch.compile": torch.compile(eager)}
    ways |= {"one, weighted": weighted(one, head.rows), "two, weighted": weighted(two, head.rows)}
    steps = {name: step(way) for name, way in ways.items()}
    calls = steps | {"products": products(h.detach(), layer)}
    with torch.no_grad():
        calls["products"]()
    for run in steps.values():
        warm_up(run)
    figures = {
        "head": str(head),
        "rows": head.rows,
        "flops": head.flops,
        "seconds": interleaved(calls, CPU, EFFORT, timer),
    }
    figures["gradient_bytes"] = sum(t.nbytes for t in leaves)
    figures["peak_bytes"] = {}
    for name, run in steps.items():
        for t in leaves:
            t.grad = None
        figures["peak_bytes"][name] = peak_bytes(run, CPU)
    return figures


def measure_step(batch: int, timer: Callable | None) -> dict:
    """Steps of the paper's model for MNIST: that of `fit`, the same without the operator, and rivals."""
    torch._dynamo.reset()
    asked = training.Training(batch)
    data = training.data_set(CPU)
    large = heads._LARGE

    def bound(run, limits):
        def call():
            heads._LARGE = limits
            run(1)
            heads._LARGE = large

        return call

    # The limit is changed for one implementation at a time, and restored.
    calls = {
        "one operator": bound(training.ours(asked, data), large | {"cpu": 0}),
        "two operators": bound(training.ours(asked, data), {}),
        "eager": bound(training.in_torch(asked, data, compiled=False), large),
        "torch.compile": bound(training.in_torch(asked, data, compiled=True), large),
    }
    for call in calls.values():
        warm_up(call)
    peaks = {name: peak_bytes(call, CPU) for name, call in calls.items()}
    return {
        "head": f"training step, M = {batch}",
        "seconds": interleaved(calls, CPU, EFFORT, timer),
        "peak_bytes": peaks,
    }


def header() -> str:
    ways = "one operator | two operators | eager | torch.compile | one, weighted | two, weighted | products"
    return f"| | | {ways} |\n|{'---|' * 9}"


def lines(figures: dict) -> str:
    """Milliseconds, and what the others take as a ratio to ours; then megabytes."""
    seconds, peaks = figures["seconds"], figures["peak_bytes"]
    base = {name: seconds["one operator"] for name in seconds} | {"two, weighted": seconds.get("one, weighted")}
    times = [f"{s * 1e3:.3g} ms" if name.startswith("one") else f"{s / base[name]:.2f}x" for name, s in seconds.items()]
    rows = [("time", times), ("peak, MB", [f"{p / 1e6:.3g}" for p in peaks.values()])]
    if gradients := figures.get("gradient_bytes"):
        rows.append(("without gradients", [f"{(p - gradients) / 1e6:.3g}" for p in peaks.values()]))
    return "\n".join(f"| {figures['head']} | {what} | {' | '.join(cells)} |" for what, cells in rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.head", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--steps", action="store_true")
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    given = parser.parse_args()
    kept = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    if given.plot:
        from .plots import head

        head([kept[str(batch)] for batch in BATCHES if str(batch) in kept], kept, given.plot)
        return
    timer = process_seconds if given.cpu_time else None
    print(header())
    table = [str(batch) for batch in STEPS] if given.steps else BATCHES if given.batches else HEADS
    for row in table:
        if given.only not in str(row):
            continue
        figures = measure_step(int(row), timer) if given.steps else measure(row, timer)
        print(lines(figures), flush=True)
        if given.json:
            kept |= {"machine": environment(CPU), "cpu_time": given.cpu_time, figures["head"]: figures}
            given.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
