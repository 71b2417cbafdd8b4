"""The marginal likelihood by posterior samples and a density fitted to them (appendix D)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..data import Rows
from ..models import VAE
from ..models.bound import ROWS, data_points, device_and_dtype
from .annealing import Noise, Path, base_of, burned_in, effective_sample_size
from .result import LogLikelihood, warn_of_chains, warn_of_latent, warn_of_weights

__all__ = ["marginal_likelihood"]

# The fitted covariance is multiplied by this, so that q has thinner tails than the posterior: below 1 because a
# posterior's own tails may be thin, above 1/2 to keep the effective sample size large (docs/estimators.md).
_SHRINKAGE = 0.8
# Folds of the cross-fitting: q is fitted to all samples but those of one fold, and evaluated at these.
_FOLDS = 10
# The variance of the estimate is this many times what it would be with a given q, because the samples of a fold share
# the errors of its fit (docs/estimators.md).
_OF_THE_FIT = 2.0


@torch.no_grad()
def marginal_likelihood(
    model: VAE,
    x: Tensor | Rows,
    *,
    n_samples: int = 50,
    leapfrog_steps: int = 4,
    start: str = "prior",
    seed: int = 0,
    first: int = 0,
    count: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> LogLikelihood:
    r"""log p(x) of each data point as appendix D of the paper estimates it. It needs no encoder.

    .. math:: p(x) \simeq \left(\frac1L \sum_l \frac{q(z_l)}{p(z_l) \, p(x | z_l)}\right)^{-1}, \quad z_l \sim p(z | x)

    The samples are the end points of L chains of Hamiltonian Monte Carlo, each of which starts at the prior. q is a
    Gaussian with the mean and 0.8 times the covariance of nine tenths of the samples, and is evaluated at the other
    tenth; each tenth is left out once. With independent samples the estimate of 1 / p(x) is unbiased, so log p(x) is
    overestimated, to first order by half its squared standard error. A data point's noise depends on ``seed`` and its
    index alone.

    Args:
        model: the VAE.
        x: ``[N, *event]``, or :class:`~aevb_ext.data.Rows`.
        n_samples: L, how many samples of each data point's posterior.
        leapfrog_steps: of each transition.
        start: where chains start: the ``"prior"``, or ``"posterior"``, the encoder's q(z | x).
        seed: of the noise.
        first, count: score ``count`` data points from index ``first`` on. None: all that follow.
        progress: called repeatedly with the number of data points done.

    Returns:
        All attributes of :class:`LogLikelihood`.

    Warns:
        UntrustedEstimate: there are more than five latent dimensions, for more than 5 % of the data points the
            effective sample size is below 5 (or a tenth of the samples), or the chains accept less than 60 % or more
            than 99 % of their proposals.

    Raises:
        ValueError: no data; ``n_samples`` too small to fit a covariance of the latent dimensions; an unknown
            ``start``; ``leapfrog_steps < 1``.
    """
    latent = model.latent
    if n_samples < 2 * (latent + 2):
        raise ValueError(
            f"n_samples must be at least {2 * (latent + 2)} to fit a Gaussian of {latent} latent dimensions, got "
            f"{n_samples}"
        )
    warn_of_latent(latent)
    dtype, parts = device_and_dtype(model, x)[1], []
    for index, batch in data_points(model, x, max(1, ROWS // n_samples), seed, first, count, progress):
        path = Path(model, batch, base_of(model, batch, start, dtype))
        chains, accept_prob = burned_in(path, n_samples, leapfrog_steps, Noise(seed, "marginal", index, n_samples))
        log_joint = (path.log_base(chains.z) + chains.log_ratio).double()
        log_weights = _log_q(chains.z.double()) - log_joint
        inverse = LogLikelihood.of_weights(
            log_weights.logsumexp(0), effective_sample_size(log_weights), n_samples, accept_prob.mean(0).double()
        )
        stderr = math.sqrt(_OF_THE_FIT) * inverse.stderr
        parts.append(LogLikelihood(-inverse.values, stderr, inverse.ess, inverse.accept_prob))
    found = LogLikelihood.joined(parts)
    warn_of_weights(found, n_samples, "samples")
    warn_of_chains(found)
    return found


def _log_q(z: Tensor) -> Tensor:
    """log q of each sample, q fitted to the samples of the other folds: ``[n, B, latent]`` to ``[n, B]``."""
    parts = z.chunk(_FOLDS)
    others = (torch.cat(parts[:i] + parts[i + 1 :]) for i in range(len(parts)))
    return torch.cat([_gaussian(fitted, part) for fitted, part in zip(others, parts, strict=True)])


def _gaussian(fitted: Tensor, z: Tensor) -> Tensor:
    """log N(z; mean, shrunk covariance) of a Gaussian fitted to ``[n, B, latent]``, at ``[m, B, latent]``."""
    mean, latent = fitted.mean(0), z.shape[-1]
    centred = (fitted - mean).transpose(0, 1)
    covariance = centred.mT @ centred * (_SHRINKAGE / (len(fitted) - 1))
    # If no chain moved, the covariance is singular.
    ridge = torch.finfo(z.dtype).eps * torch.eye(latent, dtype=z.dtype, device=z.device)
    root, _ = torch.linalg.cholesky_ex(covariance + ridge)
    whitened = torch.linalg.solve_triangular(root, (z - mean).permute(1, 2, 0), upper=False)
    log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    density: Tensor = -0.5 * (whitened.square().sum(1).T + latent * math.log(2 * math.pi)) - log_det
    return density
