"""Pyro's log-likelihoods, and its analytic KL of Normals (``TraceMeanField_ELBO``), on the fused operators."""

from ._kl import TORCH_VERSIONS, GaussianKl
from ._log_prob import log_prob_replacements
from ._patch import Patch, require

VERSIONS = ("1.9.2",)


def patch() -> Patch:
    """Let Pyro's log-likelihoods and analytic KLs use the fused operators.

    Pyro's distributions inherit ``log_prob`` from torch's. Of a sample site with a Normal, Bernoulli, Poisson (unless
    it is sparse), NegativeBinomial, Laplace, StudentT or ContinuousBernoulli, with ``to_event(n)`` or without, it is
    one call of an operator.

    ``TraceMeanField_ELBO`` calls ``torch.distributions.kl_divergence`` for the KL of each latent variable's guide to
    its prior. For two of Pyro's Normals, and for two ``Normal(...).to_event(n)``, masked, expanded or in a plate, that
    becomes one call of the operator, which includes the sum over the event.

    Pyro's Normal and Independent are subclasses of torch's, and kl_divergence is torch's. So this patch replaces the
    same entries as :func:`aevb_ext.integrations.torch_distributions.patch`: one of the two is enough, and applying both
    raises. Import Pyro before torch.distributions is patched, since it registers KLs of its own.

    Returns:
        the patch in force.

    Raises:
        NotInstalled, UnknownVersion, AlreadyPatched: see :class:`aevb_ext.integrations.Patch`; nothing is changed then.
    """
    require("pyro-ppl", VERSIONS)
    require("torch", TORCH_VERSIONS)
    import pyro.distributions  # noqa: F401  (it registers its own KLs, which the patch must come after)

    gaussian = GaussianKl()
    return Patch("pyro", [*gaussian.replacements(), *log_prob_replacements()], gaussian.on_change)
