"""A training step is Algorithm 1 with plain PyTorch's parts, to rounding; captured in a CUDA graph it is the same."""

import contextlib
import warnings
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from aevb_ext import reference
from aevb_ext.data import load
from aevb_ext.learners import AEVB
from aevb_ext.models import mlp_vae
from aevb_ext.noise import keys_at
from aevb_ext.train import Step, make_step
from aevb_ext.train.step import GraphedStep, MinibatchSampler

OPTIMIZERS = {"adagrad": torch.optim.Adagrad, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
N, M, DIM, LATENT, SCALE = 200, 20, 12, 3, 1 / 255


def bytes_of(device="cpu", n=N):
    return torch.randint(256, (n, DIM), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)


def learner(device="cpu", dtype=torch.float32, seed=0, **kwargs):
    parameters = torch.Generator().manual_seed(seed)
    model = mlp_vae(DIM, latent=LATENT, hidden=7, x_scale=SCALE, generator=parameters).to(device, dtype)
    return AEVB(model, N, batch_size=M, **kwargs)


def plain_steps(model, data, optimizer, lr, steps, warmup):
    """The bounds of Algorithm 1's steps with nn.Linear, the reference formulas and an unfused optimizer."""
    dtype, order = model.encoder[0].weight.dtype, MinibatchSampler(len(data), M, seed=0)

    def mlp(net):
        layers = nn.Sequential(nn.Linear(*net[0].weight.T.shape), nn.Tanh(), nn.Linear(*net[2].weight.T.shape))
        layers.to(dtype).load_state_dict(net.state_dict())
        return layers

    encoder, decoder = mlp(model.encoder), mlp(model.decoder.net)
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimizer = OPTIMIZERS[optimizer](parameters, lr=lr, foreach=False)
    bounds = []
    for step in range(steps):
        visits = order.visits(step)
        x = data[visits % len(data)].to(dtype) * SCALE
        mu, logvar = encoder(x).chunk(2, 1)
        z, kl = reference.rsample_kl(mu, logvar, key=keys_at(0, "posterior", visits))
        bound = reference.bernoulli_log_prob(x, decoder(z)) - kl
        # Per minibatch: M/N times the scaled bound (eq. 8) and log N(weights; 0, I).
        prior = -0.5 * sum(p.square().sum() for p in parameters if p.dim() > 1)
        optimizer.zero_grad()
        (-(bound.sum() + M / N * prior)).backward()
        for group in optimizer.param_groups:
            group["lr"] = lr if step >= warmup else 0.0
        optimizer.step()
        bounds.append(bound.mean().detach())
    return torch.stack(bounds), parameters


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_steps_are_those_of_plain_pytorch(optimizer, dtype):
    ours, data, steps = learner(dtype=dtype, optimizer=optimizer, lr=1e-3), bytes_of(), 120
    if dtype == torch.float64:
        # Bytes become float64 in the encoder too.
        data = data.double()
    plain_bounds, plain = plain_steps(ours.model, data, optimizer, 1e-3, steps, ours.schedule.silent)
    step = make_step(ours, data)
    bounds = torch.stack([step() for _ in range(steps)])
    # Rounding, grown over 120 steps by Adam's and Adagrad's division by small gradients.
    tolerance = {torch.float64: 1e-10, torch.float32: 1e-4}[dtype]
    torch.testing.assert_close(bounds, plain_bounds, rtol=tolerance, atol=0)
    for p, q in zip(ours.model.parameters(), plain, strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance / 10)


def test_data_stays_bytes():
    """A step makes no floating tensor as large as the data set."""
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.is_floating_point():
                largest = max(largest, result.numel())
            return result

    ours = learner(optimizer="sgd")
    step = make_step(ours, bytes_of(n=50 * N))
    with Watch():
        step()
    assert 0 < largest <= M * DIM


def test_gradients_do_not_reach_the_data():
    ours = learner(optimizer="sgd")
    wanted = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if function is torch.ops.aevb_ext.linear_backward.default:
                wanted.append(args[4])
            return function(*args, **(kwargs or {}))

    with Watch():
        make_step(ours, bytes_of())()
    # From the decoder's last layer to the encoder's first.
    assert [w[0] for w in wanted] == [True, True, True, False] and all(w[1:] == [True, True] for w in wanted)


def test_bfloat16_keeps_float32_parameters_and_learns():
    data = load("digits")
    bounds = {}
    for bf16 in (False, True):
        model = mlp_vae(data.dim, latent=5, hidden=50, x_scale=data.x_scale, generator=torch.Generator().manual_seed(0))
        precision = "bf16" if bf16 else "float32"
        ours = AEVB(model, len(data.train), optimizer="adam", precision=precision)
        step = make_step(ours, data.train)
        bounds[bf16] = torch.stack([step() for _ in range(150)])
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in model.parameters())
    # The same minibatches and noise: bounds agree to bfloat16's 8 bits, and so does where they arrive.
    torch.testing.assert_close(bounds[True][:5], bounds[False][:5], rtol=2**-7, atol=0)
    torch.testing.assert_close(bounds[True][-50:].mean(), bounds[False][-50:].mean(), rtol=2**-5, atol=0)


