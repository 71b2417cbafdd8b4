"""KL divergences among the distributions and to PyTorch's own, against torch.distributions in float64."""

import itertools
import math
import warnings

import mpmath
import pytest
import torch
from cases import SPREADS, arithmetic_dtype, in_parameterisation
from distribution_cases import (
    BOTH,
    KINDS,
    assert_close,
    bernoulli,
    each_dtype,
    each_shape,
    each_spread,
    gaussian,
    of_torch,
    randn,
    standard_normal_like,
)
from torch import distributions as td

from aevb_ext.distributions import Bernoulli, DiagonalGaussian


def _exact_divergence(a, b):
    """Of bits with log odds a and b."""
    a, b = mpmath.mpf(a), mpmath.mpf(b)

    def probability(logit):
        return 1 / (1 + mpmath.exp(-logit))

    return sum(probability(s * a) * (mpmath.log(probability(s * a)) - mpmath.log(probability(s * b))) for s in (1, -1))


class TestDivergences:
    @each_shape
    @pytest.mark.parametrize("pair", list(itertools.product(SPREADS, SPREADS)), ids="-".join)
    def test_gaussians(self, shape, pair):
        p, q = (gaussian(shape, spread, seed=i) for i, spread in enumerate(pair))
        expected = td.kl_divergence(of_torch(p), of_torch(q))
        assert_close(td.kl_divergence(p, q), expected)
        assert_close(p.kl(q), expected)
        assert_close(td.kl_divergence(p, of_torch(q)), expected)
        assert_close(td.kl_divergence(of_torch(p), q), expected)
        assert_close(td.kl_divergence(p, of_torch(q).base_dist), expected)
        assert_close(td.kl_divergence(of_torch(p).base_dist, q), expected)

    @each_shape
    @each_spread
    def test_to_the_standard_normal(self, shape, spread):
        p = gaussian(shape, spread)
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        expected = td.kl_divergence(of_torch(p), of_torch(standard_normal_like(p)))
        for result in (
            p.kl(),
            p.kl(standard_normal_like(p)),
            td.kl_divergence(p, td.Normal(zero, one)),
            td.kl_divergence(p, td.Normal(zero.expand(p.event_shape), one.expand(p.event_shape))),
            td.kl_divergence(p, td.Normal(0.0, 1.0)),  # in float32
        ):
            assert_close(result, expected)

    @each_shape
    @pytest.mark.parametrize("pair", list(itertools.product(KINDS, KINDS)), ids="-".join)
    def test_bernoullis(self, shape, pair):
        p, q = (bernoulli(shape, kind, seed=i) for i, kind in enumerate(pair))
        expected = td.kl_divergence(of_torch(p), of_torch(q))
        assert_close(td.kl_divergence(p, q), expected)
        assert_close(td.kl_divergence(p, of_torch(q)), expected)
        assert_close(td.kl_divergence(of_torch(p), q), expected)
        assert_close(td.kl_divergence(p, of_torch(q).base_dist), expected)
        assert_close(td.kl_divergence(of_torch(p).base_dist, q), expected)

    def test_batches_broadcast(self):
        mixed = {}
        for name, make in BOTH.items():
            one, many = make("batch0").expand((1,)), make("batch0", seed=1).expand((5,))
            for p, q in ((one, many), (many, one), (make("batch0"), many), (many, make("batch0"))):
                assert td.kl_divergence(p, q).shape == (5,)
                assert_close(
                    td.kl_divergence(p, q), td.kl_divergence(of_torch(p).expand((5,)), of_torch(q).expand((5,)))
                )
            mixed[name] = td.kl_divergence(one, td.kl.Independent(of_torch(many).base_dist, 1))
        assert all(kl.shape == (5,) for kl in mixed.values())

    def test_a_prior_of_more_data_points_than_the_posterior(self):
        p = gaussian("batch0")
        prior = td.Normal(randn(3, 6, seed=3), torch.ones(3, 6, dtype=torch.float64))
        assert_close(td.kl_divergence(p, prior), td.kl_divergence(of_torch(p).expand((3,)), td.Independent(prior, 1)))

    def test_nested_independent(self):
        p = gaussian("image")
        q = td.Independent(td.Independent(of_torch(p).base_dist, 1), 2)
        assert (td.kl_divergence(p, q).abs() < 1e-28).all()

    @each_dtype
    @pytest.mark.parametrize("pair", [("logvar", "logvar"), ("logvar", "std"), ("var", "log_std")], ids="-".join)
    def test_dtypes_meet_in_the_wider(self, dtype, pair):
        p = gaussian(spread=pair[0], dtype=dtype)
        q = gaussian(spread=pair[1], dtype=torch.float32, seed=1)
        expected = td.kl_divergence(of_torch(p), of_torch(q))
        assert p.kl(q).dtype == arithmetic_dtype(dtype)
        assert_close(p.kl(q), expected, torch.float32)
        prior = td.Normal(torch.zeros(7), torch.ones(7))
        expected = td.kl_divergence(of_torch(p), of_torch(standard_normal_like(p)))
        assert_close(td.kl_divergence(p, prior), expected, torch.float32)

    @each_spread
    def test_to_itself_is_nothing(self, spread):
        p = gaussian(spread=spread, dtype=torch.float32)
        assert (p.kl(p) == 0).all() and (td.kl_divergence(bernoulli(), bernoulli()) == 0).all()

    @pytest.mark.parametrize("pair", list(itertools.product(SPREADS, SPREADS)), ids="-".join)
    def test_near_equality_in_different_spreads(self, pair):
        """The rounding of two float32 spreads is all that is between them: w = log sigma^2 is off by a few 2^-24 of
        what it and its exponential are, and the divergence by the square of that, never below 0."""
        log_variance = torch.linspace(-8, 8, 400, dtype=torch.float64).reshape(1, -1)
        p, q = (
            DiagonalGaussian(torch.zeros(1, 400), in_parameterisation(log_variance, spread).float(), spread=spread)
            for spread in pair
        )
        assert (p.kl(q) >= 0).all() and p.kl(q) <= 400 * (8 * 2.0**-23) ** 2

    def test_bernoullis_near_equality_keep_their_digits(self):
        """Against the second and third order of the difference in float64, where PyTorch's float32 has noise alone."""
        a = torch.linspace(-6, 6, 101).reshape(1, -1)
        b = a + 2.0**-12  # exact, or rounded: the difference below is that of the float32 numbers
        d = b.double() - a.double()
        p = a.double().sigmoid()
        expected = p * (1 - p) * (d**2 / 2 + (1 - 2 * p) * d**3 / 6 + (1 - 6 * p * (1 - p)) * d**4 / 24)
        ours = td.kl_divergence(Bernoulli(logits=a, batch_dims=2), Bernoulli(logits=b, batch_dims=2))
        torch.testing.assert_close(ours.double(), expected, rtol=2e-6, atol=0)

    def test_bernoullis_are_continuous_where_the_formula_changes(self):
        """At a difference of the log odds of 1: on either side right to 16 float32 ulp, of any size."""
        a = torch.linspace(-30, 30, 241).reshape(-1, 1)
        for d in (0.9375, 0.999, 1.0, 1.001, 1.0625):
            b = a + d
            exact = [t.double() for t in (a, b)]
            p, q = exact[0].sigmoid(), exact[0].neg().sigmoid()
            log_ratio = [
                torch.nn.functional.logsigmoid(s * exact[0]) - torch.nn.functional.logsigmoid(s * exact[1])
                for s in (1, -1)
            ]
            expected = (p * log_ratio[0] + q * log_ratio[1]).squeeze(1)
            ours = td.kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b))
            torch.testing.assert_close(ours.double(), expected, rtol=64 * 2.0**-24, atol=0)

    def test_bernoullis_of_sure_bits(self):
        """As torch.distributions has it: infinite where q says never and p does not."""
        values = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        p, q = (t.flatten() for t in torch.meshgrid(values, values, indexing="ij"))
        ours = td.kl_divergence(Bernoulli(probs=p), Bernoulli(probs=q))
        torch.testing.assert_close(ours, td.kl_divergence(td.Bernoulli(p), td.Bernoulli(q)))
        assert ours.isinf().sum() == 4

    @pytest.mark.parametrize("pair", list(itertools.product(KINDS, KINDS)), ids="-".join)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_bernoullis_that_are_all_but_sure(self, pair, dtype):
        """Down to the smallest normal number and the last one below 1, which is far beyond the eps at which PyTorch
        clamps probabilities; with gradients that are numbers."""
        limits = torch.finfo(dtype)
        probs = [limits.tiny, 1e-30, 1e-8, limits.eps / 3, 0.3, 1 - limits.eps, 1 - limits.eps / 2]
        p, q = (t.flatten() for t in torch.meshgrid(*2 * [torch.tensor(probs, dtype=dtype)], indexing="ij"))
        params = [t if kind == "probs" else t.log() - (-t).log1p() for t, kind in zip((p, q), pair, strict=True)]
        params = [t.requires_grad_() for t in params]
        kl = td.kl_divergence(*(Bernoulli(**{kind: t}) for t, kind in zip(params, pair, strict=True)))
        with mpmath.workdps(60):
            logits = [
                [mpmath.log(v) - mpmath.log1p(-mpmath.mpf(v)) if kind == "probs" else v for v in t.tolist()]
                for t, kind in zip(params, pair, strict=True)
            ]
            expected = [float(_exact_divergence(*logits_of_both)) for logits_of_both in zip(*logits, strict=True)]
        apart, expected = p != q, torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(kl[apart].double(), expected[apart], rtol=64 * limits.eps, atol=0)
        assert (kl[~apart] >= 0).all() and (kl[~apart] < limits.eps**2).all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(kl.sum(), params))

    @pytest.mark.parametrize("kind", KINDS)
    def test_bernoullis_of_no_probability_have_none(self, kind):
        fair = Bernoulli(**{kind: torch.tensor([0.5, 0.5, 0.5])})
        invalid = Bernoulli(probs=torch.tensor([-0.1, 1.1, math.nan]))
        assert td.kl_divergence(invalid, fair).isnan().all() and td.kl_divergence(fair, invalid).isnan().all()

    def test_bernoullis_of_extreme_logits(self):
        logits = torch.tensor([-1e4, -40.0, 0.0, 40.0, 1e4], dtype=torch.float64)
        a, b = (t.flatten().requires_grad_() for t in torch.meshgrid(logits, logits, indexing="ij"))
        kl = td.kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b))
        with mpmath.workdps(50):
            expected = [float(_exact_divergence(*pair)) for pair in zip(a.tolist(), b.tolist(), strict=True)]
        torch.testing.assert_close(kl, torch.tensor(expected, dtype=torch.float64), rtol=1e-14, atol=0)
        gradients = torch.autograd.grad(kl.sum(), (a, b))
        assert all(g.isfinite().all() for g in gradients)

    def test_infinite_logits(self):
        sure = torch.tensor([[-math.inf, math.inf]])
        assert td.kl_divergence(Bernoulli(logits=sure), Bernoulli(logits=sure)).item() == 0
        unsure = Bernoulli(logits=torch.zeros(1, 2))
        torch.testing.assert_close(td.kl_divergence(Bernoulli(logits=sure), unsure), torch.tensor([2 * math.log(2)]))
        for p in (unsure, Bernoulli(logits=-sure), Bernoulli(probs=torch.tensor([[1e-30, 1.0]]))):
            assert td.kl_divergence(p, Bernoulli(logits=sure)).item() == math.inf

    def test_the_dispatch_is_not_ambiguous(self):
        class Subclass(DiagonalGaussian):
            pass

        class TheirSubclass(td.Normal):
            pass

        gaussians = (DiagonalGaussian, Subclass, td.Normal, TheirSubclass, td.Independent)
        bernoullis = (Bernoulli, td.Bernoulli, td.Independent)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for types in (gaussians, bernoullis):
                for ours, other in itertools.product(types, types):
                    if issubclass(ours, (DiagonalGaussian, Bernoulli)):
                        assert td.kl._dispatch_kl(ours, other) is not NotImplemented
                        assert td.kl._dispatch_kl(other, ours) is not NotImplemented

    def test_of_other_kinds_is_not_known(self):
        p = gaussian(dtype=torch.float32)
        for q in (
            td.Gumbel(0.0, 1.0),
            bernoulli(),
            td.Bernoulli(0.5),
            td.Independent(td.Gumbel(torch.zeros(4, 7), 1), 1),
        ):
            for pair in ((p, q), (q, p)):
                with pytest.raises(NotImplementedError, match="KL"):
                    td.kl_divergence(*pair)

    def test_events_that_differ(self):
        p = gaussian()
        for q in (
            DiagonalGaussian(randn(4, 5), randn(4, 5)),
            DiagonalGaussian(randn(4, 1), randn(4, 1)),
            td.Independent(td.Normal(torch.zeros(4, 5), 1.0), 1),
            td.Independent(td.Normal(torch.zeros(4, 7), 1.0), 2),
            td.Normal(torch.zeros(5), 1.0),
        ):
            for pair in ((p, q), (q, p)):
                with pytest.raises(ValueError, match=r"(5|1|4, 7).*7|7.*(5|1|4, 7)"):
                    td.kl_divergence(*pair)
        one = DiagonalGaussian(randn(4, 1), randn(4, 1))
        with pytest.raises(ValueError, match=r"p has event_shape \[1\], but q has \[5\]"):
            td.kl_divergence(one, td.Normal(torch.zeros(5), 1.0))
        with pytest.raises(ValueError, match=r"p has event_shape \[7\], but q has \[2\]"):
            td.kl_divergence(bernoulli(), Bernoulli(logits=torch.zeros(4, 2)))

    def test_batches_that_differ(self):
        with pytest.raises(ValueError, match=r"p's batch has shape \[4\].*q's batch, of shape \[3\]"):
            td.kl_divergence(gaussian(), DiagonalGaussian(randn(3, 7), randn(3, 7)))
