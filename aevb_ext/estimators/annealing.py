"""Annealed importance sampling (Neal 2001): log p(x) by chains from the prior or the posterior."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import functional as F
from ..data import Rows
from ..hmc import adapt, log_joint, transition, with_gradient
from ..models import VAE
from ..models.bound import POINT_BITS, ROWS, data_points, device_and_dtype
from ..noise import keys_at
from .result import LogLikelihood, warn_of_chains, warn_of_weights

__all__ = ["STARTS", "Chains", "Noise", "Path", "annealed_importance_sampling", "base_of", "burned_in", "jittered"]

STARTS = ("prior", "posterior")

# Draws of the base Gaussian from which the initial chains are resampled.
_DRAWS = 500
# Each change of beta keeps the effective sample size of the chains' weights at this fraction of them at least.
_MIN_RELATIVE_ESS = 0.5
_MOST_CHANGES = 100
# Burn-in transitions at the posterior before samples are taken.
_BURN_IN = 5
_GOLDEN = 0.6180339887498949


def base_of(model: VAE, x: Tensor, start: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(mu, logvar), ``[B, latent]`` each, of the Gaussian that chains start from: the prior or q(z | x).

    Raises:
        ValueError: ``start`` is neither ``"prior"`` nor ``"posterior"``.
    """
    if start not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)}, got {start!r}")
    if start == "posterior":
        return model.posterior(x)
    zero = torch.zeros(len(x), model.latent, dtype=dtype, device=x.device)
    return zero, zero


class Path:
    r"""The densities :math:`q_0(z)^{1 - \beta} \, p(x, z)^{\beta}` between a Gaussian q_0 and the posterior.

    If q_0 is the prior, this is the prior times the likelihood to the power of beta.

    Args:
        model: the VAE.
        x: ``[B, *event]``.
        base: (mu, logvar) of q_0, ``[B, latent]`` each.
    """

    def __init__(self, model: VAE, x: Tensor, base: tuple[Tensor, Tensor]):
        self._mu, self._logvar = base
        self._log_joint = log_joint(model, x)

    @property
    def spread(self) -> Tensor:
        """The geometric mean of q_0's standard deviations, ``[B]``."""
        return (0.5 * self._logvar.mean(-1)).exp()

    def draws(self, n: int, key: Tensor) -> Tensor:
        """Samples of q_0, ``[n, B, latent]``; key ``[B, 2]``."""
        return F.rsample(self._mu, self._logvar, n_samples=n, key=key)

    def log_base(self, z: Tensor) -> Tensor:
        """log q_0, ``[n, B]``."""
        return F.gaussian_log_prob(z, self._mu.expand_as(z), self._logvar, batch_dims=2)

    def log_ratio(self, z: Tensor) -> Tensor:
        """log p(x, z) - log q_0(z), ``[n, B]``: what beta multiplies."""
        return self._log_joint(z) - self.log_base(z)

    def at(self, beta: Tensor) -> Callable[[Tensor], Tensor]:
        """The log density at beta, ``[B]`` or a scalar."""
        return lambda z: torch.lerp(self.log_base(z), self._log_joint(z), beta)


class Noise:
    """Noise keys of chains; they depend on the data point, not on the batch that it is in.

    Args:
        seed, purpose: as in :func:`~aevb_ext.noise.keys_at`.
        index: int64 ``[B]``, the indices of the data points.
        n: chains of each data point.
    """

    def __init__(self, seed: int, purpose: str, index: Tensor, n: int):
        numbers = torch.arange(n + 1, device=index.device).unsqueeze(1)
        self._keys = keys_at(seed, purpose, index + (numbers << POINT_BITS))
        self._step = self._keys.new_tensor([1, 0])

    def of_chains(self) -> Tensor:
        """A key for each chain, ``[n, B, 2]``; new ones at each call."""
        self._keys = self._keys + self._step
        return self._keys[:-1]

    def of_points(self) -> Tensor:
        """A key for each data point, ``[B, 2]``; new ones at each call."""
        self._keys = self._keys + self._step
        return self._keys[-1]


