"""Mixtures of Gaussians against their formula in float64, in both forms, and what PyTorch's machinery makes of them."""

import itertools
import math
import weakref
from functools import partial

import mpmath
import pytest
import torch
from cases import DTYPES, SPREADS, in_parameterisation, lay_out
from torch.func import grad, jacrev, vmap

import aevb_ext
from aevb_ext import _fallback, reference
from benchmarks.memory import peak_bytes

NAMES = ("z", "mu_k", "logvar_k", "logits_k")
FORMS = {"joint": False, "factorised": True}
forms = pytest.mark.parametrize("factorised", FORMS.values(), ids=FORMS)
F64 = torch.float64
INF, NAN = math.inf, math.nan

# A result may be off by these times the eps of the arithmetic, of the terms that it is a sum of: an exponent's rounding
# is a relative error of its component's weight.
VALUE_EPS, GRADIENT_EPS = 4, 4


def _tensors(rows=5, components=7, dims=3, dtype=F64, device="cpu", seed=0, spread="logvar", batch=None):
    generator = torch.Generator().manual_seed(seed)
    normal = partial(torch.randn, generator=generator, dtype=F64)
    tensors = {
        "z": normal(*((rows,) if batch is None else batch), dims),
        "mu_k": normal(components, dims),
        "logvar_k": in_parameterisation(normal(components, dims), spread),
        "logits_k": normal(components),
    }
    return {name: t.to(device, dtype) for name, t in tensors.items()}


def _bounds(z, mu_k, logvar_k, logits_k, cotangent, spread, factorised):
    """Of the value and of each gradient: the size of the terms that it is a sum of, for rows z [B, D], in float64."""
    v = reference._common._logvar(logvar_k, spread).expand_as(mu_k)
    t = (z[:, None] - mu_k) * (-0.5 * v).exp()
    shares = torch.log_softmax(logits_k, 0)[:, None]
    exponents = -0.5 * (t.square() + v + math.log(2 * math.pi))
    sizes = 0.5 * (t.square() + v.abs() + math.log(2 * math.pi))
    if not factorised:
        exponents, sizes = exponents.sum(2, keepdim=True), sizes.sum(2, keepdim=True)
    exponents, sizes = exponents + shares, 1 + sizes + shares.abs()
    r = exponents.softmax(1).nan_to_num()
    values = (r * sizes).sum(1)
    w = cotangent.reshape(len(z), 1, -1).abs() * r * (sizes + values[:, None])
    slope = {"logvar": 0.5, "log_std": 1.0, "std": 1 / logvar_k, "var": 0.5 / logvar_k}[spread]
    per_component = w.sum((0, 2))
    gradients = {
        "z": (w * (t * (-0.5 * v).exp()).abs()).sum(1),
        "mu_k": (w * (t * (-0.5 * v).exp()).abs()).sum(0),
        "logvar_k": ((w * (t.square() + 1)).sum(0) * slope).sum_to_size(logvar_k.shape),
        "logits_k": per_component + shares[:, 0].exp() * per_component.sum(),
    }
    return values if factorised else values[:, 0], gradients


