r"""Coordinate-ascent variational inference on factor analysis, with which AEVB is compared.

Each data point has the mean-field posterior :math:`q(z) = \prod_j N(z_j; m_j, s_j)`. Each update maximises the bound
over one factor with the others fixed (Bishop 2006, section 10.1.1, eq. 10.9), in closed form, for all data points at
once.
"""

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models.factor_analysis import FactorAnalysis

__all__ = ["Coordinates", "MeanField", "cavi", "variational_em"]


class MeanField:
    """q(z) of each data point of x; it starts as the prior.

    Args:
        model: the model whose posterior it approximates; its parameters may change between updates.
        x: ``[N, x_dim]``, of the parameters' dtype.

    Attributes:
        mean: ``[N, latent]``.
        variance: ``[latent]``: at its optimum it does not depend on x.
    """

    def __init__(self, model: FactorAnalysis, x: Tensor):
        weight = model.net.weight
        if x.dim() != 2 or x.shape[1] != weight.shape[0] or len(x) == 0:
            raise ValueError(f"x must be [N, {weight.shape[0]}] with N at least 1, got {list(x.shape)}")
        self.model, self.x = model, x
        self.mean, self.variance = x.new_zeros(len(x), weight.shape[1]), x.new_ones(weight.shape[1])

    @torch.no_grad()
    def update(self, j: int, precision: Tensor | None = None, h: Tensor | None = None) -> None:
        r"""Maximise the bound over the factor of z_j.

        .. math:: s_j = 1 / \Lambda_{jj}, \quad m_j = s_j \Big(h_j - \sum_{k \ne j} \Lambda_{jk} m_k\Big)

        Args:
            j: the index of the factor.
            precision, h: Lambda and h of the model and x, if they are known already.
        """
        precision = self.model.precision() if precision is None else precision
        h = self.model.evidence_for(self.x) if h is None else h
        self.variance[j] = 1 / precision[j, j]
        others = self.mean @ precision[j] - self.mean[:, j] * precision[j, j]
        self.mean[:, j] = self.variance[j] * (h[:, j] - others)

    @torch.no_grad()
    def sweep(self) -> float:
        """Update each factor once; return the largest change of a mean, in standard deviations of its factor."""
        precision, h, before = self.model.precision(), self.model.evidence_for(self.x), self.mean.clone()
        for j in range(len(self.variance)):
            self.update(j, precision, h)
        return ((self.mean - before) / self.variance.sqrt()).abs().max().item()

    @torch.no_grad()
    def bound(self) -> Tensor:
        """The bound of each data point, ``[N]``, in nats."""
        return self.model.bound(self.x, self.mean, self.variance.log())


@dataclass(frozen=True)
class Coordinates:
    """The result of :func:`cavi`.

    Attributes:
        mean: float64 ``[N, latent]``.
        variance: float64 ``[latent]``.
        bound: float64 ``[N]``, in nats.
        bounds: float64 ``[sweeps + 1]``: the mean bound at the start and after each sweep.
    """

    mean: Tensor
    variance: Tensor
    bound: Tensor
    bounds: Tensor


def cavi(model: FactorAnalysis, x: Tensor, *, tolerance: float = 1e-10, max_sweeps: int = 10_000) -> Coordinates:
    """Sweep over the coordinates until no mean moves by more than ``tolerance`` standard deviations.

    Everything is computed in float64. It always converges, faster if Lambda correlates the coordinates less.

    Args:
        model: the model; its parameters stay as they are.
        x: ``[N, x_dim]``.
        tolerance: see above.
        max_sweeps: the most sweeps; a RuntimeError is raised after them.

    Raises:
        ValueError: x is not ``[N, x_dim]``.
        RuntimeError: it has not converged after ``max_sweeps``.
    """
    q = MeanField(deepcopy(model).double(), x.double())
    bounds = [q.bound().mean()]
    for _ in range(max_sweeps):
        move = q.sweep()
        bounds.append(q.bound().mean())
        if move <= tolerance:
            return Coordinates(q.mean, q.variance, q.bound(), torch.stack(bounds))
    raise RuntimeError(
        f"not converged after max_sweeps {max_sweeps}: the last sweep moved a mean by {move:.3g} standard deviations, "
        f"tolerance is {tolerance:.3g}"
    )


@torch.no_grad()
def variational_em(
    model: FactorAnalysis, x: Tensor, *, tolerance: float = 1e-8, max_iterations: int = 10_000
) -> Tensor:
    """Learn W, b and psi, in place: a sweep of coordinate ascent, then the parameters that maximise the bound.

    Neither step can lower the bound (Neal & Hinton 1998).

    Args:
        model: has the initial parameters;
            :meth:`FactorAnalysis.start_ <aevb_ext.models.factor_analysis.FactorAnalysis.start_>` is a good start for b
            and psi.
        x: ``[N, x_dim]``.
        tolerance: stop when an iteration gains less than this, in nats per data point.
        max_iterations: stop after this many iterations.

    Returns:
        float64 ``[iterations + 1]``: the mean bound at the start, with q at the prior, and after each iteration.

    Raises:
        ValueError: x is not ``[N, x_dim]``.
    """
    learnt = deepcopy(model).double()
    q = MeanField(learnt, x.double())
    bounds = [q.bound().mean()]
    for _ in range(max_iterations):
        q.sweep()
        _maximise(learnt, q)
        bounds.append(q.bound().mean())
        if bounds[-1] - bounds[-2] < tolerance:
            break
    for own, found in zip(model.parameters(), learnt.parameters(), strict=True):
        own.copy_(found)
    return torch.stack(bounds)


def _maximise(model: FactorAnalysis, q: MeanField) -> None:
    """The M step: linear regression of x on z and 1, with second moments under q; psi is the residual variance."""
    x, n = q.x, len(q.x)
    z = torch.cat([q.mean, q.mean.new_ones(n, 1)], 1)
    uncertain = torch.cat([q.variance, q.variance.new_zeros(1)])
    coefficients = torch.linalg.solve(z.T @ z + n * uncertain.diag(), z.T @ x)
    model.net.weight.copy_(coefficients[:-1].T)
    model.net.bias.copy_(coefficients[-1])
    psi = (x - z @ coefficients).square().mean(0) + uncertain @ coefficients.square()
    model.logvar.copy_(psi.log())
