"""The log-likelihood of images under a mixture of discretised logistics."""

from torch import Tensor

from .. import _fallback, _library
from .._arguments import explain, floating
from .._library import ops


def discretized_logistic_mixture_log_prob(x: Tensor, params: Tensor, *, reduction: str = "sample") -> Tensor:
    r"""Log-likelihood of RGB images under K discretised logistics a pixel (Salimans et al. 2017, arXiv 1701.05517).

    .. math:: \sum_{\text{pixels}} \log \sum_k \pi_k \prod_c
              \left[\sigma\left(\frac{x_c + 1/255 - \mu_{c,k}}{s_{c,k}}\right)
              - \sigma\left(\frac{x_c - 1/255 - \mu_{c,k}}{s_{c,k}}\right)\right]

    The bins of the first and the last level, -1 and 1, reach to infinity. The mean of green depends on red, and that of
    blue on both: :math:`\mu_2 = m_2 + c_1 x_1` and :math:`\mu_3 = m_3 + c_2 x_1 + c_3 x_2` with coefficients
    :math:`c = \tanh`. Logarithms of scales are at least -7. That is the likelihood of PixelCNN++ and VDVAE (Child 2021,
    arXiv 2011.10650), whose parameters are given as they are. Theirs goes over to the density in a bin of little
    probability; this is the logarithm of the difference itself, to the last digits, at any scale.

    Args:
        x: images ``[*batch, 3, H, W]``: uint8, or any float dtype with the 256 levels from -1 to 1 (``2 * bytes / 255 -
            1``). Broadcast over samples without a copy.
        params: ``[*samples, *batch, 10 * K, H, W]``, floating, at any strides; channels_last, and the permuted output
            of a layer that has its channels last, are read in place. Channels are K logits and, for each colour, K
            means, K logarithms of scales and K coefficients before tanh. The coefficients' colour has no meaning:
            :math:`c_1` is with the first colour, :math:`c_2` with the second and :math:`c_3` with the third.
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.

    Returns:
        ``[*samples, *batch]`` in nats, the sum over pixels; ``[*samples, *batch, H, W]`` for ``"none"``, one number for
        a pixel; a scalar for ``"sum"`` and ``"mean"``. Bits per dimension are ``-value / (3 * H * W * log(2))``.
        Differentiable in params.

    Raises:
        ValueError: shapes, devices or ``reduction`` do not fit.
        TypeError: a dtype is not supported.
    """
    try:
        if params.device.type not in _library.KERNELS:
            return _fallback.discretized_logistic_mixture_log_prob(x, params, reduction=reduction)
        result: Tensor = ops.discretized_logistic_mixture_log_prob(x, params, reduction)
        return result
    except Exception:
        explain(discretized_logistic_mixture_log_prob, locals(), params=floating)
        raise
