"""The table of what is timed: each operator, its rivals, its sizes, and the fewest bytes that it must move.

A new operator is one more row of OPERATIONS. The rivals are what people write today: `eager` is the textbook's lines,
`distributions` the same with torch.distributions, and the harness adds `compiled`, torch.compile of the textbook's.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence

import aevb_ext


@dataclass(frozen=True)
class Size:
    batch: int
    event: int
    samples: int | None = None

    @property
    def elements(self) -> int:
        return self.batch * self.event

    @property
    def draws(self) -> int:
        return self.samples or 1

    def __str__(self):
        return " x ".join(str(n) for n in (self.samples, self.batch, self.event) if n is not None)


@dataclass(frozen=True)
class Operation:
    """One operator as it is used.

    tensors: its inputs, those that are differentiated with `requires_grad`.
    implementations: each takes the tensors by name and gives the results; the first is ours.
    floor: elements that forward and backward must read and write at the least, given what is theirs to keep: each
        input once in the forward and (except those that the gradient does not depend on) once in the backward, each
        result and each gradient written once, each elementwise cotangent read once. One number a row is not counted.
    """

    name: str
    tensors: Callable[[Size, torch.device, torch.dtype], dict[str, Tensor]]
    implementations: dict[str, Callable]
    floor: Callable[[Size], int]
    sizes: dict[str, tuple[Size, ...]]


# Random tensors.


def _normal(shape, device, dtype):
    return torch.randn(shape, device=device).to(dtype)


def _posterior(size, device, dtype):
    """Both halves of an encoder's output, where they lie."""
    mu, logvar = _normal((size.batch, 2 * size.event), device, dtype).chunk(2, 1)
    return {"mu": mu.requires_grad_(), "logvar": logvar.requires_grad_()}


def _decoder_shape(size):
    return (*((size.samples,) if size.samples else ()), size.batch, size.event)


def _logits(size, device, dtype):
    x = (torch.rand(size.batch, size.event, device=device) > 0.5).to(dtype)
    return {"x": x, "logits": _normal(_decoder_shape(size), device, dtype).requires_grad_()}


def _grey_bytes(size, device, dtype):
    x = torch.randint(256, (size.batch, size.event), device=device, dtype=torch.uint8)
    return _logits(size, device, dtype) | {"x": x}


def _gaussian(size, device, dtype):
    mu, logvar = (_normal(_decoder_shape(size), device, dtype).requires_grad_() for _ in range(2))
    return {"x": _normal((size.batch, size.event), device, dtype), "mu": mu, "logvar": logvar}


def _gaussian_one_scale(size, device, dtype):
    return _gaussian(size, device, dtype) | {"logvar": torch.zeros((), device=device, dtype=dtype, requires_grad=True)}


# The textbook's lines.


def _eager_rsample(mu, logvar):
    std = torch.exp(0.5 * logvar)
    return mu + torch.randn_like(std) * std


def _eager_kl(mu, logvar):
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)


def _eager_bernoulli(x, logits):
    return -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)


def _eager_grey_bytes(x, logits):
    return _eager_bernoulli(x.to(logits.dtype) / 255, logits)


def _eager_gaussian(x, mu, logvar):
    return -0.5 * (math.log(2 * math.pi) + logvar + (x - mu).pow(2) / logvar.exp()).sum(-1)


# The same with torch.distributions.


def _normal_distribution(mu, logvar):
    return Normal(mu, torch.exp(0.5 * logvar))


def _distributions_rsample(mu, logvar):
    return _normal_distribution(mu, logvar).rsample()


def _distributions_kl(mu, logvar):
    return kl_divergence(_normal_distribution(mu, logvar), Normal(0.0, 1.0)).sum(1)


def _distributions_rsample_kl(mu, logvar):
    posterior = _normal_distribution(mu, logvar)
    return posterior.rsample(), kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)


def _distributions_bernoulli(x, logits):
    return Bernoulli(logits=logits).log_prob(x).sum(-1)


def _distributions_gaussian(x, mu, logvar):
    return _normal_distribution(mu, logvar).log_prob(x).sum(-1)


