"""The diagonal Gaussian: q(z | x), or a Gaussian decoder's p(x | z)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .. import functional as F
from .._arguments import check_broadcasts, check_dtype, explained, sizes
from .._dtypes import promoted, widened
from .._types import Generators, Shape
from ..reference._common import _logvar, _reduce
from .factorised import Factorised, samples, wide


def clamp_logvar(values: Tensor, bounds: tuple[float, float], soft: bool) -> Tensor:
    r"""``values`` within ``bounds``, ``(low, high)``.

    Hard: ``torch.clamp``. Its gradient is 0 outside, so a value that has left the bounds stays outside.

    Soft: a smooth maximum of a smooth minimum,

    .. math:: \log\left(e^{low} + \frac{1}{e^{-v} + e^{-h}}\right), \quad h = high + \log(1 - e^{low - high})

    that rises from ``low`` to ``high`` (h is chosen so that its upper limit is ``high``). It differs from v by
    :math:`e^{low - v}` and :math:`e^{v - high}` (2e-9 at v = 0 between -30 and 20). Outside the bounds its gradient
    falls off as :math:`e^{-d}` with the distance d to the bound, where the hard clamp's is 0.

    Raises:
        ValueError: ``bounds`` are not two numbers in rising order.
    """
    low, high = check_clamp("clamp", bounds)
    if not soft:
        return values.clamp(low, high)
    smooth_high = high + math.log(-math.expm1(low - high))
    below = -torch.logaddexp(-values, torch.full_like(values, -smooth_high))
    return torch.logaddexp(below, torch.full_like(values, low))


def check_clamp(name: str, bounds: Iterable[float]) -> tuple[float, float]:
    """The bounds, if they are two numbers in rising order."""
    try:
        low, high = (float(bound) for bound in bounds)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be two numbers (low, high), got {bounds!r}") from None
    if not low < high:
        raise ValueError(f"{name} must be (low, high) with low < high, got {bounds!r}")
    return low, high


# The valid values of each parameterisation of the spread.
_SPREADS = {
    "logvar": constraints.real,
    "log_std": constraints.real,
    "std": constraints.positive,
    "var": constraints.positive,
}


def check_spread(spread: str) -> None:
    """Raise ValueError unless it is a parameterisation of the spread."""
    if spread not in _SPREADS:
        raise ValueError(f'spread must be "logvar", "log_std", "std" or "var", got "{spread}"')


class DiagonalGaussian(Factorised):
    r""":math:`N(\mu, \mathrm{diag}(\sigma^2))`: a VAE's posterior, or a Gaussian decoder's p(x | z).

    Like ``Independent(Normal(mu, sigma), n)`` with n event dimensions, in four parameterisations of sigma.

    Args:
        mu: ``[*batch_shape, *event_shape]``: float64, float32, bfloat16 or float16.
        logvar: the spread, of mu's shape or broadcasting to it. If its dtype differs from mu's, both are promoted by
            PyTorch's rules.
        spread: the parameterisation of ``logvar``: ``"logvar"`` | ``"log_std"`` | ``"std"`` | ``"var"``.
        batch_dims: how many dimensions of mu index data points (and samples: 2 for a decoder's mu ``[L, B, *event]``);
            the later ones are the event.
        validate_args: True: NaN, or a std or var that is not positive, raises ValueError, as in torch.distributions;
            the host waits for the device. None or False: only shapes and dtypes are checked.

    Attributes:
        mu, spread: as given.
        scale_param: ``logvar`` as given, in the parameterisation ``spread``; not expanded.

    Raises:
        ValueError: ``logvar`` does not broadcast to mu, ``spread`` is unknown, or ``batch_dims`` is out of range.
        TypeError: mu or logvar is not a tensor of a dtype above.
    """

    has_rsample = True
    _element_support = constraints.real

    @explained()
    def __init__(
        self,
        mu: Tensor,
        logvar: Tensor,
        *,
        spread: str = "logvar",
        batch_dims: int = 1,
        validate_args: bool | None = None,
    ):
        check_dtype("mu", mu)
        check_dtype("logvar", logvar)
        check_spread(spread)
        check_broadcasts("logvar", logvar.shape, "mu", mu.shape)
        self.mu, self.scale_param, self.spread = mu, logvar, spread
        super().__init__(mu.shape, "mu", batch_dims, validate_args)

    @classmethod
    @explained()
    def from_params(
        cls,
        params: Tensor,
        dim: int = 1,
        *,
        clamp: tuple[float, float] | None = None,
        soft: bool = False,
        batch_dims: int = 1,
        spread: str = "logvar",
        validate_args: bool | None = None,
    ) -> "DiagonalGaussian":
        """From an encoder's packed output: means in the first half of ``dim``, spreads in the second.

        The halves are not copied, and (without ``clamp``, on the CPU) their gradients are written side by side:
        :func:`aevb_ext.halves`.

        Args:
            params: ``[B, 2 * C, ...]``, or with the halves in another dimension ``dim``.
            dim: the dimension that has the two halves, one of the event's.
            clamp: bounds ``(low, high)`` of the second half, in its own parameterisation; diffusers'
                ``DiagonalGaussianDistribution`` clamps its logvar to ``(-30, 20)``. None: no clamp.
            soft: use the smooth clamp of :func:`aevb_ext.distributions.gaussian.clamp_logvar`, which has a gradient
                outside the bounds. Otherwise the gradient is 0 there.
            batch_dims, spread, validate_args: as in the class; ``batch_dims`` counts the dimensions of ``params``.

        Raises:
            IndexError: there is no dimension ``dim``.
            ValueError: the size of ``dim`` is odd, ``dim`` is a batch dimension, or ``clamp`` is not two numbers in
                rising order.
        """
        check_dtype("params", params)
        mu, scale_param = F.halves(params, dim)
        if dim % params.dim() < batch_dims:
            raise ValueError(
                f"dim {dim} of params (shape {list(params.shape)}) is one of the first batch_dims={batch_dims}, "
                "which index data points: expected one of the event's"
            )
        if clamp is not None:
            scale_param = clamp_logvar(scale_param, clamp, soft)
        return cls(mu, scale_param, spread=spread, batch_dims=batch_dims, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        parameters = {"mu": (constraints.real, self.mu), "scale_param": (_SPREADS[self.spread], self.scale_param)}
        return {name: self._arg_constraint(*of_one) for name, of_one in parameters.items()}

    @property
    def mean(self) -> Tensor:
        """``[*batch_shape, *event_shape]``, of mu's dtype: mu."""
        return self.mu

    @property
    def mode(self) -> Tensor:
        """``[*batch_shape, *event_shape]``, of mu's dtype: mu."""
        return self.mu

    @property
    def logvar(self) -> Tensor:
        """log sigma^2, ``[*batch_shape, *event_shape]``, of the given spread's dtype."""
        logvar = _logvar(wide(self.scale_param), self.spread)
        return logvar.to(self.scale_param.dtype).expand(self.mu.shape)

    @property
    def stddev(self) -> Tensor:
        """sigma, ``[*batch_shape, *event_shape]``, float32 for half parameters."""
        s = wide(self.scale_param)
        match self.spread:
            case "std":
                stddev = s
            case "var":
                stddev = s.sqrt()
            case _:
                stddev = (0.5 * _logvar(s, self.spread)).exp()
        return stddev.expand(self.mu.shape)

    @property
    def variance(self) -> Tensor:
        """sigma^2, ``[*batch_shape, *event_shape]``, float32 for half parameters."""
        s = wide(self.scale_param)
        match self.spread:
            case "std":
                variance = s.square()
            case "var":
                variance = s
            case _:
                variance = _logvar(s, self.spread).exp()
        return variance.expand(self.mu.shape)

    @explained()
    def expand(self, batch_shape: Shape, _instance: Distribution | None = None) -> "DiagonalGaussian":
        """The same distribution for a ``batch_shape`` to which its own broadcasts; nothing is copied."""
        mu = self.mu.expand((*batch_shape, *self._event_shape))
        return self._expanded(
            DiagonalGaussian, _instance, mu, self.scale_param, spread=self.spread, batch_dims=len(batch_shape)
        )

    @explained()
    def rsample(
        self, sample_shape: Shape = (), *, generator: Generators | None = None, key: Tensor | None = None
    ) -> Tensor:
        """Reparameterised samples: :func:`aevb_ext.rsample`.

        Args:
            sample_shape: the shape of independent samples of each data point, of any rank.
            generator: where a fresh noise key comes from: one generator, or a list of them, one per data point (of
                ``batch_shape`` in row-major order). A data point's samples from its own generator do not depend on
                the batch that it is in. Default: PyTorch's generator of the device.
            key: a noise key instead of a generator: int64 ``[2]``, or ``[*batch_shape, 2]``, one for each data point.

        Returns:
            ``[*sample_shape, *batch_shape, *event_shape]``, of the parameters' dtype; differentiable in them.

        Raises:
            ValueError: both key and generator are given; there are more or fewer generators than data points; a size
                is negative.
        """
        n_samples = samples(sample_shape)
        mu, scale_param = promoted(self.mu, self.scale_param)
        if n_samples == 0:
            return mu.expand(*sample_shape, *mu.shape).clone()
        noise = self._noise(mu.device, key, generator)
        z = F.rsample(mu, scale_param, n_samples=n_samples, spread=self.spread, **noise)
        return self._in_sample_shape(z, sample_shape)

    def sample(
        self, sample_shape: Shape = (), *, generator: Generators | None = None, key: Tensor | None = None
    ) -> Tensor:
        """:meth:`rsample` without a gradient."""
        with torch.no_grad():
            z = self.rsample(sample_shape, generator=generator, key=key)
        return z.detach() if torch.jit.is_tracing() else z  # torch.jit.trace does not record no_grad

    @explained()
    def rsample_kl(
        self, sample_shape: Shape = (), *, generator: Generators | None = None, key: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """:meth:`rsample` and :meth:`kl` to N(0, I), ``[*batch_shape]``, in one pass: :func:`aevb_ext.rsample_kl`."""
        n_samples = samples(sample_shape)
        if n_samples == 0:
            return self.rsample(sample_shape), self.kl()
        z, kl = F.rsample_kl(
            *promoted(self.mu, self.scale_param),
            n_samples=n_samples,
            spread=self.spread,
            batch_dims=len(self._batch_shape),
            **self._noise(self.mu.device, key, generator),
        )
        return self._in_sample_shape(z, sample_shape), kl

    @explained()
    def kl(self, other: Distribution | None = None) -> Tensor:
        """KL divergence of this to ``other`` in nats; without it, to N(0, I): :func:`aevb_ext.gaussian_kl`.

        ``torch.distributions.kl_divergence`` computes the same. Under torch.compile use this method: PyTorch's function
        reads a table of the pairs of types used so far, and code that reads it is recompiled whenever it grows.

        Args:
            other: a :class:`DiagonalGaussian`, whose batch broadcasts with this one's and whose spread may be in
                another parameterisation; or ``Normal`` or ``Independent(Normal, n)`` of torch.distributions. A
                ``Normal`` is read as the product of what it broadcasts to over the event.

        Returns:
            ``[*batch_shape]``, the two broadcast.

        Raises:
            ValueError: the events differ, or the batches do not broadcast.
        """
        if other is None:
            return F.gaussian_kl(
                *promoted(self.mu, self.scale_param), spread=self.spread, batch_dims=len(self._batch_shape)
            )
        if not isinstance(other, DiagonalGaussian):
            return self._kl_to_another(other)
        shape, spread = self._common_shape(other), self.spread
        mu, scale = promoted(self.mu, self.scale_param)
        other_mu, other_scale = promoted(other.mu, other.scale_param)
        if spread != other.spread:
            # Convert both to logvar: it never overflows, and from a log_std it is exact.
            scale, other_scale = _logvar(wide(scale), spread), _logvar(wide(other_scale), other.spread)
            spread = "logvar"
        operands = promoted(mu.expand(shape), scale, other_mu, other_scale)
        return F.gaussian_kl(*operands, spread=spread, batch_dims=len(shape) - self.event_dims)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats: :func:`aevb_ext.gaussian_log_prob`.

        Args:
            value: ``[*samples, *batch_shape, *event_shape]``, the batch's dimensions broadcasting; floating, integers
                or bool.

        Returns:
            ``[*samples, *batch_shape]``; differentiable in the parameters and in a floating value.

        Raises:
            ValueError: the shape does not fit (or with ``validate_args=True``, the value is NaN).
            TypeError: value is not a tensor of such a dtype.
        """
        mu, scale_param = promoted(self.mu, self.scale_param)
        dtype = mu.dtype
        value, shape = self._check_value(value, dtype)
        event_dims = self.event_dims
        same_rank = len(shape) == mu.dim()  # comparing shapes of other ranks, torch.compile would guard on sizes
        if same_rank and sizes(shape) == sizes(mu.shape):
            return F.gaussian_log_prob(value, mu, scale_param, spread=self.spread, batch_dims=value.dim() - event_dims)
        # The density is symmetric in value and mean, so they are swapped: the operator broadcasts its x over samples.
        if value.dtype != dtype and dtype != torch.float64:
            dtype = torch.float32  # the dtype of the arithmetic, whatever the value's dtype
        value, scale_param = value.to(dtype).expand(shape), widened(scale_param, dtype)
        return F.gaussian_log_prob(mu, value, scale_param, spread=self.spread, batch_dims=len(self._batch_shape))

    def entropy(self) -> Tensor:
        r"""Differential entropy :math:`\tfrac12 \sum_j 1 + \log 2\pi + \log \sigma_j^2` in nats, ``[*batch_shape]``."""
        logvar = _logvar(wide(self.scale_param), self.spread).expand(self.mu.shape)
        return _reduce(0.5 * (1 + math.log(2 * math.pi) + logvar), self.event_dims, "sample")

    def _in_sample_shape(self, z: Tensor, sample_shape: Shape) -> Tensor:
        return z.reshape(*sample_shape, *self.mu.shape) if len(sample_shape) else z

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(mu: {self.mu.shape}, {self.spread}: {self.scale_param.shape}, "
            f"batch_shape: {self._batch_shape}, event_shape: {self._event_shape})"
        )
