"""diffusers: its ``DiagonalGaussianDistribution``, the posterior of every AutoencoderKL, on the fused operators.

    import aevb_ext.integrations.diffusers

    with aevb_ext.integrations.diffusers.patch():
        posterior = vae.encode(images).latent_dist
        loss = ... + posterior.kl().mean()

Some thirty files of diffusers import the class by name, so its methods are replaced rather than the class. ``mode()``
returns the mean and needs no operator. ``__init__`` clamps logvar to [-30, 20] and computes ``std`` and ``var``; it
stays, since those are public attributes, and instances may outlive the patch.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .._arguments import FLOATING
from ..functional import gaussian_kl, gaussian_log_prob, noise_key, rsample
from ._patch import Patch, Replacement, are_dense, require

VERSIONS = ("0.42.1",)

IMAGE_DIMS = (1, 2, 3)  # the original sums over these, whatever the rank


def patch(*, strict: bool = True) -> Patch:
    """Replace ``sample``, ``kl`` and ``nll`` of ``DiagonalGaussianDistribution`` until the patch is undone.

    Signatures, gradients and dtypes stay the same. So do ``deterministic=True`` (the original's code runs), a generator
    on the posterior's device or on the CPU, and a list of generators, one for each data point. Two things differ:

    * The noise is this package's (:mod:`aevb_ext.noise`): a seed gives another latent than without the patch. With a
      list of generators a data point's latent does not depend on the batch that it is in.
    * Arithmetic is in float32 inside. The KL near the prior does not cancel, and a variance beyond float16 (logvar
      over 11) does not become inf if the result fits float16.

    Args:
        strict: True keeps the shapes, reductions, result dtypes and errors of the original. False gives the right
            answer where the original is wrong or fails: ``kl()`` and ``nll(sample)`` sum over all dimensions but the
            batch's. There is then one value per data point for latents of any rank: ``[B, C, T, H, W]`` videos, for
            which the original gives ``[B, W]``, and ``[B, C, T]`` audio and ``[B, C]``, for which it raises IndexError.
            Results are float32 for half latents, whose sums can exceed 65504.

    Raises:
        NotInstalled, UnknownVersion, AlreadyPatched: see :mod:`aevb_ext.integrations`.
    """
    require("diffusers", VERSIONS)
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    kl, nll = (_strict_kl, _strict_nll) if strict else (_kl, _nll)
    methods: dict[str, Callable[..., Any]] = {"sample": _sample, "kl": kl, "nll": nll}
    return Patch("diffusers", [Replacement(DiagonalGaussianDistribution, name, by) for name, by in methods.items()])


def _sample(self, generator=None):
    if not _is_mean_and_logvar(self):
        return NotImplemented
    mean, logvar = _parameters(self)
    key = _key(mean, generator)
    return NotImplemented if key is None else rsample(mean, logvar, key=key)


def _key(mean: Tensor, generator) -> Tensor | None:
    """The key for these generators; None if the original raises an error for them."""
    first = generator
    if isinstance(generator, list):
        if len(generator) == 1:
            first = generator = generator[0]  # one for the whole batch
        elif len(generator) < len(mean):
            return None
        else:
            generator = generator[: len(mean)]
            first = generator[0]
    if first is None or first.device.type == mean.device.type:
        return noise_key(mean.device, generator)
    return noise_key(first.device, generator).to(mean.device) if first.device.type == "cpu" else None


def _strict_kl(self, other=None):
    value = _kl_over(self, other, IMAGE_DIMS)
    return value if value is NotImplemented else value.to(_dtype(self))


def _kl(self, other=None):
    return _kl_over(self, other, None)


def _kl_over(self, other, dims):
    """The KL summed over ``dims``; None: over all but the batch's."""
    if not _is_mean_and_logvar(self):
        return NotImplemented
    dims = _event_dims(self.mean) if dims is None else dims
    if not _has(self.mean, dims):
        return NotImplemented
    rows = _Rows(self.mean, dims)
    prior: Iterable[Tensor] = ()
    if other is not None:
        if not _is_mean_and_logvar(other) or other.mean.shape != self.mean.shape or _dtype(other) != _dtype(self):
            return NotImplemented
        prior = map(rows, _parameters(other))
    return gaussian_kl(*map(rows, _parameters(self)), *prior, batch_dims=rows.batch_dims)


def _strict_nll(self, sample, dims=IMAGE_DIMS):
    if dims is None or not _is_mean_and_logvar(self) or not are_dense(sample):
        return NotImplemented
    dtype = torch.promote_types(sample.dtype, _dtype(self))
    if dtype == torch.float64 != _dtype(self):  # the original computes in the sample's
        return NotImplemented
    value = _nll_over(self, sample, dims)
    return value if value is NotImplemented else value.to(dtype)


def _nll(self, sample, dims=None):
    return _nll_over(self, sample, dims)


def _nll_over(self, sample, dims):
    """The negative log-likelihood, summed as in :func:`_kl_over`."""
    if not _is_mean_and_logvar(self) or not are_dense(sample):
        return NotImplemented
    if dims is None:
        dims = _event_dims(self.mean)
    dims = (dims,) if isinstance(dims, int) else tuple(dims)
    if not _has(self.mean, dims) or sample.shape != self.mean.shape or not sample.is_floating_point():
        return NotImplemented
    rows = _Rows(self.mean, dims)
    mean, logvar = map(rows, _parameters(self))
    return -gaussian_log_prob(rows(sample), mean, logvar, batch_dims=rows.batch_dims)


class _Rows:
    """Brings the dimensions that are kept to the front, where an operator expects its data points."""

    def __init__(self, t: Tensor, dims: tuple[int, ...]):
        summed = {d % t.dim() for d in dims}
        kept = [d for d in range(t.dim()) if d not in summed]
        self.batch_dims = len(kept)
        self.order = (*kept, *sorted(summed))

    def __call__(self, t: Tensor) -> Tensor:
        return t.permute(self.order)


def _is_mean_and_logvar(q) -> bool:
    """Whether mean and logvar determine q: a subclass's ``__init__`` may have set another std, or neither of them."""
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    if type(q).__init__ is not DiagonalGaussianDistribution.__init__ or q.deterministic:
        return False
    return are_dense(q.mean, q.logvar, q.var) and _dtype(q) in FLOATING


def _event_dims(mean: Tensor) -> tuple[int, ...]:
    return tuple(range(1, mean.dim()))


def _has(t: Tensor, dims: tuple[int, ...]) -> bool:
    """Whether these are dimensions of t, each once. (To torch.sum an empty tuple would mean all of them.)"""
    return bool(dims) and all(-t.dim() <= d < t.dim() for d in dims) and len({d % t.dim() for d in dims}) == len(dims)


def _parameters(self) -> tuple[Tensor, Tensor]:
    return self.mean.to(_dtype(self)), self.logvar.to(_dtype(self))


def _dtype(self) -> torch.dtype:
    """The dtype of the original's results: under autocast, exp may have turned half parameters into float32."""
    return torch.promote_types(self.mean.dtype, self.var.dtype)
