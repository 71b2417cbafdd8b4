import gc
import importlib
import os
import random
import sys
from pathlib import Path

# Before torch starts its threads: on a machine with other work they wait asleep and not spinning, or else a small
# operator would take whole time slices of the scheduler.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np
import pytest
import torch

import aevb_ext.distributions.kl

# For `benchmarks`. At the end: `aevb_ext` is the one that is tested, in this folder or installed.
sys.path.append(str(Path(__file__).parents[1]))


def _settings():
    """What all tests of a process share, and some change for a while."""
    names = "get_default_dtype", "get_default_device", "get_num_threads", "is_grad_enabled"
    return {name: getattr(torch, name)() for name in (*names, "are_deterministic_algorithms_enabled")}


# Without a GPU the thousands of tests of one are not collected: to skip them takes as long as many tests.
GPU = torch.cuda.is_available()
# For each kind of device that has not begun, torch.manual_seed writes down who called: longer than many tests take.
SEEDS = (random.seed, np.random.seed, torch.manual_seed if GPU else torch.default_generator.manual_seed)


@pytest.fixture(autouse=True)
def alone():
    """A test draws the numbers that it draws when it is run alone, and leaves the settings as they were."""
    for seed in SEEDS:
        seed(6114)  # and not 0, which many tests have generators of
    before = _settings()
    yield
    assert _settings() == before


# In a rehearsal (benchmarks/gpu_check.py) emulated kernels on CPU tensors stand for a GPU.
REHEARSED = os.environ.get("AEVB_GPU") == "rehearsed"


EMULATED = aevb_ext.build_info()["emulated"]
# As in an installation without a compiler: test_without_library.py.
FORMULAS = not aevb_ext._library.is_loaded()


def pytest_report_header():
    kernels = ["CPU tensors run the CUDA kernels (AEVB_CUDA=emulated)"] if EMULATED else []
    kernels += ["no compiled library: every function computes its formula in plain PyTorch"] if FORMULAS else []
    gpu = torch.cuda.get_device_name() if GPU else "no GPU: what `device` parametrises runs on the CPU alone"
    return [gpu, *kernels]


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """The collector of garbage would look through thousands of tests again and again; none of them is ever garbage."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items):
    markers = ["cpu_kernels"] * EMULATED + ["compiled"] * FORMULAS
    for item in items:
        for name in markers:
            if marker := item.get_closest_marker(name):
                item.add_marker(pytest.mark.skip(reason=marker.args[0]))
    # The longest first: in the end no process waits for another's.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)] if GPU or REHEARSED else ["cpu"])
def device(request):
    """Every test that takes it runs on the CPU and, where there is one, on the GPU."""
    return torch.device("cpu" if REHEARSED else request.param)


@pytest.fixture
def fresh_compiler():
    """As in a process that has compiled nothing, and looked up no KL divergence since it imported aevb_ext."""
    torch._dynamo.reset()
    importlib.reload(aevb_ext.distributions.kl)
