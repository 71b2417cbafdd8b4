"""The ELBO operations between a VAE's encoder and its loss.

All functions share these conventions:

* The first ``batch_dims`` dimensions (``B``) of a tensor with one row per data point index the *data points*; all
  later dimensions are the *event*. Dimensions before ``B`` are Monte Carlo samples (``*samples``).
* ``spread`` says how every spread argument (``logvar``, ``prior_logvar``) is parameterised: ``"logvar"`` (log sigma^2,
  the default), ``"log_std"``, ``"std"`` or ``"var"``.
* ``reduction`` is ``"sample"`` (sum over the event: one value per data point and sample; the default), ``"none"``
  (elementwise), ``"sum"`` (over everything) or ``"mean"`` (the mean of the per-sample sums, which is what the ELBO of
  a minibatch is).
* float64, float32, bfloat16 and float16 are accepted. Arithmetic is in float32 (float64 for float64), values come
  back in that type, gradients in the type of their input.
* The operands of a call (all but the data ``x``) have one dtype. Under ``torch.autocast`` they may differ: they are
  promoted to the widest of their dtypes, and each gradient has the dtype of its operand.
* Nothing here synchronises with the host, and the same inputs give the same bits.
* Under ``torch.func.vmap`` a vmapped ``key`` gives each element its own noise, and one that is not vmapped gives all
  elements the same noise. If no ``key`` is given, ``randomness`` means what it means for ``torch.randn``: ``"error"``
  (vmap's default) raises RuntimeError, ``"same"`` draws one key for all elements, and ``"different"`` draws one for
  each, the same keys that a loop over the elements would draw.

All values are in nats. Equation numbers are those of Kingma & Welling 2014 (arXiv 1312.6114).
"""

import itertools

import torch
from torch import Tensor

from . import _fallback
from ._arguments import explain, sizes
from ._library import KERNELS, ops
from ._types import Device, Generators
from .noise import keys_of

__all__ = [
    "bernoulli_log_prob",
    "bernoulli_log_prob_of_probs",
    "binarize",
    "gaussian_kl",
    "gaussian_log_prob",
    "halves",
    "linear_bernoulli_log_prob",
    "linear_gaussian_log_prob",
    "noise_key",
    "rsample",
    "rsample_kl",
    "unpack_bits",
]


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


