"""scvi-tools' encoder and KL on the fused operators."""

from torch.distributions import Normal

from .._arguments import FLOATING
from ..functional import rsample
from ._kl import TORCH_VERSIONS, GaussianKl
from ._patch import Patch, Replacement, are_dense, require

VERSIONS = ("1.4.2",)


def patch() -> Patch:
    """Let scvi-tools sample with :func:`aevb_ext.rsample` and take its KLs from :func:`aevb_ext.gaussian_kl`.

    It replaces ``scvi.nn.Encoder.forward`` (the encoder of SCVI, SCANVI, CondSCVI and others). Its noise then comes
    from noise keys, so a seed gives another draw than without the patch. scvi-tools' KLs are between torch's own
    distributions, so the patch also replaces what :func:`aevb_ext.integrations.torch_distributions.patch` replaces.

    Returns:
        the patch in force.

    Raises:
        NotInstalled, UnknownVersion, AlreadyPatched: see :class:`aevb_ext.integrations.Patch`; nothing is changed then.
    """
    require("scvi-tools", VERSIONS)
    require("torch", TORCH_VERSIONS)
    from scvi.nn import Encoder

    gaussian = GaussianKl()
    return Patch("scvi", [*gaussian.replacements(), Replacement(Encoder, "forward", _encode)], gaussian.on_change)


def _encode(self, x, *cat_list):
    q = self.encoder(x, *cat_list)
    mean = self.mean_encoder(q)
    variance = self.var_activation(self.var_encoder(q)) + self.var_eps
    posterior = Normal(mean, variance.sqrt())
    # Calling the original for unsupported tensors would run the encoder, and update its batch norms, a second time.
    ours = are_dense(posterior.loc, posterior.scale) and posterior.loc.dtype in FLOATING
    sample = rsample(posterior.loc, posterior.scale, spread="std") if ours else posterior.rsample()
    latent = self.z_transformation(sample)
    if self.return_dist:
        return posterior, latent
    return mean, variance, latent
