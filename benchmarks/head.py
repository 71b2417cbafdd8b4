"""The decoder's last layer and its likelihood: one operator, two, eager PyTorch and torch.compile.

python -m benchmarks.head                    the table of docs/large-batches.md
python -m benchmarks.head --rows 8192 --hidden 500 --outputs 784

Times are of forward and backward, taking turns. Memory is the most that PyTorch's allocator had handed out at once
during them, beyond the inputs: with the gradients of h, weight and bias, which everybody has to write, and without.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

import aevb_ext
from aevb_ext.nn import Linear

from .measure import Effort, interleaved, warm_up
from .memory import peak_bytes

# rows, hidden, outputs; the last is ten times the batch of the one before
SIZES = [
    (65536, 500, 784),
    (8192, 500, 784),
    (100, 500, 784),
    (65536, 500, 10),
    (8192, 500, 10),
    (2048, 500, 12288),
    (20480, 500, 12288),
]
EFFORT = Effort(5, 5)


def one(x: Tensor, h: Tensor, layer: Linear) -> Tensor:
    return -aevb_ext.linear_bernoulli_log_prob(x, h, layer.weight, layer.bias, x_scale=1 / 255, reduction="mean")


def two(x: Tensor, h: Tensor, layer: Linear) -> Tensor:
    return -aevb_ext.bernoulli_log_prob(x, layer(h), x_scale=1 / 255, reduction="mean")


def eager(x: Tensor, h: Tensor, layer: Linear) -> Tensor:
    logits = F.linear(h, layer.weight, layer.bias)
    return F.binary_cross_entropy_with_logits(logits, x.float() / 255, reduction="sum") / len(x)


def weighted(function: Callable) -> Callable:
    """As importance weighting has it: another cotangent for each row, which nobody knows ahead."""
    weights = {}

    def step(x, h, layer):
        w = weights.setdefault(len(x), torch.rand(len(x)))
        return (w * function(x, h, layer)).sum()

    return step


def one_per_row(x: Tensor, h: Tensor, layer: Linear) -> Tensor:
    return -aevb_ext.linear_bernoulli_log_prob(x, h, layer.weight, layer.bias, x_scale=1 / 255)


def two_per_row(x: Tensor, h: Tensor, layer: Linear) -> Tensor:
    return -aevb_ext.bernoulli_log_prob(x, layer(h), x_scale=1 / 255)


def measure(rows: int, hidden: int, outputs: int) -> dict[str, dict[str, float]]:
    """Seconds and bytes of each way."""
    torch.manual_seed(0)
    x = torch.randint(256, (rows, outputs), dtype=torch.uint8)
    h = torch.randn(rows, hidden).requires_grad_()
    layer = Linear(hidden, outputs)
    leaves = [h, *layer.parameters()]

    def step(loss):
        def run():
            for t in leaves:
                t.grad = None
            loss(x, h, layer).backward()

        return run

    torch._dynamo.reset()
    ways = {"one operator": one, "two operators": two, "eager": eager, "torch.compile": torch.compile(eager)}
    ways |= {"one, weighted": weighted(one_per_row), "two, weighted": weighted(two_per_row)}
    steps = {name: step(loss) for name, loss in ways.items()}
    for run in steps.values():
        warm_up(run)
    seconds = interleaved(steps, torch.device("cpu"), EFFORT)
    gradients = sum(t.nbytes for t in leaves)
    found = {}
    for name, run in steps.items():
        for t in leaves:
            t.grad = None
        peak = peak_bytes(run, torch.device("cpu"))
        found[name] = {"ms": seconds[name] * 1e3, "MB": peak / 1e6, "MB without": (peak - gradients) / 1e6}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.head", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("rows", "hidden", "outputs"):
        parser.add_argument(f"--{name}", type=int)
    given = parser.parse_args()
    sizes = [(given.rows, given.hidden, given.outputs)] if given.rows else SIZES
    print("| rows x hidden to outputs | | ms | peak, MB | without gradients, MB |\n|---|---|---|---|---|")
    for size in sizes:
        for name, figures in measure(*size).items():
            numbers = " | ".join(f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in figures.values())
            print(f"| {size[0]} x {size[1]} to {size[2]} | {name} | {numbers} |", flush=True)


if __name__ == "__main__":
    main()
