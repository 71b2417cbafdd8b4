"""Estimators of the variational lower bound and of log p(x)."""

from ..models.bound import ESTIMATORS, bound_values
from .annealing import annealed_importance_sampling
from .bound import bound_a, bound_b, evaluate_bound
from .importance import importance_weighted_bound, importance_weighted_log_likelihood
from .latents import LatentUse, latent_use
from .marginal import marginal_likelihood
from .quadrature import quadrature_log_likelihood
from .result import Bound, LogLikelihood, UntrustedEstimate

__all__ = [
    "ESTIMATORS",
    "Bound",
    "LatentUse",
    "LogLikelihood",
    "UntrustedEstimate",
    "annealed_importance_sampling",
    "bound_a",
    "bound_b",
    "bound_values",
    "evaluate_bound",
    "importance_weighted_bound",
    "importance_weighted_log_likelihood",
    "latent_use",
    "marginal_likelihood",
    "quadrature_log_likelihood",
]
