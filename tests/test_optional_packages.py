"""What needs torch, NumPy and pytest alone: other packages are imported where they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.once("what is imported where is Python")

ROOT = Path(__file__).parents[1]

# pyproject.toml's other dependencies and extras; ninja is not imported by what is built already. mpmath comes with
# torch.
OPTIONAL = (
    "PIL diffusers jax matplotlib mypy onnx onnxruntime onnxscript pooch pyro pythae rich safetensors scipy scvi "
    "tensorboard tomli tqdm xdist"
).split()

# These modules are about one of them, and are imported where that is used.
ABOUT = {"benchmarks.jax_step", "benchmarks.plots", "benchmarks.headline"}

PROGRAM = f"""
import importlib, pathlib, pkgutil, sys

sys.modules.update(dict.fromkeys({OPTIONAL}))  # as if they were not installed
import torch, pytest
import aevb_ext, benchmarks
for package in (aevb_ext, benchmarks):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name not in {ABOUT} and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
skipped = []
sys.path.insert(0, "tests")
for path in sorted(pathlib.Path("tests").glob("test_*.py")):
    try:
        importlib.import_module(path.stem)
    except pytest.skip.Exception:
        skipped.append(path.stem)
print(*skipped)
from aevb_ext.cli import main
sys.exit(main(["doctor"]))
"""


def test_everything_is_imported_without_them():
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    skipped, *doctor = done.stdout.splitlines()
    # Of what they test nothing runs on a GPU.
    assert len(skipped.split()) < 15 and "aevb_ext" in "".join(doctor)
