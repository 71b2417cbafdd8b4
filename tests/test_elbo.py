"""The ELBO: every quantity against its formula in plain float64 PyTorch on the same noise, and exact identities."""

import math
import re

import numpy as np
import pytest
import torch
from linear_gaussian import DIM, LinearDecoder
from noise_definition import normals
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from aevb_ext.distributions import DiagonalGaussian
from aevb_ext.estimators import bound_a, bound_b
from aevb_ext.models import mlp_vae
from aevb_ext.nn import ELBO

KEY = torch.tensor([0x0123_4567_89AB_CDEF, 5])

SAMPLED = {
    "stl": {"gradient": "stl"},
    "stl, 4": {"gradient": "stl", "n_samples": 4, "beta": 0.5},
    "iwae, 1": {"importance_weighted": True},
    "iwae, 4": {"importance_weighted": True, "n_samples": 4},
    "iwae-stl, 4": {"importance_weighted": True, "gradient": "stl", "n_samples": 4},
    "dreg, 1": {"importance_weighted": True, "gradient": "dreg"},
    "dreg, 4": {"importance_weighted": True, "gradient": "dreg", "n_samples": 4},
}
OPTIONS = {
    "plain": {},
    "3 samples": {"n_samples": 3},
    "beta": {"beta": 4.0},
    "free bits": {"free_bits": 0.5, "beta": 0.25, "n_samples": 2},
    "free bits of groups": {"free_bits": 1.2, "free_bits_groups": 2},
    "free bits of all": {"free_bits": 2.0, "free_bits_groups": 1},
    "capacity": {"capacity": 2.0, "beta": 3.0},
    **SAMPLED,
}
PRIORS = ["standard", "tuple", "gaussian", "torch"]
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
every_sampled_option = pytest.mark.parametrize("options", SAMPLED.values(), ids=SAMPLED)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def posterior_parameters(batch, latent=4, dtype=torch.float64):
    """Some dimensions nearly at the prior and some far away, so that free bits act on some of them alone."""
    mu = torch.randn(batch, latent, dtype=dtype) * torch.linspace(0.01, 2, latent, dtype=dtype)
    logvar = torch.linspace(0, -2, latent, dtype=dtype) * torch.rand(batch, latent, dtype=dtype)
    return mu.requires_grad_(), logvar.requires_grad_()


class Decoder(torch.nn.Module):
    """A Bernoulli decoder in plain PyTorch: a function of (x, z)."""

    def __init__(self, latent=4, dim=6, dtype=torch.float64):
        super().__init__()
        self.net = torch.nn.Linear(latent, dim, dtype=dtype)

    def forward(self, x, z):
        logits = self.net(z)
        return (x * logits - torch.nn.functional.softplus(logits)).sum(-1)


def make_prior(kind, device="cpu"):
    """The prior as ELBO is given it, the same as a torch.distributions object, and its parameters."""
    zero = torch.zeros(4, dtype=torch.float64, device=device)
    if kind == "standard":
        return None, Normal(zero, zero + 1), []
    mu, logvar = (0.3 * zero.clone().normal_()).requires_grad_(), (zero[0] + 0.4).requires_grad_()
    theirs = Normal(mu, (0.5 * logvar).exp().expand(4))
    given = {
        "tuple": (mu, logvar),
        "gaussian": DiagonalGaussian(mu, (0.5 * logvar).exp(), spread="std", batch_dims=0),
        "torch": Independent(theirs, 1),
    }[kind]
    return given, theirs, [mu, logvar]


