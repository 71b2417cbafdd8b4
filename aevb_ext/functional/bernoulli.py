"""The Bernoulli log-likelihood, of logits or of probabilities."""

from torch import Tensor

from .. import _fallback, _library
from .._arguments import explain
from .._library import ops


def bernoulli_log_prob(
    x: Tensor,
    logits: Tensor,
    *,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r"""Bernoulli log-likelihood :math:`\log p(x | z)` of a decoder's logits (appendix C.1, eq. 11).

    .. math:: \sum_i x_i l_i - \log(1 + e^{l_i})

    x may be any number and is usually in [0, 1] (grey pixels as targets, as in the paper). Stable for all logits.

    Args:
        x: data ``[B, *event]``: any float dtype, bool or uint8. Broadcast over samples without a copy.
        logits: ``[*samples, B, *event]``, floating.
        x_scale: x is multiplied by it inside the kernel (1/255 for grey bytes).
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.

    Returns:
        ``[*samples, B]``; the shape of logits for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in logits and in a floating x.

    Raises:
        ValueError: shapes, devices, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not supported.
    """
    try:
        if logits.device.type not in _library.KERNELS:
            return _fallback.bernoulli_log_prob(x, logits, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims)
        result: Tensor = ops.bernoulli_log_prob(x, logits, x_scale, reduction, batch_dims)
        return result
    except Exception:
        explain(bernoulli_log_prob, locals())
        raise


def bernoulli_log_prob_of_probs(
    x: Tensor,
    probs: Tensor,
    *,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r"""Bernoulli log-likelihood :math:`\log p(x | z)` of a decoder that ends in a sigmoid (appendix C.1, eq. 11).

    .. math:: \sum_i x_i \log p_i + (1 - x_i) \log(1 - p_i)

    If you have the choice, use :func:`bernoulli_log_prob` with logits: a probability that has been rounded to 1 no
    longer says how large its logit was. Logarithms and gradients are limited as in
    ``torch.nn.functional.binary_cross_entropy``: each logarithm is at least -100, and the gradient by p is
    :math:`(x - p) / \max(p (1 - p), 10^{-12})`.

    Args:
        x: data ``[B, *event]``: any float dtype, bool or uint8. Broadcast over samples without a copy.
        probs: ``[*samples, B, *event]``, floating, in [0, 1]. A probability outside gives NaN, in the value and in the
            gradient by probs, rather than an error, for which the host would have to wait for the device.
        x_scale: x is multiplied by it inside the kernel (1/255 for grey bytes).
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.

    Returns:
        ``[*samples, B]``; the shape of probs for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in probs and in a floating x.

    Raises:
        ValueError: shapes, devices, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not supported.
    """
    try:
        if probs.device.type not in _library.KERNELS:
            return _fallback.bernoulli_log_prob_of_probs(
                x, probs, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
            )
        result: Tensor = ops.bernoulli_log_prob_of_probs(x, probs, x_scale, reduction, batch_dims)
        return result
    except Exception:
        explain(bernoulli_log_prob_of_probs, locals())
        raise
