"""The distributions against torch.distributions in float64, their samples, divergences, and how they sit in PyTorch."""

import copy
import itertools
import math
import pickle
import re
import warnings

import pytest
import torch
from cases import KEY, SPREADS, in_parameterisation
from noise_definition import normals
from torch import distributions as td
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

import aevb_ext
from aevb_ext.distributions import Bernoulli, DiagonalGaussian
from aevb_ext.distributions.clamp import clamp

# batch_shape and event_shape
SHAPES = {
    "vector": ((4,), (7,)),
    "image": ((2,), (3, 4, 5)),
    "batch2": ((3, 2), (5,)),
    "batch0": ((), (6,)),
    "event0": ((6,), ()),
}
SAMPLE_SHAPES = [(), (3,), (2, 3), (1,)]
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
KINDS = ("logits", "probs")

each_shape = pytest.mark.parametrize("shape", list(SHAPES))
each_spread = pytest.mark.parametrize("spread", SPREADS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_kind = pytest.mark.parametrize("kind", KINDS)


def _randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _shape(shape):
    """That of a name, or the two shapes themselves."""
    return SHAPES[shape] if isinstance(shape, str) else shape


def _gaussian(shape="vector", spread="logvar", dtype=torch.float64, seed=0, **options):
    batch, event = _shape(shape)
    mu, log_variance = _randn(2, *batch, *event, seed=seed)
    scale_param = in_parameterisation(log_variance, spread)
    return DiagonalGaussian(mu.to(dtype), scale_param.to(dtype), spread=spread, batch_dims=len(batch), **options)


def _bernoulli(shape="vector", kind="logits", dtype=torch.float64, seed=0, **options):
    batch, event = _shape(shape)
    logits = 2 * _randn(*batch, *event, seed=seed)
    param = logits if kind == "logits" else logits.sigmoid()
    return Bernoulli(**{kind: param.to(dtype)}, batch_dims=len(batch), **options)


def _theirs(ours, **options):
    """The same distribution as torch.distributions has it, in float64."""
    if isinstance(ours, Bernoulli):
        base = td.Bernoulli(**{ours.param_name: ours.param.double()}, **options)
    else:
        sigma = {
            "logvar": lambda s: (0.5 * s).exp(),
            "log_std": torch.exp,
            "std": lambda s: s,
            "var": torch.sqrt,
        }[ours.spread](ours.scale_param.double())
        base = td.Normal(ours.mu.double(), sigma, **options)
    return td.Independent(base, len(ours.event_shape), **options)


def _close(ours, theirs, dtype=torch.float64):
    """Equal in shape, and in value to what arithmetic in float32 (float64 for float64) makes of a sum of 60 terms."""
    assert ours.shape == theirs.shape
    tolerance = 1e-12 if dtype == torch.float64 else 3e-5
    torch.testing.assert_close(ours.double(), theirs.double(), rtol=tolerance, atol=tolerance, equal_nan=True)


def _wide(dtype):
    return torch.float64 if dtype == torch.float64 else torch.float32


class TestGaussianIsIndependentNormal:
    @each_shape
    @each_spread
    @each_dtype
    def test_every_method(self, shape, spread, dtype):
        ours = _gaussian(shape, spread, dtype)
        theirs = _theirs(ours)
        assert isinstance(ours, td.Distribution)
        assert ours.batch_shape == theirs.batch_shape and ours.event_shape == theirs.event_shape
        assert ours.has_rsample and theirs.has_rsample
        assert ours.has_enumerate_support == theirs.has_enumerate_support
        for name in ("mean", "mode", "stddev", "variance"):
            _close(getattr(ours, name), getattr(theirs, name), dtype)
        _close(ours.entropy(), theirs.entropy(), dtype)
        _close(ours.perplexity().log(), theirs.perplexity().log(), dtype)
        for sample_shape in SAMPLE_SHAPES:
            value = theirs.sample(sample_shape).to(dtype)
            _close(ours.log_prob(value), theirs.log_prob(value.double()), dtype)
            assert ours.rsample(sample_shape).shape == theirs.rsample(sample_shape).shape
            assert ours.sample(sample_shape).shape == theirs.sample(sample_shape).shape

    @each_dtype
    def test_dtypes(self, dtype):
        ours = _gaussian(dtype=dtype)
        of_the_parameters = (ours.mean, ours.mode, ours.logvar, ours.sample(), ours.rsample((2,)))
        assert all(t.dtype == dtype for t in of_the_parameters)
        wide = (ours.stddev, ours.variance, ours.entropy(), ours.kl(), ours.log_prob(ours.mean), ours.rsample_kl()[1])
        assert all(t.dtype == _wide(dtype) for t in wide)

    @each_spread
    def test_logvar(self, spread):
        ours = _gaussian(spread=spread)
        _close(ours.logvar, _theirs(ours).variance.log())

    def test_float16_variance_does_not_overflow(self):
        logvar = torch.full((1, 2), 12.0, dtype=torch.float16)
        ours = DiagonalGaussian(torch.zeros_like(logvar), logvar)
        torch.testing.assert_close(ours.variance, torch.full((1, 2), math.exp(12.0)))

    @pytest.mark.parametrize("spread_shape", [(), (5,), (3, 1, 1), (2, 1, 1, 1), (1, 3, 4, 5)], ids=str)
    @each_spread
    def test_a_spread_that_broadcasts(self, spread_shape, spread):
        mu = _randn(2, 3, 4, 5)
        small = in_parameterisation(_randn(*spread_shape, seed=1), spread).requires_grad_()
        full = small.detach().expand(2, 3, 4, 5).clone().requires_grad_()
        value = _randn(6, 2, 3, 4, 5, seed=2)
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

    def test_values_of_other_shapes_and_dtypes(self):
        """The batch broadcasts, and a value may be wider or narrower than the parameters, or bytes."""
        ours = _gaussian("image", dtype=torch.float32)
        theirs = _theirs(ours)
        for shape in ((3, 4, 5), (1, 3, 4, 5), (6, 1, 3, 4, 5), (6, 2, 3, 4, 5), (2, 3, 4, 5)):
            for dtype in (torch.float64, torch.float32, torch.bfloat16):
                value = _randn(*shape, seed=3).to(dtype)
                _close(ours.log_prob(value), theirs.log_prob(value.double()), torch.float32)
            value = (_randn(*shape, seed=4) > 0).to(torch.uint8)
            _close(ours.log_prob(value), theirs.log_prob(value.double()), torch.float32)
            _close(ours.log_prob(value.bool()), theirs.log_prob(value.double()), torch.float32)

    def test_one_data_point_for_many_values(self):
        ours = DiagonalGaussian(_randn(1, 5), _randn(1, 5, seed=1))
        value = _randn(3, 4, 5, seed=2)
        _close(ours.log_prob(value), _theirs(ours).log_prob(value))


class TestBernoulliIsIndependentBernoulli:
    @each_shape
    @each_kind
    @each_dtype
    def test_every_method(self, shape, kind, dtype):
        ours = _bernoulli(shape, kind, dtype)
        theirs = _theirs(ours)
        assert isinstance(ours, td.Distribution)
        assert ours.batch_shape == theirs.batch_shape and ours.event_shape == theirs.event_shape
        assert ours.has_rsample == theirs.has_rsample
        assert ours.has_enumerate_support == theirs.has_enumerate_support
        for name in ("mode", "variance"):
            _close(getattr(ours, name), getattr(theirs, name), dtype)
        narrow = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}.get(dtype, 0) + 1e-6
        torch.testing.assert_close(ours.mean.double(), theirs.mean, rtol=narrow, atol=0)
        torch.testing.assert_close(ours.logits.double(), theirs.base_dist.logits, rtol=narrow, atol=1e-6)
        _close(ours.entropy(), theirs.entropy(), dtype)
        _close(ours.stddev, theirs.stddev, dtype)
        for sample_shape in SAMPLE_SHAPES:
            value = theirs.sample(sample_shape)
            for value_dtype in (dtype, torch.uint8, torch.bool):
                _close(ours.log_prob(value.to(value_dtype)), theirs.log_prob(value), dtype)
            sample = ours.sample(sample_shape)
            assert sample.shape == value.shape and sample.dtype == dtype
            assert set(sample.unique().tolist()) <= {0.0, 1.0}

    @each_kind
    def test_values_that_broadcast(self, kind):
        ours = _bernoulli("image", kind)
        for shape in ((3, 4, 5), (1, 3, 4, 5), (6, 1, 3, 4, 5), (2, 3, 4, 5)):
            value = (_randn(*shape, seed=3) > 0).double()
            _close(ours.log_prob(value), _theirs(ours).log_prob(value))

    @each_kind
    def test_grey_targets(self, kind):
        """A number between 0 and 1 weighs the two log-probabilities, as cross-entropies have it."""
        ours, value = _bernoulli(kind=kind), _randn(4, 7).sigmoid()
        expected = value * ours.probs.log() + (1 - value) * (1 - ours.probs).log()
        _close(ours.log_prob(value), expected.sum(-1))

    @each_kind
    @pytest.mark.parametrize("expand", [True, False])
    def test_enumerate_support(self, kind, expand):
        ours = _bernoulli("event0", kind)
        expected = _theirs(ours).enumerate_support(expand)
        assert torch.equal(ours.enumerate_support(expand), expected)
        _close(ours.log_prob(ours.enumerate_support()).exp().sum(0), torch.ones(6))

    def test_events_are_not_enumerated(self):
        for distribution in (_bernoulli(), _theirs(_bernoulli())):
            with pytest.raises(NotImplementedError):
                distribution.enumerate_support()

    @each_kind
    def test_mode(self, kind):
        """Theirs has NaN where 0 and 1 are as likely."""
        logits = torch.tensor([[-3.0, 0.0, 2.0, math.nan]])
        ours = Bernoulli(**{kind: logits if kind == "logits" else logits.sigmoid()})
        torch.testing.assert_close(ours.mode, torch.tensor([[0, math.nan, 1, math.nan]]), equal_nan=True)
        theirs = _theirs(Bernoulli(**{kind: ours.param[:, :3]}))
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


