"""The public functions in plain PyTorch, for tensors on a device without compiled kernels.

:mod:`aevb_ext.reference` has these formulas as the paper has them. Here each has the algebra of ``csrc/formulas`` and
derivatives of its own, so that the operators' promises hold in float32 and half precision as well: no digits are lost
near the prior or for large logits, and no NaN comes of numbers that are none. What autograd derives from the plain
formula is NaN wherever one of its terms overflows.

:mod:`aevb_ext.functional` calls these functions and documents them.
"""

import functools
import inspect
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, ParamSpec, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from . import reference
from ._arguments import check_dtype, explain, sizes
from ._dtypes import promoted, wide, widened
from ._library import is_loaded, warn_of_formulas
from ._operand_checks import (
    REDUCTIONS,
    SPREADS,
    check_batch_dims,
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
    "define_noise_key",
    "gaussian_kl",
    "gaussian_log_prob",
    "halves",
    "linear_bernoulli_log_prob",
    "linear_gaussian_log_prob",
    "rsample",
    "rsample_kl",
    "unpack_bits",
]

P = ParamSpec("P")
R = TypeVar("R")


def _checked(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: warn once of the first tensor's device, and check the kinds of arguments.

    The compiled operators' schemas refuse a wrong kind. Plain PyTorch would compute something with many of them.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if not torch.compiler.is_compiling():
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            explain(function, bound.arguments)
        for given in args:
            if isinstance(given, Tensor):
                warn_of_formulas(given.device.type)
        return function(*args, **kwargs)

    return call


# Formulas of elements: what csrc/formulas has for a number is here for tensors that broadcast.


class Formula(Protocol):
    """A formula of tensors of one floating dtype."""

    operator: str  # whose formula it is, for messages

    def value(self, *operands: Tensor) -> Tensor: ...

    def derivatives(self, *operands: Tensor) -> Sequence[Tensor | None]:
        """By each operand; they are differentiable themselves. None: by this one there is none."""
        ...


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b, where a == 0 means "this term is absent": no NaN from 0 * infinity."""
    return torch.where((a == 0) & b.isinf(), 0.0, a * b)


def _excess(w: Tensor) -> Tensor:
    """e^w - 1 - w, a parabola at 0, where every difference of e^w, 1 and w cancels: there the series is summed."""
    series = torch.full_like(w, 1 / math.factorial(20))
    for k in range(19, 1, -1):
        series = series * w + 1 / math.factorial(k)
    # The cap avoids infinity - infinity.
    return torch.where(w.abs() < 1, w * w * series, torch.expm1(w) - w.clamp(max=1e4))


def _magnitude(t: Tensor) -> Tensor:
    """abs(t), whose derivative at 0 would be 0: that of what has a slope on either side is wanted."""
    return torch.where(t > 0, t, -t)


def _sigmoids(t: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller and the larger one of sigmoid(t) and sigmoid(-t), both right to their last digits."""
    e = (-_magnitude(t)).exp()
    larger = 1 / (1 + e)
    return e * larger, larger


def _log_ratio(a: Tensor, b: Tensor) -> Tensor:
    """log(a / b), to full relative precision where a is near b."""
    t = (a - b) / b
    return torch.where(t.abs() < 0.5, torch.log1p(t), a.log() - b.log())


@dataclass(frozen=True)
class _Spread:
    """The parameterisations of sigma, as in ``csrc/formulas/spread.h``."""

    kind: str

    def logvar(self, s: Tensor) -> Tensor:
        return {"logvar": lambda: s, "log_std": lambda: 2 * s, "std": lambda: 2 * s.log(), "var": s.log}[self.kind]()

    def logvar_over(self, s: Tensor, prior: Tensor) -> Tensor:
        """logvar(s) - logvar(prior), exact near the prior"""
        difference = s - prior if self.kind in ("logvar", "log_std") else _log_ratio(s, prior)
        return 2 * difference if self.kind in ("log_std", "std") else difference

    def times_slope(self, a: Tensor, s: Tensor) -> Tensor:
        """a d logvar / ds, divided once: 1 / s may overflow where a / s does not."""
        a = 2 * a if self.kind in ("log_std", "std") else a
        return a if self.kind in ("logvar", "log_std") else a / s

    def std(self, s: Tensor) -> Tensor:
        match self.kind:
            case "logvar":
                return (0.5 * s).exp()
            case "log_std":
                return s.exp()
            case "std":
                return s
        return s.sqrt()

    def inverse_std(self, s: Tensor) -> Tensor:
        return self.std(-s) if self.kind in ("logvar", "log_std") else 1 / self.std(s)

    def std_slope(self, s: Tensor) -> Tensor:
        """d sigma / ds"""
        match self.kind:
            case "logvar":
                return 0.5 * self.std(s)
            case "log_std":
                return self.std(s)
            case "std":
                return torch.ones_like(s)
        return 0.5 / self.std(s)

    def unit(self) -> float:
        """The s for which sigma = 1"""
        return 0.0 if self.kind in ("logvar", "log_std") else 1.0


@dataclass(frozen=True)
class _Sample:
    """mu + sigma eps"""

    operator: str
    spread: _Spread

    def value(self, mu: Tensor, s: Tensor, eps: Tensor) -> Tensor:
        return mu + _product(eps, self.spread.std(s))

    def derivatives(self, mu: Tensor, s: Tensor, eps: Tensor) -> Sequence[Tensor | None]:
        return torch.ones_like(mu), eps * self.spread.std_slope(s), None


@dataclass(frozen=True)
class _GaussianKl:
    """1/2 (e^w - 1 - w + q^2), w = log sigma^2 / sigma_p^2, q = (mu - mu_p) / sigma_p"""

    operator: str
    spread: _Spread

    def value(self, mu: Tensor, s: Tensor, prior_mu: Tensor, prior_s: Tensor) -> Tensor:
        q = _product(mu - prior_mu, self.spread.inverse_std(prior_s))
        return 0.5 * (q * q + _excess(self.spread.logvar_over(s, prior_s)))

    def derivatives(self, mu: Tensor, s: Tensor, prior_mu: Tensor, prior_s: Tensor) -> Sequence[Tensor]:
        precision = self.spread.inverse_std(prior_s)
        q = _product(mu - prior_mu, precision)
        expm1 = torch.expm1(self.spread.logvar_over(s, prior_s))
        by_mu, by_s = _product(q, precision), self.spread.times_slope(0.5 * expm1, s)
        return by_mu, by_s, -by_mu, self.spread.times_slope(0 - 0.5 * (q * q + expm1), prior_s)


@dataclass(frozen=True)
class _Gaussian:
    """-1/2 (log 2 pi + log sigma^2 + t^2), t = (x - mu) / sigma"""

    operator: str
    spread: _Spread

    def value(self, x: Tensor, mu: Tensor, s: Tensor) -> Tensor:
        # The difference is scaled before it is squared: its square may overflow where t does not.
        t = _product(x - mu, self.spread.inverse_std(s))
        return -0.5 * (t * t + (math.log(2 * math.pi) + self.spread.logvar(s)))

    def derivatives(self, x: Tensor, mu: Tensor, s: Tensor) -> Sequence[Tensor]:
        inverse = self.spread.inverse_std(s)
        t = _product(x - mu, inverse)
        by_mu = _product(t, inverse)
        return -by_mu, by_mu, self.spread.times_slope(0.5 * (t * t - 1), s)


@dataclass(frozen=True)
class _GaussianOfSigmoid:
    """The same of mu = sigmoid(m), for log sigma^2."""

    operator: str
    gaussian: ClassVar[_Gaussian] = _Gaussian("", _Spread("logvar"))

    def value(self, x: Tensor, m: Tensor, v: Tensor) -> Tensor:
        smaller, larger = _sigmoids(m)
        return self.gaussian.value(x, torch.where(m > 0, larger, smaller), v)

    def derivatives(self, x: Tensor, m: Tensor, v: Tensor) -> Sequence[Tensor]:
        smaller, larger = _sigmoids(m)
        by_x, by_mu, by_v = self.gaussian.derivatives(x, torch.where(m > 0, larger, smaller), v)
        return by_x, _product(smaller * larger, by_mu), by_v


@dataclass(frozen=True)
class _Bernoulli:
    """x l - log(1 + e^l) = (x - [l > 0]) l - log(1 + e^-|l|), l = logits: both terms are small where the result is."""

    operator: str

    @staticmethod
    def _residual(x: Tensor, logits: Tensor) -> Tensor:
        return torch.where(logits > 0, x - 1, x)

    def value(self, x: Tensor, logits: Tensor) -> Tensor:
        return _product(self._residual(x, logits), logits) + F.logsigmoid(_magnitude(logits))

    def derivatives(self, x: Tensor, logits: Tensor) -> Sequence[Tensor]:
        smaller, _ = _sigmoids(logits)
        tail = torch.where(logits > 0, smaller, -smaller)
        return logits, self._residual(x, logits) + tail


@dataclass(frozen=True)
class _BernoulliOfProbs:
    """x log p + (1 - x) log(1 - p), with the limits of torch.nn.functional.binary_cross_entropy."""

    operator: str

    @staticmethod
    def _logs(p: Tensor) -> tuple[Tensor, Tensor]:
        """log p and log(1 - p). 1 - p is exact where it is the smaller, and of the smaller the other one follows."""
        rest = 1 - p
        swapped = p > rest
        smaller = torch.where(swapped, rest, p)
        of_smaller, of_larger = smaller.log().clamp(min=-100), torch.log1p(-smaller)
        return torch.where(swapped, of_larger, of_smaller), torch.where(swapped, of_smaller, of_larger)

    def value(self, x: Tensor, p: Tensor) -> Tensor:
        log_p, log_rest = self._logs(p)
        return x * log_p + (1 - x) * log_rest

    def derivatives(self, x: Tensor, p: Tensor) -> Sequence[Tensor]:
        log_p, log_rest = self._logs(p)
        variance = p * (1 - p)
        # Outside [0, 1] there is no probability.
        least = torch.where(variance < 0, math.nan, variance.clamp(min=1e-12))
        return log_p - log_rest, (x - p) / least


class _Elementwise(torch.autograd.Function):
    """A formula with its own derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(formula, *operands):  # type: ignore[no-untyped-def]  # as torch.autograd.Function has it
        return formula.value(*operands)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        ctx.formula = inputs[0]
        ctx.save_for_backward(*inputs[1:])

    @staticmethod
    def backward(ctx, cotangent):  # type: ignore[no-untyped-def]
        operands = ctx.saved_tensors
        derivatives = ctx.formula.derivatives(*operands)
        gradients: list[Tensor | None] = [None]
        for t, derivative, wanted in zip(operands, derivatives, ctx.needs_input_grad[1:], strict=True):
            gradients.append(_chain(cotangent, derivative).sum_to_size(t.shape) if wanted else None)
        return tuple(gradients)


class _ReverseModeAlone(_Elementwise):
    """torch.compile takes no function that has a jvp."""

    @staticmethod
    def jvp(ctx, *tangents):  # type: ignore[no-untyped-def]
        raise NotImplementedError(f"{ctx.formula.operator} has no forward-mode derivative; use reverse mode")


def _chain(cotangent: Tensor, derivative: Tensor) -> Tensor:
    """Their product. A zero cotangent gives zero even where the derivative has overflowed; a NaN on either side stays."""
    return cotangent * torch.where((cotangent == 0) & derivative.isinf(), 0.0, derivative)


def _elements(formula: Formula, *operands: Tensor) -> Tensor:
    """The formula's values, in the dtype of the arithmetic."""
    dtype = wide(operands[-1])
    operands = tuple(widened(t, dtype) for t in operands)
    if torch.jit.is_tracing():  # the graph has PyTorch's own operators alone, so that it can be saved
        return formula.value(*operands)
    compiling = torch.compiler.is_compiling()
    if compiling and (_in_transform() or not (torch.is_grad_enabled() and any(t.requires_grad for t in operands))):
        return formula.value(*operands)
    function = _Elementwise if compiling else _ReverseModeAlone
    values: Tensor = function.apply(formula, *operands)  # type: ignore[no-untyped-call]  # torch has no types of it
    return values


def _in_transform() -> bool:
    """Whether torch.func is at work, one of whose transforms may batch what torch.compile has made of a Function."""
    return torch._C._functorch.maybe_current_level() is not None  # type: ignore[no-any-return]  # torch has no stub of it


_in_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as functional._call_number


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


def _operands(first: Tensor, *others: Tensor | None) -> Sequence[Tensor | None]:
    """The operands of a call, under autocast promoted to the widest of their dtypes."""
    given = [t for t in (first, *others) if t is not None]
    if not _autocast(first) or not all(t.is_floating_point() for t in given):
        return first, *others
    found = iter(promoted(*given))
    return [None if t is None else next(found) for t in (first, *others)]


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
        raise ValueError(f"generator is on {generator.device}, but the key is for {device}: expected both on one device")
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
    return _elements(_Sample(operator, _Spread(spread)), mu, logvar, eps)


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
    mu, logvar, prior_mu, prior_logvar = _operands(mu, logvar, prior_mu, prior_logvar)
    check_dtype("mu", mu)
    return _kl("GaussianKl", mu, logvar, prior_mu, prior_logvar, spread, reduction, batch_dims)


def _kl(
    operator: str,
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None,
    prior_logvar: Tensor | None,
    spread: str,
    reduction: str,
    batch_dims: int,
) -> Tensor:
    named = {"logvar": logvar, "prior_mu": prior_mu, "prior_logvar": prior_logvar}
    for name, t in named.items():
        if t is not None:
            check_like(name, t, "mu", mu)
    check_batch_dims(batch_dims, "mu", mu)
    check_name("spread", spread, SPREADS)
    check_name("reduction", reduction, REDUCTIONS)
    of = _Spread(spread)
    if prior_mu is None:
        prior_mu = torch.zeros((), dtype=mu.dtype, device=mu.device)
    if prior_logvar is None:
        prior_logvar = torch.full((), of.unit(), dtype=mu.dtype, device=mu.device)
    values = _elements(_GaussianKl(operator, of), mu, logvar, prior_mu, prior_logvar)
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
    return z.to(dtype), _kl("RsampleKl", mu, logvar, None, None, spread, reduction, batch_dims)


@_checked
def bernoulli_log_prob(
    x: Tensor, logits: Tensor, *, x_scale: float = 1.0, reduction: str = "sample", batch_dims: int = 1
) -> Tensor:
    formula = _Bernoulli("BernoulliLogProb")
    return _bernoulli(formula, "logits", x, logits, x_scale, reduction, batch_dims)


@_checked
def bernoulli_log_prob_of_probs(
    x: Tensor, probs: Tensor, *, x_scale: float = 1.0, reduction: str = "sample", batch_dims: int = 1
) -> Tensor:
    formula = _BernoulliOfProbs("BernoulliLogProbOfProbs")
    return _bernoulli(formula, "probs", x, probs, x_scale, reduction, batch_dims)


def _bernoulli(
    formula: Formula, name: str, x: Tensor, parameter: Tensor, x_scale: float, reduction: str, batch_dims: int
) -> Tensor:
    check_dtype(name, parameter)
    check_data(x, name, parameter, batch_dims)
    check_name("reduction", reduction, REDUCTIONS)
    values = _elements(formula, _scaled(x, x_scale, wide(parameter)), parameter)
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
    formula = _Gaussian("GaussianLogProb", _Spread(spread))
    values = _elements(formula, _scaled(x, x_scale, wide(mu)), mu, logvar)
    return _reduce(values, x.dim() - _int(batch_dims), reduction)


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
        raise ValueError(
            f"packed must have shape [*batch, {width}] for n = {n} bits, got {list(packed.shape)}"
        )
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
    formula = _Bernoulli("LinearBernoulliLogProb")
    values = _elements(formula, _scaled(x, x_scale, wide(logits)), logits)
    return _reduce(values, x.dim() - _int(batch_dims), reduction)


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
    formula: Formula = _GaussianOfSigmoid(name) if sigmoid else _Gaussian(name, _Spread("logvar"))
    values = _elements(formula, _scaled(x, x_scale, wide(mean)), mean, logvar)
    return _reduce(values, x.dim() - _int(batch_dims), reduction)


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
    return F.linear(h, weight, bias)
