"""A random call of an elementwise likelihood of counts, of locations and scales, or of grey levels."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

import aevb_ext
from aevb_ext import reference

from .calls import Call, Result, Term, _options, _spread_shape, by_rows, wide
from .drawing import Draw

# The formulas as the paper has them cancel in float64 what these have to keep there.
DTYPES = (torch.float32, torch.float32, torch.bfloat16, torch.float16)
COUNT_DTYPES = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.float32, torch.bfloat16)


def _positive(draw: Draw, shape) -> torch.Tensor:
    return 10 ** (4 * draw.uniform(shape) - 2)


def _normal(draw: Draw, shape) -> torch.Tensor:
    return 3 * draw.normal(shape)


def _counts(draw: Draw, shape) -> torch.Tensor:
    return torch.where(draw.uniform(shape) < 0.5, 0, (200 * draw.uniform(shape) ** 3).round())


def _unit(draw: Draw, shape) -> torch.Tensor:
    return draw.uniform(shape)


def _levels(draw: Draw, shape) -> torch.Tensor:
    return (255 * draw.uniform(shape)).round() / 255


@dataclass(frozen=True)
class Likelihood:
    """The values of x and of the parameters, of which the first has the whole shape."""

    name: str
    x: Callable
    parameters: dict[str, Callable]
    x_dtypes: tuple = COUNT_DTYPES
    options: dict = field(default_factory=dict)


LIKELIHOODS = (
    Likelihood("poisson_log_prob", _counts, {"log_rate": _normal}),
    Likelihood("poisson_log_prob", _counts, {"rate": _positive}),
    Likelihood("negative_binomial_log_prob", _counts, {"mean": _positive, "dispersion": _positive}),
    Likelihood("negative_binomial_log_prob", _counts, {"logits": _normal, "total_count": _positive}),
    Likelihood(
        "zero_inflated_negative_binomial_log_prob",
        _counts,
        {"mean": _positive, "dispersion": _positive, "gate_logits": _normal},
    ),
    *(
        Likelihood(name, _normal, {"mu": _normal, "scale": values, **more}, (torch.float32,), {"spread": spread})
        for name, more in (("laplace_log_prob", {}), ("student_t_log_prob", {"df": _positive}))
        for spread, values in (("scale", _positive), ("log_scale", _normal))
    ),
    Likelihood("continuous_bernoulli_log_prob", _unit, {"logits": _normal}, (torch.float32, torch.bfloat16)),
    Likelihood("discretized_logistic_log_prob", _levels, {"mu": _unit, "log_scale": _normal}, (torch.uint8,)),
)


def likelihood(draw: Draw) -> Call:
    which = draw.one_of(LIKELIHOODS)
    samples, batch, event = draw.shapes()
    dtype, shape = draw.one_of(DTYPES), samples + batch + event
    options = _options(draw, batch) | which.options
    x_dtype, x = draw.one_of(which.x_dtypes), which.x(draw, batch + event)
    options["x_scale"] = 1.0
    if which.x is _levels:
        x, options["x_scale"] = (255 * x).round(), 1 / 255
    tensors = {"x": draw.lie(x.to(x_dtype))}
    for i, (name, values) in enumerate(which.parameters.items()):
        given = values(draw, _spread_shape(draw, samples + batch, event) if i else shape)
        tensors[name] = draw.lie(draw.as_dtype(given, dtype))
    settings = {"x_scale": options["x_scale"], "reduction": "none"} | which.options
    term = Term(
        lambda **t: getattr(reference, which.name)(**t, **settings),
        tuple(tensors),
        torch.Size(shape),
        by_rows(options["reduction"], len(event)),
    )
    call = lambda **t: getattr(aevb_ext, which.name)(**t, **options)  # noqa: E731
    return Call(which.name, call, tensors, (Result((term,), wide(dtype)),), wide(dtype), options)


BUILDERS = (likelihood,) * 4
