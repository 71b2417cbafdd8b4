"""Type aliases of arguments that are accepted in several forms."""

import os
from collections.abc import Sequence

import torch

__all__ = ["Device", "Generators", "Shape", "StrPath"]

Device = str | int | torch.device
Generators = torch.Generator | list[torch.Generator] | tuple[torch.Generator, ...]
StrPath = str | os.PathLike[str]
Shape = Sequence[int]
