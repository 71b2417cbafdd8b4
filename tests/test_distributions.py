"""The distributions against torch.distributions: methods, shapes, validation, gradients, extremes, misuse."""

import itertools
import math
import re

import pytest
import torch
from cases import KEY, SPREADS, arithmetic_dtype, in_parameterisation
from distribution_cases import (
    DTYPES,
    KINDS,
    SAMPLE_SHAPES,
    SHAPES,
    assert_close,
    bernoulli,
    each_class,
    each_dtype,
    each_kind,
    each_shape,
    each_spread,
    gaussian,
    of_torch,
    randn,
    standard_normal_like,
)
from torch import distributions as td

from aevb_ext.distributions import Bernoulli, DiagonalGaussian


class TestGaussianIsIndependentNormal:
    @each_shape
    @each_spread
    @each_dtype
    def test_every_method(self, shape, spread, dtype):
        ours = gaussian(shape, spread, dtype)
        theirs = of_torch(ours)
        assert isinstance(ours, td.Distribution)
        assert ours.batch_shape == theirs.batch_shape and ours.event_shape == theirs.event_shape
        assert ours.has_rsample and theirs.has_rsample
        assert ours.has_enumerate_support == theirs.has_enumerate_support
        for name in ("mean", "mode", "stddev", "variance"):
            assert_close(getattr(ours, name), getattr(theirs, name), dtype)
        assert_close(ours.entropy(), theirs.entropy(), dtype)
        assert_close(ours.perplexity().log(), theirs.perplexity().log(), dtype)
        for sample_shape in SAMPLE_SHAPES:
            value = theirs.sample(sample_shape).to(dtype)
            assert_close(ours.log_prob(value), theirs.log_prob(value.double()), dtype)
            assert ours.rsample(sample_shape).shape == theirs.rsample(sample_shape).shape
            assert ours.sample(sample_shape).shape == theirs.sample(sample_shape).shape

    @each_dtype
    def test_dtypes(self, dtype):
        ours = gaussian(dtype=dtype)
        of_the_parameters = (ours.mean, ours.mode, ours.logvar, ours.sample(), ours.rsample((2,)))
        assert all(t.dtype == dtype for t in of_the_parameters)
        wide = (ours.stddev, ours.variance, ours.entropy(), ours.kl(), ours.log_prob(ours.mean), ours.rsample_kl()[1])
        assert all(t.dtype == arithmetic_dtype(dtype) for t in wide)

    @each_spread
    def test_logvar(self, spread):
        ours = gaussian(spread=spread)
        assert_close(ours.logvar, of_torch(ours).variance.log())

    def test_float16_variance_does_not_overflow(self):
        logvar = torch.full((1, 2), 12.0, dtype=torch.float16)
        ours = DiagonalGaussian(torch.zeros_like(logvar), logvar)
        torch.testing.assert_close(ours.variance, torch.full((1, 2), math.exp(12.0)))

    @pytest.mark.parametrize("spread_shape", [(), (5,), (3, 1, 1), (2, 1, 1, 1), (1, 3, 4, 5)], ids=str)
    @each_spread
    def test_a_spread_that_broadcasts(self, spread_shape, spread):
        mu = randn(2, 3, 4, 5)
        small = in_parameterisation(randn(*spread_shape, seed=1), spread).requires_grad_()
        full = small.detach().expand(2, 3, 4, 5).clone().requires_grad_()
        value = randn(6, 2, 3, 4, 5, seed=2)
        for method in (
            lambda d: d.log_prob(value),
            lambda d: d.entropy(),
            lambda d: d.kl(),
            lambda d: d.rsample((3,), key=torch.tensor(KEY)),
            lambda d: d.stddev,
            lambda d: d.variance,
            lambda d: d.logvar,
        ):
            a, b = (method(DiagonalGaussian(mu, s, spread=spread)) for s in (small, full))
            torch.testing.assert_close(a, b)
            (ga,), (gb,) = torch.autograd.grad(a.square().sum(), small), torch.autograd.grad(b.square().sum(), full)
            torch.testing.assert_close(ga, gb.sum_to_size(spread_shape))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
    def test_values_of_other_shapes_and_dtypes(self, dtype):
        """The batch broadcasts, and a value may be wider or narrower than the parameters, or bytes: what is done in
        which type is decided by the parameters, and a value is not rounded to theirs."""
        ours = gaussian("image", dtype=dtype)
        theirs = of_torch(ours)
        for shape in ((3, 4, 5), (1, 3, 4, 5), (6, 1, 3, 4, 5), (6, 2, 3, 4, 5), (2, 3, 4, 5)):
            for value_dtype in (*DTYPES, torch.uint8, torch.bool):
                value = randn(*shape, seed=3)
                value = value.to(value_dtype) if value_dtype.is_floating_point else (value > 0).to(value_dtype)
                log_prob = ours.log_prob(value)
                assert log_prob.dtype == arithmetic_dtype(dtype)
                assert_close(log_prob, theirs.log_prob(value.double()), dtype)

    def test_one_data_point_for_many_values(self):
        ours = DiagonalGaussian(randn(1, 5), randn(1, 5, seed=1))
        value = randn(3, 4, 5, seed=2)
        assert_close(ours.log_prob(value), of_torch(ours).log_prob(value))


