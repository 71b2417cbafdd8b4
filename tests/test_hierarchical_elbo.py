"""The ELBO of a hierarchy against the sum by hand in float64, as ladder models write it."""

import math
import re

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

from aevb_ext.distributions import DiagonalGaussian
from aevb_ext.nn import HierarchicalELBO

BATCH, WIDTH = 5, 3
LATENTS = (2, 4, 3)  # of each level, from the top
DATA = 6


class Ladder(nn.Module):
    """Levels whose priors and posteriors are computed from the samples of the levels above."""

    def __init__(self):
        super().__init__()
        self.top = nn.Parameter(torch.randn(WIDTH))
        self.priors = nn.ModuleList(nn.Linear(WIDTH, 2 * latent) for latent in LATENTS)
        self.posteriors = nn.ModuleList(nn.Linear(WIDTH + DATA, 2 * latent) for latent in LATENTS)
        self.merges = nn.ModuleList(nn.Linear(latent, WIDTH) for latent in LATENTS)
        self.decoder = nn.Linear(WIDTH, DATA)

    def parameters_of_levels(self, x, noise):
        """log p(x | z) and (posterior's mean, logvar), (prior's mean, logvar) of each level."""
        h, levels = self.top.expand(len(x), -1), []
        for prior, posterior, merge, eps in zip(self.priors, self.posteriors, self.merges, noise, strict=True):
            q, p = posterior(torch.cat([h, x], -1)).chunk(2, -1), prior(h).chunk(2, -1)
            levels.append((q, p))
            h = torch.tanh(h + merge(q[0] + (0.5 * q[1]).exp() * eps))
        logits = self.decoder(h)
        return (x * logits - nn.functional.softplus(logits)).sum(-1), levels


@pytest.fixture
def ladder():
    torch.manual_seed(0)
    model = Ladder().double()
    x = torch.rand(BATCH, DATA, dtype=torch.float64)
    noise = [torch.randn(BATCH, latent, dtype=torch.float64) for latent in LATENTS]
    return model, *model.parameters_of_levels(x, noise)


def kl_by_hand(q, p):
    """The elementwise KL as NVAE and VDVAE write it, in float64."""
    (q_mu, q_logvar), (p_mu, p_logvar) = q, p
    return 0.5 * (p_logvar - q_logvar - 1 + (q_logvar - p_logvar).exp() + (q_mu - p_mu) ** 2 / p_logvar.exp())


def as_gaussians(levels):
    return [(DiagonalGaussian(*q), DiagonalGaussian(*p)) for q, p in levels]


OPTIONS = {
    "plain": {},
    "beta": {"beta": 2.5},
    "free bits": {"free_bits": 5.0},
    "free bits of each level": {"free_bits": [0.0, 6.5, 0.25], "beta": 0.5},
}


