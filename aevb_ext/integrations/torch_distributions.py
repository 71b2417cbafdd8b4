"""``torch.distributions.kl_divergence`` of Normals on the fused operator."""

from ._kl import TORCH_VERSIONS, GaussianKl
from ._patch import Patch, require


def patch() -> Patch:
    """Let ``torch.distributions.kl_divergence`` use :func:`aevb_ext.gaussian_kl`.

    This applies to two Normals, elementwise, and to two Independent Normals, where the operator includes the sum over
    the reinterpreted dimensions and no elementwise tensor is made. Parameters broadcast as before, and the result has
    the same dtype as before (under autocast, float32). It is accurate to a few ulp near the prior, where the original
    cancels.

    The patch replaces the entries (Normal, Normal) and (Independent, Independent) of
    ``torch.distributions.kl._KL_REGISTRY``, and updates the cache of its lookups. A package that registers KLs for
    these two (Pyro does) must be imported before.

    Returns:
        the patch in force.

    Raises:
        AlreadyPatched, UnknownVersion: see :class:`aevb_ext.integrations.Patch`; nothing is changed then.
    """
    require("torch", TORCH_VERSIONS)
    gaussian = GaussianKl()
    return Patch("torch.distributions", gaussian.replacements(), gaussian.on_change)