class TestBernoulliIsIndependentBernoulli:
    @each_shape
    @each_kind
    @each_dtype
    def test_every_method(self, shape, kind, dtype):
        ours = bernoulli(shape, kind, dtype)
        theirs = of_torch(ours)
        assert isinstance(ours, td.Distribution)
        assert ours.batch_shape == theirs.batch_shape and ours.event_shape == theirs.event_shape
        assert ours.has_rsample == theirs.has_rsample
        assert ours.has_enumerate_support == theirs.has_enumerate_support
        for name in ("mode", "variance"):
            assert_close(getattr(ours, name), getattr(theirs, name), dtype)
        narrow = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}.get(dtype, 0) + 1e-6
        torch.testing.assert_close(ours.mean.double(), theirs.mean, rtol=narrow, atol=0)
        torch.testing.assert_close(ours.logits.double(), theirs.base_dist.logits, rtol=narrow, atol=1e-6)
        assert_close(ours.entropy(), theirs.entropy(), dtype)
        assert_close(ours.stddev, theirs.stddev, dtype)
        for sample_shape in SAMPLE_SHAPES:
            value = theirs.sample(sample_shape)
            for value_dtype in (dtype, torch.uint8, torch.bool):
                assert_close(ours.log_prob(value.to(value_dtype)), theirs.log_prob(value), dtype)
            sample = ours.sample(sample_shape)
            assert sample.shape == value.shape and sample.dtype == dtype
            assert set(sample.unique().tolist()) <= {0.0, 1.0}

    @each_kind
    def test_values_that_broadcast(self, kind):
        ours = bernoulli("image", kind)
        for shape in ((3, 4, 5), (1, 3, 4, 5), (6, 1, 3, 4, 5), (2, 3, 4, 5)):
            value = (randn(*shape, seed=3) > 0).double()
            assert_close(ours.log_prob(value), of_torch(ours).log_prob(value))

    @each_kind
    def test_grey_targets(self, kind):
        """A number between 0 and 1 weighs the two log-probabilities, as cross-entropies have it."""
        ours, value = bernoulli(kind=kind), randn(4, 7).sigmoid()
        expected = value * ours.probs.log() + (1 - value) * (1 - ours.probs).log()
        assert_close(ours.log_prob(value), expected.sum(-1))

    @each_kind
    @pytest.mark.parametrize("expand", [True, False])
    def test_enumerate_support(self, kind, expand):
        ours = bernoulli("event0", kind)
        expected = of_torch(ours).enumerate_support(expand)
        assert torch.equal(ours.enumerate_support(expand), expected)
        assert_close(ours.log_prob(ours.enumerate_support()).exp().sum(0), torch.ones(6))

    def test_events_are_not_enumerated(self):
        for distribution in (bernoulli(), of_torch(bernoulli())):
            with pytest.raises(NotImplementedError):
                distribution.enumerate_support()

    @each_kind
    def test_mode(self, kind):
        """Theirs has NaN where 0 and 1 are as likely."""
        logits = torch.tensor([[-3.0, 0.0, 2.0, math.nan]])
        ours = Bernoulli(**{kind: logits if kind == "logits" else logits.sigmoid()})
        torch.testing.assert_close(ours.mode, torch.tensor([[0, math.nan, 1, math.nan]]), equal_nan=True)
        theirs = of_torch(Bernoulli(**{kind: ours.param[:, :3]}))
        torch.testing.assert_close(ours.mode[:, :3].double(), theirs.mode, equal_nan=True)

    def test_entropy_of_sure_bits_keeps_its_digits(self):
        """log(1 + e^-a) + a / (1 + e^a) in float64, where both terms are tiny; 16 float32 ulp are asked for."""
        logits = torch.tensor([-80.0, -30.0, -20.0, -5.0, 0.0, 5.0, 20.0, 30.0, 80.0])
        a = logits.double().abs()
        expected = torch.log1p((-a).exp()) + a * (-a).exp() / (1 + (-a).exp())
        entropy = Bernoulli(logits=logits).entropy()
        torch.testing.assert_close(entropy.double(), expected, rtol=16 * 2.0**-24, atol=0)

    def test_variance_of_sure_bits_keeps_its_digits(self):
        variance = Bernoulli(logits=torch.tensor([[-20.0, 20.0]])).variance
        expected = torch.tensor([[20.0, 20.0]], dtype=torch.float64).neg().exp()
        torch.testing.assert_close(variance.double(), expected / (1 + expected) ** 2, rtol=1e-6, atol=0)


