"""pythae: sampling and losses of its VAE, BetaVAE and IWAE on the fused operators.

    import aevb_ext.integrations.pythae

    with aevb_ext.integrations.pythae.patch():
        pipeline(train_data=...)  # or a BaseTrainer, or the model's forward

pythae's decoders end in a sigmoid, so that its "bce" is the likelihood of probabilities.
"""

import functools
import math

import torch
from torch import Tensor

from ..functional import bernoulli_log_prob_of_probs, gaussian_kl, gaussian_log_prob, noise_key, rsample
from ._patch import Patch, Replacement, require

VERSIONS = ("0.1.2",)


def patch() -> Patch:
    """Replace ``_sample_gauss`` and ``loss_function`` of VAE, BetaVAE and IWAE until the patch is undone.

    The other models of pythae, which have methods of their own, are as they were; a class that inherits one of the
    replaced methods sees the replacement. Signatures and reductions are the original's, the numbers too, to rounding,
    except that:

    * The noise is this package's (:mod:`aevb_ext.noise`): the same seed gives other samples than without the patch.
    * Losses of half precision come back in float32, and the KL does not cancel near the prior.
    * Probabilities outside [0, 1] under ``reconstruction_loss="bce"`` give NaN and no error.
    * ``BaseTrainer`` with ``amp=True`` keeps autocast on for these models under ``reconstruction_loss="bce"``, where
      pythae turns it off without a word, because ``binary_cross_entropy`` refuses autocast on a GPU. (It is
      ``torch.autocast("cuda")`` in either case, which does nothing on the CPU.)

    Raises:
        NotInstalled, UnknownVersion, AlreadyPatched: see :mod:`aevb_ext.integrations`.
    """
    require("pythae", VERSIONS)
    from pythae.models import IWAE, VAE, BetaVAE
    from pythae.trainers import BaseTrainer

    losses = {VAE: _vae_loss, BetaVAE: _beta_vae_loss, IWAE: _iwae_loss}
    replacements = [Replacement(model, "loss_function", loss) for model, loss in losses.items()]
    replacements += [Replacement(model, "_sample_gauss", _sample_gauss) for model in losses]
    replacements.append(Replacement(BaseTrainer, "__init__", _trainer_init(BaseTrainer.__init__, tuple(losses))))
    return Patch("pythae", replacements)


def _sample_gauss(self, mu, std):
    if mu.shape != std.shape:
        return NotImplemented
    mu, std = _promoted(mu, std)
    key = noise_key(mu.device)
    # pythae's own forward drops eps, but others who call the method may not.
    eps = rsample(torch.zeros_like(mu), mu.new_ones(()), key=key, spread="std")
    return rsample(mu, std, key=key, spread="std"), eps


def _vae_loss(self, recon_x, x, mu, log_var, z, *, beta=1.0):
    kind = self.model_config.reconstruction_loss
    if kind not in _RECONSTRUCTION_LOSSES or mu.dim() != 2:
        return NotImplemented
    x = x.reshape(x.shape[0], -1)
    recon_loss = _RECONSTRUCTION_LOSSES[kind](recon_x.reshape(x.shape[0], -1), x, "mean")
    kld = gaussian_kl(*_promoted(mu, log_var), reduction="mean")
    return recon_loss + beta * kld, recon_loss, kld


def _beta_vae_loss(self, recon_x, x, mu, log_var, z):
    return _vae_loss(self, recon_x, x, mu, log_var, z, beta=self.beta)


def _iwae_loss(self, recon_x, x, mu, log_var, z):
    """Everything is ``[B, n_samples, ...]``, but the data, which are not repeated here."""
    kind = self.model_config.reconstruction_loss
    if kind not in _RECONSTRUCTION_LOSSES:
        return NotImplemented
    x = x.reshape(x.shape[0], -1)
    recon_loss = _RECONSTRUCTION_LOSSES[kind](recon_x.transpose(0, 1), x, "sample").T
    z, mu, log_var = _promoted(z, mu, log_var)
    # Both without their log(2 pi), as pythae has them; z^2 / 2 is the KL of N(z, 1) to N(0, 1).
    log_q_z = gaussian_log_prob(z, mu, log_var, batch_dims=2) + 0.5 * math.log(2 * math.pi) * z.shape[-1]
    kld = log_q_z + gaussian_kl(z, z.new_zeros(()), batch_dims=2)
    log_w = -(recon_loss + kld)
    w_tilde = log_w.detach().softmax(1)
    return -(w_tilde * log_w).sum(1).mean(), recon_loss.mean(), kld.mean()


def _bce(recon, x, reduction):
    return -bernoulli_log_prob_of_probs(x, recon, reduction=reduction)


def _mse(recon, x, reduction):
    """Half the squared error, as the KL of two Gaussians of unit variance: a log-likelihood has its log(2 pi) besides,
    in which a small error would be lost."""
    recon, x = _promoted(recon, x)
    return gaussian_kl(recon, recon.new_zeros(()), x, reduction=reduction, batch_dims=recon.dim() - 1)


_RECONSTRUCTION_LOSSES = {"mse": _mse, "bce": _bce}


def _trainer_init(original, models):
    def __init__(self, model, train_dataset, eval_dataset=None, training_config=None, callbacks=None):
        loss_is_ours = any(type(model).loss_function is m.loss_function for m in models)
        amp = training_config is not None and training_config.amp
        if not (loss_is_ours and amp and model.model_config.reconstruction_loss == "bce"):
            return NotImplemented
        original(self, model, train_dataset, eval_dataset, training_config, callbacks)
        self.amp_context = torch.autocast("cuda")

    return __init__


def _promoted(*tensors: Tensor) -> list[Tensor]:
    """In the widest of their dtypes, as the original's arithmetic has them; under autocast they may differ."""
    dtype = functools.reduce(torch.promote_types, [t.dtype for t in tensors])
    return [t.to(dtype) for t in tensors]