@pytest.mark.parametrize("form", ["tuples", "gaussians"])
@pytest.mark.parametrize("name", OPTIONS)
def test_the_sum_by_hand(ladder, name, form):
    model, log_likelihood, levels = ladder
    options = OPTIONS[name]
    terms = HierarchicalELBO(**options)(log_likelihood, as_gaussians(levels) if form == "gaussians" else levels)
    kls = torch.stack([kl_by_hand(q, p).sum(-1) for q, p in levels], -1)
    torch.testing.assert_close(terms.kl_of_levels, kls, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(terms.kl, kls.sum(-1), rtol=1e-12, atol=0)
    assert torch.equal(terms.reconstruction, log_likelihood)
    free_bits = torch.tensor(options.get("free_bits", 0.0)).double().expand(len(LATENTS))
    of_levels = kls.mean(0)
    if "free_bits" in options:
        assert (of_levels < free_bits).any() and (of_levels > free_bits).any()
    loss = options.get("beta", 1.0) * torch.maximum(of_levels, free_bits).sum() - log_likelihood.mean()
    torch.testing.assert_close(terms.loss, loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(terms.weighted_kl.mean(), loss + log_likelihood.mean(), rtol=1e-12, atol=0)
    parameters = list(model.parameters())
    expected = torch.autograd.grad(loss, parameters, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(terms.loss, parameters), expected, rtol=1e-9, atol=1e-12)


def test_each_data_point_bears_its_share(ladder):
    _, log_likelihood, levels = ladder
    kls = torch.stack([kl_by_hand(q, p).sum(-1) for q, p in levels], -1)
    terms = HierarchicalELBO(free_bits=5.0)(log_likelihood, levels)
    regulariser = torch.where(kls.mean(0) < 5, 5.0, kls).sum(-1)
    torch.testing.assert_close(terms.bound, log_likelihood - regulariser, rtol=1e-12, atol=0)


def test_warm_up(ladder):
    _, log_likelihood, levels = ladder
    elbo = HierarchicalELBO(beta=2.0, warmup_steps=4)
    for beta in (0.0, 0.5, 1.0, 1.5, 2.0, 2.0):
        terms = elbo(log_likelihood, levels)
        torch.testing.assert_close(terms.weighted_kl, beta * terms.kl, rtol=1e-12, atol=1e-13)
        elbo.step()
    elbo.set_beta(3.0)
    assert elbo.current_beta == 3.0 and set(elbo.state_dict()) == {"beta", "steps"}


def test_a_level_may_have_its_own_form(ladder):
    """N(0, I), torch's distributions, another spread, feature maps, and a KL that is known already."""
    _, log_likelihood, levels = ladder
    (q_top, _), (q, p), (q_low, p_low) = levels
    maps = [torch.randn(BATCH, 2, 4, 4, dtype=torch.float64) for _ in range(4)]
    given = [
        (q_top, None),
        (DiagonalGaussian(q[0], (0.5 * q[1]).exp(), spread="std"), Independent(Normal(p[0], (0.5 * p[1]).exp()), 1)),
        kl_by_hand(q_low, p_low).sum(-1),
        (tuple(maps[:2]), tuple(maps[2:])),
    ]
    zeros = torch.zeros_like(q_top[0])
    expected = [
        kl_by_hand(q_top, (zeros, zeros)).sum(-1),
        kl_by_hand(q, p).sum(-1),
        kl_by_hand(q_low, p_low).sum(-1),
        kl_by_hand(maps[:2], maps[2:]).sum((1, 2, 3)),
    ]
    terms = HierarchicalELBO()(log_likelihood, given)
    torch.testing.assert_close(terms.kl_of_levels, torch.stack(expected, -1), rtol=1e-12, atol=1e-13)


def test_several_samples_of_the_levels_below():
    """The top's KL is the same for every sample; the others have their own."""
    top = (torch.randn(BATCH, 2, dtype=torch.float64), torch.zeros(BATCH, 2, dtype=torch.float64))
    below = DiagonalGaussian(*torch.randn(2, 7, BATCH, 3, dtype=torch.float64), batch_dims=2)
    log_likelihood = torch.randn(7, BATCH, dtype=torch.float64)
    terms = HierarchicalELBO()(log_likelihood, [(top, None), (below, None)])
    standard = Normal(torch.zeros((), dtype=torch.float64), 1.0)
    kl = kl_divergence(Normal(top[0], 1.0), standard).sum(-1) + kl_divergence(
        Normal(below.mu, below.stddev), standard
    ).sum(-1)
    torch.testing.assert_close(terms.bound, log_likelihood - kl, rtol=1e-12, atol=1e-12)


def test_float32_agrees_with_float64(ladder):
    _, log_likelihood, levels = ladder
    elbo = HierarchicalELBO(free_bits=[0.0, 1.5, 0.2])
    wide = elbo(log_likelihood, levels)
    narrow = elbo(log_likelihood.float(), [tuple(tuple(t.float() for t in half) for half in pair) for pair in levels])
    for single, double in zip(narrow, wide, strict=True):
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), double, rtol=2e-6, atol=2e-6)


def test_a_nan_stays_in_its_data_point(ladder):
    _, log_likelihood, levels = ladder
    elbo = HierarchicalELBO(free_bits=[9.0, 0.0, 0.0])  # the top level is free
    rows = torch.tensor([0, 1, 3, 4])
    expected = elbo(log_likelihood[rows], [tuple(tuple(t[rows] for t in half) for half in pair) for pair in levels])
    levels[0][0][0].data[2] = math.nan
    terms = elbo(log_likelihood, levels)
    assert torch.equal(terms.bound[rows], expected.bound) and terms.bound[2].isnan()


