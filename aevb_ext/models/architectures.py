"""Models by the name of their architecture."""

import math
from inspect import Parameter, signature

from .conv import conv_vae
from .mlp import deep_mlp_vae, mlp_vae
from .vae import VAE

__all__ = ["ARCHITECTURES", "make_model"]

# Each architecture's function, and what it has to know of the data.
ARCHITECTURES = {
    "mlp": (mlp_vae, "x_dim"),
    "deep-mlp": (deep_mlp_vae, "x_dim"),
    "conv": (conv_vae, "image_shape"),
}


def make_model(architecture: str = "mlp", *, x_dim: int | None = None, image_shape=None, **options) -> VAE:
    """A model by name: ``"mlp"``, ``"deep-mlp"`` or ``"conv"``.

    ``make_model(**model.config)`` has the architecture of ``model``, with new parameters::

        model = make_model("conv", image_shape=data.image_shape, latent=20, x_scale=data.x_scale)

    Args:
        architecture: one of ``ARCHITECTURES``.
        x_dim, image_shape: how many numbers a data point is, and of what shape its image is: ``data.dim`` and
            ``data.image_shape`` of :class:`aevb_ext.data.Data`. ``"conv"`` needs the shape, the others one of both.
        **options: of the architecture: :func:`mlp_vae`, :func:`deep_mlp_vae`, :func:`conv_vae`.

    Raises:
        ValueError: an unknown name, a size that is missing, two that disagree, or what the architecture's function
            raises.
        TypeError: an option that the architecture does not have, or one too few.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}, got {architecture!r}")
    build, of_data = ARCHITECTURES[architecture]
    known = [name for name, p in signature(build).parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(f"the architecture {architecture!r} has no {', '.join(unknown)}; it has {', '.join(known)}")
    if image_shape is not None:
        numbers = math.prod(image_shape)
        if x_dim not in (None, numbers):
            raise ValueError(f"image_shape {tuple(image_shape)} has {numbers} numbers, but x_dim is {x_dim}")
        x_dim = numbers
    size = {"x_dim": x_dim, "image_shape": image_shape}[of_data]
    if size is None:
        raise ValueError(f"{of_data} is needed by the architecture {architecture!r}, got None")
    return build(size, **options)