BOTH = {"gaussian": _gaussian, "bernoulli": _bernoulli, "probs": lambda *a, **k: _bernoulli(*a, kind="probs", **k)}
each_class = pytest.mark.parametrize("make", BOTH.values(), ids=BOTH)


class TestShapes:
    @each_class
    @pytest.mark.parametrize(
        ("batch_shape", "expanded"), [((), (3,)), ((1,), (4,)), ((4,), (2, 4)), ((3, 1), (3, 2)), ((2,), (2,))], ids=str
    )
    def test_expand(self, make, batch_shape, expanded):
        event_shape = (5,)
        ours = make((batch_shape, event_shape))
        theirs = _theirs(ours).expand(expanded)
        ours = ours.expand(torch.Size(expanded))
        assert ours.batch_shape == theirs.batch_shape == expanded and ours.event_shape == event_shape
        value = theirs.sample((2,))
        _close(ours.log_prob(value), theirs.log_prob(value))
        _close(ours.entropy(), theirs.entropy())
        assert ours.mean.shape == theirs.mean.shape
        assert ours.sample((3,)).shape == (3, *expanded, *event_shape)
        if isinstance(ours, DiagonalGaussian):
            _close(ours.kl(), td.kl_divergence(theirs, _theirs(_standard(ours))))

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
        sample = make("batch0").expand((64,)).sample()
        assert not torch.equal(sample[0], sample[1]) or not torch.equal(sample[0], sample[2])

    @each_class
    def test_support(self, make):
        for shape in SHAPES:
            ours, theirs = make(shape), _theirs(make(shape))
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

    def test_no_samples_with_a_kl(self):
        z, kl = _gaussian().rsample_kl((0, 3))
        assert z.shape == (0, 3, 4, 7)
        _close(kl, _gaussian().kl())

    def test_repr(self):
        text = repr(_gaussian("image", "std"))
        for word in ("DiagonalGaussian", "mu", "std", "[2]", "[3, 4, 5]"):
            assert word in text
        text = repr(_bernoulli("image", "probs"))
        for word in ("Bernoulli", "probs", "[2]", "[3, 4, 5]"):
            assert word in text


