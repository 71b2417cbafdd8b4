"""Which latent dimensions a model uses."""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from .. import functional as F
from ..data import Rows, chunks
from ..models import VAE
from ..noise import keys_at

__all__ = ["LatentUse", "latent_use"]

# The threshold of Burda et al. 2016, section 5.2: dimensions vary either far more or far less than this.
ACTIVE_VARIANCE = 1e-2
_ROWS = 1000


@dataclass(frozen=True)
class LatentUse:
    """How much each latent dimension is used, over a dataset.

    Attributes:
        kl: float64 ``[latent]``, in nats: the mean over data points of KL(q(z_u | x) || p(z_u)).
        variance: float64 ``[latent]``: the variance over data points of the posterior's mean, Var_x E[z_u | x].
    """

    kl: Tensor
    variance: Tensor

    @property
    def active(self) -> Tensor:
        """bool ``[latent]``: the active units, those whose variance is above 0.01 (Burda et al. 2016, section 5.2)."""
        return self.variance > ACTIVE_VARIANCE


@torch.no_grad()
def latent_use(model: VAE, x: Tensor | Rows, seed: int = 0) -> LatentUse:
    """How much each latent dimension is used, over a dataset (Burda et al. 2016, arXiv 1509.00519, section 5.2).

    Args:
        model: the VAE.
        x: ``[N, *event]``, or :class:`~aevb_ext.data.Rows`, ``N >= 1``.
        seed: of rows that draw.

    Raises:
        ValueError: no data.
    """
    if len(x) == 0:
        raise ValueError("x must have at least one data point, got none")
    means, kl = [], []
    device = next((p.device for p in model.parameters()), None)
    for batch in chunks(x, _ROWS, device, lambda index: keys_at(seed, "evaluation binarize", index)):
        mu, logvar = model.posterior(batch)
        means.append(mu.flatten(1).double())
        kl.append(F.gaussian_kl(mu, logvar, reduction="none").flatten(1).double().sum(0))
    return LatentUse((reduce(torch.add, kl) / len(x)).cpu(), torch.cat(means).var(0, correction=0).cpu())
