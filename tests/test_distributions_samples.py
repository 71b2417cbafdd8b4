"""Samples of the distributions: their noise, statistics, keys and generators."""

import math

import pytest
import torch
from cases import KEY
from distribution_cases import (
    SAMPLE_SHAPES,
    assert_close,
    bernoulli,
    each_class,
    each_kind,
    each_shape,
    each_spread,
    gaussian,
    of_torch,
)
from noise_definition import normals

import aevb_ext
from aevb_ext.distributions import Bernoulli, DiagonalGaussian


class TestSamples:
    @each_shape
    @each_spread
    @pytest.mark.parametrize("sample_shape", SAMPLE_SHAPES, ids=str)
    def test_are_mean_plus_spread_times_noise(self, shape, spread, sample_shape):
        ours, key = gaussian(shape, spread), torch.tensor(KEY)
        noise, radius = normals(key, (*sample_shape, *ours.mean.shape))
        expected = ours.mean + of_torch(ours).stddev * noise
        z, kl = ours.rsample_kl(sample_shape, key=key)
        assert torch.equal(ours.rsample(sample_shape, key=key), z)
        assert torch.equal(ours.sample(sample_shape, key=key), z)
        assert ((z - expected).abs() <= 1e-13 * (1 + expected.abs() + radius * of_torch(ours).stddev)).all()
        assert_close(kl, ours.kl())

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
        if isinstance(ours, DiagonalGaussian):
            ours = DiagonalGaussian(ours.mu.clone().requires_grad_(), ours.scale_param)
        else:
            ours.param.requires_grad_()
        assert not ours.sample((2,)).requires_grad and not ours.sample((0,)).requires_grad

    def test_mean_and_variance(self):
        """Of 2e5 samples of each of 28 elements: z-scores below 6, which a right sampler exceeds with 28 * 4e-9."""
        ours, n = gaussian(), 200_000
        z = ours.sample((n,), generator=torch.Generator().manual_seed(0))
        mean, variance = z.mean(0), z.var(0)
        assert ((mean - ours.mean) / (ours.stddev / math.sqrt(n))).abs().max() < 6
        assert ((variance - ours.variance) / (ours.variance * math.sqrt(2 / n))).abs().max() < 6

    @each_kind
    def test_frequencies(self, kind):
        """Of 2e5 samples of each of 28 bits: z-scores below 6, which a right sampler exceeds with 28 * 2e-9."""
        ours, n = bernoulli(kind=kind, dtype=torch.float32), 200_000
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
        ours, n = bernoulli(kind=kind), 200_000
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
    def test_noise_keys(self, make):
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
        ours = gaussian()
        z, kl = ours.rsample_kl((2,), generator=self._generators(1, 2, 3, 4))
        assert torch.equal(z, ours.rsample((2,), generator=self._generators(1, 2, 3, 4)))
        assert_close(kl, ours.kl())

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
