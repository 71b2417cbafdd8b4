"""How a model is scored."""

from .bound import Bound, bound_a, bound_b, bound_values, evaluate_bound
from .importance import importance_weighted_bound
from .latents import LatentUse, latent_use
from .terms import ESTIMATORS

__all__ = [
    "ESTIMATORS",
    "Bound",
    "LatentUse",
    "bound_a",
    "bound_b",
    "bound_values",
    "evaluate_bound",
    "importance_weighted_bound",
    "latent_use",
]
