"""In what precision a step multiplies matrices."""

from contextlib import contextmanager, nullcontext

import torch

__all__ = ["PRECISIONS", "autocast", "check_precision", "matmul_precision"]

# The dtype of autocast; None: float32 throughout.
PRECISIONS = {"float32": None, "tf32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(precision: str, device: torch.device) -> None:
    """Raise ValueError where there is no such precision, or not on this device."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    if precision == "tf32" and device.type != "cuda":
        raise ValueError(f'precision "tf32" is of CUDA devices, but the model is on {device}')


def autocast(precision: str, device_type: str):
    """The context in which a step's forward runs."""
    dtype = PRECISIONS[precision]
    # Without its cache, whose entries would not live through a CUDA graph's replays.
    return nullcontext() if dtype is None else torch.autocast(device_type, dtype, cache_enabled=False)


@contextmanager
def matmul_precision(precision: str):
    """float32 products in tf32 where that is asked for; PyTorch's switch, which is the process's, is set back after."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    if precision == "tf32":
        matmul.allow_tf32 = True
    try:
        yield
    finally:
        matmul.allow_tf32 = before