def _check(tensors, factorised, spread="logvar", function=aevb_ext.mixture_log_prob, **options):
    """Values and gradients, of any dtype and shape of the batch, against the formula in float64."""
    dtype = tensors["z"].dtype
    reduction = "none" if factorised else "sample"
    leaves = {name: t.detach().requires_grad_() for name, t in tensors.items()}
    exact = {name: t.detach().cpu().to(F64).requires_grad_() for name, t in tensors.items()}
    options |= {"spread": spread, "factorised": factorised, "reduction": reduction}
    found, expected = function(**leaves, **options), reference.mixture_log_prob(**exact, **options)
    assert found.dtype == (F64 if dtype == F64 else torch.float32) and found.shape == expected.shape
    g = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    g = g.to(found.dtype).to(F64)
    ours = torch.autograd.grad(found, leaves.values(), g.to(found))
    theirs = torch.autograd.grad(expected, exact.values(), g)
    plain = {name: t.detach() for name, t in exact.items()}
    plain["z"] = plain["z"].reshape(-1, plain["z"].shape[-1])
    plain.setdefault("logits_k", torch.zeros(len(plain["mu_k"]), dtype=F64))
    values, gradients = _bounds(**plain, cotangent=g, spread=spread, factorised=factorised)
    eps = torch.finfo(found.dtype).eps
    assert ((found.detach().cpu() - expected.detach()).abs() <= VALUE_EPS * eps * values.reshape(expected.shape)).all()
    for name, ours_of, theirs_of in zip(leaves, ours, theirs, strict=True):
        assert ours_of.dtype == dtype and ours_of.shape == tensors[name].shape
        bound = GRADIENT_EPS * eps * gradients[name].reshape(theirs_of.shape)
        if dtype not in (F64, torch.float32):
            info = torch.finfo(dtype)
            bound = bound + 0.5 * info.eps * theirs_of.abs() + info.smallest_normal
        assert ((ours_of.cpu().to(F64) - theirs_of).abs() <= bound).all(), name


SHAPES = [(1, 1, 1), (5, 7, 3), (4, 16, 1), (3, 1, 9), (19, 33, 16), (70, 130, 50), (33, 17, 70), (2, 300, 5)]


class TestNumbers:
    @forms
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("sizes", SHAPES, ids=str)
    def test_values_and_gradients(self, sizes, dtype, factorised, device):
        _check(_tensors(*sizes, dtype=dtype, device=device), factorised)

    @forms
    @pytest.mark.parametrize("spread", SPREADS)
    @pytest.mark.parametrize("form", ["full", "component", "dimension", "number"])
    def test_spreads(self, spread, form, factorised, device):
        for dtype in (F64, torch.float32):
            tensors = _tensors(21, 18, 5, dtype=dtype, device=device, spread=spread)
            s = tensors["logvar_k"]
            tensors["logvar_k"] = {"full": s, "component": s[:, :1], "dimension": s[0], "number": s[0, 0]}[form]
            _check(tensors, factorised, spread)

    @forms
    def test_equal_weights(self, factorised, device):
        tensors = _tensors(dtype=torch.float32, device=device)
        del tensors["logits_k"]
        _check(tensors, factorised)

    @forms
    @pytest.mark.parametrize("batch", [(), (0,), (3, 2), (2, 0, 3), (2, 3, 4)], ids=str)
    def test_batches(self, batch, factorised, device):
        _check(_tensors(batch=batch, device=device), factorised) if math.prod(batch) else None
        z, *components = _tensors(batch=batch, device=device).values()
        values = aevb_ext.mixture_log_prob(z.requires_grad_(), *components, factorised=factorised)
        assert values.shape == batch
        (dz,) = torch.autograd.grad(values.sum(), z)
        assert dz.shape == z.shape

    @forms
    def test_no_dimensions(self, factorised, device):
        """The density of a point is 1."""
        tensors = {name: t.requires_grad_() for name, t in _tensors(dims=0, device=device).items()}
        value = aevb_ext.mixture_log_prob(**tensors, factorised=factorised)
        assert torch.equal(value, torch.zeros_like(value)) and value.shape == (5,)
        gradients = torch.autograd.grad(value.sum(), tensors.values())
        assert not any(g.any() for g in gradients)

    @pytest.mark.parametrize("layout", ["halves", "transposed", "every_other", "expanded"])
    @forms
    def test_layouts(self, layout, factorised, device):
        """The gaps between strided numbers hold NaN."""
        plain = _tensors(6, 20, 5, dtype=torch.float32, device=device)
        laid_out = {name: lay_out(t, layout) for name, t in plain.items()}
        _check(laid_out, factorised)
        contiguous = {name: t.contiguous() for name, t in laid_out.items()}
        found, expected = (aevb_ext.mixture_log_prob(**t, factorised=factorised) for t in (laid_out, contiguous))
        assert torch.equal(found, expected)

    def test_reductions(self, device):
        tensors = _tensors(device=device)
        rows = aevb_ext.mixture_log_prob(**tensors)
        elements = aevb_ext.mixture_log_prob(**tensors, factorised=True, reduction="none")
        marginals = aevb_ext.mixture_log_prob(**tensors, factorised=True)
        torch.testing.assert_close(marginals, elements.sum(-1))
        for per_sample, factorised in ((rows, False), (marginals, True)):
            of = partial(aevb_ext.mixture_log_prob, **tensors, factorised=factorised)
            torch.testing.assert_close(of(reduction="sum"), per_sample.sum())
            torch.testing.assert_close(of(reduction="mean"), per_sample.mean())

    @pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
    def test_one_component_is_a_gaussian(self, dtype, device):
        tensors = _tensors(40, 1, 9, dtype=dtype, device=device)
        z, mu, logvar = (tensors[name].requires_grad_() for name in NAMES[:3])
        ours = aevb_ext.mixture_log_prob(z, mu, logvar)
        gaussian = aevb_ext.gaussian_log_prob(z, mu.expand_as(z), logvar.expand_as(z))
        close = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 40 * torch.finfo(dtype).eps}
        torch.testing.assert_close(ours, gaussian, **close)
        torch.testing.assert_close(aevb_ext.mixture_log_prob(z, mu, logvar, factorised=True), gaussian, **close)
        for a, b in zip(*(torch.autograd.grad(t.sum(), (z, mu, logvar)) for t in (ours, gaussian)), strict=True):
            torch.testing.assert_close(a, b, rtol=64 * torch.finfo(dtype).eps, atol=1e3 * torch.finfo(dtype).eps)

    def test_total_correlation(self, device):
        """Of the aggregate posterior of a batch: 0 if its dimensions are independent, more if one is a copy."""
        generator = torch.Generator().manual_seed(0)
        mu = torch.randn(400, 2, generator=generator).to(device)
        for means, low, high in ((mu, -0.02, 0.1), (mu[:, :1].expand(-1, 2), 0.5, 2)):
            z = means + 0.3 * torch.randn(400, 2, generator=generator).to(device)
            args = z, means, torch.full_like(means, math.log(0.09))
            joint, marginals = (aevb_ext.mixture_log_prob(*args, factorised=f, reduction="mean") for f in (False, True))
            assert low < (joint - marginals).item() < high


