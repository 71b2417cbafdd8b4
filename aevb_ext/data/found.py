"""What was found in files of one's own, and how it is told."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .._typed import typed
from .labels import Labels
from .rows import Rows, rows_of

__all__ = ["Found", "described"]

# So many names of what was skipped are told.
_NAMES = 4
# Bytes that all lie below count something else than 255 steps from black to white: zeros and ones, 16 or 32 steps.
_DARK = 64


@dataclass
class Found:
    """What a reader of files found.

    Attributes:
        splits: the data points of each split, flat; there is ``"train"``.
        image_shape: of the pictures, or None when data points are not pictures.
        labels: of the splits.
        origins: what the files call each split, where they call it something.
        converted: what was done to some data points, in words.
        skipped: names of what was not read.
    """

    splits: dict[str, Tensor | Rows]
    image_shape: tuple[int, ...] | None
    labels: Labels
    origins: dict[str, str] = field(default_factory=dict)
    converted: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def described(name: str, found: Found, held_out: float | None, x_scale: float | None) -> str:
    """Which split is what, what the labels are, what was converted and skipped: two or three lines.

    Args:
        name: what the data is called.
        found: with the splits that are used.
        held_out: which fraction of train the test split was made of; None: it was there.
        x_scale: what values are multiplied by; None: what the dtype says.
    """
    shape = rows_of(found.splits["train"]).event_shape if found.image_shape is None else found.image_shape
    splits = []
    for split, rows in found.splits.items():
        origin = f" ({found.origins[split]})" if split in found.origins else ""
        if split == "test" and held_out is not None:
            origin = f" (held out of train: test_fraction {held_out:g})"
        splits.append(f"{split} {len(rows)}{origin}")
    dtype = str(rows_of(found.splits["train"]).dtype).removeprefix("torch.")
    lines = [f"{name}: {' x '.join(map(str, shape))}, {dtype}: {', '.join(splits)}", found.labels.described()]
    if found.converted:
        lines.append(f"converted: {', '.join(found.converted)}")
    if found.skipped:
        more = len(found.skipped) - _NAMES
        told = ", ".join(found.skipped[:_NAMES]) + (f" and {more} more" if more > 0 else "")
        lines.append(f"skipped: {told}")
    rows = found.splits["train"]
    is_known = x_scale is not None or not isinstance(rows, Tensor) or rows.dtype != torch.uint8
    if not is_known and 0 < (high := int(rows.max())) < _DARK:
        lines.append(
            f"no byte of train is above {high}, and bytes are multiplied by 1/255: if {high} is white, "
            f"{typed('x_scale', '--x-scale')} is {1 / high:.6g}"
        )
    # Names of files may be no text at all.
    text = "\n  ".join(" ".join(line.split()) for line in lines)
    return text.encode("utf-8", "replace").decode()
