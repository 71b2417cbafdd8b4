"""How a model is scored."""

from .bound import ESTIMATORS, Bound, bound_a, bound_b, bound_values, evaluate_bound

__all__ = ["ESTIMATORS", "Bound", "bound_a", "bound_b", "bound_values", "evaluate_bound"]
