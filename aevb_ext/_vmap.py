"""Batching rules for torch.vmap: the vmapped dimension becomes one more batch dimension. Also vmap's `randomness`."""

from typing import Any

import torch
from torch import Tensor
from torch._functorch.pyfunctorch import retrieve_current_functorch_interpreter

from ._dtypes import widened
from ._library import is_loaded, ops


def _front(t: Tensor | None, dim: int | None, ndim: int) -> Tensor | None:
    """``t`` with its vmapped dimension moved to the front, then dimensions of 1 until it has ``1 + ndim`` of them."""
    if t is None or dim is None:
        return t
    t = t.movedim(dim, 0)
    return t.reshape(t.shape[0], *(1,) * (ndim - (t.dim() - 1)), *t.shape[1:])


def _whole(t: Tensor, dim: int | None, size: int) -> Tensor:
    return t.expand(size, *t.shape) if dim is None else t.movedim(dim, 0)


def _reduce(per_sample: Tensor, reduction: str) -> Tensor:
    """Reduce the rows of each vmapped element."""
    if reduction in ("none", "sample"):
        return per_sample
    rows = per_sample.flatten(1) if per_sample.dim() > 1 else per_sample.unsqueeze(1)
    return rows.sum(1) if reduction == "sum" else rows.mean(1)


def _first_pass(reduction: str) -> str:
    return "none" if reduction == "none" else "sample"


def _categorical_log_prob(info, in_dims, x, logits, reduction, batch_dims):
    logits = _whole(logits, in_dims[1], info.batch_size)
    event_dims = x.dim() - (in_dims[0] is not None) - batch_dims
    x = _front(x, in_dims[0], logits.dim() - 2)
    return _reduce(ops.categorical_log_prob(x, logits, _first_pass(reduction), x.dim() - event_dims), reduction), 0


def _discretized_logistic_mixture_log_prob(info, in_dims, x, params, reduction):
    params = _whole(params, in_dims[1], info.batch_size)
    x = _front(x, in_dims[0], params.dim() - 1)
    return _reduce(ops.discretized_logistic_mixture_log_prob(x, params, _first_pass(reduction)), reduction), 0


def _log_prob(name):
    """The rule of an elementwise likelihood of any number of parameters, of which the first has the whole shape."""

    def rule(info, in_dims, x, *arguments):
        count = sum(isinstance(argument, Tensor) for argument in arguments)
        (full, *others), (*settings, reduction, batch_dims) = arguments[:count], arguments[count:]
        full = _whole(full, in_dims[1], info.batch_size)
        event_dims = x.dim() - (in_dims[0] is not None) - batch_dims
        x = _front(x, in_dims[0], full.dim() - 1)
        rest = (_front(t, dim, full.dim() - 1) for t, dim in zip(others, in_dims[2 : 1 + count], strict=True))
        values = getattr(ops, name)(x, full, *rest, *settings, _first_pass(reduction), x.dim() - event_dims)
        return _reduce(values, reduction), 0

    return rule


LOG_PROBS = (
    "bernoulli_log_prob",
    "bernoulli_log_prob_of_probs",
    "gaussian_log_prob",
    "poisson_log_prob",
    "negative_binomial_log_prob",
    "zero_inflated_negative_binomial_log_prob",
    "laplace_log_prob",
    "student_t_log_prob",
    "continuous_bernoulli_log_prob",
    "discretized_logistic_log_prob",
)


def _gaussian_kl(info, in_dims, mu, logvar, prior_mu, prior_logvar, spread, reduction, batch_dims):
    mu = _whole(mu, in_dims[0], info.batch_size)
    rest = (_front(t, dim, mu.dim() - 1) for t, dim in zip((logvar, prior_mu, prior_logvar), in_dims[1:4], strict=True))
    return _reduce(ops.gaussian_kl(mu, *rest, spread, _first_pass(reduction), batch_dims + 1), reduction), 0


def _sampling(info, in_dims, mu, logvar, key):
    """The posteriors of all elements, and a key for each: the same key if they share it."""
    mu, key = _whole(mu, in_dims[0], info.batch_size), _whole(key, in_dims[2], info.batch_size)
    return mu, _front(logvar, in_dims[1], mu.dim() - 1), key


def _rsample(info, in_dims, mu, logvar, key, n_samples, first_sample, spread):
    z = ops.rsample(*_sampling(info, in_dims, mu, logvar, key), n_samples, first_sample, spread)
    return z, int(n_samples is not None)


def _rsample_kl(info, in_dims, mu, logvar, key, n_samples, first_sample, spread, reduction, batch_dims):
    sampling = _sampling(info, in_dims, mu, logvar, key)
    z, kl = ops.rsample_kl(*sampling, n_samples, first_sample, spread, _first_pass(reduction), batch_dims + 1)
    return (z, _reduce(kl, reduction)), (int(n_samples is not None), 0)


def _mixture_log_prob(info, in_dims, z, mu_k, logvar_k, logits_k, spread, factorised):
    """Elements that share the components are more rows. If each has components of its own, they go one by one."""
    if any(dim is not None for dim in in_dims[1:4]):
        given = zip((z, mu_k, logvar_k, logits_k), in_dims[:4], strict=True)
        every = [[t] * info.batch_size if dim is None else t.unbind(dim) for t, dim in given]
        return torch.stack([ops.mixture_log_prob(*one, spread, factorised) for one in zip(*every, strict=True)]), 0
    return ops.mixture_log_prob(z.movedim(in_dims[0], 0), mu_k, logvar_k, logits_k, spread, factorised), 0


