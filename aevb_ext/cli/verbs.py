"""What the verbs of the command are added to."""

import argparse
from typing import TypeAlias

__all__ = ["Verbs"]

Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
