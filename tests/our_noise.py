"""The noise of our operators for a package's own code: with the same seed, both use the same normals."""

import torch

import aevb_ext
from aevb_ext.noise import standard_normal


def normals(shape, generator=None, device="cpu", precision=torch.float32) -> torch.Tensor:
    """What a sampler of ours draws next for ``shape`` from the generator, or from one for each data point.

    precision: the type that its arithmetic is in, float32 or (for float64 parameters) float64.
    """
    if isinstance(generator, list) and len(generator) > 1:
        return torch.cat([normals((1, *shape[1:]), one, device, precision) for one in generator])
    if isinstance(generator, list):
        generator = generator[0]
    key = aevb_ext.noise_key(device if generator is None else generator.device, generator)
    return standard_normal(key.to(device), tuple(shape), precision)


def randn_like(t: torch.Tensor, **_) -> torch.Tensor:
    """In place of torch.randn_like."""
    precision = torch.float64 if t.dtype == torch.float64 else torch.float32
    return normals(t.shape, None, t.device, precision).to(t.dtype)
