"""Monte Carlo EM (appendix E), the paper's second comparison: the posterior is sampled, without an encoder."""

from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..configuration.choices import LEARNER_TRAITS
from ..hmc import adapt, log_joint, log_prior, transition
from ..models import VAE
from ..nn import ELBOTerms
from ..noise import keys_at, rekeyed
from .learner import Ascent, Learner, Objective
from .processes import Processes

__all__ = ["MCEM"]

# The initial step size of the leapfrog: ten steps are as long as the prior's standard deviation, and before anything is
# learnt the posterior is the prior.
_STEPSIZE = 0.1

# The mean acceptance probability to which the step size is adapted (appendix E).
_ACCEPTANCE = 0.9


class MCEM(Learner):
    """Hybrid Monte Carlo in the E step, a few updates of the decoder on its samples in the M step (appendix E).

    Each data point has a Markov chain of its own, which continues from epoch to epoch. A step makes one transition of
    the chains of its minibatch, all at once, and then ``weight_updates`` updates of the decoder at the chains' new z.
    With ``batch_size=n_data`` each step uses all the data. The encoder is not trained.

    log p(x, z) at the chains' z is reported as the bound and -log p(z) as ``kl``; it is not a bound of anything.

    Args:
        model: the VAE whose decoder to train, in place.
        n_data: N.
        batch_size: M, at most N.
        hmc_steps: leapfrog steps of a transition. Their step size, one for all chains, is adapted to an acceptance
            probability of 90 %.
        weight_updates: updates of the decoder's parameters in each step.
        seed: of the chains' initial positions, which are drawn from the prior.
        processes: as for every learner, but MCEM supports a single process only.
        **options: those of every :class:`~aevb_ext.learners.learner.Learner`.

    Raises:
        ValueError: an unknown name, a number out of range, or several processes.
    """

    TRAITS = LEARNER_TRAITS["mcem"]

    objective: "Chains"

    def __init__(
        self,
        model: VAE,
        n_data: int,
        *,
        batch_size: int = 100,
        hmc_steps: int = 10,
        weight_updates: int = 5,
        seed: int = 0,
        processes: Processes | None = None,
        **options: Any,
    ):
        for name, count in (("hmc_steps", hmc_steps), ("weight_updates", weight_updates)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if batch_size > n_data:
            raise ValueError(f"batch_size must be at most {n_data}, one chain for each data point, got {batch_size}")
        if processes is not None and processes.are_several:
            raise ValueError(
                f'the learner "mcem" supports one process, got {processes.world_size}: each process would have to know '
                "all chains"
            )
        self._hmc_steps, self._weight_updates = hmc_steps, weight_updates
        # Its steps are few and large, and the paper's curve shows no pause at the beginning.
        super().__init__(Chains(model, n_data, seed), n_data, batch_size=batch_size, silent_steps=0, **options)

    def update(self, x: Tensor, key: Tensor | None = None, index: Tensor | None = None) -> Tensor:
        """The part of a step on the device. ``index`` is required: it says whose chains these are."""
        if index is None:
            raise ValueError("index is needed: the indices of the data points x, int64 [M]")
        z = self.objective.move(x, key, index, self._hmc_steps)
        first, *_ = [self._updated(x, z) for _ in range(self._weight_updates)]
        self.totals.count_step()
        return first


class Chains(Objective):
    r"""The objective of the M step, :math:`\log p_\theta(x | z)` at the chains' z, and the chains.

    Args:
        model: the VAE.
        n_data: N.
        seed: of the chains' initial positions, drawn from the prior.

    Attributes:
        chains: ``[N, latent]``.
        stepsize: of the leapfrog, a scalar on the device.
    """

    chains: Tensor
    stepsize: Tensor

    def __init__(self, model: VAE, n_data: int, seed: int = 0):
        super().__init__(model)
        like = next(model.decoder.parameters(), None)
        if like is None:
            raise ValueError("model's decoder has no parameters for MCEM to learn")
        zero = like.detach().new_zeros(())
        key = keys_at(seed, "chains", torch.arange(n_data, device=like.device))
        self.register_buffer("chains", F.rsample(zero.expand(n_data, model.latent), zero, key=key))
        self.register_buffer("stepsize", zero + _STEPSIZE)

    @property
    def learnt(self) -> list[Tensor]:
        """The decoder's parameters."""
        return [p for p in self.model.decoder.parameters() if p.requires_grad]

    def forward(self, x: Tensor, z: Tensor) -> Ascent:
        """log p(x | z) as the objective, with log p(x, z) and log p(z) as terms; z is ``[B, latent]``."""
        log_likelihood, log_p = self.model.log_likelihood(x, z), log_prior(z)
        told = log_likelihood.detach()
        return Ascent(log_likelihood, ELBOTerms(told + log_p, told, -log_p))

    @torch.no_grad()
    def move(self, x: Tensor, key: Tensor | None, index: Tensor, n_steps: int) -> Tensor:
        """Make one transition of the chains of x, and adapt the step size.

        Args:
            x: ``[B, *event]``.
            key: noise keys ``[2]`` or ``[B, 2]``; None: a fresh one.
            index: int64 ``[B]``, the indices of the chains.
            n_steps: leapfrog steps.

        Returns:
            The chains' new positions, ``[B, latent]``.
        """
        z = self.chains.index_select(0, index)
        key = rekeyed(F.key_for(z, key, None), "hmc")
        new = transition(log_joint(self.model, x), z, self.stepsize, n_steps, key)
        self.stepsize.copy_(adapt(self.stepsize, new.accept_prob, _ACCEPTANCE))
        # A minibatch across two epochs may contain a data point twice: its last position in the minibatch counts.
        place = torch.arange(len(index), device=index.device)
        last = torch.zeros(len(self.chains), dtype=torch.int64, device=index.device)
        last = last.scatter_reduce_(0, index, place, "amax")[index]
        self.chains.index_copy_(0, index, new.z.index_select(0, last))
        return new.z
