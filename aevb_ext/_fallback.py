"""The public functions in plain PyTorch, for tensors on a device without compiled kernels.

:mod:`aevb_ext.reference` has these formulas as the paper has them. These functions hold the operators' promises in
float32 and half precision as well (``_formulas.py``), draw the same noise and raise the same errors.

:mod:`aevb_ext.functional` calls them and documents them.
"""

import functools
import inspect
import math
import operator
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Size, Tensor

from . import reference
from ._arguments import (
    COUNTS,
    FLOATING,
    Check,
    check_broadcasts,
    check_dtype,
    check_tensor,
    counts,
    explain,
    sizes,
)
from ._dtypes import promoted, wide, widened
from ._formulas import (
    Bernoulli,
    BernoulliOfProbs,
    Formula,
    Gaussian,
    GaussianKl,
    GaussianOfSigmoid,
    Sample,
    Spread,
    elements,
)
from ._library import is_loaded, warn_of_formulas
from ._mixture import log_density
from ._operand_checks import (
    REDUCTIONS,
    SPREADS,
    check_batch_dims,
    check_components,
    check_data,
    check_key,
    check_layer,
    check_layer_data,
    check_layer_spread,
    check_like,
    check_name,
    check_same_device,
    check_samples,
)
from .noise import standard_normal

__all__ = [
    "bernoulli_log_prob",
    "bernoulli_log_prob_of_probs",
    "binarize",
    "categorical_log_prob",
    "define_noise_key",
    "discretized_logistic_mixture_log_prob",
    "gaussian_kl",
    "gaussian_log_prob",
    "halves",
    "linear_bernoulli_log_prob",
    "linear_gaussian_log_prob",
    "log_prob",
    "mixture_log_prob",
    "reduce_mixture",
    "rsample",
    "rsample_kl",
    "unpack_bits",
]

P = ParamSpec("P")
R = TypeVar("R")


def _checks(**kinds: Check) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: check the kinds of arguments, and warn once of each device that has no kernels.

    The compiled operators' schemas refuse a wrong kind. Plain PyTorch would compute something with many of them.
    ``kinds`` are of this function, as in :func:`explain`.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if not torch.compiler.is_compiling():
                bound = signature.bind(*args, **kwargs)
                bound.apply_defaults()
                explain(function, bound.arguments, **kinds)
            for given in args:
                if isinstance(given, Tensor):
                    warn_of_formulas(given.device.type)
            return function(*args, **kwargs)

        return call

    return decorate


_checked = _checks()


def _scaled(x: Tensor, x_scale: float, dtype: torch.dtype) -> Tensor:
    """The data, in the dtype of the arithmetic."""
    x = widened(x, torch.promote_types(x.dtype, dtype)) if x.is_floating_point() else x
    x = x.to(dtype)
    return x if x_scale == 1 else x * float(x_scale)


def _reduce(values: Tensor, event_dims: int, reduction: str) -> Tensor:
    if reduction == "none":
        return values
    # Contiguous, so that a row has the same bits in every batch.
    per_sample = values.contiguous().sum(tuple(range(-event_dims, 0))) if event_dims else values
    match reduction:
        case "sum":
            return per_sample.sum()
        case "mean":
            return per_sample.mean()
    return per_sample


def _int(value: int) -> int:
    """An integer of NumPy or a tensor as Python's."""
    return value if isinstance(value, int | torch.SymInt) else operator.index(value)


def _autocast(t: Tensor) -> bool:
    device = t.device.type
    return device != "meta" and torch.is_autocast_enabled(device)  # the meta device has no autocast


def _operands(*given: Tensor) -> tuple[Tensor, ...]:
    """The operands of a call, under autocast promoted to the widest of their dtypes."""
    if _autocast(given[0]) and all(t.is_floating_point() for t in given):
        return promoted(*given)
    return given


# The public functions.


def define_noise_key() -> None:
    """Without a compiled library: define the operator that draws keys.

    It is an operator here as well, so that a compiled graph draws the keys of eager mode and never merges two draws.
    """
    if is_loaded():
        return
    _definition.define(
        "noise_key(*, Device device, Generator? generator=None, SymInt? n=None, int call=0) -> Tensor",
        tags=(torch.Tag.nondeterministic_seeded,),
    )
    _definition.impl("noise_key", _noise_keys, "CompositeExplicitAutograd")


# An operator goes with the object that defined it.
_definition = torch.library.Library("aevb_ext", "FRAGMENT")


def _noise_keys(
    *, device: torch.device, generator: torch.Generator | None = None, n: int | None = None, call: int = 0
) -> Tensor:
    """One key or ``n`` of them. On the CPU they are those of the compiled operator: 64 bits of the generator each."""
    if generator is not None and generator.device.type != device.type:
        raise ValueError(
            f"generator is on {generator.device}, but the key is for {device}: expected both on one device"
        )
    keys = torch.zeros((2,) if n is None else (n, 2), dtype=torch.int64, device=device)
    keys[..., 0].random_(-(2**63), None, generator=generator)
    return keys


