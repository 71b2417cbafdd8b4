"""What is put on CUDA's streams, in what order, what of it goes into a captured graph, and which noise it draws."""

import re

import pytest
import torch
from cases import small_cases
from no_numbers import RUNTIME, calls, learning_rates_are_positive, waits
from program import Program, inputs, value_and_gradients
from public import ROWS
from test_cuda import captured
from test_step import OPTIMIZERS, bytes_of, learner

import aevb_ext
from aevb_ext.train import Step
from aevb_ext.train.step import GraphedStep

pytestmark = [
    pytest.mark.skipif(not RUNTIME, reason="the CPU build of PyTorch has no streams and graphs of CUDA"),
    pytest.mark.filterwarnings("error"),  # among others, that a graph is empty or a step is not captured
    pytest.mark.filterwarnings("ignore:CUDA reports that you have 2 available devices"),
]
every_row = pytest.mark.parametrize("row", ROWS, ids=str)

PER_KEY = 4  # numbers that a key takes from a generator


def _keys(log):
    """Of each launch that makes keys: seed, offset, where a graph's seed and offset are, and the count."""
    pattern = re.compile(r"launch \S*write_keys\S* (\d+) (\d+) (\d+) (\d+) (\d+) on")
    return [tuple(map(int, match.groups())) for match in map(pattern.search, log) if match]


def _ours(log):
    """The names of our kernels, in the order of their launches."""
    pattern = re.compile(r"aevb6device\D*\d+(?:_GLOBAL\S*?\d)?([a-z_]+)[NIE]")
    return [match[1] for match in map(pattern.search, log) if match]


def _of(log, what):
    return [call.removeprefix(what) for call in log if call.startswith(what)]


class TestKeysOfAGenerator:
    def test_each_draw_takes_four_numbers(self):
        torch.cuda.init()
        torch.cuda.manual_seed(7)
        default = torch.cuda.default_generators[0]
        aevb_ext.noise_key("cuda")
        assert _keys(calls()) == [(7, 0, 0, 0, 1)] and default.get_offset() == PER_KEY
        torch.rand(5, device="cuda")
        before = default.get_offset()
        torch.ops.aevb_ext.noise_key(device=torch.device("cuda"), n=6)
        assert _keys(calls()) == [(7, before, 0, 0, 6)] and default.get_offset() == before + 6 * PER_KEY
        assert torch.ops.aevb_ext.noise_key(device=torch.device("cuda"), n=0).shape == (0, 2)
        assert calls() == [] and default.get_offset() == before + 6 * PER_KEY

    def test_a_generator_of_its_own(self):
        torch.cuda.manual_seed(7)
        own = torch.Generator("cuda").manual_seed(2**64 - 5)
        mu = torch.zeros(3, 4, device="cuda")
        calls()
        aevb_ext.rsample(mu, mu, generator=own)
        aevb_ext.rsample(mu, mu, generator=own)
        assert _keys(calls()) == [(2**64 - 5, 0, 0, 0, 1), (2**64 - 5, PER_KEY, 0, 0, 1)]
        assert own.get_offset() == 2 * PER_KEY and torch.cuda.default_generators[0].get_offset() == 0

    def test_a_state_that_is_set_again(self):
        own = torch.Generator("cuda").manual_seed(3)
        aevb_ext.noise_key(generator=own)
        state = own.get_state()
        calls()
        aevb_ext.noise_key(generator=own)
        first = _keys(calls())
        own.set_state(state)
        aevb_ext.noise_key(generator=own)
        assert _keys(calls()) == first == [(3, PER_KEY, 0, 0, 1)]


class TestKeysOfAGraph:
    """In a graph the seed and the offset are where PyTorch writes them before each replay."""

    def test_offsets_count_from_the_replay(self):
        torch.cuda.manual_seed(7)

        def draws():
            torch.ops.aevb_ext.noise_key(device=torch.device("cuda"), n=3)
            aevb_ext.noise_key("cuda")
            torch.rand(4, device="cuda")
            aevb_ext.noise_key("cuda")

        graph, _ = captured(draws, warm_ups=0)
        log = calls()
        keys = _keys(_of(log, "captured: "))
        assert len(keys) == 3 and keys == _keys(log)
        (seed, offset), *others = {(key[2], key[3]) for key in keys}
        assert seed and offset and seed != offset and not others
        assert [(key[0], key[1], key[4]) for key in keys] == [(0, 0, 3), (0, 12, 1), (0, 20, 1)]
        default = torch.cuda.default_generators[0]
        for replay in range(1, 4):
            graph.replay()
            log = calls()
            # The seed and the offset are written before the graph.
            assert [call.startswith("launch") for call in log[:2]] == [True, True] and "FillFunctor" in log[0] + log[1]
            assert _keys(_of(log[2:], "replayed: ")) == keys
            assert default.get_offset() == 24 * replay

    def test_a_generator_that_is_registered(self):
        own = torch.Generator("cuda").manual_seed(3)
        mu = torch.zeros(3, 4, device="cuda")
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(own)
        with torch.cuda.graph(graph):
            aevb_ext.rsample(mu, mu)
            aevb_ext.rsample(mu, mu, generator=own)
            aevb_ext.rsample(mu, mu, generator=own)
        first, *others = keys = _keys(calls())
        assert [key[:2] for key in keys] == [(0, 0), (0, 0), (0, PER_KEY)]
        assert first[2:4] != others[0][2:4] == others[1][2:4]
        graph.replay()
        assert own.get_offset() == 2 * PER_KEY and torch.cuda.default_generators[0].get_offset() == PER_KEY

    def test_a_generator_that_is_not_is_refused(self):
        """By PyTorch, before anything is launched: a replay would draw the same noise each time."""
        own, graph = torch.Generator("cuda").manual_seed(3), torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            torch.zeros(1, device="cuda")
            with pytest.raises(RuntimeError, match="not in capture mode"):
                aevb_ext.noise_key(generator=own)
        assert _keys(calls()) == []

    def test_the_key_is_made_before_the_noise_and_once(self):
        """Forward and backward draw from it; the key is not made again."""
        mu, logvar = (torch.zeros(3, 4, device="cuda", requires_grad=True) for _ in range(2))

        def step():
            z, kl = aevb_ext.rsample_kl(mu, logvar, n_samples=2)
            return torch.autograd.grad(z.sum() + kl.sum(), (mu, logvar))

        graph, _ = captured(step)
        calls()
        graph.replay()
        assert _ours(_of(calls(), "replayed: ")) == ["write_keys", "sample_forward", "sample_backward"]


