"""The usual formulations of each operator, as functions of the same tensors as ours.

All compute what is minimised (minus a log-likelihood, or a KL), reduced as `reduction` says. A formulation is timed as
it stands ("eager") and under torch.compile, and the quickest counts: nobody is held to a slower way to say a thing.
torch.distributions checks its arguments by default, at a cost; that is switched off.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import Bernoulli, Normal, kl_divergence


def _reduce(values: Tensor, reduction: str) -> Tensor:
    match reduction:
        case "none":
            return values
        case "sample":
            return values.sum(-1)
        case "mean":
            return values.sum() / _points(values)


def _points(values: Tensor) -> int:
    """How many data points and samples: an image is one, its last three dimensions."""
    return values[..., 0].numel() if values.dim() < 4 else values[..., 0, 0, 0].numel()


# Minus the log-likelihood of a Bernoulli decoder.


def bernoulli_textbook(x, logits, reduction):
    x = x.expand_as(logits)
    if reduction == "mean":
        return F.binary_cross_entropy_with_logits(logits, x, reduction="sum") / _points(x)
    return _reduce(F.binary_cross_entropy_with_logits(logits, x, reduction="none"), reduction)


def bernoulli_distributions(x, logits, reduction):
    return _reduce(-Bernoulli(logits=logits, validate_args=False).log_prob(x), reduction)


def of_bytes(bernoulli):
    return lambda x, logits, reduction: bernoulli((x / 255).to(logits.dtype), logits, reduction)


# The same of probabilities.


def probs_textbook(x, probs, reduction):
    return _reduce(-(x * probs.log() + (1 - x) * (1 - probs).log()), reduction)


def probs_cross_entropy(x, probs, reduction):
    x = x.expand_as(probs)
    if reduction == "mean":
        return F.binary_cross_entropy(probs, x, reduction="sum") / x[..., 0].numel()
    return _reduce(F.binary_cross_entropy(probs, x, reduction="none"), reduction)


# Minus the log-likelihood of a Gaussian decoder.


def gaussian_textbook(x, mu, logvar, reduction):
    return _reduce(0.5 * (math.log(2 * math.pi) + logvar + (x - mu).pow(2) / logvar.exp()), reduction)


def gaussian_nll_loss(x, mu, logvar, reduction):
    # A single scale is expanded first, as the loss requires.
    var = logvar.exp().expand_as(mu)
    if reduction == "mean":
        return F.gaussian_nll_loss(mu, x, var, full=True, reduction="sum") / mu[..., 0].numel()
    return _reduce(F.gaussian_nll_loss(mu, x, var, full=True, reduction="none"), reduction)


def gaussian_distributions(x, mu, logvar, reduction):
    return _reduce(-_normal(mu, logvar).log_prob(x), reduction)


# The posterior: its KL to the prior, and its samples.


def _normal(mu, logvar):
    return Normal(mu, torch.exp(0.5 * logvar), validate_args=False)


def _standard():
    return Normal(0.0, 1.0, validate_args=False)


def kl_textbook(mu, logvar, reduction):
    if reduction == "mean":
        return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp()) / len(mu)
    return _reduce(-0.5 * (1 + logvar - mu.pow(2) - logvar.exp()), reduction)


def kl_distributions(mu, logvar, reduction):
    return _reduce(kl_divergence(_normal(mu, logvar), _standard()), reduction)


def kl_prior_textbook(mu, logvar, prior_mu, prior_logvar, reduction):
    ratio = (logvar.exp() + (mu - prior_mu).pow(2)) / prior_logvar.exp()
    return _reduce(0.5 * (prior_logvar - logvar + ratio - 1), reduction)


def kl_prior_distributions(mu, logvar, prior_mu, prior_logvar, reduction):
    return _reduce(kl_divergence(_normal(mu, logvar), _normal(prior_mu, prior_logvar)), reduction)


def rsample_textbook(mu, logvar, reduction, n_samples=None):
    std = torch.exp(0.5 * logvar)
    eps = (
        torch.randn_like(std)
        if n_samples is None
        else torch.randn(n_samples, *std.shape, dtype=std.dtype, device=std.device)
    )
    return mu + eps * std


def rsample_distributions(mu, logvar, reduction, n_samples=None):
    return _normal(mu, logvar).rsample(() if n_samples is None else (n_samples,))


def rsample_kl_textbook(mu, logvar, reduction, n_samples=None):
    return rsample_textbook(mu, logvar, reduction, n_samples), kl_textbook(mu, logvar, reduction)


def rsample_kl_distributions(mu, logvar, reduction, n_samples=None):
    posterior = _normal(mu, logvar)
    z = posterior.rsample(() if n_samples is None else (n_samples,))
    return z, _reduce(kl_divergence(posterior, _standard()), reduction)


def of_halves(function, halves=lambda params, dim: params.chunk(2, dim)):
    """The same function of an encoder's packed output, so that the gradient is one tensor."""

    def packed(params, **others):
        mu, logvar = halves(params, -1 if params.dim() < 4 else 1)
        return function(mu, logvar, **others)

    return packed
