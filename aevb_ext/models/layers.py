"""Initialisation of parameters, and the likelihoods by name."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .._checks import check_name, check_sizes
from ..configuration.choices import COUNT_LIKELIHOODS, MEAN_ACTIVATIONS, likelihood_name
from ..nn import (
    BernoulliDecoder,
    CategoricalDecoder,
    ContinuousBernoulliDecoder,
    DiscretizedLogisticDecoder,
    GaussianDecoder,
    LaplaceDecoder,
    NegativeBinomialDecoder,
    PoissonDecoder,
    StudentTDecoder,
    ZeroInflatedNegativeBinomialDecoder,
)
from ..nn.decoders import LocationDecoder
from ..nn.heads import Decoder

__all__ = [
    "LIKELIHOODS",
    "decoder_of",
    "encoder_of",
    "glorot_uniform_",
    "he_normal_",
    "likelihood_config",
    "paper_normal_",
]


@torch.no_grad()
def paper_normal_(model: nn.Module, generator: torch.Generator | None = None) -> None:
    """All parameters from N(0, 0.01^2), as in the paper (section 5).

    What a decoder has beside its network (a dispersion, degrees of freedom) keeps its own initial value.
    """
    of_decoders = [p for each in model.modules() if isinstance(each, Decoder) for p in each.parameters(recurse=False)]
    for parameter in model.parameters():
        if not any(parameter is other for other in of_decoders):
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


# The decoder of each likelihood, and the number of its parameters for each element of x (of categorical: and class).
LIKELIHOODS: dict[str, tuple[type[Decoder], int]] = {
    "bernoulli": (BernoulliDecoder, 1),
    "gaussian": (GaussianDecoder, 2),
    "poisson": (PoissonDecoder, 1),
    "negative_binomial": (NegativeBinomialDecoder, 1),
    "zero_inflated_negative_binomial": (ZeroInflatedNegativeBinomialDecoder, 2),
    "laplace": (LaplaceDecoder, 2),
    "student_t": (StudentTDecoder, 2),
    "continuous_bernoulli": (ContinuousBernoulliDecoder, 1),
    "categorical": (CategoricalDecoder, 1),
    "discretized_logistic": (DiscretizedLogisticDecoder, 2),
}


def decoder_of(
    likelihood: str,
    mean_activation: str = "sigmoid",
    *,
    x_dim: int,
    library_size: float | None = None,
    classes: int | None = None,
) -> tuple[Callable[[nn.Module], Decoder], int]:
    """A function from a network to the decoder of that likelihood, and the network's outputs per element of x.

    Raises:
        ValueError: an unknown likelihood or activation, or an option that the likelihood does not have, or one that it
            needs.
    """
    likelihood = likelihood_name(likelihood)
    check_name("likelihood", likelihood, LIKELIHOODS)
    check_name("mean_activation", mean_activation, MEAN_ACTIVATIONS)
    decoder, numbers_per_x = LIKELIHOODS[likelihood]
    options: dict[str, Any] = {}
    if mean_activation != "sigmoid":
        if not issubclass(decoder, GaussianDecoder | LocationDecoder):
            raise ValueError(
                'mean_activation "identity" needs likelihood gaussian, or another with a location: the mean of '
                f"{likelihood} is {'a probability' if decoder is BernoulliDecoder else 'not any real number'}"
            )
        options["sigmoid"] = False
    if library_size is not None:
        if likelihood not in COUNT_LIKELIHOODS:
            raise ValueError(
                f"library_size needs a likelihood of counts ({', '.join(COUNT_LIKELIHOODS)}), got {likelihood}"
            )
        options["library_size"] = library_size
    if issubclass(decoder, NegativeBinomialDecoder):
        options["log_dispersion"] = torch.zeros(x_dim)
    if decoder is CategoricalDecoder:
        if classes is None:
            raise ValueError("classes is needed by likelihood categorical: how many classes there are, got None")
        check_sizes(classes=classes)
        options["classes"] = numbers_per_x = classes
    elif classes is not None:
        raise ValueError(f"classes needs likelihood categorical, got {likelihood}")
    return (partial(decoder, **options) if options else decoder), numbers_per_x


def encoder_of(net: nn.Sequential, likelihood: str, classes: int | None) -> nn.Sequential:
    """The encoder's network, which sees counts as log(1 + x), and classes as numbers from 0 to 1."""
    likelihood = likelihood_name(likelihood)
    if likelihood in COUNT_LIKELIHOODS:
        return nn.Sequential(Log1p(), *net)
    if likelihood == "categorical" and classes is not None:
        return nn.Sequential(Divided(max(1, classes - 1)), *net)
    return net


class Log1p(nn.Module):
    """log(1 + x), which brings counts of any size to the scale of a network's input."""

    def forward(self, x: Tensor) -> Tensor:
        """Of each element."""
        return x.log1p()


class Divided(nn.Module):
    """x / divisor."""

    def __init__(self, divisor: float):
        super().__init__()
        self.divisor = divisor

    def forward(self, x: Tensor) -> Tensor:
        """Of each element."""
        return x / self.divisor

    def extra_repr(self) -> str:
        return f"{self.divisor}"


def likelihood_config(
    likelihood: str, mean_activation: str, library_size: float | None, classes: int | None
) -> dict[str, Any]:
    """These options in a model's config. Defaults are left out: older checkpoints do not have the keys."""
    config: dict[str, Any] = {"likelihood": likelihood_name(likelihood)}
    if mean_activation != "sigmoid":
        config["mean_activation"] = mean_activation
    if library_size is not None:
        config["library_size"] = float(library_size)
    if classes is not None:
        config["classes"] = classes
    return config
