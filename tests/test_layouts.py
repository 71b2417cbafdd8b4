"""Common memory layouts: a tensor's strides change no result, and cost no copy."""

import itertools

import pytest
import torch
from cases import LAYOUTS, LOOPS, Case, Shape, lay_out, small_cases
from torch.utils._python_dispatch import TorchDispatchMode

import aevb_ext

SHAPES = [Shape((5,), (63,), (2,)), Shape((2,), (3, 4, 6), (2,)), Shape((2,), (1025,))]


def _results(call, tensors):
    leaves = {name: t.detach().requires_grad_(t.is_floating_point()) for name, t in tensors.items()}
    outputs = call.run(leaves)
    cotangents = [torch.linspace(-1, 1, o.numel(), device=o.device, dtype=o.dtype).reshape(o.shape) for o in outputs]
    return (*outputs, *torch.autograd.grad(outputs, list(leaves.values()), cotangents))


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "contiguous"])
@pytest.mark.parametrize(("operator", "shape"), list(itertools.product(LOOPS, SHAPES)), ids=str)
def test_strides_change_nothing(operator, shape, layout, device):
    """Elementwise results and their gradients, bit for bit: the arithmetic of an element is that of its values."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        call = Case(operator, shape, dtype, layout=layout, reduction="none").build(device)
        contiguous = {name: t.contiguous() for name, t in call.tensors.items()}
        for strided, plain in zip(_results(call, call.tensors), _results(call, contiguous), strict=True):
            assert torch.equal(strided, plain)


@pytest.mark.parametrize("operator", LOOPS, ids=str)
def test_unaligned_storage(operator, device):
    """A tensor that starts at any element of its storage."""
    for dtype, offset in itertools.product((torch.float32, torch.bfloat16), (1, 2, 3, 5, 7)):
        call = Case(operator, Shape((3,), (67,)), dtype).build(device)
        moved = {}
        for name, t in call.tensors.items():
            storage = torch.full((t.numel() + offset,), float("nan"), dtype=dtype, device=device)
            moved[name] = storage[offset:].view(t.shape).copy_(t)
        for a, b in zip(_results(call, moved), _results(call, call.tensors), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("event", [(20,), (63,), (8, 4, 4)], ids=str)
def test_the_halves_of_an_encoder(event, device):
    """`params.chunk(2, 1)`: both halves of one tensor, and their gradients are those of one tensor."""
    generator = torch.Generator().manual_seed(0)
    params = torch.randn(6, 2 * event[0], *event[1:], generator=generator, dtype=torch.float64).to(device)
    key = torch.tensor([1, 2], device=device)
    results = []
    for copy in (lambda t: t, torch.Tensor.contiguous):
        leaf = params.clone().requires_grad_()
        mu, logvar = (copy(half) for half in leaf.chunk(2, 1))
        z, kl = aevb_ext.rsample_kl(mu, logvar, key=key)
        results.append((z, kl, *torch.autograd.grad(z.sin().sum() + kl.sum(), leaf)))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


class _Copies(TorchDispatchMode):
    """Notes what else than the compiled operators runs on tensors of any size."""

    def __init__(self):
        super().__init__()
        self.others = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.namespace != "aevb_ext" and isinstance(result, torch.Tensor) and result.numel() > 64:
            self.others.append(function.name())
        return result


@pytest.mark.parametrize("layout", ["contiguous", "halves", "transposed", "every_other"])
@pytest.mark.parametrize("case", small_cases(dtype=torch.float32), ids=str)
def test_nothing_is_copied(case, layout, device):
    """Strided halves, broadcast targets and reductions are read where they lie: one operator forward, one backward."""
    call = Case(case.operator, Shape((4,), (784,), (3,)), torch.float32, layout=layout).build(device).differentiable()
    with _Copies() as copies:
        outputs = call.run()
        torch.autograd.grad(outputs, list(call.floating().values()), [torch.ones_like(o) for o in outputs])
    assert [name for name in copies.others if "ones_like" not in name] == []


def test_layouts_are_what_their_names_say():
    """The table itself: each layout keeps the values (the expanded one, of the first entry) and changes the strides."""
    t = torch.arange(2 * 3 * 4 * 6.0).reshape(2, 3, 4, 6)
    for layout in LAYOUTS:
        laid_out = lay_out(t, layout)
        assert torch.equal(laid_out, t[:1].expand(t.shape) if layout == "expanded" else t)
        assert laid_out.is_contiguous() == (layout == "contiguous")
    assert lay_out(t, "channels_last").is_contiguous(memory_format=torch.channels_last)
    assert lay_out(t, "expanded").stride(0) == 0


LARGE = {
    "bernoulli_log_prob": lambda a, b, key: aevb_ext.bernoulli_log_prob(a, b, reduction="none"),
    "gaussian_kl": lambda a, b, key: aevb_ext.gaussian_kl(a, b, reduction="none"),
    "rsample": lambda a, b, key: aevb_ext.rsample(a, b, key=key),
    "rsample_kl": lambda a, b, key: aevb_ext.rsample_kl(a, b, key=key)[0],
}


@pytest.mark.parametrize("name", LARGE)
def test_a_call_that_is_larger_than_the_caches(name, device):
    """Its results go past them, where they are aligned for that, and have the bits of small calls."""
    n, event = 6000, 785
    a, b = torch.randn(2, n, event, generator=torch.Generator().manual_seed(0)).to(device)
    keys = torch.stack([torch.arange(n), torch.arange(n)], 1).to(device)

    def results(rows):
        leaves = [t[rows].requires_grad_() for t in (a, b)]
        values = LARGE[name](*leaves, keys[rows])
        return (values, *torch.autograd.grad(values, leaves, a[rows]))

    large = results(slice(n))
    for begin in range(0, n, 500):
        rows = slice(begin, begin + 500)
        for part, whole in zip(results(rows), large, strict=True):
            assert torch.equal(part, whole[rows])