class Recorded:
    """A stand-in for torch.cuda's graphs on a machine without a GPU: a "replay" runs the captured step."""

    def __init__(self, monkeypatch, fails=None):
        self.log, self.fails = [], fails
        stream = SimpleNamespace(wait_stream=lambda other: None)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda self, stream: None)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self.capture)

    @contextlib.contextmanager
    def capture(self, graph, stream, capture_error_mode):
        self.log.append("capture")
        if self.fails:
            raise RuntimeError(self.fails)
        yield

    def replay(self):
        self.log.append("replay")


def test_capture_comes_once_after_three_steps(monkeypatch):
    recorded, ours = Recorded(monkeypatch), learner()
    step = GraphedStep(ours, bytes_of())
    for _ in range(3):
        step()
    assert recorded.log == []
    for _ in range(3):
        step()
    assert recorded.log == ["capture", *["replay"] * 3] and ours.steps == 6


def test_a_step_that_cannot_be_captured_stays_eager_and_says_why(monkeypatch):
    recorded = Recorded(monkeypatch, fails="operation not permitted when stream is capturing\nand more")
    data, ours, eager = bytes_of(), learner(optimizer="adam"), learner(optimizer="adam")
    step, expected = GraphedStep(ours, data), Step(eager, data)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        bounds = [step().item() for _ in range(8)]
    assert bounds == [expected().item() for _ in range(8)]
    assert [str(w.message) for w in caught] == [
        "the training step is not captured in a CUDA graph: operation not permitted when stream is capturing"
    ]
    assert recorded.log == ["capture"] and ours.steps == 8


def on_cuda(function):
    skip = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    return pytest.mark.cuda(skip(function))


@on_cuda
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_graph_takes_the_eager_steps(optimizer, precision):
    """Minibatches, noise, bounds and parameters; with all that a step may have beside."""
    kwargs = {"device": "cuda", "optimizer": optimizer, "precision": precision, "clip": 1.0, "ema": 0.9, "beta": 0.5}
    kwargs |= {"beta_warmup": 50, "lr_warmup": 5, "total_steps": 130, "accumulate": 2, "skip_non_finite": True}
    graphed, eager = learner(**kwargs), learner(**kwargs)
    data = bytes_of("cuda")
    step, plain = make_step(graphed, data), Step(eager, data)
    assert isinstance(step, GraphedStep)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bounds = torch.stack([step() for _ in range(130)])
    torch.testing.assert_close(bounds, torch.stack([plain() for _ in range(130)]))
    for p, q in zip(graphed.model.parameters(), eager.model.parameters(), strict=True):
        torch.testing.assert_close(p, q)
    assert bounds[-20:].unique().numel() == 20


@on_cuda
@pytest.mark.parametrize("kind", [Step, GraphedStep])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_step_does_not_synchronise(optimizer, kind):
    ours = learner("cuda", optimizer=optimizer)
    step = kind(ours, bytes_of("cuda"))
    for _ in range(105):
        step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with torch.profiler.profile() as profile:
        step()
    names = {event.key for event in profile.key_averages()}
    # The profiler itself waits once, when it stops.
    assert not names & {"cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy"}
    if kind is GraphedStep:
        assert "cudaGraphLaunch" in names
