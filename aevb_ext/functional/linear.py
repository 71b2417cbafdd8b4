"""A decoder's last layer and its log-likelihood as one operation."""

from torch import Tensor

from .. import _fallback, _library
from .._arguments import explain
from .._library import ops


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
    r""":func:`bernoulli_log_prob` of a decoder's last layer :math:`h W^T + b`, without all its logits in memory.

    The logits are computed a block of rows at a time, turned into values and gradients while they are in the cache, and
    dropped. On the CPU, if the loss's gradient is one number for all rows and the same as in the steps before, value
    and gradients come from one pass, with the three matrix products of the two-step form. Otherwise the backward
    computes the logits again, which is a fourth product. Second derivatives are those of the two-step form, and take as
    much memory.

    Args:
        x: data ``[*batch, *event]`` with at least one dimension of event, ``D`` the last: any float dtype, bool or
            uint8. Broadcast over samples without a copy.
        h: the input of the layer, ``[*samples, *batch, *event[:-1], H]``, floating.
        weight: ``[D, H]``, of h's dtype.
        bias: ``[D]``, of h's dtype. None: 0.
        x_scale: x is multiplied by it inside the kernel (1/255 for grey bytes).
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.

    Returns:
        ``[*samples, *batch]``; ``[*samples, *batch, *event]`` for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        float32 (float64 for float64). Differentiable in h, weight, bias and a floating x. Under ``torch.autocast`` the
        layer is cast like ``nn.Linear``, and the likelihood stays in float32.

    Raises:
        ValueError: shapes, devices, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not supported, or those of h, weight and bias differ.
    """
    try:
        if h.device.type not in _library.KERNELS:
            return _fallback.linear_bernoulli_log_prob(
                x, h, weight, bias, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
            )
        result: Tensor = ops.linear_bernoulli_log_prob(x, h, weight, bias, x_scale, reduction, batch_dims)
        return result
    except Exception:
        explain(linear_bernoulli_log_prob, locals())
        raise


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
    r""":func:`gaussian_log_prob` of the mean and log sigma^2 that a decoder's last layer computes from h.

    Like :func:`linear_bernoulli_log_prob`, it never has all of the layer's output in memory.

    Args:
        x, h, x_scale, reduction, batch_dims: as in :func:`linear_bernoulli_log_prob`.
        weight: ``[2 * D, H]``: the rows of the mean, then those of log sigma^2. With ``logvar``, only the rows of the
            mean, ``[D, H]``.
        bias: ``[2 * D]``, or ``[D]`` with ``logvar``. None: 0.
        logvar: log sigma^2 that does not depend on h: ``[]``, ``[1]`` or ``[D]``, of h's dtype, or float32 beside a
            half-precision h.
        sigmoid: whether the mean is squashed to (0, 1), as the paper does (appendix C.2).

    Returns:
        As in :func:`linear_bernoulli_log_prob`; differentiable in logvar as well.

    Raises:
        ValueError, TypeError: as in :func:`linear_bernoulli_log_prob`; logvar's shape or dtype does not fit; without
            ``logvar``, weight has an odd number of rows.
    """
    try:
        if h.device.type not in _library.KERNELS:
            return _fallback.linear_gaussian_log_prob(
                x, h, weight, bias, logvar, sigmoid=sigmoid, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
            )
        result: Tensor = ops.linear_gaussian_log_prob(
            x, h, weight, bias, logvar, sigmoid, x_scale, reduction, batch_dims
        )
        return result
    except Exception:
        explain(linear_gaussian_log_prob, locals())
        raise
