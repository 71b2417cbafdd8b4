"""Batching rules of the operators over rows, where a vmapped dimension becomes one more of rows, and of layers.

(The samplers have none: PyTorch's own fallback runs them once for each element.)
"""

import torch
from torch import Tensor

from ._library import ops


def _front(t: Tensor | None, dim: int | None, ndim: int) -> Tensor | None:
    """``t`` with its vmapped dimension first and ones between that and its own, to be of ``ndim`` dimensions beside."""
    if t is None or dim is None:
        return t
    t = t.movedim(dim, 0)
    return t.reshape(t.shape[0], *(1,) * (ndim - (t.dim() - 1)), *t.shape[1:])


def _whole(t: Tensor, dim: int | None, size: int) -> Tensor:
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def _reduce(per_sample: Tensor, reduction: str) -> Tensor:
    """What a reduction makes of each vmapped element's rows."""
    if reduction in ("none", "sample"):
        return per_sample
    rows = per_sample.flatten(1) if per_sample.dim() > 1 else per_sample.unsqueeze(1)
    return rows.sum(1) if reduction == "sum" else rows.mean(1)


def _first_pass(reduction: str) -> str:
    return "none" if reduction == "none" else "sample"


def _bernoulli(operator, info, in_dims, x, parameter, x_scale, reduction, batch_dims):
    parameter = _whole(parameter, in_dims[1], info.batch_size)
    event_dims = x.dim() - (in_dims[0] is not None) - batch_dims
    x = _front(x, in_dims[0], parameter.dim() - 1)
    values = operator(x, parameter, x_scale, _first_pass(reduction), x.dim() - event_dims)
    return _reduce(values, reduction), 0


def _bernoulli_log_prob(*arguments):
    return _bernoulli(ops.bernoulli_log_prob, *arguments)


def _bernoulli_log_prob_of_probs(*arguments):
    return _bernoulli(ops.bernoulli_log_prob_of_probs, *arguments)


def _gaussian_log_prob(info, in_dims, x, mu, logvar, spread, x_scale, reduction, batch_dims):
    mu = _whole(mu, in_dims[1], info.batch_size)
    event_dims = x.dim() - (in_dims[0] is not None) - batch_dims
    x = _front(x, in_dims[0], mu.dim() - 1)
    logvar = _front(logvar, in_dims[2], mu.dim() - 1)
    values = ops.gaussian_log_prob(x, mu, logvar, spread, x_scale, _first_pass(reduction), x.dim() - event_dims)
    return _reduce(values, reduction), 0


def _gaussian_kl(info, in_dims, mu, logvar, prior_mu, prior_logvar, spread, reduction, batch_dims):
    mu = _whole(mu, in_dims[0], info.batch_size)
    rest = (_front(t, dim, mu.dim() - 1) for t, dim in zip((logvar, prior_mu, prior_logvar), in_dims[1:4], strict=True))
    return _reduce(ops.gaussian_kl(mu, *rest, spread, _first_pass(reduction), batch_dims + 1), reduction), 0


def _linear(info, in_dims, x, weight, bias, tanh):
    x, weight = _whole(x, in_dims[0], info.batch_size), _whole(weight, in_dims[1], info.batch_size)
    y = x.flatten(1, -2) @ weight.mT if x.dim() > 2 else (x.unsqueeze(1) @ weight.mT)
    if bias is not None:
        y = y + _whole(bias, in_dims[2], info.batch_size).unsqueeze(1)
    y = y.reshape(*x.shape[:-1], weight.shape[1])
    return y.tanh() if tanh else y, 0


def register() -> None:
    for rule in (_bernoulli_log_prob, _bernoulli_log_prob_of_probs, _gaussian_log_prob, _gaussian_kl, _linear):
        torch.library.register_vmap(f"aevb_ext::{rule.__name__.removeprefix('_')}", rule)
