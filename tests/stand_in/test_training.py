"""`fit` on CUDA: steps are replays of one graph, and what the host waits for does not grow with their number."""

import pytest
from no_numbers import RUNTIME, calls, learning_rates_are_positive

from aevb_ext.data import load
from aevb_ext.models import mlp_vae
from aevb_ext.train import fit

pytestmark = [
    pytest.mark.skipif(not RUNTIME, reason="the CPU build of PyTorch has no graphs of CUDA"),
    pytest.mark.filterwarnings("error"),
    pytest.mark.filterwarnings("ignore:CUDA reports that you have 2 available devices"),
    pytest.mark.filterwarnings("ignore:of the run's .* steps none changes parameters"),
]


def _trained(steps, **settings):
    """What was asked of CUDA by so many steps, with an evaluation before and after them."""
    data = load("digits")
    model = mlp_vae(data.dim, latent=2, hidden=8, x_scale=data.x_scale)
    samples = steps * 50
    fixed = {"batch_size": 50, "samples_seen": samples, "evaluate_every": samples, "log_every": 10**6}
    calls()
    with learning_rates_are_positive():
        fit(model, data, device="cuda", progress=False, **{"optimizer": "adam"} | fixed | settings)
    return calls()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "adagrad", "clip": 1.0, "ema": 0.99},
        {"optimizer": "sgd", "schedule": "cosine", "lr_warmup": 5},
        {"estimator": "a"},
        {"estimator": "iwae", "n_samples": 4, "sample_block": 2},
        {"learner": "wake-sleep"},
        {"learner": "full-vb"},
        {"precision": "bf16", "accumulate": 2},
        {"precision": "fp16"},
        {"precision": "tf32", "free_bits": 0.5, "beta_warmup": 10},
        {"optimizer": "adagrad", "non_finite": "skip"},
    ],
    ids=str,
)
def test_the_host_waits_as_often_in_more_steps(settings):
    """And all steps but the first three are replays of one graph."""
    logs = [_trained(steps, **settings) for steps in (10, 30)]

    def count(what):
        return [sum(call.startswith(what) for call in log) for log in logs]

    waits, captures, in_graph, replayed = map(count, ("wait", "capture begins", "captured", "replayed"))
    assert waits[0] == waits[1] and captures == [1, 1]
    assert replayed == [7 * in_graph[0], 27 * in_graph[1]] and in_graph[0] == in_graph[1]
