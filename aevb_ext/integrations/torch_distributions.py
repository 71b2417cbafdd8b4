"""``torch.distributions.kl_divergence`` of Normals on the fused operator."""

from ._kl import TORCH_VERSIONS, GaussianKl
from ._patch import Patch, require


def patch() -> Patch:
    """Let ``torch.distributions.kl_divergence`` use :func:`aevb_ext.gaussian_kl`.

    Of two Normals, elementwise, and of two Independent Normals, where the sum over the reinterpreted dimensions is part
    of the operator and the elementwise tensor is not made. Parameters of either side broadcast as ever, and the result
    has the dtype that it had (under autocast, float32). Right to a few ulp near the prior, where the original cancels.

    Touched: the entries (Normal, Normal) and (Independent, Independent) of ``torch.distributions.kl._KL_REGISTRY``, and
    the memo of what has been looked up in it. Import what registers KLs for these two (Pyro does) before.

    Returns:
        the patch in force.

    Raises:
        AlreadyPatched, UnknownVersion: see :class:`aevb_ext.integrations.Patch`; nothing is changed then.
    """
    require("torch", TORCH_VERSIONS)
    gaussian = GaussianKl()
    return Patch("torch.distributions", gaussian.replacements(), gaussian.on_change)
