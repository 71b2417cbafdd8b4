"""Factor analysis and coordinate ascent against closed-form results."""

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from aevb_ext.cli.main import main
from aevb_ext.estimators import bound_a, bound_b
from aevb_ext.factor_analysis import Comparison, compare, simulated
from aevb_ext.learners.cavi import MeanField, cavi, variational_em
from aevb_ext.models.factor_analysis import FactorAnalysis, factor_analysis_vae

DIM, LATENT, N = 6, 3, 40


def example(seed=0, n=N):
    """A model whose posterior is correlated, in float64, and data of it."""
    generator = torch.Generator().manual_seed(seed)
    model = FactorAnalysis(DIM, LATENT, generator=generator).double().requires_grad_(False)
    model.net.bias.normal_(generator=generator)
    model.logvar.normal_(-1, 0.5, generator=generator)
    z = torch.randn(n, LATENT, dtype=torch.float64, generator=generator)
    noise = torch.randn(n, DIM, dtype=torch.float64, generator=generator)
    return model, model.net(z) + model.logvar.mul(0.5).exp() * noise


def joint(model):
    """Mean and covariance of (z, x), written without anything of the model's own."""
    w, psi = model.net.weight, model.logvar.exp().diag()
    eye = torch.eye(LATENT, dtype=torch.float64)
    covariance = torch.cat([torch.cat([eye, w.T], 1), torch.cat([w, w @ w.T + psi], 1)])
    return torch.cat([torch.zeros(LATENT, dtype=torch.float64), model.net.bias]), covariance


def conditioned(model, x):
    """Mean [N, latent] and covariance of p(z | x), from the joint covariance."""
    mean, covariance = joint(model)
    gain = torch.linalg.solve(covariance[LATENT:, LATENT:], covariance[LATENT:, :LATENT]).T
    return (x - mean[LATENT:]) @ gain.T, covariance[:LATENT, :LATENT] - gain @ covariance[LATENT:, :LATENT]


