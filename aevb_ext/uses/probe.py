"""Linear probes: the accuracy of a linear classifier on a representation."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .._messages import PlainError
from ..data import Data, Rows, chunks
from ..data.rows import held_out_numbers
from ..estimators.result import plus_minus
from ..models import VAE
from ..noise import keys_at

__all__ = ["L2S", "Logistic", "NotConverged", "Probe", "fit_logistic", "linear_probe", "probe_latents", "probe_pixels"]

_STEPS = 5000


class NotConverged(PlainError, RuntimeError):
    """An optimizer stopped before it converged; the message has the remaining gradient."""


@dataclass(frozen=True)
class Logistic:
    """A linear classifier.

    Attributes:
        classes: int64 ``[C]``, the labels in ascending order.
        weight, bias: ``[C, D]`` and ``[C]``: the logits of features f ``[N, D]`` are ``f @ weight.T + bias``.
        gradient: the largest component of the gradient at the end of the optimisation.
    """

    classes: Tensor
    weight: Tensor
    bias: Tensor
    gradient: float

    def predict(self, features: Tensor) -> Tensor:
        """The most likely label of each data point: int64 ``[N]`` for features ``[N, D]``."""
        return self.classes[(features @ self.weight.T + self.bias).argmax(1)]


def fit_logistic(
    features: Tensor, labels: Tensor, l2: float, *, start: Logistic | None = None, tolerance: float = 1e-5
) -> Logistic:
    r"""Multinomial logistic regression with L2 regularisation, by L-BFGS; the problem is convex.

    .. math:: \min_{W, b} -\frac1N \sum_n \log \mathrm{softmax}(W f_n + b)_{y_n} + \frac\lambda2 \|W\|^2

    Args:
        features: f ``[N, D]``, floating; the arithmetic is in their dtype.
        labels: y, int64 ``[N]``.
        l2: lambda, positive. (scikit-learn's C is ``1 / (l2 * N)``.)
        start: the initial classifier, of the same classes. None: zero.
        tolerance: converged if the largest component of the gradient is at most this.

    Raises:
        ValueError: shapes do not fit, there are fewer than two classes, or l2 is not a positive number.
        NotConverged: the gradient did not become that small; the message has its size.
    """
    if features.dim() != 2 or labels.shape != features.shape[:1]:
        raise ValueError(f"features must be [N, D] and labels [N], got {list(features.shape)} and {list(labels.shape)}")
    if not 0 < l2 < float("inf"):
        raise ValueError(f"l2 must be a positive number, got {l2}")
    classes, targets = labels.unique(return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"labels must be of at least two classes, got {classes.tolist()}")
    # Centred features are better conditioned; the bias compensates for the shift.
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
    gradient = max(p.grad.abs().max().item() for p in (weight, bias) if p.grad is not None)
    # Written so that a NaN fails.
    if not gradient <= tolerance:
        raise NotConverged(
            f"the logistic regression with l2 = {l2:g} did not converge: its gradient is {gradient:.2g}, expected at "
            f"most {tolerance:.2g}"
        )
    weight, bias = weight.detach(), bias.detach()
    return Logistic(classes, weight, bias - weight @ mean, gradient)


# From the strongest to the weakest; each fit starts from the one before.
L2S = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
# The fraction of the training points that replaces a missing valid split.
_VALID_FRACTION = 0.2
_ROWS = 4096

Labelled = tuple[Tensor, Tensor]
Told = Callable[[int], None] | None


@dataclass(frozen=True)
class Probe:
    """The accuracy of a linear classifier on data points that it was not fitted to.

    Attributes:
        accuracy, stderr: the accuracy on the test split, and its standard error (NaN for a single data point).
        count: the number of test data points.
        l2: the regularisation with the best accuracy on the valid split.
        valid_accuracy: that accuracy.
        classifier: the classifier.
    """

    accuracy: float
    stderr: float
    count: int
    l2: float
    valid_accuracy: float
    classifier: Logistic

    def __str__(self) -> str:
        return plus_minus(self.accuracy, self.stderr, 4)


def linear_probe(train: Labelled, valid: Labelled, test: Labelled, *, progress: Told = None) -> Probe:
    """Multinomial logistic regression on features, with the regularisation that is best for the valid split.

    The regularisations ``L2S`` are tried from the strongest on, until the accuracy on the valid split decreases.

    Args:
        train, valid, test: features ``[N, D]``, any dtype, and labels, int64 ``[N]``. The arithmetic is float64.
        progress: called after each fit with how many of ``L2S`` were tried.

    Raises:
        ValueError: shapes do not fit, or there are fewer than two classes.
    """
    features = train[0].double()
    best: tuple[float, float, Logistic] | None = None
    classifier: Logistic | None = None
    for tried, l2 in enumerate(L2S, 1):
        classifier = fit_logistic(features, train[1], l2, start=classifier)
        accuracy = _accuracy(classifier, valid)
        if progress is not None:
            progress(tried)
        if best is not None and accuracy < best[0]:
            break
        if best is None or accuracy > best[0]:
            best = accuracy, l2, classifier
    assert best is not None  # L2S is not empty
    valid_accuracy, l2, chosen = best
    accuracy, count = _accuracy(chosen, test), len(test[1])
    stderr = math.sqrt(accuracy * (1 - accuracy) / count) if count > 1 else math.nan
    return Probe(accuracy, stderr, count, l2, valid_accuracy, chosen)


def probe_latents(model: VAE, data: Data, *, progress: Told = None) -> Probe:
    """:func:`linear_probe` on the means of q(z | x).

    Args:
        model: the VAE.
        data: on the model's device, with labels of train and test, and of valid if there is one. If there is none, a
            fifth of train replaces it.
        progress: as in :func:`linear_probe`.

    Raises:
        ValueError: a split has no labels. The message names it.
    """
    return _probe(lambda x: model.encode(x)[0].flatten(1), data, progress)


def probe_pixels(data: Data, *, progress: Told = None) -> Probe:
    """:func:`linear_probe` on the data points themselves, ``x * x_scale``; they are in memory twice, as float64.

    Args, Raises: as in :func:`probe_latents`.
    """
    return _probe(lambda x: _values(x, data.x_scale), data, progress)


def _probe(features: Callable[[Tensor | Rows], Tensor], data: Data, progress: Told) -> Probe:
    splits: dict[str, Labelled] = {}
    for split in ("train", "test") if data.valid is None else ("train", "valid", "test"):
        x, labels = data.split(split)
        if labels is None:
            raise ValueError(f"{data.name} has no labels of its {split} split, which a classifier needs")
        splits[split] = features(x), labels
    if data.valid is None:
        x, labels = splits["train"]
        for split, index in zip(("train", "valid"), held_out_numbers(len(x), _VALID_FRACTION), strict=True):
            splits[split] = x[index], labels[index]
    return linear_probe(**splits, progress=progress)


def _values(x: Tensor | Rows, x_scale: float) -> Tensor:
    """All data points scaled, float64 ``[N, D]`` on the CPU."""
    batches = chunks(x, _ROWS, "cpu", lambda index: keys_at(0, "evaluation binarize", index))
    return torch.cat([batch.flatten(1).double() * x_scale for batch in batches])


def _accuracy(classifier: Logistic, labelled: Labelled) -> float:
    features, labels = labelled
    return (classifier.predict(features.double()) == labels).double().mean().item()
