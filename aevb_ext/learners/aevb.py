"""Auto-Encoding Variational Bayes (Algorithm 1)."""

from typing import Any

import torch
from torch import Tensor

from ..configuration.choices import LEARNER_TRAITS
from ..estimators import ESTIMATORS
from ..models import VAE
from ..nn import ELBO
from .learner import Ascent, Learner, Objective
from .processes import Processes

__all__ = ["AEVB", "Bounds"]


class AEVB(Learner):
    """Minibatch ascent of the bound (Algorithm 1) in the parameters of encoder and decoder together.

    Args:
        model: the VAE to train, in place.
        n_data: N.
        estimator, n_samples, sample_block, beta, beta_warmup, free_bits: as in :class:`Bounds`.
        processes, **options: those of every :class:`~aevb_ext.learners.learner.Learner`.

    Raises:
        ValueError: an unknown name, or a number out of range.
    """

    TRAITS = LEARNER_TRAITS["aevb"]

    def __init__(
        self,
        model: VAE,
        n_data: int,
        *,
        estimator: str = "b",
        n_samples: int = 1,
        sample_block: int | None = None,
        beta: float = 1.0,
        beta_warmup: int = 0,
        free_bits: float = 0.0,
        processes: Processes | None = None,
        **options: Any,
    ):
        bounds = Bounds(
            model,
            estimator,
            n_samples,
            beta=beta,
            beta_warmup=beta_warmup,
            free_bits=free_bits,
            sample_block=sample_block,
            processes=processes,
        )
        super().__init__(bounds, n_data, processes=processes, **options)


class Bounds(Objective):
    """The bound of each data point under an estimator.

    Args:
        model: the VAE.
        estimator: ``"a"``, ``"b"`` or ``"iwae"``.
        n_samples: L, or k.
        beta, beta_warmup, free_bits: as in :class:`aevb_ext.nn.ELBO` (``warmup_steps``); for estimator B.
        sample_block: how many samples of each data point are computed at a time, as ``block`` of
            :class:`aevb_ext.nn.ELBO`. None: all at once.
        processes: free bits take their mean over the data points of all these processes. None: this process alone.

    Raises:
        ValueError: an unknown estimator, or a number out of range.
    """

    elbo: "_ELBO | None"

    def __init__(
        self,
        model: VAE,
        estimator: str = "b",
        n_samples: int = 1,
        *,
        beta: float = 1.0,
        beta_warmup: int = 0,
        free_bits: float = 0.0,
        sample_block: int | None = None,
        processes: Processes | None = None,
    ):
        super().__init__(model)
        if estimator not in ESTIMATORS:
            raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {estimator!r}")
        for name, count in (("n_samples", n_samples), ("sample_block", 1 if sample_block is None else sample_block)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        self.n_samples, self.sample_block = n_samples, sample_block
        bent = beta != 1 or beta_warmup or free_bits
        if bent and estimator != "b":
            raise ValueError(f'beta, beta_warmup and free_bits need estimator "b", got {estimator!r}')
        self._estimator, self.elbo = ESTIMATORS[estimator], None
        if bent:
            self.elbo = _ELBO(n_samples, beta=beta, warmup_steps=beta_warmup, free_bits=free_bits, block=sample_block)
            self.elbo.processes = processes

    def forward(self, x: Tensor, key: Tensor | None = None) -> Ascent:
        """The bounds of x, which are also what is maximised."""
        if self.elbo is None:
            terms = self._estimator(self.model, x, self.n_samples, block=self.sample_block, key=key)
        else:
            terms = self.elbo(x, self.model.posterior(x), self.model.log_likelihood, key=key)
        return Ascent(terms.bound, terms)

    def own_state(self) -> dict[str, Tensor]:
        """The state of the bound's schedules."""
        return {} if self.elbo is None else self.elbo.state_dict()

    def count_step(self) -> None:
        """After each step of the optimizer: advance beta's schedule, on the device."""
        if self.elbo is not None:
            self.elbo.step()

    @property
    def current_beta(self) -> float:
        """The weight of the KL at the next step; waits for the device."""
        return 1.0 if self.elbo is None else self.elbo.current_beta.item()


class _ELBO(ELBO):
    """An ELBO whose free bits take their mean over the minibatch of all processes together."""

    processes: Processes | None = None

    def _mean_over_points(self, values: Tensor) -> Tensor:
        if self.processes is None:
            return super()._mean_over_points(values)
        total, count = self.processes.sum(torch.stack([values.nansum(0), (~values.isnan()).sum(0).to(values.dtype)]))
        mean: Tensor = total / count
        return mean
