"""Models by the name of their architecture."""

import math
from collections.abc import Callable, Iterable
from inspect import Parameter, signature
from typing import Any

import torch

from .._checks import check_name, is_python_integer
from .._types import Shape
from .conv import conv_vae
from .mlp import deep_mlp_vae, mlp_vae
from .vae import VAE

__all__ = ["ARCHITECTURES", "make_model"]

# The function of each architecture, and the argument that it takes from the data.
ARCHITECTURES: dict[str, tuple[Callable[..., VAE], str]] = {
    "mlp": (mlp_vae, "x_dim"),
    "deep-mlp": (deep_mlp_vae, "x_dim"),
    "conv": (conv_vae, "image_shape"),
}


def make_model(
    architecture: str = "mlp", *, x_dim: int | None = None, image_shape: Shape | None = None, **options: Any
) -> VAE:
    """A model by name: ``"mlp"``, ``"deep-mlp"`` or ``"conv"``.

    ``make_model(**model.config)`` has the architecture of ``model``, with new parameters::

        model = make_model("conv", image_shape=data.image_shape, latent=20, x_scale=data.x_scale)

    Args:
        architecture: one of ``ARCHITECTURES``.
        x_dim, image_shape: the number of elements of a data point, and its image shape: ``data.dim`` and
            ``data.image_shape`` of :class:`aevb_ext.data.Data`. ``"conv"`` needs ``image_shape``, the others either.
        **options: those of :func:`mlp_vae`, :func:`deep_mlp_vae` or :func:`conv_vae`.

    Raises:
        ValueError: an unknown name, a size that is missing, two that disagree, or what the architecture's function
            raises.
        TypeError: an option that the architecture does not have, or one that is missing; a generator of another type.
    """
    check_name("architecture", architecture, ARCHITECTURES)
    build, of_data = ARCHITECTURES[architecture]
    known = [name for name, p in signature(build).parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"the architecture {architecture!r} has no {', '.join(unknown)}; it has {', '.join(known)}")
    generator = options.get("generator")
    if not isinstance(generator, torch.Generator | None):
        raise TypeError(f"generator must be a torch.Generator or None, got {generator!r}")
    if image_shape is not None:
        numbers = _numbers(image_shape)
        if x_dim not in (None, numbers):
            raise ValueError(f"image_shape {tuple(image_shape)} has {numbers} numbers, but x_dim is {x_dim}")
        x_dim = numbers
    size = {"x_dim": x_dim, "image_shape": image_shape}[of_data]
    if size is None:
        raise ValueError(f"{of_data} is needed by the architecture {architecture!r}, got None")
    return build(size, **options)


def _numbers(image_shape: Shape) -> int:
    """The number of elements of an image of that shape."""
    sizes = list(image_shape) if isinstance(image_shape, Iterable) else []
    if not sizes or not all(is_python_integer(size) and size >= 1 for size in sizes):
        raise ValueError(
            "image_shape must be (height, width) or (colours, height, width), integers of at least 1, got "
            f"{image_shape!r}"
        )
    return math.prod(sizes)
