"""Tests that need a GPU: graph capture, streams, no synchronisation, more elements than fit 32 bits."""

import pytest
import torch
from cases import Case, Shape, small_cases
from noise_definition import normals
from program import Program, inputs, same_bits
from public import ROWS
from test_speculative_gradient import SPECULATIVE

import aevb_ext

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]


def _elbo(x, params, weight):
    """Forward and backward of a minibatch: z, the bound and the gradients of all that is learnt."""
    z, kl = aevb_ext.rsample_kl(*params.chunk(2, 1), n_samples=2)
    bound = (aevb_ext.bernoulli_log_prob(x, z @ weight).mean(0) - kl).mean()
    return z, bound, *torch.autograd.grad(bound, (params, weight))


def _minibatch():
    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.rand(16, 784, generator=generator, device="cuda")
    params, weight = (torch.randn(*s, generator=generator, device="cuda") for s in ((16, 40), (20, 784)))
    return x, params.requires_grad_(), weight.requires_grad_()


def captured(function, warm_ups=2):
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(warm_ups):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = function()
    return graph, results


def test_graph_capture_of_a_step():
    """A replay is the eager step with the noise of its own: each draws a new key, the seed decides which."""
    inputs = _minibatch()
    graph, results = captured(lambda: _elbo(*inputs))

    def replays():
        torch.cuda.manual_seed(7)
        for _ in range(3):
            graph.replay()
            yield [r.clone() for r in results]

    first, again = list(replays()), list(replays())
    for a, b in zip(first, again, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a, b, strict=True))
    assert not torch.equal(first[0][0], first[1][0]) and not torch.equal(first[1][0], first[2][0])
    torch.cuda.manual_seed(7)
    for replayed in first:
        torch.testing.assert_close(replayed, list(_elbo(*inputs)))


def test_keys_of_one_graph_differ():
    def three():
        return torch.stack([aevb_ext.noise_key("cuda") for _ in range(3)])

    graph, keys = captured(three)
    seen = set()
    for _ in range(4):
        graph.replay()
        seen |= {tuple(key) for key in keys.tolist()}
    assert len(seen) == 12


def _two_passes(call, cotangent):
    """Hooks on what is saved keep a forward from computing gradients ahead."""
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        (output,) = call.run()
        return output.detach(), *torch.autograd.grad(output, list(call.floating().values()), cotangent)


@pytest.mark.parametrize("reduction", ["mean", "sum", "sample"])
@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
def test_one_pass_has_the_bits_of_two(operator, reduction):
    """Of every cotangent and whatever was guessed, eager and when a graph is replayed, which guesses anew."""
    call = Case(operator, Shape((5,), (784,)), torch.float32, reduction=reduction).build("cuda").differentiable()
    static = torch.ones_like(call.run()[0])

    def step():
        (output,) = call.run()
        return output.detach(), *torch.autograd.grad(output, list(call.floating().values()), static)

    graph, results = captured(step)
    for number in (3, 3, 3, -1, 0, -0.0, float("nan"), 3, 3, 3):
        static.fill_(number)
        graph.replay()
        expected = [t.nan_to_num(77) for t in _two_passes(call, static)]
        for found in (results, step()):
            assert same_bits([t.nan_to_num(77) for t in found], expected)
    if reduction == "sample":
        static.copy_(torch.tensor([3.0, 1.0, 0.0, 2.0, 3.0]))
        graph.replay()
        assert same_bits(results, _two_passes(call, static))


@pytest.mark.parametrize("case", small_cases(dtype=torch.float32), ids=str)
def test_graph_capture_of_each_operator(case):
    """What is captured is what is computed, when the inputs have changed in their places."""
    call = Case(case.operator, Shape((5,), (63,), (2,)), torch.float32).build("cuda").differentiable()

    def step():
        outputs = call.run()
        return *outputs, *torch.autograd.grad([o.sum() for o in outputs], list(call.floating().values()))

    graph, results = captured(step)
    with torch.no_grad():
        for t in call.floating().values():
            t.mul_(0.5)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(results, step(), strict=True))


