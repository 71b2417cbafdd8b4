"""The same numbers from every build of the CPU kernels: the tests of noise, keys, extremes and layers, in each."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aevb_ext

TESTS = Path(__file__).parent


@pytest.mark.cpu_kernels("instruction sets are the CPU kernels'")
@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", aevb_ext.build_info()["cpu_built"])
def test_instruction_set(instruction_set):
    if instruction_set == aevb_ext.build_info()["cpu_in_use"]:
        pytest.skip("all the other tests run with it")
    environment = os.environ | {"AEVB_CPU_ISA": instruction_set}
    loads = [sys.executable, "-c", "import aevb_ext; aevb_ext.build_info()"]
    if "this CPU does not have" in subprocess.run(loads, env=environment, capture_output=True, text=True).stderr:
        pytest.skip("not on this CPU")
    names = ("test_noise.py", "test_noise_keys.py", "test_bits.py", "test_extremes.py", "test_linear.py")
    files = [str(TESTS / name) for name in names]
    chosen = ["-k", "not float64", "-m", "not cuda", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", *chosen, *files],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-3000:]
