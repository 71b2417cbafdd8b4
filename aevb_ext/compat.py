"""PyTorch's own losses on these operators: the same names, arguments and defaults, so that only an import changes.

With ``import aevb_ext.compat as F``, a call of ``F.binary_cross_entropy(...)`` stays as it is. Each function is one
pass over memory in the forward and one in the backward, except where its docstring says otherwise. All functions differ
from PyTorch's in this:

* Values are computed in float32 (float64 for float64) and rounded once to the dtype of the inputs, as in PyTorch.
  Under autocast they stay float32, and every function is allowed.
* Targets may be bool, uint8 or of another floating dtype than the input.
* Values are never checked on the host. PyTorch checks them, at the cost of waiting for the device, and raises. Here a
  probability or variance out of range gives NaN in its own element, and in every sum that includes it. A target outside
  [0, 1] is used as it is.
* ``weight`` and ``pos_weight`` may require gradients.
* Forward-mode derivatives raise an error that names them: ``torch.func.jvp``, ``jacfwd``, and so ``hessian``
  (``jacrev`` of ``jacrev`` gives the same). ``torch.fx.symbolic_trace`` and ``torch.jit.script`` raise too.
  ``torch.jit.trace`` and ``torch.export`` work.
"""

import math
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from . import functional
from ._arguments import (
    DATA,
    SIGNED,
    broadcast_shape,
    check_dtype,
    described,
    explain,
    instance,
    is_number,
    number,
    sizes,
    tensor,
)
from ._dtypes import promoted, widened

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "gaussian_nll_loss",
    "reparameterize",
    "vae_loss",
]


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    r"""``torch.nn.functional.binary_cross_entropy_with_logits``: minus :func:`aevb_ext.bernoulli_log_prob`.

    .. math:: -w \left(p\, x \log \sigma(l) + (1 - x) \log \sigma(-l)\right)

    ``weight`` :math:`w` or ``pos_weight`` :math:`p` costs some more passes: elementwise values are weighted, then
    reduced. ``pos_weight`` is exact for large negative logits too, where PyTorch takes the difference of two terms.

    Args:
        input: logits of any shape, floating.
        target: of the input's shape, any number, usually in [0, 1].
        weight: broadcasting to the input's shape.
        size_average, reduce: deprecated; they override ``reduction``, as in PyTorch.
        reduction: ``"mean"`` (over *all elements*: this is not the ELBO of a minibatch) | ``"sum"`` | ``"none"``.
        pos_weight: weight of the positive term, broadcasting to the input's shape.

    Returns:
        A scalar, or the input's shape for ``"none"``.

    Raises:
        ValueError: shapes, devices or ``reduction`` do not fit.
        TypeError: a dtype is not supported.
    """
    try:
        reduction = _reduction(size_average, reduce, reduction)
        logits, dtype = _bernoulli(input, target, weight=weight, pos_weight=pos_weight)
        if pos_weight is None:
            return _loss(functional.bernoulli_log_prob, target, logits, reduction, weight).to(dtype)
        # With a = p x and b = 1 - x the loss is (a + b) log(1 + e^-|l|) + b l, or - a l where l <= 0: nothing cancels.
        # The operator gives minus that logarithm for the likelier of the targets 0 and 1.
        wide = torch.promote_types(logits.dtype, torch.float32)
        logits = widened(logits, wide)  # logits get two gradients: only their sum is rounded
        likelier = logits > 0
        log_likelier = functional.bernoulli_log_prob(
            likelier, logits, reduction="none", batch_dims=min(1, logits.dim())
        )
        x = target.to(log_likelier.dtype)
        positive, negative = _wide_weight(pos_weight, x.dtype) * x, 1 - x
        slope = torch.where(likelier, negative, -positive)
        losses = torch.addcmul(slope * logits, positive + negative, log_likelier, value=-1)
        return _reduce(losses, reduction, weight).to(dtype)
    except Exception:
        explain(binary_cross_entropy_with_logits, locals(), **_KINDS)
        raise


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Tensor:
    r"""``torch.nn.functional.binary_cross_entropy``: minus :func:`aevb_ext.bernoulli_log_prob_of_probs`.

    .. math:: -w \left(x \max(\log p, -100) + (1 - x) \max(\log(1 - p), -100)\right)

    It is allowed under autocast. PyTorch refuses it there on CUDA because of half precision; here the arithmetic is in
    float32, and so is the gradient's smallest denominator of 1e-12, which is 0 in PyTorch's float16. The logarithms in
    the gradient by the target are at least -100 too, where PyTorch's gradient is infinite at 0 and 1. A probability
    outside [0, 1] gives NaN, where PyTorch raises a RuntimeError (and on a GPU stops the program). ``weight`` costs
    some more passes.

    Args:
        input: probabilities of any shape, floating, in [0, 1].
        target: of the input's shape, usually in [0, 1].
        weight: broadcasting to the input's shape.
        size_average, reduce: deprecated; they override ``reduction``, as in PyTorch.
        reduction: ``"mean"`` (over *all elements*: this is not the ELBO of a minibatch) | ``"sum"`` | ``"none"``.

    Returns:
        A scalar, or the input's shape for ``"none"``.

    Raises:
        ValueError: shapes, devices or ``reduction`` do not fit.
        TypeError: a dtype is not supported.
    """
    try:
        reduction = _reduction(size_average, reduce, reduction)
        probs, dtype = _bernoulli(input, target, weight=weight)
        return _loss(functional.bernoulli_log_prob_of_probs, target, probs, reduction, weight).to(dtype)
    except Exception:
        explain(binary_cross_entropy, locals(), **_KINDS)
        raise


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    r"""``torch.nn.functional.gaussian_nll_loss``: minus :func:`aevb_ext.gaussian_log_prob` of a variance.

    .. math:: \tfrac12 \left(\log \max(\sigma^2, \epsilon) + (x - \mu)^2 / \max(\sigma^2, \epsilon)\right)
              \quad [\, + \tfrac12 \log 2\pi \text{ if full} \,]

    The floor ``eps`` does not stop gradients to ``var``, as in PyTorch. It costs extra passes over ``var``;
    :func:`aevb_ext.gaussian_log_prob` of a logvar needs no floor. A negative variance in a tensor gives NaN, where
    PyTorch raises a ValueError after waiting for the device.

    Args:
        input: means, floating.
        target: data, broadcasting with the input.
        var: variances of the input's shape, or of that with the last dimension left out or with a single dimension of
            size 1, or one number for all.
        full: add the constant.
        eps: the least variance.
        reduction: ``"mean"`` (over *all elements*: this is not the ELBO of a minibatch) | ``"sum"`` | ``"none"``.

    Returns:
        A scalar, or the broadcast shape for ``"none"``.

    Raises:
        ValueError: shapes, devices or ``reduction`` do not fit, or ``var`` is a negative number.
        TypeError: a dtype is not supported.
    """
    try:
        reduction = _reduction(None, None, reduction)
        check_dtype("input", input)
        if isinstance(var, Tensor):
            check_dtype("var", var)
            _check_device(input, var=var)
            var = _floored_var(eps, _broadcastable_var(input, var))
        elif var < 0:
            raise ValueError(f"var has negative entry/entries: expected a variance, got {var}")
        else:
            var = input.new_full((), max(var, eps))
        _check_device(input, target=target)
        x = target.to(input.dtype) if target.dtype in SIGNED else target  # PyTorch's loss takes integers too
        check_dtype("target", x, data=True)
        dtype = _result_dtype(input, x, var)
        arithmetic = dtype if dtype == torch.float64 else torch.promote_types(input.dtype, var.dtype)
        mu, x = _broadcast(input=widened(input, arithmetic), target=x)
        log_prob = partial(functional.gaussian_log_prob, logvar=widened(var, arithmetic), spread="var")
        return _loss(log_prob, x, mu, reduction, offset=0.0 if full else -0.5 * math.log(2 * math.pi)).to(dtype)
    except Exception:
        explain(gaussian_nll_loss, locals(), **_KINDS, target=tensor(*DATA, *SIGNED), var=_check_var)
        raise