@_checked
def halves(params: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    dim = _int(dim)
    if not -params.dim() <= dim < params.dim():
        raise IndexError(f"dim is {dim}, but params has {params.dim()} dimensions")
    dim %= params.dim()
    if (size := sizes(params.shape)[dim]) % 2:
        raise ValueError(f"params has size {size} in dimension {dim}, which has no halves")
    first, second = params.chunk(2, dim)
    return first, second


@_checked
def rsample(
    mu: Tensor,
    logvar: Tensor,
    key: Tensor,
    *,
    n_samples: int | None = None,
    first_sample: int = 0,
    spread: str = "logvar",
) -> Tensor:
    mu, logvar = _operands(mu, logvar)
    check_dtype("mu", mu)
    return _rsample("Rsample", mu, logvar, key, n_samples, first_sample, spread, mu.dim()).to(mu.dtype)


def _rsample(
    operator: str,
    mu: Tensor,
    logvar: Tensor,
    key: Tensor,
    n_samples: int | None,
    first_sample: int,
    spread: str,
    most_keys: int,
) -> Tensor:
    """The samples, in the dtype of the arithmetic."""
    check_like("logvar", logvar, "mu", mu)
    check_key(key, mu, most_keys)
    check_name("spread", spread, SPREADS)
    keys = key.dim() - 1  # leading dimensions that have a key for each data point
    of_one = mu.shape[keys:]
    n_samples, first_sample = n_samples if n_samples is None else _int(n_samples), _int(first_sample)
    check_samples(n_samples, first_sample, of_one)
    samples = () if n_samples is None else (n_samples,)
    eps = standard_normal(key, (*samples, *of_one), wide(mu), start=first_sample * math.prod(of_one))
    if samples:
        eps = eps.movedim(keys, 0)
    return elements(Sample(operator, Spread(spread)), mu, logvar, eps)


@_checked
def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    spread: str = "logvar",
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    zero, unit = _standard(mu, spread)
    prior_mu, prior_logvar = zero if prior_mu is None else prior_mu, unit if prior_logvar is None else prior_logvar
    mu, logvar, prior_mu, prior_logvar = _operands(mu, logvar, prior_mu, prior_logvar)
    check_dtype("mu", mu)
    return _kl("GaussianKl", mu, logvar, prior_mu, prior_logvar, spread, reduction, batch_dims)


def _standard(mu: Tensor, spread: str) -> tuple[Tensor, Tensor]:
    """The mean and the spread of N(0, 1), beside mu."""
    unit = torch.full((), Spread(spread).unit(), dtype=mu.dtype, device=mu.device)
    return torch.zeros_like(unit), unit


def _kl(
    operator: str,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor,
    prior_logvar: Tensor,
    spread: str,
    reduction: str,
    batch_dims: int,
) -> Tensor:
    for name, t in {"logvar": logvar, "prior_mu": prior_mu, "prior_logvar": prior_logvar}.items():
        check_like(name, t, "mu", mu)
    check_batch_dims(batch_dims, "mu", mu)
    check_name("spread", spread, SPREADS)
    check_name("reduction", reduction, REDUCTIONS)
    values = elements(GaussianKl(operator, Spread(spread)), mu, logvar, prior_mu, prior_logvar)
    return _reduce(values, mu.dim() - _int(batch_dims), reduction)


@_checked
def rsample_kl(
    mu: Tensor,
    logvar: Tensor,
    key: Tensor,
    *,
    n_samples: int | None = None,
    first_sample: int = 0,
    spread: str = "logvar",
    reduction: str = "sample",
    batch_dims: int = 1,
) -> tuple[Tensor, Tensor]:
    mu, logvar = _operands(mu, logvar)
    check_dtype("mu", mu)
    check_batch_dims(batch_dims, "mu", mu)
    check_like("logvar", logvar, "mu", mu)
    # Both have two gradients, of which only the sum is rounded.
    dtype = mu.dtype
    mu, logvar = widened(mu, wide(mu)), widened(logvar, wide(mu))
    z = _rsample("RsampleKl", mu, logvar, key, n_samples, first_sample, spread, _int(batch_dims))
    return z.to(dtype), _kl("RsampleKl", mu, logvar, *_standard(mu, spread), spread, reduction, batch_dims)


@_checked
def bernoulli_log_prob(
    x: Tensor, logits: Tensor, *, x_scale: float = 1.0, reduction: str = "sample", batch_dims: int = 1
) -> Tensor:
    formula = Bernoulli("BernoulliLogProb")
    return _bernoulli(formula, "logits", x, logits, x_scale, reduction, batch_dims)


@_checked
def bernoulli_log_prob_of_probs(
    x: Tensor, probs: Tensor, *, x_scale: float = 1.0, reduction: str = "sample", batch_dims: int = 1
) -> Tensor:
    formula = BernoulliOfProbs("BernoulliLogProbOfProbs")
    return _bernoulli(formula, "probs", x, probs, x_scale, reduction, batch_dims)


def _bernoulli(
    formula: Formula, name: str, x: Tensor, parameter: Tensor, x_scale: float, reduction: str, batch_dims: int
) -> Tensor:
    check_dtype(name, parameter)
    check_data(x, name, parameter, batch_dims)
    check_name("reduction", reduction, REDUCTIONS)
    return _log_prob(formula, x, parameter, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims)


def _log_prob(
    formula: Formula, x: Tensor, *parameters: Tensor, x_scale: float, reduction: str, batch_dims: int
) -> Tensor:
    """A likelihood's reduced values, of arguments that are checked."""
    values = elements(formula, _scaled(x, x_scale, wide(parameters[0])), *parameters)
    return _reduce(values, x.dim() - _int(batch_dims), reduction)


@_checked
def gaussian_log_prob(
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    spread: str = "logvar",
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    mu, logvar = _operands(mu, logvar)
    check_dtype("mu", mu)
    check_like("logvar", logvar, "mu", mu)
    check_data(x, "mu", mu, batch_dims)
    check_name("spread", spread, SPREADS)
    check_name("reduction", reduction, REDUCTIONS)
    formula = Gaussian("GaussianLogProb", Spread(spread))
    return _log_prob(formula, x, mu, logvar, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims)


@_checks(x=counts)
def categorical_log_prob(x: Tensor, logits: Tensor, *, reduction: str = "sample", batch_dims: int = 1) -> Tensor:
    check_dtype("logits", logits)
    check_tensor("x", x, COUNTS)
    check_same_device("x", x, "logits", logits)
    if not logits.dim() or not sizes(logits.shape)[-1]:
        raise ValueError(
            f"logits must be [*samples, *batch, *event, C] with at least one class, got {list(logits.shape)}"
        )
    check_batch_dims(batch_dims, "x", x)
    check_broadcasts("x", x.shape, "the positions of logits", logits.shape[:-1])
    check_name("reduction", reduction, REDUCTIONS)
    values = reference.categorical_log_prob(x.detach(), widened(logits, wide(logits)), reduction="none")
    return _reduce(values, x.dim() - _int(batch_dims), reduction)


@_checked
def discretized_logistic_mixture_log_prob(x: Tensor, params: Tensor, *, reduction: str = "sample") -> Tensor:
    check_dtype("params", params)
    check_tensor("x", x, (*FLOATING, torch.uint8))
    check_same_device("x", x, "params", params)
    shape = sizes(params.shape)
    if len(shape) < 3 or not shape[-3] or shape[-3] % 10:
        raise ValueError(f"params must be [*samples, *batch, 10 K, H, W] for K components, got {list(params.shape)}")
    if x.dim() < 3 or sizes(x.shape)[-3] != 3:
        raise ValueError(f"x must be [*batch, 3, H, W], got {list(x.shape)}")
    pixels = Size((*x.shape[:-3], *x.shape[-2:]))
    check_broadcasts("the pixels of x", pixels, "the pixels of params", Size((*params.shape[:-3], *params.shape[-2:])))
    check_name("reduction", reduction, REDUCTIONS)
    values = reference.discretized_logistic_mixture_log_prob(x, widened(params, wide(params)), reduction="none")
    return _reduce(values, 2, reduction)


@_checks(x=counts)
def log_prob(
    name: str, x: Tensor, parameters: dict[str, Tensor], form: str, *, x_scale: float, reduction: str, batch_dims: int
) -> Tensor:
    """The elementwise likelihood ``name``.

    It is the reference formula in float64, whose digits make up for those that it cancels.
    """
    (first, full), *others = zip(parameters, _operands(*parameters.values()), strict=True)
    check_dtype(first, full)
    for other, t in others:
        check_like(other, t, first, full)
    check_data(x, first, full, batch_dims, counts=True)
    check_name("reduction", reduction, REDUCTIONS)
    options = {}
    if name in _SCALES:
        check_name("spread", form, _SCALES[name])
        options["spread"] = form
    dtype = torch.float32 if full.device.type == "mps" else torch.float64  # which MPS does not have
    given = {k: widened(t, dtype) for k, t in [(first, full), *others]}
    x = _scaled(x, x_scale, dtype)
    values = getattr(reference, name)(x, **given, **options, reduction="none", batch_dims=_int(batch_dims))
    return _reduce(values.to(wide(full)), x.dim() - _int(batch_dims), reduction)


_SCALES = {  # as the operators list them
    "laplace_log_prob": ("scale", "log_scale"),
    "student_t_log_prob": ("scale", "log_scale"),
    "discretized_logistic_log_prob": ("log_scale", "scale"),
}


@_checked
def binarize(x: Tensor, key: Tensor, *, x_scale: float = 1.0) -> Tensor:
    check_dtype("x", x, data=True)
    check_key(key, x, x.dim(), "x")
    return reference.binarize(x.detach(), key, x_scale=float(x_scale))


@_checked
def unpack_bits(packed: Tensor, n: int) -> Tensor:
    n = _int(n)
    if n < 0:
        raise ValueError(f"n must be at least 0, got {n}")
    width = (n + 7) // 8
    if not packed.dim() or sizes(packed.shape)[-1] != width:
        raise ValueError(f"packed must have shape [*batch, {width}] for n = {n} bits, got {list(packed.shape)}")
    return reference.unpack_bits(packed, n)


@_checked
def linear_bernoulli_log_prob(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    logits = _layer(x, h, weight, bias, 1, None, reduction, batch_dims)
    formula = Bernoulli("LinearBernoulliLogProb")
    return _log_prob(formula, x, logits, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims)


@_checked
def linear_gaussian_log_prob(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    logvar: Tensor | None = None,
    *,
    sigmoid: bool = False,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    mean = _layer(x, h, weight, bias, 1 if logvar is not None else 2, logvar, reduction, batch_dims)
    if logvar is None:
        mean, logvar = mean.chunk(2, -1)
    name = "LinearGaussianLogProb"
    formula: Formula = GaussianOfSigmoid(name) if sigmoid else Gaussian(name, Spread("logvar"))
    return _log_prob(formula, x, mean, logvar, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims)


def _layer(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    heads: int,
    logvar: Tensor | None,
    reduction: str,
    batch_dims: int,
) -> Tensor:
    """The layer's output, of arguments that are checked."""
    check_dtype("h", h)
    check_dtype("x", x, data=True)
    for name, t in {"x": x, "weight": weight, "bias": bias}.items():
        if t is not None:
            check_same_device(name, t, "h", h)
    check_layer("h", h, weight, bias, same_dtype=not _autocast(h))
    check_name("reduction", reduction, REDUCTIONS)
    rows = sizes(weight.shape)[0]
    if rows % heads:
        raise ValueError(
            f"weight has {rows} rows, which has no halves (means and log variances): expected an even number, or logvar"
        )
    check_layer_data(x, batch_dims, torch.Size((*sizes(h.shape)[:-1], rows // heads)))
    if logvar is not None:
        check_layer_spread(logvar, h, rows // heads, same_dtype=not _autocast(h))
    if h.dtype == torch.float16 and not _autocast(h):
        # Products of finite numbers may be beyond float16, in the gradients too: these are rounded once, and clamped.
        h, weight = widened(h, torch.float32), widened(weight, torch.float32)
        bias = bias if bias is None else widened(bias, torch.float32)
    return F.linear(h, weight, bias)


@_checked
def mixture_log_prob(
    z: Tensor,
    mu_k: Tensor,
    logvar_k: Tensor,
    logits_k: Tensor | None = None,
    *,
    spread: str = "logvar",
    factorised: bool = False,
    reduction: str = "sample",
) -> Tensor:
    given = (z, mu_k, logvar_k, *(() if logits_k is None else (logits_k,)))
    z, mu_k, logvar_k, *logits = _operands(*given)
    check_dtype("z", z)
    check_components(z, mu_k, logvar_k, *logits)
    check_name("spread", spread, SPREADS)
    dtype = wide(z)
    wide_z, mu, s, *logits = (widened(t, dtype) for t in (z, mu_k, logvar_k, *logits))
    log_weight = torch.log_softmax(logits[0] if logits else mu.new_zeros(mu.shape[0]), 0)
    v = Spread(spread).logvar(s).expand(mu.shape).contiguous()
    # Contiguous, so that a row has the same bits in every layout.
    rows = wide_z.reshape(math.prod(z.shape[:-1]), z.shape[-1]).contiguous()
    density = log_density(rows, mu.contiguous(), v, log_weight, bool(factorised))
    return reduce_mixture(density.reshape(z.shape if factorised else z.shape[:-1]), factorised, reduction)


def reduce_mixture(values: Tensor, factorised: bool, reduction: str) -> Tensor:
    """The rows' log densities, or those of their dimensions, reduced."""
    check_name("reduction", reduction, REDUCTIONS)
    if reduction == "none" and not factorised:
        raise ValueError(
            'reduction="none" is for elements, and the joint density has none: expected "sample", "sum" or "mean", or '
            "factorised=True"
        )
    return _reduce(values, int(factorised), reduction)
