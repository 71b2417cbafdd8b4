"""Types of arguments that may come in one form or another."""

import os
from collections.abc import Sequence

import torch

__all__ = ["Device", "Generators", "Shape", "StrPath"]

Device = str | int | torch.device
Generators = torch.Generator | list[torch.Generator] | tuple[torch.Generator, ...]
StrPath = str | os.PathLike[str]
Shape = Sequence[int]
