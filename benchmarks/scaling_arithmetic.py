"""The expected time of a step on 8 to 512 GPUs, computed, not measured: python -m benchmarks.scaling_arithmetic

Parameters and multiplications are counted on the models themselves; everything else is a number below, each of which is
an assumption about an H200-class machine: eight GPUs on NVLink, one InfiniBand card of 400 Gb/s for each.
"""

import math

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from aevb_ext.learners import AEVB
from aevb_ext.models import make_model
from aevb_ext.nn import Linear

FLOPS = 989e12 * 0.4  # bf16 without sparsity, as the data sheet has it; large matrix products reach so much of it
NVLINK = 450e9 * 0.8  # bytes a second that a GPU sends, the data sheet's 900 GB/s being both directions
INFINIBAND = 8 * 50e9 * 0.8  # bytes a second that eight GPUs send, each through its own card
NODE = 8  # GPUs
HOP = {True: 3e-6, False: 8e-6}  # seconds from one GPU to the next, on a node and between two
CALL = 10e-6  # seconds in which the host launches one operator: what a CUDA graph saves
REPLAY = 20e-6  # seconds in which it launches a graph
FIRST_BUCKET, BUCKET = (
    1 << 20,
    25 << 20,
)  # bytes: DistributedDataParallel's, from the last layer's gradients to the first's

GPUS = 1, 8, 64, 512
# Of each: what make_model is given, data points a step of one GPU, and of all GPUs where their sum is fixed.
MODELS = {
    "paper's MLP, 784-500-20": ({"architecture": "mlp", "x_dim": 784, "hidden": 500, "latent": 20}, 8192, 65536),
    "deep MLP, 784, 3 x 2048, 64": (
        {"architecture": "deep-mlp", "x_dim": 784, "hidden": 2048, "depth": 3, "latent": 64},
        8192,
        65536,
    ),
    "conv, 3 x 128 x 128, 64 channels": (
        {"architecture": "conv", "image_shape": (3, 128, 128), "channels": 64, "latent": 128},
        256,
        8192,
    ),
}

HEADER = """\
| GPUs | sent by each, MB | all-reduce, ms | of it in the open, ms | weak: M | step, ms | efficiency | strong: M a GPU \
| step, ms | speed-up |
|---|---|---|---|---|---|---|---|---|---|"""


def flops(model: nn.Module, numbers: int) -> float:
    """Of a step, for one data point: forward, and twice as much for the gradients of inputs and of weights."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        # Each weight is used once at every place of the smaller of the two maps.
        places = math.prod((inputs[0] if isinstance(module, nn.ConvTranspose2d) else output).shape[2:])
        total += 2 * module.weight.numel() * places

    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, Linear, nn.Conv2d, nn.ConvTranspose2d))]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model.reconstruct(torch.zeros(1, numbers))
    for hook in hooks:
        hook.remove()
    return 3 * total


class Operators(TorchDispatchMode):
    """Counts the operators called in the context, except views."""

    called = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.called += not function.is_view
        return function(*args, **(kwargs or {}))


def operators(model: nn.Module, numbers: int) -> int:
    """The number of operators that a step calls."""
    learner = AEVB(model, 64, batch_size=4, optimizer="adam")
    learner.step(torch.zeros(4, numbers))
    with Operators() as found:
        learner.step(torch.zeros(4, numbers))
    return found.called


def buckets(model: nn.Module) -> list[int]:
    """Bytes of each all-reduce, in the order in which the backward makes the gradients."""
    found, room = [0], FIRST_BUCKET
    for parameter in reversed(list(model.parameters())):
        if found[-1] >= room:
            found, room = [*found, 0], BUCKET
        found[-1] += 4 * parameter.numel()
    return found


def all_reduce(size: int, n: int) -> float:
    """Seconds: a ring's bytes, 2 (n - 1) / n of them, and a tree's latency, which NCCL has for what is small."""
    if n == 1:
        return 0.0
    hops = 2 * sum(math.log2(k) * HOP[inside] for k, inside in ((min(n, NODE), True), (max(1, n // NODE), False)))
    return hops + 2 * (n - 1) / n * size / (NVLINK if n <= NODE else min(NVLINK, INFINIBAND))


def step(compute: float, host: float, sizes: list[int], n: int) -> tuple[float, float]:
    """Seconds of a step, and of the all-reduces that do not overlap with the backward."""
    if n == 1:
        return max(compute, REPLAY), 0.0
    *early, last = (all_reduce(size, n) for size in sizes)
    # The last bucket is complete when the backward ends; those before are sent while it goes on: two thirds of a step.
    backward = 2 / 3 * max(compute, host)
    exposed = last + max(0.0, sum(early) - backward)
    return max(compute, host) + exposed, exposed


def main() -> None:
    for name, (options, share, total) in MODELS.items():
        torch.manual_seed(0)
        model = make_model(**options)
        numbers = options.get("x_dim") or math.prod(options["image_shape"])
        per_point, sizes, host = flops(model, numbers), buckets(model), operators(model, numbers) * CALL
        print(f"\n{name}: {sum(sizes) / 4e6:.2f} M parameters, {sum(sizes) / 1e6:.1f} MB in {len(sizes)} all-reduces;")
        print(f"{per_point / 1e6:,.1f} MFLOP a data point; {host * 1e3:.2f} ms of the host a step, which is more than")
        print(f"the GPU's time below M = {host / per_point * FLOPS:,.0f} a GPU.\n")
        print(HEADER)
        for n in GPUS:
            (weak, hidden), (strong, _) = (step(per_point * m / FLOPS, host, sizes, n) for m in (share, total / n))
            alone = [step(per_point * m / FLOPS, host, sizes, 1)[0] for m in (share, total)]
            sent, together = 2 * (n - 1) / n * sum(sizes), sum(all_reduce(size, n) for size in sizes)
            cells = [n, f"{sent / 1e6:.1f}", f"{together * 1e3:.2f}", f"{hidden * 1e3:.2f}"]
            cells += [f"{share * n:,}", f"{weak * 1e3:.2f}", f"{alone[0] / weak:.2f}"]
            cells += [f"{total // n:,}", f"{strong * 1e3:.2f}", f"{alone[1] / strong:.1f}"]
            print("| " + " | ".join(map(str, cells)) + " |")


if __name__ == "__main__":
    main()
