"""The formulas of single elements in plain PyTorch, with derivatives of their own: csrc/formulas for tensors.

Digits are kept near the prior and for large logits, and no NaN comes of numbers that are none. What autograd derives
from the plain formula is NaN wherever one of its terms overflows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from ._dtypes import wide, widened

__all__ = [
    "Bernoulli",
    "BernoulliOfProbs",
    "Formula",
    "Gaussian",
    "GaussianKl",
    "GaussianOfSigmoid",
    "Sample",
    "Spread",
    "elements",
]


class Formula(Protocol):
    """A formula of tensors of one floating dtype, which broadcast."""

    @property
    def operator(self) -> str:
        """Whose formula it is, for messages."""
        ...

    @property
    def value(self) -> Callable[..., Tensor]: ...

    @property
    def derivatives(self) -> Callable[..., Sequence[Tensor | None]]:
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
class Spread:
    """The parameterisations of sigma, as in ``csrc/formulas/spread.h``."""

    kind: str

    def logvar(self, s: Tensor) -> Tensor:
        v = s if self.kind in ("logvar", "log_std") else s.log()
        return 2 * v if self.kind in ("log_std", "std") else v

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
class Sample:
    """mu + sigma eps"""

    operator: str
    spread: Spread

    def value(self, mu: Tensor, s: Tensor, eps: Tensor) -> Tensor:
        return mu + _product(eps, self.spread.std(s))

    def derivatives(self, mu: Tensor, s: Tensor, eps: Tensor) -> Sequence[Tensor | None]:
        return torch.ones_like(mu), eps * self.spread.std_slope(s), None


@dataclass(frozen=True)
class GaussianKl:
    """1/2 (e^w - 1 - w + q^2), w = log sigma^2 / sigma_p^2, q = (mu - mu_p) / sigma_p"""

    operator: str
    spread: Spread

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
class Gaussian:
    """-1/2 (log 2 pi + log sigma^2 + t^2), t = (x - mu) / sigma"""

    operator: str
    spread: Spread

    def value(self, x: Tensor, mu: Tensor, s: Tensor) -> Tensor:
        # The difference is scaled before it is squared: its square may overflow where t does not.
        t = _product(x - mu, self.spread.inverse_std(s))
        # log 2 pi, and not math.pi, which torch.compile(dynamic=True) takes for a number that may change.
        return -0.5 * (t * t + (1.8378770664093454836 + self.spread.logvar(s)))

    def derivatives(self, x: Tensor, mu: Tensor, s: Tensor) -> Sequence[Tensor]:
        inverse = self.spread.inverse_std(s)
        t = _product(x - mu, inverse)
        by_mu = _product(t, inverse)
        return -by_mu, by_mu, self.spread.times_slope(0.5 * (t * t - 1), s)


@dataclass(frozen=True)
class GaussianOfSigmoid:
    """The same of mu = sigmoid(m), for log sigma^2."""

    operator: str
    gaussian: ClassVar = Gaussian("", Spread("logvar"))

    def value(self, x: Tensor, m: Tensor, v: Tensor) -> Tensor:
        smaller, larger = _sigmoids(m)
        return self.gaussian.value(x, torch.where(m > 0, larger, smaller), v)

    def derivatives(self, x: Tensor, m: Tensor, v: Tensor) -> Sequence[Tensor]:
        smaller, larger = _sigmoids(m)
        mu, slope = torch.where(m > 0, larger, smaller), smaller * larger
        by_x, by_mu, by_v = self.gaussian.derivatives(x, mu, v)
        # Where the gradient by mu overflows, 1 / sigma is so large that its product with the slope is a normal number.
        inverse = self.gaussian.spread.inverse_std(v)
        steep = _product(slope * inverse, _product(x - mu, inverse))
        return by_x, torch.where(by_mu.isinf(), steep, _product(slope, by_mu)), by_v


@dataclass(frozen=True)
class Bernoulli:
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
class BernoulliOfProbs:
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
    """Their product. A zero cotangent gives zero even where the derivative has overflowed; a NaN stays."""
    return cotangent * torch.where((cotangent == 0) & derivative.isinf(), 0.0, derivative)


def elements(formula: Formula, *operands: Tensor) -> Tensor:
    """The formula's values, in the dtype of the arithmetic."""
    dtype = wide(operands[-1])
    operands = tuple(widened(t, dtype) for t in operands)
    if torch.jit.is_tracing():  # the graph has PyTorch's own operators alone, so that it can be saved
        return formula.value(*operands)
    compiling = torch.compiler.is_compiling()
    if compiling and (_in_transform() or not (torch.is_grad_enabled() and any(t.requires_grad for t in operands))):
        return formula.value(*operands)
    function = _Elementwise if compiling else _ReverseModeAlone
    values: Tensor = function.apply(formula, *operands)
    return values


def _in_transform() -> bool:
    """Whether torch.func is at work, one of whose transforms may batch what torch.compile has made of a Function."""
    return torch._C._functorch.maybe_current_level() is not None


_in_transform._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as sampling._call_number
