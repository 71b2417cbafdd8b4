"""Every dense order of the dimensions: the same numbers, results laid out as PyTorch's elementwise operators lay out
theirs, and gradients as their operands."""

import itertools

import pytest
import torch
from cases import LOOPS, Case, Shape, lay_out
from torch._prims_common import compute_elementwise_output_strides
from torch._subclasses.fake_tensor import FakeTensorMode

import aevb_ext

pytestmark = pytest.mark.slow

# The layouts of the operands, one after the other.
LAYOUTS = {
    "channels_last": ("channels_last",),
    "transposed": ("transposed",),
    "halves": ("halves",),
    "halves of channels": ("halves_of_channels_last",),
    "expanded": ("channels_last", "expanded"),
    "first contiguous": ("contiguous", "channels_last"),
    "first channels_last": ("channels_last", "contiguous"),
    "three orders": ("channels_last", "transposed", "contiguous"),
    "gaps": ("every_other", "channels_last"),
}
SHAPES = {
    "rows": Shape((5,), (63,)),
    "image": Shape((2,), (3, 4, 6)),
    "video": Shape((2,), (3, 2, 4, 6)),
    "sampled": Shape((2,), (3, 4, 6), samples=(2,)),
    "ones": Shape((3,), (1, 4, 1)),
    "one": Shape((1,), (4, 5)),
}
# Pieces of work end within a pixel, a line of one channel, an image; channels are fewer than a vector's lanes, or more.
LARGE_SHAPES = {
    "colours": Shape((3,), (3, 61, 59)),
    "channels": Shape((2,), (70, 13, 11)),
    "codes": Shape((3,), (4, 8, 8)),
    "volumes": Shape((2,), (5, 7, 9, 40)),
    "many channels": Shape((2,), (600, 4, 4)),
    "words": Shape((4,), (5, 9)),
    # More dimensions than a kernel tells apart.
    "dimensions": Shape((2, 3), (2, 3, 2, 3, 4)),
}


def _lay_out(t, layout):
    if layout != "halves_of_channels_last":
        return lay_out(t, layout)
    return torch.cat([t, t], 1).movedim(1, -1).contiguous().movedim(-1, 1).chunk(2, 1)[1] if t.dim() > 1 else t


def _call(operator, shape, layouts, dtype=torch.float32, device="cpu", **fixed):
    call = Case(operator, shape, dtype, **fixed).build(device)
    ways = itertools.cycle(LAYOUTS[layouts])
    return call, {name: _lay_out(t, next(ways)).detach() for name, t in call.tensors.items()}


def _results(call, tensors, strided_cotangents=False):
    leaves = {name: t.detach().requires_grad_(t.is_floating_point()) for name, t in tensors.items()}
    outputs = call.run(leaves)
    cotangents = [torch.linspace(-1, 1, o.numel(), device=o.device, dtype=o.dtype).reshape(o.shape) for o in outputs]
    if strided_cotangents:
        cotangents = [lay_out(c, "channels_last") for c in cotangents]
    inputs = [t for t in leaves.values() if t.requires_grad]
    return (*outputs, *torch.autograd.grad(outputs, inputs, cotangents))


def _elementwise_strides(tensors, full):
    """Of PyTorch's own result of these tensors, the first of which is expanded where there are samples."""
    first, *others = tensors
    first = first.expand(full)
    if not others:
        return torch.neg(first).stride()
    if len(others) == 1:
        return torch.add(first, *others).stride()
    if len(others) == 2:
        return torch.addcmul(first, *others).stride()
    return compute_elementwise_output_strides(first, *(t.expand(full) for t in others))


def _strides(t):
    """Those that mean anything."""
    return [stride for size, stride in zip(t.shape, t.stride(), strict=True) if size > 1]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operator", LOOPS, ids=str)
