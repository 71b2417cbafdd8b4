"""The distributions used in tests, each with its counterpart in torch.distributions."""

import pytest
import torch
from cases import SPREADS, in_parameterisation
from torch import distributions as td

from aevb_ext.distributions import Bernoulli, DiagonalGaussian

# batch_shape and event_shape
SHAPES = {
    "vector": ((4,), (7,)),
    "image": ((2,), (3, 4, 5)),
    "batch2": ((3, 2), (5,)),
    "batch0": ((), (6,)),
    "event0": ((6,), ()),
}
SAMPLE_SHAPES = [(), (3,), (2, 3), (1,)]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KINDS = ("logits", "probs")

each_shape = pytest.mark.parametrize("shape", list(SHAPES))
each_spread = pytest.mark.parametrize("spread", SPREADS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_kind = pytest.mark.parametrize("kind", KINDS)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def shapes_of(shape):
    """That of a name, or the two shapes themselves."""
    return SHAPES[shape] if isinstance(shape, str) else shape


def gaussian(shape="vector", spread="logvar", dtype=torch.float64, seed=0, **options):
    batch, event = shapes_of(shape)
    mu, log_variance = randn(2, *batch, *event, seed=seed)
    scale_param = in_parameterisation(log_variance, spread)
    return DiagonalGaussian(mu.to(dtype), scale_param.to(dtype), spread=spread, batch_dims=len(batch), **options)


def bernoulli(shape="vector", kind="logits", dtype=torch.float64, seed=0, **options):
    batch, event = shapes_of(shape)
    logits = 2 * randn(*batch, *event, seed=seed)
    param = logits if kind == "logits" else logits.sigmoid()
    return Bernoulli(**{kind: param.to(dtype)}, batch_dims=len(batch), **options)


def of_torch(ours, **options):
    """The same distribution as torch.distributions has it, in float64."""
    if isinstance(ours, Bernoulli):
        base = td.Bernoulli(**{ours.param_name: ours.param.double()}, **options)
    else:
        sigma = {
            "logvar": lambda s: (0.5 * s).exp(),
            "log_std": torch.exp,
            "std": lambda s: s,
            "var": torch.sqrt,
        }[ours.spread](ours.scale_param.double())
        base = td.Normal(ours.mu.double(), sigma, **options)
    return td.Independent(base, len(ours.event_shape), **options)


def assert_close(ours, theirs, dtype=torch.float64):
    """Equal in shape, and in value to what arithmetic in float32 (float64 for float64) makes of a sum of 60 terms."""
    assert ours.shape == theirs.shape
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def standard_normal_like(like):
    zero = torch.zeros(like.batch_shape + like.event_shape, dtype=torch.float64)
    return DiagonalGaussian(zero, zero, batch_dims=len(like.batch_shape))


BOTH = {"gaussian": gaussian, "bernoulli": bernoulli, "probs": lambda *a, **k: bernoulli(*a, kind="probs", **k)}
each_class = pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)