def halves(params: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Split a packed tensor into means and spreads: ``params.chunk(2, dim)`` without chunk's copy in the backward.

    The operators here read the halves without a copy. On the CPU they write the gradients of both halves side by side,
    so that together these *are* the gradient of ``params``. chunk's own backward copies the two gradients into new
    memory, which takes longer than computing them.

    Args:
        params: ``[..., 2 * size, ...]``, of any dtype.
        dim: the dimension that has the two halves.

    Returns:
        ``(first, second)``: views, as chunk gives them.

    Raises:
        IndexError: there is no such dimension.
        ValueError: it has an odd size.
    """
    try:
        if not KERNELS:
            return _fallback.halves(params, dim)
        result: tuple[Tensor, Tensor] = ops.halves(params, dim)
        return result
    except Exception:
        explain(halves, locals())
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
        if mu.device.type not in KERNELS:
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


def gaussian_kl(
    mu: Tensor,
    logvar: Tensor,
    prior_mu: Tensor | None = None,
    prior_logvar: Tensor | None = None,
    *,
    spread: str = "logvar",
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r"""Analytic :math:`D_{KL}(N(\mu, \sigma^2) \| N(\mu_p, \sigma_p^2))` of diagonal Gaussians (appendix B).

    .. math:: \tfrac12 \sum_j \left(e^{w_j} - 1 - w_j + (\mu_j - \mu_{p,j})^2 / \sigma_{p,j}^2\right),
              \quad w = \log \sigma^2 - \log \sigma_p^2

    It is computed without cancellation: accurate to a few ulp near the prior, and never negative.

    Args:
        mu: ``[B, *event]``, floating.
        logvar: the spread, of mu's dtype and shape, or broadcasting to it.
        prior_mu: the prior's mean, of mu's dtype, broadcasting to mu. None: 0.
        prior_logvar: the prior's spread, of mu's dtype, broadcasting to mu, in the same parameterisation as ``logvar``.
            None: unit variance.
        spread: the parameterisation of ``logvar`` and ``prior_logvar``.
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of mu index data points.

    Returns:
        KL in nats: ``[B]``; ``[B, *event]`` for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.

    Raises:
        ValueError: shapes, devices, ``spread``, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not floating, or the dtypes differ.
    """
    try:
        if mu.device.type not in KERNELS:
            return _fallback.gaussian_kl(
                mu, logvar, prior_mu, prior_logvar, spread=spread, reduction=reduction, batch_dims=batch_dims
            )
        result: Tensor = ops.gaussian_kl(mu, logvar, prior_mu, prior_logvar, spread, reduction, batch_dims)
        return result
    except Exception:
        explain(gaussian_kl, locals())
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
        if mu.device.type not in KERNELS:
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


def bernoulli_log_prob(
    x: Tensor,
    logits: Tensor,
    *,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r"""Bernoulli log-likelihood :math:`\log p(x | z)` of a decoder's logits (appendix C.1, eq. 11).

    .. math:: \sum_i x_i l_i - \log(1 + e^{l_i})

    x may be any number and is usually in [0, 1] (grey pixels as targets, as in the paper). Stable for all logits.

    Args:
        x: data ``[B, *event]``: any float dtype, bool or uint8. Broadcast over samples without a copy.
        logits: ``[*samples, B, *event]``, floating.
        x_scale: x is multiplied by it inside the kernel (1/255 for grey bytes).
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.

    Returns:
        ``[*samples, B]``; the shape of logits for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in logits and in a floating x.

    Raises:
        ValueError: shapes, devices, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not supported.
    """
    try:
        if logits.device.type not in KERNELS:
            return _fallback.bernoulli_log_prob(x, logits, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims)
        result: Tensor = ops.bernoulli_log_prob(x, logits, x_scale, reduction, batch_dims)
        return result
    except Exception:
        explain(bernoulli_log_prob, locals())
        raise


def bernoulli_log_prob_of_probs(
    x: Tensor,
    probs: Tensor,
    *,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r"""Bernoulli log-likelihood :math:`\log p(x | z)` of a decoder that ends in a sigmoid (appendix C.1, eq. 11).

    .. math:: \sum_i x_i \log p_i + (1 - x_i) \log(1 - p_i)

    If you have the choice, use :func:`bernoulli_log_prob` with logits: a probability that has been rounded to 1 no
    longer says how large its logit was. Logarithms and gradients are limited as in
    ``torch.nn.functional.binary_cross_entropy``: each logarithm is at least -100, and the gradient by p is
    :math:`(x - p) / \max(p (1 - p), 10^{-12})`.

    Args:
        x: data ``[B, *event]``: any float dtype, bool or uint8. Broadcast over samples without a copy.
        probs: ``[*samples, B, *event]``, floating, in [0, 1]. A probability outside gives NaN, in the value and in the
            gradient by probs, rather than an error, for which the host would have to wait for the device.
        x_scale: x is multiplied by it inside the kernel (1/255 for grey bytes).
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.

    Returns:
        ``[*samples, B]``; the shape of probs for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in probs and in a floating x.

    Raises:
        ValueError: shapes, devices, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not supported.
    """
    try:
        if probs.device.type not in KERNELS:
            return _fallback.bernoulli_log_prob_of_probs(
                x, probs, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
            )
        result: Tensor = ops.bernoulli_log_prob_of_probs(x, probs, x_scale, reduction, batch_dims)
        return result
    except Exception:
        explain(bernoulli_log_prob_of_probs, locals())
        raise


def gaussian_log_prob(
    x: Tensor,
    mu: Tensor,
    logvar: Tensor,
    *,
    spread: str = "logvar",
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r"""Gaussian log-likelihood :math:`\log p(x | z)` of a decoder's mean and spread (appendix C.2, eq. 12).

    .. math:: -\tfrac12 \sum_i \log 2\pi + \log \sigma_i^2 + (x_i - \mu_i)^2 / \sigma_i^2

    Args:
        x: data ``[B, *event]``: any float dtype, bool or uint8. Broadcast over samples without a copy.
        mu: the decoder's mean ``[*samples, B, *event]``, floating.
        logvar: the decoder's spread, of mu's dtype and shape, or broadcasting to it (a learned scalar, one per
            feature, per channel, per data point); its gradient comes back in its own shape.
        spread: the parameterisation of ``logvar``.
        x_scale: x is multiplied by it inside the kernel (1/255 for grey bytes).
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.

    Returns:
        ``[*samples, B]``; the shape of mu for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        Differentiable in mu, logvar and a floating x.

    Raises:
        ValueError: shapes, devices, ``spread``, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not supported, or those of mu and logvar differ.
    """
    try:
        if mu.device.type not in KERNELS:
            return _fallback.gaussian_log_prob(
                x, mu, logvar, spread=spread, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
            )
        result: Tensor = ops.gaussian_log_prob(x, mu, logvar, spread, x_scale, reduction, batch_dims)
        return result
    except Exception:
        explain(gaussian_log_prob, locals())
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
        if x.device.type not in KERNELS:
            return _fallback.binarize(x, key_for(x, key, generator, "x"), x_scale=x_scale)
        result: Tensor = ops.binarize(x, key_for(x, key, generator, "x"), x_scale)
        return result
    except Exception:
        explain(binarize, locals())
        raise


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """The bits of packed binary data, a byte each: ``numpy.unpackbits(packed, axis=-1, count=n)``.

    Args:
        packed: uint8 ``[*batch, ceil(n / 8)]``, as ``numpy.packbits(bits, axis=-1)`` makes it: the first bit is the
            highest of the first byte.
        n: how many bits a row has.

    Returns:
        uint8 ``[*batch, n]``: 0 and 1.

    Raises:
        ValueError: the last size is not ``ceil(n / 8)``, or n is negative.
        TypeError: packed is not uint8.
    """
    try:
        if packed.device.type not in KERNELS:
            return _fallback.unpack_bits(packed, n)
        result: Tensor = ops.unpack_bits(packed, n)
        return result
    except Exception:
        explain(unpack_bits, locals())
        raise


def linear_bernoulli_log_prob(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r""":func:`bernoulli_log_prob` of a decoder's last layer :math:`h W^T + b`, without all its logits in memory.

    The logits are computed a block of rows at a time, turned into values and gradients while they are in the cache, and
    dropped. On the CPU, if the loss's gradient is one number for all rows and the same as in the steps before, value
    and gradients come from one pass, with the three matrix products of the two-step form. Otherwise the backward
    computes the logits again, which is a fourth product. Second derivatives are those of the two-step form, and take as
    much memory.

    Args:
        x: data ``[*batch, *event]`` with at least one dimension of event, ``D`` the last: any float dtype, bool or
            uint8. Broadcast over samples without a copy.
        h: the input of the layer, ``[*samples, *batch, *event[:-1], H]``, floating.
        weight: ``[D, H]``, of h's dtype.
        bias: ``[D]``, of h's dtype. None: 0.
        x_scale: x is multiplied by it inside the kernel (1/255 for grey bytes).
        reduction: ``"sample"`` | ``"none"`` | ``"sum"`` | ``"mean"``.
        batch_dims: how many dimensions of x index data points.

    Returns:
        ``[*samples, *batch]``; ``[*samples, *batch, *event]`` for ``"none"``; a scalar for ``"sum"`` and ``"mean"``.
        float32 (float64 for float64). Differentiable in h, weight, bias and a floating x. Under ``torch.autocast`` the
        layer is cast like ``nn.Linear``, and the likelihood stays in float32.

    Raises:
        ValueError: shapes, devices, ``reduction`` or ``batch_dims`` do not fit.
        TypeError: a dtype is not supported, or those of h, weight and bias differ.
    """
    try:
        if h.device.type not in KERNELS:
            return _fallback.linear_bernoulli_log_prob(
                x, h, weight, bias, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
            )
        result: Tensor = ops.linear_bernoulli_log_prob(x, h, weight, bias, x_scale, reduction, batch_dims)
        return result
    except Exception:
        explain(linear_bernoulli_log_prob, locals())
        raise


def linear_gaussian_log_prob(
    x: Tensor,
    h: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    logvar: Tensor | None = None,
    *,
    sigmoid: bool = False,
    x_scale: float = 1.0,
    reduction: str = "sample",
    batch_dims: int = 1,
) -> Tensor:
    r""":func:`gaussian_log_prob` of the mean and log sigma^2 that a decoder's last layer computes from h.

    Like :func:`linear_bernoulli_log_prob`, it never has all of the layer's output in memory.

    Args:
        x, h, x_scale, reduction, batch_dims: as in :func:`linear_bernoulli_log_prob`.
        weight: ``[2 * D, H]``: the rows of the mean, then those of log sigma^2. With ``logvar``, only the rows of the
            mean, ``[D, H]``.
        bias: ``[2 * D]``, or ``[D]`` with ``logvar``. None: 0.
        logvar: log sigma^2 that does not depend on h: ``[]``, ``[1]`` or ``[D]``, of h's dtype, or float32 beside a
            half-precision h.
        sigmoid: whether the mean is squashed to (0, 1), as the paper does (appendix C.2).

    Returns:
        As in :func:`linear_bernoulli_log_prob`; differentiable in logvar as well.

    Raises:
        ValueError, TypeError: as in :func:`linear_bernoulli_log_prob`; logvar's shape or dtype does not fit; without
            ``logvar``, weight has an odd number of rows.
    """
    try:
        if h.device.type not in KERNELS:
            return _fallback.linear_gaussian_log_prob(
                x, h, weight, bias, logvar, sigmoid=sigmoid, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
            )
        result: Tensor = ops.linear_gaussian_log_prob(
            x, h, weight, bias, logvar, sigmoid, x_scale, reduction, batch_dims
        )
        return result
    except Exception:
        explain(linear_gaussian_log_prob, locals())
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
