"""The log-likelihoods of positions that each have a vector of parameters: classes, and pixels of three colours."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._common import _reduce, _wide


def categorical_log_prob(
    x: Tensor, logits: Tensor, *, reduction: str = "sample", batch_dims: int = 1, validate_args: bool = False
) -> Tensor:
    event_dims = x.dim() - batch_dims
    logits = _wide(logits)
    classes = x.double().expand(logits.shape[:-1]).unsqueeze(-1)
    index = classes.nan_to_num(-1).clamp(0, logits.shape[-1] - 1).long()
    values = logits.log_softmax(-1).gather(-1, index)
    is_class = torch.where(index == classes, 1.0, math.nan).to(values.dtype)  # also in the gradient
    return _reduce((values * is_class).squeeze(-1), event_dims, reduction)


def discretized_logistic_mixture_log_prob(x: Tensor, params: Tensor, *, reduction: str = "sample") -> Tensor:
    params = _wide(params)
    colours = x.to(params.dtype) * 2 / 255 - 1 if x.dtype == torch.uint8 else x.detach().to(params.dtype)
    k = params.shape[-3] // 10
    logits = params[..., :k, :, :]
    means, log_scales, coefficients = params[..., k:, :, :].unflatten(-3, (3, 3, k)).unbind(-4)  # [..., 3, K, H, W]
    red, green, blue = colours.unsqueeze(-3).unbind(-4)
    c = coefficients.tanh().unbind(-4)
    m = means.unbind(-4)
    joint = logits.log_softmax(-3)
    for pixel, mean, log_scale in zip(
        (red, green, blue),
        (m[0], m[1] + c[0] * red, m[2] + c[1] * red + c[2] * green),
        log_scales.unbind(-4),
        strict=True,
    ):
        inverse = (-log_scale.clamp(min=-7)).exp()
        upper, lower = (inverse * (pixel - mean + half) for half in (1 / 255, -1 / 255))
        below, above = F.logsigmoid(upper), F.logsigmoid(-lower)
        # log(sigmoid(upper) - sigmoid(lower))
        between = below + above + (-torch.expm1(inverse * (-2 / 255))).log()
        joint = joint + torch.where(pixel < -0.999, below, torch.where(pixel > 0.999, above, between))
    return _reduce(joint.logsumexp(-3), 2, reduction)