class TestLayouts:
    def test_of_results_and_gradients(self, operator, shape, device):
        for layouts in LAYOUTS:
            call, tensors = _call(operator, SHAPES[shape], layouts, device=device, reduction="none")
            values = _results(call, tensors)
            outputs, gradients = values[: len(values) - len(tensors)], values[len(values) - len(tensors) :]
            for output in outputs:
                assert output.stride() == _elementwise_strides(tensors.values(), output.shape), layouts
            for gradient, (name, operand) in zip(gradients, tensors.items(), strict=True):
                # rsample does not keep mu: its gradient lies as z's does.
                if (operator.name, name) != ("rsample", "mu"):
                    assert _strides(gradient) == _strides(torch.empty_like(operand)), layouts

    def test_of_tensors_without_numbers(self, operator, shape, device):
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            for layouts in LAYOUTS:
                call, tensors = _call(operator, SHAPES[shape], layouts, device=device, reduction="none")
                expected = [t.stride() for t in _results(call, tensors)]
                fake = {name: mode.from_tensor(t) for name, t in tensors.items()}
                assert [t.stride() for t in _results(call, fake)] == expected, layouts
                assert [t.stride() for t in _results(*_on_meta(call, tensors))] == expected, layouts


def _on_meta(call, tensors):
    options = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in call.options.items()}
    meta = {name: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="meta") for name, t in tensors.items()}
    return type(call)(call.name, meta, options), meta


