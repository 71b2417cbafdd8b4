"""The wake-sleep algorithm (Hinton, Dayan, Frey & Neal 1995), the paper's first comparison."""

from typing import Any

import torch
from torch import Tensor

from .. import functional as F
from ..configuration.choices import LEARNER_TRAITS
from ..distributions import Bernoulli, DiagonalGaussian
from ..models import VAE
from ..nn import ELBOTerms
from ..noise import rekeyed
from .learner import Ascent, Learner, Objective

__all__ = ["WakeSleep"]


class WakeSleep(Learner):
    """Each step makes a wake phase (for the decoder) and a sleep phase (for the encoder) from the same parameters.

    Args:
        model: the VAE to train, in place. Its decoder, called with z, gives a distribution of :mod:`aevb_ext`, as
            :class:`~aevb_ext.nn.BernoulliDecoder` and :class:`~aevb_ext.nn.GaussianDecoder` do.
        n_data: N.
        **options: those of every :class:`~aevb_ext.learners.learner.Learner`.

    Raises:
        ValueError: an unknown name, or a number out of range.
        TypeError: (at a step) the decoder gives something else.
    """

    TRAITS = LEARNER_TRAITS["wake-sleep"]

    def __init__(self, model: VAE, n_data: int, **options: Any):
        super().__init__(Phases(model), n_data, **options)


class Phases(Objective):
    r"""The objective of both phases (Hinton et al. 1995, "The wake-sleep algorithm for unsupervised neural networks").

    * Wake: :math:`\log p_\theta(x | z)` at :math:`z \sim q_\phi(z | x)`, in the decoder's parameters alone.
    * Sleep: :math:`\log q_\phi(z' | x')` at a dream, :math:`z' \sim p(z)` and then :math:`x' \sim p_\theta(x | z')`, in
      the encoder's alone. x' is a sample (bits, or mean plus noise), not the mean.

    There are as many dreams as data points. The bound (estimator B) at the wake phase's z is reported.
    """

    def forward(self, x: Tensor, key: Tensor | None = None) -> Ascent:
        """The sum of both phases for each data point and its dream."""
        model = self.model
        with torch.no_grad():
            mu, logvar = model.posterior(x)
            key = F.key_for(mu, key, None)
            z, kl = F.rsample_kl(mu, logvar, key=key)
            dreamt_z, dreamt_x = self._dream(mu, rekeyed(key, "dream"), rekeyed(key, "dream x"))
            if x.is_floating_point():
                dreamt_x = dreamt_x.to(x.dtype)
        wake = model.log_likelihood(x, z)
        mu, logvar = model.posterior(dreamt_x, x_scale=1.0)
        sleep = F.gaussian_log_prob(dreamt_z, mu, logvar)
        reconstruction = wake.detach()
        return Ascent(wake + sleep, ELBOTerms(reconstruction - kl, reconstruction, kl))

    def _dream(self, like: Tensor, key_z: Tensor, key_x: Tensor) -> tuple[Tensor, Tensor]:
        """z from the prior, of the shape of ``like``, and x from the decoder; bits as uint8."""
        zero = like.new_zeros(())
        z = F.rsample(zero.expand_as(like), zero, key=key_z)
        p = self.model.decoder(z)
        if not isinstance(p, Bernoulli | DiagonalGaussian):
            raise TypeError(
                "to dream, the decoder called with z must give a Bernoulli or DiagonalGaussian "
                f"(aevb_ext.distributions), got {type(p).__name__}"
            )
        return z, F.binarize(p.probs, key_x) if isinstance(p, Bernoulli) else p.sample(key=key_x)
