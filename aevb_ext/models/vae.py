"""The variational auto-encoder."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .. import functional as F
from .._checks import check_positive, check_sizes
from .._library import KERNELS
from ..data import Rows, chunks
from ..distributions import DiagonalGaussian
from ..nn import BernoulliDecoder
from ..nn.heads import Decoder, has_hooks, through
from ..nn.linear import Linear, scaled
from ..noise import keys_at, rekeyed
from .bound import bound_values

__all__ = ["VAE"]

# Data points that are encoded at a time.
_ENCODED = 1000
# With more numbers in x the calls cost nothing beside the arithmetic.
_FEW = 2**20


class VAE(nn.Module):
    """A variational auto-encoder with a diagonal Gaussian posterior and the prior N(0, I).

    A trained model can :meth:`generate`, :meth:`augment`, :meth:`encode`, :meth:`interpolate`, :meth:`manifold` and
    compute :meth:`anomaly_scores`, all without gradients. The pixels that it returns are on the model's scale,
    ``x * x_scale``, on which images are in [0, 1]. Call ``model.eval()`` first if the model has dropout.

    Your own modules need no more than ``VAE(encoder, decoder)``. An example with convolutions, for images as flat rows
    like those of the datasets of :mod:`aevb_ext.data`::

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
            Packed halves are not copied.
        decoder: p(x | z): a :class:`~aevb_ext.nn.BernoulliDecoder`, a :class:`~aevb_ext.nn.GaussianDecoder`, another
            decoder of :mod:`aevb_ext.nn`, or a module with their methods. Any other module is wrapped in a
            BernoulliDecoder: it maps z ``[N, latent]`` to the *logits* of Bernoulli pixels ``[N, *event]``, without a
            sigmoid at its end.
        latent: the number of dimensions of z. None: it is known after the first call of :meth:`posterior`.
        x_scale: what a value of x is multiplied by (1/255 for grey bytes).
        config: arguments with which :func:`~aevb_ext.models.make_model` builds the model again; None for a model that
            it did not make.

    Raises:
        ValueError: x_scale is not a positive number.
    """

    encoder: nn.Module
    decoder: Decoder

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        latent: int | None = None,
        x_scale: float = 1.0,
        config: dict[str, Any] | None = None,
    ):
        super().__init__()
        check_positive("x_scale", x_scale)
        self.encoder = encoder
        given = decoder if hasattr(decoder, "log_prob") else BernoulliDecoder(decoder)
        self.decoder = given  # type: ignore[assignment]  # any module with the methods of a Decoder
        self._latent, self.x_scale, self.config = latent, x_scale, config

    @property
    def latent(self) -> int:
        """The number of dimensions of z.

        Raises:
            RuntimeError: it was not given, and :meth:`posterior` has not been called yet.
        """
        if self._latent is None:
            raise RuntimeError(
                "latent is not known yet: say VAE(encoder, decoder, latent=...), or call posterior(x) once"
            )
        return self._latent

    def posterior(self, x: Tensor, x_scale: float | None = None) -> tuple[Tensor, Tensor]:
        """(mu, logvar) of q(z | x), each ``[B, *latent]``, for x ``[B, *event]`` as stored in the dataset (or bytes).

        Args:
            x: the data points.
            x_scale: what a value of this x is multiplied by. None: the model's.

        Raises:
            TypeError: the encoder returned neither a tensor, nor two, nor a DiagonalGaussian.
            ValueError: the channels of its packed output cannot be halved.
        """
        mu, logvar = mu_logvar(self._encoded(x, self.x_scale if x_scale is None else x_scale))
        if self._latent is None:
            self._latent = mu[0].numel()
        return mu, logvar

    def _encoded(self, x: Tensor, x_scale: float) -> Any:
        """The encoder's output. Its first layer gets bytes if it accepts them, else floats of the model's dtype."""
        if x.is_floating_point() and (parameter := next(self.parameters(), None)) is not None:
            x = x.to(parameter.dtype)
        if type(self.encoder) is nn.Sequential and len(self.encoder) and not has_hooks(self.encoder):
            first, *rest = self.encoder
            if type(first) is Linear:
                return through(rest, first(x, x_scale))
        dtype = next((p.dtype for p in self.parameters()), torch.float32)
        return self.encoder(scaled(x, x_scale, dtype))

    def _mlp_parameters(self, x: Tensor) -> list[Tensor] | None:
        """The weights and biases of the paper's model for Bernoulli data, if this is it; None if it is another.

        None as well where a hook is to see a module's inputs or outputs, and for data that its layers do not take as
        they are.
        """
        # Their attributes by nn.Module's own dicts: a step of a small minibatch waits for its __getattr__.
        encoder, decoder = self._modules.get("encoder"), self._modules.get("decoder")
        if not KERNELS or type(self) is not VAE or type(decoder) is not BernoulliDecoder or x.device.type != "cpu":
            return None
        if x.dtype not in (torch.uint8, torch.bool, torch.float32) or x.dim() != 2 or x.numel() >= _FEW:
            return None
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return None
        parameters: list[Tensor] = []
        for net in (encoder, decoder._modules.get("net")):
            if type(net) is not nn.Sequential or len(net._modules) != 3 or has_hooks(net):
                return None
            first, between, last = modules = tuple(net._modules.values())
            if type(first) is not Linear or type(between) is not nn.Identity or type(last) is not Linear:
                return None
            if not first.tanh or last.tanh or any(map(has_hooks, modules)):
                return None
            for layer in (first, last):
                weight, bias = layer._parameters["weight"], layer._parameters["bias"]
                if weight is None or bias is None:
                    return None
                parameters += (weight, bias)
        if has_hooks(decoder) or any(p.dtype != torch.float32 for p in parameters):
            return None
        return parameters

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), ``[*samples, B]``, for x ``[B, *event]`` and z ``[*samples, B, latent]``."""
        return self.decoder.log_prob(x, z, self.x_scale)

    def reconstruct(self, x: Tensor) -> Tensor:
        """E[x | z] at the posterior's mean, on the scale where pixels are in [0, 1]."""
        return self.decoder.mean(self.posterior(x)[0])

    @torch.no_grad()
    def generate(
        self, n: int, *, sampled: bool = False, key: Tensor | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Generate data points: z from the prior N(0, I), then x from p(x | z).

        Args:
            n: the number of data points.
            sampled: draw x from p(x | z), which is the model's distribution of data; otherwise x is the mean E[x | z],
                as in most figures.
            key, generator: where the noise comes from, as in :func:`aevb_ext.rsample`. With a key for each data point,
                ``[n, 2]``, a data point does not depend on ``n``.

        Returns:
            ``[n, *event]``, of the model's dtype, on its device.

        Raises:
            ValueError: n is not an integer of at least 1; the key does not fit.
            RuntimeError: the model does not know :attr:`latent` yet.
        """
        check_sizes(n=n)
        zero = self._zeros()
        mu = zero.expand(n, self.latent)
        key = F.key_for(mu, key, generator)
        z = F.rsample(mu, zero, key=key)
        return self.decoder(z).sample(key=rekeyed(key, "pixels")) if sampled else self.decoder.mean(z)

    @torch.no_grad()
    def augment(
        self,
        x: Tensor,
        *,
        n_samples: int | None = None,
        temperature: float = 1.0,
        key: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        r"""Variants of data points: encoded, perturbed, decoded.

        .. math:: E[x | z], \quad z \sim N(\mu(x), \tau^2 \sigma^2(x))

        Args:
            x: ``[B, *event]``, as stored in the dataset (or bytes).
            n_samples: variants of each data point, in a new leading dimension; None: one, without that dimension.
            temperature: tau, the factor of the posterior's standard deviation: 0 gives reconstructions, 1 samples of
                the posterior, and more than 1 larger variations.
            key, generator: where the noise comes from, as in :func:`aevb_ext.rsample`.

        Returns:
            ``[B, *event]``, or ``[n_samples, B, *event]``.

        Raises:
            ValueError: temperature is negative or not finite; n_samples or the key does not fit.
        """
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature must be a finite number, at least 0, got {temperature}")
        mu, logvar = self.posterior(x)
        std = temperature * (logvar / 2).exp()
        return self.decoder.mean(F.rsample(mu, std, n_samples=n_samples, key=key, generator=generator, spread="std"))

    @torch.no_grad()
    def encode(
        self, x: Tensor | Rows, *, seed: int = 0, progress: Callable[[int], None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The latent representation of a dataset: (mu, logvar) of q(z | x), a thousand data points at a time.

        Only the result takes memory that grows with the dataset, even if the data stays in files.

        Args:
            x: ``[N, *event]``, or :class:`~aevb_ext.data.Rows`, ``N >= 1``.
            seed: of rows that draw.
            progress: called repeatedly with the number of data points done.

        Returns:
            Each ``[N, *latent]``, of the model's dtype, on the CPU.

        Raises:
            ValueError: no data.
        """
        if len(x) == 0:
            raise ValueError("x must have at least one data point, got none")
        device = next((p.device for p in self.parameters()), None)
        parts, done = [], 0
        for batch in chunks(x, _ENCODED, device, lambda index: keys_at(seed, "evaluation binarize", index)):
            parts.append([half.cpu() for half in self.posterior(batch)])
            done += len(batch)
            if progress is not None:
                progress(done)
        mu, logvar = (torch.cat(halves) for halves in zip(*parts, strict=True))
        return mu, logvar

    @torch.no_grad()
    def interpolate(self, x: Tensor, y: Tensor, steps: int = 8) -> Tensor:
        """Interpolate between data points: E[x | z] along the straight line between the posterior means.

        Args:
            x, y: ``[B, *event]``, the data points to interpolate between.
            steps: the number of evenly spaced points on the line, both ends included: at least 2.

        Returns:
            ``[steps, B, *event]``, from the reconstructions of x to those of y.

        Raises:
            ValueError: steps is not an integer of at least 2; x and y differ in shape.
        """
        if not isinstance(steps, int) or steps < 2:
            raise ValueError(f"steps must be an integer, at least 2, got {steps!r}")
        if x.shape != y.shape:
            raise ValueError(f"x and y must be of one shape, got {list(x.shape)} and {list(y.shape)}")
        begin, end = self.posterior(x)[0], self.posterior(y)[0]
        weight = torch.linspace(0, 1, steps, dtype=begin.dtype, device=begin.device)
        return self.decoder.mean(torch.lerp(begin, end, weight.reshape(-1, *(1,) * begin.dim())))

    @torch.no_grad()
    def manifold(self, side: int = 20, dims: tuple[int, int] | None = None) -> Tensor:
        """A plane through latent space: the unit square through the inverse Gaussian CDF, decoded (appendix A, Fig. 4).

        Args:
            side: points along each side of the square.
            dims: the two latent dimensions that vary, the first to the right, the second upwards; the others are 0,
                their mean under the prior. None: both dimensions of a two-dimensional z.

        Returns:
            ``[side * side, *event]``, E[x | z] row by row from the upper left.

        Raises:
            ValueError: side is not an integer of at least 1; dims are not two different dimensions of z, or are missing
                although z does not have two dimensions.
        """
        check_sizes(side=side)
        dims = self._two_dims(dims)
        ticks = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side)
        z = self._zeros(side * side, self.latent)
        z[:, list(dims)] = torch.cartesian_prod(ticks.flip(0), ticks).flip(1).to(z)
        return self.decoder.mean(z)

    def _zeros(self, *shape: int) -> Tensor:
        """Zeros of the model's dtype on its device; a user's model may have no parameters."""
        return next(self.parameters(), torch.empty(0)).new_zeros(shape)

    def _two_dims(self, dims: tuple[int, int] | None) -> tuple[int, int]:
        if dims is None:
            if self.latent != 2:
                raise ValueError(
                    f"dims: a picture of latent space has two dimensions, and z has {self.latent}: say which two "
                    f"(from 0 to {self.latent - 1})"
                    if self.latent > 2
                    else "dims: a picture of latent space has two dimensions, and z has one"
                )
            return 0, 1
        if len(dims) != 2 or dims[0] == dims[1] or not all(0 <= d < self.latent for d in dims):
            raise ValueError(f"dims must be two different dimensions from 0 to {self.latent - 1}, got {tuple(dims)}")
        return dims[0], dims[1]

    def anomaly_scores(
        self,
        x: Tensor | Rows,
        *,
        estimator: str = "b",
        n_samples: int = 1,
        seed: int = 0,
        progress: Callable[[int], None] | None = None,
    ) -> Tensor:
        """The anomaly score of each data point: minus its bound, in nats. The higher, the more anomalous.

        The noise of a data point depends on ``seed`` and its index alone. Memory grows neither with the number of data
        points nor with the samples of each.

        Args:
            x: ``[N, *event]``, or :class:`~aevb_ext.data.Rows`, ``N >= 1``.
            estimator, n_samples, seed, progress: as in :func:`~aevb_ext.estimators.evaluate_bound`; ``"iwae"`` with
                many samples is close to ``-log p(x)``.

        Returns:
            float64 ``[N]`` on the model's device.

        Raises:
            ValueError: an unknown estimator, ``n_samples < 1`` or no data.
        """
        return -bound_values(self, x, estimator=estimator, n_samples=n_samples, seed=seed, progress=progress)


def mu_logvar(q: object) -> tuple[Tensor, Tensor]:
    """(mu, logvar) from any form of an encoder's output.

    Raises:
        TypeError, ValueError: as in :meth:`VAE.posterior`.
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