def reparameterize(mu: Tensor, logvar: Tensor) -> Tensor:
    r"""``reparameterize`` of PyTorch's VAE example: :func:`aevb_ext.rsample`, :math:`z = \mu + e^{v/2} \epsilon`.

    The noise is not the one that ``torch.randn_like`` draws from the same seed. Each element of z has its own noise,
    also where ``logvar`` is broadcast.

    Args:
        mu: ``[B, *event]``, floating.
        logvar: of the same shape, or broadcasting with it.

    Returns:
        z, of the broadcast shape and the wider of both dtypes.

    Raises:
        ValueError: shapes or devices do not fit.
        TypeError: a dtype is not floating.
    """
    try:
        mu, logvar = _posterior_parameters(mu, logvar)
        return functional.rsample(mu, logvar)
    except Exception:
        explain(reparameterize, locals())
        raise


def vae_loss(recon_x: Tensor, x: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    r"""``loss_function`` of PyTorch's VAE example: reconstruction and KL to N(0, I), summed over the minibatch.

    .. math:: -\sum x \log \hat x + (1 - x) \log(1 - \hat x)
              \; - \tfrac12 \sum 1 + v - \mu^2 - e^v

    It is :func:`aevb_ext.gaussian_kl` minus :func:`aevb_ext.bernoulli_log_prob_of_probs`. The KL keeps its digits near
    the prior, and the whole loss is allowed under autocast. A reconstruction outside [0, 1] gives NaN, where the
    example raises a RuntimeError.

    Args:
        recon_x: probabilities, ``[B, 784]`` in the example, of any shape here.
        x: data in [0, 1], with as many elements; it is viewed in recon_x's shape.
        mu, logvar: the posterior's, of any shape.

    Returns:
        A scalar in nats, the sum over all data points; float32 for half-precision inputs, since float16 ends at 65504.

    Raises:
        ValueError: x has another number of elements; shapes or devices do not fit.
        TypeError: a dtype is not supported.
    """
    try:
        check_dtype("recon_x", recon_x)
        if sizes((x.numel(),)) != sizes((recon_x.numel(),)):
            raise ValueError(
                f"x must have as many elements as recon_x: got shapes {tuple(x.shape)} and {tuple(recon_x.shape)}"
            )
        mu, logvar = _posterior_parameters(mu, logvar)
        x = x.reshape(recon_x.shape)
        log_prob = functional.bernoulli_log_prob_of_probs(x, recon_x, reduction="sum", batch_dims=min(1, x.dim()))
        return functional.gaussian_kl(mu, logvar, reduction="sum", batch_dims=min(1, mu.dim())) - log_prob
    except Exception:
        explain(vae_loss, locals())
        raise


def _bernoulli(input: Tensor, target: Tensor, **weights: Tensor | None) -> tuple[Tensor, torch.dtype]:
    """Check the arguments of both cross entropies; return the input for the operator and the dtype of the result."""
    check_dtype("input", input)
    check_dtype("target", target, data=True)
    if sizes(target.shape) != sizes(input.shape):
        raise ValueError(f"target must be of input's shape {tuple(input.shape)}, got {tuple(target.shape)}")
    given = {name: weight for name, weight in weights.items() if weight is not None}
    _check_device(input, target=target, **given)
    for name, weight in given.items():
        pairs = zip(reversed(sizes(weight.shape)), reversed(sizes(input.shape)), strict=False)
        if weight.dim() > input.dim() or any(own not in (1, size) for own, size in pairs):
            raise ValueError(f"{name} must broadcast to input's shape {tuple(input.shape)}, got {tuple(weight.shape)}")
    dtype = _result_dtype(input, target)
    return widened(input, dtype) if dtype == torch.float64 else input, dtype


def _loss(
    log_prob: Callable[..., Tensor],
    x: Tensor,
    parameter: Tensor,
    reduction: str,
    weight: Tensor | None = None,
    offset: float = 0.0,
) -> Tensor:
    """``offset`` minus a log-likelihood for each element, reduced as PyTorch's losses are."""
    batch_dims = min(1, x.dim())
    if weight is not None or reduction == "none":
        return _reduce(offset - log_prob(x, parameter, reduction="none", batch_dims=batch_dims), reduction, weight)
    total = log_prob(x, parameter, reduction="sum", batch_dims=batch_dims)
    return offset - total / x.numel() if reduction == "mean" else offset * x.numel() - total


def _reduce(losses: Tensor, reduction: str, weight: Tensor | None) -> Tensor:
    if weight is not None:
        losses = losses * _wide_weight(weight, losses.dtype)
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


def _wide_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight in the dtype of the losses: its gradient, a sum if the weight broadcasts, is rounded once."""
    return widened(weight, torch.promote_types(weight.dtype, dtype)) if weight.is_floating_point() else weight


def _reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    if size_average is not None or reduce is not None:
        reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
        if not torch.compiler.is_compiling():  # torch.compile cannot trace a warning
            warnings.warn(f'size_average and reduce are deprecated: use reduction="{reduction}" instead', stacklevel=3)
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f'reduction must be "none", "mean" or "sum", got "{reduction}"')
    return reduction


def _broadcastable_var(input: Tensor, var: Tensor) -> Tensor:
    """A variance of one of the shapes that PyTorch accepts, as a tensor that broadcasts to the input."""
    own, wanted = sizes(var.shape), sizes(input.shape)
    if own == wanted:
        return var
    if own == wanted[:-1]:
        return var.unsqueeze(-1)
    if len(own) == len(wanted) and [b for a, b in zip(wanted, own, strict=True) if a != b] == [1]:
        return var
    raise ValueError(
        f"var is of incorrect size: expected input's shape {tuple(input.shape)}, the same without its last dimension, "
        f"or the same with one dimension of size 1, got {tuple(var.shape)}"
    )


def _floored_var(eps: float, var: Tensor) -> Tensor:
    """The variance clamped to at least ``eps`` without stopping gradients, and NaN where it is negative."""
    floored = var.clone()
    with torch.no_grad():
        floored.clamp_(min=eps).masked_fill_(var < 0, math.nan)
    return floored


def _posterior_parameters(mu: Tensor, logvar: Tensor) -> tuple[Tensor, Tensor]:
    """A posterior's parameters broadcast to one shape and promoted to one dtype, as the operators take them."""
    check_dtype("mu", mu)
    check_dtype("logvar", logvar)
    mu, logvar = promoted(mu, logvar)
    return _broadcast(mu=mu, logvar=logvar)


def _broadcast(**tensors: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors, broadcast to one shape."""
    try:
        return tuple(torch.broadcast_tensors(*tensors.values()))
    except RuntimeError:
        (one, a), (other, b) = tensors.items()
        broadcast_shape(other, b.shape, one, a.shape)  # raises an error that names both
        raise


def _check_var(name: str, value: object) -> None:
    if isinstance(value, Tensor):
        check_dtype(name, value)
    elif not is_number(value):
        raise TypeError(f"{name} must be a tensor or a number, got {described(value)}")


# Checks of arguments whose names mean something else in other functions.
_KINDS = {
    **dict.fromkeys(("weight", "pos_weight"), tensor()),
    "reduction": instance(str, '"none", "mean" or "sum"'),
    "eps": number,
}


def _result_dtype(input: Tensor, *others: Tensor) -> torch.dtype:
    dtype = input.dtype
    for other in others:
        dtype = torch.promote_types(dtype, other.dtype) if other.is_floating_point() else dtype
    device = input.device.type
    autocast = device != "meta" and torch.is_autocast_enabled(device)  # the meta device has no autocast
    return torch.promote_types(dtype, torch.float32) if autocast else dtype


def _check_device(input: Tensor, **others: Tensor) -> None:
    for name, other in others.items():
        if other.device != input.device:
            raise ValueError(f"{name} must be on input's device {input.device}, got {other.device}")