@pytest.mark.parametrize("free_bits", [0.0, [0.3, 1.0, 0.0]])
def test_compiled(ladder, free_bits):
    """The whole step of a ladder in one graph, warm-up included."""
    model = ladder[0]
    elbo = HierarchicalELBO(warmup_steps=2, free_bits=free_bits)
    x = torch.rand(BATCH, DATA, dtype=torch.float64)
    noise = [torch.randn(BATCH, latent, dtype=torch.float64) for latent in LATENTS]

    def loss():
        return elbo(*model.parameters_of_levels(x, noise)).loss

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    parameters = list(model.parameters())
    for _ in range(3):
        torch.testing.assert_close(compiled(), loss(), rtol=1e-12, atol=0)
        gradients = torch.autograd.grad(compiled(), parameters)
        torch.testing.assert_close(gradients, torch.autograd.grad(loss(), parameters), rtol=1e-10, atol=1e-13)
        elbo.step()


class TestMistakes:
    PAIR = ((torch.zeros(BATCH, 2), torch.zeros(BATCH, 2)),) * 2
    LIKELIHOOD = torch.zeros(BATCH)

    @pytest.mark.parametrize("levels", [[], None, torch.zeros(5)], ids=["none", "nothing", "a tensor"])
    def test_no_list(self, levels):
        with pytest.raises(TypeError, match="levels must be a list of pairs"):
            HierarchicalELBO()(self.LIKELIHOOD, levels)

    @pytest.mark.parametrize("level", [PAIR[0], (*PAIR, PAIR[0]), "q", (PAIR[0],)], ids=str)
    def test_no_pair(self, level):
        with pytest.raises(TypeError, match=re.escape("levels[1] must be a pair (posterior, prior)")):
            HierarchicalELBO()(self.LIKELIHOOD, [self.PAIR, level])

    def test_no_posterior(self):
        with pytest.raises(TypeError, match=re.escape("levels[0]: posterior must be a DiagonalGaussian or a tuple")):
            HierarchicalELBO()(self.LIKELIHOOD, [("q", None)])

    def test_no_prior(self):
        with pytest.raises(TypeError, match=re.escape("levels[0]: prior must be a distribution, a tuple")):
            HierarchicalELBO()(self.LIKELIHOOD, [(self.PAIR[0], "p")])

    def test_other_events(self):
        prior = DiagonalGaussian(torch.zeros(BATCH, 3), torch.zeros(BATCH, 3))
        with pytest.raises(ValueError, match=re.escape("levels[1]: the prior's event_shape must be the posterior's")):
            HierarchicalELBO()(self.LIKELIHOOD, [self.PAIR, (self.PAIR[0], prior)])

    def test_no_kl_in_closed_form(self):
        components = Independent(Normal(torch.zeros(3, 2), 1.0), 1)
        mixture = MixtureSameFamily(Categorical(logits=torch.zeros(3)), components)
        with pytest.raises(NotImplementedError, match=r"levels\[0\].*MixtureSameFamily.*q\.log_prob\(z\)"):
            HierarchicalELBO()(self.LIKELIHOOD, [(self.PAIR[0], mixture)])

    def test_another_batch(self):
        with pytest.raises(ValueError, match=re.escape("levels[0]'s KL has shape [5]")):
            HierarchicalELBO()(torch.zeros(4), [self.PAIR])

    def test_another_number_of_levels(self):
        with pytest.raises(ValueError, match="free_bits has 3 numbers, but there are 2 levels"):
            HierarchicalELBO(free_bits=[0.0, 1.0, 2.0])(self.LIKELIHOOD, [self.PAIR] * 2)

    @pytest.mark.parametrize("free_bits", [-1.0, math.inf, [1.0, -2.0]])
    def test_no_free_bits(self, free_bits):
        with pytest.raises(ValueError, match="free_bits must be a finite number, at least 0"):
            HierarchicalELBO(free_bits=free_bits)

    @pytest.mark.parametrize("free_bits", ["2", [], ["2"], None])
    def test_no_numbers(self, free_bits):
        with pytest.raises(TypeError, match="free_bits must be a number, or a list of one for each level"):
            HierarchicalELBO(free_bits=free_bits)

    def test_no_likelihood(self):
        with pytest.raises(TypeError, match="log_likelihood must be a tensor"):
            HierarchicalELBO()(None, [self.PAIR])