# A minibatch of the paper, where calling costs more than computing, and one that memory bounds (beyond the caches).
LATENT = {"cpu": (Size(100, 20), Size(16384, 256)), "cuda": (Size(100, 20), Size(65536, 512))}
IMAGE = {"cpu": (Size(100, 784), Size(2048, 3072)), "cuda": (Size(100, 784), Size(16384, 3072))}
SAMPLES = {"cpu": (Size(100, 784, samples=50),), "cuda": (Size(1000, 784, samples=50),)}

OPERATIONS = [
    Operation(
        "rsample",
        _posterior,
        {"ours": aevb_ext.rsample, "eager": _eager_rsample, "distributions": _distributions_rsample},
        # mu, logvar -> z; cotangent, logvar -> d logvar: the gradient of mu is the cotangent itself.
        lambda size: (2 + 1 + 1 + 1 + 1) * size.elements,
        LATENT,
    ),
    Operation(
        "gaussian_kl",
        _posterior,
        {"ours": aevb_ext.gaussian_kl, "eager": _eager_kl, "distributions": _distributions_kl},
        # mu, logvar; mu, logvar -> d mu, d logvar
        lambda size: (2 + 2 + 2) * size.elements,
        LATENT,
    ),
    Operation(
        "rsample_kl",
        _posterior,
        {
            "ours": aevb_ext.rsample_kl,
            "eager": lambda mu, logvar: (_eager_rsample(mu, logvar), _eager_kl(mu, logvar)),
            "distributions": _distributions_rsample_kl,
        },
        # mu, logvar -> z; cotangent, mu, logvar -> d mu, d logvar
        lambda size: (2 + 1 + 1 + 2 + 2) * size.elements,
        LATENT,
    ),
    Operation(
        "bernoulli_log_prob",
        _logits,
        {"ours": aevb_ext.bernoulli_log_prob, "eager": _eager_bernoulli, "distributions": _distributions_bernoulli},
        # x, logits; x, logits -> d logits
        lambda size: 2 * size.elements + 3 * size.draws * size.elements,
        {device: IMAGE[device] + SAMPLES[device] for device in IMAGE},
    ),
    Operation(
        "bernoulli_log_prob of bytes",
        _grey_bytes,
        {
            "ours": lambda x, logits: aevb_ext.bernoulli_log_prob(x, logits, x_scale=1 / 255),
            "eager": _eager_grey_bytes,
        },
        # x, logits; x, logits -> d logits, where x is a byte an element (here in float32 elements)
        lambda size: 2 * size.elements // 4 + 3 * size.elements,
        {device: sizes[1:] for device, sizes in IMAGE.items()},
    ),
    Operation(
        "gaussian_log_prob",
        _gaussian,
        {"ours": aevb_ext.gaussian_log_prob, "eager": _eager_gaussian, "distributions": _distributions_gaussian},
        # x, mu, logvar; x, mu, logvar -> d mu, d logvar
        lambda size: (3 + 3 + 2) * size.elements,
        IMAGE,
    ),
    Operation(
        "gaussian_log_prob, one scale",
        _gaussian_one_scale,
        {"ours": aevb_ext.gaussian_log_prob, "eager": _eager_gaussian, "distributions": _distributions_gaussian},
        # x, mu; x, mu -> d mu
        lambda size: (2 + 2 + 1) * size.elements,
        {device: sizes[1:] for device, sizes in IMAGE.items()},
    ),
]


@dataclass(frozen=True)
class Row:
    operation: Operation
    size: Size
    dtype: torch.dtype

    @property
    def floor_bytes(self) -> int:
        return self.operation.floor(self.size) * self.dtype.itemsize

    def __str__(self):
        return f"{self.operation.name} [{self.size}] {str(self.dtype).removeprefix('torch.')}"


def rows(device: str) -> list[Row]:
    """Every operator at every size in float32, and at its largest in bfloat16."""
    table = []
    for operation in OPERATIONS:
        sizes = operation.sizes[device]
        table += [Row(operation, size, torch.float32) for size in sizes]
        if operation.tensors is not _grey_bytes:
            table.append(Row(operation, sizes[-1], torch.bfloat16))
    return table
