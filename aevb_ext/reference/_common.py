"""What all reference formulas share: the arithmetic's dtype, the spread and the reduction."""

import torch
from torch import Tensor


def _wide(t: Tensor) -> Tensor:
    """The tensor in the dtype of the arithmetic: float64 for float64, else float32."""
    return t if t.dtype == torch.float64 else t.float()


def _scaled(x: Tensor, parameter: Tensor, x_scale: float) -> tuple[Tensor, Tensor]:
    """The data and the first parameter, in the dtype of the arithmetic."""
    parameter = _wide(parameter)
    return x.to(parameter.dtype) * x_scale, parameter


def _logvar(s: Tensor, spread: str) -> Tensor:
    match spread:
        case "logvar":
            return s
        case "log_std":
            return 2 * s
        case "std":
            return 2 * s.log()
        case "var":
            return s.log()
    raise ValueError(f'spread must be "logvar", "log_std", "std" or "var", got "{spread}"')


def _reduce(values: Tensor, event_dims: int, reduction: str) -> Tensor:
    if reduction == "none":
        return values
    per_sample = values.flatten(values.dim() - event_dims).sum(-1) if event_dims else values
    match reduction:
        case "sample":
            return per_sample
        case "sum":
            return per_sample.sum()
        case "mean":
            return per_sample.mean()
    raise ValueError(f'reduction must be "none", "sample", "sum" or "mean", got "{reduction}"')
