"""Fully connected networks: the paper's, and deeper ones."""

import torch
from torch import nn

from .._checks import check_name, check_positive, check_sizes
from ..nn import Linear
from ..nn.linear import MeanLogvar
from .layers import decoder_of, encoder_of, glorot_uniform_, he_normal_, likelihood_config, paper_normal_
from .vae import VAE

__all__ = ["ACTIVATIONS", "deep_mlp_vae", "mlp_vae"]

# The activations of a deep network, with the initialisation that keeps each from vanishing or growing with depth.
ACTIVATIONS = {"silu": he_normal_, "tanh": glorot_uniform_}


def mlp_vae(
    x_dim: int,
    *,
    latent: int,
    hidden: int,
    likelihood: str = "bernoulli",
    mean_activation: str = "sigmoid",
    library_size: float | None = None,
    classes: int | None = None,
    logvar_scale: float = 1.0,
    x_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> VAE:
    """The paper's model: one tanh hidden layer in the encoder and one in the decoder (appendix C).

    All parameters start as N(0, 0.01^2).

    Args:
        x_dim: the dimension of a data point; x is ``[B, x_dim]``.
        latent, hidden: the number of latent dimensions, and of hidden units.
        likelihood: one of :data:`~aevb_ext.models.LIKELIHOODS`: ``"bernoulli"``, ``"continuous_bernoulli"`` or
            ``"discretized_logistic"`` (bytes) for data in [0, 1]; ``"gaussian"``, ``"laplace"`` or ``"student_t"``;
            ``"poisson"``, ``"negative_binomial"`` (``"nb"``) or ``"zero_inflated_negative_binomial"`` (``"zinb"``) for
            counts, which the encoder sees as log(1 + x); ``"categorical"`` for classes.
        mean_activation: the activation of the mean of a Gaussian decoder, or of another with a location: ``"sigmoid"``
            as in the paper, for data in [0, 1], or ``"identity"`` for data of any range (learnt fastest if centred at 0
            with a standard deviation near 1).
        library_size: of a likelihood of counts, as in :class:`~aevb_ext.nn.PoissonDecoder`: the mean sum of a data
            point, if the decoder is to give proportions; None: it gives the means themselves.
        classes: of ``"categorical"``: how many there are.
        logvar_scale: factor of the weights of each log sigma^2, in the encoder and in a Gaussian decoder. With 0.1
            these outputs follow steps of Adagrad and Adam a tenth as fast. The code that the paper's first author
            published for Wake-Sleep has 0.1 in its encoder.
        x_scale: what a value of x is multiplied by (1/255 for grey bytes).
        generator: a CPU generator for the initial parameters. Default: PyTorch's.

    Raises:
        ValueError: a size is below 1, logvar_scale is not a positive number, or the likelihood or its activation is
            unknown.
    """
    check_sizes(x_dim=x_dim, latent=latent, hidden=hidden)
    check_positive("logvar_scale", logvar_scale)
    decoder, numbers_per_x = decoder_of(
        likelihood, mean_activation, x_dim=x_dim, library_size=library_size, classes=classes
    )
    gives_logvar = likelihood == "gaussian"
    model = VAE(
        encoder_of(_tanh_mlp(x_dim, hidden, 2 * latent, logvar_scale), likelihood, classes),
        decoder(_tanh_mlp(latent, hidden, numbers_per_x * x_dim, logvar_scale if gives_logvar else 1.0)),
        latent,
        x_scale,
        {
            "architecture": "mlp",
            "x_dim": x_dim,
            "latent": latent,
            "hidden": hidden,
            **likelihood_config(likelihood, mean_activation, library_size, classes),
            "x_scale": x_scale,
            # Left out if 1, so that runs from before this option can be resumed.
            **({} if logvar_scale == 1 else {"logvar_scale": logvar_scale}),
        },
    )
    paper_normal_(model, generator)
    return model


def deep_mlp_vae(
    x_dim: int,
    *,
    latent: int,
    hidden: int = 500,
    depth: int = 3,
    activation: str = "silu",
    likelihood: str = "bernoulli",
    mean_activation: str = "sigmoid",
    library_size: float | None = None,
    classes: int | None = None,
    x_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> VAE:
    """``depth`` hidden layers in the encoder and as many in the decoder.

    With two tanh layers of 200 units and 50 latent dimensions it is the network of Burda et al. 2016 (arXiv 1509.00519,
    section 5) with one stochastic layer.

    Args:
        x_dim, latent, likelihood, mean_activation, library_size, classes, x_scale, generator: as in :func:`mlp_vae`.
        hidden: the number of units of each hidden layer.
        depth: the number of hidden layers.
        activation: ``"silu"``, with weights initialised as by He et al. (:func:`~aevb_ext.models.layers.he_normal_`),
            or ``"tanh"``, with weights initialised as by Glorot and Bengio
            (:func:`~aevb_ext.models.layers.glorot_uniform_`). Biases start at 0.

    Raises:
        ValueError: a size is below 1, or the likelihood or an activation is unknown.
    """
    check_sizes(x_dim=x_dim, latent=latent, hidden=hidden, depth=depth)
    check_name("activation", activation, ACTIVATIONS)
    decoder, numbers_per_x = decoder_of(
        likelihood, mean_activation, x_dim=x_dim, library_size=library_size, classes=classes
    )
    model = VAE(
        encoder_of(_deep_mlp(x_dim, hidden, depth, 2 * latent, activation), likelihood, classes),
        decoder(_deep_mlp(latent, hidden, depth, numbers_per_x * x_dim, activation)),
        latent,
        x_scale,
        {
            "architecture": "deep-mlp",
            "x_dim": x_dim,
            "latent": latent,
            "hidden": hidden,
            "depth": depth,
            "activation": activation,
            **likelihood_config(likelihood, mean_activation, library_size, classes),
            "x_scale": x_scale,
        },
    )
    ACTIVATIONS[activation](model, generator)
    return model


def _tanh_mlp(inputs: int, hidden: int, outputs: int, logvar_scale: float) -> nn.Sequential:
    last = Linear(hidden, outputs) if logvar_scale == 1 else MeanLogvar(hidden, outputs, logvar_scale)
    # The first layer computes tanh itself. The Identity in its place keeps the parameters' names in state dicts.
    return nn.Sequential(Linear(inputs, hidden, tanh=True), nn.Identity(), last)


def _deep_mlp(inputs: int, hidden: int, depth: int, outputs: int, activation: str) -> nn.Sequential:
    layers, tanh = [], activation == "tanh"
    for _ in range(depth):
        layers += [Linear(inputs, hidden, tanh=tanh), nn.Identity() if tanh else nn.SiLU()]
        inputs = hidden
    return nn.Sequential(*layers, Linear(inputs, outputs))
