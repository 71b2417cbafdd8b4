"""Full variational Bayes: a posterior over the generative parameters too (appendix F, Algorithm 2)."""

import math
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .. import functional as F
from ..configuration.choices import LEARNER_TRAITS
from ..models import VAE
from ..nn import ELBOTerms
from ..noise import keys_at
from .aevb import Bounds
from .learner import Ascent, Learner, Objective

__all__ = ["FullVB", "ParameterPosterior"]

# The initial standard deviation of q(theta): that of the paper's initial parameters (section 5).
_SPREAD = 0.01


class FullVB(Learner):
    """Minibatch ascent of the bound on log p(X), with a posterior q over the decoder's parameters as well as over z.

    The decoder's own parameters are the means of q: evaluations, pictures and checkpoints use the model at these means.
    The variational parameters, including the encoder's, have no prior.

    Args:
        model: the VAE to train, in place.
        n_data: N.
        estimator, n_samples: of the data points' bounds, as in :class:`~aevb_ext.learners.aevb.Bounds`.
        seed: of the draws of theta.
        **options: those of every :class:`~aevb_ext.learners.learner.Learner`.

    Raises:
        ValueError: an unknown name, or a number out of range; the decoder has no parameters to learn.
    """

    TRAITS = LEARNER_TRAITS["full-vb"]

    def __init__(
        self, model: VAE, n_data: int, *, estimator: str = "b", n_samples: int = 1, seed: int = 0, **options: Any
    ):
        super().__init__(ParameterPosterior(model, n_data, estimator, n_samples, seed=seed), n_data, **options)


class ParameterPosterior(Objective):
    r""":math:`q(\theta) = N(\mu_\theta, \mathrm{diag}(\sigma_\theta^2))`, and the bound of the data under it.

    One theta is drawn for all of a minibatch, reparameterised, and for each data point (appendix F, eq. 24, times M/N
    when summed over the minibatch)

    .. math:: L(x; \theta) - \tfrac1N D_{KL}(q(\theta) \| N(0, I)), \quad \theta = \mu_\theta + \sigma_\theta \zeta

    is maximised, where L is the bound of x with these parameters. L is reported as the bound.

    Args:
        model: the VAE; its decoder's parameters are :math:`\mu_\theta`.
        n_data: N.
        estimator, n_samples: of L.
        seed: of the draws of theta, which depend on the seed and the number of steps alone.

    Attributes:
        logvar: :math:`\log \sigma_\theta^2` of each of the decoder's parameters, of its shape; the initial variance is
            0.01^2.
        steps: int64, the number of updates so far, on the device.
    """

    has_prior = False

    steps: Tensor

    def __init__(self, model: VAE, n_data: int, estimator: str = "b", n_samples: int = 1, *, seed: int = 0):
        super().__init__(model)
        self.bounds, self.n_data, self.seed = Bounds(model, estimator, n_samples), n_data, seed
        means = {name: p for name, p in model.decoder.named_parameters() if p.requires_grad}
        if not means:
            raise ValueError("model's decoder has no parameters to learn (none has requires_grad=True)")
        self._names = list(means)
        self.logvar = nn.ParameterList(torch.full_like(p, 2 * math.log(_SPREAD)) for p in means.values())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor, key: Tensor | None = None) -> Ascent:
        """The objective of x under this step's theta."""
        theta, divergence = self.draw(self.steps)
        named = {f"model.decoder.{name}": t for name, t in zip(self._names, theta, strict=True)}
        terms = functional_call(self.bounds, named, (x, key)).terms
        told = ELBOTerms(*(t.detach() for t in terms))
        return Ascent(terms.bound - divergence / self.n_data, told)

    def draw(self, number: Tensor) -> tuple[list[Tensor], Tensor]:
        """Draw theta for step ``number``: tensors like the decoder's parameters, and KL(q || p) of theta in nats.

        Args:
            number: int64 scalar, on the model's device.
        """
        count = len(self.logvar)
        keys = keys_at(self.seed, "theta", number * count + torch.arange(count, device=number.device))
        theta, divergences = [], []
        for mu, logvar, key in zip(self.means, self.logvar, keys, strict=True):
            # The operators need one dimension at least: a scalar parameter becomes one row.
            rows = torch.atleast_1d(mu), torch.atleast_1d(logvar)
            drawn, kl = F.rsample_kl(*rows, key=key, reduction="sum")
            theta.append(drawn.view_as(mu))
            divergences.append(kl)
        return theta, reduce(torch.add, divergences)

    @property
    def means(self) -> list[Tensor]:
        """The parameters of the decoder that have a posterior; they are its means."""
        named = dict(self.model.decoder.named_parameters())
        return [named[name] for name in self._names]

    def own_state(self) -> dict[str, Tensor]:
        """``logvar`` and the step count."""
        return {name: t for name, t in self.state_dict().items() if name.startswith(("logvar.", "steps"))}

    def count_step(self) -> None:
        """Advance to the next draw of theta."""
        self.steps += 1
