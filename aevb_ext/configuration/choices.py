"""The names that a run's options may have, for what is said of them without PyTorch.

The functions and classes that they are the names of stand in tables with the same keys, where those are written:
``ESTIMATORS`` in ``aevb_ext.models.bound``, ``ARCHITECTURES`` in ``aevb_ext.models`` and so on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .settings import Settings

__all__ = [
    "BINARIZE",
    "COUNT_LIKELIHOODS",
    "ESTIMATORS",
    "FIGURES",
    "LEARNER_TRAITS",
    "LIKELIHOOD_ALIASES",
    "LOG_LIKELIHOOD_ESTIMATORS",
    "MEAN_ACTIVATIONS",
    "MODEL_CHOICES",
    "NON_FINITE",
    "OPTIMIZERS",
    "PRECISIONS",
    "SCHEDULES",
    "SCORES",
    "SPLITS",
    "Figure",
    "LearnerTraits",
    "likelihood_name",
]


@dataclass(frozen=True)
class LearnerTraits:
    """What has to be known of a learner to check the settings of a run.

    Attributes:
        options: the settings that it has beside those of every learner.
        encodes: whether it trains the encoder, which the bound needs.
        passes: how many evaluations of a data point's likelihood a step counts as, with these settings.
    """

    options: tuple[str, ...] = ()
    encodes: bool = True
    passes: Callable[[Settings], int] = lambda settings: 1


LEARNER_TRAITS = {
    "aevb": LearnerTraits(("estimator", "n_samples", "sample_block", "beta", "beta_warmup", "free_bits")),
    "wake-sleep": LearnerTraits(),
    # Leapfrog steps and weight updates: 15 by default, as the paper's Figure 3 counts.
    "mcem": LearnerTraits(
        ("hmc_steps", "weight_updates", "seed"),
        encodes=False,
        passes=lambda settings: settings.hmc_steps + settings.weight_updates,
    ),
    "full-vb": LearnerTraits(("estimator", "n_samples", "seed")),
}

# Default learning rates. SGD's is small because the gradient is summed over the minibatch.
OPTIMIZERS = {"adagrad": 0.02, "adam": 1e-3, "sgd": 1e-4}
SCHEDULES = ("constant", "cosine")
PRECISIONS = ("float32", "tf32", "bf16", "fp16")
NON_FINITE = ("stop", "skip")
SCORES = ("bound", "marginal")

# The estimators of the bound.
ESTIMATORS = ("a", "b", "iwae")
# The estimators of log p(x) itself, with their default number of samples; None: the estimator draws none.
LOG_LIKELIHOOD_ESTIMATORS = {"marginal": 50, "ais": 16, "quadrature": None}

# The likelihoods of counts.
COUNT_LIKELIHOODS = ("poisson", "negative_binomial", "zero_inflated_negative_binomial")
# Other names of likelihoods: what they are usually called.
LIKELIHOOD_ALIASES = {"nb": "negative_binomial", "zinb": "zero_inflated_negative_binomial"}


def likelihood_name(name: str) -> str:
    """The name of a likelihood, given it or an alias."""
    return LIKELIHOOD_ALIASES.get(name, name) if isinstance(name, str) else name


# The last activation of a Gaussian's mean, or of another location: the paper's sigmoid for data in [0, 1], or none for
# any data.
MEAN_ACTIVATIONS = ("sigmoid", "identity")
# The options of a model that are one of several names.
MODEL_CHOICES = {
    "architecture": ("mlp", "deep-mlp", "conv"),
    "activation": ("silu", "tanh"),
    "likelihood": (
        "bernoulli",
        "gaussian",
        *COUNT_LIKELIHOODS,
        "laplace",
        "student_t",
        "continuous_bernoulli",
        "categorical",
        "discretized_logistic",
    ),
    "mean_activation": MEAN_ACTIVATIONS,
}

SPLITS = ("train", "test", "valid")
BINARIZE = ("dynamic", "threshold")


class Figure(NamedTuple):
    """What ``aevb paper`` reproduces: the title of its page, and the data that its runs need."""

    title: str
    data: tuple[str, ...]


FIGURES = {
    "figure2": Figure("Figure 2: the lower bound of AEVB and of Wake-Sleep", ("mnist", "freyface")),
    "figure3": Figure("Figure 3: the marginal log-likelihood of AEVB, Monte Carlo EM and Wake-Sleep", ("mnist",)),
    "figure4": Figure("Figure 4: learnt data manifolds", ("freyface", "mnist")),
    "figure5": Figure("Figure 5: random samples from learnt models of MNIST", ("mnist",)),
    "iwae": Figure(
        "The importance-weighted autoencoder, one stochastic layer, fixed binarisation", ("binarized_mnist",)
    ),
    "ablation": Figure("Ablation: what the paper leaves open, one change at a time", ("mnist", "freyface")),
}
