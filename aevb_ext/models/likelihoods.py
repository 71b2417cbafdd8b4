"""The likelihoods that models can be asked for by name."""

from collections.abc import Callable
from functools import partial

from torch import nn

from ..nn import BernoulliDecoder, GaussianDecoder
from .checks import check_name

__all__ = ["LIKELIHOODS", "MEAN_ACTIVATIONS", "decoder_of", "likelihood_config"]

# The decoder of each likelihood, and how many numbers it needs for each number of x.
LIKELIHOODS = {"bernoulli": (BernoulliDecoder, 1), "gaussian": (GaussianDecoder, 2)}

# What a Gaussian's mean goes through last: the paper's sigmoid, for data in [0, 1], or nothing, for any.
MEAN_ACTIVATIONS = ("sigmoid", "identity")


def decoder_of(likelihood: str, mean_activation: str = "sigmoid") -> tuple[Callable[[nn.Module], nn.Module], int]:
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
