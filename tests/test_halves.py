"""halves: like chunk(2, dim), but the gradient is one tensor without a copy."""

import math

import pytest
import torch
import torch.utils.checkpoint
from cases import KEY, SPREADS

import aevb_ext

DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)


def _key():
    return torch.tensor(KEY)


# What reads both halves: functions of them and of options, whose sum is differentiated.
CONSUMERS = {
    "rsample": lambda mu, s, **o: aevb_ext.rsample(mu, s, key=_key(), spread=o["spread"]).sin().sum(),
    "rsample_samples": lambda mu, s, **o: (
        aevb_ext.rsample(mu, s, key=_key(), n_samples=3, spread=o["spread"]).sin().sum()
    ),
    "rsample_kl": lambda mu, s, **o: sum(t.sum() for t in aevb_ext.rsample_kl(mu, s, key=_key(), **o)),
    "rsample_kl_samples": lambda mu, s, **o: sum(
        t.sum() for t in aevb_ext.rsample_kl(mu, s, key=_key(), n_samples=2, **o)
    ),
    "gaussian_kl": lambda mu, s, **o: aevb_ext.gaussian_kl(mu, s, **o),
    "gaussian_kl_to_prior": lambda mu, s, **o: aevb_ext.gaussian_kl(
        mu, s, torch.tensor(0.5, dtype=mu.dtype), torch.tensor(0.75, dtype=mu.dtype), **o
    ),
    "gaussian_log_prob": lambda mu, s, **o: aevb_ext.gaussian_log_prob(torch.full(mu.shape, 0.25), mu, s, **o),
}
ALONE = ("rsample", "rsample_samples", "rsample_kl", "rsample_kl_samples", "gaussian_kl", "gaussian_log_prob")

# Sizes of the whole, the dimension of the halves, batch_dims.
LAYOUTS = {
    "rows": ((4, 66), -1, 1),
    "short rows": ((300, 6), 1, 1),
    "single row": ((1, 100), 1, 1),
    "single numbers": ((5, 2), 1, 1),
    "vector": ((64,), 0, 1),
    "batch": ((6, 5), 0, 1),
    "long": ((2, 18002), -1, 1),
    "channels": ((3, 4, 5, 6), 1, 1),
    "last of an image": ((3, 4, 5, 6), -1, 1),
    "two batch dimensions": ((3, 2, 14), -1, 2),
    "one event of all": ((4, 7), 0, 0),
    "no data points": ((0, 6), 1, 1),
    "no event": ((3, 0), 1, 1),
}


def _params(sizes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(sizes, generator=generator, dtype=torch.float64) + 0.5).to(dtype).requires_grad_()


def _gradient(split, params, consumer, **options):
    mu, spread = split(params)
    return torch.autograd.grad(consumer(mu, spread, **{"spread": "logvar", **options}).sum(), params)[0]


def _chunk(dim):
    return lambda params: params.chunk(2, dim)


def _halves(dim):
    return lambda params: aevb_ext.halves(params, dim)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.uint8, torch.bool, torch.complex64], ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_views_are_those_of_chunk(name, dtype):
    sizes, dim, _ = LAYOUTS[name]
    params = torch.arange(torch.Size(sizes).numel()).reshape(sizes).to(dtype)
    for p in (params, params.clone().requires_grad_()) if dtype in DTYPES else (params,):
        for half, expected in zip(aevb_ext.halves(p, dim), p.chunk(2, dim), strict=True):
            assert torch.equal(half, expected) and half.dtype == expected.dtype
            assert half.stride() == expected.stride() and half.storage_offset() == expected.storage_offset()
            assert half.untyped_storage().data_ptr() == p.untyped_storage().data_ptr()
            assert half.requires_grad == p.requires_grad and half._is_view() and half._base is p


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("consumer", CONSUMERS)
@pytest.mark.parametrize("name", LAYOUTS)
def test_gradient_of_one_consumer(name, consumer, dtype):
    """To the bit, contiguous, and again of the same graph."""
    sizes, dim, batch_dims = LAYOUTS[name]
    params = _params(sizes, dtype)
    options = {"batch_dims": batch_dims}
    expected = _gradient(_chunk(dim), params, CONSUMERS[consumer], **options)
    mu, spread = aevb_ext.halves(params, dim)
    total = CONSUMERS[consumer](mu, spread, spread="logvar", **options).sum()
    for retain in (True, False):
        (found,) = torch.autograd.grad(total, params, retain_graph=retain)
        assert found.dtype == dtype and found.is_contiguous() and torch.equal(found, expected)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("reduction", ["sample", "none", "sum", "mean"])