def _standard(like):
    zero = torch.zeros(like.batch_shape + like.event_shape, dtype=torch.float64)
    return DiagonalGaussian(zero, zero, batch_dims=len(like.batch_shape))


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
        for distribution in (make(validate_args=True), _theirs(make(), validate_args=True)):
            with pytest.raises(ValueError, match="support"):
                distribution.log_prob(value)
        assert make().log_prob(value).isnan().tolist() == [True, False, False, False]

    def test_grey_values(self):
        with pytest.raises(ValueError, match="support"):
            _bernoulli(validate_args=True).log_prob(torch.full((4, 7), 0.5))

    @each_class
    def test_is_off_whatever_the_default_of_torch(self, make):
        """Which is on."""
        assert td.Distribution._validate_args
        assert not make()._validate_args


class TestSamples:
    @each_shape
    @each_spread
    @pytest.mark.parametrize("sample_shape", SAMPLE_SHAPES, ids=str)
    def test_are_mean_plus_spread_times_noise(self, shape, spread, sample_shape):
        ours, key = _gaussian(shape, spread), torch.tensor(KEY)
        noise, radius = normals(key, (*sample_shape, *ours.mean.shape))
        expected = ours.mean + _theirs(ours).stddev * noise
        z, kl = ours.rsample_kl(sample_shape, key=key)
        assert torch.equal(ours.rsample(sample_shape, key=key), z)
        assert torch.equal(ours.sample(sample_shape, key=key), z)
        assert ((z - expected).abs() <= 1e-13 * (1 + expected.abs() + radius * _theirs(ours).stddev)).all()
        assert torch.equal(kl, ours.kl())

    @each_class
    def test_sample_shapes_of_any_rank_are_one_leading_dimension(self, make):
        ours, key = make(), torch.tensor(KEY)
        assert torch.equal(ours.sample((2, 3), key=key).flatten(0, 1), ours.sample((6,), key=key))

    @each_class
    def test_seeds(self, make):
        ours = make("image")
        torch.manual_seed(5)
        a = ours.sample((3,))
        b = ours.sample((3,))
        torch.manual_seed(5)
        assert torch.equal(a, ours.sample((3,))) and not torch.equal(a, b)
        draws = [ours.sample((3,), generator=torch.Generator().manual_seed(5)) for _ in range(2)]
        assert torch.equal(*draws)

    @each_class
    def test_sample_has_no_gradient(self, make):
        ours = make()
        (ours.mu if isinstance(ours, DiagonalGaussian) else ours.param).requires_grad_()
        assert not ours.sample((2,)).requires_grad and not ours.sample((0,)).requires_grad

    def test_mean_and_variance(self):
        """Of 2e5 samples of each of 28 elements: z-scores below 6, which a right sampler exceeds with 28 * 4e-9."""
        ours, n = _gaussian(), 200_000
        z = ours.sample((n,), generator=torch.Generator().manual_seed(0))
        mean, variance = z.mean(0), z.var(0)
        assert ((mean - ours.mean) / (ours.stddev / math.sqrt(n))).abs().max() < 6
        assert ((variance - ours.variance) / (ours.variance * math.sqrt(2 / n))).abs().max() < 6

    @each_kind
    def test_frequencies(self, kind):
        """Of 2e5 samples of each of 28 bits: z-scores below 6, which a right sampler exceeds with 28 * 2e-9."""
        ours, n = _bernoulli(kind=kind, dtype=torch.float32), 200_000
        frequency = ours.sample((n,), generator=torch.Generator().manual_seed(0)).double().mean(0)
        p = ours.probs.double()
        assert ((frequency - p) / (p * (1 - p) / n).sqrt()).abs().max() < 6

    def test_rare_bits(self):
        """Of probability 1e-4 in 4e6 draws, expected 400 times: within 6 standard deviations, and so for 0 among 1."""
        for p in (1e-4, 1 - 1e-4):
            ours = Bernoulli(probs=torch.full((1, 4_000_000), p))
            ones = ours.sample(generator=torch.Generator().manual_seed(0)).double().sum().item()
            rare = ones if p < 0.5 else 4_000_000 - ones
            assert abs(rare - 400) < 6 * 20

    @each_kind
    def test_bits_are_independent(self, kind):
        """The correlation of neighbours over 2e5 samples, times the root of their number: below 6 (7 * 2e-9)."""
        ours, n = _bernoulli(kind=kind), 200_000
        sample = ours.sample((n,), generator=torch.Generator().manual_seed(1))
        centred = (sample - ours.probs) / ours.stddev
        assert ((centred[..., 1:] * centred[..., :-1]).sum(0) / math.sqrt(n)).abs().max() < 6

    def test_sure_bits(self):
        sure = torch.tensor([[0.0, 1.0, -0.0]])
        assert torch.equal(Bernoulli(probs=sure).sample((10_000,)), sure.abs().expand(10_000, 1, 3))
        sure = torch.tensor([[-1e4, 1e4, -math.inf, math.inf]])
        assert torch.equal(Bernoulli(logits=sure).sample((10_000,)), (sure > 0).float().expand(10_000, 1, 4))

    def test_what_is_no_probability_gives_no_bit(self):
        sample = Bernoulli(probs=torch.tensor([[math.nan, 0.5], [1.0, 0.0]])).sample()
        assert sample.isnan().tolist() == [[True, False], [False, False]]


