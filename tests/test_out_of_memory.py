"""Out of memory: fit says which settings to lower, whichever allocator failed."""

import re

import pytest
import torch

from aevb_ext.data import Data
from aevb_ext.models import mlp_vae
from aevb_ext.train import fit
from aevb_ext.train.memory import OutOfMemory, out_of_memory

X = torch.rand(30, 6, generator=torch.Generator().manual_seed(0))


def train(hook=None, **settings):
    vae = mlp_vae(6, latent=2, hidden=3)
    if hook is not None:
        vae.decoder.net.register_forward_pre_hook(hook)
    data = Data("small", X[10:], X[:10])
    return fit(vae, data, progress=False, **{"samples_seen": 100, "batch_size": 10, "optimizer": "adam"} | settings)


N_SAMPLES = "out of memory at step 1: lower n_samples (2000000000) or batch_size (10), or "
BLOCK = "set sample_block, how many samples are computed at a time (now all of them), or raise accumulate (1)"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_samples": 2_000_000_000}, N_SAMPLES + BLOCK),
        ({"n_samples": 2_000_000_000, "estimator": "iwae"}, N_SAMPLES + BLOCK),
        ({"n_samples": 2_000_000_000, "learner": "full-vb"}, N_SAMPLES + "raise accumulate (1)"),
        ({"n_samples": 2**62}, "out of memory at step 1: lower n_samples (4611686018427387904) or batch_size (10)"),
        ({"batch_size": 10**15}, "out of memory before training: lower batch_size (1000000000000000), or raise accum"),
        ({"batch_size": 2**62}, "out of memory before training: lower batch_size (4611686018427387904), or raise"),
    ],
    ids=["b", "iwae", "full-vb", "sizes that overflow", "batch_size", "batch_size that overflows"],
)
def test_settings_that_no_memory_is_for(settings, message):
    with pytest.raises(OutOfMemory, match=re.escape(message)) as error:
        train(**settings)
    # What PyTorch says of it, how much it was, is at the end.
    assert re.search(r"; .*(you tried to allocate \d+ bytes|overflowed)", str(error.value))


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        MemoryError("Unable to allocate 1.5 TiB for an array"),
        RuntimeError("std::bad_alloc"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("in_training", [True, False])
def test_whoever_says_it(error, in_training):
    def hook(module, _):
        if module.training == in_training:
            raise error

    when = "at step 1" if in_training else "at step 10"
    with pytest.raises(torch.OutOfMemoryError, match=rf"out of memory {when}: lower batch_size \(10\), .*; {error}"):
        train(hook)
    assert out_of_memory(error)


def test_other_errors_stay_what_they_are():
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    def hook(*_):
        raise error

    with pytest.raises(RuntimeError) as raised:
        train(hook)
    assert raised.value is error and not out_of_memory(error) and not out_of_memory(ValueError("can't allocate memory"))