class TestExtremes:
    @forms
    @pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
    def test_far_apart(self, dtype, factorised, device):
        """Exponents from -1e9 to 1e3: against mpmath, to ulp of the terms of the component that counts."""
        z = torch.tensor([[0.0, 0.0], [1e4, 1.0], [-3e2, 1e-3], [0.5, -2e3]])
        mu = torch.tensor([[0.0, 1e-6], [1e4, 3.0], [-299.0, 0.0], [0.0, -1.0], [7.0, -2001.0]])
        v = torch.tensor([[-40.0, -30.0], [2.0, -10.0], [60.0, 1.0], [20.0, 80.0], [-3.0, 0.0]])
        logits = torch.tensor([0.0, -50.0, 30.0, 2.0, 0.5])
        given = (t.to(device, dtype) for t in (z, mu, v, logits))
        found = aevb_ext.mixture_log_prob(*given, factorised=factorised, reduction="none" if factorised else "sample")
        with mpmath.workprec(400):
            weights = [mpmath.exp(mpmath.mpf(x.item())) for x in logits.to(dtype)]
            for b in range(len(z)):
                terms = [[self._exponent(z[b, d], mu[k, d], v[k, d]) for d in range(2)] for k in range(5)]
                for d in range(2) if factorised else [None]:
                    a = [t[d] if factorised else mpmath.fsum(t) for t in terms]
                    total = mpmath.fsum(w * mpmath.exp(e) for w, e in zip(weights, a, strict=True))
                    exact = mpmath.log(total / mpmath.fsum(weights))
                    scale = 100 + max(abs(exact), *(abs(e) for w, e in zip(weights, a, strict=True) if e > exact - 99))
                    error = abs(mpmath.mpf(found[b].item() if d is None else found[b, d].item()) - exact)
                    assert error <= 4 * torch.finfo(dtype).eps * scale

    @staticmethod
    def _exponent(z, mu, v):
        z, mu, v = (mpmath.mpf(t.item()) for t in (z, mu, v))
        return -((z - mu) ** 2 * mpmath.exp(-v) + v + mpmath.log(2 * mpmath.pi)) / 2

    @forms
    def test_absent_components(self, factorised, device):
        """As without them, wherever they are."""
        tensors = _tensors(dtype=torch.float32, device=device)
        absent = {**tensors, "logits_k": tensors["logits_k"].clone(), "mu_k": tensors["mu_k"].clone()}
        absent["logits_k"][2:5] = -INF
        absent["mu_k"][3] = 1e30
        there = torch.tensor([0, 1, 5, 6], device=device)
        left = {name: t if name == "z" else t[there] for name, t in tensors.items()}
        found, expected = (
            self._with_gradients(partial(aevb_ext.mixture_log_prob, factorised=factorised), t) for t in (absent, left)
        )
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1]["z"], expected[1]["z"])
        for name in NAMES[1:]:
            torch.testing.assert_close(found[1][name][there], expected[1][name])
            assert not found[1][name][2:5].any()

    @staticmethod
    def _with_gradients(function, tensors):
        leaves = {name: t.clone().requires_grad_() for name, t in tensors.items()}
        values = function(**leaves)
        gradients = torch.autograd.grad(values.sum(), leaves.values())
        return values.detach(), dict(zip(leaves, gradients, strict=True))

    @forms
    @pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
    def test_nothing_makes_a_nan(self, dtype, factorised, device):
        """Spreads, means and rows at the ends of their ranges, in every combination."""
        numbers = (0.0, 1.0, -1e-30, 1e20, -1e38)
        spreads = (0.0, -250.0, 250.0, -1e4, 1e4)
        every = torch.tensor(list(itertools.product(numbers, spreads)), dtype=dtype, device=device)
        mu, v = every.unbind(1)
        for chosen in ([0], [1, 7], list(range(len(mu)))):
            tensors = {
                "z": torch.tensor(numbers, dtype=dtype, device=device)[:, None].expand(-1, 2),
                "mu_k": mu[chosen, None].expand(-1, 2),
                "logvar_k": v[chosen, None].expand(-1, 2),
                "logits_k": torch.linspace(-200, 200, len(chosen), dtype=dtype, device=device),
            }
            for function in (aevb_ext.mixture_log_prob, _fallback.mixture_log_prob):
                value, gradients = self._with_gradients(partial(function, factorised=factorised), tensors)
                assert not value.isnan().any()
                assert not any(g.isnan().any() for g in gradients.values()), gradients

    def test_a_row_that_no_component_reaches(self, device):
        z = torch.tensor([[1e30], [0.5]], device=device)
        mu = torch.zeros(3, 1, device=device)
        value, gradients = self._with_gradients(aevb_ext.mixture_log_prob, {"z": z, "mu_k": mu, "logvar_k": mu})
        assert value[0] == -INF and value[1].isfinite()
        assert gradients["z"].tolist() == [[0.0], [pytest.approx(-0.5, rel=1e-6)]]

    @forms
    def test_nan_stays_in_its_row(self, factorised, device):
        tensors = _tensors(20, 40, 5, dtype=torch.float32, device=device)
        of = partial(aevb_ext.mixture_log_prob, factorised=factorised, reduction="none" if factorised else "sample")
        clean, clean_gradients = self._with_gradients(of, tensors)
        tensors["z"][7, 2] = NAN
        value, gradients = self._with_gradients(of, tensors)
        there = torch.zeros_like(value, dtype=torch.bool)
        there[(7, 2) if factorised else 7] = True
        assert torch.equal(value.isnan(), there)
        assert torch.equal(value[~there], clean[~there])
        others = torch.arange(20, device=device) != 7
        assert gradients["z"][7, 2].isnan() and torch.equal(gradients["z"][others], clean_gradients["z"][others])

    @forms
    @pytest.mark.parametrize("name", NAMES[1:])
    def test_nan_in(self, name, factorised, device):
        tensors = _tensors(device=device)
        tensors[name].view(-1)[0] = NAN
        value, gradients = self._with_gradients(partial(aevb_ext.mixture_log_prob, factorised=factorised), tensors)
        assert value.isnan().all() and gradients[name].isnan().any()