class TestOneGeneratorForEachDataPoint:
    @staticmethod
    def _generators(*seeds):
        return [torch.Generator().manual_seed(seed) for seed in seeds]

    @each_class
    @pytest.mark.parametrize("sample_shape", [(), (2,), (2, 3)], ids=str)
    def test_the_same_picture_whatever_the_batch(self, make, sample_shape):
        ours = make("image").expand((2,))
        together = ours.sample(sample_shape, generator=self._generators(7, 8))
        swapped = ours.sample(sample_shape, generator=self._generators(8, 7))
        for i, seed in enumerate((7, 8)):
            alone = self._only(ours, i).sample(sample_shape, generator=self._generators(seed))
            at = len(sample_shape)
            assert torch.equal(together.select(at, i), alone.select(at, 0))
            by_itself = self._only(ours, i).sample(sample_shape, generator=self._generators(seed)[0])
            assert torch.equal(alone, by_itself)
        assert not torch.equal(together, swapped)

    @staticmethod
    def _only(ours, i):
        if isinstance(ours, DiagonalGaussian):
            return DiagonalGaussian(ours.mu[i : i + 1], ours.scale_param[i : i + 1], spread=ours.spread)
        return Bernoulli(**{ours.param_name: ours.param[i : i + 1]})

    @each_class
    def test_keys(self, make):
        ours = make()
        keys = aevb_ext.noise_key("cpu", self._generators(1, 2, 3, 4))
        assert torch.equal(ours.sample(key=keys), ours.sample(generator=self._generators(1, 2, 3, 4)))

    @each_class
    def test_a_batch_of_two_dimensions(self, make):
        ours = make("batch2")
        sample = ours.sample((4,), generator=self._generators(*range(6)))
        again = ours.sample((4,), generator=tuple(self._generators(*range(5), 99)))
        same = (sample == again).flatten(3).all(-1).all(0)
        assert same.flatten().tolist()[:5] == [True] * 5
        if isinstance(ours, DiagonalGaussian):
            assert not same[2, 1]

    @each_class
    def test_a_batch_of_no_dimension(self, make):
        ours = make("batch0")
        sample = ours.sample((2,), generator=self._generators(3))
        assert torch.equal(sample, ours.sample((2,), generator=self._generators(3)[0]))

    def test_with_a_kl(self):
        ours = _gaussian()
        z, kl = ours.rsample_kl((2,), generator=self._generators(1, 2, 3, 4))
        assert torch.equal(z, ours.rsample((2,), generator=self._generators(1, 2, 3, 4)))
        assert torch.equal(kl, ours.kl())

    @each_class
    def test_errors(self, make):
        with pytest.raises(ValueError, match=r"generator is a list of 3, but there are 4 data points"):
            make().sample(generator=self._generators(1, 2, 3))
        with pytest.raises(ValueError, match="generator is a list of 5, but there are 6"):
            make("batch2").sample(generator=self._generators(*range(5)))
        with pytest.raises(ValueError, match="key and generator were both given"):
            make().sample(generator=self._generators(1, 2, 3, 4), key=torch.tensor(KEY))
        with pytest.raises(ValueError, match="key and generator were both given"):
            make().sample(generator=torch.Generator(), key=torch.tensor(KEY))


