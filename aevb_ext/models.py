"""The variational auto-encoder, and its networks from the paper."""

import torch
from torch import Tensor, nn

from . import functional as F
from .nn import BernoulliDecoder, GaussianDecoder, Linear

__all__ = ["LIKELIHOODS", "VAE", "BernoulliDecoder", "GaussianDecoder", "mlp_vae"]


class VAE(nn.Module):
    """A variational auto-encoder with a diagonal Gaussian posterior and the prior N(0, I).

    Args:
        encoder: ``x [B, *event]`` (scaled, floating) to packed ``[B, 2 * latent]``: mu, then log sigma^2. The halves
            go to the operators as they lie in memory, without a copy.
        decoder: a :class:`BernoulliDecoder`, a :class:`GaussianDecoder`, or a module with their methods.
        latent: how many dimensions z has.
        x_scale: what a value of x is multiplied by (1/255 for grey bytes).
        config: what :func:`mlp_vae` builds the model from again; None for a model made by hand.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, latent: int, x_scale: float = 1.0, config: dict | None = None
    ):
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.latent, self.x_scale, self.config = latent, x_scale, config

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(mu, logvar) of q(z | x), each ``[B, latent]``, for x ``[B, *event]`` as the data set has it (bytes too)."""
        device = x.device.type
        if not x.is_floating_point() and torch.is_autocast_enabled(device):
            # Bytes are exact in half precision: what the encoder would make of a float32 minibatch, without making one.
            x = x.to(torch.get_autocast_dtype(device))
        return F.halves(self.encoder(x * self.x_scale))

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor:
        """log p(x | z), ``[*samples, B]``, for x ``[B, *event]`` and z ``[*samples, B, latent]``."""
        return self.decoder.log_prob(x, z, self.x_scale)

    def reconstruct(self, x: Tensor) -> Tensor:
        """E[x | z] at the posterior's mean, in the scale where pixels are in [0, 1]."""
        return self.decoder.mean(self.posterior(x)[0])


# The decoder of each likelihood, and how many numbers it needs for each number of x.
LIKELIHOODS = {"bernoulli": (BernoulliDecoder, 1), "gaussian": (GaussianDecoder, 2)}


def mlp_vae(
    x_dim: int,
    *,
    latent: int,
    hidden: int,
    likelihood: str = "bernoulli",
    x_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> VAE:
    """The paper's model: one tanh hidden layer in the encoder and one in the decoder (appendix C).

    All parameters start as N(0, 0.01^2).

    Args:
        x_dim: how many numbers a data point is; x is ``[B, x_dim]``.
        latent, hidden: how many latent dimensions, how many hidden units.
        likelihood: ``"bernoulli"`` or ``"gaussian"``.
        x_scale: what a value of x is multiplied by (1/255 for grey bytes).
        generator: a CPU generator for the initial parameters. Default: PyTorch's.

    Raises:
        ValueError: a size is below 1, or the likelihood is unknown.
    """
    for name, size in (("x_dim", x_dim), ("latent", latent), ("hidden", hidden)):
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
    decoder, numbers_per_x = LIKELIHOODS[likelihood]
    config = {"x_dim": x_dim, "latent": latent, "hidden": hidden, "likelihood": likelihood, "x_scale": x_scale}
    model = VAE(
        _mlp(x_dim, hidden, 2 * latent),
        decoder(_mlp(latent, hidden, numbers_per_x * x_dim)),
        latent,
        x_scale,
        config,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.01, generator=generator)
    return model


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    # Tanh is in the first layer; what stands in its place keeps the names of the parameters.
    return nn.Sequential(Linear(inputs, hidden, tanh=True), nn.Identity(), Linear(hidden, outputs))
