"""Every function's values against its reference formula in float64, over the table of cases."""

import math

import pytest
import torch
from cases import CASES, OPERATORS, VALUE_EPS, Case, Shape, arithmetic_dtype, small_cases
from torch.distributions import Bernoulli, Normal, kl_divergence

import aevb_ext
from aevb_ext import reference


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values(case, device):
    call = case.build(device)
    results = zip(call.run(), call.exact(), call.exact_terms(), strict=True)
    for position, (value, exact, terms) in enumerate(results):
        is_sample = case.operator.draws_noise and position == 0
        assert value.device.type == device.type
        assert value.dtype == (case.dtype if is_sample else arithmetic_dtype(case.dtype))
        assert value.shape == exact.shape
        # Noise is rounded at its radius, which may be larger than what is left of it.
        magnitude = (4 if is_sample else 1) + terms.abs()
        if value.dim() < terms.dim():
            magnitude = magnitude.flatten(value.dim()).sum(-1)
        if case.reduction == "mean" and not is_sample:
            magnitude = magnitude / (terms.numel() / math.prod(case.shape.event))
        bound = VALUE_EPS * torch.finfo(arithmetic_dtype(case.dtype)).eps * magnitude
        if is_sample:  # rounded once to the type of mu
            bound = bound + 0.5 * torch.finfo(case.dtype).eps * exact.abs()
        error = (value.cpu().double() - exact).abs()
        assert (error <= bound).all(), f"off by {(error / bound).max():.1f} times the bound"