@pytest.mark.parametrize("shape", LARGE_SHAPES)
@pytest.mark.parametrize("operator", LOOPS, ids=str)
def test_elements_are_the_same(operator, shape, device):
    """Elementwise results, samples and gradients, bit for bit."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        if dtype != torch.float32 and shape not in ("colours", "words"):
            continue
        for layouts in LAYOUTS:
            call, tensors = _call(operator, LARGE_SHAPES[shape], layouts, dtype, device, reduction="none")
            expected = _results(call, {name: t.contiguous() for name, t in tensors.items()})
            for found, plain in zip(_results(call, tensors, layouts == "channels_last"), expected, strict=True):
                assert torch.equal(found, plain), layouts


@pytest.mark.parametrize("layouts", ["channels_last", "halves of channels", "first channels_last", "transposed"])
@pytest.mark.parametrize("reduction", ["sample", "sum", "mean"])
@pytest.mark.parametrize("operator", [o for o in LOOPS if o.reduces], ids=str)
def test_sums(operator, reduction, layouts, device):
    """Sums may be taken in another order, by which float64 loses nothing that is seen here."""
    for shape in ("colours", "channels", "words"):
        call, tensors = _call(operator, LARGE_SHAPES[shape], layouts, torch.float64, device, reduction=reduction)
        contiguous = {name: t.contiguous() for name, t in tensors.items()}
        for found, plain in zip(_results(call, tensors), _results(call, contiguous), strict=True):
            torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["scalar", "feature", "channel", "point"])
@pytest.mark.parametrize("operator", [o for o in LOOPS if o.takes_spread], ids=str)
def test_broadcast_spreads(operator, form, device):
    for reduction, layouts in itertools.product(("none", "mean"), ("channels_last", "transposed")):
        call, tensors = _call(
            operator, LARGE_SHAPES["colours"], layouts, torch.float64, device, reduction=reduction, form=form
        )
        contiguous = {name: t.contiguous() for name, t in tensors.items()}
        for found, plain in zip(_results(call, tensors), _results(call, contiguous), strict=True):
            torch.testing.assert_close(found, plain, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("x_dtype", [torch.uint8, torch.bool, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("layouts", ["first contiguous", "first channels_last", "channels_last"])
@pytest.mark.parametrize("operator", [o for o in LOOPS if o.takes_x], ids=str)
def test_data_of_another_dtype(operator, layouts, x_dtype, device):
    for shape in ("colours", "channels"):
        call, tensors = _call(operator, LARGE_SHAPES[shape], layouts, x_dtype=x_dtype, device=device, reduction="none")
        contiguous = {name: t.contiguous() for name, t in tensors.items()}
        for found, plain in zip(_results(call, tensors), _results(call, contiguous), strict=True):
            assert torch.equal(found, plain)


class TestNoise:
    @pytest.mark.parametrize("shape", LARGE_SHAPES)
    @pytest.mark.parametrize("samples", [None, 3])
    @pytest.mark.parametrize("layout", ["channels_last", "transposed", "halves_of_channels_last"])
    def test_goes_by_the_logical_index(self, layout, samples, shape, device):
        size = LARGE_SHAPES[shape].batch + LARGE_SHAPES[shape].event
        mu, logvar = torch.randn(2, *size, generator=torch.Generator().manual_seed(0)).to(device)
        keys = torch.arange(2 * size[0], device=device).reshape(-1, 2)
        for key in (keys[0], keys):
            options = {"key": key, "n_samples": samples, "first_sample": 5}
            expected = aevb_ext.rsample(mu, logvar, **options)
            found = aevb_ext.rsample(_lay_out(mu, layout), _lay_out(logvar, layout), **options)
            assert torch.equal(found, expected)

    @pytest.mark.parametrize("layout", ["channels_last", "transposed", "expanded", "every_other"])
    @pytest.mark.parametrize("shape", LARGE_SHAPES)
    def test_of_bits(self, shape, layout, device):
        size = LARGE_SHAPES[shape].batch + LARGE_SHAPES[shape].event
        x = _lay_out(torch.rand(size, generator=torch.Generator().manual_seed(0)), layout).to(device)
        keys = torch.arange(2 * size[0], device=device).reshape(-1, 2)
        for key in (keys[0], keys):
            bits = aevb_ext.binarize(x, key=key)
            assert torch.equal(bits, aevb_ext.binarize(x.contiguous(), key=key))
            assert bits.stride() == torch.neg(x).stride()


def test_compiled(device):
    """The compiler's strides are those of the results."""
    tensors = [t.to(device) for t in torch.rand(3, 2, 6, 8, 8, generator=torch.Generator().manual_seed(0))]
    key = torch.tensor([1, 2], device=device)

    def run(x, mu, logvar, last_x, last_mu):
        z, kl = aevb_ext.rsample_kl(last_mu, logvar, key=key, reduction="none")
        mixed = aevb_ext.bernoulli_log_prob(x, last_mu, reduction="none")
        last = aevb_ext.gaussian_log_prob(last_x, last_mu, logvar, reduction="none")
        return z * 2, kl + 1, mixed * 3, last * 4, aevb_ext.bernoulli_log_prob(last_x, mu, reduction="none") * 5

    leaves = [*tensors, *(lay_out(t, "channels_last") for t in tensors[:2])]
    leaves = [t.detach().requires_grad_() for t in leaves]
    expected, found = run(*leaves), torch.compile(run, fullgraph=True)(*leaves)
    for a, b in zip(found, expected, strict=True):
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b)
    gradients = [torch.autograd.grad([o.sum() for o in outputs], leaves) for outputs in (found, expected)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("batch", [1, 3])
def test_halves_of_channels_have_the_gradient_of_one_tensor(batch, device):
    params = torch.randn(batch, 6, 5, 7, generator=torch.Generator().manual_seed(0)).to(device)
    key = torch.tensor([1, 2], device=device)
    for function in (
        lambda mu, logvar: aevb_ext.gaussian_kl(mu, logvar, reduction="mean"),
        lambda mu, logvar: aevb_ext.rsample(mu, logvar, key=key).sin().sum(),
        lambda mu, logvar: sum(o.sum() for o in aevb_ext.rsample_kl(mu, logvar, key=key)),
    ):
        gradients = []
        for memory_format in (torch.contiguous_format, torch.channels_last):
            leaf = params.to(memory_format=memory_format).requires_grad_()
            gradients.append(*torch.autograd.grad(function(*aevb_ext.halves(leaf, 1)), leaf))
            assert gradients[-1].is_contiguous(memory_format=memory_format)
        torch.testing.assert_close(*gradients)
