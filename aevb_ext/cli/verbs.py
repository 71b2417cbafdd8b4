"""What the verbs of the command are added to."""

import argparse
from typing import Any, TypeAlias

__all__ = ["Verbs"]

Verbs: TypeAlias = "argparse._SubParsersAction[Any]"
