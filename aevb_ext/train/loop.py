"""The training loop."""

import math
import platform
import time
from dataclasses import dataclass

import torch

from .. import __version__, plots
from ..data import Data
from ..estimators import Bound, evaluate_bound
from ..learners.aevb import AEVB
from ..models import VAE
from .logging import Progress, RunFolder
from .step import make_step

__all__ = ["NonFiniteBound", "Record", "Result", "fit"]

# Steps between two looks at the bounds: each look waits for the device.
_LOOK_EVERY = 100
# The bound is evaluated where the paper's Figure 2 has detail: evenly in the logarithm of the samples seen.
_FIRST_EVALUATION = 10_000
_EVALUATIONS_PER_DECADE = 8


class NonFiniteBound(RuntimeError):
    """The bound became infinite or NaN; says at which step, and what to try."""


@dataclass(frozen=True)
class Record:
    """One evaluation: the bounds (nats per data point, with standard errors) after ``samples_seen`` samples."""

    samples_seen: int
    steps: int
    seconds: float
    train: float
    train_stderr: float
    test: float
    test_stderr: float


@dataclass(frozen=True)
class Result:
    """What :func:`fit` gives back: the last bounds, and the curve."""

    train: Bound
    test: Bound
    history: list[Record]


def fit(
    model: VAE,
    data: Data,
    *,
    samples_seen: int = 1_000_000,
    batch_size: int = 100,
    estimator: str = "b",
    n_samples: int = 1,
    optimizer: str = "adagrad",
    lr: float | None = None,
    bf16: bool = False,
    seed: int = 0,
    device="cpu",
    out=None,
    validate: bool = True,
    progress: bool = True,
) -> Result:
    """Train ``model`` on ``data`` by Auto-Encoding Variational Bayes (Algorithm 1).

    Minibatches are drawn with replacement. The same arguments, initial parameters and number of threads give the
    same run, on the CPU bit for bit. The test bound is that of the whole test split, the train bound that of as many
    training points, both on the same noise each time.

    Args:
        model: the VAE, trained in place and left on ``device``.
        data: what to train on.
        samples_seen: how many data points to train on, counted with repetition.
        batch_size, estimator, n_samples, optimizer, lr, bf16: as in :class:`aevb_ext.learners.AEVB`.
        seed: of the minibatches and of the noise.
        device: where to train.
        out: a new or empty folder for config.json, metrics.jsonl, checkpoint.pt (renewed at each evaluation) and the
            pictures. None: nothing is written.
        validate: check that the data lies in the support of the likelihood.
        progress: tell on stderr how it goes.

    Returns:
        The bounds at the end, and at evaluations on the way.

    Raises:
        ValueError: an argument is out of range; the data lies outside the likelihood's support.
        OSError: the folder exists and is not empty, or cannot be written.
        NonFiniteBound: the bound became infinite or NaN. What the folder holds then is whole, from before.
    """
    device = _check_device(device)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if samples_seen < 1:
        raise ValueError(f"samples_seen must be at least 1, got {samples_seen}")
    if len(data.train) == 0 or len(data.test) == 0:
        raise ValueError(f"data must have train and test points, got {len(data.train)} and {len(data.test)}")
    if validate:
        model.decoder.check_support(data.train, model.x_scale, "data.train")
        model.decoder.check_support(data.test, model.x_scale, "data.test")
    model.to(device)
    data = data.to(device)
    generator = torch.Generator(device).manual_seed(seed)
    estimate = {"estimator": estimator, "n_samples": n_samples}
    optimization = {"batch_size": batch_size, "optimizer": optimizer, "bf16": bf16}
    learner = AEVB(model, len(data.train), **estimate, **optimization, lr=lr, generator=generator)
    step = make_step(learner, data.train)
    folder = None if out is None else RunFolder(out)
    settings = {"samples_seen": samples_seen, **estimate, **optimization}
    settings |= {"lr": learner.lr, "seed": seed, "device": str(device)}
    versions = {"aevb_ext": __version__, "torch": torch.__version__, "python": platform.python_version()}
    config = {"data": data.name, "model": model.config, **settings, **versions}

    steps = math.ceil(samples_seen / batch_size)
    evaluations = _evaluation_steps(steps, batch_size)
    history, started = [], time.perf_counter()
    with Progress(steps * batch_size, progress) as bar:
        for stop in sorted(evaluations | set(range(_LOOK_EVERY, steps, _LOOK_EVERY))):
            first = learner.steps
            bounds = torch.stack([step() for _ in range(first, stop)]).tolist()
            _check_finite(bounds, first + 1, learner.lr)
            bar.update(len(bounds) * batch_size, sum(bounds) / len(bounds))
            if stop not in evaluations:
                continue
            train = evaluate_bound(model, data.train[: len(data.test)], **estimate)
            test = evaluate_bound(model, data.test, **estimate)
            _check_finite([train.mean, test.mean], stop, learner.lr)
            seconds = round(time.perf_counter() - started, 3)
            record = Record(stop * batch_size, stop, seconds, train.mean, train.stderr, test.mean, test.stderr)
            history.append(record)
            bar.evaluated(record)
            if folder:
                folder.write(record, model, data, config)
    if folder:
        plots.save_all(folder.path, model, data, history, seed)
    return Result(train, test, history)


def _evaluation_steps(steps: int, batch_size: int) -> set[int]:
    """Evenly spaced in the logarithm of the samples seen, and the last step."""
    first, last = math.log10(_FIRST_EVALUATION), math.log10(steps * batch_size)
    count = max(0, math.ceil((last - first) * _EVALUATIONS_PER_DECADE))
    samples = (10 ** (first + i / _EVALUATIONS_PER_DECADE) for i in range(count))
    return {max(1, round(s / batch_size)) for s in samples if s < steps * batch_size} | {steps}


def _check_finite(bounds: list[float], first_step: int, lr: float) -> None:
    for step, bound in enumerate(bounds, first_step):
        if not math.isfinite(bound):
            raise NonFiniteBound(
                f"the bound is {bound} at step {step}: training stopped. Try a smaller stepsize (lr is {lr:g}), and "
                "check the data's scale"
            )


def _check_device(device) -> torch.device:
    try:
        device = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is not a device: {error}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {str(device)!r}: torch {torch.__version__} sees no CUDA device here")
    return device