class TestShapes:
    @each_class
    @pytest.mark.parametrize(
        ("batch_shape", "expanded"), [((), (3,)), ((1,), (4,)), ((4,), (2, 4)), ((3, 1), (3, 2)), ((2,), (2,))], ids=str
    )
    def test_expand(self, make, batch_shape, expanded):
        event_shape = (5,)
        ours = make((batch_shape, event_shape))
        theirs = of_torch(ours).expand(expanded)
        ours = ours.expand(torch.Size(expanded))
        assert ours.batch_shape == theirs.batch_shape == expanded and ours.event_shape == event_shape
        value = theirs.sample((2,))
        assert_close(ours.log_prob(value), theirs.log_prob(value))
        assert_close(ours.entropy(), theirs.entropy())
        assert ours.mean.shape == theirs.mean.shape
        assert ours.sample((3,)).shape == (3, *expanded, *event_shape)
        if isinstance(ours, DiagonalGaussian):
            assert_close(ours.kl(), td.kl_divergence(theirs, of_torch(standard_normal_like(ours))))

    @each_class
    def test_expand_copies_nothing(self, make):
        ours = make("batch0")
        tensor = "mu" if isinstance(ours, DiagonalGaussian) else "param"
        assert getattr(ours.expand((1000,)), tensor).data_ptr() == getattr(ours, tensor).data_ptr()

    @each_class
    def test_expand_keeps_validation(self, make):
        value = torch.full((4, 7), torch.nan)
        with pytest.raises(ValueError, match="support"):
            make(validate_args=True).expand((2, 4)).log_prob(value)
        make().expand((2, 4)).log_prob(value)

    @each_class
    def test_expanded_samples_differ(self, make):
        """Each of 64 copies has its own: of 6 bits, all agree with less than one in 2^64."""
        sample = make("batch0").expand((64,)).sample(generator=torch.Generator().manual_seed(0))
        assert len(sample.unique(dim=0)) > 1

    @each_class
    def test_support(self, make):
        for shape in SHAPES:
            ours, theirs = make(shape), of_torch(make(shape))
            value = torch.cat([theirs.sample((2,)), torch.full_like(theirs.sample((1,)), torch.nan)])
            assert torch.equal(ours.support.check(value), theirs.support.check(value))
            assert ours.support.event_dim == theirs.support.event_dim
            assert ours.support.is_discrete == theirs.support.is_discrete

    @each_class
    def test_no_samples_and_no_data(self, make):
        ours = make()
        assert ours.sample((0,)).shape == (0, 4, 7) and ours.sample((2, 0)).shape == (2, 0, 4, 7)
        empty = make().expand((0, 4))
        assert empty.sample().shape == (0, 4, 7) and empty.entropy().shape == (0, 4)
        assert empty.log_prob(torch.zeros(4, 7)).shape == (0, 4)

    @each_class
    @pytest.mark.parametrize(
        "shape", [((0,), (3,)), ((4,), (0,)), ((), ()), ((0,), ()), ((2, 0), (3,)), ((3,), (2, 0)), ((), (0,))], ids=str
    )
    @pytest.mark.parametrize("sample_shape", [(), (2,), (0,), (2, 0, 3)], ids=str)
    def test_of_nothing_and_of_one_number(self, make, shape, sample_shape):
        """Every method, expanded too. (PyTorch's Independent raises where a batch is empty: the sums are made here.)"""
        for more in ((), (2,)):
            ours = make(shape).expand((*more, *shape[0]))
            base, over_event = of_torch(ours).base_dist, tuple(range(-len(shape[1]), 0))
            value = base.sample(sample_shape)
            for found, expected in (
                (ours.log_prob(value), base.log_prob(value)),
                (ours.entropy(), base.entropy()),
                (td.kl_divergence(ours, ours), td.kl_divergence(base, base)),
                (td.kl_divergence(ours, of_torch(ours)), td.kl_divergence(base, base)),
            ):
                assert_close(found, expected.sum(over_event) if over_event else expected)
            assert ours.mean.shape == ours.variance.shape == ours.mode.shape == base.mean.shape
            assert ours.sample(sample_shape).shape == value.shape
            if isinstance(ours, DiagonalGaussian):
                z, kl = ours.rsample_kl(sample_shape)
                assert z.shape == value.shape and kl.shape == ours.batch_shape

    def test_no_samples_with_a_kl(self):
        z, kl = gaussian().rsample_kl((0, 3))
        assert z.shape == (0, 3, 4, 7)
        assert_close(kl, gaussian().kl())

    def test_repr(self):
        text = repr(gaussian("image", "std"))
        for word in ("DiagonalGaussian", "mu", "std", "[2]", "[3, 4, 5]"):
            assert word in text
        text = repr(bernoulli("image", "probs"))
        for word in ("Bernoulli", "probs", "[2]", "[3, 4, 5]"):
            assert word in text