class TestParams:
    @pytest.mark.parametrize(("shape", "dim"), [((4, 6), 1), ((4, 6), -1), ((2, 6, 3, 4), 1), ((2, 3, 8), 2)], ids=str)
    @each_spread
    def test_are_the_halves(self, shape, dim, spread):
        params = _randn(*shape).abs().requires_grad_()
        ours = DiagonalGaussian.from_params(params, dim, spread=spread)
        mu, scale_param = params.chunk(2, dim)
        assert torch.equal(ours.mu, mu) and torch.equal(ours.scale_param, scale_param) and ours.spread == spread
        assert ours.mu.data_ptr() == params.data_ptr(), "a view"
        results = [ours, DiagonalGaussian(mu, scale_param, spread=spread)]
        gradients = []
        for distribution in results:
            z, kl = distribution.rsample_kl(key=torch.tensor(KEY))
            (gradient,) = torch.autograd.grad(z.square().sum() + kl.sum(), params)
            gradients.append(gradient)
        torch.testing.assert_close(*gradients)

    def test_batch_dims(self):
        ours = DiagonalGaussian.from_params(_randn(3, 2, 8), dim=-1, batch_dims=2)
        assert ours.batch_shape == (3, 2) and ours.event_shape == (4,)
        assert DiagonalGaussian.from_params(_randn(8), dim=0, batch_dims=0).batch_shape == ()

    def test_hard_clamp(self):
        """What diffusers does: the numbers of a clamped logvar, and no gradient outside."""
        logvar = torch.tensor([[-1e4, -31.0, -30.0, -1.0, 0.0, 19.0, 20.0, 21.0, 1e4]], dtype=torch.float64)
        params = torch.cat([_randn(1, 9), logvar], 1).requires_grad_()
        ours = DiagonalGaussian.from_params(params, clamp=(-30, 20))
        clamped = logvar.clamp(-30, 20)
        assert torch.equal(ours.logvar, clamped)
        torch.testing.assert_close(ours.kl(), 0.5 * (params[:, :9] ** 2 + clamped.exp() - 1 - clamped).sum(1))
        (gradient,) = torch.autograd.grad(ours.logvar.sum(), params)
        assert gradient[0, 9:].tolist() == [0, 0, 1, 1, 1, 1, 1, 0, 0]

    @pytest.mark.parametrize("soft", [False, True])
    @each_dtype
    def test_extremes_with_a_clamp(self, soft, dtype):
        """Forward and backward of logvar 1e4, -1e4 and infinity stay finite (float16 samples may leave its range)."""
        logvar = torch.tensor([[1e4, -1e4, 88.0, math.inf, -math.inf, 0.0]], dtype=torch.float64)
        params = torch.cat([torch.zeros(1, 6), logvar], 1).to(dtype).requires_grad_()
        ours = DiagonalGaussian.from_params(params, clamp=(-30, 20), soft=soft)
        z, kl = ours.rsample_kl((3,), key=torch.tensor(KEY))
        for value in (z, kl, ours.log_prob(torch.ones_like(ours.mu)), ours.entropy(), ours.stddev, ours.variance):
            assert value.isfinite().all()
        (gradient,) = torch.autograd.grad(kl.sum() + ours.entropy().sum(), params)
        assert gradient.isfinite().all()

    def test_nan_stays_nan(self):
        params = torch.tensor([[0.0, 0.0, math.nan, 1.0]])
        for soft in (False, True):
            ours = DiagonalGaussian.from_params(params, clamp=(-30, 20), soft=soft)
            assert ours.logvar.isnan().tolist() == [[True, False]]

    @pytest.mark.parametrize("bounds", [(-30, 20), (-1, 1), (0.25, 0.5), (-5, 200)], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    def test_soft_clamp(self, bounds, dtype):
        """Its formula, its bounds, that it rises, and that its gradient shows the way back in."""
        low, high = bounds
        values = torch.linspace(low - 60, high + 60, 20_001, dtype=dtype).requires_grad_()
        result = clamp(values, bounds, True)
        (gradient,) = torch.autograd.grad(result.sum(), values)
        eps = torch.finfo(dtype).eps * max(abs(low), abs(high))
        assert (result >= low).all() and (result <= high + eps).all()
        assert (result.diff() >= -eps).all()
        assert (gradient > 0).all() and (gradient <= 1 + 4 * eps).all()

        v = values.detach().double()
        top = high + math.log1p(-math.exp(low - high))
        expected = torch.logsumexp(torch.stack([torch.full_like(v, low), -torch.logaddexp(-v, -v.new_tensor(top))]), 0)
        torch.testing.assert_close(result.detach().double(), expected, rtol=0, atol=4 * eps)
        far = clamp(torch.tensor([-1e30, 1e30, -math.inf, math.inf], dtype=dtype), bounds, True)
        torch.testing.assert_close(far, torch.tensor([low, high, low, high], dtype=dtype))

    def test_soft_clamp_is_the_identity_inside(self):
        """To the e^-20 that the bounds are away, in absolute terms."""
        values = torch.linspace(-10, 0, 1001, dtype=torch.float64).requires_grad_()
        result = clamp(values, (-30, 20), True)
        torch.testing.assert_close(result, values, rtol=0, atol=2 * math.exp(-20))
        (gradient,) = torch.autograd.grad(result.sum(), values)
        torch.testing.assert_close(gradient, torch.ones_like(gradient), rtol=0, atol=2 * math.exp(-20))

    def test_soft_clamp_gradcheck(self):
        values = _randn(20).mul(4).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: clamp(v, (-3, 2), True), values)
        assert torch.autograd.gradgradcheck(lambda v: clamp(v, (-3, 2), True), values)


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
        ours = _gaussian("vector", spread)
        value = _randn(*((2,) if sampled else ()), 4, 7, seed=2).requires_grad_()
        leaves = tuple(t[..., :2].detach().requires_grad_() for t in (ours.mu, ours.scale_param, value))

        def function(mu, scale_param, value):
            return _loss(DiagonalGaussian(mu, scale_param, spread=spread), value)

        assert torch.autograd.gradcheck(function, leaves)
        assert torch.autograd.gradgradcheck(function, leaves)

    @each_kind
    @pytest.mark.parametrize("sampled", [False, True])
    def test_bernoulli(self, kind, sampled):
        param = _bernoulli(kind=kind).param[:, :2].detach().requires_grad_()
        value = _randn(*((2,) if sampled else ()), 4, 2, seed=2).sigmoid().requires_grad_()

        def function(param, value):
            return _loss(Bernoulli(**{kind: param}), value)

        assert torch.autograd.gradcheck(function, (param, value))

    @pytest.mark.parametrize("pair", list(itertools.product(SPREADS, SPREADS)), ids="-".join)
    def test_divergence_of_gaussians(self, pair):
        p, q = (_gaussian(spread=spread, seed=i) for i, spread in enumerate(pair))
        leaves = tuple(t[:2, :2].detach().requires_grad_() for t in (p.mu, p.scale_param, q.mu, q.scale_param))

        def function(a, b, c, d):
            return DiagonalGaussian(a, b, spread=pair[0]).kl(DiagonalGaussian(c, d, spread=pair[1]))

        assert torch.autograd.gradcheck(function, leaves)

    @pytest.mark.parametrize("pair", list(itertools.product(KINDS, KINDS)), ids="-".join)
    @pytest.mark.parametrize("apart", [2.0, 0.3])
    def test_divergence_of_bernoullis(self, pair, apart):
        logits = _randn(2, 6)
        logits = [logits, logits + apart * _randn(2, 6, seed=1).sign()]
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

    def test_one_bad_row_is_alone(self):
        good, bad = _gaussian(dtype=torch.float32), _gaussian(dtype=torch.float32)
        bad.mu[1, 2] = math.nan
        rows = [0, 2, 3]
        for method in (
            lambda d: d.kl(),
            lambda d: d.log_prob(torch.ones(4, 7)),
            lambda d: d.rsample(key=torch.tensor(KEY)),
        ):
            assert torch.equal(method(good)[rows], method(bad)[rows]) and method(bad)[1].isnan().any()


