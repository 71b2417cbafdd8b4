"""The likelihoods that models can be asked for by name."""

from torch import nn

from ..nn import BernoulliDecoder, GaussianDecoder

__all__ = ["LIKELIHOODS", "check_sizes", "decoder_of"]

# The decoder of each likelihood, and how many numbers it needs for each number of x.
LIKELIHOODS = {"bernoulli": (BernoulliDecoder, 1), "gaussian": (GaussianDecoder, 2)}


def decoder_of(likelihood: str) -> tuple[type[nn.Module], int]:
    """The decoder of the likelihood of that name, and how many numbers it needs for each number of x.

    Raises:
        ValueError: there is none of that name.
    """
    if likelihood not in LIKELIHOODS:
        raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}")
    return LIKELIHOODS[likelihood]


def check_sizes(**sizes: int) -> None:
    """Raise ValueError naming the first of these that is not an integer of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"{name} must be an integer, at least 1, got {size!r}")
