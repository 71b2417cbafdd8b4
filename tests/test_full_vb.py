"""Full variational Bayes: its gradient, an exact posterior over parameters, and resumed runs."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence

import aevb_ext
from aevb_ext import data as datasets
from aevb_ext.configuration.saved_run import checkpoints_of
from aevb_ext.learners import FullVB
from aevb_ext.learners.full_vb import ParameterPosterior
from aevb_ext.models import VAE, mlp_vae
from aevb_ext.noise import keys_at, standard_normal
from aevb_ext.train import Settings, fit
from aevb_ext.train.checkpoint import read

N, M, DIM, LATENT = 50, 12, 6, 2


def model(likelihood="bernoulli"):
    generator = torch.Generator().manual_seed(0)
    vae = mlp_vae(DIM, latent=LATENT, hidden=5, likelihood=likelihood, generator=generator).double()
    with torch.no_grad():
        for p in vae.parameters():
            p.mul_(40)
    return vae


def plain(x, weight, bias, last_weight, last_bias):
    """The network of the paper, layer by layer."""
    return (x @ weight.T + bias).tanh() @ last_weight.T + last_bias


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_step_follows_the_formula(likelihood, accumulate):
    """Appendix F, eq. 24, times M/N, in plain PyTorch on the same noise; and no prior beside it."""
    ours, theirs = model(likelihood), model(likelihood)
    learner = FullVB(ours, N, batch_size=M, optimizer="sgd", lr=0.01, seed=5, accumulate=accumulate)
    mus = list(theirs.decoder.parameters())
    generator = torch.Generator().manual_seed(1)
    logvars = [torch.randn(p.shape, generator=generator, dtype=p.dtype).sub(4).requires_grad_() for p in mus]
    with torch.no_grad():
        for own, logvar in zip(learner.objective.logvar, logvars, strict=True):
            own.copy_(logvar)
    # The second step: another theta.
    learner.objective.count_step()
    x, key = torch.rand(M, DIM, generator=generator, dtype=torch.float64), keys_at(0, "posterior", torch.arange(M))
    told = learner.step(x, key)

    keys = keys_at(5, "theta", 4 + torch.arange(4))
    zetas = [standard_normal(k, p.shape, torch.float64) for k, p in zip(keys, mus, strict=True)]
    theta = [mu + (0.5 * v).exp() * zeta for mu, v, zeta in zip(mus, logvars, zetas, strict=True)]
    mu, logvar = plain(x, *theirs.encoder.parameters()).chunk(2, 1)
    posterior = Normal(mu, (0.5 * logvar).exp())
    output = plain(posterior.mean + posterior.stddev * standard_normal(key, (LATENT,), torch.float64), *theta)
    if likelihood == "bernoulli":
        log_likelihood = Bernoulli(logits=output, validate_args=False).log_prob(x).sum(1)
    else:
        mean, spread = output.chunk(2, 1)
        log_likelihood = Normal(mean.sigmoid(), (0.5 * spread).exp()).log_prob(x).sum(1)
    bounds = log_likelihood - kl_divergence(posterior, Normal(0.0, 1.0)).sum(1)
    priors = [
        kl_divergence(Normal(m, (0.5 * v).exp()), Normal(0.0, 1.0)).sum() for m, v in zip(mus, logvars, strict=True)
    ]
    total = bounds.sum() - M / N * sum(priors)
    parameters = [*theirs.parameters(), *logvars]
    gradients = torch.autograd.grad(total, parameters)
    expected = [p.detach() + 0.01 * g for p, g in zip(parameters, gradients, strict=True)]
    for p, after in zip([*ours.parameters(), *learner.objective.logvar], expected, strict=True):
        torch.testing.assert_close(p.detach(), after, rtol=1e-11, atol=1e-12)
    # The data's part alone is told.
    torch.testing.assert_close(told, bounds.mean().detach(), rtol=1e-12, atol=0)


class Nothing(nn.Module):
    """q(z | x) = p(z): z says nothing."""

    def forward(self, x):
        return x.new_zeros(2, len(x), 1).unbind()


class Regression(nn.Module):
    """p(x | theta) = N(x; A theta, s^2 I), A known: then p(theta | X) is Gaussian, and so is p(X)."""

    SPREAD = 0.7

    def __init__(self, design):
        super().__init__()
        self.design, self.theta = design, nn.Parameter(design.new_zeros(design.shape[1]))

    def log_prob(self, x, z, x_scale=1.0):
        mean = (self.design @ self.theta).expand_as(x)
        return aevb_ext.gaussian_log_prob(x, mean, mean.new_tensor(2 * math.log(self.SPREAD)))


def regression(design, n):
    """The model, data, and by linear algebra: Lambda and the mean of p(theta | X), and log p(X)."""
    generator = torch.Generator().manual_seed(3)
    design = torch.tensor(design, dtype=torch.float64)
    d, p = design.shape
    theta = torch.randn(p, generator=generator, dtype=torch.float64)
    x = design @ theta + Regression.SPREAD * torch.randn(n, d, generator=generator, dtype=torch.float64)
    eye = torch.eye(p, dtype=torch.float64)
    precision = eye + n * design.T @ design / Regression.SPREAD**2
    mean = torch.linalg.solve(precision, design.T @ x.sum(0) / Regression.SPREAD**2)
    stacked = design.repeat(n, 1)
    covariance = stacked @ stacked.T + Regression.SPREAD**2 * torch.eye(n * d, dtype=torch.float64)
    evidence = MultivariateNormal(torch.zeros(n * d, dtype=torch.float64), covariance).log_prob(x.flatten())
    return VAE(Nothing(), Regression(design), 1), x, precision, mean, evidence


DESIGNS = {"orthogonal": [[1.0, 1.0], [1.0, -1.0], [0.5, 0.0]], "correlated": [[1.0, 0.8], [0.2, 0.9], [0.5, 0.5]]}


@pytest.mark.parametrize("n", [3, 60])
@pytest.mark.parametrize("design", DESIGNS)
def test_the_best_posterior_over_parameters_is_the_closed_form(design, n):
    """The exact mean and variances 1 / Lambda_jj: no gradient there, and the bound is the evidence less the divergence.

    Which is 0 where Lambda is diagonal: there the bound on log p(X) is tight.
    """
    vae, x, precision, mean, evidence = regression(DESIGNS[design], n)
    objective = ParameterPosterior(vae, n, seed=1)
    with torch.no_grad():
        objective.means[0].copy_(mean)
        objective.logvar[0].copy_(-precision.diagonal().log())
    parameters, draws, values, gradients = [*objective.means, *objective.logvar], 600, [], []
    for _ in range(draws):
        total = objective(x).ascended.sum()
        objective.count_step()
        values.append(total.detach())
        gradients.append(torch.cat(torch.autograd.grad(total, parameters)))
    values, gradients = torch.stack(values), torch.stack(gradients)
    gap = 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))
    assert gap > 0.1 if design == "correlated" else gap.abs() < 1e-12
    # Means of independent draws; beyond 5 standard errors at a rate of 6e-7 each.
    assert abs(values.mean() - (evidence - gap)) < 5 * values.std() / draws**0.5
    assert (gradients.mean(0).abs() < 5 * gradients.std(0) / draws**0.5).all()


@pytest.mark.parametrize("n", [3, 60])
def test_training_finds_it(n):
    vae, x, precision, mean, _ = regression(DESIGNS["correlated"], n)
    learner = FullVB(vae, n, batch_size=n, optimizer="adam", lr=0.1, total_steps=600)
    for _ in range(600):
        learner.step(x, torch.tensor([0, 0]))
    variance = 1 / precision.diagonal()
    assert ((vae.decoder.theta - mean).abs() < 0.3 * variance.sqrt()).all()
    assert (learner.objective.logvar[0] + precision.diagonal().log()).abs().max() < 0.15


def test_theta_is_another_one_at_each_step_and_the_same_for_the_whole_minibatch():
    objective = ParameterPosterior(model(), N)
    first, again, second = (objective.draw(torch.tensor(i))[0] for i in (0, 0, 1))
    for a, b, c, mu in zip(first, again, second, objective.means, strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c) and not torch.equal(a, mu)
    # Two data points that are the same, with the same noise of z, have the same bound.
    x = torch.rand(1, DIM, dtype=torch.float64).expand(4, -1)
    bound = objective(x, torch.tensor([[7, 1]] * 4)).terms.bound
    torch.testing.assert_close(bound, bound[:1].expand(4), rtol=1e-12, atol=0)


def test_a_run_on_digits_learns_and_goes_on_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("aevb_ext.train.callbacks.plots.save_all", lambda *_: None)
    data = datasets.load("digits")

    def train(out, samples, resume=False, seed=0):
        torch.manual_seed(seed)
        vae = mlp_vae(data.dim, latent=2, hidden=8, x_scale=data.x_scale, generator=torch.Generator().manual_seed(seed))
        options = {"learner": "full-vb", "batch_size": 50, "evaluate_every": 4_000, "seed": 3, "optimizer": "adam"}
        return fit(vae, data, out=tmp_path / out, samples_seen=samples, resume=resume, progress=False, **options)

    whole = train("whole", 8_000)
    train("parts", 5_000)
    parts = train("parts", 8_000, resume=True, seed=9)
    (ours, about), (others, _) = (read(checkpoints_of(tmp_path / name)[-1]) for name in ("whole", "parts"))
    assert {name for name in ours if name.startswith("objective.")} == {
        "objective.steps",
        *(f"objective.logvar.{i}" for i in range(4)),
    }
    assert ours.keys() == others.keys() and all(torch.equal(t, others[name]) for name, t in ours.items())
    assert ours["objective.steps"] == 160 == about["run"]["steps"]
    assert all((ours[f"objective.logvar.{i}"] != 2 * math.log(0.01)).any() for i in range(4))
    assert whole.test == parts.test
    first, *_, last = [record.test for record in whole.history]
    assert last > first + 5


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="beta means nothing to the learner 'full-vb'"):
        Settings(learner="full-vb", beta=0.5)
    with pytest.raises(ValueError, match="sample_block means nothing to the learner 'full-vb'"):
        Settings(learner="full-vb", sample_block=2)
    frozen = model()
    frozen.decoder.requires_grad_(False)
    with pytest.raises(ValueError, match="decoder has no parameters"):
        FullVB(frozen, N)
