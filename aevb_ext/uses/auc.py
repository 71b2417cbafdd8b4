"""The area under the ROC curve."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..estimators.result import plus_minus

__all__ = ["AUC", "auc"]


@dataclass(frozen=True)
class AUC:
    """An area under the ROC curve and its standard error (NaN where there is but one score of a kind)."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return plus_minus(self.value, self.stderr, 4)


def auc(normal: Tensor, anomalous: Tensor) -> AUC:
    r"""How well scores tell two kinds of data points apart: the chance that an anomalous one has the higher score.

    .. math:: \frac1{mn} \sum_{i,j} 1[a_i > b_j] + \tfrac12 1[a_i = b_j]

    which is Mann and Whitney's U (1947) over the number of pairs, and the area under the ROC curve; 1/2 is guessing.
    The counts are exact. The standard error is that of DeLong et al. 1988, over both kinds of data points.

    Args:
        normal: scores b ``[n]``.
        anomalous: scores a ``[m]``.

    Raises:
        ValueError: there are no scores of a kind, or one is NaN; names the argument.
    """
    for name, scores in (("normal", normal), ("anomalous", anomalous)):
        if scores.dim() != 1 or len(scores) == 0:
            raise ValueError(f"{name} must be scores [N] of at least one data point, got shape {list(scores.shape)}")
        if scores.isnan().any():
            raise ValueError(f"{name} has a score that is NaN, of data point {int(scores.isnan().int().argmax())}")
    # Of each score the share of the other kind's scores that it is above; of a tie, half.
    above = _below(normal, anomalous)
    beneath = 1 - _below(anomalous, normal)
    if min(len(above), len(beneath)) < 2:
        return AUC(above.mean().item(), float("nan"))
    return AUC(above.mean().item(), (above.var() / len(above) + beneath.var() / len(beneath)).sqrt().item())


def _below(others: Tensor, scores: Tensor) -> Tensor:
    """Of each score the share of others that are below it, those equal counting half: float64 ``[N]``."""
    others = others.sort().values
    less, at_most = (torch.searchsorted(others, scores, right=right) for right in (False, True))
    return (less + at_most).double() / (2 * len(others))
