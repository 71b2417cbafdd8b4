"""Fused, numerically safe ELBO operations for PyTorch, and Auto-Encoding Variational Bayes on top of them."""

from . import _fallback, _vmap, compat, distributions, nn
from ._library import build_info
from ._version import __version__ as __version__
from .functional import (
    bernoulli_log_prob,
    bernoulli_log_prob_of_probs,
    binarize,
    categorical_log_prob,
    discretized_logistic_mixture_log_prob,
    gaussian_kl,
    gaussian_log_prob,
    halves,
    linear_bernoulli_log_prob,
    linear_gaussian_log_prob,
    noise_key,
    rsample,
    rsample_kl,
    unpack_bits,
)

_fallback.define_noise_key()
_vmap.register()

__all__ = [
    "bernoulli_log_prob",
    "bernoulli_log_prob_of_probs",
    "binarize",
    "build_info",
    "categorical_log_prob",
    "compat",
    "discretized_logistic_mixture_log_prob",
    "distributions",
    "gaussian_kl",
    "gaussian_log_prob",
    "halves",
    "linear_bernoulli_log_prob",
    "linear_gaussian_log_prob",
    "nn",
    "noise_key",
    "rsample",
    "rsample_kl",
    "unpack_bits",
]
