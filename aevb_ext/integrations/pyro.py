"""Pyro's analytic KL of Normals (``TraceMeanField_ELBO``) on the fused operator."""

from ._kl import TORCH_VERSIONS, GaussianKl
from ._patch import Patch, require

VERSIONS = ("1.9.2",)


def patch() -> Patch:
    """Let Pyro's analytic KLs use :func:`aevb_ext.gaussian_kl`.

    ``TraceMeanField_ELBO`` asks ``torch.distributions.kl_divergence`` for the KL of each latent variable's guide to its
    prior. For two of Pyro's Normals, and for two ``Normal(...).to_event(n)``, masked, expanded or in a plate, that is
    one call of the operator from now on, with the sum over the event in it.

    Touched: the registry behind ``kl_divergence`` gets entries for (pyro.distributions.Normal, the same) and
    (pyro.distributions.Independent, the same), and the memo of what has been looked up in it is renewed. Pyro's own
    entries, and torch's, stay: all other pairs have the KL that they had.

    Returns:
        the patch in force.

    Raises:
        NotInstalled, UnknownVersion, AlreadyPatched: see :class:`aevb_ext.integrations.Patch`; nothing is changed then.
    """
    require("pyro-ppl", VERSIONS)
    require("torch", TORCH_VERSIONS)
    from pyro.distributions import Independent, Normal

    gaussian = GaussianKl(Normal, Independent)
    return Patch("pyro", gaussian.replacements(), gaussian.on_change)
