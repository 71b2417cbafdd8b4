"""Diagonal Gaussians: log-likelihood and KL divergence."""

from torch import Tensor

from .. import _fallback, _library
from .._arguments import explain
from .._library import ops


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
    r"""Analytic :math:`D_{KL}(N(\mu, \sigma^2) \| N(\mu_p, \sigma_p^2))` of diagonal Gaussians (appendix B).

    .. math:: \tfrac12 \sum_j \left(e^{w_j} - 1 - w_j + (\mu_j - \mu_{p,j})^2 / \sigma_{p,j}^2\right),
              \quad w = \log \sigma^2 - \log \sigma_p^2

    It is computed without cancellation: accurate to a few ulp near the prior, and never negative.

    Args:
        mu: ``[B, *event]``, floating.
        logvar: the spread, of mu's dtype and shape, or broadcasting to it.
        prior_mu: the prior's mean, of mu's dtype, broadcasting to mu. None: 0.
        prior_logvar: the prior's spread, of mu's dtype, broadcasting to mu, in the same parameterisation as ``logvar``.
            None: unit variance.
        spread: the parameterisation of ``logvar`` and ``prior_logvar``.
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of mu index data points.

    Returns:
        KL in nats: ``[B]``; ``[B, *event]`` for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.

    Raises:
        ValueError: shapes, devices, ``spread``, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not floating, or the dtypes differ.
    """
    try:
        if mu.device.type not in _library.KERNELS:
            return _fallback.gaussian_kl(
                mu, logvar, prior_mu, prior_logvar, spread=spread, reduction=reduction, batch_dims=batch_dims
            )
        result: Tensor = ops.gaussian_kl(mu, logvar, prior_mu, prior_logvar, spread, reduction, batch_dims)
        return result
    except Exception:
        explain(gaussian_kl, locals())
        raise


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
    r"""Gaussian log-likelihood :math:`\log p(x | z)` of a decoder's mean and spread (appendix C.2, eq. 12).

    .. math:: -\tfrac12 \sum_i \log 2\pi + \log \sigma_i^2 + (x_i - \mu_i)^2 / \sigma_i^2

    Args:
        x: data ``[B, *event]``: any float dtype, bool or uint8. Broadcast over samples without a copy.
        mu: the decoder's mean ``[*samples, B, *event]``, floating.
        logvar: the decoder's spread, of mu's dtype and shape, or broadcasting to it (a learned scalar, one per
            feature, per channel, per data point); its gradient comes back in its own shape.
        spread: the parameterisation of ``logvar``.
        x_scale: x is multiplied by it inside the kernel (1/255 for grey bytes).
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.

    Returns:
        ``[*samples, B]``; the shape of mu for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in mu, logvar and a floating x.

    Raises:
        ValueError: shapes, devices, ``spread``, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not supported, or those of mu and logvar differ.
    """
    try:
        if mu.device.type not in _library.KERNELS:
            return _fallback.gaussian_log_prob(
                x, mu, logvar, spread=spread, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
            )
        result: Tensor = ops.gaussian_log_prob(x, mu, logvar, spread, x_scale, reduction, batch_dims)
        return result
    except Exception:
        explain(gaussian_log_prob, locals())
        raise