class TestDivergences:
    @each_shape
    @pytest.mark.parametrize("pair", list(itertools.product(SPREADS, SPREADS)), ids="-".join)
    def test_gaussians(self, shape, pair):
        p, q = (_gaussian(shape, spread, seed=i) for i, spread in enumerate(pair))
        expected = td.kl_divergence(_theirs(p), _theirs(q))
        _close(td.kl_divergence(p, q), expected)
        _close(p.kl(q), expected)
        _close(td.kl_divergence(p, _theirs(q)), expected)
        _close(td.kl_divergence(_theirs(p), q), expected)
        _close(td.kl_divergence(p, _theirs(q).base_dist), expected)
        _close(td.kl_divergence(_theirs(p).base_dist, q), expected)

    @each_shape
    @each_spread
    def test_to_the_standard_normal(self, shape, spread):
        p = _gaussian(shape, spread)
        zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
        expected = td.kl_divergence(_theirs(p), _theirs(_standard(p)))
        for result in (
            p.kl(),
            p.kl(_standard(p)),
            td.kl_divergence(p, td.Normal(zero, one)),
            td.kl_divergence(p, td.Normal(zero.expand(p.event_shape), one.expand(p.event_shape))),
            td.kl_divergence(p, td.Normal(0.0, 1.0)),  # in float32
        ):
            _close(result, expected)

    @each_shape
    @pytest.mark.parametrize("pair", list(itertools.product(KINDS, KINDS)), ids="-".join)
    def test_bernoullis(self, shape, pair):
        p, q = (_bernoulli(shape, kind, seed=i) for i, kind in enumerate(pair))
        expected = td.kl_divergence(_theirs(p), _theirs(q))
        _close(td.kl_divergence(p, q), expected)
        _close(td.kl_divergence(p, _theirs(q)), expected)
        _close(td.kl_divergence(_theirs(p), q), expected)
        _close(td.kl_divergence(p, _theirs(q).base_dist), expected)
        _close(td.kl_divergence(_theirs(p).base_dist, q), expected)

    def test_batches_broadcast(self):
        mixed = {}
        for name, make in BOTH.items():
            one, many = make("batch0").expand((1,)), make("batch0", seed=1).expand((5,))
            for p, q in ((one, many), (many, one), (make("batch0"), many), (many, make("batch0"))):
                assert td.kl_divergence(p, q).shape == (5,)
                _close(td.kl_divergence(p, q), td.kl_divergence(_theirs(p), _theirs(q)).expand(5))
            mixed[name] = td.kl_divergence(one, td.kl.Independent(_theirs(many).base_dist, 1))
        assert all(kl.shape == (5,) for kl in mixed.values())

    def test_a_prior_of_more_data_points_than_the_posterior(self):
        p = _gaussian("batch0")
        prior = td.Normal(_randn(3, 6, seed=3), torch.ones(3, 6, dtype=torch.float64))
        _close(td.kl_divergence(p, prior), td.kl_divergence(_theirs(p).expand((3,)), td.Independent(prior, 1)))

    def test_nested_independent(self):
        p = _gaussian("image")
        q = td.Independent(td.Independent(_theirs(p).base_dist, 1), 2)
        assert (td.kl_divergence(p, q).abs() < 1e-28).all()

    @each_dtype
    @pytest.mark.parametrize("pair", [("logvar", "logvar"), ("logvar", "std"), ("var", "log_std")], ids="-".join)
    def test_dtypes_meet_in_the_wider(self, dtype, pair):
        p = _gaussian(spread=pair[0], dtype=dtype)
        q = _gaussian(spread=pair[1], dtype=torch.float32, seed=1)
        expected = td.kl_divergence(_theirs(p), _theirs(q))
        assert p.kl(q).dtype == _wide(dtype)
        _close(p.kl(q), expected, torch.float32)
        prior = td.Normal(torch.zeros(7), torch.ones(7))
        _close(td.kl_divergence(p, prior), td.kl_divergence(_theirs(p), _theirs(_standard(p))), torch.float32)

    @each_spread
    def test_to_itself_is_nothing(self, spread):
        p = _gaussian(spread=spread, dtype=torch.float32)
        assert (p.kl(p) == 0).all() and (td.kl_divergence(_bernoulli(), _bernoulli()) == 0).all()

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

    def test_bernoullis_of_extreme_logits(self):
        logits = torch.tensor([-1e4, -40.0, 0.0, 40.0, 1e4], dtype=torch.float64)
        a, b = (t.flatten().requires_grad_() for t in torch.meshgrid(logits, logits, indexing="ij"))
        kl = td.kl_divergence(Bernoulli(logits=a), Bernoulli(logits=b))
        torch.testing.assert_close(kl, td.kl_divergence(td.Bernoulli(logits=a), td.Bernoulli(logits=b)))
        gradients = torch.autograd.grad(kl.sum(), (a, b))
        assert all(g.isfinite().all() for g in gradients)

    def test_infinite_logits(self):
        sure = torch.tensor([[-math.inf, math.inf]])
        assert td.kl_divergence(Bernoulli(logits=sure), Bernoulli(logits=sure)).item() == 0
        unsure = Bernoulli(logits=torch.zeros(1, 2))
        torch.testing.assert_close(td.kl_divergence(Bernoulli(logits=sure), unsure), torch.tensor([2 * math.log(2)]))

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
                for pair in itertools.product(types, types):
                    assert td.kl._dispatch_kl(*pair) is not NotImplemented

    def test_of_other_kinds_is_not_known(self):
        p = _gaussian(dtype=torch.float32)
        for q in (
            td.Gumbel(0.0, 1.0),
            _bernoulli(),
            td.Bernoulli(0.5),
            td.Independent(td.Gumbel(torch.zeros(4, 7), 1), 1),
        ):
            for pair in ((p, q), (q, p)):
                with pytest.raises(NotImplementedError, match="KL"):
                    td.kl_divergence(*pair)

    def test_events_that_differ(self):
        p = _gaussian()
        for q in (
            DiagonalGaussian(_randn(4, 5), _randn(4, 5)),
            DiagonalGaussian(_randn(4, 1), _randn(4, 1)),
            td.Independent(td.Normal(torch.zeros(4, 5), 1.0), 1),
            td.Independent(td.Normal(torch.zeros(4, 7), 1.0), 2),
            td.Normal(torch.zeros(5), 1.0),
        ):
            for pair in ((p, q), (q, p)):
                with pytest.raises(ValueError, match=r"(5|1|4, 7).*7|7.*(5|1|4, 7)"):
                    td.kl_divergence(*pair)
        one = DiagonalGaussian(_randn(4, 1), _randn(4, 1))
        with pytest.raises(ValueError, match=r"p has event_shape \[1\], but q has \[5\]"):
            td.kl_divergence(one, td.Normal(torch.zeros(5), 1.0))
        with pytest.raises(ValueError, match=r"p has event_shape \[7\], but q has \[2\]"):
            td.kl_divergence(_bernoulli(), Bernoulli(logits=torch.zeros(4, 2)))

    def test_batches_that_differ(self):
        with pytest.raises(ValueError, match=r"p's batch has shape \[4\].*q's batch, of shape \[3\]"):
            td.kl_divergence(_gaussian(), DiagonalGaussian(_randn(3, 7), _randn(3, 7)))


