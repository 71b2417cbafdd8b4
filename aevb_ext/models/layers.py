"""Initialisation of parameters, and the likelihoods by name."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from .._checks import check_name
from ..configuration.choices import MEAN_ACTIVATIONS
from ..nn import BernoulliDecoder, GaussianDecoder
from ..nn.heads import Decoder

__all__ = [
    "LIKELIHOODS",
    "decoder_of",
    "glorot_uniform_",
    "he_normal_",
    "likelihood_config",
    "paper_normal_",
]


@torch.no_grad()
def paper_normal_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """All parameters from N(0, 0.01^2), as in the paper (section 5)."""
    for parameter in model.parameters():
        parameter.normal_(0, 0.01, generator=generator)


def glorot_uniform_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    r"""Weights of linear layers from U(-a, a), a^2 = 6 / (inputs + outputs); biases 0.

    (Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", eq. 16.)
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def he_normal_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    r"""Weights from N(0, 2 / n), where n is the fan-in, the number of terms of each output; biases 0.

    (He et al. 2015, arXiv 1502.01852, eq. 10. A rectifier halves the second moment; this variance keeps activations
    from vanishing or growing with depth.) The fan-in of a transposed convolution is 1 / stride^2 of its kernel.
    """
    for layer in model.modules():
        match layer:
            case nn.Linear() | nn.Conv2d():
                n: float = layer.weight[0].numel()
            case nn.ConvTranspose2d():
                n = layer.weight[:, 0].numel() / (layer.stride[0] * layer.stride[1])
            case _:
                continue
        layer.weight.normal_(0, (2 / n) ** 0.5, generator=generator)
        if layer.bias is not None:
            layer.bias.zero_()


# The decoder of each likelihood, and the number of its parameters for each element of x.
LIKELIHOODS: dict[str, tuple[type[BernoulliDecoder] | type[GaussianDecoder], int]] = {
    "bernoulli": (BernoulliDecoder, 1),
    "gaussian": (GaussianDecoder, 2),
}


def decoder_of(likelihood: str, mean_activation: str = "sigmoid") -> tuple[Callable[[nn.Module], Decoder], int]:
    """A function from a network to the decoder of that likelihood, and the network's outputs per element of x.

    Raises:
        ValueError: an unknown likelihood or activation, or "identity" with a likelihood other than the Gaussian.
    """
    check_name("likelihood", likelihood, LIKELIHOODS)
    check_name("mean_activation", mean_activation, MEAN_ACTIVATIONS)
    decoder, numbers_per_x = LIKELIHOODS[likelihood]
    if mean_activation == "sigmoid":
        return decoder, numbers_per_x
    if decoder is not GaussianDecoder:
        raise ValueError(
            f'mean_activation "identity" needs likelihood gaussian: the mean of {likelihood} is a probability'
        )
    return partial(decoder, sigmoid=False), numbers_per_x


def likelihood_config(likelihood: str, mean_activation: str) -> dict[str, str]:
    """These options in a model's config. The sigmoid is left out: older checkpoints do not have the key."""
    config = {"likelihood": likelihood}
    return config if mean_activation == "sigmoid" else {**config, "mean_activation": mean_activation}
