"""A convolutional network for images."""

import math
from collections.abc import Iterable

import torch
from torch import nn

from .._checks import check_sizes, is_python_integer
from .._types import Shape
from ..nn import Linear
from .layers import decoder_of, encoder_of, he_normal_, likelihood_config
from .vae import VAE

__all__ = ["conv_vae"]

# Feature maps are halved until their shorter side has at most this many pixels.
_SMALLEST_MAP = 8


def conv_vae(
    image_shape: Shape,
    *,
    latent: int,
    hidden: int = 256,
    channels: int = 32,
    likelihood: str = "bernoulli",
    mean_activation: str = "sigmoid",
    library_size: float | None = None,
    classes: int | None = None,
    x_scale: float = 1.0,
    generator: torch.Generator | None = None,
) -> VAE:
    """Strided convolutions in the encoder, transposed ones in the decoder, with SiLU, for images as flat rows.

    Each convolution halves the image and doubles the channels, until the shorter side is at most 8 pixels; then one
    hidden layer follows. The decoder mirrors the encoder, and ends with a convolution at full size. Weights are
    initialised as by He et al. (:func:`~aevb_ext.models.layers.he_normal_`), biases with 0.

    Args:
        image_shape: ``(height, width)`` or ``(channels, height, width)``, the order of the elements of a row; x is
            ``[B, prod(image_shape)]``, as in the datasets of :mod:`aevb_ext.data`.
        latent, likelihood, mean_activation, library_size, classes, x_scale, generator: as in
            :func:`~aevb_ext.models.mlp_vae`.
        hidden: the number of units of the hidden layer.
        channels: the number of channels of the first convolution.

    Raises:
        ValueError: a size is below 1, the shape is not an image shape, or the likelihood or its activation is unknown.
    """
    colours, height, width = _checked(image_shape)
    check_sizes(latent=latent, hidden=hidden, channels=channels)
    decoder, numbers_per_x = decoder_of(
        likelihood, mean_activation, x_dim=math.prod(image_shape), library_size=library_size, classes=classes
    )
    maps = _maps(channels, height, width)
    model = VAE(
        encoder_of(_encoder((colours, height, width), maps, hidden, 2 * latent), likelihood, classes),
        decoder(_decoder(latent, hidden, maps, (numbers_per_x * colours, height, width))),
        latent,
        x_scale,
        {
            "architecture": "conv",
            "image_shape": list(image_shape),
            "latent": latent,
            "hidden": hidden,
            "channels": channels,
            **likelihood_config(likelihood, mean_activation, library_size, classes),
            "x_scale": x_scale,
        },
    )
    he_normal_(model, generator)
    return model


def _checked(image_shape: Shape) -> tuple[int, int, int]:
    shape = tuple(image_shape) if isinstance(image_shape, Iterable) else ()
    is_shape = len(shape) in (2, 3) and all(is_python_integer(size) and size >= 1 for size in shape)
    if not is_shape or min(shape[-2:]) < 2:
        raise ValueError(
            "image_shape must be (height, width) or (colours, height, width), each side at least 2 pixels, got "
            f"{image_shape!r}"
        )
    *colours, height, width = shape
    return (colours[0] if colours else 1), height, width


def _maps(channels: int, height: int, width: int) -> list[tuple[int, int, int]]:
    """The shapes (channels, height, width) of the feature maps, from the largest to the smallest."""
    maps: list[tuple[int, int, int]] = []
    while not maps or min(height, width) > _SMALLEST_MAP:
        height, width = height // 2, width // 2
        maps.append((channels << len(maps), height, width))
    return maps


def _encoder(image: tuple[int, int, int], maps: list[tuple[int, int, int]], hidden: int, outputs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = image[0]
    for shape in maps:
        layers += [nn.Conv2d(channels, shape[0], 4, stride=2, padding=1), nn.SiLU()]
        channels = shape[0]
    return nn.Sequential(
        nn.Unflatten(1, image),
        *layers,
        nn.Flatten(),
        Linear(math.prod(maps[-1]), hidden),
        nn.SiLU(),
        Linear(hidden, outputs),
    )


def _decoder(latent: int, hidden: int, maps: list[tuple[int, int, int]], image: tuple[int, int, int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    first = (maps[0][0] // 2 or 1, *image[1:])
    for small, large in zip(maps[::-1], [*maps[-2::-1], first], strict=True):
        # A side of odd length lost a pixel when it was halved.
        lost = (large[1] % 2, large[2] % 2)
        layers += [nn.ConvTranspose2d(small[0], large[0], 4, stride=2, padding=1, output_padding=lost), nn.SiLU()]
    return nn.Sequential(
        Linear(latent, hidden),
        nn.SiLU(),
        Linear(hidden, math.prod(maps[-1])),
        nn.SiLU(),
        nn.Unflatten(1, maps[-1]),
        *layers,
        nn.Conv2d(first[0], image[0], 3, padding=1),
        nn.Flatten(),
    )