class TestBits:
    @pytest.mark.cpu_kernels("of threads on the CPU")
    @forms
    def test_threads(self, factorised):
        tensors = _tensors(1000, 70, 9, dtype=torch.float32)
        of = partial(aevb_ext.mixture_log_prob, factorised=factorised)
        before, results = torch.get_num_threads(), []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(TestExtremes._with_gradients(of, tensors))
        finally:
            torch.set_num_threads(before)
        for value, gradients in results[1:]:
            assert torch.equal(value, results[0][0])
            assert all(torch.equal(gradients[name], results[0][1][name]) for name in NAMES)

    @forms
    def test_a_row_in_any_batch(self, factorised, device):
        """Its value and its gradient by z."""
        tensors = _tensors(50, 40, 9, dtype=torch.float32, device=device)
        of = partial(aevb_ext.mixture_log_prob, factorised=factorised)
        value, gradients = TestExtremes._with_gradients(of, tensors)
        for rows in (slice(0, 1), slice(3, 10), slice(17, 49), slice(49, 50)):
            some, of_some = TestExtremes._with_gradients(of, {**tensors, "z": tensors["z"][rows]})
            assert torch.equal(some, value[rows]) and torch.equal(of_some["z"], gradients["z"][rows])

    def test_what_is_not_wanted_changes_nothing(self, device):
        tensors = _tensors(40, 20, 5, dtype=torch.float32, device=device)
        _, every = TestExtremes._with_gradients(aevb_ext.mixture_log_prob, tensors)
        for name in NAMES:
            alone = tensors[name].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(aevb_ext.mixture_log_prob(**{**tensors, name: alone}).sum(), alone)
            assert torch.equal(gradient, every[name])


