"""What AEVB maximises, as one module: what several processes synchronise, and what could be compiled."""

import torch
from torch import Tensor, nn

from ..estimators.bound import ESTIMATORS
from ..models import VAE
from ..nn import ELBO, ELBOTerms

__all__ = ["Objective"]


class Objective(nn.Module):
    """The bound of each data point under an estimator: x and noise keys to :class:`~aevb_ext.nn.ELBOTerms`.

    Args:
        model: the VAE.
        estimator: ``"a"``, ``"b"`` or ``"iwae"``.
        n_samples: L, or k.
        beta, beta_warmup, free_bits: as :class:`aevb_ext.nn.ELBO` has them (``warmup_steps``); of estimator B.
        processes: over whose data points together free bits take their mean; None: this process alone.

    Raises:
        ValueError: an unknown estimator, or a number out of range.
    """

    def __init__(
        self,
        model: VAE,
        estimator: str = "b",
        n_samples: int = 1,
        *,
        beta: float = 1.0,
        beta_warmup: int = 0,
        free_bits: float = 0.0,
        processes=None,
    ):
        super().__init__()
        if estimator not in (*ESTIMATORS, "iwae"):
            raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, iwae, got {estimator!r}")
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, got {n_samples}")
        self.model, self.n_samples = model, n_samples
        bent = beta != 1 or beta_warmup or free_bits
        if bent and estimator != "b":
            raise ValueError(f'beta, beta_warmup and free_bits need estimator "b", got {estimator!r}')
        self._estimator = ESTIMATORS.get(estimator)
        # The plain bound has a shorter way than the module that has them all.
        self.elbo = None
        if estimator == "iwae":
            self.elbo = ELBO(n_samples, importance_weighted=True)
        elif bent:
            self.elbo = _ELBO(n_samples, beta=beta, warmup_steps=beta_warmup, free_bits=free_bits)
            self.elbo.processes = processes

    def forward(self, x: Tensor, key: Tensor | None = None) -> ELBOTerms:
        """x ``[B, *event]`` as the data set has it; key ``[2]`` or ``[B, 2]``, None: a fresh one."""
        if self.elbo is None:
            return self._estimator(self.model, x, self.n_samples, key=key)
        return self.elbo(x, self.model.posterior(x), self.model.log_likelihood, key=key)

    def count_step(self) -> None:
        """After each step of the optimizer: beta follows, on the device."""
        if self.elbo is not None:
            self.elbo.step()

    @property
    def current_beta(self) -> float:
        """The weight of the divergence at the next step; waits for the device."""
        return 1.0 if self.elbo is None else self.elbo.current_beta.item()


class _ELBO(ELBO):
    """Whose free bits are of the minibatch of all processes together."""

    processes = None

    def _mean_over_points(self, values: Tensor) -> Tensor:
        if self.processes is None:
            return super()._mean_over_points(values)
        total, count = self.processes.sum(torch.stack([values.nansum(0), (~values.isnan()).sum(0).to(values.dtype)]))
        return total / count
