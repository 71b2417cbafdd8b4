"""Noise keys, reparameterised samples (with their KL in the same pass) and binarised data."""

import itertools

import torch
from torch import Tensor

from .. import _fallback, _library
from .._arguments import explain, sizes
from .._library import ops
from .._types import Device, Generators
from ..noise import keys_of


def noise_key(device: Device | None = None, generator: Generators | None = None) -> Tensor:
    """Draw a noise key. Given a key, the random functions here are pure functions of their tensors.

    The key comes from ``generator`` (default: PyTorch's own for ``device``), so ``torch.manual_seed`` and
    ``torch.Generator`` work as usual: the same generator state gives the same key, and each call advances the state.
    On CUDA the draw is safe under graph capture: each replay draws a new key.

    Args:
        device: where the key is to be used. Default: the generator's device, or PyTorch's default device.
        generator: a ``torch.Generator`` on that device, or a list of them, one for each data point.

    Returns:
        int64 ``[2]`` on ``device``: ``(seed, offset)``; :mod:`aevb_ext.noise` defines the noise that it stands for.
        For a list of generators, ``[len(generator), 2]``.

    Raises:
        ValueError: the generator is on another device.
    """
    try:
        return _fresh_key(_device(device, generator), generator)
    except Exception:
        explain(noise_key, locals())
        raise


def rsample(
    mu: Tensor,
    logvar: Tensor,
    *,
    n_samples: int | None = None,
    first_sample: int = 0,
    key: Tensor | None = None,
    generator: Generators | None = None,
    spread: str = "logvar",
) -> Tensor:
    r"""Reparameterised samples :math:`z = \mu + \sigma \epsilon`, :math:`\epsilon \sim N(0, I)` (section 2.4).

    The backward draws the noise again from the key, so neither :math:`\epsilon` nor :math:`\sigma` is kept.

    Args:
        mu: ``[B, *event]``, floating.
        logvar: the spread, of mu's dtype and shape, or broadcasting to it.
        n_samples: ``L >= 1`` samples of each data point in a new leading dimension; None: one, without it.
        first_sample: ``s >= 0``, the index of the first sample: the result is samples s ... s + L - 1 of those that
            ``n_samples=s + L`` gives, bit for bit, so that many samples can be drawn a few at a time.
        key: the noise key ``[2]`` (:func:`noise_key`), or one for each data point, ``[*batch, 2]`` where ``batch`` are
            the first sizes of mu. The noise of data point b depends on ``key[b]`` alone, not on the batch that it is
            in. Default: a fresh ``[2]`` from ``generator``.
        generator: draws a fresh key; it cannot be given together with ``key``. A list of generators gives each data
            point of the first dimension a key of its own. (torch.compile cannot trace a Generator: draw the key
            outside, ``key=noise_key(generator=...)``. Without either, the key is drawn inside as in eager mode.)
        spread: the parameterisation of ``logvar``.

    Returns:
        z, of mu's dtype: ``[B, *event]``, or ``[n_samples, B, *event]``. Differentiable in mu and logvar.

    Raises:
        ValueError: shapes, devices, the key, ``n_samples``, ``first_sample`` or ``spread`` do not fit.
        TypeError: a dtype is not floating, or the dtypes differ.
    """
    try:
        if mu.device.type not in _library.KERNELS:
            return _fallback.rsample(
                mu,
                logvar,
                key_for(mu, key, generator),
                n_samples=n_samples,
                first_sample=first_sample,
                spread=spread,
            )
        result: Tensor = ops.rsample(mu, logvar, key_for(mu, key, generator), n_samples, first_sample, spread)
        return result
    except Exception:
        explain(rsample, locals())
        raise


def rsample_kl(
    mu: Tensor,
    logvar: Tensor,
    *,
    n_samples: int | None = None,
    first_sample: int = 0,
    key: Tensor | None = None,
    generator: Generators | None = None,
    spread: str = "logvar",
    reduction: str = "sample",
    batch_dims: int = 1,
) -> tuple[Tensor, Tensor]:
    """:func:`rsample` and :func:`gaussian_kl` to N(0, I) in one pass over the posterior's parameters.

    Mean and spread are read once for both results, and their gradients are written once.

    Args:
        mu, logvar, n_samples, first_sample, key, generator, spread: as in :func:`rsample`.
        reduction, batch_dims: as in :func:`gaussian_kl`. Keys ``[*batch, 2]`` may have at most ``batch_dims``
            dimensions in ``batch``.

    Returns:
        ``(z, kl)``: z as :func:`rsample` gives it for the same key, kl as :func:`gaussian_kl` gives it.

    Raises:
        ValueError, TypeError: as those two do.
    """
    try:
        if mu.device.type not in _library.KERNELS:
            return _fallback.rsample_kl(
                mu,
                logvar,
                key_for(mu, key, generator),
                n_samples=n_samples,
                first_sample=first_sample,
                spread=spread,
                reduction=reduction,
                batch_dims=batch_dims,
            )
        result: tuple[Tensor, Tensor] = ops.rsample_kl(
            mu, logvar, key_for(mu, key, generator), n_samples, first_sample, spread, reduction, batch_dims
        )
        return result
    except Exception:
        explain(rsample_kl, locals())
        raise


