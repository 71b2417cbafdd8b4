"""The variational auto-encoder."""

from torch import Tensor, nn

from .. import functional as F
from ..distributions import DiagonalGaussian
from ..nn import BernoulliDecoder
from ..nn.heads import has_hooks, through
from ..nn.linear import Linear, scaled
from .checks import check_positive
from .uses import Uses

__all__ = ["VAE"]


class VAE(Uses, nn.Module):
    """A variational auto-encoder with a diagonal Gaussian posterior and the prior N(0, I).

    Once it has learnt: :meth:`generate`, :meth:`augment`, :meth:`encode`, :meth:`interpolate`, :meth:`manifold`,
    :meth:`anomaly_scores`.

    ``VAE(encoder, decoder)`` is all that modules of one's own need. Here with convolutions, for images that come as
    flat rows, as the data sets of :mod:`aevb_ext.data` do::

        encoder = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 32, 4, stride=2, padding=1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(32 * 14 * 14, 2 * 20),
        )
        decoder = nn.Sequential(nn.Linear(20, 500), nn.SiLU(), nn.Linear(500, 784))
        model = VAE(encoder, decoder, x_scale=1 / 255)

    Args:
        encoder: x ``[B, *event]`` (scaled, floating) to q(z | x): packed ``[B, 2 * latent]`` (mu, then log sigma^2; of
            feature maps ``[B, 2 * C, H, W]`` the channels are halved), a tuple ``(mu, logvar)``, or a
            :class:`~aevb_ext.distributions.DiagonalGaussian`, as a :class:`~aevb_ext.nn.GaussianPosterior` gives it.
            Packed halves go to the operators as they lie in memory, without a copy.
        decoder: p(x | z): a :class:`~aevb_ext.nn.BernoulliDecoder`, a :class:`~aevb_ext.nn.GaussianDecoder`, or a
            module with their methods. Any other module is one from z ``[N, latent]`` to the *logits* of Bernoulli
            pixels ``[N, *event]``, without a sigmoid at its end, and becomes a BernoulliDecoder.
        latent: how many dimensions z has. None: it is known once :meth:`posterior` has seen data.
        x_scale: what a value of x is multiplied by (1/255 for grey bytes).
        config: what :func:`~aevb_ext.models.make_model` builds the model from again; None for a model made by hand.

    Raises:
        ValueError: x_scale is no positive number.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent: int | None = None,
        x_scale: float = 1.0,
        config: dict | None = None,
    ):
        super().__init__()
        check_positive("x_scale", x_scale)
        self.encoder = encoder
        self.decoder = decoder if hasattr(decoder, "log_prob") else BernoulliDecoder(decoder)
        self._latent, self.x_scale, self.config = latent, x_scale, config

    @property
    def latent(self) -> int:
        """How many dimensions z has.

        Raises:
            RuntimeError: nobody said, and :meth:`posterior` has not seen data yet.
        """
        if self._latent is None:
            raise RuntimeError(
                "latent is not known yet: say VAE(encoder, decoder, latent=...), or call posterior(x) once"
            )
        return self._latent

    def posterior(self, x: Tensor, x_scale: float | None = None) -> tuple[Tensor, Tensor]:
        """(mu, logvar) of q(z | x), each ``[B, *latent]``, for x ``[B, *event]`` as the data set has it (bytes too).

        Args:
            x: the data points.
            x_scale: what a value of this x is multiplied by. None: the model's.

        Raises:
            TypeError: the encoder gave neither a tensor, nor two, nor a DiagonalGaussian.
            ValueError: the channels of its packed output cannot be halved.
        """
        mu, logvar = mu_logvar(self._encoded(x, self.x_scale if x_scale is None else x_scale))
        if self._latent is None:
            self._latent = mu[0].numel()
        return mu, logvar

    def _encoded(self, x: Tensor, x_scale: float):
        """The encoder's output. A first layer that takes bytes is given bytes; floats come in the model's dtype."""
        if x.is_floating_point() and (parameter := next(self.parameters(), None)) is not None:
            x = x.to(parameter.dtype)
        if type(self.encoder) is nn.Sequential and len(self.encoder) and not has_hooks(self.encoder):
            first, *rest = self.encoder
            if type(first) is Linear:
                return through(rest, first(x, x_scale))
        return self.encoder(scaled(x, x_scale))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), ``[*samples, B]``, for x ``[B, *event]`` and z ``[*samples, B, latent]``."""
        return self.decoder.log_prob(x, z, self.x_scale)

    def reconstruct(self, x: Tensor) -> Tensor:
        """E[x | z] at the posterior's mean, in the scale where pixels are in [0, 1]."""
        return self.decoder.mean(self.posterior(x)[0])


def mu_logvar(q) -> tuple[Tensor, Tensor]:
    """(mu, logvar) of what an encoder may give.

    Raises:
        TypeError, ValueError: as :meth:`VAE.posterior` says.
    """
    match q:
        case Tensor():
            return F.halves(q, 1)
        case (Tensor() as mu, Tensor() as logvar):
            return mu, logvar
        case DiagonalGaussian():
            return q.mu, q.scale_param if q.spread == "logvar" else q.logvar
    raise TypeError(
        f"the encoder must give packed [B, 2 * latent], (mu, logvar) or a DiagonalGaussian, got {type(q).__name__}"
    )
