"""A mixture of diagonal Gaussians: a VAE's prior, or the aggregate posterior of a batch."""

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from .. import functional as F
from .._arguments import check_broadcasts, check_dtype, explained, sizes
from .._dtypes import promoted
from .._types import Shape
from .factorised import wide
from .gaussian import DiagonalGaussian, check_spread


class DiagonalGaussianMixture(Distribution):
    r""":math:`\sum_k \pi_k N(\mu_k, \mathrm{diag}(\sigma_k^2))`: K components of D dimensions, for all data points.

    A prior for :class:`aevb_ext.nn.ELBO`: a mixture of Gaussians, or the VampPrior (Tomczak & Welling 2018,
    arXiv 1705.07120), whose components are the posteriors of learned inputs. Like ``MixtureSameFamily(Categorical,
    Independent(Normal, 1))``, whose log density makes a tensor of data points times components times dimensions; this
    one is :func:`aevb_ext.mixture_log_prob`. It has no KL in closed form: ``ELBO(gradient="stl")`` and
    ``importance_weighted=True`` estimate it from samples.

    Args:
        mu: the components' means ``[K, D]``: float64, float32, bfloat16 or float16.
        logvar: their spreads, of mu's dtype, ``[K, D]`` or broadcasting to it.
        logits: unnormalised log weights ``[K]``, of mu's dtype. None: equal weights.
        spread: the parameterisation of ``logvar``: ``"logvar"`` | ``"log_std"`` | ``"std"`` | ``"var"``.
        validate_args: True: a value that is NaN raises ValueError; the host waits for the device. None or False: only
            shapes and dtypes are checked.

    Attributes:
        mu, logits, spread: as given.
        scale_param: ``logvar`` as given, in the parameterisation ``spread``; not expanded.

    Raises:
        ValueError: mu has not two dimensions or no component; shapes do not fit; ``spread`` is unknown.
        TypeError: an argument is not a tensor of a dtype above.
    """

    has_rsample = False
    arg_constraints: dict[str, Any] = {}  # noqa: RUF012  (PyTorch's name for it)
    support = constraints.independent(constraints.real, 1)
    _validate_args = False  # whatever PyTorch's default is, as in the other distributions

    @explained()
    def __init__(
        self,
        mu: Tensor,
        logvar: Tensor,
        logits: Tensor | None = None,
        *,
        spread: str = "logvar",
        validate_args: bool | None = None,
    ):
        check_dtype("mu", mu)
        check_dtype("logvar", logvar)
        check_spread(spread)
        if mu.dim() != 2 or not sizes(mu.shape)[0]:
            raise ValueError(f"mu must be the means of components, [K, D], got shape {list(mu.shape)}")
        if logits is not None:
            check_dtype("logits", logits)
            if sizes(logits.shape) != sizes(mu.shape[:1]):
                raise ValueError(f"logits must have shape {list(mu.shape[:1])}, got {list(logits.shape)}")
        check_broadcasts("logvar", logvar.shape, "mu", mu.shape)
        self.mu, self.scale_param, self.logits, self.spread = mu, logvar, logits, spread
        super().__init__(torch.Size(), mu.shape[1:], validate_args)

    @property
    def mean(self) -> Tensor:
        r""":math:`\sum_k \pi_k \mu_k`, ``[D]``, float32 for half parameters."""
        return self._weights() @ wide(self.mu)

    @property
    def variance(self) -> Tensor:
        """``[D]``, float32 for half parameters."""
        within, between = self._components().variance, (wide(self.mu) - self.mean).square()
        return self._weights() @ (within + between)

    @explained()
    def sample(self, sample_shape: Shape = (), *, generator: torch.Generator | None = None) -> Tensor:
        """Samples, without a gradient: which component is not differentiable.

        Args:
            sample_shape: the shape of independent samples.
            generator: where the noise comes from. Default: PyTorch's generator of the device.

        Returns:
            ``[*sample_shape, D]``, of the parameters' dtype.
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            count = shape[:-1].numel()
            chosen = torch.multinomial(self._weights(), max(count, 1), replacement=True, generator=generator)[:count]
            scale_param = self.scale_param.expand(self.mu.shape)
            of_chosen = DiagonalGaussian(self.mu[chosen], scale_param[chosen], spread=self.spread)
            return of_chosen.sample(generator=generator).reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density in nats: :func:`aevb_ext.mixture_log_prob`.

        Args:
            value: ``[*samples, D]``, floating.

        Returns:
            ``[*samples]``; differentiable in the parameters and in value.

        Raises:
            ValueError: the shape does not fit (or with ``validate_args=True``, the value is NaN).
            TypeError: value is not a tensor of such a dtype.
        """
        check_dtype("value", value)
        if self._validate_args:
            self._validate_sample(value)
        given = (value, self.mu, self.scale_param)
        operands = promoted(*given) if self.logits is None else promoted(*given, self.logits)
        return F.mixture_log_prob(*operands, spread=self.spread)

    def _components(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mu, self.scale_param, spread=self.spread)

    def _weights(self) -> Tensor:
        mu = wide(self.mu)
        if self.logits is None:
            return mu.new_full(mu.shape[:1], 1 / mu.shape[0])
        return wide(self.logits).softmax(0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sizes(self.mu.shape)[0]} components, event_shape: {self._event_shape})"
