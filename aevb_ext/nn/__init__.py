"""Modules: heads that turn a network's output into distributions, the ELBO, and a linear layer."""

from .decoders import (
    CategoricalDecoder,
    ContinuousBernoulliDecoder,
    DiscretizedLogisticDecoder,
    LaplaceDecoder,
    NegativeBinomialDecoder,
    PoissonDecoder,
    StudentTDecoder,
    ZeroInflatedNegativeBinomialDecoder,
)
from .elbo import ELBO, ELBOTerms
from .heads import BernoulliDecoder, GaussianDecoder, GaussianPosterior
from .hierarchical import HierarchicalELBO, HierarchicalELBOTerms
from .linear import Linear

__all__ = [
    "ELBO",
    "BernoulliDecoder",
    "CategoricalDecoder",
    "ContinuousBernoulliDecoder",
    "DiscretizedLogisticDecoder",
    "ELBOTerms",
    "GaussianDecoder",
    "GaussianPosterior",
    "HierarchicalELBO",
    "HierarchicalELBOTerms",
    "LaplaceDecoder",
    "Linear",
    "NegativeBinomialDecoder",
    "PoissonDecoder",
    "StudentTDecoder",
    "ZeroInflatedNegativeBinomialDecoder",
]