class Chains(NamedTuple):
    """The state of chains on a :class:`Path`.

    Attributes:
        z: ``[n, B, latent]``.
        log_ratio: the path's log ratio at z, ``[n, B]``.
        gradient: the gradient of the log ratio, ``[n, B, latent]``.
    """

    z: Tensor
    log_ratio: Tensor
    gradient: Tensor

    @classmethod
    def at(cls, path: Path, z: Tensor) -> "Chains":
        return cls(z, *with_gradient(path.log_ratio)(z))

    def moved(self, path: Path, beta: Tensor, stepsize: Tensor, n_steps: int, key: Tensor) -> tuple["Chains", Tensor]:
        """Make a transition at beta, ``[B]``, above 0: the new state and the acceptance probabilities ``[n, B]``."""
        base, of_base = with_gradient(path.log_base)(self.z)
        start = base + beta * self.log_ratio, of_base + beta.unsqueeze(-1) * self.gradient
        state = transition(path.at(beta), self.z, stepsize, n_steps, key, start)
        # The transition has value and gradient at beta; those of the log ratio follow from them and the base's.
        base, of_base = with_gradient(path.log_base)(state.z)
        log_ratio, gradient = (state.log_density - base) / beta, (state.gradient - of_base) / beta.unsqueeze(-1)
        return Chains(state.z, log_ratio, gradient), state.accept_prob

    def chosen(self, index: Tensor) -> "Chains":
        """The chains at these indices, ``[m, B]``."""
        rows = index.unsqueeze(-1).expand(-1, -1, self.z.shape[-1])
        return Chains(self.z.gather(0, rows), self.log_ratio.gather(0, index), self.gradient.gather(0, rows))


def jittered(stepsize: Tensor, number: int) -> Tensor:
    """The step size of transition ``number``, varied by up to a fifth so that not all trajectories match a period."""
    return stepsize * (0.8 + 0.4 * (number * _GOLDEN % 1))


