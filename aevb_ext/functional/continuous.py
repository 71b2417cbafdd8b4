"""The log-likelihoods of locations and scales (Laplace, Student t, discretized logistic), and the continuous Bernoulli.

Here ``spread`` says how a scale is given: ``"scale"`` or ``"log_scale"``, its logarithm.
"""

from torch import Tensor

from .._arguments import explain
from ._log_prob import OF_COUNTS, OF_SCALES, log_prob


def laplace_log_prob(
    x: Tensor,
    mu: Tensor,
    scale: Tensor,
    *,
    spread: str = "scale",
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r"""Laplace log-likelihood: the L1 distance with a scale that is learned.

    .. math:: \sum_i -\log 2 b_i - |x_i - \mu_i| / b_i

    Args:
        x: data ``[B, *event]``: any float dtype, bool, uint8, int16, int32 or int64. Broadcast over samples without a
            copy.
        mu: the location, ``[*samples, B, *event]``, floating.
        scale: :math:`b > 0`, of mu's dtype and shape, or broadcasting to it.
        spread: ``"scale"``, or ``"log_scale"`` if ``scale`` is its logarithm.
        x_scale: x is multiplied by it inside the kernel (1/255 for grey bytes).
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.

    Returns:
        nats: ``[*samples, B]``; the shape of mu for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in all tensors that are floating; the derivative of the distance at 0 is 0.

    Raises:
        ValueError: shapes, devices, ``spread``, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not supported, or the parameters have several.
    """
    try:
        parameters = {"mu": mu, "scale": scale}
        return log_prob(
            "laplace_log_prob", x, parameters, spread, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
        )
    except Exception:
        explain(laplace_log_prob, locals(), **OF_SCALES)
        raise


def student_t_log_prob(
    x: Tensor,
    mu: Tensor,
    scale: Tensor,
    df: Tensor,
    *,
    spread: str = "scale",
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r"""Student's t log-likelihood, whose tails forgive outliers; the Gaussian for many degrees of freedom.

    .. math:: \sum_i \log \frac{\Gamma((\nu_i + 1) / 2)}{\Gamma(\nu_i / 2) \sqrt{\pi \nu_i}\, s_i} -
              \frac{\nu_i + 1}{2} \log\left(1 + \frac{(x_i - \mu_i)^2}{\nu_i s_i^2}\right)

    Args:
        x, mu, scale, spread, x_scale, reduction, batch_dims: as in :func:`laplace_log_prob`.
        df: the degrees of freedom :math:`\nu > 0`, of mu's dtype and shape, or broadcasting to it.

    Returns:
        nats: ``[*samples, B]``; the shape of mu for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in all tensors that are floating.

    Raises:
        ValueError, TypeError: as in :func:`laplace_log_prob`.
    """
    try:
        parameters = {"mu": mu, "scale": scale, "df": df}
        return log_prob(
            "student_t_log_prob", x, parameters, spread, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
        )
    except Exception:
        explain(student_t_log_prob, locals(), **OF_SCALES)
        raise


def continuous_bernoulli_log_prob(
    x: Tensor, logits: Tensor, *, x_scale: float = 1.0, reduction: str = "sample", batch_dims: int = 1
) -> Tensor:
    r"""Continuous Bernoulli log-likelihood of data in [0, 1] (Loaiza-Ganem & Cunningham 2019).

    .. math:: \sum_i x_i l_i - \log \frac{e^{l_i} - 1}{l_i}

    It is :func:`~aevb_ext.bernoulli_log_prob` with the normaliser that makes it a density of grey pixels. Both terms
    are exact near :math:`l = 0`, where they are 0 / 0 as written.

    Args:
        x: data ``[B, *event]`` in [0, 1], of the dtypes of :func:`laplace_log_prob`.
        logits: ``[*samples, B, *event]``, floating.
        x_scale, reduction, batch_dims: as in :func:`laplace_log_prob`.

    Returns:
        nats: ``[*samples, B]``; the shape of logits for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in logits and in a floating x.

    Raises:
        ValueError: shapes, devices, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not supported.
    """
    try:
        return log_prob(
            "continuous_bernoulli_log_prob",
            x,
            {"logits": logits},
            "logits",
            x_scale=x_scale,
            reduction=reduction,
            batch_dims=batch_dims,
        )
    except Exception:
        explain(continuous_bernoulli_log_prob, locals(), **OF_COUNTS)
        raise


def discretized_logistic_log_prob(
    x: Tensor,
    mu: Tensor,
    log_scale: Tensor,
    *,
    spread: str = "log_scale",
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r"""Log-probability of 256 grey levels under a logistic distribution (Kingma et al. 2016, appendix).

    .. math:: \sum_i \log\left(\sigma\left(\tfrac{x_i + 1/510 - \mu_i}{s_i}\right) -
              \sigma\left(\tfrac{x_i - 1/510 - \mu_i}{s_i}\right)\right)

    The level 0 includes all that is below it, the level 1 all that is above. The difference is computed as a product,
    so that it neither vanishes in the tails nor cancels where the scale is much larger than a level.

    Args:
        x: levels ``[B, *event]``, k / 255 for k = 0 ... 255: bytes with ``x_scale=1 / 255``, or any dtype of
            :func:`laplace_log_prob`. It is rounded to the nearest level.
        mu: the location, ``[*samples, B, *event]``, floating, in the units of the scaled x.
        log_scale: :math:`\log s`, of mu's dtype and shape, or broadcasting to it.
        spread: ``"log_scale"``, or ``"scale"`` if ``log_scale`` is the scale itself.
        x_scale, reduction, batch_dims: as in :func:`laplace_log_prob`.

    Returns:
        nats: ``[*samples, B]``; the shape of mu for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in mu and log_scale; the gradient of x, which names a level, is 0.

    Raises:
        ValueError, TypeError: as in :func:`laplace_log_prob`.
    """
    try:
        parameters = {"mu": mu, "log_scale": log_scale}
        return log_prob(
            "discretized_logistic_log_prob",
            x,
            parameters,
            spread,
            x_scale=x_scale,
            reduction=reduction,
            batch_dims=batch_dims,
        )
    except Exception:
        explain(discretized_logistic_log_prob, locals(), **OF_SCALES)
        raise
