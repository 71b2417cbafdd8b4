"""Fused, numerically safe ELBO operations for PyTorch, and Auto-Encoding Variational Bayes on top of them."""

from . import _fallback, _vmap, compat, distributions, nn
from ._library import build_info
from ._version import __version__ as __version__
from .functional import (
    bernoulli_log_prob,
    bernoulli_log_prob_of_probs,
    binarize,
    continuous_bernoulli_log_prob,
    discretized_logistic_log_prob,
    gaussian_kl,
    gaussian_log_prob,
    halves,
    laplace_log_prob,
    linear_bernoulli_log_prob,
    linear_gaussian_log_prob,
    mixture_log_prob,
    negative_binomial_log_prob,
    noise_key,
    poisson_log_prob,
    rsample,
    rsample_kl,
    student_t_log_prob,
    unpack_bits,
    zero_inflated_negative_binomial_log_prob,
)

_fallback.define_noise_key()
_vmap.register()

__all__ = [
    "bernoulli_log_prob",
    "bernoulli_log_prob_of_probs",
    "binarize",
    "build_info",
    "compat",
    "continuous_bernoulli_log_prob",
    "discretized_logistic_log_prob",
    "distributions",
    "gaussian_kl",
    "gaussian_log_prob",
    "halves",
    "laplace_log_prob",
    "linear_bernoulli_log_prob",
    "linear_gaussian_log_prob",
    "mixture_log_prob",
    "negative_binomial_log_prob",
    "nn",
    "noise_key",
    "poisson_log_prob",
    "rsample",
    "rsample_kl",
    "student_t_log_prob",
    "unpack_bits",
    "zero_inflated_negative_binomial_log_prob",
]
