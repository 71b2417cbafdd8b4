"""A small program around a public function, class or method, for tests of PyTorch's machinery (see public.py)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from unittest import mock

import torch
from torch import nn

from aevb_ext import _library

FEATURES, EVENT = 4, 3  # of a data point, and of the tensors that a program makes of it


@dataclass(frozen=True)
class Argument:
    """A tensor that a layer makes of the minibatch: how wide, and what is done to have its values in their domain."""

    domain: Callable = lambda t: t
    width: int = EVENT


@dataclass(frozen=True)
class Row:
    """A public thing.

    `call` takes what layers have made (`learnt`) and the targets (`data`) by the names that the public thing has for
    them, the noise key if it `draws_noise` by one, and the `module` if there is one. It gives a tensor or several:
    `[B, *]`, or a mean over data points.
    """

    name: str
    call: Callable
    learnt: Mapping[str, Argument]
    data: tuple[str, ...] = ()
    draws_noise: bool = False
    takes_key: bool = True  # if it draws noise; otherwise of the device's generator alone
    module: Callable[[], nn.Module] | None = None
    variant: str = ""
    any_dtype: bool = False  # what it is given may be of a dtype that the operators do not take
    couples_points: bool = False  # a data point's loss depends on the rest of the minibatch

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
        self.call, self.data = row.call, row.data
        self.takes_key = row.draws_noise and row.takes_key
        self.domains = {name: argument.domain for name, argument in row.learnt.items()}

    def tensors(self, x, y):
        """The tensors that the public thing is given, by name."""
        made = {name: self.domains[name](layer(x)) for name, layer in self.layers.items()}
        return made | dict.fromkeys(self.data, y)

    def outputs(self, tensors, key=None):
        """What it makes of them."""
        options = ({"key": key} if self.takes_key else {}) | ({"module": self.module} if self.module else {})
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


def inputs(batch=4, device="cpu", dtype=torch.float32):
    """What a program is called with: x, y, beta, and a noise key for each data point."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, FEATURES, generator=generator, dtype=torch.float64)
    y = torch.rand(batch, EVENT, generator=generator, dtype=torch.float64)
    beta = torch.tensor(0.5, dtype=torch.float64)
    keys = torch.stack([torch.arange(batch) + 1312, torch.full((batch,), 6114)], 1)
    return *(t.to(device=device, dtype=dtype) for t in (x, y, beta)), keys.to(device)


def seeded(function, *arguments):
    """function(*arguments), which may draw a key."""
    torch.manual_seed(0)
    return function(*arguments)


def value_and_gradients(program, *arguments):
    """The loss, the outputs, and the gradients of the parameters and of x."""
    x = arguments[0].detach().requires_grad_()
    loss, outputs = seeded(program, x, *arguments[1:])
    return loss, outputs, torch.autograd.grad(loss, [*program.parameters(), x])


def same_bits(found, expected):
    """Whether two trees of tensors are equal."""
    found, expected = (torch.utils._pytree.tree_leaves(tree) for tree in (found, expected))
    return len(found) == len(expected) and all(map(torch.equal, found, expected))


def in_plain_pytorch():
    """Within it every public function computes its formula in plain PyTorch, as on a device without kernels."""
    return mock.patch.object(_library, "KERNELS", frozenset())
