"""The variational auto-encoder and its networks: the paper's, deeper ones, or your own."""

from ..configuration.choices import MEAN_ACTIVATIONS
from ..nn import BernoulliDecoder, GaussianDecoder, GaussianPosterior
from .architectures import ARCHITECTURES, make_model
from .conv import conv_vae
from .layers import LIKELIHOODS
from .mlp import ACTIVATIONS, deep_mlp_vae, mlp_vae
from .vae import VAE

__all__ = [
    "ACTIVATIONS",
    "ARCHITECTURES",
    "LIKELIHOODS",
    "MEAN_ACTIVATIONS",
    "VAE",
    "BernoulliDecoder",
    "GaussianDecoder",
    "GaussianPosterior",
    "conv_vae",
    "deep_mlp_vae",
    "make_model",
    "mlp_vae",
]
