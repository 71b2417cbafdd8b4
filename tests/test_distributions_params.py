"""Gaussians from an encoder's packed output, and clamps of their spread."""

import math

import pytest
import torch
from cases import KEY
from distribution_cases import each_dtype, each_spread, randn

from aevb_ext.distributions import DiagonalGaussian
from aevb_ext.distributions.gaussian import clamp_logvar


class TestParams:
    @pytest.mark.parametrize(("shape", "dim"), [((4, 6), 1), ((4, 6), -1), ((2, 6, 3, 4), 1), ((2, 3, 8), 2)], ids=str)
    @each_spread
    def test_are_the_halves(self, shape, dim, spread):
        params = randn(*shape).abs().requires_grad_()
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
        ours = DiagonalGaussian.from_params(randn(3, 2, 8), dim=-1, batch_dims=2)
        assert ours.batch_shape == (3, 2) and ours.event_shape == (4,)
        assert DiagonalGaussian.from_params(randn(8), dim=0, batch_dims=0).batch_shape == ()

    def test_hard_clamp(self):
        """What diffusers does: torch.clamp, with its gradient (at a bound itself that is 0 from PyTorch 2.14 on)."""
        logvar = torch.tensor([[-1e4, -31.0, -30.0, -1.0, 0.0, 19.0, 20.0, 21.0, 1e4]], dtype=torch.float64)
        params = torch.cat([randn(1, 9), logvar], 1).requires_grad_()
        ours = DiagonalGaussian.from_params(params, clamp=(-30, 20))
        clamped = logvar.clamp(-30, 20)
        assert torch.equal(ours.logvar, clamped)
        torch.testing.assert_close(ours.kl(), 0.5 * (params[:, :9] ** 2 + clamped.exp() - 1 - clamped).sum(1))
        (gradient,) = torch.autograd.grad(ours.logvar.sum(), params)
        (of_torch,) = torch.autograd.grad(params[:, 9:].clamp(-30, 20).sum(), params)
        assert torch.equal(gradient, of_torch)
        assert gradient[0, 12:15].tolist() == [1, 1, 1] and gradient[0, [9, 10, 16, 17]].tolist() == [0, 0, 0, 0]

    @pytest.mark.parametrize("soft", [False, True])
    @each_dtype
    def test_extremes_with_a_clamp(self, soft, dtype):
        """Forward and backward of logvar 1e4, -1e4 and infinity stay finite, where the bounds are such that the KL's
        gradient, which is about half the variance, is a number of the dtype."""
        bounds = (-30, 10 if dtype == torch.float16 else 20)
        logvar = torch.tensor([[1e4, -1e4, 88.0, math.inf, -math.inf, 0.0]], dtype=torch.float64)
        params = torch.cat([torch.zeros(1, 6), logvar], 1).to(dtype).requires_grad_()
        ours = DiagonalGaussian.from_params(params, clamp=bounds, soft=soft)
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
        result = clamp_logvar(values, bounds, True)
        (gradient,) = torch.autograd.grad(result.sum(), values)
        eps = torch.finfo(dtype).eps * max(abs(low), abs(high))
        assert (result >= low).all() and (result <= high + eps).all()
        assert (result.diff() >= -eps).all()
        assert (gradient > 0).all() and (gradient <= 1 + 4 * eps).all()

        v = values.detach().double()
        top = high + math.log1p(-math.exp(low - high))
        expected = torch.logsumexp(torch.stack([torch.full_like(v, low), -torch.logaddexp(-v, -v.new_tensor(top))]), 0)
        torch.testing.assert_close(result.detach().double(), expected, rtol=0, atol=4 * eps)
        far = clamp_logvar(torch.tensor([-1e30, 1e30, -math.inf, math.inf], dtype=dtype), bounds, True)
        torch.testing.assert_close(far, torch.tensor([low, high, low, high], dtype=dtype))

    def test_soft_clamp_is_the_identity_inside(self):
        """To the e^-20 that the bounds are away, in absolute terms."""
        values = torch.linspace(-10, 0, 1001, dtype=torch.float64).requires_grad_()
        result = clamp_logvar(values, (-30, 20), True)
        torch.testing.assert_close(result, values, rtol=0, atol=2 * math.exp(-20))
        (gradient,) = torch.autograd.grad(result.sum(), values)
        torch.testing.assert_close(gradient, torch.ones_like(gradient), rtol=0, atol=2 * math.exp(-20))

    def test_soft_clamp_gradcheck(self):
        values = randn(20).mul(4).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: clamp_logvar(v, (-3, 2), True), values)
        assert torch.autograd.gradgradcheck(lambda v: clamp_logvar(v, (-3, 2), True), values)
