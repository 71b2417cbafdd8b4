"""The importance-weighted bound of many samples, streamed."""

from torch import Tensor

from ..models import VAE
from .terms import ROWS, terms_iwae

__all__ = ["importance_weighted_bound"]


def importance_weighted_bound(
    model: VAE, x: Tensor, n_samples: int, *, block: int | None = None, key: Tensor | None = None, generator=None
) -> Tensor:
    r"""The importance-weighted bound of each data point (Burda et al. 2016, arXiv 1509.00519, eq. 8).

    .. math:: \log \frac1k \sum_i p(x, z_i) / q(z_i | x), \quad z_i \sim q(z | x) \text{ reparameterised}

    Memory does not grow with k: the samples are taken a block at a time, as ``ELBO(k, block=...)`` has it.

    Args:
        model: the VAE.
        x: ``[B, *event]``.
        n_samples: k.
        block: how many samples at a time; noise and (to rounding) results do not depend on it. None: as many as make
            about five thousand rows of the decoder's output.
        key, generator: where the noise comes from, as in :func:`aevb_ext.rsample`.

    Returns:
        ``[B]``, in nats, differentiable in the model's parameters (once, where there is more than one block).

    Raises:
        ValueError: n_samples or block is not an integer of at least 1; the key does not fit.
    """
    block = max(1, ROWS // max(1, len(x))) if block is None else block
    return terms_iwae(model, x, n_samples, block=block, key=key, generator=generator).bound
