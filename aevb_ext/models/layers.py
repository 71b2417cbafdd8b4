"""What the networks are made of: initial parameters, and the likelihoods that can be asked for by name."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from .._checks import check_name
from ..nn import BernoulliDecoder, GaussianDecoder
from ..nn.heads import Decoder

__all__ = [
    "LIKELIHOODS",
    "MEAN_ACTIVATIONS",
    "decoder_of",
    "glorot_uniform_",
    "he_normal_",
    "likelihood_config",
    "paper_normal_",
]


@torch.no_grad()
def paper_normal_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """All parameters from N(0, 0.01^2), as the paper does (section 5)."""
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
    r"""Weights from N(0, 2 / n), n being how many numbers each output is a sum over; biases 0.

    (He et al. 2015, arXiv 1502.01852, eq. 10: what a rectifier, which halves the second moment, keeps from vanishing
    or growing with depth.) A transposed convolution sums over 1 / stride^2 of its kernel at each output.
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


# The decoder of each likelihood, and how many numbers it needs for each number of x.
LIKELIHOODS: dict[str, tuple[type[BernoulliDecoder] | type[GaussianDecoder], int]] = {
    "bernoulli": (BernoulliDecoder, 1),
    "gaussian": (GaussianDecoder, 2),
}

# What a Gaussian's mean goes through last: the paper's sigmoid, for data in [0, 1], or nothing, for any.
MEAN_ACTIVATIONS = ("sigmoid", "identity")


def decoder_of(likelihood: str, mean_activation: str = "sigmoid") -> tuple[Callable[[nn.Module], Decoder], int]:
    """What makes the decoder of that likelihood of a network, and how many numbers it needs for each number of x.

    Raises:
        ValueError: there is no likelihood or no activation of that name, or the likelihood has no mean to leave as it
            is.
    """
    check_name("likelihood", likelihood, LIKELIHOODS)
    check_name("mean_activation", mean_activation, MEAN_ACTIVATIONS)
    decoder, numbers_per_x = LIKELIHOODS[likelihood]
    if mean_activation == "sigmoid":
        return decoder, numbers_per_x
    if decoder is not GaussianDecoder:
        raise ValueError(
            f'mean_activation "identity" is of the likelihood gaussian: the mean of {likelihood} is a probability'
        )
    return partial(decoder, sigmoid=False), numbers_per_x


def likelihood_config(likelihood: str, mean_activation: str) -> dict[str, str]:
    """What a model's config says of them; checkpoints from before there was an activation are of the sigmoid."""
    config = {"likelihood": likelihood}
    return config if mean_activation == "sigmoid" else {**config, "mean_activation": mean_activation}
