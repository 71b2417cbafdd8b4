"""``torch.distributions``: ``log_prob``, and ``kl_divergence`` of Normals, on the fused operators."""

from ._kl import TORCH_VERSIONS, GaussianKl
from ._log_prob import log_prob_replacements
from ._patch import Patch, require


def patch() -> Patch:
    """Let ``torch.distributions`` use the fused log-likelihoods and :func:`aevb_ext.gaussian_kl`.

    ``log_prob`` of Normal, Bernoulli, Poisson, NegativeBinomial, Laplace, StudentT and ContinuousBernoulli is one
    operator, and so is that of an Independent of one of them, which includes the sum over the reinterpreted dimensions:
    no elementwise tensor is made. That of a MixtureSameFamily of diagonal Gaussians, ``Independent(Normal(...), 1)``
    with parameters ``[K, D]``, is :func:`aevb_ext.mixture_log_prob`: nothing of values times components is made. Values
    are validated as before. That of a Categorical is left alone: its constructor has normalised the logits, and
    ``log_prob`` only looks one up.

    ``kl_divergence`` of two Normals is elementwise; that of two Independent Normals includes the sum too. It is
    accurate to a few ulp near the prior, where the original cancels.

    Parameters broadcast as before, and the result has the same dtype as before (of a KL under autocast, float32).

    The patch replaces ``log_prob`` of these classes, and the entries (Normal, Normal) and (Independent, Independent) of
    ``torch.distributions.kl._KL_REGISTRY``, and updates the cache of its lookups. A package that registers KLs for
    these two (Pyro does) must be imported before.

    Returns:
        the patch in force.

    Raises:
        AlreadyPatched, UnknownVersion: see :class:`aevb_ext.integrations.Patch`; nothing is changed then.
    """
    require("torch", TORCH_VERSIONS)
    gaussian = GaussianKl()
    return Patch("torch.distributions", [*gaussian.replacements(), *log_prob_replacements()], gaussian.on_change)
