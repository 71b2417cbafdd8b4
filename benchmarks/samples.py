"""The importance-weighted bound of k samples, forward and backward: a block of them at a time, all at once, eager
PyTorch and torch.compile.

python -m benchmarks.samples                         the table of docs/many-samples.md, and its picture
python -m benchmarks.samples --k 10 50 --blocks 5 10 20   ours with these blocks alone; no picture

A minibatch of 100 data points of 784 pixels, a decoder 50-500-784 (tanh), float32. Ways take turns. Times are of one
thread, in CPU time. Memory is the most that PyTorch's allocator had handed out at once, beyond inputs and parameters.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aevb_ext.models.bound import ROWS
from aevb_ext.nn import ELBO, BernoulliDecoder, Linear

from .machine import environment, file_name
from .measure import Effort, interleaved, process_seconds, warm_up
from .memory import peak_bytes
from .report import duration, where

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PICTURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance"

BATCH, PIXELS, HIDDEN, LATENT = 100, 784, 500, 50
KS = (10, 50, 100, 1000, 5000)
ALL_AT_ONCE = 1000  # the largest k of the other implementations: at 5000 eager would need 6 GB
STREAMED, AT_ONCE = "ours: streamed", "ours: all at once"
EFFORT = Effort(4, 3)


def eager(x: Tensor, mu: Tensor, logvar: Tensor, net: nn.Module, k: int) -> Tensor:
    """The bound in its usual formulation."""
    std = (0.5 * logvar).exp()
    eps = torch.randn(k, *mu.shape)
    z = mu + std * eps
    log_p = -F.binary_cross_entropy_with_logits(net(z), x.expand(k, *x.shape), reduction="none").sum(-1)
    log_ratio = (-0.5 * (eps**2 + logvar) + 0.5 * z**2).sum(-1)
    return -((log_p - log_ratio).logsumexp(0) - math.log(k)).mean()


def loss_of(elbo: ELBO) -> Callable:
    return lambda x, mu, logvar, net, k: elbo(x, (mu, logvar), BernoulliDecoder(net)).loss


def ways(k: int, blocks: list[int] | None) -> dict[str, Callable]:
    """The implementations: name to a function that gives the loss."""

    def ours(block):
        return loss_of(ELBO(k, importance_weighted=True, block=block))

    if blocks:
        return {AT_ONCE: ours(None)} | {f"ours: {block} at a time": ours(block) for block in blocks if block < k}
    streamed = {STREAMED: ours(max(1, ROWS // BATCH))}
    if k > ALL_AT_ONCE:
        return streamed
    return streamed | {AT_ONCE: ours(None), "eager": eager, "compile": torch.compile(eager, dynamic=False)}


def steps(k: int, blocks: list[int] | None) -> dict[str, Callable]:
    """Forward and backward of each implementation."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(BATCH, PIXELS, generator=generator)
    mu, logvar = (t.requires_grad_() for t in torch.randn(2, BATCH, LATENT, generator=generator).unbind())
    theirs = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, PIXELS))
    own = nn.Sequential(Linear(LATENT, HIDDEN, tanh=True), Linear(HIDDEN, PIXELS))
    leaves = [mu, logvar, *theirs.parameters(), *own.parameters()]

    def step(name, loss):
        net = own if name.startswith("ours") else theirs

        def run():
            loss(x, mu, logvar, net, k).backward()
            for t in leaves:
                t.grad = None

        return run

    return {name: step(name, loss) for name, loss in ways(k, blocks).items()}


def measure(k: int, blocks: list[int] | None = None) -> dict:
    """Seconds and bytes of each implementation."""
    torch.manual_seed(0)
    torch._dynamo.reset()
    device, runs = torch.device("cpu"), steps(k, blocks)
    for run in runs.values():
        warm_up(run)
    seconds = interleaved(runs, device, EFFORT, process_seconds)
    return {"k": k, "seconds": seconds, "peak_bytes": {name: peak_bytes(run, device) for name, run in runs.items()}}


def row(figures: dict, names: list[str]) -> str:
    seconds, peaks = figures["seconds"], figures["peak_bytes"]
    cells = [f"{figures['k']}", *(duration(seconds[name]) if name in seconds else "" for name in names)]
    cells += [f"{peaks[name] / 1e6:.3g}" if name in peaks else "" for name in names]
    return f"| {' | '.join(cells)} |"


def header(names: list[str]) -> str:
    cells = ["k", *names, *(f"MB: {name}" for name in names)]
    return f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.samples", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--k", type=int, nargs="+", default=KS, help="figures of other k stay as they are")
    parser.add_argument("--blocks", type=int, nargs="+", help="ours alone, with blocks of so many samples")
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.blocks:
        for k in a.k:
            figures = measure(k, a.blocks)
            names = list(figures["seconds"])
            print(header(names), row(figures, names), sep="\n", flush=True)
        return
    about = environment(torch.device("cpu"))
    path = RESULTS / f"samples-{file_name(about)}.json"
    old = json.loads(path.read_text())["samples"] if path.exists() else []
    for k in a.k:
        new = {**measure(k), "commit": about["aevb_ext"]["commit"]}
        old = sorted([f for f in old if f["k"] != k] + [new], key=lambda f: f["k"])
        results = {**about, "samples": old}
        path.write_text(json.dumps(results, indent=1) + "\n")
    names = list(dict.fromkeys(name for f in old for name in f["seconds"]))
    print(where(results), header(names), *(row(f, names) for f in old), sep="\n")
    from . import plots

    print(plots.save(plots.samples, old, results, PICTURES / "cpu-samples.png"))


if __name__ == "__main__":
    main()
