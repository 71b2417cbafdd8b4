"""How fast the operators are, and against what: `python -m benchmarks`, or `pytest benchmarks` (pytest-benchmark)."""

import os

# Silences two lines that PyTorch's profiler, which counts memory, prints at each use. Read when torch is imported.
os.environ.setdefault("KINETO_LOG_LEVEL", "6")
