"""Pages about runs: HTML in one file, with everything in it."""

from .compare import compare, comparison
from .run import report

__all__ = ["compare", "comparison", "report"]
