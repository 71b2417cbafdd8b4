"""Whole training steps, of the paper's network for MNIST: 784-500-20-500-784 with tanh, Bernoulli pixels, Adagrad and
the parameters' prior. Each step draws its minibatch from data in memory. Ours is what `fit` runs; the rivals are the
same step in PyTorch as people write it, under torch.compile with a fused optimiser, and in JAX.
"""

import importlib.util
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from aevb_ext.learners import AEVB
from aevb_ext.models import mlp_vae
from aevb_ext.train import make_step

from .measure import FULL, Effort, interleaved
from .memory import peak_bytes
from .rivals import bernoulli_textbook, of_bytes, rsample_kl_textbook

DATA, PIXELS, HIDDEN, LATENT, STEPSIZE = 60_000, 784, 500, 20, 0.02
# Warm-up steps: on a GPU ours is captured in a graph first, and Adagrad's hundred silent steps are over.
WARM_UP = {"cpu": 2, "cuda": 110}
BURST_SECONDS = 0.2  # long, so that one library's idle threads are asleep while another's run


@dataclass(frozen=True)
class Training:
    """A step at one size, and how many times as fast as each rival it must be."""

    batch: int
    dtype: torch.dtype = torch.float32
    asked: dict[str, float] = field(default_factory=dict)
    memory: float | None = None

    def __str__(self):
        dtype = "" if self.dtype == torch.float32 else f", {str(self.dtype).removeprefix('torch.')}"
        return f"training step, M = {self.batch}{dtype}"


def trainings(device: str) -> list[Training]:
    if device == "cpu":
        return [
            Training(100, asked={"eager": 1.0, "compile": 2.0, "jax": 1.0}),
            Training(8192, asked={"eager": 1.0, "compile": 1.0, "jax": 1.0}),
        ]
    return [
        Training(100, asked={"eager": 5.0, "compile": 1.0}),
        Training(65536, torch.bfloat16, asked={"eager": 1.0, "compile": 1.3}, memory=1.0),
    ]


def data_set(device) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (DATA, PIXELS), dtype=torch.uint8, generator=generator).to(device)


def network() -> nn.ModuleDict:
    """The rivals' network: PyTorch's own layers, with the same initial parameters as ours."""

    def mlp(inputs, outputs):
        return nn.Sequential(nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, outputs))

    layers = nn.ModuleDict({"encoder": mlp(PIXELS, 2 * LATENT), "decoder": mlp(LATENT, PIXELS)})
    with torch.no_grad():
        for mine, first in zip(layers.parameters(), initial().parameters(), strict=True):
            mine.copy_(first)
    return layers


def initial():
    generator = torch.Generator().manual_seed(0)
    return mlp_vae(PIXELS, latent=LATENT, hidden=HIDDEN, x_scale=1 / 255, generator=generator)


def rows(data: Tensor, batch: int) -> Tensor:
    return data.index_select(0, torch.randint(len(data), (batch,), device=data.device))


def ours(training: Training, data: Tensor) -> Callable[[int], None]:
    model = initial().to(data.device)
    precision = "bf16" if training.dtype == torch.bfloat16 else "float32"
    step = make_step(AEVB(model, len(data), batch_size=training.batch, lr=STEPSIZE, precision=precision), data)

    def run(steps):
        for _ in range(steps):
            bound = step()
        return bound

    return run


def optimizer(parameters, batch: int, device) -> torch.optim.Optimizer:
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": batch / DATA},
        {"params": [p for p in parameters if p.dim() <= 1]},
    ]
    # The fastest option of torch on each device.
    return torch.optim.Adagrad(groups, lr=STEPSIZE, **({"fused": True} if device.type == "cpu" else {"foreach": True}))


def textbook_loss(layers: nn.ModuleDict, x: Tensor) -> Tensor:
    """Minus the bound, summed over the minibatch."""
    mu, logvar = layers["encoder"](x / 255).chunk(2, 1)
    z, kl = rsample_kl_textbook(mu, logvar, "mean")
    return (of_bytes(bernoulli_textbook)(x, layers["decoder"](z), "mean") + kl) * len(x)


def in_torch(training: Training, data: Tensor, compiled: bool) -> Callable[[int], None]:
    device = data.device
    layers = network().to(device)
    optimise = optimizer(layers.parameters(), training.batch, device)

    def loss_of(x):
        with torch.autocast(device.type, training.dtype, enabled=training.dtype != torch.float32):
            return textbook_loss(layers, x)

    loss = loss_of
    if compiled:
        # On a GPU small steps are dominated by launches, which CUDA graphs avoid.
        mode = "reduce-overhead" if device.type == "cuda" and training.batch <= 1024 else None
        loss = torch.compile(loss_of, dynamic=False, mode=mode)

    def run(steps):
        for _ in range(steps):
            optimise.zero_grad(set_to_none=True)
            value = loss(rows(data, training.batch))
            value.backward()
            optimise.step()
        return -value.detach() / training.batch

    return run


def parameters() -> list[tuple]:
    state = list(network().parameters())
    return [(w.detach().numpy(), b.detach().numpy()) for w, b in zip(state[::2], state[1::2], strict=True)]