class TestValidation:
    """With validate_args=True as torch.distributions does it; without, no value is looked at."""

    @pytest.mark.parametrize(
        ("make", "word"),
        [
            (lambda **o: DiagonalGaussian(torch.tensor([[math.nan]]), torch.zeros(1, 1), **o), "mu"),
            (lambda **o: DiagonalGaussian(torch.zeros(1, 1), torch.tensor([[math.nan]]), **o), "scale_param"),
            (lambda **o: DiagonalGaussian(torch.zeros(1, 1), torch.zeros(1, 1), spread="std", **o), "scale_param"),
            (lambda **o: DiagonalGaussian(torch.zeros(1, 1), -torch.ones(1, 1), spread="var", **o), "scale_param"),
            (lambda **o: Bernoulli(probs=torch.tensor([[1.5]]), **o), "probs"),
            (lambda **o: Bernoulli(logits=torch.tensor([[math.nan]]), **o), "logits"),
        ],
    )
    def test_parameters(self, make, word):
        with pytest.raises(ValueError, match=f"Expected parameter {word}"):
            make(validate_args=True)
        make()
        make(validate_args=False)

    def test_negative_logvar_is_fine(self):
        DiagonalGaussian(torch.zeros(1, 1), -torch.ones(1, 1), validate_args=True)

    @each_class
    def test_values(self, make):
        value = make().sample()
        make(validate_args=True).log_prob(value)
        value[0, 0] = math.nan
        for distribution in (make(validate_args=True), of_torch(make(), validate_args=True)):
            with pytest.raises(ValueError, match="support"):
                distribution.log_prob(value)
        assert make().log_prob(value).isnan().tolist() == [True, False, False, False]

    def test_grey_values(self):
        with pytest.raises(ValueError, match="support"):
            bernoulli(validate_args=True).log_prob(torch.full((4, 7), 0.5))

    @each_class
    def test_is_off_whatever_the_default_of_torch(self, make, monkeypatch):
        monkeypatch.setattr(td.Distribution, "_validate_args", True)
        make().log_prob(torch.full((4, 7), torch.nan))
        assert not make()._validate_args


