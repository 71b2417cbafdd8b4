"""HTML reports of runs, each a self-contained file."""

from .compare import compare, comparison
from .run import report

__all__ = ["compare", "comparison", "report"]
