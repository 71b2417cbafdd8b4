"""Means and spreads that are the halves of one tensor, in compiled graphs: one gradient, written once."""

import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._inductor.utils import run_and_get_code
from torch._subclasses import FakeTensorMode

import aevb_ext

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cpu_kernels("in graphs gradients are written side by side on the CPU alone"),
]
ops = torch.ops.aevb_ext
KEY = torch.tensor([3, 5])


def _likelihood(mu, logvar):
    x = torch.linspace(-1, 1, mu[0].numel()).reshape(mu.shape[1:])
    return aevb_ext.gaussian_log_prob(x, mu, logvar, reduction="mean")


def _sample(mu, logvar):
    z, kl = aevb_ext.rsample_kl(mu, logvar, key=KEY)
    return (z.flatten(1).sum(1) - 2 * kl).sum()


def _draw(mu, logvar):
    return aevb_ext.rsample(mu, logvar, key=KEY).square().sum()


def _draws(mu, logvar):
    return aevb_ext.rsample(mu, logvar, n_samples=3, key=KEY).square().sum()


def _kl(mu, logvar):
    return aevb_ext.gaussian_kl(mu, logvar, reduction="mean")


def _chunk(params):
    return params.chunk(2, 1)


def _halves(params):
    return aevb_ext.halves(params, 1)


def _images_channels_last(batch):
    return torch.empty(batch, 8, 3, 5).to(memory_format=torch.channels_last)


def _second_half(batch):
    return torch.empty(batch, 2, 10)[:, 1]


LAYOUTS = {
    "rows": lambda batch: torch.empty(batch, 10),
    "images": lambda batch: torch.empty(batch, 8, 3, 5),
    "channels_last": _images_channels_last,
    "with gaps": _second_half,
}


def _params(layout, batch=4):
    laid_out = LAYOUTS[layout](batch)
    numbers = torch.randn(laid_out.shape, generator=torch.Generator().manual_seed(batch))
    return laid_out.copy_(numbers).requires_grad_()


class _Backward:
    """Compiles as eager mode runs it, and keeps the operators of the backward's graph."""

    def __init__(self):
        self.targets = []
        self.backend = aot_autograd(fw_compiler=self.boxed, bw_compiler=self.noted)

    @staticmethod
    def boxed(graph, _):
        return make_boxed_func(graph.forward)

    def noted(self, graph, inputs):
        self.targets = [n.target for n in graph.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]
        return self.boxed(graph, inputs)


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()