@pytest.mark.parametrize("consumer", [c for c in CONSUMERS if "rsample" not in c or "kl" in c])
def test_gradient_of_every_option(consumer, reduction, spread):
    params, options = _params((5, 34)), {"reduction": reduction, "spread": spread}
    found, expected = (_gradient(split(1), params, CONSUMERS[consumer], **options) for split in (_halves, _chunk))
    assert found.is_contiguous() and torch.equal(found, expected)


@pytest.mark.parametrize("transform", ["transposed", "sliced", "expanded", "channels_last"])
@pytest.mark.parametrize("consumer", CONSUMERS)
def test_gradient_of_a_strided_whole(consumer, transform):
    whole, view, dim = {
        "transposed": ((34, 5), lambda t: t.t(), 1),
        "sliced": ((5, 40), lambda t: t[:, 3:37], 1),
        "expanded": ((1, 34), lambda t: t.expand(5, 34), 1),
        "channels_last": ((2, 5, 6, 4), lambda t: t.permute(0, 3, 1, 2), 1),
    }[transform]
    params = _params(whole)
    found, expected = (
        _gradient(lambda t, s=split: s(dim)(view(t)), params, CONSUMERS[consumer]) for split in (_halves, _chunk)
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_gradient_of_several_consumers(dtype):
    params = _params((4, 66), dtype)

    def loss(mu, logvar, **_):
        z = aevb_ext.rsample(mu, logvar, key=_key())
        kl = aevb_ext.gaussian_kl(mu, logvar)
        return z.sin().sum() - kl.sum() + aevb_ext.gaussian_log_prob(z.detach(), mu, logvar).sum() + mu.sum()

    torch.testing.assert_close(_gradient(_halves(1), params, loss), _gradient(_chunk(1), params, loss))


@pytest.mark.parametrize("which", [0, 1])
def test_one_half_alone(which):
    params = _params((4, 6))
    (found,) = torch.autograd.grad(aevb_ext.halves(params)[which].sin().sum(), params)
    (expected,) = torch.autograd.grad(params.chunk(2, 1)[which].sin().sum(), params)
    assert torch.equal(found, expected) and found.is_contiguous()


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_swapped_halves(consumer):
    """The first half of the gradient need not be the first that an operator writes."""
    params = _params((4, 34))
    found, expected = (
        _gradient(lambda t, s=split: s(1)(t)[::-1], params, CONSUMERS[consumer]) for split in (_halves, _chunk)
    )
    assert torch.equal(found, expected)


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_a_hook_may_replace_a_gradient(consumer):
    params = _params((4, 34))
    found = []
    for split in (_halves(1), _chunk(1)):
        mu, spread = split(params)
        spread.register_hook(lambda g: 2 * g)
        total = CONSUMERS[consumer](mu, spread, spread="logvar").sum()
        found += torch.autograd.grad(total, params)
    assert torch.equal(*found)


def test_kept_gradients_are_apart():
    """Those of the halves, and what is accumulated in the whole."""
    params = _params((4, 34))
    found = []
    for _ in range(2):
        mu, spread = aevb_ext.halves(params)
        mu.retain_grad()
        spread.retain_grad()
        aevb_ext.gaussian_kl(mu, spread).sum().backward()
        found.append((mu.grad.clone(), spread.grad.clone()))
        kept = mu.grad, spread.grad
    assert torch.equal(params.grad, 2 * torch.cat(found[0], 1))
    params.grad.zero_()
    assert torch.equal(torch.cat(kept, 1), torch.cat(found[1], 1))


@pytest.mark.parametrize("consumer", CONSUMERS)
def test_double_backward(consumer):
    params = _params((2, 6), torch.float64)

    def function(p):
        return CONSUMERS[consumer](*aevb_ext.halves(p), spread="logvar")

    assert torch.autograd.gradcheck(function, params)
    assert torch.autograd.gradgradcheck(function, params)


@pytest.mark.cpu_kernels("gradients are written side by side on the CPU alone")
@pytest.mark.parametrize("name", [n for n in LAYOUTS if n not in ("no data points", "no event")])
@pytest.mark.parametrize("consumer", ALONE)
def test_nothing_is_copied_together(consumer, name):
    sizes, dim, batch_dims = LAYOUTS[name]
    if "rsample" in consumer and dim % len(sizes) != 1:
        pytest.skip("samplers write the gradients of rows side by side")
    if dim % len(sizes) != batch_dims or sizes[dim] == 2:
        pytest.skip("the halves are not two events")
    params = _params(sizes)

    def run():
        _gradient(_halves(dim), params, CONSUMERS[consumer], batch_dims=batch_dims)

    run()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    names = {event.name for event in profile.events()}
    assert any(n.startswith("aevb_ext::") for n in names) and "aten::cat" not in names


@pytest.mark.cpu_kernels("gradients are written side by side on the CPU alone")
def test_nor_where_it_is_computed_ahead():
    params = _params((4, 34))
    for _ in range(3):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            _gradient(_halves(1), params, CONSUMERS["gaussian_kl"])
        assert "aten::cat" not in {event.name for event in profile.events()}


def _elbo(params):
    mu, logvar = aevb_ext.halves(params)
    z, kl = aevb_ext.rsample_kl(mu, logvar, key=_key())
    return (z.sin().sum(-1) - kl).sum()


def _elbo_of_chunk(params):
    z, kl = aevb_ext.rsample_kl(*params.chunk(2, -1), key=_key())
    return (z.sin().sum(-1) - kl).sum()


class TestInPyTorch:
    def test_compile(self):
        torch._dynamo.reset()
        params = _params((4, 10))
        compiled = torch.compile(_elbo, fullgraph=True)
        value, expected = compiled(params), _elbo_of_chunk(params)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(torch.autograd.grad(value, params), torch.autograd.grad(expected, params))

    def test_compile_with_dynamic_shapes(self):
        torch._dynamo.reset()
        compiled = torch.compile(lambda p: aevb_ext.halves(p), fullgraph=True, dynamic=True, backend="aot_eager")
        for sizes in ((4, 10), (6, 14), (9, 2)):
            params = _params(sizes)
            torch.testing.assert_close(compiled(params), params.chunk(2, 1))

    def test_export(self):
        class Module(torch.nn.Module):
            def forward(self, params):
                return aevb_ext.halves(params)

        params = _params((4, 10)).detach()
        program = torch.export.export(Module(), (params,))
        torch.testing.assert_close(program.module()(params), params.chunk(2, 1), rtol=0, atol=0)

    def test_grad_and_jacrev(self):
        params = _params((3, 4), torch.float64).detach()
        torch.testing.assert_close(torch.func.grad(_elbo)(params), torch.func.grad(_elbo_of_chunk)(params))
        torch.testing.assert_close(torch.func.jacrev(_elbo)(params), torch.func.grad(_elbo_of_chunk)(params))

        def both(p):
            return torch.cat([h.sin() for h in aevb_ext.halves(p)], -1)

        torch.testing.assert_close(torch.func.jacrev(both)(params), torch.func.jacrev(torch.sin)(params))

    def test_vmap(self):
        params = _params((3, 4, 6), torch.float64).detach()
        for half, expected in zip(torch.func.vmap(aevb_ext.halves)(params), params.chunk(2, -1), strict=True):
            assert torch.equal(half, expected)

        def kl(row):
            return aevb_ext.gaussian_kl(*aevb_ext.halves(row.unsqueeze(0))).sum()

        whole = params[0].clone().requires_grad_()
        expected = torch.autograd.grad(aevb_ext.gaussian_kl(*whole.chunk(2, 1)).sum(), whole)[0]
        torch.testing.assert_close(torch.func.vmap(torch.func.grad(kl))(params[0]), expected)

    def test_meta(self):
        halves = aevb_ext.halves(torch.empty(4, 10, 3, device="meta", requires_grad=True), 1)
        assert [(h.shape, h.stride(), h.device.type) for h in halves] == [((4, 5, 3), (30, 3, 1), "meta")] * 2

    def test_without_gradients(self):
        params = _params((4, 10))
        for mode in (torch.inference_mode, torch.no_grad):
            with mode():
                for half, expected in zip(aevb_ext.halves(params), params.chunk(2, 1), strict=True):
                    assert torch.equal(half, expected) and half.requires_grad == expected.requires_grad

    def test_checkpoint_and_hooks(self):
        params = _params((4, 10))
        (expected,) = torch.autograd.grad(_elbo_of_chunk(params), params)
        value = torch.utils.checkpoint.checkpoint(_elbo, params, use_reentrant=False)
        assert torch.equal(torch.autograd.grad(value, params)[0], expected)
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            assert torch.equal(torch.autograd.grad(_elbo(params), params)[0], expected)


class TestInPlace:
    @pytest.mark.parametrize("split", [aevb_ext.halves, lambda t: t.chunk(2, -1)], ids=["halves", "chunk"])
    def test_on_a_half_is_refused(self, split):
        half, _ = split(_params((4, 6)) * 1)
        with pytest.raises(RuntimeError, match="is a view and is being modified inplace"):
            half.add_(1)

    def test_on_a_half_is_seen_in_the_whole(self):
        whole = torch.zeros(4, 6)
        aevb_ext.halves(whole)[1].fill_(3)
        assert torch.equal(whole, torch.tensor([0.0] * 3 + [3.0] * 3).expand(4, 6))

    def test_on_the_whole_is_noticed(self):
        """Between a forward that keeps its halves, and its backward."""
        whole = _params((4, 6)) * 1
        total = aevb_ext.gaussian_kl(*aevb_ext.halves(whole)).sum()
        whole.add_(1)
        with pytest.raises(RuntimeError, match=r"modified (by an )?inplace"):
            total.backward()


class TestErrors:
    @pytest.mark.parametrize("requires_grad", [False, True])
    def test_odd_size(self, requires_grad):
        with pytest.raises(ValueError, match="params has size 5 in dimension 1, which has no halves"):
            aevb_ext.halves(torch.zeros(4, 5, requires_grad=requires_grad))

    @pytest.mark.parametrize("dim", [2, -3])
    def test_no_such_dimension(self, dim):
        with pytest.raises(IndexError, match=f"dim is {dim}, but params has 2 dimensions"):
            aevb_ext.halves(torch.zeros(4, 6), dim)

    def test_of_a_number(self):
        with pytest.raises(IndexError, match="dim is -1, but params has 0 dimensions"):
            aevb_ext.halves(torch.tensor(1.0))

    def test_no_tensor(self):
        with pytest.raises((TypeError, RuntimeError), match="params"):
            aevb_ext.halves([1.0, 2.0])


@pytest.mark.parametrize("shape", [(6,), (1, 6), (3, 1)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "sample", "mean"])
def test_halves_that_are_broadcast(reduction, shape):
    """Of a prior that all data points share: the gradients of its halves are sums, and so not written side by side."""
    mu, logvar = (t.requires_grad_() for t in torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0)))
    prior = torch.linspace(-1, 1, 2 * math.prod(shape)).reshape(*shape[:-1], -1).requires_grad_()

    def gradients(of):
        value = of.gaussian_kl(mu, logvar, *prior.chunk(2, -1), reduction=reduction)
        return torch.autograd.grad(value.sum(), (mu, logvar, prior))

    for _ in range(3):
        torch.testing.assert_close(gradients(aevb_ext), gradients(aevb_ext.reference))
