"""KL divergences, as ``torch.distributions.kl_divergence`` finds them: among ours, and against PyTorch's own."""

import torch
import torch.nn.functional as nnf
from torch import Size, Tensor
from torch import distributions as torch_distributions
from torch.distributions import Independent, Normal, register_kl

from .. import functional as F
from ..reference import _logvar, _reduce, _wide
from .bernoulli import Bernoulli
from .factorised import Factorised, broadcast
from .gaussian import DiagonalGaussian


@register_kl(DiagonalGaussian, DiagonalGaussian)
def _gaussian_gaussian(p: DiagonalGaussian, q: DiagonalGaussian) -> Tensor:
    """:func:`aevb_ext.gaussian_kl` with q as the prior, summed over the event; the batches broadcast."""
    shape = _common_shape(p, q)
    p_scale, q_scale, spread = p.scale_param, q.scale_param, p.spread
    if p.spread != q.spread:
        # Logarithms of either: they never overflow, and that of a log_std is exact.
        p_scale, q_scale = (_logvar(_wide(d.scale_param), d.spread) for d in (p, q))
        spread = "logvar"
    operands = [p.mu.expand(shape), p_scale, q.mu, q_scale]
    if p.mu.dtype != q.mu.dtype or p.spread != q.spread:
        dtype = p.mu.dtype
        for t in operands[1:]:
            dtype = torch.promote_types(dtype, t.dtype)
        operands = [t.to(dtype) for t in operands]
    return F.gaussian_kl(*operands, spread=spread, batch_dims=len(shape) - p.event_dims)


@register_kl(Bernoulli, Bernoulli)
def _bernoulli_bernoulli(p: Bernoulli, q: Bernoulli) -> Tensor:
    r"""Sum over the event of :math:`p \log(p / q) + (1 - p) \log((1 - p) / (1 - q))`; the batches broadcast.

    Near equality that cancels; there, with d the difference of the log odds and :math:`\varphi(x) = e^x - 1 - x`, it is
    the logarithm of :math:`1 + p \varphi((1 - p) d) + (1 - p) \varphi(-p d)`, of which no term is negative.
    """
    _common_shape(p, q)
    (p1, p0), (a, b) = p._both_probs(), (p._finite_logits(), q._finite_logits())
    d = b - a
    small = d.clamp(-1, 1)
    near = torch.log1p(p1 * _excess(p0 * small) + p0 * _excess(-p1 * small))
    far = p1 * (nnf.logsigmoid(a) - nnf.logsigmoid(b)) + p0 * (nnf.logsigmoid(-a) - nnf.logsigmoid(-b))
    kl = torch.where(d.abs() < 1, near, far)
    if q.param_name == "probs":
        q1, q0 = q._both_probs()
        kl = kl.masked_fill((q1 == 0) & (p1 > 0) | (q0 == 0) & (p0 > 0), torch.inf)
    return _reduce(kl, p.event_dims, "sample")


@register_kl(DiagonalGaussian, Normal)
@register_kl(DiagonalGaussian, Independent)
@register_kl(Bernoulli, torch_distributions.Bernoulli)
@register_kl(Bernoulli, Independent)
def _ours_theirs(p: Factorised, q) -> Tensor:
    return torch_distributions.kl_divergence(p, _as_ours(q, p))


@register_kl(Normal, DiagonalGaussian)
@register_kl(Independent, DiagonalGaussian)
@register_kl(torch_distributions.Bernoulli, Bernoulli)
@register_kl(Independent, Bernoulli)
def _theirs_ours(p, q: Factorised) -> Tensor:
    return torch_distributions.kl_divergence(_as_ours(p, q), q)


def _excess(x: Tensor) -> Tensor:
    """e^x - 1 - x without cancellation: twice the KL divergence of N(0, e^x) to N(0, 1)."""
    return 2 * F.gaussian_kl(torch.zeros_like(x), x, reduction="none", batch_dims=0)


def _as_ours(theirs, like: Factorised) -> Factorised:
    """PyTorch's distribution as one of ours beside ``like``, of the same kind.

    One without ``Independent`` (a ``Normal``, the prior of each latent dimension say) is read as the product of what it
    broadcasts to over the event of ``like``.
    """
    base, event_dims = theirs, 0
    while isinstance(base, Independent):
        event_dims += base.reinterpreted_batch_ndims
        base = base.base_dist
    shape = base.batch_shape
    if theirs is base:
        own = like.batch_shape + like.event_shape
        shape = broadcast(f"{type(theirs).__name__}'s batch", shape, type(like).__name__, own)
        event_dims = like.event_dims
    batch_dims = len(shape) - event_dims
    if isinstance(like, DiagonalGaussian) and isinstance(base, Normal):
        return DiagonalGaussian(base.loc.expand(shape), base.scale, spread="std", batch_dims=batch_dims)
    if isinstance(like, Bernoulli) and isinstance(base, torch_distributions.Bernoulli):
        # What it was made with: of the other, computed from it, a digit may be lost.
        name = "logits" if vars(base).get("logits") is base._param else "probs"
        return Bernoulli(**{name: base._param.expand(shape)}, batch_dims=batch_dims)
    raise NotImplementedError(
        f"no KL divergence is known between {type(like).__name__} and Independent({type(base).__name__}, ...)"
    )


def _common_shape(p: Factorised, q: Factorised) -> Size:
    """The batch shape to which both broadcast, and the event's."""
    if p.event_shape != q.event_shape:
        raise ValueError(f"p has event_shape {list(p.event_shape)}, but q has {list(q.event_shape)}: expected one")
    return broadcast("p's batch", p.batch_shape, "q's batch", q.batch_shape) + p.event_shape
