"""Pictures that verbs write."""

from torch import Tensor

from .. import plots
from .._files import write_whole

__all__ = ["checked_shape", "write_picture"]


def checked_shape(image_shape, name: str) -> tuple[int, ...]:
    """The shape of the pictures of the data of that name.

    Raises:
        ValueError: its data points are no pictures.
    """
    if image_shape is None:
        raise ValueError(f"the model was trained on {name}, whose data points are not images")
    return image_shape


def write_picture(path, canvas: Tensor) -> None:
    """Write a canvas as a PNG, and say so.

    Raises:
        OSError: the file cannot be written; says which.
    """
    write_whole(path, plots.png(canvas))
    print(f"written to {path}")