def plain(x, mu, logvar, decoder, prior, *, n_samples=1, beta=1.0, importance_weighted=False, gradient="total", **more):
    """The definition: (bound, reconstruction, kl), and what is to be differentiated in place of the bound."""
    shape = mu.shape if n_samples == 1 else (n_samples, *mu.shape)
    eps = normals(KEY, shape)[0].to(mu.device)
    z = (mu + (0.5 * logvar).exp() * eps).reshape(n_samples, *mu.shape)
    q = Normal(mu, (0.5 * logvar).exp())
    log_p = decoder(x, z)
    if not importance_weighted and gradient == "total":
        kl = kl_divergence(q, prior)
        regulariser = kl.sum(-1)
        if "free_bits" in more:
            groups = kl.unflatten(-1, (more.get("free_bits_groups") or kl.shape[-1], -1)).sum(-1)
            # The minibatch's regulariser, as the paper has it; each data point's share of it is compared elsewhere.
            regulariser = groups.mean(0).clamp(min=more["free_bits"]).sum().expand(len(x))
        elif "capacity" in more:
            regulariser = (kl.sum(-1) - more["capacity"]).abs()
        bound = log_p.mean(0) - beta * regulariser
        return (bound, log_p.mean(0), kl.sum(-1)), bound.mean()
    detached = Normal(mu.detach(), (0.5 * logvar.detach()).exp())
    log_q, log_q_of_z = (d.log_prob(z).sum(-1) for d in (q, detached))
    log_prior = prior.log_prob(z).sum(-1)
    log_w = log_p + beta * (log_prior - log_q)
    if not importance_weighted:
        objective = (log_p + beta * (log_prior - log_q_of_z)).mean()
        return (log_w.mean(0), log_p.mean(0), (log_q - log_prior).mean(0)), objective
    bound = log_w.logsumexp(0) - math.log(n_samples)
    weights = log_w.softmax(0).detach()
    if gradient == "total":
        objective = bound.mean()
    elif gradient == "stl":
        objective = (weights * (log_p + log_prior - log_q_of_z)).sum(0).mean()
    else:
        # Two objectives: of the posterior with the weights squared, and of the rest at z's that are given.
        at = z.detach()
        of_the_rest = (weights * (decoder(x, at) + prior.log_prob(at).sum(-1))).sum(0).mean()
        frozen = torch.func.functional_call(decoder, {n: p.detach() for n, p in decoder.named_parameters()}, (x, z))
        frozen_prior = Normal(prior.loc.detach(), prior.scale.detach()).log_prob(z).sum(-1)
        of_the_posterior = (weights**2 * (frozen + frozen_prior - log_q_of_z)).sum(0).mean()
        objective = of_the_rest + of_the_posterior
    return (bound, log_p.mean(0), (log_q - log_prior).mean(0)), objective