class TestMachinery:
    @forms
    @pytest.mark.parametrize("spread", SPREADS)
    def test_gradcheck(self, spread, factorised, device):
        tensors = _tensors(3, 4, 2, device=device, spread=spread)
        for form in (lambda s: s, lambda s: s[:, :1], lambda s: s[0, 0]):
            leaves = [t.requires_grad_() for t in ({**tensors, "logvar_k": form(tensors["logvar_k"]).clone()}).values()]
            function = partial(aevb_ext.mixture_log_prob, spread=spread, factorised=factorised)
            assert torch.autograd.gradcheck(function, leaves)
            assert torch.autograd.gradgradcheck(function, leaves)

    @forms
    @pytest.mark.parametrize("with_logits", [False, True])
    def test_opcheck(self, with_logits, factorised, device):
        z, mu, s, logits = (t.requires_grad_() for t in _tensors(dtype=torch.float32, device=device).values())
        arguments = z, mu, s, logits if with_logits else None, "logvar", factorised
        torch.library.opcheck(torch.ops.aevb_ext.mixture_log_prob.default, arguments)
        value = torch.ops.aevb_ext.mixture_log_prob(*arguments).detach()
        operands = (t if t is None else t.detach() for t in arguments[:4])
        arguments = torch.ones_like(value), *operands, value, "logvar", factorised, [True, True, True, with_logits]
        torch.library.opcheck(torch.ops.aevb_ext.mixture_log_prob_backward.default, arguments)

    @forms
    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compile(self, dynamic, factorised, device, fresh_compiler):
        of = partial(aevb_ext.mixture_log_prob, factorised=factorised, reduction="mean")
        compiled = torch.compile(of, fullgraph=True, dynamic=dynamic)
        for rows in (9, 12):
            tensors = _tensors(rows, dtype=torch.float32, device=device)
            found, expected = (TestExtremes._with_gradients(f, tensors) for f in (compiled, of))
            torch.testing.assert_close(found[0], expected[0])
            for name in NAMES:
                torch.testing.assert_close(found[1][name], expected[1][name], rtol=1e-5, atol=1e-6)

    @forms
    @pytest.mark.parametrize("mapped", [("z",), ("mu_k",), ("z", "logits_k"), NAMES], ids="-".join)
    def test_vmap(self, mapped, factorised, device):
        every = [_tensors(seed=seed, device=device) for seed in range(3)]
        stacked = {n: torch.stack([t[n] for t in every], -1) if n in mapped else every[0][n] for n in NAMES}
        dims = tuple(-1 if n in mapped else None for n in NAMES)
        for reduction in ("sample", "mean", *(("none",) if factorised else ())):
            of = partial(aevb_ext.mixture_log_prob, factorised=factorised, reduction=reduction)
            found = vmap(of, dims)(*stacked.values())
            loop = [of(*(t[n] if n in mapped else every[0][n] for n in NAMES)) for t in every]
            torch.testing.assert_close(found, torch.stack(loop), rtol=1e-12, atol=1e-12)

    @forms
    def test_func(self, factorised, device):
        tensors = _tensors(device=device)
        z, *components = tensors.values()

        def of(*given):
            return aevb_ext.mixture_log_prob(*given, factorised=factorised, reduction="sum")

        expected = TestExtremes._with_gradients(lambda **t: of(*t.values()), tensors)[1]
        found = grad(of, (0, 1, 2, 3))(*tensors.values())
        for gradient, name in zip(found, NAMES, strict=True):
            torch.testing.assert_close(gradient, expected[name], rtol=1e-10, atol=1e-12)
        of_rows = vmap(grad(of), (0, None, None, None))(z, *components)
        torch.testing.assert_close(of_rows, expected["z"], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(jacrev(of)(z, *components), expected["z"], rtol=1e-10, atol=1e-12)

    def test_autocast(self, device):
        """Operands of two layers are promoted, and each gradient has the dtype of its own."""
        tensors = _tensors(dtype=torch.float32, device=device)
        tensors["z"] = tensors["z"].bfloat16()
        with torch.autocast(device.type, torch.bfloat16):
            value, gradients = TestExtremes._with_gradients(aevb_ext.mixture_log_prob, tensors)
        promoted = aevb_ext.mixture_log_prob(**{**tensors, "z": tensors["z"].float()})
        assert torch.equal(value, promoted)
        assert [gradients[name].dtype for name in NAMES] == [tensors[name].dtype for name in NAMES]

    def test_backward_twice(self, device):
        leaves = {name: t.requires_grad_() for name, t in _tensors(device=device).items()}
        value = aevb_ext.mixture_log_prob(**leaves).sum()
        first = torch.autograd.grad(value, leaves.values(), retain_graph=True)
        second = torch.autograd.grad(value, leaves.values())
        assert all(map(torch.equal, first, second))

    def test_the_graph_is_let_go(self, device):
        """A node that kept its own result would never be, nor what it has saved."""
        z = _tensors(dtype=torch.float32, device=device)["z"].requires_grad_() * 1
        saved = weakref.ref(z)
        value = aevb_ext.mixture_log_prob(z, z.detach(), z.detach())
        del z
        assert saved() is not None
        del value
        assert saved() is None


@pytest.mark.cpu_kernels("of memory on the CPU, with sizes that take minutes to emulate")
class TestMemory:
    """Of a training step, beside the operands and their gradients."""

    ROWS, COMPONENTS, DIMS = 1024, 512, 48

    def _peak(self, step):
        tensors = _tensors(self.ROWS, self.COMPONENTS, self.DIMS, dtype=torch.float32)
        leaves = [t.requires_grad_() for t in tensors.values()]
        return peak_bytes(lambda: step(*leaves), torch.device("cpu"))

    @forms
    def test_of_a_step(self, factorised):
        """An eighth of a number for each row, component and dimension, of which the formula holds several."""

        def step(*leaves):
            value = aevb_ext.mixture_log_prob(*leaves, factorised=factorised, reduction="mean")
            torch.autograd.grad(value, leaves)

        assert self._peak(step) < 4 * self.ROWS * self.COMPONENTS * self.DIMS / 8

    @forms
    def test_of_the_formulas(self, factorised, monkeypatch):
        """A few pieces of so many numbers, and the operands themselves."""
        monkeypatch.setattr("aevb_ext._mixture._NUMBERS", 1 << 18)
        plain = partial(_fallback.mixture_log_prob, factorised=factorised, reduction="mean")
        peak = self._peak(lambda *leaves: torch.autograd.grad(plain(*leaves), leaves))
        assert peak < 4 * self.ROWS * self.COMPONENTS * self.DIMS / 4


class TestFormulas:
    """In plain PyTorch, for devices without kernels."""

    @forms
    @pytest.mark.parametrize("sizes", [(5, 7, 3), (70, 130, 50), (3, 1, 9)], ids=str)
    def test_numbers(self, sizes, factorised, monkeypatch):
        for numbers in (1, 1 << 12, 1 << 30):
            monkeypatch.setattr("aevb_ext._mixture._NUMBERS", numbers)
            _check(_tensors(*sizes, dtype=torch.float32), factorised, function=_fallback.mixture_log_prob)

    @forms
    def test_gradcheck(self, factorised, monkeypatch):
        monkeypatch.setattr("aevb_ext._mixture._NUMBERS", 20)
        leaves = [t.requires_grad_() for t in _tensors(3, 4, 2).values()]
        function = partial(_fallback.mixture_log_prob, factorised=factorised)
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)
        of_rows = vmap(function, (0, None, None, None))(*(t.detach() for t in leaves))
        torch.testing.assert_close(of_rows, function(*leaves).detach())