def binarize(
    x: Tensor, key: Tensor | None = None, *, generator: Generators | None = None, x_scale: float = 1.0
) -> Tensor:
    """Draw each element as a bit that is 1 with probability ``x * x_scale``: dynamic binarisation of grey data.

    A bit is a pure function of its probability, its key and its index: the same on every device and instruction set,
    and with a key for each data point the same in every batch. It is 1 if its word of the key's noise
    (:mod:`aevb_ext.noise`) is below ``x * (x_scale * 2^32)``; each of the two products is rounded once, in float32
    (float64 for float64). Hence the probability is exact to 2^-32; probability 0 never gives a 1, and probability 1
    always does. Burda et al. 2016 (IWAE) trained on such draws, made anew in each epoch.

    Args:
        x: data ``[B, *event]``: any float dtype, bool or uint8. Values below 0 count as 0, values above 1 as 1, and NaN
            as 0, since an error would make the host wait for the device.
        key: the noise key ``[2]``, or one for each data point, ``[*batch, 2]`` where ``batch`` are the first sizes of
            x. :func:`rsample` makes its normals from the same words of a key, so data and latents need different keys
            to be independent. Default: a fresh ``[2]`` from ``generator``.
        generator: draws a fresh key; it cannot be given together with ``key``. As in :func:`rsample`.
        x_scale: x is multiplied by it inside the kernel (1/255 for grey bytes).

    Returns:
        uint8 of x's shape: 0 and 1. Not differentiable.

    Raises:
        ValueError: the key's shape or device does not fit.
        TypeError: a dtype is not supported.
    """
    try:
        if x.device.type not in _library.KERNELS:
            return _fallback.binarize(x, key_for(x, key, generator, "x"), x_scale=x_scale)
        result: Tensor = ops.binarize(x, key_for(x, key, generator, "x"), x_scale)
        return result
    except Exception:
        explain(binarize, locals())
        raise


def _device(device: Device | None, generator: Generators | None) -> torch.device:
    if device is not None:
        return torch.device(device)
    if isinstance(generator, (list, tuple)):
        generator = generator[0] if generator else None
    return generator.device if generator is not None else torch.get_default_device()


def _fresh_key(device: Device | None, generator: Generators | None) -> Tensor:
    if torch.jit.is_tracing():
        return _traced_key(device, generator)
    if isinstance(generator, (list, tuple)):
        return keys_of(generator, ops.noise_key, device)
    result: Tensor = ops.noise_key(
        device=device, generator=generator, call=_call_number() if torch.compiler.is_compiling() else 0
    )
    return result


def _traced_key(device: Device | None, generator: Generators | None) -> Tensor:
    """Draw the key by other operators: torch.jit.trace cannot record one that has a device among its arguments.

    On the CPU it is the same key. On CUDA it is another one, from the same generator.
    """
    if generator is not None:
        raise ValueError(
            "torch.jit.trace does not trace a generator: draw the key outside, noise_key(generator=...), and make it "
            "an input of the traced function"
        )
    seed = torch.empty(1, dtype=torch.int64, device=device).random_(-(2**63), None)  # all 64 bits
    return torch.cat([seed, torch.zeros_like(seed)])


_calls = itertools.count(1)


def _call_number() -> int:
    """A different number for each draw in a compiled graph: the partitioner merges calls with equal arguments."""
    return next(_calls)


# torch.compiler.assume_constant_result sets this too, but imports the compiler, which takes longer than importing this
# package.
_call_number._dynamo_marked_constant = True  # type: ignore[attr-defined]  # any function has attributes


def key_for(points: Tensor, key: Tensor | None, generator: Generators | None, name: str = "mu") -> Tensor:
    """The key that :func:`rsample` uses, given these arguments; not public."""
    if key is None:
        if isinstance(generator, (list, tuple)) and sizes(points.shape)[:1] != (len(generator),):
            raise ValueError(
                f"generator is a list of {len(generator)}, but {name} has shape {list(points.shape)}: expected a "
                "generator for each data point of its first dimension"
            )
        return _fresh_key(points.device, generator)
    if generator is not None:
        raise ValueError("key and generator were both given: the key alone determines the noise, give one of them")
    return key