def test_the_evidence_and_the_posterior_are_those_of_the_joint_gaussian():
    model, x = example()
    mean, covariance = joint(model)
    evidence = MultivariateNormal(mean[LATENT:], covariance[LATENT:, LATENT:]).log_prob(x)
    torch.testing.assert_close(model.marginal().log_prob(x), evidence, rtol=1e-12, atol=1e-12)
    mean, covariance = conditioned(model, x)
    posterior = model.posterior(x)
    torch.testing.assert_close(posterior.mean, mean, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(posterior.covariance_matrix, covariance.expand(N, -1, -1), rtol=1e-11, atol=1e-12)
    # Bayes: log p(x) = log p(x, z) - log p(z | x), whatever z.
    z = torch.randn(N, LATENT, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    log_prior = Normal(0.0, 1.0).log_prob(z).sum(1)
    by_bayes = model.log_prob(x, z) + log_prior - posterior.log_prob(z)
    torch.testing.assert_close(by_bayes, evidence, rtol=1e-11, atol=1e-11)


def test_the_bound_is_the_evidence_less_the_divergence():
    model, x = example()
    generator = torch.Generator().manual_seed(2)
    mu, logvar = torch.randn(2, N, LATENT, dtype=torch.float64, generator=generator)
    q = MultivariateNormal(mu, torch.diag_embed(logvar.exp()))
    expected = model.marginal().log_prob(x) - kl_divergence(q, model.posterior(x))
    torch.testing.assert_close(model.bound(x, mu, logvar), expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("estimator", [bound_a, bound_b])
def test_the_estimators_are_the_bound_on_average(estimator):
    model, x = example(n=1)
    vae = factor_analysis_vae(DIM, latent=LATENT, generator=torch.Generator().manual_seed(3)).double()
    vae.decoder = model
    with torch.no_grad():
        vae.encoder.logvar.copy_(torch.tensor([-0.5, 0.3, -2.0]))
        samples = estimator(vae, x.expand(20_000, -1), generator=torch.Generator().manual_seed(4))
        exact = model.bound(x, *vae.posterior(x))
    # A normal beyond 5 standard errors: at a rate of 6e-7.
    assert abs(samples.mean() - exact) < 5 * samples.std() / 20_000**0.5


def test_no_coordinate_update_lowers_a_bound():
    model, x = example()
    q = MeanField(model, x)
    before = q.bound()
    gains = []
    for _ in range(4):
        for j in range(LATENT):
            q.update(j)
            gains.append(q.bound() - before)
            before = q.bound()
    gains = torch.stack(gains)
    assert gains.min() > -1e-12 and gains[:LATENT].mean(1).min() > 0.01
    # It is the best of its factor: neither its mean nor its variance can be moved to gain.
    for move in (1e-3, -1e-3):
        q.mean[:, -1] += move
        assert (q.bound() < before).all()
        q.mean[:, -1] -= move
        q.variance[-1] *= 1 + move
        assert (q.bound() < before).all()
        q.variance[-1] /= 1 + move


def test_the_fixed_point_is_the_closed_form():
    model, x = example()
    found = cavi(model, x)
    mean, covariance = conditioned(model, x)
    torch.testing.assert_close(found.mean, mean, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(found.variance, 1 / covariance.inverse().diagonal(), rtol=1e-10, atol=0)
    # Too narrow where z are correlated: 1 / Lambda_jj is no more than the posterior's own variance.
    assert (found.variance < 0.99 * covariance.diagonal()).any()
    q = MultivariateNormal(found.mean, found.variance.diag())
    divergence = kl_divergence(q, MultivariateNormal(mean, covariance))
    assert model.gap() > 0.05
    torch.testing.assert_close(divergence, model.gap().expand(N), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(model.marginal().log_prob(x) - found.bound, divergence, rtol=1e-8, atol=1e-10)
    assert found.bounds.diff().min() > -1e-12 and found.bounds[-1] == found.bound.mean()


def test_a_posterior_that_is_diagonal_is_found_whole_in_one_sweep():
    model, x = example()
    evidence = model.marginal().log_prob(x)
    model.align_()
    # Turning z changes no p(x).
    torch.testing.assert_close(model.marginal().log_prob(x), evidence, rtol=1e-11, atol=1e-11)
    precision = model.precision()
    assert (precision - precision.diagonal().diag()).abs().max() < 1e-12 and model.gap() < 1e-13
    assert (precision.diagonal().diff() < 0).all()
    q = MeanField(model, x)
    q.sweep()
    torch.testing.assert_close(q.bound(), evidence, rtol=1e-11, atol=1e-11)


def test_an_encoder_can_be_the_best_diagonal_posterior():
    """A linear one: what AEVB trains has CAVI's bound within its reach, at every x."""
    model, x = example()
    vae = factor_analysis_vae(DIM, latent=LATENT).double()
    vae.decoder = model
    weighed = model.net.weight / model.logvar.exp()[:, None]
    with torch.no_grad():
        vae.encoder.mean.weight.copy_(torch.linalg.solve(model.precision(), weighed.T))
        vae.encoder.mean.bias.copy_(-vae.encoder.mean.weight @ model.net.bias)
        vae.encoder.logvar.copy_(-model.precision().diagonal().log())
        bound = model.bound(x, *vae.posterior(x))
    torch.testing.assert_close(bound, cavi(model, x).bound, rtol=1e-9, atol=1e-9)


def test_variational_em_climbs_and_ends_with_a_diagonal_posterior():
    truth, x = example(seed=1, n=200)
    model = FactorAnalysis(DIM, LATENT, generator=torch.Generator().manual_seed(5)).double().requires_grad_(False)
    model.start_(x)
    start = model.precision()
    bounds = variational_em(model, x, tolerance=1e-9)
    assert bounds.diff().min() > -1e-11
    # It ends within reach of a stationary point of the evidence, with no gap.
    assert start.triu(1).abs().max() > 0.5
    assert model.gap() < 1e-4
    evidence = model.marginal().log_prob(x).mean()
    assert 0 <= evidence - bounds[-1] < 1e-4
    # The most likely parameters are more likely than those the data was drawn from.
    assert evidence > truth.marginal().log_prob(x).mean()
    parameters = [p.requires_grad_() for p in model.parameters()]
    gradient = torch.autograd.grad(model.marginal().log_prob(x).mean(), parameters)
    assert max(g.abs().max() for g in gradient) < 2e-3


def test_the_m_step_leaves_no_gradient_of_the_bound():
    model, x = example()
    # q of its first iteration: one sweep from the prior, at the parameters before.
    q = MeanField(model, x)
    q.sweep()
    bounds = variational_em(model, x, max_iterations=1)
    parameters = [p.requires_grad_() for p in model.parameters()]
    bound = model.bound(x, q.mean, q.variance.log()).mean()
    torch.testing.assert_close(bound.detach(), bounds[-1], rtol=1e-12, atol=0)
    assert max(g.abs().max() for g in torch.autograd.grad(bound, parameters)) < 1e-12


@pytest.mark.slow
def test_aevb_reaches_coordinate_ascent():
    """Amortised, by sampling: within 0.05 nats per data point, whether the model is fixed or learnt."""
    rows = compare(simulated(400, 6, 2), 2, samples_seen=60_000, lr=0.03, seed=3, progress=False)
    _, learnt, diagonal, turned, turned_on, aevb = rows
    # The same p(x) however z is turned; then the gap is the one of the formula, and there is one to see.
    assert diagonal.evidence == pytest.approx(learnt.evidence, abs=1e-5)
    assert turned.evidence == pytest.approx(learnt.evidence, abs=1e-5)
    for row in rows:
        assert row.evidence - row.cavi == pytest.approx(row.gap, abs=1e-9)
    assert diagonal.gap < 1e-6 and turned.gap > 0.05
    for row in (diagonal, turned, turned_on, aevb):
        # From below: no diagonal q is better than CAVI's.
        assert -0.05 < row.aevb - row.cavi <= 1e-9
    # AEVB finds parameters as likely, and turns z itself until the posterior is diagonal.
    for row in (turned_on, aevb):
        assert row.evidence > learnt.evidence - 0.05 and row.gap < 0.01


def test_the_verb_prints_the_table(capsys, monkeypatch):
    rows = [Comparison("learnt", -11.5, -11.75, -11.76, 0.25, 0.5), Comparison("at the start", -12, -13, None, 1, 0.9)]
    monkeypatch.setattr("aevb_ext.cli.commands.experiments.compare", lambda *a, **k: rows)
    assert main(["factor-analysis"]) == 0
    out = capsys.readouterr().out
    assert "| learnt | -11.5000 | -11.7500 | -11.7600 | 0.2500 | 0.2500 | 0.500 |" in out
    assert "| at the start | -12.0000 | -13.0000 |  | 1.0000 | 1.0000 | 0.900 |" in out


def test_bad_input_is_named():
    model, x = example()
    with pytest.raises(ValueError, match=r"x must be \[N, 6\] with N at least 1, got \[40, 5\]"):
        cavi(model, x[:, :5])
    with pytest.raises(ValueError, match="latent must be an integer, at least 1, got 0"):
        factor_analysis_vae(DIM, latent=0)
    x[:, 2] = 1.5
    with pytest.raises(ValueError, match=r"x has 1 constant features \(2\)"):
        model.start_(x)
    with pytest.raises(RuntimeError, match="not converged after max_sweeps 2"):
        cavi(model, x, max_sweeps=2)