def _replaced(**wrong):
    return {**_tensors(dtype=torch.float32), **wrong}


WRONG = {
    "no components": (_replaced(mu_k=torch.zeros(0, 3)), ValueError, r"mu_k has no component \(shape \[0, 3\]\)"),
    "one dimension of mu_k": (_replaced(mu_k=torch.zeros(3)), ValueError, r"mu_k must be \[K, D\].*got shape \[3\]"),
    "z of other dimensions": (
        _replaced(z=torch.zeros(5, 4)),
        ValueError,
        r"z must be \[\*, 3\], since mu_k is \[7, 3\]; got \[5, 4\]",
    ),
    "z is a number": (_replaced(z=torch.zeros(())), ValueError, r"z must be \[\*, 3\].*got \[\]"),
    "logvar_k": (_replaced(logvar_k=torch.zeros(5, 3)), ValueError, r"logvar_k has shape \[5, 3\].*mu_k.*\[7, 3\]"),
    "logits_k": (
        _replaced(logits_k=torch.zeros(1)),
        ValueError,
        r"logits_k has shape \[1\]: expected one for each",
    ),
    "dtype of mu_k": (_replaced(mu_k=torch.zeros(7, 3).half()), TypeError, r"mu_k is Half, but z is Float"),
    "dtype of logvar_k": (
        _replaced(logvar_k=torch.zeros(7, 3).double()),
        TypeError,
        r"logvar_k is Double, but mu",
    ),
    "dtype of logits_k": (
        _replaced(logits_k=torch.zeros(7).double()),
        TypeError,
        r"logits_k is Double, but z",
    ),
    "integers": (_replaced(z=torch.zeros(5, 3).long()), TypeError, r"z must be float64.*got"),
    "device": (_replaced(mu_k=torch.zeros(7, 3, device="meta")), ValueError, r"mu_k is on meta, but z is on cpu"),
    "spread": (_replaced(spread="sigma"), ValueError, r"spread must be .*got .sigma"),
    "reduction": (_replaced(reduction="max"), ValueError, r"reduction must be .*got .max"),
    "reduction none": (_replaced(reduction="none"), ValueError, r'reduction="none".*factorised=True'),
}


@pytest.mark.parametrize(("arguments", "error", "message"), WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("function", [aevb_ext.mixture_log_prob, _fallback.mixture_log_prob], ids=["compiled", "plain"])
def test_errors(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(**arguments)