def _loss(distribution, value):
    """What uses every method that has a gradient."""
    terms = [distribution.log_prob(value), distribution.entropy(), distribution.variance]
    if isinstance(distribution, DiagonalGaussian):
        key = torch.tensor(KEY, device=value.device)
        terms += [*distribution.rsample_kl((2,), key=key), distribution.rsample(key=key), distribution.kl()]
        terms += [distribution.stddev, distribution.logvar, distribution.mean]
    return torch.cat([(t.flatten() + 1) * (t.flatten() + 1).cos() for t in terms])


class TestGradients:
    @each_spread
    @pytest.mark.parametrize("sampled", [False, True])
    def test_gaussian(self, spread, sampled):
        ours = gaussian("vector", spread)
        value = randn(*((2,) if sampled else ()), 4, 7, seed=2).requires_grad_()
        leaves = tuple(t[..., :2].detach().requires_grad_() for t in (ours.mu, ours.scale_param, value))

        def function(mu, scale_param, value):
            return _loss(DiagonalGaussian(mu, scale_param, spread=spread), value)

        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)

    @each_kind
    @pytest.mark.parametrize("sampled", [False, True])
    def test_bernoulli(self, kind, sampled):
        param = bernoulli(kind=kind).param[:, :2].detach().requires_grad_()
        value = randn(*((2,) if sampled else ()), 4, 2, seed=2).sigmoid().requires_grad_()

        def function(param, value):
            return _loss(Bernoulli(**{kind: param}), value)

        assert torch.autograd.gradcheck(function, (param, value))

    @pytest.mark.parametrize("pair", list(itertools.product(SPREADS, SPREADS)), ids="-".join)
    def test_divergence_of_gaussians(self, pair):
        p, q = (gaussian(spread=spread, seed=i) for i, spread in enumerate(pair))
        leaves = tuple(t[:2, :2].detach().requires_grad_() for t in (p.mu, p.scale_param, q.mu, q.scale_param))

        def function(a, b, c, d):
            return DiagonalGaussian(a, b, spread=pair[0]).kl(DiagonalGaussian(c, d, spread=pair[1]))

        assert torch.autograd.gradcheck(function, leaves)

    @pytest.mark.parametrize("pair", list(itertools.product(KINDS, KINDS)), ids="-".join)
    @pytest.mark.parametrize("apart", [2.0, 0.3])
    def test_divergence_of_bernoullis(self, pair, apart):
        logits = randn(2, 6)
        logits = [logits, logits + apart * randn(2, 6, seed=1).sign()]
        leaves = [t if kind == "logits" else t.sigmoid() for t, kind in zip(logits, pair, strict=True)]

        def function(a, b):
            return td.kl_divergence(Bernoulli(**{pair[0]: a}), Bernoulli(**{pair[1]: b}))

        leaves = tuple(t.requires_grad_() for t in leaves)
        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)

    @pytest.mark.parametrize("p", [0.0, 1.0])
    def test_of_sure_bits_are_finite(self, p):
        probs = torch.full((1, 3), p).requires_grad_()
        ours = Bernoulli(probs=probs)
        other = Bernoulli(logits=torch.zeros(1, 3))
        for result in (ours.entropy(), ours.log_prob(1 - probs.detach()), td.kl_divergence(ours, other)):
            (gradient,) = torch.autograd.grad(result.sum(), probs)
            assert gradient.isfinite().all()