@pytest.mark.parametrize("row", [row for row in ROWS if row.takes_key], ids=str)
def test_graph_capture_of_every_public_thing(row):
    """The step of a small program: what a replay computes is what eager mode does, of inputs changed in place."""
    program, (x, *rest) = Program(row, "cuda"), inputs(4, "cuda")
    x.requires_grad_()

    def step():
        loss, outputs = program(x, *rest)
        return loss, outputs, torch.autograd.grad(loss, [*program.parameters(), x])

    graph, results = captured(step)
    with torch.no_grad():
        x.mul_(0.5)
    graph.replay()
    assert same_bits(results, step())


@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_no_synchronisation(case):
    call = case.build("cuda").differentiable()
    inputs = list(call.floating().values())
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.autograd.grad([o.sum() for o in call.run()], inputs)
        aevb_ext.noise_key("cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_the_current_stream():
    """On another stream the operators wait for what was put there before them."""
    stream = torch.cuda.Stream()
    x, logits = torch.zeros(2, 4096, 784, device="cuda")
    expected = aevb_ext.bernoulli_log_prob(x + 1, logits + 2)
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        x.add_(1)
        logits.add_(2)
        value = aevb_ext.bernoulli_log_prob(x, logits)
    stream.synchronize()
    assert torch.equal(value, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_a_device_that_is_not_the_current_one(case):
    for a, b in zip(case.build("cuda:1").run(), case.build("cuda:0").run(), strict=True):
        assert a.device.index == 1 and torch.equal(a.cpu(), b.cpu())


class TestMoreThan32Bits:
    """More elements than an int32, and than a uint32 counts."""

    @pytest.fixture(autouse=True)
    def room(self):
        if torch.cuda.mem_get_info()[0] < 48 << 30:
            pytest.skip("needs 48 GiB of GPU memory")
        yield
        torch.cuda.empty_cache()

    @pytest.mark.parametrize("n", [(1 << 31) + 72, (1 << 32) + 72])
    def test_noise(self, n):
        """One element broadcast to all, so that the noise alone takes memory."""
        zero = torch.zeros(1, device="cuda", dtype=torch.bfloat16).expand(n)
        key = torch.tensor([3, 4], device="cuda")
        z = aevb_ext.rsample(zero, zero, key=key)
        for start in (0, n - 64):
            expected = normals(key, (64,), uniforms=torch.float32, start=start // 4)[0]
            torch.testing.assert_close(z[start : start + 64].cpu().double(), expected, rtol=2**-8, atol=1e-6)

    def test_rows(self):
        """Rows that start beyond 2^31, and whose last elements say which row they are."""
        rows, event = (1 << 31) // 784 + 2, 784
        logits = torch.zeros(rows, event, device="cuda", dtype=torch.bfloat16)
        logits[-2:, -1] = 3.0
        x = torch.ones(1, event, device="cuda", dtype=torch.bfloat16).expand(rows, event)
        value = aevb_ext.bernoulli_log_prob(x, logits.requires_grad_())
        plain, marked = -784 * 0.6931472, -783 * 0.6931472 - 0.0485874
        assert value[:-2].min().item() == pytest.approx(plain) and value[:-2].max().item() == pytest.approx(plain)
        assert value[-2:].tolist() == pytest.approx([marked, marked])
        (gradient,) = torch.autograd.grad(value.sum(), logits)
        assert gradient[-1, -1].item() == pytest.approx(1 - 0.9525741, rel=1e-2)
        assert gradient[-3, -1].item() == 0.5 and gradient[0, 0].item() == 0.5

    def test_one_long_row(self):
        n = (1 << 31) + 72
        zero, one = (torch.full((1, 1), v, device="cuda").expand(1, n) for v in (0.0, 1.0))
        assert aevb_ext.gaussian_kl(one, zero).item() == pytest.approx(n / 2, rel=1e-6)