@every_row
def test_all_is_put_on_the_current_stream(row):
    program, arguments = Program(row, "cuda"), inputs(4, "cuda")
    stream = torch.cuda.Stream()
    calls()
    with torch.cuda.stream(stream):
        value_and_gradients(program, *arguments[:3])
    streams = {re.search(r" on stream (\d+)$", call)[1] for call in calls()}
    assert len(streams) == 1 and "0" not in streams


@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_a_device_that_is_not_the_current_one(case):
    call = case.build("cuda:1").differentiable()
    calls()
    outputs = call.run()
    torch.autograd.grad(outputs, list(call.floating().values()), [torch.empty_like(o) for o in outputs])
    aevb_ext.noise_key("cuda:1")
    log = calls()
    assert len(_ours(log)) >= 3 and all(c.endswith(" on stream 0 of device 1") for c in log)
    assert torch.cuda.current_device() == 0


@every_row
def test_a_step_is_captured_whole(row):
    """Forward and backward, where nothing waits; a replay is what was captured."""
    program, (x, y, beta, key) = Program(row, "cuda"), inputs(4, "cuda")
    x.requires_grad_()
    arguments = (x, y, beta) if row.draws_noise and not row.takes_key else (x, y, beta, key)

    def step():
        loss, outputs = program(*arguments)
        return loss, outputs, torch.autograd.grad(loss, [*program.parameters(), x])

    graph, _ = captured(step)
    log = calls()
    (begin,) = (i for i, call in enumerate(log) if call.startswith("capture begins"))
    inside = log[begin + 1 : log.index("capture ends")]
    assert inside and all(call.startswith("captured: ") for call in inside)
    graph.replay()
    assert _of(calls(), "replayed: ") == _of(inside, "captured: ")


@pytest.mark.parametrize("reduction", ["mean", "sum", "sample"])
def test_one_pass_is_captured(reduction):
    """Also by a capture that is the first to guess: there are two kernels, and nothing is copied or waited for."""
    x, logits = torch.zeros(3, 40, device="cuda"), torch.zeros(3, 40, device="cuda", requires_grad=True)

    def step():
        value = aevb_ext.bernoulli_log_prob(x, logits, reduction=reduction)
        return torch.autograd.grad(value, logits, torch.empty_like(value))

    graph, _ = captured(step, warm_ups=0)
    calls()
    graph.replay()
    replayed = _of(calls(), "replayed: ")
    assert _ours(replayed) == ["row_backward", "row_backward"] and not [c for c in replayed if "copy" in c]


def _step(kind, **options):
    with learning_rates_are_positive():
        return kind(learner("cuda", **options), bytes_of("cuda"))


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_step_is_one_graph(optimizer, precision):
    """With all that a step may have beside; of each replay the host does nothing but start it."""
    options = {"optimizer": optimizer, "precision": precision, "clip": 1.0, "ema": 0.9, "beta": 0.5}
    options |= {"beta_warmup": 50, "lr_warmup": 5, "total_steps": 130, "accumulate": 2, "skip_non_finite": True}
    step = _step(GraphedStep, **options)
    for _ in range(3):
        step()
    calls()
    step()
    log = calls()
    whole = _of(log, "captured: ")
    assert _of(log, "replayed: ") == whole and {"sample_forward", "row_backward"} <= set(_ours(whole))
    for _ in range(3):
        step()
        log = calls()
        assert _of(log, "replayed: ") == whole
        # beta, the learning rate, and the copy of the bound
        assert len(log) <= len(whole) + 3 and not [c for c in log if "wait" in c or "host" in c or "to the device" in c]


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_eager_training_step_does_not_wait(optimizer, skip):
    step = _step(Step, optimizer=optimizer, skip_non_finite=skip)
    for _ in range(3):
        step()
    waits()
    step()
    assert waits() == []
