"""A user's training step, before and after the lines of sampling and loss are replaced: eager and under torch.compile.

python -m benchmarks.users                    all of STEPS
python -m benchmarks.users --only Gaussian    the steps with this in their name
    --seconds S                               for each step
    --json FILE                               keep the figures as well

The model is the user's, of PyTorch's own layers, with Adam(fused=True). `python -m benchmarks` has these steps as well.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import aevb_ext

from .machine import environment
from .measure import Effort, interleaved, warm_up

CPU, EFFORT = torch.device("cpu"), Effort(6)
KINDS = {"eager": "eager", "compile": "compiled"}


@dataclass(frozen=True)
class Step:
    """A step on `batch` data points: an MLP on 784 pixels, or convolutions on 3 x 64 x 64 with latents 4 x 32 x 32."""

    batch: int
    convolutions: bool = False
    channels_last: bool = False
    gaussian: bool = False  # of variance 1; else Bernoulli

    def __str__(self):
        likelihood = "Gaussian of variance 1" if self.gaussian else "Bernoulli"
        layout = ", channels_last" if self.channels_last else ""
        of = "convolutions, {} x 3 x 64 x 64" if self.convolutions else "784-400-20-400-784, M = {}"
        return f"{of.format(self.batch)}{layout}, {likelihood}"

    def data(self) -> Tensor:
        shape = (self.batch, 3, 64, 64) if self.convolutions else (self.batch, 784)
        return self.laid_out(torch.rand(shape))

    def model(self) -> tuple[nn.Module, nn.Module]:
        """Encoder to packed parameters, and decoder."""
        if not self.convolutions:
            encoder = nn.Sequential(nn.Linear(784, 400), nn.ReLU(), nn.Linear(400, 40))
            return encoder, nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 784))
        encoder = nn.Sequential(nn.Conv2d(3, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 8, 3, 1, 1))
        decoder = nn.Sequential(nn.ConvTranspose2d(4, 32, 4, 2, 1), nn.ReLU(), nn.Conv2d(32, 3, 3, 1, 1))
        return self.laid_out(encoder), self.laid_out(decoder)

    def laid_out(self, given):
        return given.to(memory_format=torch.channels_last) if self.channels_last else given


STEPS = [
    *(Step(batch) for batch in (128, 1024, 4096)),
    *(Step(32, True, last, gaussian) for gaussian in (False, True) for last in (False, True)),
]


@dataclass(frozen=True)
class Compared:
    """A step with our operators and without: eager, or compiled on both sides. Never slower."""

    step: Step
    kind: str
    memory = None

    def __str__(self):
        return f"{self.step}, {KINDS[self.kind]}"

    @property
    def asked(self) -> dict[str, float]:
        return {self.kind: 1.0}


def of_step(step: Step) -> list[Compared]:
    return [Compared(step, kind) for kind in KINDS]


def compared(device: str) -> list[Compared]:
    return [one for step in STEPS for one in of_step(step)] if device == "cpu" else []


def before(step: Step, x: Tensor, encoder: nn.Module, decoder: nn.Module) -> Tensor:
    """The loss as PyTorch's example of a VAE has it, over the number of data points."""
    mu, logvar = encoder(x).chunk(2, 1)
    output = decoder(mu + torch.exp(0.5 * logvar) * torch.randn_like(mu))
    if step.gaussian:
        reconstruction = 0.5 * F.mse_loss(output, x, reduction="sum")
    else:
        reconstruction = F.binary_cross_entropy_with_logits(output, x, reduction="sum")
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return (reconstruction + kl) / len(x)


def after(step: Step, x: Tensor, encoder: nn.Module, decoder: nn.Module) -> Tensor:
    """The same with our operators (and a Gaussian's constant)."""
    mu, logvar = aevb_ext.halves(encoder(x), 1)
    z, kl = aevb_ext.rsample_kl(mu, logvar, reduction="mean")
    output = decoder(z)
    if step.gaussian:
        log_prob = aevb_ext.gaussian_log_prob(x, output, output.new_zeros(()), reduction="mean")
    else:
        log_prob = aevb_ext.bernoulli_log_prob(x, output, reduction="mean")
    return kl - log_prob


def training_step(step: Step, loss: Callable, compiled: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    x, (encoder, decoder) = step.data(), step.model()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-4, fused=True)

    def of_minibatch(x):
        return loss(step, x, encoder, decoder)

    if compiled:
        of_minibatch = torch.compile(of_minibatch, fullgraph=True, dynamic=False)

    def run():
        optimizer.zero_grad()
        of_minibatch(x).backward()
        optimizer.step()

    return run


def measure(step: Step, effort: Effort) -> list[dict]:
    """The figures of a step, eager and compiled: seconds with ours ("ours") and without ("eager: before", ...)."""
    torch._dynamo.reset()
    calls = {(kind, loss): training_step(step, loss, kind == "compile") for kind in KINDS for loss in (before, after)}
    for call in calls.values():
        warm_up(call)
    seconds = interleaved(calls, CPU, effort)
    return [
        {
            "case": str(one),
            "seconds": {"ours": seconds[one.kind, after], f"{one.kind}: before": seconds[one.kind, before]},
            "failures": {},
        }
        for one in of_step(step)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.users", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="the steps with this in their name")
    parser.add_argument("--seconds", type=float, default=EFFORT.seconds, help="for each step")
    parser.add_argument("--json", type=Path, metavar="FILE", help="keep the figures here")
    arguments = parser.parse_args()
    from . import report  # which imports this

    measured = []
    for step in STEPS:
        if arguments.only in str(step):
            measured += measure(step, Effort(arguments.seconds))
            print(*map(report.line, measured[-len(KINDS) :]), sep="\n", flush=True)
    print(*report.users({"users": measured}), sep="\n")
    if arguments.json:
        arguments.json.write_text(json.dumps({**environment(CPU), "users": measured}, indent=1) + "\n")


if __name__ == "__main__":
    main()