@torch.no_grad()
def burned_in(path: Path, n: int, n_steps: int, noise: Noise) -> tuple[Chains, Tensor]:
    """Chains that have reached the posterior, and the acceptance probabilities of their last transition.

    This is a burn-in that visits all modes of the posterior in proportion to their mass, a sequential Monte Carlo
    sampler (Del Moral et al. 2006). n chains are resampled from many draws of q_0 by tempered weights. Then beta grows
    to 1, for each data point as fast as the chains' weights allow (Jasra et al. 2011). At each change of beta the
    chains are resampled by their weights and make a transition. Step sizes are adapted on the way.

    Args:
        path: the path of the data points.
        n: chains of each data point.
        n_steps: leapfrog steps of a transition.
        noise: the noise of n chains.
    """
    z = path.draws(_DRAWS, noise.of_points())
    log_ratio = torch.cat([path.log_ratio(part) for part in z.split(max(1, ROWS // z.shape[1]))])
    beta = _next_beta(torch.zeros_like(path.spread), log_ratio, _MIN_RELATIVE_ESS * n)
    index = _resampled(beta * log_ratio, n, noise.of_points())
    chains = Chains.at(path, z.gather(0, index.unsqueeze(-1).expand(-1, -1, z.shape[-1])))
    stepsize = 0.5 * path.spread
    for _ in range(_MOST_CHANGES):
        if (beta == 1).all():
            break
        chains, accept_prob = chains.moved(path, beta, stepsize, n_steps, noise.of_chains())
        stepsize = adapt(stepsize, accept_prob, rate=1)
        now = _next_beta(beta, chains.log_ratio, _MIN_RELATIVE_ESS * n)
        chains = chains.chosen(_resampled((now - beta) * chains.log_ratio, n, noise.of_points()))
        beta = now
    beta = torch.ones_like(beta)
    for number in range(_BURN_IN):
        chains, accept_prob = chains.moved(path, beta, jittered(stepsize, number), n_steps, noise.of_chains())
        stepsize = adapt(stepsize, accept_prob, rate=1 / (1 + number))
    return chains.moved(path, beta, jittered(stepsize, _BURN_IN), n_steps, noise.of_chains())


def _next_beta(beta: Tensor, log_ratio: Tensor, worth: float) -> Tensor:
    """The largest beta up to 1 for which the effective sample size of the step's weights is ``worth``, ``[B]``."""
    low, high = torch.zeros_like(beta), 1 - beta
    step = high
    for _ in range(20):
        enough = effective_sample_size(step * log_ratio) >= worth
        low, high = torch.where(enough, step, low), torch.where(enough, high, step)
        step = 0.5 * (low + high)
    return torch.where(low == 1 - beta, 1, beta + low)


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum of weights)^2 / sum of squares, ``[n, B]`` to ``[B]`` (Kong 1992)."""
    return (2 * log_weights.logsumexp(0) - (2 * log_weights).logsumexp(0)).exp()


def _resampled(log_weights: Tensor, n: int, key: Tensor) -> Tensor:
    """Systematic resampling (Kitagawa 1996) of each data point's draws: their indices, int64 ``[n, B]``."""
    ends = log_weights.softmax(0).cumsum(0).T.contiguous()
    uniform = torch.special.ndtr(F.rsample(ends.new_zeros(len(key), 1), ends.new_zeros(()), key=key))
    places = (torch.arange(n, device=key.device) + uniform) / n * ends[:, -1:]
    return torch.searchsorted(ends, places).clamp(max=len(log_weights) - 1).T


# Separate chains on which step sizes are tuned.
_TUNING = 4
# delta of the sigmoidal schedule of beta.
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

    Chains go from the prior through :math:`p(z) p(x | z)^{\beta_t}` to the posterior by Hamiltonian Monte Carlo, as in
    Wu et al. 2017 (arXiv 1611.04273). The mean of their weights is an unbiased estimate of p(x) for any number of
    temperatures, so log p(x) is underestimated, to first order by half its squared standard error. The method needs no
    encoder and fits no density, so it works for any number of latent dimensions. A data point's noise depends on
    ``seed`` and its index alone.

    Args:
        model: the VAE.
        x: ``[N, *event]``, or :class:`~aevb_ext.data.Rows`.
        n_samples: chains of each data point.
        n_temperatures: T; the :math:`\beta_t` are a sigmoid's values from 0 to 1.
        leapfrog_steps: of the transition at each temperature. Step sizes are tuned to 90 % acceptance at each
            temperature and data point, on four separate chains.
        start: where chains start: the ``"prior"``, or ``"posterior"``, the encoder's q(z | x), which then replaces the
            prior in the formula above.
        seed: of the noise.
        first, count: score ``count`` data points from index ``first`` on. None: all that follow.
        progress: called repeatedly with the number of data points done.

    Returns:
        All attributes of :class:`LogLikelihood`.

    Warns:
        UntrustedEstimate: for more than 5 % of the data points the effective sample size is below 5 chains (or a tenth
            of them), or the chains accept less than 60 % or more than 99 % of their proposals.

    Raises:
        ValueError: no data; ``n_samples``, ``n_temperatures`` or ``leapfrog_steps`` below 1; an unknown ``start``.
    """
    for name, value in (("n_samples", n_samples), ("n_temperatures", n_temperatures)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    device, dtype = device_and_dtype(model, x)
    line = torch.linspace(-_STEEPNESS, _STEEPNESS, n_temperatures + 1, dtype=torch.float64, device=device).sigmoid()
    betas = ((line - line[0]) / (line[-1] - line[0])).to(dtype)
    parts = []
    for index, batch in data_points(model, x, max(1, ROWS // n_samples), seed, first, count, progress):
        path = Path(model, batch, base_of(model, batch, start, dtype))
        # Chains tuned on their own acceptance would no longer give an unbiased estimate.
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
    """Log weights, float64 ``[n, B]``; mean acceptance, ``[B]``; step sizes, ``[B]`` at each beta: given or adapted."""
    chains = Chains.at(path, path.draws(n, noise.of_points()))
    stepsize, used = 0.5 * path.spread, []
    log_weights = betas[1] * chains.log_ratio.double()
    accepted = torch.zeros_like(stepsize, dtype=torch.float64)
    # A transition after the last change of beta would not change the weights.
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
