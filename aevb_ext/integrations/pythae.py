"""pythae: sampling and losses of its VAE, BetaVAE and IWAE on the fused operators.

    import aevb_ext.integrations.pythae

    with aevb_ext.integrations.pythae.patch():
        pipeline(train_data=...)  # or a BaseTrainer, or the model's forward

pythae's decoders end in a sigmoid, so its "bce" is the Bernoulli likelihood of probabilities.
"""

import math

import torch

from .._arguments import DATA, FLOATING
from .._dtypes import promoted
from ..functional import bernoulli_log_prob_of_probs, gaussian_kl, gaussian_log_prob, noise_key, rsample
from ._patch import Patch, Replacement, are_dense, require

VERSIONS = ("0.1.2",)


def patch() -> Patch:
    """Replace ``_sample_gauss`` and ``loss_function`` of VAE, BetaVAE and IWAE until the patch is undone.

    Other models of pythae have methods of their own and do not change; a class that inherits a replaced method gets the
    replacement. Signatures and reductions are the original's, and values agree up to rounding, with these exceptions:

    * The noise is this package's (:mod:`aevb_ext.noise`): the same seed gives other samples than without the patch.
    * Losses of half precision come back in float32, and the KL does not cancel near the prior.
    * Under ``reconstruction_loss="bce"``, data and probabilities outside [0, 1] raise ``binary_cross_entropy``'s error
      only on the CPU. On a GPU, where its check would make the device unusable for the process, such probabilities give
      NaN.
    * ``BaseTrainer`` with ``amp=True`` keeps autocast on for these models under ``reconstruction_loss="bce"``. pythae
      silently turns it off, because ``binary_cross_entropy`` refuses autocast on a GPU. (It is
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
    if not are_dense(mu, std) or mu.shape != std.shape:
        return NotImplemented
    mu, std = promoted(mu, std)
    if mu.dtype not in FLOATING:
        return NotImplemented
    key = noise_key(mu.device)
    # pythae's own forward drops eps, but other callers of the method may use it.
    eps = rsample(torch.zeros_like(mu), mu.new_ones(()), key=key, spread="std")
    return rsample(mu, std, key=key, spread="std"), eps


def _vae_loss(self, recon_x, x, mu, log_var, z, *, beta=1.0):
    if not are_dense(recon_x, x, mu, log_var) or mu.dim() != 2 or log_var.shape != mu.shape:
        return NotImplemented
    if mu.shape[:1] != x.shape[:1]:
        return NotImplemented
    recon_loss = _recon_loss(self, recon_x.reshape(x.shape[0], -1), x, "mean")
    if recon_loss is NotImplemented:
        return NotImplemented
    kld = gaussian_kl(*promoted(mu, log_var), reduction="mean")
    return recon_loss + beta * kld, recon_loss, kld


def _beta_vae_loss(self, recon_x, x, mu, log_var, z):
    return _vae_loss(self, recon_x, x, mu, log_var, z, beta=self.beta)


def _iwae_loss(self, recon_x, x, mu, log_var, z):
    """All arguments are ``[B, n_samples, ...]``; only x is not repeated."""
    if not are_dense(recon_x, x, mu, log_var, z) or recon_x.dim() != 3 or recon_x.shape[1] != self.n_samples:
        return NotImplemented
    if not recon_x.shape[:2] == z.shape[:2] or not z.shape == mu.shape == log_var.shape:
        return NotImplemented
    recon_loss = _recon_loss(self, recon_x.transpose(0, 1), x, "sample")
    if recon_loss is NotImplemented:
        return NotImplemented
    recon_loss = recon_loss.T
    z, mu, log_var = promoted(z, mu, log_var)
    # Both without log(2 pi), as in pythae; z^2 / 2 is the KL of N(z, 1) to N(0, 1).
    log_q_z = gaussian_log_prob(z, mu, log_var, batch_dims=2) + 0.5 * math.log(2 * math.pi) * z.shape[-1]
    kld = log_q_z + gaussian_kl(z, z.new_zeros(()), batch_dims=2)
    log_w = -(recon_loss + kld)
    w_tilde = log_w.detach().softmax(1)
    return -(w_tilde * log_w).sum(1).mean(), recon_loss.mean(), kld.mean()


def _recon_loss(self, recon, x, reduction):
    """The loss of reconstructions ``[*samples, B, pixels]`` of the data ``[B, ...]``."""
    loss = _RECONSTRUCTION_LOSSES.get(self.model_config.reconstruction_loss)
    x = x.reshape(x.shape[0], -1)
    if loss is None or x.shape != recon.shape[-2:] or recon.dtype not in FLOATING:
        return NotImplemented
    return loss(recon, x, reduction)


def _bce(recon, x, reduction):
    if x.dtype not in DATA:
        return NotImplemented
    loss = -bernoulli_log_prob_of_probs(x, recon, reduction=reduction)
    return NotImplemented if _is_refused(loss, x) else loss


def _is_refused(loss, x):
    """Whether binary_cross_entropy raises: on the CPU, for data or probabilities outside [0, 1].

    Such probabilities have made the loss NaN. On a GPU the host would have to wait, and in a trace or a transform there
    are no values to check.
    """
    if x.device.type != "cpu" or torch.compiler.is_compiling() or torch._C._functorch.maybe_current_level() is not None:
        return False
    if x.numel() == 0:
        return False
    low, high = x.aminmax()
    return not (0 <= low and high <= 1) or bool(loss.isnan().any())


def _mse(recon, x, reduction):
    """Half the squared error, as the KL of two Gaussians of unit variance. A log-likelihood would add log(2 pi), in
    which a small error would be lost."""
    recon, x = promoted(recon, x)
    return gaussian_kl(recon, recon.new_zeros(()), x, reduction=reduction, batch_dims=recon.dim() - 1)


_RECONSTRUCTION_LOSSES = {"mse": _mse, "bce": _bce}


def _trainer_init(original, models):
    def __init__(self, model, train_dataset, eval_dataset=None, training_config=None, callbacks=None):
        loss = getattr(type(model), "loss_function", None)  # flows have none; pythae requires only forward
        is_ours = "loss_function" not in vars(model) and any(loss is m.loss_function for m in models)
        amp = training_config is not None and training_config.amp
        if not (is_ours and amp and model.model_config.reconstruction_loss == "bce"):
            return NotImplemented
        original(self, model, train_dataset, eval_dataset, training_config, callbacks)
        self.amp_context = torch.autocast("cuda")

    return __init__
