"""How a model is scored."""

from .bound import ESTIMATORS, Bound, bound_a, bound_b, bound_values, evaluate_bound
from .importance import importance_weighted_bound
from .latents import LatentUse, latent_use

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