def _everything(distribution, others=()):
    """Every method, on whatever device the distribution is."""
    value = distribution.sample()
    results = [value, distribution.sample((2, 3)), distribution.mean, distribution.mode, distribution.stddev]
    results += [distribution.variance, distribution.entropy(), distribution.log_prob(value), distribution.perplexity()]
    results += [
        distribution.log_prob(distribution.sample((3,))),
        distribution.expand((2, *distribution.batch_shape)).mean,
    ]
    results += [
        td.kl_divergence(*pair) for q in (distribution, *others) for pair in ((distribution, q), (q, distribution))
    ]
    if isinstance(distribution, DiagonalGaussian):
        results += [distribution.rsample((2,)), *distribution.rsample_kl(), distribution.kl(), distribution.logvar]
    else:
        results += [distribution.probs, distribution.logits]
    return results


class _NoHost(TorchDispatchMode):
    """Refuses what would make the host wait for a device."""

    WAITS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "_is_all_true", "masked_select", "unique")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(function.name().split("::")[1].startswith(name) for name in self.WAITS), function.name()
        return function(*args, **(kwargs or {}))


class TestNoHostSynchronisation:
    @each_class
    @each_shape
    def test_every_method_on_meta_tensors(self, make, shape):
        ours = make(shape, dtype=torch.float32)
        if isinstance(ours, DiagonalGaussian):
            on_meta = DiagonalGaussian(
                ours.mu.to("meta"), ours.scale_param.to("meta"), batch_dims=len(ours.batch_shape)
            )
        else:
            on_meta = Bernoulli(**{ours.param_name: ours.param.to("meta")}, batch_dims=len(ours.batch_shape))
        for meta, real in zip(_everything(on_meta), _everything(ours), strict=True):
            assert meta.device.type == "meta" and meta.shape == real.shape and meta.dtype == real.dtype

    @each_class
    def test_no_operation_waits(self, make):
        params = torch.zeros(2, 6, 3, requires_grad=True)
        with _NoHost():
            _everything(make("image", dtype=torch.float32), others=(_theirs(make("image"), validate_args=False),))
            for soft in (False, True):
                _everything(DiagonalGaussian.from_params(params, clamp=(-30, 20), soft=soft))

    def test_the_mode_sees_what_waits(self):
        with pytest.raises(AssertionError), _NoHost():
            _gaussian(validate_args=True)


def _vae_loss(x, params, weight, prior_loc):
    """Distributions built, sampled and compared inside."""
    posterior = DiagonalGaussian.from_params(params, clamp=(-30, 20), soft=True)
    z, kl = posterior.rsample_kl((2,))
    likelihood = Bernoulli(logits=z @ weight)
    prior = td.Independent(td.Normal(prior_loc, torch.ones_like(prior_loc), validate_args=False), 1)
    bound = likelihood.log_prob(x).mean(0) - kl
    rest = posterior.log_prob(z).mean(0) + posterior.entropy() + td.kl_divergence(posterior, prior)
    rest = rest + likelihood.entropy().mean(0) + td.kl_divergence(posterior, td.Normal(prior_loc, prior_loc.exp()))
    rest = rest + posterior.kl(DiagonalGaussian(prior_loc, prior_loc, batch_dims=0))
    rest = rest + td.kl_divergence(likelihood, Bernoulli(logits=z.detach() @ weight, batch_dims=2)).mean(0)
    return (bound + rest).mean(), z, likelihood.sample()


class TestCompile:
    @pytest.fixture(autouse=True)
    def fresh(self):
        torch._dynamo.reset()

    @staticmethod
    def _arguments(batch):
        x = _randn(batch, 12, seed=1).sigmoid().float()
        return x, _randn(batch, 10).float().requires_grad_(), _randn(5, 12, seed=2).float(), _randn(5, seed=3).float()

    def _compare(self, function, compiled, batch):
        results = []
        for f in (function, compiled):
            arguments = self._arguments(batch)
            torch.manual_seed(batch)
            loss, z, bits = f(*arguments)
            loss.backward()
            results.append((loss.detach(), z.detach(), bits, arguments[1].grad))
        assert torch.equal(results[0][1], results[1][1]), "the same noise"
        torch.testing.assert_close(results[0], results[1])

    def test_one_graph_for_all_batches(self):
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(_vae_loss, fullgraph=True, dynamic=True, backend=counter)
        for batch in (4, 6, 11):
            self._compare(_vae_loss, compiled, batch)
        assert counter.frame_count == 1

    def test_inductor(self):
        self._compare(_vae_loss, torch.compile(_vae_loss, fullgraph=True, dynamic=False), 4)

    def test_a_distribution_from_outside(self):
        """As an argument, which a compiled function reads and gives back."""
        ours = _gaussian(dtype=torch.float32)
        compiled = torch.compile(lambda d: (d.kl(), d.expand((2, 4)).entropy()), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(ours), (ours.kl(), ours.expand((2, 4)).entropy()))

    @each_kind
    def test_bernoulli(self, kind):
        def function(param, value):
            ours = Bernoulli(**{kind: param})
            return ours.log_prob(value), ours.entropy(), ours.mode, ours.sample((2,))

        ours, value = _bernoulli(kind=kind, dtype=torch.float32), torch.ones(3, 4, 7)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        results = []
        for f in (function, compiled):
            torch.manual_seed(0)
            results.append(f(ours.param, value))
        torch.testing.assert_close(*results)

    def test_export(self):
        class Module(torch.nn.Module):
            def forward(self, x, params, weight, prior_loc):
                return _vae_loss(x, params, weight, prior_loc)

        batch = torch.export.Dim("batch", min=2)
        arguments = self._arguments(4)
        program = torch.export.export(Module(), arguments, dynamic_shapes=({0: batch}, {0: batch}, None, None))
        arguments = self._arguments(9)
        torch.manual_seed(0)
        expected = _vae_loss(*arguments)
        torch.manual_seed(0)
        torch.testing.assert_close(program.module()(*arguments), expected)


