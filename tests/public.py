"""The one table of public things: each in a small program, which PyTorch's machinery is then let loose on.

A new public function, class or method is one more row of ROWS: `test_machinery.py` fails for a public name without one.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from unittest import mock

import torch
from torch import nn

import aevb_ext
import aevb_ext.nn
from aevb_ext import functional

FEATURES, EVENT = 4, 3  # of a data point, and of the tensors that a program makes of it


@dataclass(frozen=True)
class Argument:
    """A tensor that a layer makes of the minibatch: how wide, and what is done to have its values in their domain."""

    domain: Callable = lambda t: t
    width: int = EVENT


NUMBER = Argument()
LOG_VARIANCE = Argument(torch.tanh)


@dataclass(frozen=True)
class Row:
    """A public thing.

    `call` takes what a layer has made (`learnt`, by name) or the targets (`data`), the noise key if it `draws_noise`
    and the `module` if there is one, and gives a tensor or several: `[B, *event]`, `[B]`, or a mean over data points.
    """

    name: str
    call: Callable
    learnt: Mapping[str, Argument]
    data: tuple[str, ...] = ()
    draws_noise: bool = False
    module: Callable[[], nn.Module] | None = None
    any_dtype: bool = False  # also those that are no float64, float32, bfloat16 or float16
    variant: str = ""

    def __str__(self):
        return f"{self.name}-{self.variant}" if self.variant else self.name


class Program(nn.Module):
    """A minibatch through linear layers and a public thing to a loss, which is a mean over data points."""

    def __init__(self, row: Row, device="cpu"):
        super().__init__()
        with torch.random.fork_rng(), torch.device(device):
            torch.manual_seed(0)
            self.layers = nn.ModuleDict({n: nn.Linear(FEATURES, a.width) for n, a in row.learnt.items()})
            self.module = row.module() if row.module else None
        self.call, self.draws_noise, self.data = row.call, row.draws_noise, row.data
        self.domains = {name: argument.domain for name, argument in row.learnt.items()}

    def tensors(self, x, y):
        """The tensors that the public thing is given, by name."""
        made = {name: self.domains[name](layer(x)) for name, layer in self.layers.items()}
        return made | dict.fromkeys(self.data, y)

    def outputs(self, tensors, key=None):
        """What it makes of them."""
        options = ({"key": key} if self.draws_noise else {}) | ({"module": self.module} if self.module else {})
        outputs = self.call(**tensors, **options)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def forward(self, x, y, beta, key=None):
        """``beta`` times the loss, and the outputs. Every element of every output has a weight of its own.

        x ``[B, FEATURES]``, y ``[B, EVENT]`` from 0 to 1, beta a number, key for what draws noise: None draws one.
        """
        outputs = self.outputs(self.tensors(x, y), key)
        return beta * sum(self._loss(output) for output in outputs), outputs

    @staticmethod
    def _loss(output):
        if output.dim() == 0:
            return output
        squares = output.square().flatten(1) if output.dim() > 1 else output.square().unsqueeze(1)
        weights = torch.arange(1.0, squares.shape[1] + 1, dtype=squares.dtype, device=squares.device)
        return (squares * weights).sum(1).mean()


def same_bits(found, expected):
    """Whether two trees of tensors are equal."""
    found, expected = (torch.utils._pytree.tree_leaves(tree) for tree in (found, expected))
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def inputs(batch=4, device="cpu", dtype=torch.float32):
    """What a program is called with: x, y, beta and a key."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, FEATURES, generator=generator, dtype=torch.float64)
    y = torch.rand(batch, EVENT, generator=generator, dtype=torch.float64)
    beta = torch.tensor(0.5, dtype=torch.float64)
    return *(t.to(device=device, dtype=dtype) for t in (x, y, beta)), torch.tensor([1312, 6114], device=device)


def value_and_gradients(program, *arguments):
    """The loss, the outputs, and the gradients of the parameters and of x."""
    x = arguments[0].detach().requires_grad_()
    loss, outputs = program(x, *arguments[1:])
    return loss, outputs, torch.autograd.grad(loss, [*program.parameters(), x])


def by_reference():
    """Within it every public function computes its reference formula, as it does on a device without a kernel."""
    return mock.patch.object(functional, "_COMPILED", frozenset())


_posterior = {"mu": NUMBER, "logvar": LOG_VARIANCE}
_prior = {"prior_mu": NUMBER, "prior_logvar": LOG_VARIANCE}
ROWS = [
    Row("rsample", aevb_ext.rsample, _posterior, draws_noise=True),
    Row("gaussian_kl", aevb_ext.gaussian_kl, _posterior),
    Row("gaussian_kl", aevb_ext.gaussian_kl, _posterior | _prior, variant="to_prior"),
    Row("rsample_kl", aevb_ext.rsample_kl, _posterior, draws_noise=True),
    Row("bernoulli_log_prob", aevb_ext.bernoulli_log_prob, {"logits": NUMBER}, data=("x",)),
    Row("gaussian_log_prob", aevb_ext.gaussian_log_prob, _posterior, data=("x",)),
    Row("halves", aevb_ext.halves, {"params": Argument(width=2 * EVENT)}, any_dtype=True),
    *(
        Row(
            "nn.Linear",
            lambda module, x: module(x),
            {"x": NUMBER},
            module=functools.partial(aevb_ext.nn.Linear, EVENT, 2, tanh=tanh),
            any_dtype=True,
            variant="tanh" if tanh else "",
        )
        for tanh in (False, True)
    ),
]

# Public, but nothing flows through them.
NOT_DIFFERENTIABLE = {"build_info", "noise_key"}