class TestDefinition:
    @pytest.mark.parametrize(
        ("name", "prior"),
        [(n, p) for n, o in OPTIONS.items() for p in PRIORS if not ("free_bits" in o and p == "torch")],
    )
    def test_values_and_gradients(self, name, prior, device):
        options = OPTIONS[name]
        given, theirs, prior_parameters = make_prior(prior, device)
        mu, logvar = (t.detach().to(device).requires_grad_() for t in posterior_parameters(5))
        decoder, x = Decoder().to(device), torch.rand(5, 6, dtype=torch.float64, device=device)
        terms = ELBO(**options).to(device)(x, (mu, logvar), decoder, prior=given, key=KEY.to(device))
        (bound, reconstruction, kl), objective = plain(x, mu, logvar, decoder, theirs, **options)
        if "free_bits" in options:
            torch.testing.assert_close(terms.bound.mean(), bound.mean())
        else:
            torch.testing.assert_close(terms.bound, bound)
        torch.testing.assert_close(terms.reconstruction, reconstruction)
        torch.testing.assert_close(terms.kl, kl)
        torch.testing.assert_close(terms.loss, -bound.mean())
        leaves = [mu, logvar, *decoder.parameters(), *prior_parameters]
        expected = torch.autograd.grad(-objective, leaves, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(terms.loss, leaves), expected)

    @pytest.mark.parametrize("steps", [0, 1, 9])
    @every_option
    def test_what_the_loss_has_of_the_divergence(self, options, steps):
        """The weighted KL: after beta, warm-up, free bits and capacity, where kl is before them."""
        (mu, logvar), decoder, x = posterior_parameters(5), Decoder(), torch.rand(5, 6, dtype=torch.float64)
        warmed = {} if options.get("importance_weighted") else {"warmup_steps": 4}
        elbo = ELBO(**options, **warmed)
        elbo.steps.fill_(steps)
        terms = elbo(x, (mu, logvar), decoder, key=KEY)
        torch.testing.assert_close(terms.bound, terms.reconstruction - terms.weighted_kl, rtol=1e-14, atol=0)
        torch.testing.assert_close(terms.loss, (terms.weighted_kl - terms.reconstruction).mean(), rtol=1e-14, atol=0)
        beta = options.get("beta", 1.0) * min(steps / 4, 1)
        if options.get("importance_weighted"):
            if options.get("n_samples", 1) == 1:
                torch.testing.assert_close(terms.weighted_kl, terms.kl)
            else:
                assert (terms.weighted_kl < terms.kl).all()  # by Jensen's inequality
        elif "free_bits" in options:
            kl = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0)).mean(0)
            groups = kl.unflatten(-1, (options.get("free_bits_groups") or 4, -1)).sum(-1)
            regulariser = groups.clamp(min=options["free_bits"]).sum()
            torch.testing.assert_close(terms.weighted_kl.mean(), beta * regulariser)
        elif "capacity" in options:
            torch.testing.assert_close(terms.weighted_kl, beta * (terms.kl - options["capacity"]).abs())
        else:
            torch.testing.assert_close(terms.weighted_kl, beta * terms.kl)

    @every_option
    def test_float32_agrees_with_float64(self, options):
        (mu, logvar), decoder, x = posterior_parameters(5), Decoder(), torch.rand(5, 6, dtype=torch.float64)
        elbo = ELBO(**options)
        wide = elbo(x, (mu, logvar), decoder, key=KEY)
        single = elbo(x.float(), (mu.float(), logvar.float()), decoder.float(), key=KEY)
        for narrow, value in zip(single, wide, strict=True):
            assert narrow.dtype == torch.float32
            torch.testing.assert_close(narrow.double(), value, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize("spread", ["log_std", "std", "var"])
    @every_option
    def test_every_spread_is_the_same_posterior(self, options, spread):
        (mu, logvar), decoder, x = posterior_parameters(5), Decoder(), torch.rand(5, 6, dtype=torch.float64)
        s = {"log_std": logvar / 2, "std": (logvar / 2).exp(), "var": logvar.exp()}[spread]
        elbo = ELBO(**options)
        for prior in (None, (torch.full((4,), 0.1, dtype=torch.float64), torch.tensor(0.4, dtype=torch.float64))):
            terms = elbo(x, DiagonalGaussian(mu, s, spread=spread), decoder, prior=prior, key=KEY)
            torch.testing.assert_close(terms, elbo(x, (mu, logvar), decoder, prior=prior, key=KEY))


class TestFreeBits:
    """Kingma et al. 2016, appendix C.8: sum over groups of max(lambda, mean over the minibatch of the group's KL)."""

    def test_each_data_point_bears_its_share(self):
        (mu, logvar), decoder, x = posterior_parameters(7), Decoder(), torch.rand(7, 6, dtype=torch.float64)
        terms = ELBO(free_bits=0.5)(x, (mu, logvar), decoder, key=KEY)
        kl = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0))
        free = kl.mean(0) < 0.5
        assert free.any() and not free.all()
        regulariser = torch.where(free, 0.5, kl).sum(-1)
        torch.testing.assert_close(terms.bound, terms.reconstruction - regulariser)
        torch.testing.assert_close(terms.kl, kl.sum(-1))

    @pytest.mark.parametrize("groups", [None, 2, 1])
    def test_below_lambda_there_is_no_gradient_and_above_it_all_of_it(self, groups):
        mu, logvar = posterior_parameters(7)
        free = dict(free_bits=0.5, free_bits_groups=groups)

        def gradients(**options):
            terms = ELBO(**options)(mu, (mu, logvar), lambda x, z: 0 * z.sum(-1), key=KEY)
            return torch.stack(torch.autograd.grad(terms.loss, (mu, logvar)))

        kl = kl_divergence(Normal(mu, (0.5 * logvar).exp()), Normal(0.0, 1.0))
        kl = kl.unflatten(-1, (groups or 4, -1)).sum(-1).mean(0)
        is_free = (kl < 0.5).repeat_interleave(4 // len(kl))
        assert (gradients(**free)[..., is_free] == 0).all()
        torch.testing.assert_close(gradients(**free)[..., ~is_free], gradients()[..., ~is_free])

    def test_groups_are_feature_maps(self):
        """C groups of an event [C, H, W]: each feature map has its own."""
        mu = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
        mu[:, 1] = 1.0  # a divergence of 1/2 in each of 20 places
        elbo = ELBO(free_bits=2.0, free_bits_groups=3)
        terms = elbo(mu, (mu, torch.zeros_like(mu)), lambda x, z: z.new_zeros(len(x)), key=KEY)
        torch.testing.assert_close(terms.bound, torch.full((2,), -(2.0 + 10.0 + 2.0), dtype=torch.float64))

    def test_groups_of_several_dimensions_of_data_points(self):
        mu = torch.randn(3, 2, 4, dtype=torch.float64)
        posterior = DiagonalGaussian(mu, torch.zeros_like(mu), batch_dims=2)
        terms = ELBO(free_bits=0.6)(mu, posterior, lambda x, z: z.new_zeros(3, 2), key=KEY)
        kl = 0.5 * mu.square()
        expected = torch.where(kl.mean((0, 1)) > 0.6, kl, 0.6).sum(-1)
        torch.testing.assert_close(terms.bound, -expected)

    def test_a_nan_says_nothing_about_the_other_data_points(self):
        mu = torch.tensor([[0.1, 2.0]]).repeat(5, 1)
        rows = torch.tensor([0, 1, 3, 4])
        expected = ELBO(free_bits=0.5)(mu, (mu, 0 * mu), lambda x, z: 0 * x.sum(-1), key=KEY).bound[rows]
        mu[2] = math.nan
        terms = ELBO(free_bits=0.5)(mu, (mu, 0 * mu), lambda x, z: 0 * x.sum(-1), key=KEY)
        assert torch.equal(terms.bound[rows], expected)
        assert terms.bound[2].isnan() and terms.kl[2].isnan()

    def test_a_nan_shows_in_a_group_that_is_free_too(self):
        mu = torch.full((5, 2), 0.1)
        mu[2, 0] = math.nan
        terms = ELBO(free_bits=0.5)(mu, (mu, 0 * mu), lambda x, z: z.new_zeros(5), key=KEY)
        assert terms.bound.isnan().tolist() == [False, False, True, False, False]


class TestSchedules:
    def test_warm_up_is_linear(self):
        elbo, betas = ELBO(beta=2.0, warmup_steps=4), []
        for _ in range(7):
            betas.append(elbo.current_beta.item())
            elbo.step()
        assert betas == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0, 2.0]

    def test_the_capacity_grows_linearly(self):
        elbo, capacities = ELBO(capacity=3.0, capacity_steps=2), []
        for _ in range(4):
            capacities.append(elbo.current_capacity.item())
            elbo.step()
        assert capacities == [0.0, 1.5, 3.0, 3.0]

    def test_they_weigh_the_bound(self):
        (mu, logvar), x = posterior_parameters(5), torch.rand(5, 6, dtype=torch.float64)
        elbo = ELBO(beta=2.0, warmup_steps=4, capacity=3.0, capacity_steps=8)
        for _ in range(3):
            elbo.step()
        terms = elbo(x, (mu, logvar), Decoder(), key=KEY)
        expected = terms.reconstruction - 1.5 * (terms.kl - 9 / 8).abs()
        torch.testing.assert_close(terms.bound, expected)

    def test_they_weigh_the_divergence_of_samples(self):
        (mu, logvar), x = posterior_parameters(5), torch.rand(5, 6, dtype=torch.float64)
        elbo = ELBO(3, gradient="stl", beta=2.0, warmup_steps=4)
        elbo.step()
        terms = elbo(x, (mu, logvar), Decoder(), key=KEY)
        torch.testing.assert_close(terms.bound, terms.reconstruction - 0.5 * terms.kl)

    def test_beta_may_change_between_a_forward_and_its_backward(self):
        (mu, logvar), x = posterior_parameters(5), torch.rand(5, 6, dtype=torch.float64)
        elbo, decoder = ELBO(capacity=1.0), Decoder()
        gradients = []
        for change in (lambda: None, lambda: (elbo.set_beta(7.0), elbo.capacity.fill_(9.0), elbo.step())):
            loss = elbo(x, (mu, logvar), decoder, key=KEY).loss
            change()
            gradients.append(torch.autograd.grad(loss, mu)[0])
        assert torch.equal(*gradients)

    def test_set_beta_takes_a_tensor(self):
        elbo = ELBO()
        elbo.set_beta(torch.tensor(0.25))
        assert elbo.beta == 0.25 and elbo.current_beta == 0.25

    def test_the_state_is_kept(self):
        elbo = ELBO(beta=2.0, warmup_steps=10, capacity=5.0, capacity_steps=10)
        elbo.set_beta(3.0)
        for _ in range(5):
            elbo.step()
        other = ELBO(beta=2.0, warmup_steps=10, capacity=1.0, capacity_steps=10)
        other.load_state_dict(elbo.state_dict())
        assert other.current_beta == 1.5 and other.current_capacity == 2.5 and other.steps == 5
        assert list(elbo.parameters()) == []


