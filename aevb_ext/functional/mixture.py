"""Mixtures of diagonal Gaussians: a prior of several modes, or the aggregate posterior of a batch."""

from torch import Tensor

from .. import _fallback, _library
from .._arguments import explain, floating
from .._library import ops


def mixture_log_prob(
    z: Tensor,
    mu_k: Tensor,
    logvar_k: Tensor,
    logits_k: Tensor | None = None,
    *,
    spread: str = "logvar",
    factorised: bool = False,
    reduction: str = "sample",
) -> Tensor:
    r"""Log density of a mixture of diagonal Gaussians whose components all rows share.

    .. math:: \log p(z) = \log \sum_{k=1}^K \pi_k \prod_{d=1}^D N(z_d; \mu_{kd}, \sigma_{kd}^2),
              \quad \pi = \mathrm{softmax}(\text{logits})

    It is a prior for a VAE: a mixture of Gaussians, or the VampPrior, whose components are the posteriors of learned
    inputs (Tomczak & Welling 2018, arXiv 1705.07120, eq. 9). With a batch's own posteriors as components it is the
    aggregate posterior, of which beta-TCVAE's total correlation (Chen et al. 2018, arXiv 1802.04942, eq. 2) is the
    joint log density less the factorised one. The sum over components is streamed: neither the forward nor the backward
    holds a tensor of rows times components, unless the gradient is to be differentiated itself (``create_graph=True``,
    and always under ``torch.func``). Where all components' densities underflow, the value is -infinity and nothing has
    a gradient.

    Args:
        z: ``[*batch, D]``, floating. All dimensions but the last index rows.
        mu_k: the components' means ``[K, D]``, of z's dtype.
        logvar_k: their spreads, of z's dtype, ``[K, D]`` or broadcasting to it (``[K, 1]``: one per component); the
            gradient comes back in its own shape.
        logits_k: unnormalised log weights ``[K]``, of z's dtype. -infinity: the component is absent. None: equal
            weights.
        spread: the parameterisation of ``logvar_k``.
        factorised: the product of the marginals in place of the joint density,
            :math:`\sum_d \log \sum_k \pi_k N(z_d; \mu_{kd}, \sigma_{kd}^2)`.
        reduction: ``"sample"`` (one value per row) | ``"sum"`` | ``"mean"``; with ``factorised`` also ``"none"`` (each
            dimension's log density).

    Returns:
        nats: ``[*batch]``; ``[*batch, D]`` for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in z, mu_k, logvar_k and logits_k.

    Raises:
        ValueError: mu_k has no component; shapes, devices, ``spread`` or ``reduction`` do not fit.
        TypeError: a dtype is not floating, or the dtypes differ.
    """
    try:
        if z.device.type not in _library.KERNELS:
            return _fallback.mixture_log_prob(
                z, mu_k, logvar_k, logits_k, spread=spread, factorised=factorised, reduction=reduction
            )
        values: Tensor = ops.mixture_log_prob(z, mu_k, logvar_k, logits_k, spread, factorised)
        return _fallback.reduce_mixture(values, factorised, reduction)
    except Exception:
        explain(mixture_log_prob, locals(), z=floating)
        raise
