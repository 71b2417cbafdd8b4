"""The log-likelihood of classes."""

from torch import Tensor

from .. import _fallback, _library
from .._arguments import counts, explain
from .._library import ops
from ._log_prob import is_count


def categorical_log_prob(
    x: Tensor,
    logits: Tensor,
    *,
    reduction: str = "sample",
    batch_dims: int = 1,
    validate_args: bool = False,
) -> Tensor:
    r"""Categorical log-likelihood :math:`\log p(x | z)` of a decoder's logits for C classes.

    .. math:: \sum_i l_{i, x_i} - \log \sum_c e^{l_{i, c}}

    It is ``-torch.nn.functional.cross_entropy``, and ``torch.distributions.Categorical(logits=logits).log_prob(x)``.
    No log-softmax is made: the sum is streamed over the classes, and the backward computes it again.

    Args:
        x: classes ``[B, *event]``, integers from 0 to C - 1 in uint8, bool, int16, int32, int64 or any float dtype.
            Broadcast over samples without a copy. What is no class gives NaN, in the value and in the gradient, rather
            than an error, for which the host would have to wait for the device.
        logits: ``[*samples, B, *event, C]``, floating, at any strides: a view of ``[B, C, *event]`` is read in place.
            A logit of -infinity is a class that does not occur.
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.
        validate_args: raise ValueError if x has what is no class. The host waits for the device then, and
            torch.compile cannot trace it.

    Returns:
        ``[*samples, B]`` in nats; ``[*samples, B, *event]`` for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in logits.

    Raises:
        ValueError: shapes, devices, ``reduction`` or ``batch_dims`` do not fit; or x, with ``validate_args``.
        TypeError: a dtype is not supported.
    """
    try:
        if validate_args:
            _check_classes(x, logits.shape[-1])
        if logits.device.type not in _library.KERNELS:
            return _fallback.categorical_log_prob(x, logits, reduction=reduction, batch_dims=batch_dims)
        result: Tensor = ops.categorical_log_prob(x, logits, reduction, batch_dims)
        return result
    except Exception:
        explain(categorical_log_prob, locals(), x=counts)
        raise


def _check_classes(x: Tensor, classes: int) -> None:
    if not (is_count(x) & (x < classes)).all():
        raise ValueError(f"x must have integers from 0 to {classes - 1}, since logits has {classes} classes")