class TestFunctionalTransforms:
    @each_spread
    def test_per_example_gradients(self, spread):
        ours = _gaussian("vector", spread)
        value = _randn(4, 7, seed=3)

        def loss(mu, scale_param, value):
            d = DiagonalGaussian(mu, scale_param, spread=spread, batch_dims=0)
            return d.log_prob(value) + d.kl() + d.entropy() + d.variance.sum() + d.kl(_standard(d))

        rows = (ours.mu, ours.scale_param, value)
        gradients = torch.func.vmap(torch.func.grad(loss, (0, 1, 2)))(*rows)
        leaves = tuple(t.detach().requires_grad_() for t in rows)
        d = DiagonalGaussian(*leaves[:2], spread=spread)
        total = d.log_prob(leaves[2]) + 2 * d.kl() + d.entropy() + d.variance.sum(1)
        torch.testing.assert_close(gradients, torch.autograd.grad(total.sum(), leaves))

    @each_kind
    def test_per_example_gradients_of_bits(self, kind):
        param, value = _bernoulli(kind=kind).param, _randn(4, 7, seed=3).sigmoid()

        def loss(param, value):
            d = Bernoulli(**{kind: param}, batch_dims=0)
            return d.log_prob(value) + d.entropy()

        gradients = torch.func.vmap(torch.func.grad(loss, (0, 1)))(param, value)
        leaves = tuple(t.detach().requires_grad_() for t in (param, value))
        d = Bernoulli(**{kind: leaves[0]})
        torch.testing.assert_close(gradients, torch.autograd.grad((d.log_prob(leaves[1]) + d.entropy()).sum(), leaves))

    def test_jacrev(self):
        ours = _gaussian()
        jacobian = torch.func.jacrev(lambda mu: DiagonalGaussian(mu, ours.scale_param).kl())(ours.mu)
        expected = torch.diag_embed(torch.ones(4, dtype=torch.float64)).unsqueeze(-1) * ours.mu
        torch.testing.assert_close(jacobian, expected)


class TestInPyTorch:
    @each_class
    @pytest.mark.parametrize("copier", [copy.deepcopy, copy.copy, lambda d: pickle.loads(pickle.dumps(d))])
    def test_copies(self, make, copier):
        ours = make("image", validate_args=True)
        copied = copier(ours)
        value = ours.sample()
        assert type(copied) is type(ours) and copied._validate_args
        assert copied.batch_shape == ours.batch_shape and copied.event_shape == ours.event_shape
        assert torch.equal(copied.log_prob(value), ours.log_prob(value))
        assert torch.equal(copied.sample(key=torch.tensor(KEY)), ours.sample(key=torch.tensor(KEY)))

    @each_class
    def test_inference_mode(self, make):
        with torch.inference_mode():
            inside = _everything(make(dtype=torch.float32))
        assert all(t.is_inference() or not t.requires_grad for t in inside)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_autocast(self, dtype):
        """Layers give half precision; everything in nats is float32, and as without autocast of the same numbers."""
        encoder, decoder = torch.nn.Linear(12, 10), torch.nn.Linear(5, 12)
        x = torch.rand(4, 12)
        with torch.autocast("cpu", dtype=dtype):
            posterior = DiagonalGaussian.from_params(encoder(x), clamp=(-30, 20))
            z, kl = posterior.rsample_kl(key=torch.tensor(KEY))
            likelihood = Bernoulli(logits=decoder(z))
            log_prob = likelihood.log_prob(x)
            results = (kl, log_prob, posterior.log_prob(z), posterior.entropy(), likelihood.entropy(), posterior.stddev)
        assert posterior.mu.dtype == likelihood.param.dtype == z.dtype == dtype
        assert all(t.dtype == torch.float32 for t in results)
        _close(kl, DiagonalGaussian(posterior.mu.float(), posterior.scale_param.float()).kl(), torch.float32)
        _close(log_prob, Bernoulli(logits=likelihood.param.float()).log_prob(x), torch.float32)
        (log_prob - kl).sum().backward()
        assert encoder.weight.grad.isfinite().all() and decoder.weight.grad.dtype == torch.float32

    def test_checkpointing_draws_the_same_noise(self):
        params = _randn(4, 10).requires_grad_()

        def loss(params):
            return DiagonalGaussian.from_params(params).rsample((2,)).square().sum()

        gradients = []
        for run in (loss, lambda p: torch.utils.checkpoint.checkpoint(loss, p, use_reentrant=False)):
            torch.manual_seed(0)
            gradients += torch.autograd.grad(run(params), params)
        assert torch.equal(*gradients)

    def test_deterministic_algorithms(self):
        torch.use_deterministic_algorithms(True)
        try:
            for make in BOTH.values():
                _everything(make(dtype=torch.float32))
        finally:
            torch.use_deterministic_algorithms(False)

    def test_they_may_be_the_base_of_others(self):
        """A transform on top, as flows have it."""
        ours = _gaussian()
        flow = td.TransformedDistribution(ours, td.transforms.ExpTransform())
        expected = td.TransformedDistribution(_theirs(ours), td.transforms.ExpTransform())
        value = _randn(4, 7, seed=3).exp()
        _close(flow.log_prob(value), expected.log_prob(value))
        assert flow.rsample((2,)).shape == (2, 4, 7)

    def test_a_mixture_of_them(self):
        weights = torch.ones(3, 2, dtype=torch.float64)
        ours = _gaussian("batch2")
        mixture = td.MixtureSameFamily(td.Categorical(weights), ours)
        expected = td.MixtureSameFamily(td.Categorical(weights), _theirs(ours))
        value = _randn(3, 5, seed=3)
        _close(mixture.log_prob(value), expected.log_prob(value))
        _close(mixture.mean, expected.mean)


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
    ("int value", lambda: GAUSSIAN.log_prob(X.long()), TypeError, ["value", "int64", "uint8", "float32"]),
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
