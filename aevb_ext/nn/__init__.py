"""Modules: heads that make distributions of networks, the ELBO, and a layer."""

from .elbo import ELBO, ELBOTerms
from .heads import BernoulliDecoder, GaussianDecoder, GaussianPosterior
from .linear import Linear

__all__ = ["ELBO", "BernoulliDecoder", "ELBOTerms", "GaussianDecoder", "GaussianPosterior", "Linear"]
