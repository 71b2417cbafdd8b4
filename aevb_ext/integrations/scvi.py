"""scvi-tools' encoder, KL and likelihoods of counts on the fused operators."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn.functional import softplus

from .._arguments import FLOATING
from ..functional import negative_binomial_log_prob, rsample, zero_inflated_negative_binomial_log_prob
from ._kl import TORCH_VERSIONS, GaussianKl
from ._log_prob import are_operands, log_prob_replacements
from ._patch import Patch, Replacement, are_dense, require

VERSIONS = ("1.4.2",)


def patch() -> Patch:
    """Let scvi-tools sample, take its KLs and its log-likelihoods of counts on the fused operators.

    It replaces ``log_zinb_positive``, ``log_nb_positive`` and ``log_mixture_nb`` of
    ``scvi.distributions._negative_binomial``, which the ``log_prob`` of its ``NegativeBinomial``,
    ``ZeroInflatedNegativeBinomial`` and ``NegativeBinomialMixture`` call: the reconstruction of SCVI, LinearSCVI,
    totalVI and others. Its ``eps`` is kept: it is added to the means, so that a mean of 0 has a finite log-likelihood
    as without the patch.

    It replaces ``scvi.nn.Encoder.forward`` (the encoder of SCVI, SCANVI, CondSCVI and others) too. Its noise then comes
    from noise keys, so a seed gives another draw than without the patch. scvi-tools' KLs and its Poisson are torch's,
    so the patch also replaces what :func:`aevb_ext.integrations.torch_distributions.patch` replaces.

    Returns:
        the patch in force.

    Raises:
        NotInstalled, UnknownVersion, AlreadyPatched: see :class:`aevb_ext.integrations.Patch`; nothing is changed then.
    """
    require("scvi-tools", VERSIONS)
    require("torch", TORCH_VERSIONS)
    from scvi.distributions import _negative_binomial
    from scvi.nn import Encoder

    gaussian = GaussianKl()
    replacements = [
        *gaussian.replacements(),
        *log_prob_replacements(),
        Replacement(Encoder, "forward", _encode),
        Replacement(_negative_binomial.ZeroInflatedNegativeBinomial, "log_prob", _zinb_log_prob),
        Replacement(_negative_binomial, "log_zinb_positive", _log_zinb_positive, "log_zinb_positive"),
        Replacement(_negative_binomial, "log_nb_positive", _log_nb_positive, "log_nb_positive"),
        Replacement(_negative_binomial, "log_mixture_nb", _log_mixture_nb, "log_mixture_nb"),
    ]
    return Patch("scvi", replacements, gaussian.on_change)


def _encode(self, x, *cat_list):
    q = self.encoder(x, *cat_list)
    mean = self.mean_encoder(q)
    variance = self.var_activation(self.var_encoder(q)) + self.var_eps
    posterior = Normal(mean, variance.sqrt())
    # Calling the original for unsupported tensors would run the encoder, and update its batch norms, a second time.
    ours = are_dense(posterior.loc, posterior.scale) and posterior.loc.dtype in FLOATING
    sample = rsample(posterior.loc, posterior.scale, spread="std") if ours else posterior.rsample()
    latent = self.z_transformation(sample)
    if self.return_dist:
        return posterior, latent
    return mean, variance, latent


def _zinb_log_prob(self, value):
    # It validates whatever validate_args says, in five passes that would be a third of the time: here one and a half.
    # The original has its warning, and what is none of counts.
    if self.on_mps or not are_dense(value) or not torch.equal(value, value.floor().abs_()):
        return NotImplemented
    return _log_zinb_positive(value, self.mu, self.theta, self.zi_logits)


def _log_zinb_positive(x, mu, theta, pi, eps=1e-8, log_fn=torch.log, lgamma_fn=torch.lgamma):
    operands = _operands((log_fn, lgamma_fn), x, mu, theta, pi)
    if operands is None:
        return NotImplemented
    x, mu, theta, pi = operands
    return zero_inflated_negative_binomial_log_prob(x, mu + eps, theta, pi, reduction="none", batch_dims=mu.dim())


def _log_nb_positive(x, mu, theta, eps=1e-8, log_fn=torch.log, lgamma_fn=torch.lgamma):
    operands = _operands((log_fn, lgamma_fn), x, mu, theta)
    if operands is None:
        return NotImplemented
    x, mu, theta = operands
    return negative_binomial_log_prob(x, mu + eps, theta, reduction="none", batch_dims=mu.dim())


def _log_mixture_nb(x, mu_1, mu_2, theta_1, theta_2, pi_logits, eps=1e-8, log_fn=torch.log, lgamma_fn=torch.lgamma):
    thetas = (theta_1, theta_1 if theta_2 is None else theta_2)
    operands = _operands((log_fn, lgamma_fn), x, mu_1, mu_2, *thetas, pi_logits)
    if operands is None:
        return NotImplemented
    x, mu_1, mu_2, theta_1, theta_2, pi_logits = operands
    first, second = (
        negative_binomial_log_prob(x, mu + eps, theta, reduction="none", batch_dims=mu.dim())
        for mu, theta in ((mu_1, theta_1), (mu_2, theta_2))
    )
    return torch.logaddexp(first, second - pi_logits) - softplus(-pi_logits)


def _operands(functions: tuple[Callable, Callable], x: Any, *parameters: Any) -> tuple[Tensor, ...] | None:
    """The counts and the parameters in one shape, or None if the original should have them."""
    # Its callers for MPS and JAX give functions of their own. In half precision eps is 0.
    if functions != (torch.log, torch.lgamma) or not are_operands(x, *parameters):
        return None
    if parameters[0].dtype not in (torch.float32, torch.float64):
        return None
    try:
        return tuple(torch.broadcast_tensors(x, *parameters))
    except RuntimeError:
        return None
