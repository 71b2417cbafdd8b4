"""Annealed importance sampling of log p(x)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..data import Rows
from ..hmc import adapt
from ..models import VAE
from .annealing import Chains, Noise, Path, base_of, effective_sample_size, jittered
from .result import LogLikelihood, home, points
from .terms import ROWS
from .trust import warn_of_chains, warn_of_weights

__all__ = ["annealed_importance_sampling"]

# Chains that stepsizes are tuned on, before those whose weights count.
_TUNING = 4
# delta of the sigmoidal schedule.
_STEEPNESS = 4.0


@torch.no_grad()
def annealed_importance_sampling(
    model: VAE,
    x: Tensor | Rows,
    *,
    n_samples: int = 16,
    n_temperatures: int = 200,
    leapfrog_steps: int = 4,
    start: str = "prior",
    seed: int = 0,
    first: int = 0,
    count: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> LogLikelihood:
    r"""log p(x) of each data point by annealed importance sampling (Neal 2001, arXiv physics/9803008).

    Chains go from the prior through :math:`p(z) p(x | z)^{\beta_t}` to the posterior, by Hamiltonian Monte Carlo, as Wu
    et al. 2017 (arXiv 1611.04273) have it for decoders. The mean of their weights estimates p(x) without bias, whatever
    the number of temperatures: log p(x) is underestimated, to first order by half its squared standard error. It needs
    no encoder, and no density is fitted, so that it is for any number of latent dimensions. A data point's noise
    depends on ``seed`` and its number alone.

    Args:
        model: the VAE.
        x: ``[N, *event]``, or :class:`~aevb_ext.data.Rows`.
        n_samples: chains of each data point.
        n_temperatures: T; the :math:`\beta_t` are a sigmoid's values from 0 to 1.
        leapfrog_steps: of the transition at each temperature. Stepsizes are tuned to 90 % acceptance at each
            temperature and data point, on four chains that do nothing else.
        start: where chains start: the ``"prior"``, or q(z | x) of the encoder, ``"posterior"``, in the prior's place
            above.
        seed: of the noise.
        first, count: the data points from this number on, so many. None: all.
        progress: called with how many data points are done, again and again.

    Returns:
        All that :class:`LogLikelihood` has.

    Warns:
        UntrustedEstimate: more than 5 % of the data points have weights that are worth less than 5 chains (or a
            tenth of them), or the chains accept less than 60 % or more than 99 % of their proposals.

    Raises:
        ValueError: no data; ``n_samples``, ``n_temperatures`` or ``leapfrog_steps`` below 1; an unknown ``start``.
    """
    for name, value in (("n_samples", n_samples), ("n_temperatures", n_temperatures)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    device, dtype = home(model, x)
    line = torch.linspace(-_STEEPNESS, _STEEPNESS, n_temperatures + 1, dtype=torch.float64, device=device).sigmoid()
    betas = ((line - line[0]) / (line[-1] - line[0])).to(dtype)
    parts = []
    for index, batch in points(model, x, max(1, ROWS // n_samples), seed, first, count, progress):
        path = Path(model, batch, base_of(model, batch, start, dtype))
        # Chains that are tuned on their own acceptance would no longer be without bias.
        noise = Noise(seed, "ais tuning", index, _TUNING)
        *_, stepsizes = _annealed(path, betas, _TUNING, leapfrog_steps, noise)
        noise = Noise(seed, "ais", index, n_samples)
        log_weights, accept_prob, _ = _annealed(path, betas, n_samples, leapfrog_steps, noise, stepsizes)
        ess = effective_sample_size(log_weights)
        parts.append(LogLikelihood.of_weights(log_weights.logsumexp(0), ess, n_samples, accept_prob))
    found = LogLikelihood.joined(parts)
    warn_of_weights(found, n_samples, "chains")
    warn_of_chains(found)
    return found


def _annealed(
    path: Path, betas: Tensor, n: int, n_steps: int, noise: Noise, stepsizes: list[Tensor] | None = None
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Log weights, float64 ``[n, B]``; mean acceptance, ``[B]``; stepsizes, ``[B]`` at each beta: given, or adapted."""
    chains = Chains.at(path, path.draws(n, noise.of_points()))
    stepsize, used = 0.5 * path.spread, []
    log_weights = betas[1] * chains.log_ratio.double()
    accepted = torch.zeros_like(stepsize, dtype=torch.float64)
    # After the last change there is nothing left to weigh, and no need to move.
    for number in range(1, len(betas) - 1):
        if stepsizes is not None:
            stepsize = stepsizes[number - 1]
        chains, accept_prob = chains.moved(
            path, betas[number].expand_as(stepsize), jittered(stepsize, number), n_steps, noise.of_chains()
        )
        log_weights += (betas[number + 1] - betas[number]) * chains.log_ratio.double()
        accepted += accept_prob.mean(0)
        used.append(stepsize)
        if stepsizes is None:
            stepsize = adapt(stepsize, accept_prob, rate=0.5)
    return log_weights, accepted / max(1, len(used)), used
