"""The log-likelihoods of counts: Poisson, negative binomial, and that with additional zeros."""

from torch import Tensor

from .._arguments import explain
from ._log_prob import OF_COUNTS, check_counts, log_prob


def poisson_log_prob(
    x: Tensor,
    log_rate: Tensor | None = None,
    *,
    rate: Tensor | None = None,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
    validate_args: bool = False,
) -> Tensor:
    r"""Poisson log-likelihood of counts, given the logarithm of the rate or the rate.

    .. math:: \sum_i x_i \log \lambda_i - \lambda_i - \log x_i!

    It is computed as a deviation from its maximum, so that large counts keep their digits: at :math:`x = \lambda =
    10^8`, where the terms are :math:`10^9`, it is right to a few ulp. A rate of 0 gives 0 for a count of 0.

    Args:
        x: counts ``[B, *event]``: uint8, bool, int16, int32, int64 or any float dtype. Broadcast over samples without a
            copy. A fraction is taken as it is (with the gamma function); a negative number gives NaN.
        log_rate: ``[*samples, B, *event]``, floating: the logarithm of the rate, such as a decoder's output.
        rate: the rate itself, in place of ``log_rate``. A negative rate gives NaN.
        x_scale: x is multiplied by it inside the kernel.
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.
        validate_args: raise ValueError for counts or rates that are none. The host waits for the device then, and
            torch.compile cannot trace it.

    Returns:
        nats: ``[*samples, B]``; the shape of the rate for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in the rate and in a floating x.

    Raises:
        ValueError: both or none of ``log_rate`` and ``rate`` are given; shapes, devices, ``reduction`` or
            ``batch_dims`` do not fit; what ``validate_args`` found.
        TypeError: a dtype is not supported.
    """
    try:
        given = {name: t for name, t in {"log_rate": log_rate, "rate": rate}.items() if t is not None}
        if len(given) != 1:
            raise ValueError("log_rate and rate are two ways to give one parameter: give one of them")
        ((form, _),) = given.items()
        if validate_args:
            check_counts(x, **given)
        return log_prob("poisson_log_prob", x, given, form, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims)
    except Exception:
        explain(poisson_log_prob, locals(), **OF_COUNTS)
        raise


def negative_binomial_log_prob(
    x: Tensor,
    mean: Tensor | None = None,
    dispersion: Tensor | None = None,
    *,
    total_count: Tensor | None = None,
    logits: Tensor | None = None,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
    validate_args: bool = False,
) -> Tensor:
    r"""Negative binomial log-likelihood of counts, by mean and inverse dispersion, or by total count and logits.

    .. math:: \sum_i \log \frac{\Gamma(x_i + \theta_i)}{\Gamma(\theta_i)\, x_i!} +
              \theta_i \log \frac{\theta_i}{\theta_i + \mu_i} + x_i \log \frac{\mu_i}{\theta_i + \mu_i}

    The first form is that of scRNA-seq models (Lopez et al. 2018, scVI): variance :math:`\mu + \mu^2 / \theta`. The
    second is that of ``torch.distributions.NegativeBinomial``: :math:`\mu = \theta e^{l}`. Its limit for large
    :math:`\theta` is the Poisson distribution, which it reaches without the cancellation of the formula as written.

    Args:
        x: counts ``[B, *event]``, as in :func:`poisson_log_prob`.
        mean: :math:`\mu`, ``[*samples, B, *event]``, floating, from 0 on.
        dispersion: the inverse dispersion :math:`\theta > 0`, of mean's dtype and shape, or broadcasting to it: one
            for each gene, ``[*event]``. A number that is not positive gives NaN.
        total_count: :math:`\theta`, in place of ``dispersion``: of the dtype of logits, broadcasting to them.
        logits: :math:`l`, ``[*samples, B, *event]``, in place of ``mean``.
        x_scale, reduction, batch_dims, validate_args: as in :func:`poisson_log_prob`.

    Returns:
        nats: ``[*samples, B]``; the shape of mean for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in all parameters and in a floating x.

    Raises:
        ValueError: other than one of the two pairs is given; shapes, devices, ``reduction`` or ``batch_dims`` do not
            fit; what ``validate_args`` found.
        TypeError: a dtype is not supported, or the parameters have two.
    """
    try:
        pairs = {"mean": mean, "dispersion": dispersion, "logits": logits, "total_count": total_count}
        parameters = {name: t for name, t in pairs.items() if t is not None}
        if [*parameters] not in (["mean", "dispersion"], ["logits", "total_count"]):
            raise ValueError("expected mean and dispersion, or total_count and logits: one of the two pairs")
        form = next(iter(parameters))
        if validate_args:
            check_counts(x, **parameters)
        return log_prob(
            "negative_binomial_log_prob",
            x,
            parameters,
            form,
            x_scale=x_scale,
            reduction=reduction,
            batch_dims=batch_dims,
        )
    except Exception:
        explain(negative_binomial_log_prob, locals(), **OF_COUNTS)
        raise


def zero_inflated_negative_binomial_log_prob(
    x: Tensor,
    mean: Tensor,
    dispersion: Tensor,
    gate_logits: Tensor,
    *,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
    validate_args: bool = False,
) -> Tensor:
    r"""Log-likelihood of a negative binomial with additional zeros (Lopez et al. 2018, scVI; Risso et al. 2018).

    .. math:: p(x) = \pi\, [x = 0] + (1 - \pi)\, \mathrm{NB}(x; \mu, \theta), \quad \pi = \sigma(g)

    Args:
        x: counts ``[B, *event]``, as in :func:`poisson_log_prob`.
        mean, dispersion: :math:`\mu` and :math:`\theta`, as in :func:`negative_binomial_log_prob`.
        gate_logits: :math:`g`, the logits of a zero that is not the negative binomial's; of mean's dtype and shape, or
            broadcasting to it.
        x_scale, reduction, batch_dims, validate_args: as in :func:`poisson_log_prob`.

    Returns:
        nats: ``[*samples, B]``; the shape of mean for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in all parameters and in a floating x (with derivative 0 at a count of 0).

    Raises:
        ValueError: shapes, devices, ``reduction`` or ``batch_dims`` do not fit; what ``validate_args`` found.
        TypeError: a dtype is not supported, or the parameters have several.
    """
    try:
        parameters = {"mean": mean, "dispersion": dispersion, "gate_logits": gate_logits}
        if validate_args:
            check_counts(x, **parameters)
        return log_prob(
            "zero_inflated_negative_binomial_log_prob",
            x,
            parameters,
            "mean",
            x_scale=x_scale,
            reduction=reduction,
            batch_dims=batch_dims,
        )
    except Exception:
        explain(zero_inflated_negative_binomial_log_prob, locals(), **OF_COUNTS)
        raise