class TestExtremes:
    def test_logits(self):
        logits = torch.tensor([[1e4, -1e4, 1e4, -1e4]]).requires_grad_()
        ours = Bernoulli(logits=logits)
        log_prob = ours.log_prob(torch.tensor([[0.0, 1.0, 1.0, 0.0]]))
        assert log_prob.item() == -2e4 and ours.entropy().item() == 0
        (gradient,) = torch.autograd.grad(log_prob.sum() + ours.entropy().sum(), logits)
        assert gradient.tolist() == [[-1, 1, 0, 0]]

    @pytest.mark.parametrize(
        "param", [{"probs": torch.tensor([[0.0, 1.0]])}, {"logits": torch.tensor([[-math.inf, math.inf]])}]
    )
    def test_sure_bits_have_no_entropy(self, param):
        assert Bernoulli(**param).entropy().item() == 0
        assert Bernoulli(**param).variance.tolist() == [[0, 0]]

    def test_probabilities_0_and_1(self):
        """PyTorch's clamp of the log at -100."""
        ours = Bernoulli(probs=torch.tensor([[0.0, 1.0]]))
        assert ours.log_prob(torch.tensor([[0.0, 1.0]])).item() == 0
        assert ours.log_prob(torch.tensor([[1.0, 0.0]])).item() == -200

    @each_spread
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_spreads(self, spread, dtype):
        """Of variances from 1e-26 to 1e26, and of means a hundred thousand deviations away, every method in float64."""
        log_variance = torch.tensor([-60.0, -20.0, 0.0, 20.0, 60.0], dtype=torch.float64)
        scale_param = in_parameterisation(log_variance, spread).to(dtype)
        mu = torch.tensor([[0.0], [1e4], [-1e4]], dtype=dtype).expand(3, 5)
        ours, key = DiagonalGaussian(mu, scale_param, spread=spread, batch_dims=2), torch.tensor(KEY)
        theirs = of_torch(ours)
        value = theirs.mean + 1e5 * theirs.stddev
        noise = DiagonalGaussian(torch.zeros_like(mu), torch.zeros(()).to(dtype), batch_dims=2).sample(key=key).double()
        standard = of_torch(standard_normal_like(ours))
        close = {"rtol": 3e-5 if dtype == torch.float32 else 1e-12, "atol": 0, "check_dtype": False}
        for found, expected in (
            (ours.stddev, theirs.stddev),
            (ours.variance, theirs.variance),
            (ours.logvar.double(), theirs.variance.log()),
            (ours.entropy(), theirs.entropy()),
            (ours.rsample(key=key), theirs.mean + theirs.stddev * noise),
            (ours.log_prob(value.to(dtype)), theirs.log_prob(value.to(dtype).double())),
            (td.kl_divergence(ours, standard), td.kl_divergence(theirs, standard)),
            (td.kl_divergence(theirs, standard_normal_like(ours)), td.kl_divergence(theirs, standard)),
        ):
            torch.testing.assert_close(found.double(), expected, **close)
        assert (ours.kl() >= 0).all() and (ours.kl(ours) == 0).all()

    def test_one_bad_row_is_alone(self):
        good, bad = gaussian(dtype=torch.float32), gaussian(dtype=torch.float32)
        bad.mu[1, 2] = math.nan
        rows = [0, 2, 3]
        for method in (
            lambda d: d.kl(),
            lambda d: d.log_prob(torch.ones(4, 7)),
            lambda d: d.rsample(key=torch.tensor(KEY)),
        ):
            assert torch.equal(method(good)[rows], method(bad)[rows]) and method(bad)[1].isnan().any()


X = torch.zeros(4, 6)
GAUSSIAN, BITS = DiagonalGaussian(X, X), Bernoulli(logits=X)

