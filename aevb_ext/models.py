"""The variational auto-encoder, and its networks from the paper."""

import torch
from torch import Tensor, nn

from . import functional as F
from .nn import Linear

__all__ = ["LIKELIHOODS", "VAE", "BernoulliDecoder", "GaussianDecoder", "mlp_vae"]


class BernoulliDecoder(nn.Module):
    r""":math:`p(x | z) = \prod_i \mathrm{Bernoulli}(x_i; \mathrm{sigmoid}(l_i(z)))` (appendix C.1).

    Args:
        net: ``z [*, latent]`` to logits ``[*, *event]``.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def log_prob(self, x: Tensor, z: Tensor, x_scale: float) -> Tensor:
        """log p(x | z): x ``[B, *event]``, z ``[*samples, B, latent]``; gives ``[*samples, B]``."""
        return F.bernoulli_log_prob(x, self.net(z), x_scale=x_scale)

    def mean(self, z: Tensor) -> Tensor:
        """E[x | z], ``[*, *event]``."""
        return self.net(z).sigmoid()

    def check_support(self, x: Tensor, x_scale: float, name: str) -> None:
        """Raise ValueError naming ``name`` unless all of ``x * x_scale`` is in [0, 1]."""
        low, high = (x.min().item() * x_scale, x.max().item() * x_scale) if x.numel() else (0.0, 1.0)
        # Written so that a NaN fails; 1e-6 for 255 * float(1 / 255) and its like.
        if not (low >= 0 and high <= 1 + 1e-6):
            raise ValueError(
                f"{name} * x_scale lies in [{low:.6g}, {high:.6g}], outside the support [0, 1] of the Bernoulli "
                f"likelihood (x_scale is {x_scale:.6g}; it should map the largest value to 1)"
            )


class GaussianDecoder(nn.Module):
    r""":math:`p(x | z) = N(x; \mathrm{sigmoid}(m(z)), \sigma^2(z) I)` (appendix C.2; the mean is squashed to (0, 1)).

    Args:
        net: ``z [*, latent]`` to packed ``[*, 2 * D]``: the mean before the sigmoid, then log sigma^2.
    """

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def log_prob(self, x: Tensor, z: Tensor, x_scale: float) -> Tensor:
        """log p(x | z): x ``[B, D]``, z ``[*samples, B, latent]``; gives ``[*samples, B]``."""
        mean, logvar = self.net(z).chunk(2, -1)
        return F.gaussian_log_prob(x, mean.sigmoid(), logvar, x_scale=x_scale)

    def mean(self, z: Tensor) -> Tensor:
        """E[x | z], ``[*, D]``."""
        return self.net(z).chunk(2, -1)[0].sigmoid()

    def check_support(self, x: Tensor, x_scale: float, name: str) -> None:
        """Raise ValueError naming ``name`` unless all of x is finite."""
        if not torch.isfinite(x).all():
            raise ValueError(f"{name} has values that are not finite; the Gaussian likelihood needs finite numbers")


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
        return self.encoder(x * self.x_scale).chunk(2, -1)

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
