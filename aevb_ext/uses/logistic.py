"""Multinomial logistic regression."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["Logistic", "NotConverged", "fit_logistic"]

_STEPS = 5000


class NotConverged(RuntimeError):
    """An optimiser stopped before it was there; says how far off it is."""


@dataclass(frozen=True)
class Logistic:
    """A linear classifier.

    Attributes:
        classes: int64 ``[C]``, the labels in their order.
        weight, bias: ``[C, D]`` and ``[C]``: the logits of features f ``[N, D]`` are ``f @ weight.T + bias``.
        gradient: the largest component of the gradient where the optimiser stopped.
    """

    classes: Tensor
    weight: Tensor
    bias: Tensor
    gradient: float

    def predict(self, features: Tensor) -> Tensor:
        """The most likely label of each: int64 ``[N]`` for features ``[N, D]``."""
        return self.classes[(features @ self.weight.T + self.bias).argmax(1)]


def fit_logistic(
    features: Tensor, labels: Tensor, l2: float, *, start: Logistic | None = None, tolerance: float = 1e-5
) -> Logistic:
    r"""The maximum of the regularised likelihood, by L-BFGS: a convex problem, so there is but one.

    .. math:: \min_{W, b} -\frac1N \sum_n \log \mathrm{softmax}(W f_n + b)_{y_n} + \frac\lambda2 \|W\|^2

    Args:
        features: f ``[N, D]``, floating; the arithmetic is of their dtype.
        labels: y, int64 ``[N]``.
        l2: lambda, positive. (scikit-learn's C is ``1 / (l2 * N)``.)
        start: where to begin; of the same classes. None: at 0.
        tolerance: the largest component of the gradient at which it is taken for 0.

    Raises:
        ValueError: shapes do not fit, there are fewer than two classes, or l2 is not a positive number.
        NotConverged: the gradient did not become that small; says how small.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features must be [N, D] and labels [N], got {list(features.shape)} and {list(labels.shape)}")
    if not 0 < l2 < float("inf"):
        raise ValueError(f"l2 must be a positive number, got {l2}")
    classes, targets = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels must be of at least two classes, got {classes.tolist()}")
    # About their mean, features are better conditioned; the bias makes up for it.
    mean = features.mean(0)
    features = features - mean
    weight = features.new_zeros(len(classes), features.shape[1]) if start is None else start.weight.clone()
    bias = features.new_zeros(len(classes)) if start is None else start.bias + start.weight @ mean
    weight.requires_grad_()
    bias.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [weight, bias],
        max_iter=_STEPS,
        max_eval=2 * _STEPS,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = functional.cross_entropy(features @ weight.T + bias, targets) + l2 / 2 * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
        loss()
    gradient = max(p.grad.abs().max().item() for p in (weight, bias))
    # Written so that a NaN fails.
    if not gradient <= tolerance:
        raise NotConverged(
            f"the logistic regression with l2 = {l2:g} did not converge: its gradient is {gradient:.2g}, expected at "
            f"most {tolerance:.2g}"
        )
    weight, bias = weight.detach(), bias.detach()
    return Logistic(classes, weight, bias - weight @ mean, gradient)
