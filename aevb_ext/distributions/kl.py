"""Registers the distributions with ``torch.distributions.kl_divergence``, also against PyTorch's own."""

from torch import Tensor
from torch import distributions as torch_distributions
from torch.distributions import Distribution, Independent, Normal, register_kl
from torch.distributions.kl import _KL_MEMOIZE, _KL_REGISTRY, _dispatch_kl

from .._arguments import broadcast_shape
from .bernoulli import Bernoulli
from .factorised import Factorised
from .gaussian import DiagonalGaussian

register_kl(DiagonalGaussian, DiagonalGaussian)(DiagonalGaussian.kl)
register_kl(Bernoulli, Bernoulli)(Bernoulli.kl)


@register_kl(DiagonalGaussian, Normal)
@register_kl(DiagonalGaussian, Independent)
@register_kl(Bernoulli, torch_distributions.Bernoulli)
@register_kl(Bernoulli, Independent)
def _ours_theirs(p: Factorised, q: Distribution) -> Tensor:
    return p.kl(_as_ours(q, p))


@register_kl(Normal, DiagonalGaussian)
@register_kl(Independent, DiagonalGaussian)
@register_kl(torch_distributions.Bernoulli, Bernoulli)
@register_kl(Independent, Bernoulli)
def _theirs_ours(p: Distribution, q: Factorised) -> Tensor:
    return _as_ours(p, q).kl(q)


# PyTorch caches each pair of classes in a table at its first lookup, and torch.compile then recompiles code that reads
# the table. Looking the pairs up here fills the table beforehand.
for _pair in [pair for pair in _KL_REGISTRY if DiagonalGaussian in pair or Bernoulli in pair]:
    _KL_MEMOIZE[_pair] = _dispatch_kl(*_pair)


def _as_ours(theirs: Distribution, like: Factorised) -> Factorised:
    """Convert a distribution of PyTorch to the class of ``like``.

    A distribution without ``Independent`` (such as a ``Normal`` as the prior of each latent dimension) is broadcast to
    the event of ``like``, and its elements are independent.
    """
    base, event_dims = theirs, 0
    while isinstance(base, Independent):
        event_dims += base.reinterpreted_batch_ndims
        base = base.base_dist
    shape = base.batch_shape
    if theirs is base:
        own = like.batch_shape + like.event_shape
        shape = broadcast_shape(f"{type(theirs).__name__}'s batch", shape, type(like).__name__, own)
        event_dims = like.event_dims
    batch_dims = len(shape) - event_dims
    if isinstance(like, DiagonalGaussian) and isinstance(base, Normal):
        return DiagonalGaussian(base.loc.expand(shape), base.scale, spread="std", batch_dims=batch_dims)
    if isinstance(like, Bernoulli) and isinstance(base, torch_distributions.Bernoulli):
        # Use the parameter that it was constructed with: converting to the other may lose digits.
        name = "logits" if vars(base).get("logits") is base._param else "probs"
        param: Tensor = base._param.expand(shape)
        return Bernoulli(param if name == "probs" else None, param if name == "logits" else None, batch_dims=batch_dims)
    raise NotImplementedError(
        f"no KL divergence is known between {type(like).__name__} and Independent({type(base).__name__}, ...)"
    )
