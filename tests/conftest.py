import importlib
import os

# Before torch starts its threads: on a machine with other work they wait asleep and not spinning, or else a small
# operator would take whole time slices of the scheduler.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import pytest
import torch

import aevb_ext.distributions.kl


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request):
    """Every test that takes it runs on the CPU and, where there is one, on the GPU."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    return torch.device(request.param)


@pytest.fixture
def fresh_compiler():
    """As in a process that has compiled nothing, and looked up no KL divergence since it imported aevb_ext."""
    torch._dynamo.reset()
    importlib.reload(aevb_ext.distributions.kl)