# (what, the call, exception, what the message must say)
MISUSE = [
    ("neither", lambda: Bernoulli(), ValueError, ["probs", "logits", "neither"]),
    ("both", lambda: Bernoulli(X, X), ValueError, ["probs", "logits", "both"]),
    ("a number", lambda: Bernoulli(0.5), TypeError, ["probs", "tensor", "float"]),
    ("integer logits", lambda: Bernoulli(logits=X.int()), TypeError, ["logits", "float32", "int32"]),
    ("float8 probs", lambda: Bernoulli(X.to(torch.float8_e5m2)), TypeError, ["probs", "float8_e5m2"]),
    ("number mu", lambda: DiagonalGaussian(0.0, X), TypeError, ["mu", "tensor", "float"]),
    ("number logvar", lambda: DiagonalGaussian(X, 0.0), TypeError, ["logvar", "tensor", "float"]),
    ("integer mu", lambda: DiagonalGaussian(X.long(), X), TypeError, ["mu", "int64", "float32"]),
    ("complex logvar", lambda: DiagonalGaussian(X, X * 1j), TypeError, ["logvar", "complex64", "float32"]),
    ("float8 mu", lambda: DiagonalGaussian(X.to(torch.float8_e4m3fn), X), TypeError, ["mu", "float8_e4m3fn"]),
    ("shape", lambda: DiagonalGaussian(X, X[:, :2]), ValueError, ["logvar", r"\[4, 2\]", "mu", r"\[4, 6\]"]),
    ("wider", lambda: DiagonalGaussian(X[:, :1], X), ValueError, ["logvar", r"\[4, 6\]", "mu", r"\[4, 1\]"]),
    ("more dims", lambda: DiagonalGaussian(X, X[None]), ValueError, ["logvar", r"\[1, 4, 6\]", r"\[4, 6\]"]),
    ("spread", lambda: DiagonalGaussian(X, X, spread="sigma"), ValueError, ["spread", "sigma", '"log_std"']),
    ("batch_dims 3", lambda: DiagonalGaussian(X, X, batch_dims=3), ValueError, ["batch_dims", "0 to 2", "3", "mu"]),
    ("batch_dims -1", lambda: Bernoulli(X, batch_dims=-1), ValueError, ["batch_dims", "0 to 2", "-1", "probs"]),
    ("odd", lambda: DiagonalGaussian.from_params(X[:, :5]), ValueError, ["params", "5", "dimension 1", "halves"]),
    ("dim 2", lambda: DiagonalGaussian.from_params(X, 2), IndexError, ["dim is 2", "params has 2"]),
    ("dim -3", lambda: DiagonalGaussian.from_params(X, -3), IndexError, ["dim is -3", "params has 2"]),
    ("batch's dim", lambda: DiagonalGaussian.from_params(X, 0), ValueError, ["dim 0", "params", "batch_dims=1"]),
    ("batch's dim -2", lambda: DiagonalGaussian.from_params(X, -2), ValueError, ["dim -2", "params", "batch_dims=1"]),
    ("params", lambda: DiagonalGaussian.from_params([1.0, 2.0]), TypeError, ["params", "tensor", "list"]),
    ("a list", lambda: DiagonalGaussian.from_params(X, clamp=(1, 2, 3)), ValueError, ["clamp", r"\(1, 2, 3\)"]),
    ("a number clamp", lambda: DiagonalGaussian.from_params(X, clamp=20), ValueError, ["clamp", "20", "two numbers"]),
    ("order", lambda: DiagonalGaussian.from_params(X, clamp=(20, -30)), ValueError, ["clamp", "low < high", "-30"]),
    ("nan clamp", lambda: DiagonalGaussian.from_params(X, clamp=(0, math.nan)), ValueError, ["clamp", "nan"]),
    ("value's event", lambda: GAUSSIAN.log_prob(X[:, :5]), ValueError, ["value", r"\[4, 5\]", "event_shape", r"\[6\]"]),
    ("value's ones", lambda: BITS.log_prob(X[:, :1]), ValueError, ["value", r"\[4, 1\]", "event_shape", r"\[6\]"]),
    ("value's batch", lambda: BITS.log_prob(X[:3]), ValueError, ["value", r"\[3, 6\]", r"\[4, 6\]"]),
    ("no dims", lambda: BITS.log_prob(X[0, 0]), ValueError, ["value", r"\[\]", r"\[6\]"]),
    ("complex value", lambda: GAUSSIAN.log_prob(X * 1j), TypeError, ["value", "complex64", "uint8", "float32"]),
    ("number value", lambda: GAUSSIAN.log_prob(1.0), TypeError, ["value", "tensor", "float"]),
    ("value elsewhere", lambda: GAUSSIAN.log_prob(X.to("meta")), ValueError, ["meta", "cpu"]),
    ("negative samples", lambda: GAUSSIAN.rsample((2, -1)), ValueError, ["sample_shape", r"\[2, -1\]"]),
    ("negative bits", lambda: BITS.sample((-2, -1)), ValueError, ["sample_shape", r"\[-2, -1\]"]),
    ("key", lambda: GAUSSIAN.sample(key=torch.zeros(2)), TypeError, ["key", "int64", "(?i)float"]),
    ("keys", lambda: BITS.sample(key=torch.zeros(3, 2, dtype=torch.int64)), ValueError, ["key", r"\[3, 2\]"]),
    ("expand", lambda: GAUSSIAN.expand((3,)), RuntimeError, ["expand", "3", "4"]),
]


@pytest.mark.parametrize(("call", "exception", "words"), [row[1:] for row in MISUSE], ids=[row[0] for row in MISUSE])
def test_misuse(call, exception, words):
    with pytest.raises(exception) as caught:
        call()
    for word in words:
        assert re.search(word, str(caught.value)), f"no {word!r} in: {caught.value}"