def _binarize(info, in_dims, x, key, x_scale):
    return ops.binarize(_whole(x, in_dims[0], info.batch_size), _whole(key, in_dims[1], info.batch_size), x_scale), 0


def _unpack_bits(info, in_dims, packed, n):
    return ops.unpack_bits(packed.movedim(in_dims[0], 0), n), 0


def _noise_key(*, device, generator=None, n=None, call=0):
    """Draw a key inside vmap by its `randomness`. "different" gives the keys that a loop over elements would draw."""
    vmap: Any = retrieve_current_functorch_interpreter()
    with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(torch._C.DispatchKey.FuncTorchVmapMode)):
        match vmap.randomness():
            case "error":
                raise RuntimeError(
                    'a noise key is drawn inside vmap, whose randomness is "error" (the default). Say what is meant: '
                    'vmap(..., randomness="different") draws a key for each element, "same" one for all of them; or '
                    "draw it outside (noise_key) and give it as key="
                )
            case "same":
                return ops.noise_key(device=device, generator=generator, n=n, call=call)
        size = vmap.batch_size()
        keys = ops.noise_key(device=device, generator=generator, n=size if n is None else size * n, call=call)
        if n is not None:
            keys = keys.reshape(size, n, 2)
        return torch._C._functorch._add_batch_dim(keys, 0, vmap.level())


def _linear(info, in_dims, x, weight, bias, tanh, x_scale=1.0):
    if not x.is_floating_point():
        x = x.to(weight.dtype) * x_scale
    x, weight = _whole(x, in_dims[0], info.batch_size), _whole(weight, in_dims[1], info.batch_size)
    y = x.flatten(1, -2) @ weight.mT if x.dim() > 2 else (x.unsqueeze(1) @ weight.mT)
    if bias is not None:
        y = y + _whole(bias, in_dims[2], info.batch_size).unsqueeze(1)
    y = y.reshape(*x.shape[:-1], weight.shape[1])
    return y.tanh() if tanh else y, 0


def _linear_log_prob(operator, two_steps, info, in_dims, x, h, layer, batch_dims, reduction, *settings):
    """Elements that share one layer are more rows of it. If each has its own layer, the layer is applied first."""
    if any(dim is not None for dim in in_dims[2:]):
        return two_steps(*_linear(info, in_dims[1:4], h, layer[0], layer[1], False))
    h = _whole(h, in_dims[1], info.batch_size)
    event_dims = x.dim() - (in_dims[0] is not None) - batch_dims
    x = _front(x, in_dims[0], h.dim() - 1)
    values = operator(x, h, *layer, *settings, _first_pass(reduction), x.dim() - event_dims)
    return _reduce(values, reduction), 0


def _widened(info, in_dims, t, dtype):
    return ops.widened(t, dtype), in_dims[0]


def _linear_bernoulli_log_prob(info, in_dims, x, h, weight, bias, x_scale, reduction, batch_dims):
    def two_steps(logits, dim):
        rule = _log_prob("bernoulli_log_prob")
        return rule(info, (in_dims[0], dim), x, logits, x_scale, reduction, batch_dims)

    operator, layer = ops.linear_bernoulli_log_prob, (weight, bias)
    return _linear_log_prob(operator, two_steps, info, in_dims[:4], x, h, layer, batch_dims, reduction, x_scale)


def _linear_gaussian_log_prob(info, in_dims, x, h, weight, bias, logvar, sigmoid, x_scale, reduction, batch_dims):
    def two_steps(mean, dim):
        spread, spread_dim = logvar, in_dims[4]
        if spread is None:
            (mean, spread), spread_dim = mean.chunk(2, -1), dim
        dtype = torch.promote_types(mean.dtype, spread.dtype)
        mean, spread = widened(mean.sigmoid() if sigmoid else mean, dtype), widened(spread, dtype)
        dims = (in_dims[0], dim, spread_dim)
        rule = _log_prob("gaussian_log_prob")
        return rule(info, dims, x, mean, spread, "logvar", x_scale, reduction, batch_dims)

    operator, layer = ops.linear_gaussian_log_prob, (weight, bias, logvar)
    settings = sigmoid, x_scale
    return _linear_log_prob(operator, two_steps, info, in_dims[:5], x, h, layer, batch_dims, reduction, *settings)


_library = torch.library.Library("aevb_ext", "IMPL")


def register() -> None:
    """Register the rules of the compiled operators. The formulas in plain PyTorch need none."""
    # It has no tensor arguments to batch, so it looks up vmap's randomness as PyTorch's own random functions do.
    _library.impl("noise_key", _noise_key, "FuncTorchVmapMode")
    if not is_loaded():
        return
    for rule in (
        _gaussian_kl,
        _linear,
        _categorical_log_prob,
        _discretized_logistic_mixture_log_prob,
        _linear_bernoulli_log_prob,
        _linear_gaussian_log_prob,
        _rsample,
        _rsample_kl,
        _mixture_log_prob,
        _binarize,
        _unpack_bits,
        _widened,
    ):
        torch.library.register_vmap(f"aevb_ext::{rule.__name__.removeprefix('_')}", rule)
    for name in LOG_PROBS:
        torch.library.register_vmap(f"aevb_ext::{name}", _log_prob(name))
