"""How fast the operators are, and against what: `python -m benchmarks`, or `pytest benchmarks` (pytest-benchmark)."""

import os

# Below errors PyTorch's profiler, which counts the memory, writes two lines a use.
os.environ.setdefault("KINETO_LOG_LEVEL", "5")
