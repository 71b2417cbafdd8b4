"""How a model is scored."""

from .bound import Bound, bound_a, bound_b, bound_values, evaluate_bound
from .importance import importance_weighted_bound
from .latents import LatentUse, latent_use
from .marginal import marginal_likelihood
from .quadrature import quadrature_log_likelihood
from .result import LogLikelihood
from .terms import ESTIMATORS

__all__ = [
    "ESTIMATORS",
    "Bound",
    "LatentUse",
    "LogLikelihood",
    "bound_a",
    "bound_b",
    "bound_values",
    "evaluate_bound",
    "importance_weighted_bound",
    "latent_use",
    "marginal_likelihood",
    "quadrature_log_likelihood",
]