@pytest.mark.parametrize("case", small_cases() + small_cases(dtype=torch.float32), ids=str)
def test_two_runs_give_the_same_bits(case, device):
    def run():
        call = Case(case.operator, Shape((64,), (784,)), case.dtype).build(device).differentiable()
        outputs = call.run()
        return *outputs, *torch.autograd.grad([o.sum() for o in outputs], list(call.floating().values()))

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_reductions_agree(case, device):
    if not case.operator.reduces:
        pytest.skip("no reduction")
    call = case.build(device)
    none, sample, total, mean = (
        Case(case.operator, case.shape, reduction=r).build(device).run()[-1] for r in ("none", "sample", "sum", "mean")
    )
    torch.testing.assert_close(sample, none.sum(-1))
    torch.testing.assert_close(total, none.sum())
    torch.testing.assert_close(mean, sample.mean())
    torch.testing.assert_close(sample, call.run()[-1], rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("n_samples", [None, 1, 4])
def test_rsample_kl_is_rsample_and_gaussian_kl(dtype, n_samples, device):
    generator = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(8, 40, generator=generator).to(device, dtype).chunk(2, 1)
    key = torch.tensor([7, 8], device=device)
    z, kl = aevb_ext.rsample_kl(mu, logvar, n_samples=n_samples, key=key)
    assert torch.equal(z, aevb_ext.rsample(mu, logvar, n_samples=n_samples, key=key))
    torch.testing.assert_close(kl, aevb_ext.gaussian_kl(mu, logvar), rtol=1e-6, atol=1e-6)


def test_kl_is_never_negative(device):
    """Where posterior and prior nearly agree, rounding must not make the difference negative."""
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        for scale in (1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0):
            logvar = (scale * torch.randn(200, 50, generator=generator)).to(device, dtype)
            near = (logvar.double() * (1 + scale * torch.randn(200, 50, generator=generator).to(device))).to(dtype)
            mu = torch.zeros_like(logvar)
            for spread, s, p in (("logvar", logvar, near), ("std", logvar.exp(), near.exp())):
                assert (aevb_ext.gaussian_kl(mu, s, spread=spread, reduction="none") >= 0).all()
                assert (aevb_ext.gaussian_kl(mu, s, mu, p, spread=spread, reduction="none") >= 0).all()
                assert (aevb_ext.gaussian_kl(mu, s, mu, s, spread=spread, reduction="none") == 0).all()


def test_samples_broadcast_the_data(device):
    """A target is compared with each of its samples: the value is that of the target repeated."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 2, 5, generator=generator, dtype=torch.float64).to(device)
    logits, logvar = torch.randn(2, 4, 3, 2, 5, generator=generator, dtype=torch.float64).to(device)
    for f, rest in ((aevb_ext.bernoulli_log_prob, (logits,)), (aevb_ext.gaussian_log_prob, (logits, logvar))):
        value = f(x, *rest)
        assert value.shape == (4, 3)
        repeated = f(x.expand(4, 3, 2, 5).contiguous(), *rest, batch_dims=2)
        torch.testing.assert_close(value, repeated)


@pytest.mark.parametrize("case", small_cases(), ids=str)
@pytest.mark.parametrize("shape", [Shape((0,), (5,)), Shape((0,), (2, 3)), Shape((0,), (5,), samples=(2,))], ids=str)
def test_empty_batches(case, shape, device):
    """No data points: no values, a sum of nothing, and gradients of no elements."""
    for reduction in ("sample", "none", "sum"):
        call = Case(case.operator, shape, case.dtype, reduction=reduction).build(device).differentiable()
        outputs, exact = call.run(), call.exact()
        assert [o.shape for o in outputs] == [e.shape for e in exact]
        assert all(o.sum() == 0 for o in outputs)
        gradients = torch.autograd.grad([o.sum() for o in outputs], list(call.floating().values()))
        assert [g.shape for g in gradients] == [t.shape for t in call.floating().values()]


@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_empty_events(case, device):
    """Data points without elements: a sum over nothing is 0 for each."""
    call = Case(case.operator, Shape((4,), (0,))).build(device).differentiable()
    outputs = call.run()
    assert [o.shape for o in outputs] == [e.shape for e in call.exact()]
    assert all(o.sum() == 0 for o in outputs)
    gradients = torch.autograd.grad([o.sum() for o in outputs], list(call.floating().values()))
    assert [g.shape for g in gradients] == [t.shape for t in call.floating().values()]


def test_a_broadcast_spread_of_an_empty_batch_has_gradient_zero(device):
    mu, x = torch.zeros(2, 0, 5, device=device, dtype=torch.float64)
    logvar = torch.zeros(5, device=device, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(aevb_ext.gaussian_log_prob(x, mu, logvar).sum(), logvar)
    assert torch.equal(gradient, torch.zeros_like(logvar))


class TestTheReferenceItself:
    """The definition that everything else is held to, against torch.distributions."""

    @pytest.fixture
    def values(self):
        generator = torch.Generator().manual_seed(0)
        return torch.randn(5, 4, 6, generator=generator, dtype=torch.float64)

    def test_bernoulli(self, values):
        x = (values[0] > 0).double()
        expected = Bernoulli(logits=values[1]).log_prob(x).sum(-1)
        torch.testing.assert_close(reference.bernoulli_log_prob(x, values[1]), expected)
        torch.testing.assert_close(reference.bernoulli_log_prob_of_probs(x, values[1].sigmoid()), expected)

    def test_gaussian(self, values):
        x, mu, logvar = values[:3]
        expected = Normal(mu, (logvar / 2).exp()).log_prob(x).sum(-1)
        torch.testing.assert_close(reference.gaussian_log_prob(x, mu, logvar), expected)

    def test_kl(self, values):
        mu, logvar, prior_mu, prior_logvar = values[:4]
        posterior = Normal(mu, (logvar / 2).exp())
        expected = kl_divergence(posterior, Normal(prior_mu, (prior_logvar / 2).exp())).sum(-1)
        torch.testing.assert_close(reference.gaussian_kl(mu, logvar, prior_mu, prior_logvar), expected)
        expected = kl_divergence(posterior, Normal(0.0, 1.0)).sum(-1)
        torch.testing.assert_close(reference.gaussian_kl(mu, logvar), expected)

    @pytest.mark.parametrize("spread", ["log_std", "std", "var"])
    def test_spreads_are_one_distribution(self, values, spread):
        x, mu, logvar = values[:3]
        same = {"log_std": logvar / 2, "std": (logvar / 2).exp(), "var": logvar.exp()}[spread]
        key = torch.tensor([1, 2])
        for f, first in (
            (reference.gaussian_kl, (mu,)),
            (reference.gaussian_log_prob, (x, mu)),
            (lambda *a, **k: reference.rsample(*a, key=key, **k), (mu,)),
        ):
            torch.testing.assert_close(f(*first, same, spread=spread), f(*first, logvar))

    def test_every_function_has_one(self):
        others = {"binarize", "noise_key", "unpack_bits", "linear_bernoulli_log_prob", "linear_gaussian_log_prob"}
        # test_mixture.py, test_categorical.py, test_discretized_logistic_mixture.py
        others |= {"mixture_log_prob", "categorical_log_prob", "discretized_logistic_mixture_log_prob"}
        assert {o.name for o in OPERATORS} | others == set(reference.__all__)
