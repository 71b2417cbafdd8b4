"""The likelihoods of counts, of locations and scales, and of classes: what the decoders of these give for z.

Each is a product over the elements of x: its log-likelihood is one of the fused functions of :mod:`aevb_ext`, and its
mean and its samples are plain PyTorch.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from .. import functional as F
from .._types import Generators
from ..functional._log_prob import is_count
from ..noise import seed_for

__all__ = [
    "Categorical",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "Laplace",
    "Likelihood",
    "NegativeBinomial",
    "OutsideSupport",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
]

# The levels of a discretized logistic are k / 255.
_LEVELS = 255
# How far a number may be from the level that it stands for: the rounding of k * float32(1 / 255).
_ROUNDED = 1e-3


class OutsideSupport(ValueError):
    """A number of the data that the likelihood gives no probability; the message says which, and what is expected.

    Attributes:
        place: the index of the number in the data that was checked: the data point, then the element.
        said: the message, without the name of the data and the place.
    """

    def __init__(self, name: str, place: tuple[int, ...], said: str):
        super().__init__(f"{name}[{', '.join(map(str, place))}] {said}")
        self.place, self.said = place, said


class Likelihood:
    """p(x | z), a product over the elements of x.

    Attributes:
        parameters: by the names that the function of the log-likelihood gives them: ``[*samples, B, *event]``, or
            broadcasting to it.
        expected: the numbers that x may have, in words.
    """

    expected: ClassVar[str]
    # The log-likelihood of each data point, a function of x, ``x_scale`` and the parameters.
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, **parameters: Tensor):
        self.parameters = parameters

    @classmethod
    def fits(cls, x: Tensor) -> Tensor:
        """Whether each number of the scaled x is in the support, of the shape of x."""
        raise NotImplementedError

    @property
    def mean(self) -> Tensor:
        """E[x | z], ``[*samples, B, *event]``."""
        raise NotImplementedError

    def _draw(self, generator: torch.Generator) -> Tensor:
        """A sample, given parameters of one shape."""
        raise NotImplementedError

    def log_prob(self, x: Tensor, x_scale: float = 1.0) -> Tensor:
        """log p(x | z), ``[*samples, B]``, for x ``[B, *event]``."""
        return self.function(x, x_scale=x_scale, **self.parameters)

    @torch.no_grad()
    def sample(self, *, key: Tensor | None = None, generator: Generators | None = None) -> Tensor:
        """A sample of x, ``[*samples, B, *event]``: floats, also where they are whole numbers.

        The host waits for the device.

        Args:
            key: a noise key ``[2]``; or ``[B, 2]``, with which a data point's sample depends on its own key alone.
            generator: where a key is drawn from if there is none. Default: PyTorch's.
        """
        parameters = dict(zip(self.parameters, self._full(), strict=True))
        like = next(iter(parameters.values()))
        key = F.key_for(like, key, generator)
        draws = torch.Generator(like.device)
        if key.dim() == 1:
            return type(self)(**parameters)._draw(_seeded(draws, key.tolist()))
        rows = [
            type(self)(**{name: t[i] for name, t in parameters.items()})._draw(_seeded(draws, each))
            for i, each in enumerate(key.tolist())
        ]
        return torch.stack(rows)

    def _full(self) -> list[Tensor]:
        """The parameters, broadcast to one shape."""
        return list(torch.broadcast_tensors(*self.parameters.values()))

    @classmethod
    def check(cls, x: Tensor, x_scale: float, name: str) -> None:
        """Raise :class:`OutsideSupport` if a number of ``x * x_scale`` is outside the support."""
        _check(x, x_scale, name, cls.fits, cls.expected)


def _seeded(generator: torch.Generator, key: list[int]) -> torch.Generator:
    seed, offset = key
    return generator.manual_seed(seed_for(seed_for(seed, "pixels") + offset, "pixels"))


def _check(x: Tensor, x_scale: float, name: str, fits: Callable[[Tensor], Tensor], expected: str) -> None:
    values = x if x_scale == 1 else x * x_scale
    outside = ~fits(values)
    if outside.any():
        place = tuple(outside.nonzero()[0].tolist())
        scale = "" if x_scale == 1 else f" (* x_scale {x_scale:.6g}: {values[place].item():.6g})"
        raise OutsideSupport(name, place, f"is {x[place].item():.8g}{scale}: expected {expected}")


class _Counts(Likelihood):
    expected = "counts, which are whole numbers from 0 on"

    fits = staticmethod(is_count)


class Poisson(_Counts):
    """Poisson, by ``log_rate``."""

    function = staticmethod(F.poisson_log_prob)

    @property
    def mean(self) -> Tensor:
        return self.parameters["log_rate"].exp()

    def _draw(self, generator: torch.Generator) -> Tensor:
        return torch.poisson(self.mean, generator)


class NegativeBinomial(_Counts):
    """Negative binomial, by ``mean`` and inverse ``dispersion``: a Poisson whose rate is a gamma variable."""

    function: ClassVar[Callable[..., Tensor]] = staticmethod(F.negative_binomial_log_prob)

    @property
    def mean(self) -> Tensor:
        return self.parameters["mean"]

    def _draw(self, generator: torch.Generator) -> Tensor:
        mean, dispersion = self.parameters["mean"], self.parameters["dispersion"]
        gamma = torch._standard_gamma(dispersion.contiguous(), generator=generator)
        return torch.poisson(gamma / dispersion * mean, generator)


class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """The same with additional zeros, by ``gate_logits``."""

    function = staticmethod(F.zero_inflated_negative_binomial_log_prob)

    @property
    def mean(self) -> Tensor:
        return self.parameters["mean"] * torch.sigmoid(-self.parameters["gate_logits"])

    def _draw(self, generator: torch.Generator) -> Tensor:
        gate = self.parameters["gate_logits"].sigmoid()
        kept = torch.rand(gate.shape, generator=generator, device=gate.device, dtype=gate.dtype) >= gate
        return super()._draw(generator) * kept


class _Located(Likelihood):
    expected = "finite numbers"

    @classmethod
    def fits(cls, x: Tensor) -> Tensor:
        return x.isfinite()

    @property
    def mean(self) -> Tensor:
        return self.parameters["mu"]


class Laplace(_Located):
    """Laplace, by ``mu`` and ``scale``, which is its logarithm."""

    @staticmethod
    def function(x: Tensor, mu: Tensor, scale: Tensor, *, x_scale: float = 1.0) -> Tensor:
        return F.laplace_log_prob(x, mu, scale, spread="log_scale", x_scale=x_scale)

    def _draw(self, generator: torch.Generator) -> Tensor:
        mu, log_scale = self.parameters["mu"], self.parameters["scale"]
        up, down = (torch.empty_like(mu).exponential_(generator=generator) for _ in range(2))
        return mu + log_scale.exp() * (up - down)


class StudentT(_Located):
    """Student's t, by ``mu``, ``scale``, which is its logarithm, and the degrees of freedom ``df``.

    The mean is the location, also where the distribution has none (df up to 1).
    """

    @staticmethod
    def function(x: Tensor, mu: Tensor, scale: Tensor, df: Tensor, *, x_scale: float = 1.0) -> Tensor:
        return F.student_t_log_prob(x, mu, scale, df, spread="log_scale", x_scale=x_scale)

    def _draw(self, generator: torch.Generator) -> Tensor:
        mu, log_scale, df = (self.parameters[name] for name in ("mu", "scale", "df"))
        chi2 = 2 * torch._standard_gamma((df / 2).contiguous(), generator=generator)
        return mu + log_scale.exp() * torch.empty_like(mu).normal_(generator=generator) * (df / chi2).sqrt()


class ContinuousBernoulli(Likelihood):
    """The continuous Bernoulli, by ``logits``: a density on [0, 1]."""

    function = staticmethod(F.continuous_bernoulli_log_prob)
    expected = "numbers in [0, 1]"

    @classmethod
    def fits(cls, x: Tensor) -> Tensor:
        # 1e-6 allows for rounding, as of 255 * float(1 / 255).
        return (x >= 0) & (x <= 1 + 1e-6)

    @property
    def mean(self) -> Tensor:
        logits = self.parameters["logits"]
        is_small = logits.abs() < 0.1
        safe = torch.where(is_small, 1.0, logits)
        series = 0.5 + logits / 12 - logits**3 / 720
        return torch.where(is_small, series, -1 / torch.expm1(-safe) - 1 / safe)

    def _draw(self, generator: torch.Generator) -> Tensor:
        logits = self.parameters["logits"]
        u = torch.rand(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
        # The inverse of the distribution function for a negative logit; for a positive one x is mirrored.
        down = -logits.abs().clamp(min=1e-6)
        x = torch.log1p(u * torch.expm1(down)) / down
        return torch.where(logits > 0, 1 - x, x)


class DiscretizedLogistic(Likelihood):
    """256 grey levels k / 255 under a logistic distribution, by ``mu`` and ``log_scale``."""

    function = staticmethod(F.discretized_logistic_log_prob)
    expected = "one of the 256 levels k / 255: bytes with x_scale 1/255"

    @classmethod
    def fits(cls, x: Tensor) -> Tensor:
        level = x * float(_LEVELS)
        return ((level - level.round()).abs() <= _ROUNDED) & (level >= -_ROUNDED) & (level <= _LEVELS + _ROUNDED)

    @property
    def mean(self) -> Tensor:
        """The mean of the logistic variable clamped to [0, 1], which the levels round: right to half a level."""
        mu, log_scale = self.parameters["mu"], self.parameters["log_scale"]
        scale = log_scale.exp()
        below, above = (torch.nn.functional.softplus(t / scale, threshold=50) for t in (mu, mu - 1))
        return (scale * (below - above)).clamp(0, 1)

    def _draw(self, generator: torch.Generator) -> Tensor:
        mu, log_scale = self.parameters["mu"], self.parameters["log_scale"]
        up, down = (torch.empty_like(mu).exponential_(generator=generator) for _ in range(2))
        x = mu + log_scale.exp() * (up.log() - down.log())
        return (x * _LEVELS).round().clamp(0, _LEVELS) / _LEVELS


class Categorical(Likelihood):
    """Classes 0 to C - 1, by ``logits`` ``[*samples, B, *event, C]``."""

    @staticmethod
    def function(x: Tensor, logits: Tensor, *, x_scale: float = 1.0) -> Tensor:
        if x_scale != 1:
            raise ValueError(f"x_scale must be 1 for classes, which are not scaled, got {x_scale}")
        return F.categorical_log_prob(x, logits)

    @property
    def mean(self) -> Tensor:
        """The mean of the class's number, as of grey levels."""
        logits = self.parameters["logits"]
        return logits.softmax(-1) @ torch.arange(logits.shape[-1], dtype=logits.dtype, device=logits.device)

    def _draw(self, generator: torch.Generator) -> Tensor:
        logits = self.parameters["logits"]
        gumbel = -torch.empty_like(logits).exponential_(generator=generator).log()
        return (logits + gumbel).argmax(-1).to(logits.dtype)

    @classmethod
    def check_classes(cls, x: Tensor, classes: int, x_scale: float, name: str) -> None:
        """Raise :class:`OutsideSupport` if a number of ``x * x_scale`` is no class."""

        def fits(t: Tensor) -> Tensor:
            return is_count(t) & (t < classes)

        _check(x, x_scale, name, fits, f"a class: a whole number from 0 to {classes - 1}")