def linear_gaussian(batch, shift=0.0, widen=0.0, copies=1):
    """x, a posterior that is the exact one moved and widened, the decoder and log p(x), ``copies`` times each point."""
    generator = torch.Generator().manual_seed(0)
    decoder = LinearDecoder(generator)
    x = torch.randn(batch, DIM, dtype=torch.float64, generator=generator).repeat(copies, 1)
    mu, logvar = decoder.posterior(x)
    return x, (mu + shift, logvar + widen), decoder, decoder.evidence(x)


class TestBounds:
    """Of a model whose evidence log p(x) is known."""

    @every_sampled_option
    def test_at_the_exact_posterior_it_is_the_evidence(self, options):
        # log p(x, z) - log q(z | x) = log p(x) whatever z.
        x, posterior, decoder, evidence = linear_gaussian(20)
        terms = ELBO(**{**options, "beta": 1.0})(x, posterior, decoder)
        torch.testing.assert_close(terms.bound, evidence, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("options", [o for o in SAMPLED.values() if "gradient" in o], ids=str)
    def test_at_the_exact_posterior_the_path_has_no_gradient(self, options):
        x, posterior, decoder, _ = linear_gaussian(20)
        posterior = tuple(t.detach().requires_grad_() for t in posterior)
        gradients = torch.autograd.grad(ELBO(**{**options, "beta": 1.0})(x, posterior, decoder).loss, posterior)
        assert max(g.abs().max() for g in gradients) < 1e-13
        # Whereas that of everything is zero only on average.
        iwae = ELBO(importance_weighted=True, n_samples=options.get("n_samples", 1))
        total = torch.autograd.grad(iwae(x, posterior, decoder).loss, posterior)
        assert min(g.abs().max() for g in total) > 1e-3

    def test_more_samples_make_it_tighter(self):
        # Burda et al. 2016, theorem 1: L_1 <= L_k <= L_(k+1) <= log p(x). Noise of their own: the difference of two
        # means of n values has the standard error s; beyond 5 s at a rate of 3e-7.
        x, posterior, decoder, evidence = linear_gaussian(1, shift=0.3, widen=0.5, copies=20_000)
        values = [ELBO(importance_weighted=True, n_samples=k)(x, posterior, decoder).bound for k in (1, 2, 4, 16)] + [
            evidence
        ]
        plain_bound = ELBO()(x, posterior, decoder).bound
        squared_error = [v.var() / len(v) for v in values]
        assert abs(plain_bound.mean() - values[0].mean()) < 5 * (plain_bound.var() / len(x) + squared_error[0]).sqrt()
        for i in range(4):
            assert values[i + 1].mean() - values[i].mean() > 5 * (squared_error[i] + squared_error[i + 1]).sqrt()

    def test_with_many_samples_it_approaches_the_evidence_at_its_rate(self):
        # log p(x) - E L_k = V / (2 k) + O(1 / k^2), V the variance of w / p(x) (Maddison et al. 2017, proposition 1).
        x, posterior, decoder, evidence = linear_gaussian(1, shift=0.2, widen=0.5, copies=3000)
        (mu, logvar), (exact_mu, exact_logvar) = (p[:1] for p in posterior), (p[:1] for p in decoder.posterior(x))
        grid = torch.linspace(-20, 20, 40_001, dtype=torch.float64).unsqueeze(1)
        p, q = (Normal(m, (0.5 * v).exp()) for m, v in ((exact_mu, exact_logvar), (mu, logvar)))
        variance = torch.trapezoid((2 * p.log_prob(grid) - q.log_prob(grid)).exp(), grid, dim=0).prod() - 1
        k = 200
        log_mean = ELBO(importance_weighted=True, n_samples=k)(x, posterior, decoder).bound - evidence
        # The mean weight is 1 on average, which takes most of the noise away.
        gap = log_mean.exp() - 1 - log_mean
        # Beyond 5 standard errors at a rate of 6e-7; the next order of the gap is a few times V^2 / k^2.
        tolerance = 5 * gap.std() / len(x) ** 0.5 + 5 * (variance / k) ** 2
        assert abs(gap.mean() - variance / (2 * k)) < tolerance < 0.3 * variance / (2 * k)

    @pytest.mark.parametrize("options", [o for o in SAMPLED.values() if "gradient" in o], ids=str)
    def test_gradients_without_bias(self, options):
        """A gradient for each of many copies of a data point, beside that of everything on the same noise."""
        biased = options["gradient"] == "stl" and options.get("importance_weighted", False)
        x, posterior, decoder, _ = linear_gaussian(1, shift=0.3, widen=0.5, copies=40_000)
        posterior = tuple(t.detach().requires_grad_() for t in posterior)
        total = {"importance_weighted": True} if options.get("importance_weighted") else {}
        total |= {"n_samples": options.get("n_samples", 1)}
        of_everything, of_the_path = (
            torch.cat(torch.autograd.grad(ELBO(**o)(x, posterior, decoder, key=KEY).bound.sum(), posterior), -1)
            for o in (total, {**options, "beta": 1.0})
        )
        difference = of_everything - of_the_path
        # 6 numbers, each beyond 5.5 standard errors at a rate of 4e-8.
        errors = difference.mean(0).abs() / (difference.std(0) / len(x) ** 0.5)
        assert (errors.max() > 20) if biased else (errors.max() < 5.5)

    def test_dreg_leaves_the_decoder_its_gradient(self):
        (mu, logvar), x = posterior_parameters(5), torch.rand(5, 6, dtype=torch.float64)
        decoder, (prior, _, prior_parameters) = Decoder(), make_prior("tuple")
        leaves = [*decoder.parameters(), *prior_parameters]
        gradients = [
            torch.autograd.grad(
                ELBO(4, importance_weighted=True, gradient=gradient)(
                    x, (mu, logvar), decoder, prior=prior, key=KEY
                ).loss,
                leaves,
            )
            for gradient in ("total", "dreg")
        ]
        torch.testing.assert_close(*gradients)


class TestTheEstimatorsOfTheTrainer:
    @pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
    def test_the_same_bounds(self, likelihood):
        model = mlp_vae(6, latent=3, hidden=5, likelihood=likelihood, x_scale=1 / 255)
        x = torch.randint(256, (7, 6), dtype=torch.uint8)

        def of(elbo):
            generator = torch.Generator().manual_seed(1)
            return elbo(x, model.posterior(x), model.decoder, x_scale=1 / 255, generator=generator).bound

        def estimate(bound, n_samples=1):
            return bound(model, x, n_samples, torch.Generator().manual_seed(1))

        assert torch.equal(of(ELBO()), estimate(bound_b))
        torch.testing.assert_close(of(ELBO(4)), estimate(bound_b, 4))
        torch.testing.assert_close(of(ELBO(importance_weighted=True)), estimate(bound_a))
        torch.testing.assert_close(of(ELBO(4, gradient="stl")), estimate(bound_a, 4))


class TestNumbers:
    @pytest.mark.parametrize("gradient", ["total", "stl", "dreg"])
    def test_weights_whose_spread_exceeds_float_range(self, gradient):
        """Log-weights from -1e4 to 1e4: the weights themselves are neither in float32 nor in float64."""
        mu, logvar = torch.zeros(3, 2), torch.zeros(3, 2)
        mu.requires_grad_(), logvar.requires_grad_()
        slope = torch.tensor([1e4, 1.0], requires_grad=True)

        def log_likelihood(x, z):
            return (z * slope.to(z.dtype)).sum(-1)

        elbo = ELBO(50, importance_weighted=True, gradient=gradient)
        wide = tuple(t.detach().double() for t in (mu, logvar))
        z = wide[0] + normals(KEY, (50, 3, 2), torch.float32)[0]
        terms = elbo(mu, (mu, logvar), log_likelihood, key=KEY)
        log_w = (log_likelihood(None, z) + 0 * mu.sum()).detach()
        assert log_w.max() > 1e4 and log_w.min() < -1e4
        # With q = p the weights are the likelihoods.
        torch.testing.assert_close(terms.bound.double(), log_w.logsumexp(0) - math.log(50), rtol=1e-6, atol=0)
        assert all(g.isfinite().all() for g in torch.autograd.grad(terms.loss, (mu, logvar, slope)))

    @every_option
    def test_a_nan_stays_in_its_row(self, options):
        (mu, logvar), decoder, x = posterior_parameters(5), Decoder(), torch.rand(5, 6, dtype=torch.float64)
        mu = mu.detach().clone()
        mu[:, 1:] += 3  # far from every lambda on either side, so that a row less does not change which groups are free
        elbo, others = ELBO(**options), torch.tensor([0, 1, 3, 4])
        results = []
        for value in (0.5, math.nan):
            leaves = [mu.clone(), logvar.detach().clone()]
            leaves[0][2] = value
            leaves = [t.requires_grad_() for t in leaves]
            terms = elbo(x, tuple(leaves), decoder, key=KEY)
            results.append((*terms, *torch.autograd.grad(terms.bound[others].sum(), leaves)))
        for whole, with_nan in zip(*results, strict=True):
            assert torch.equal(whole[others], with_nan[others])
        assert all(t[2].isnan() for t in results[1][:3])

    @every_option
    def test_no_data_points(self, options):
        """A minibatch's remainder, filtered to nothing: terms of no data points, and gradients of 0."""
        mu, logvar = posterior_parameters(0)
        decoder = Decoder()
        terms = ELBO(**options)(torch.zeros(0, 6).double(), DiagonalGaussian(mu, logvar), decoder)
        assert all(term.shape == (0,) for term in terms)
        terms.bound.sum().backward()
        assert mu.grad.shape == (0, 4) and all((p.grad == 0).all() for p in decoder.parameters())

    @every_option
    def test_terms_can_be_detached_and_reduced_apart(self, options):
        (mu, logvar), decoder, x = posterior_parameters(5), Decoder(), torch.rand(5, 6, dtype=torch.float64)
        terms = ELBO(**options)(x, (mu, logvar), decoder, key=KEY)
        before = terms.bound.clone()
        terms.kl.detach().zero_(), terms.reconstruction.detach().zero_()
        assert torch.equal(terms.bound, before)
        # What flows back to z is multiplied by the weights there: the terms would get a gradient that is not theirs.
        for term in (terms.kl, terms.reconstruction):
            assert term.requires_grad == (options.get("gradient") != "dreg")

    def test_a_prior_of_which_only_the_density_is_known(self):
        (mu, logvar), decoder, x = posterior_parameters(5), Decoder(), torch.rand(5, 6, dtype=torch.float64)
        means = torch.randn(3, 4, dtype=torch.float64)
        mixture = MixtureSameFamily(Categorical(torch.ones(3)), Independent(Normal(means, 1.0), 1))
        terms = ELBO(4, importance_weighted=True)(x, (mu, logvar), decoder, prior=mixture, key=KEY)
        z = mu + (0.5 * logvar).exp() * normals(KEY, (4, 5, 4))[0]
        log_q = Normal(mu, (0.5 * logvar).exp()).log_prob(z).sum(-1)
        log_w = decoder(x, z) + mixture.log_prob(z) - log_q
        torch.testing.assert_close(terms.bound, log_w.logsumexp(0) - math.log(4))


REFUSED = {
    "no number": ({"n_samples": "3"}, "n_samples must be an integer, at least 1, got '3'"),
    "no beta": ({"beta": None}, "beta must be a finite number, at least 0, got None"),
    "n_samples": ({"n_samples": 0}, "n_samples must be an integer, at least 1, got 0"),
    "beta": ({"beta": -1.0}, "beta must be a finite number, at least 0, got -1.0"),
    "nan beta": ({"beta": math.nan}, "beta"),
    "warmup_steps": ({"warmup_steps": 2.5}, "warmup_steps must be an integer"),
    "free_bits": ({"free_bits": -0.1}, "free_bits"),
    "groups": ({"free_bits": 1.0, "free_bits_groups": 0}, "free_bits_groups"),
    "groups without free bits": ({"free_bits_groups": 2}, "nothing to group"),
    "capacity": ({"capacity": math.inf}, "capacity"),
    "capacity_steps": ({"capacity_steps": 5}, "without capacity"),
    "gradient": ({"gradient": "score"}, "gradient must be one of total, stl, dreg, got 'score'"),
    "free bits and capacity": ({"free_bits": 1.0, "capacity": 1.0}, "free_bits and capacity were both given"),
    "iwae and beta": ({"importance_weighted": True, "beta": 2.0}, "is no bound"),
    "iwae and warm-up": ({"importance_weighted": True, "warmup_steps": 2}, "is no bound"),
    "iwae and free bits": ({"importance_weighted": True, "free_bits": 1.0}, "free_bits cannot be combined with imp"),
    "iwae and capacity": ({"importance_weighted": True, "capacity": 1.0}, "capacity cannot be combined with imp"),
    "stl and free bits": ({"gradient": "stl", "free_bits": 1.0}, 'free_bits cannot be combined with gradient="stl"'),
    "dreg without weights": ({"gradient": "dreg"}, "needs importance_weighted=True"),
}


class TestErrors:
    @pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED)
    def test_options(self, options, message):
        with pytest.raises(ValueError, match=message):
            ELBO(**options)

    def test_counts_of_numpy(self):
        mu = torch.zeros(5, 4)
        terms = ELBO(np.int64(3))(mu, (mu, mu), lambda x, z: z.sum(-1), key=KEY)
        assert torch.equal(terms.bound, ELBO(3)(mu, (mu, mu), lambda x, z: z.sum(-1), key=KEY).bound)

    def test_beta_of_importance_weights(self):
        with pytest.raises(ValueError, match="no beta"):
            ELBO(importance_weighted=True).set_beta(0.5)
        with pytest.raises(ValueError, match="beta must be a finite"):
            ELBO().set_beta(-0.5)

    @pytest.mark.parametrize("n_samples", [1, 3])
    def test_a_decoder_that_reduces(self, n_samples):
        mu = torch.zeros(5, 4)
        with pytest.raises(ValueError, match=r"log p\(x \| z\) for each data point and sample, .* got \[\]"):
            ELBO(n_samples)(mu, (mu, mu), lambda x, z: z.sum())

    def test_a_posterior_that_is_none(self):
        with pytest.raises(TypeError, match="posterior must be a DiagonalGaussian or a tuple"):
            ELBO()(torch.zeros(2, 3), torch.zeros(2, 3), lambda x, z: z.sum(-1))

    def test_groups_that_do_not_divide(self):
        mu = torch.zeros(5, 4)
        with pytest.raises(ValueError, match=r"free_bits_groups is 3: z's event \[4\]"):
            ELBO(free_bits=1.0, free_bits_groups=3)(mu, (mu, mu), lambda x, z: z.sum(-1))

    def test_free_bits_with_another_prior(self):
        mu = torch.zeros(5, 4)
        with pytest.raises(TypeError, match="free_bits needs a DiagonalGaussian"):
            ELBO(free_bits=1.0)(mu, (mu, mu), lambda x, z: z.sum(-1), prior=Normal(0.0, 1.0))

    @pytest.mark.parametrize(
        "options", [{}, {"n_samples": 3}, {"n_samples": 4, "block": 2}, {"capacity": 1.0}], ids=str
    )
    @pytest.mark.parametrize("name", ["Independent", "MixtureSameFamily"])
    def test_a_divergence_that_is_not_known(self, name, options):
        """The message says what to write, and that does it."""
        mu = torch.zeros(5, 4)
        prior = {
            "Independent": Independent(torch.distributions.Laplace(torch.zeros(4), 1.0), 1),
            "MixtureSameFamily": MixtureSameFamily(Categorical(torch.ones(3)), Independent(Normal(mu[:3], 1.0), 1)),
        }[name]

        def decoder(x, z):
            return z.sum(-1)

        with pytest.raises(NotImplementedError, match=rf'{name}, is not known in closed form: ELBO\(gradient="stl"\)'):
            ELBO(**options)(mu, (mu, mu), decoder, prior=prior, key=KEY)
        z = normals(KEY, (5, 4))[0].float()
        terms = ELBO(gradient="stl")(mu, (mu, mu), decoder, prior=prior, key=KEY)
        torch.testing.assert_close(terms.kl, Normal(0.0, 1.0).log_prob(z).sum(-1) - prior.log_prob(z))

    @pytest.mark.parametrize(
        "prior", [0.0, "N(0, I)", torch.zeros(4), [torch.zeros(4)] * 2, torch.nn.Linear(4, 4)], ids=str
    )
    def test_a_prior_that_is_none(self, prior):
        mu = torch.zeros(5, 4)
        kind = re.escape({list: "a list", torch.Tensor: "a tensor"}.get(type(prior), type(prior).__name__))
        given = re.escape(repr(prior)) if isinstance(prior, (float, str)) else kind
        with pytest.raises(TypeError, match=rf"prior must be a distribution, .* got {given}"):
            ELBO()(mu, (mu, mu), lambda x, z: z.sum(-1), prior=prior)

    @pytest.mark.parametrize("gradient", ["total", "stl"])
    @pytest.mark.parametrize(
        ("prior", "words"),
        [
            ((torch.zeros(3), torch.zeros(3)), r"prior has shape \[3\].*posterior's event, of shape \[4\]"),
            ((torch.zeros(3), torch.zeros(4)), r"prior's mu has shape \[3\].*prior's logvar, of shape \[4\]"),
            (DiagonalGaussian(torch.zeros(3), torch.zeros(3), batch_dims=0), r"prior's event_shape .*\[4\], got \[3\]"),
            (Independent(Normal(torch.zeros(2, 4), 1.0), 2), r"prior's event_shape .*\[4\], got \[2, 4\]"),
        ],
        ids=["tuple", "tuple of two", "gaussian", "torch"],
    )
    def test_a_prior_of_another_event(self, prior, words, gradient):
        mu = torch.zeros(5, 4)
        with pytest.raises(ValueError, match=words):
            ELBO(gradient=gradient)(mu, (mu, mu), lambda x, z: z.sum(-1), prior=prior)

    def test_a_prior_of_another_batch(self):
        mu = torch.zeros(5, 4)
        for prior in ((mu[:3], mu[:3]), Independent(Normal(mu[:3], 1.0), 1)):
            with pytest.raises(ValueError, match=r"prior's batch has shape \[3\].*posterior's shape \[5\]"):
                ELBO()(mu, (mu, mu), lambda x, z: z.sum(-1), prior=prior)

    def test_a_prior_of_single_numbers_whose_density_is_not_one_of_a_data_point(self):
        """Its log_prob is [5, 4], which would broadcast against the decoder's [5] where the event has five numbers."""
        mu = torch.zeros(5, 5)
        with pytest.raises(ValueError, match=r"prior's log_prob .*Independent.*\[5\] for z \[5, 5\], got \[5, 5\]"):
            ELBO(gradient="stl")(mu, (mu, mu), lambda x, z: z.sum(-1), prior=Normal(torch.zeros(5), 1.0))

    @pytest.mark.parametrize(
        "decoder",
        [
            None,
            3,
            torch.nn.Linear(4, 4),
            torch.nn.Sequential(torch.nn.Linear(4, 4)),
            lambda z: z.sum(-1),
            Normal(0.0, 1.0),
        ],
        ids=["None", "number", "Linear", "Sequential", "of z", "distribution"],
    )
    def test_a_decoder_that_is_none(self, decoder):
        """A network alone is one of z, and gives no log p(x | z)."""
        mu = torch.zeros(5, 4)
        with pytest.raises(
            TypeError, match=r"decoder must be a module with log_prob\(x, z\).*BernoulliDecoder.*got \w"
        ):
            ELBO()(mu, (mu, mu), decoder)

    def test_a_decoder_that_gives_no_tensor(self):
        mu = torch.zeros(5, 4)
        with pytest.raises(TypeError, match=r"decoder must give log p\(x \| z\) as a tensor, \[5\], got Normal"):
            ELBO()(mu, (mu, mu), lambda x, z: Normal(z, 1.0))

    def test_what_fails_inside_a_decoder_stays_what_it_is(self):
        def decoder(x, z):
            raise TypeError("of the decoder's own")

        with pytest.raises(TypeError, match=r"^of the decoder's own$"):
            ELBO()(torch.zeros(5, 4), (torch.zeros(5, 4),) * 2, decoder)

    def test_key_and_generator(self):
        mu = torch.zeros(5, 4)
        with pytest.raises(ValueError, match="key and generator"):
            ELBO()(mu, (mu, mu), lambda x, z: z.sum(-1), key=KEY, generator=torch.Generator())
