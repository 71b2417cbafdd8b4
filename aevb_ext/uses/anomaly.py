"""Anomaly detection: the area under the ROC curve, and labels held out of training."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._types import Device, StrPath
from ..configuration.choices import LEARNER_TRAITS, SPLITS
from ..configuration.saved_run import model_file
from ..data import Data, subset
from ..estimators.result import plus_minus
from ..models import VAE
from ..train import Settings, fit
from .arrays import write_scores

__all__ = ["AUC", "HeldOut", "auc", "held_out", "without_label"]


@dataclass(frozen=True)
class AUC:
    """An area under the ROC curve and its standard error (NaN if there is a single score of a kind)."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return plus_minus(self.value, self.stderr, 4)


def auc(normal: Tensor, anomalous: Tensor) -> AUC:
    r"""The area under the ROC curve: the probability that an anomalous data point scores higher than a normal one.

    .. math:: \frac1{mn} \sum_{i,j} 1[a_i > b_j] + \tfrac12 1[a_i = b_j]

    This is Mann and Whitney's U (1947) over the number of pairs; 1/2 is guessing. The counts are exact. The standard
    error is that of DeLong et al. 1988, over both kinds of data points.

    Args:
        normal: scores b ``[n]``.
        anomalous: scores a ``[m]``.

    Raises:
        ValueError: there are no scores of a kind, or one is NaN. The message names the argument.
    """
    for name, scores in (("normal", normal), ("anomalous", anomalous)):
        if scores.dim() != 1 or len(scores) == 0:
            raise ValueError(f"{name} must be scores [N] of at least one data point, got shape {list(scores.shape)}")
        if scores.isnan().any():
            raise ValueError(f"{name} has a score that is NaN, of data point {int(scores.isnan().int().argmax())}")
    # For each score, the fraction of the other kind's scores that it exceeds; ties count half.
    above = _below(normal, anomalous)
    beneath = 1 - _below(anomalous, normal)
    if min(len(above), len(beneath)) < 2:
        return AUC(above.mean().item(), float("nan"))
    return AUC(above.mean().item(), (above.var() / len(above) + beneath.var() / len(beneath)).sqrt().item())


def _below(others: Tensor, scores: Tensor) -> Tensor:
    """For each score the fraction of ``others`` below it, with ties counting half: float64 ``[N]``."""
    others = others.sort().values
    less, at_most = (torch.searchsorted(others, scores, right=right) for right in (False, True))
    return (less + at_most).double() / (2 * len(others))


Show = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def _unshown(title: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda done: None


@dataclass(frozen=True)
class HeldOut:
    """How well a model that was trained without a label separates it from the others.

    Attributes:
        label: the label that was held out.
        anomalous, normal: the numbers of test data points with that label, and with others.
        bound: the AUC of minus the bound (one sample of each data point).
        iwae: the AUC of minus the importance-weighted bound.
        mean_anomalous, mean_normal: the mean bounds of the two kinds, in nats.
    """

    label: int
    anomalous: int
    normal: int
    bound: AUC
    iwae: AUC
    mean_anomalous: float
    mean_normal: float


def held_out(
    data: Data,
    make: Callable[[Data], VAE],
    settings: Settings,
    out: StrPath,
    *,
    labels: Iterable[int] | None = None,
    n_samples: int = 50,
    device: Device = "cpu",
    show: Show = _unshown,
) -> Iterator[HeldOut]:
    """For each label: train without it, then score the whole test split.

    ``out/without-LABEL`` has the run, and scores.csv with the scores of each test point. An existing run is resumed, or
    only scored if it is complete.

    Args:
        data: the data; each split needs labels.
        make: a function from the data to a new model.
        settings: the settings of each run.
        out: the folder.
        labels: the labels to hold out, one after another. None: all labels of train.
        n_samples: k of the importance-weighted bound.
        device: the device to train and score on.
        show: shows the progress of scoring: called with a title and the number of data points, it returns a context
            whose value is called with how many are done.

    Raises:
        ValueError: the learner trains no encoder; a split has no labels; there is no such label, or no other; what
            :func:`~aevb_ext.train.fit` raises, such as for a run that was begun with other settings.
    """
    if not LEARNER_TRAITS[settings.learner].encodes:
        raise ValueError(f"learner: {settings.learner} trains no encoder, which the bound needs")
    test_labels = _labels(data, "test")
    known = _labels(data, "train").unique().tolist()
    labels = known if labels is None else list(labels)
    if unknown := [label for label in labels if label not in known]:
        raise ValueError(f"labels must be among {known}, which {data.name} has, got {unknown}")
    for label in labels:
        if not 0 < (count := int((test_labels == label).sum())) < len(test_labels):
            raise ValueError(
                f"labels: the test split of {data.name} has {count} data points of {len(test_labels)} with the label "
                f"{label}: expected some with it and some without"
            )
    for label in labels:
        folder = Path(out) / f"without-{label}"
        model = make(data)
        begun = folder.is_dir() and model_file(folder) is not None
        fit(model, without_label(data, label), settings=settings, device=device, out=folder, resume=begun)
        yield _scored(label, model.eval(), data.to(device), n_samples, settings.seed, folder, show)


def without_label(data: Data, label: int) -> Data:
    """The data without the data points of a label, in any split.

    Raises:
        ValueError: a split has no labels, or nothing but that one.
    """
    splits: dict[str, Any] = {}
    for split in SPLITS:
        if getattr(data, split) is None:
            continue
        index = (_labels(data, split) != label).nonzero().flatten()
        if len(index) == 0:
            raise ValueError(f"{data.name} has nothing but the label {label} in its {split} split")
        splits[split] = subset(getattr(data, split), index)
        splits[f"{split}_labels"] = getattr(data, f"{split}_labels")[index]
    # source=None, since ``load`` would not give this subset.
    return replace(data, name=f"{data.name} without {label}", source=None, **splits)


def _scored(label: int, model: VAE, data: Data, n_samples: int, seed: int, folder: Path, show: Show) -> HeldOut:
    x, labels = data.split("test")
    scores = {}
    for name, estimator, samples in (("bound", "b", 1), ("iwae", "iwae", n_samples)):
        with show(f"scoring without {label}: {name}", len(x)) as told:
            scores[name] = model.anomaly_scores(
                x, estimator=estimator, n_samples=samples, seed=seed, progress=told
            ).cpu()
    write_scores(folder / "scores.csv", labels, scores)
    is_held_out = labels == label
    normal, anomalous = ({name: s[kind] for name, s in scores.items()} for kind in (~is_held_out, is_held_out))
    return HeldOut(
        label,
        len(anomalous["bound"]),
        len(normal["bound"]),
        auc(normal["bound"], anomalous["bound"]),
        auc(normal["iwae"], anomalous["iwae"]),
        -anomalous["bound"].mean().item(),
        -normal["bound"].mean().item(),
    )


def _labels(data: Data, split: str) -> Tensor:
    labels = data.split(split)[1]
    if labels is None:
        raise ValueError(f"{data.name} has no labels of its {split} split, by which one is held out")
    return labels