@pytest.mark.parametrize("split, dynamic", [(_halves, False), (_chunk, True)], ids=["halves-static", "chunk-dynamic"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("loss", [_kl, _likelihood, _sample, _draw, _draws])
def test_the_bits_of_eager_mode(loss, layout, split, dynamic):
    backward = _Backward()
    compiled = torch.compile(lambda p: loss(*split(p)), fullgraph=True, dynamic=dynamic, backend=backward.backend)
    for batch in (4, 6) if dynamic else (4,):
        params = _params(layout, batch)
        for factor in (1, 1, 1, -3):  # the guess at first, and another cotangent
            (expected,) = torch.autograd.grad(factor * loss(*params.chunk(2, 1)), params)
            (found,) = torch.autograd.grad(factor * compiled(params), params)
            assert torch.equal(found, expected)
    # What the compiler leaves out: the halves of one tensor, put together again in the same dimension.
    split_and_cat = [t for t in backward.targets if t.namespace == "aten"][-2:]
    assert split_and_cat == [torch.ops.aten.split_with_sizes.default, torch.ops.aten.cat.default]


@pytest.mark.parametrize("loss", [_kl, _likelihood])
def test_inductor_adds_nothing(loss):
    """The whole backward is one call of ours, whose result is the gradient."""
    params = _params("rows")
    compiled = torch.compile(lambda p: loss(*p.chunk(2, 1)), fullgraph=True, dynamic=False)
    for _ in range(2):
        (found,), code = run_and_get_code(lambda: torch.autograd.grad(compiled(params), params))
        if code:
            calls = [line for line in code[-1].splitlines() if "torch.ops.aevb_ext." in line and "= torch" in line]
            assert len(calls) == 1 and "_backward" in calls[0]
            assert "cpp_fused" not in code[-1]
        (expected,) = torch.autograd.grad(loss(*params.chunk(2, 1)), params)
        assert torch.equal(found, expected)


@pytest.mark.parametrize(
    "loss",
    [
        lambda first, second: _kl(second, first),
        lambda first, second: _kl(first, second.detach()),
        lambda first, second: _kl(first.detach(), second),
        lambda first, second: _kl(first, second.exp()),
        lambda first, second: _kl(first, first),
        lambda first, second: _kl(first, second) + first.square().sum(),
        lambda first, second: _kl(first[1:], second[1:]),
        lambda first, second: _kl(first[:, 1:], second[:, 1:]),
        lambda first, second: _kl(first, second) + _sample(first, second),
    ],
    ids=[
        *("swapped", "mean alone", "spread alone", "computed", "the same twice", "another use", "some rows"),
        *("parts", "two operators"),
    ],
)
def test_what_is_not_just_halves(loss):
    params = _params("images")
    (expected,) = torch.autograd.grad(loss(*params.chunk(2, 1)), params)
    compiled = torch.compile(lambda p: loss(*p.chunk(2, 1)), fullgraph=True, dynamic=False, backend="aot_eager")
    for _ in range(2):
        (found,) = torch.autograd.grad(compiled(params), params)
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


def test_one_row():
    """Dimensions of size 1 have any stride."""
    params = _params("rows", batch=1)
    compiled = torch.compile(lambda p: _kl(*p.chunk(2, 1)), fullgraph=True, dynamic=False, backend="aot_eager")
    (expected,) = torch.autograd.grad(_kl(*params.chunk(2, 1)), params)
    assert torch.equal(torch.autograd.grad(compiled(params), params)[0], expected)


class TestOperators:
    @staticmethod
    def arguments(mu, logvar):
        return (torch.tensor(2.0), mu, logvar, None, None, "logvar", "mean", 1, [True, True, False, False], None)

    @pytest.mark.parametrize("layout", LAYOUTS)
    @pytest.mark.parametrize("copied", [False, True], ids=["halves", "tensors of their own"])
    def test_packed(self, layout, copied):
        """The same, whether the operands lie side by side or not."""
        with torch.no_grad():
            halves = _params(layout).chunk(2, 1)
            arguments = self.arguments(*(half.contiguous() if copied else half for half in halves))
            expected = ops.gaussian_kl_backward(*arguments)
            packed = ops.gaussian_kl_backward(*arguments, 1)
        assert torch.equal(packed[0], torch.cat(expected[:2], 1)) and packed[1] is None
        with FakeTensorMode() as mode:
            fake = ops.gaussian_kl_backward(
                *(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments), 1
            )[0]
        assert (fake.shape, fake.stride()) == (packed[0].shape, packed[0].stride())

    def test_opcheck(self):
        mu, logvar = _params("images").detach().chunk(2, 1)
        torch.library.opcheck(ops.gaussian_kl_backward.default, (*self.arguments(mu, logvar), 1))
        sampling = (None, torch.ones(4), mu, logvar, KEY, None, 0, "logvar", "sample", 1, [True, True], 1)
        torch.library.opcheck(ops.rsample_kl_backward.default, sampling)
        drawing = (torch.ones_like(mu), logvar, KEY, None, 0, "logvar", [True, True], 1)
        torch.library.opcheck(ops.rsample_backward.default, drawing)

    def test_a_dimension_that_is_not_there(self):
        mu, logvar = _params("rows").detach().chunk(2, 1)
        with pytest.raises(IndexError, match="packed is 2, but there are 2 dimensions"):
            ops.gaussian_kl_backward(*self.arguments(mu, logvar), 2)
