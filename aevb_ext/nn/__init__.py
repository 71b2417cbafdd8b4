"""Modules: heads that turn a network's output into distributions, the ELBO, and a linear layer."""

from .elbo import ELBO, ELBOTerms
from .heads import BernoulliDecoder, GaussianDecoder, GaussianPosterior
from .hierarchical import HierarchicalELBO, HierarchicalELBOTerms
from .linear import Linear

__all__ = [
    "ELBO",
    "BernoulliDecoder",
    "ELBOTerms",
    "GaussianDecoder",
    "GaussianPosterior",
    "HierarchicalELBO",
    "HierarchicalELBOTerms",
    "Linear",
]
