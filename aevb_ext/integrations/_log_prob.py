"""The fused log-likelihoods in the ``log_prob`` of distributions of ``torch.distributions``."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Distribution,
    Independent,
    Laplace,
    MixtureSameFamily,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
)

from .. import functional as F
from .._arguments import COUNTS, FLOATING
from ._patch import Replacement, are_dense


class Family(NamedTuple):
    """
    of: the class whose ``log_prob`` is replaced.
    parameters: the attributes that its formula reads.
    log_prob: the same of ours, by x, the parameters, and the reduction.
    of_counts: whether integers are values too; those of other families are left to PyTorch.
    """

    of: type[Distribution]
    parameters: tuple[str, ...]
    log_prob: Callable[..., Tensor]
    of_counts: bool = False


def _normal(x: Tensor, loc: Tensor, scale: Tensor, **options: Any) -> Tensor:
    return F.gaussian_log_prob(x, loc, scale, spread="std", **options)


def _poisson(x: Tensor, rate: Tensor, **options: Any) -> Tensor:
    return F.poisson_log_prob(x, rate=rate, **options)


def _negative_binomial(x: Tensor, logits: Tensor, total_count: Tensor, **options: Any) -> Tensor:
    return F.negative_binomial_log_prob(x, logits=logits, total_count=total_count, **options)


FAMILIES = (
    Family(Normal, ("loc", "scale"), _normal),
    Family(Bernoulli, ("logits",), F.bernoulli_log_prob),
    Family(Poisson, ("rate",), _poisson, of_counts=True),
    Family(NegativeBinomial, ("logits", "total_count"), _negative_binomial, of_counts=True),
    Family(Laplace, ("loc", "scale"), F.laplace_log_prob),
    Family(StudentT, ("loc", "scale", "df"), F.student_t_log_prob),
    Family(ContinuousBernoulli, ("logits",), F.continuous_bernoulli_log_prob),
)


def log_prob_replacements() -> list[Replacement]:
    """Of the ``log_prob`` of the families, of Independent distributions of them, and of mixtures of Normals."""
    return [
        *(Replacement(family.of, "log_prob", _elementwise(*family[1:])) for family in FAMILIES),
        Replacement(Independent, "log_prob", _independent),
        Replacement(MixtureSameFamily, "log_prob", _mixture),
    ]


def _elementwise(parameters: tuple[str, ...], log_prob: Callable[..., Tensor], of_counts: bool) -> Callable:
    """A function of a distribution and a value. (Of what a method has, torch.compile cannot trace an object.)"""

    def function(d, value):
        return _fused(d, value, 0, parameters, log_prob, of_counts)

    return function


def _independent(d, value):
    base, event_dims = d.base_dist, d.reinterpreted_batch_ndims
    for of, parameters, log_prob, of_counts in FAMILIES:
        # A subclass with a log_prob of its own keeps it.
        if event_dims and isinstance(base, of) and type(base).log_prob is of.log_prob:
            return _fused(base, value, event_dims, parameters, log_prob, of_counts)
    return NotImplemented


def _mixture(d, value):
    """Of K diagonal Gaussians that all values share; another mixture's components may depend on the data point."""
    components, weights = d.component_distribution, d.mixture_distribution
    if not isinstance(components, Independent) or components.reinterpreted_batch_ndims != 1:
        return NotImplemented
    normal = components.base_dist
    if not (isinstance(normal, Normal) and type(normal).log_prob is Normal.log_prob and normal.loc.dim() == 2):
        return NotImplemented
    if not isinstance(weights, Categorical) or weights.logits.dim() != 1:
        return NotImplemented
    operands = (value, normal.loc, normal.scale, weights.logits)
    if not are_operands(*operands) or value.dtype not in FLOATING or value.dim() == 0:
        return NotImplemented
    if value.shape[-1] != normal.loc.shape[1] or normal.scale.shape != normal.loc.shape:
        return NotImplemented
    if d._validate_args:
        d._validate_sample(value)
    result = F.mixture_log_prob(*operands, spread="std")
    return result if result.dtype == value.dtype else result.to(value.dtype)


def _fused(
    d: Any,
    value: Any,
    event_dims: int,
    parameters: tuple[str, ...],
    log_prob: Callable[..., Tensor],
    of_counts: bool,
) -> Tensor:
    """The log-likelihood, summed over the last ``event_dims`` dimensions; NotImplemented if it is not ours."""
    operands = [getattr(d, name) for name in parameters]
    if not are_operands(value, *operands) or not (of_counts or value.dtype in FLOATING):
        return NotImplemented
    dtype, shape = operands[0].dtype, operands[0].shape
    if value.shape != shape or any(t.shape != shape for t in operands):
        try:
            shape = torch.broadcast_shapes(value.shape, *(t.shape for t in operands))
        except RuntimeError:
            return NotImplemented
        value, operands = value.expand(shape), [t.expand(shape) for t in operands]
    if d._validate_args:
        d._validate_sample(value)
    reduction = "sample" if event_dims else "none"
    result = log_prob(value, *operands, reduction=reduction, batch_dims=len(shape) - event_dims)
    return result if result.dtype == dtype else result.to(dtype)


def are_operands(x: Any, *parameters: Any) -> bool:
    """Whether our likelihoods take these data and parameters, and PyTorch would promote none of them."""
    if not are_dense(x, *parameters):
        return False
    dtype, device = parameters[0].dtype, parameters[0].device
    if any(t.dtype != dtype for t in parameters) or any(t.device != device for t in (x, *parameters)):
        return False
    return dtype in FLOATING and (x.dtype == dtype or (x.dtype in COUNTS and x.dtype not in FLOATING))
