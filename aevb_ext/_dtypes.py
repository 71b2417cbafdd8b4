"""The dtypes that the operators take, for what is written in Python around them."""

import torch
from torch import Tensor

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DATA = (*FLOATING, torch.uint8, torch.bool)


def check_dtype(name: str, t: Tensor, *, data: bool = False) -> None:
    """Raise TypeError unless ``t`` is a tensor of a dtype that the operators take (as ``data``: as their x)."""
    expected = "float64, float32, bfloat16 or float16"
    if data:
        expected = "float64, float32, bfloat16, float16, uint8 or bool"
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a tensor of {expected}, got {type(t).__name__}")
    if t.dtype not in (DATA if data else FLOATING):
        raise TypeError(f"{name} must be {expected}, got {str(t.dtype).removeprefix('torch.')}")