def in_jax(training: Training, data: Tensor) -> Callable[[int], None]:
    from . import jax_step

    return jax_step.trainer(parameters(), data.cpu().numpy(), training.batch, STEPSIZE, training.batch / DATA)


def runners(training: Training, data: Tensor) -> tuple[dict[str, Callable], dict[str, str]]:
    """run(steps) of each contender, and the reason if one is missing."""
    made = {
        "ours": lambda: ours(training, data),
        "eager: textbook": lambda: in_torch(training, data, compiled=False),
        "compile: textbook": lambda: in_torch(training, data, compiled=True),
    }
    failures = {}
    if "jax" in training.asked:
        if importlib.util.find_spec("jax"):
            made["jax: jit, scan"] = lambda: in_jax(training, data)
        else:
            failures["jax: jit, scan"] = "not installed"
    return {name: make() for name, make in made.items()}, failures


def measure(training: Training, device: torch.device, effort: Effort = FULL) -> dict:
    torch._dynamo.reset()
    data = data_set(device)
    runs, failures = runners(training, data)
    steps, first_peaks = {}, {}
    for name, run in runs.items():
        if device.type == "cuda":
            # A graph takes its memory when it is captured, and a replay takes none.
            first_peaks[name] = peak_bytes(lambda run=run: run(WARM_UP["cuda"]), device)
        else:
            run(WARM_UP["cpu"])
        run(1)
        start = time.perf_counter()
        run(1)
        if device.type == "cuda":
            torch.cuda.synchronize()
        steps[name] = max(1, round(BURST_SECONDS / (time.perf_counter() - start)))
        run(steps[name])  # JAX compiles for each number of steps
    bursts = {name: lambda run=run, n=steps[name]: run(n) for name, run in runs.items()}
    seconds = {name: s / steps[name] for name, s in interleaved(bursts, device, effort).items()}
    in_pytorch = [name for name in runs if not name.startswith("jax")]
    figures = {
        "case": str(training),
        "batch": training.batch,
        "seconds": seconds,
        "failures": failures,
        "parts": {name: parts(runs[name], seconds[name], device) for name in in_pytorch},
        "peak_bytes": first_peaks or {name: peak_bytes(lambda run=runs[name]: run(1), device) for name in in_pytorch},
    }
    if "jax: jit, scan" in runs:
        figures["parts"]["jax: jit, scan"] = _jax_parts(training, seconds["jax: jit, scan"], device, effort)
    if device.type == "cuda":
        figures["synchronisations"] = synchronisations(runs["ours"])
    return figures


# What an event of the profiler is part of, by what is in its name: operations of PyTorch on the CPU, kernels on a GPU.
# The kernels that torch.compile makes have no such names on the CPU, and are in the rest.
PARTS = {
    "matrix products": r"aten::(addmm|mm|linear|mkldnn_.*)$|mkldnn|aevb_ext::linear|gemm|cutlass|nvjet|cublas|splitK",
    "activations, biases": r"aten::(tanh.*|sum)$|tanh|reduce_kernel",
    "sampling, KL, likelihood": (
        r"aevb(?!_ext::scaled)|binary_cross|log_sigmoid|normal|randn|aten::(exp|neg|pow|r?sub|mul_|add)$|exp_kernel"
    ),
    "optimiser": r"Optimizer\.|aten::_(fused_ada|foreach)|multi_tensor|adagrad",
    "data": r"aevb_ext::scaled|aten::(index.*|random_|copy_|mul|div)$|index|distribution|copy",
}


def part_of(name: str) -> str | None:
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name, re.IGNORECASE)), None)


def parts(run: Callable, seconds: float, device: torch.device) -> dict[str, float]:
    """Seconds of a step by part: the profiler's own times of each operation; what is left of the step is the rest."""
    steps = max(1, min(20, round(BURST_SECONDS / seconds)))
    on_gpu = device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as profiled:
        run(steps)
        if on_gpu:
            torch.cuda.synchronize()
    found = dict.fromkeys(PARTS, 0.0)
    for event in profiled.key_averages():
        if part := part_of(event.key):
            found[part] += (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1e6 / steps
    # The profiler's own work can make the parts longer than the step is without it.
    shrink = min(1.0, seconds / (sum(found.values()) or seconds))
    found = {part: taken * shrink for part, taken in found.items()}
    return {**found, "rest": seconds - sum(found.values())}


def _jax_parts(training, seconds, device, effort) -> dict[str, float]:
    """XLA does not report the time of a program's parts; only its products can be timed."""
    from . import jax_step

    products = {"products": jax_step.products(parameters(), training.batch)}
    measured = interleaved(products, torch.device("cpu"), effort)["products"]
    return {"matrix products": min(measured, seconds), "rest": max(0.0, seconds - measured)}


def synchronisations(run: Callable) -> int:
    """How often the host waits for the GPU in ten steps, by the profiler. It should be 0."""
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        run(10)
        # The profiler's own waits, at its end, come after this one, and are no part of the steps.
        torch.cuda.synchronize()
    waits = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy")
    return sum(event.count for event in profiled.key_averages() if event.key in waits)
