"""The fused KL of diagonal Gaussians in the registry of ``torch.distributions.kl_divergence``."""

import functools
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl

from .._arguments import FLOATING
from ..functional import gaussian_kl
from ._patch import Replacement, are_dense

# The releases with which the code here was tested: it uses the registry, its cache and the two distributions.
TORCH_VERSIONS = ("2.11.0", "2.12.0", "2.12.1", "2.13.0", "2.14.1")

_NORMALS, _INDEPENDENTS = (Normal, Normal), (Independent, Independent)


class GaussianKl:
    """The two entries of ``torch.distributions.kl``'s registry that a patch replaces, and the registry's cache.

    A pair that the operator does not support (no Normals, a subclass with its own registered KL, integers) keeps its
    original KL.
    """

    def __init__(self):
        self._known = None  # the pairs that were cached before the patch; None while there is no patch
        self._ours = None  # the registry's function for a pair of Normals during the patch

    def replacements(self) -> list[Replacement]:
        return [
            Replacement(kl._KL_REGISTRY, _NORMALS, _normals, "kl_divergence(Normal, Normal)"),
            Replacement(kl._KL_REGISTRY, _INDEPENDENTS, self._independents, "kl_divergence(Independent, Independent)"),
        ]

    def on_change(self) -> None:
        """Update the cache to what the registry says now.

        torch's own ``register_kl`` empties the cache. That would change more than the patch did: torch.compile can
        trace kl_divergence of cached pairs, but not the search for a pair that is not cached.
        """
        if self._known is None:
            self._known, self._ours = list(kl._KL_MEMOIZE), kl._KL_REGISTRY[_NORMALS]
            pairs = dict.fromkeys([*self._known, _NORMALS, _INDEPENDENTS])
        else:
            pairs, self._known, self._ours = self._known, None, None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of an ambiguous pair: it was given at the first lookup
            memo = {pair: kl._dispatch_kl(*pair) for pair in pairs}
        kl._KL_MEMOIZE.clear()
        kl._KL_MEMOIZE.update(memo)

    def _independents(self, p: Independent, q: Independent) -> Tensor:
        dims, pair = p.reinterpreted_batch_ndims, (type(p.base_dist), type(q.base_dist))
        if dims != q.reinterpreted_batch_ndims or _registered(pair) is not self._ours:
            return NotImplemented
        return _fused(p.base_dist, q.base_dist, dims)


def _registered(pair: tuple[type, type]):
    """The function that kl_divergence calls for these types, cached as kl_divergence caches it."""
    if pair not in kl._KL_MEMOIZE:
        kl._KL_MEMOIZE[pair] = kl._dispatch_kl(*pair)
    return kl._KL_MEMOIZE[pair]


def _normals(p: Normal, q: Normal) -> Tensor:
    return _fused(p, q, 0)


def _fused(p: Normal, q: Normal, event_dims: int) -> Tensor:
    """The KL of two Normals, summed over the last ``event_dims`` dimensions of what they broadcast to."""
    parameters: Sequence[Tensor] = (p.loc, p.scale, q.loc, q.scale)
    if not are_dense(*parameters):
        return NotImplemented
    dtype, device = p.loc.dtype, p.loc.device
    if any(t.dtype != dtype or t.device != device for t in parameters):
        dtype, device = _deciding(parameters)
        parameters = [_as_operand(t, dtype, device) for t in parameters]
    if dtype not in FLOATING:
        return NotImplemented
    mu, std, prior_mu, prior_std = parameters
    if prior_mu.shape != mu.shape:
        try:
            mu = mu.expand(torch.broadcast_shapes(mu.shape, prior_mu.shape))
        except RuntimeError:
            return NotImplemented
    value = gaussian_kl(
        mu,
        std,
        prior_mu,
        prior_std,
        spread="std",
        reduction="sample" if event_dims else "none",
        batch_dims=mu.dim() - event_dims,
    )
    # The operator returns float32 for half precision. Under autocast the original computes in float32 too.
    return value if value.dtype == dtype or _autocast(device.type) else value.to(dtype)


def _deciding(parameters: Sequence[Tensor]) -> tuple[torch.dtype, torch.device]:
    """The result's dtype and device by PyTorch's rules: scalar tensors do not count beside others."""
    deciding = [t for t in parameters if t.dim()] or parameters
    dtype = functools.reduce(torch.promote_types, [t.dtype for t in deciding])
    return dtype, next((t.device for t in deciding if t.device.type != "cpu"), deciding[0].device)


def _as_operand(t: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    if t.device != device and t.dim() == 0:
        # `Normal(0.0, 1.0)` is on the CPU, wherever the other distribution is. An arithmetic operation passes such a
        # scalar to its kernel as an argument, where `to` would copy it to the device.
        t = torch.zeros((), device=device, dtype=dtype) + t
    return t.to(dtype)


def _autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
