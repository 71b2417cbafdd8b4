"""Sums and log-sum-exps over many samples, a block of samples at a time, so that memory does not grow with them.

The first pass keeps running sums only; if a gradient is needed, :mod:`.recompute` adds the backward.
"""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["Totals", "streamed"]


class Totals:
    """Running sums over samples, and the log-sum-exp of log weights (the first value minus the second).

    All have the values' dtype. Weights are summed relative to the largest so far, so that neither their size nor the
    number of blocks costs accuracy.
    """

    def __init__(self, weighted: bool):
        self.weighted = weighted
        self.sums: list[Tensor] | None = None
        self._largest: Tensor
        self._shift: Tensor
        self._total: Tensor
        self._squares: Tensor

    def add(self, values: tuple[Tensor, ...]) -> None:
        """Add the values of n samples, ``[n, *batch]`` each."""
        sums = [v.sum(0) for v in values]
        before = self.sums
        self.sums = sums if before is None else [a + b for a, b in zip(before, sums, strict=True)]
        if not self.weighted:
            return
        log_weights = values[0] - values[1]
        largest = log_weights.amax(0)
        if before is not None:
            largest = torch.maximum(self._largest, largest)
        # As torch.logsumexp does: an infinite largest weight cannot be subtracted.
        shift = largest.where(largest.isfinite(), 0)
        weights = (log_weights - shift).exp()
        total, squares = weights.sum(0), weights.square().sum(0)
        if before is not None:
            factor = (self._largest - shift).exp()
            total, squares = total + self._total * factor, squares + self._squares * factor.square()
        self._largest, self._shift, self._total, self._squares = largest, shift, total, squares

    def results(self) -> tuple[Tensor, ...]:
        """The sums; if weighted, the log-sum-exp comes first."""
        sums = self.sums or []
        return (self.log_sum, *sums) if self.weighted else tuple(sums)

    @property
    def log_sum(self) -> Tensor:
        """The logarithm of the sum of the weights, ``[*batch]``."""
        return self._total.log() + self._shift

    @property
    def effective_sample_size(self) -> Tensor:
        """(sum of weights)^2 / sum of squares, ``[*batch]`` (Kong 1992)."""
        return self._total.square() / self._squares


# values, each [n, *batch], and a port [n, *batch] to which the normalised weights go as its cotangent, or None
Terms = tuple[tuple[Tensor, ...], Tensor | None]


def streamed(
    terms: Callable[[int, int], Terms], n_samples: int, block: int, sources: tuple[object, ...], *, weighted: bool
) -> tuple[Tensor, ...]:
    """The sum over samples of each value; if ``weighted``, the log-sum-exp of the log weights comes first.

    Args:
        terms: ``terms(first, n)`` gives the values of samples first ... first + n - 1, the same at each call. Its
            inputs are found in its graph. Tensors that were computed outside and through which a gradient flows further
            back (leaves such as parameters aside) must be in ``sources``.
        n_samples: the number of samples.
        block: samples computed at a time.
        sources: tensors, distributions, functions with a closure, or tuples of these.
        weighted: also compute the log-sum-exp of the first value minus the second.

    Returns:
        ``[*batch]`` each, differentiable once. If gradients are off there is a single pass. Otherwise the backward
        repeats the random draws of the first pass (dropout), unless a CUDA graph is being captured.

    Raises:
        NotImplementedError: the gradient would have to flow through a tensor that is not in ``sources``.
    """
    # A short block comes first: the last one is not evaluated again.
    edges = [0, *range(n_samples % block or block, n_samples + 1, block)]
    blocks = [(first, end - first) for first, end in itertools.pairwise(edges)]
    if torch.is_grad_enabled():
        from .recompute import recorded  # imported here, since it imports PyTorch's compiler

        results: tuple[Tensor, ...] = recorded(terms, blocks, sources, weighted)
        return results
    totals = Totals(weighted)
    for each in blocks:
        totals.add(terms(*each)[0])
    return totals.results()
