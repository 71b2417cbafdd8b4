"""Monte Carlo EM: samples of the posterior, updates of the decoder, and the maximum likelihood in the end."""

import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal

from aevb_ext.data import Data
from aevb_ext.hmc import log_joint, transition
from aevb_ext.learners import MCEM
from aevb_ext.learners.mcem import Chains
from aevb_ext.models import VAE, GaussianDecoder, mlp_vae
from aevb_ext.noise import keys_at
from aevb_ext.train import Callback, NonFiniteBound, Processes, Settings, fit, make_step

DIM, LATENT = 5, 2


def linear_model(logvar=0.0, seed=0):
    """Probabilistic principal component analysis: p(x | z) = N(x; W z + b, s^2 I)."""
    torch.manual_seed(seed)
    decoder = GaussianDecoder(nn.Linear(LATENT, DIM), logvar=logvar, sigmoid=False)
    return VAE(nn.Linear(DIM, 2 * LATENT), decoder, LATENT).double()


def linear_data(n, seed=1):
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(LATENT, DIM, dtype=torch.float64, generator=generator) * 1.5
    z, eps = (torch.randn(n, k, dtype=torch.float64, generator=generator) for k in (LATENT, DIM))
    return z @ w + 0.6 * eps + torch.arange(DIM) / 2


def evidence(model, x):
    """Exact log p(x) of each data point, differentiable in the decoder's parameters."""
    layer, variance = model.decoder.net, model.decoder.logvar.exp()
    covariance = layer.weight @ layer.weight.T + variance * torch.eye(DIM, dtype=torch.float64)
    return MultivariateNormal(layer.bias, covariance).log_prob(x)


def maximum_likelihood(x):
    """The mean evidence at the maximum, from the spectrum of x's covariance (Tipping & Bishop 1999, eqs. 7 and 8)."""
    spectrum = torch.linalg.eigvalsh(x.T.cov(correction=0)).flip(0)
    variance = spectrum[LATENT:].mean()
    log_det = spectrum[:LATENT].log().sum() + (DIM - LATENT) * variance.log()
    return -0.5 * (DIM * math.log(2 * math.pi) + log_det + DIM).item()


def test_the_gradient_is_that_of_the_evidence():
    """Fisher's identity: the mean over the posterior of that of log p(x | z); 16 numbers to 4.5 standard errors."""
    n = 2_000
    x, model = linear_data(n), linear_model(logvar=-0.5)
    chains, index = Chains(model, n), torch.arange(n)
    for t in range(80):
        z = chains.move(x, keys_at(0, "posterior", index + n * t), index, 10)
    parameters = list(model.decoder.parameters())

    def gradient(value):
        return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)])

    # How a gradient varies over exact draws of the posterior.
    layer, variance = model.decoder.net, model.decoder.logvar.exp().detach()
    precision = torch.eye(LATENT, dtype=torch.float64) + layer.weight.T @ layer.weight / variance
    mean = torch.linalg.solve(precision, layer.weight.T @ (x - layer.bias).T / variance).T.detach()
    exact = MultivariateNormal(mean, precision_matrix=precision.detach())
    torch.manual_seed(0)
    draws = torch.stack([gradient(model.log_likelihood(x, exact.sample()).sum()) for _ in range(100)])
    found, expected = gradient(model.log_likelihood(x, z).sum()), gradient(evidence(model, x).sum())
    assert ((found - expected).abs() < 4.5 * draws.std(0)).all()
    # And the test would see draws that are not of the posterior.
    wrong = gradient(model.log_likelihood(x, exact.mean + 1.5 * (z - exact.mean)).sum())
    assert ((wrong - expected).abs() > 4.5 * draws.std(0)).any()


def test_it_comes_to_the_maximum_likelihood():
    """Within 0.01 nats of what no parameters exceed, the weights' prior included; M steps raise the exact evidence."""
    n = 1_000
    x, model = linear_data(n), linear_model()
    learner = MCEM(model, n, batch_size=n, optimizer="sgd", lr=1e-4)
    step, exact = make_step(learner, x), [evidence(model, x).mean().item()]
    for _ in range(15):
        for _ in range(5):
            step()
        exact.append(evidence(model, x).mean().item())
    assert all(after > before for before, after in pairwise(exact[:6]))
    assert 0 < maximum_likelihood(x) - exact[-1] < 0.01


def test_acceptance_is_brought_to_its_target():
    n, model = 500, linear_model(logvar=-3.0)
    x, index = linear_data(n), torch.arange(n)
    chains = Chains(model, n)
    for t in range(150):
        z = chains.move(x, keys_at(0, "posterior", index + n * t), index, 10)
    more = [
        transition(log_joint(model, x), z, chains.stepsize, 10, keys_at(1, "hmc", index + n * t)).accept_prob.mean()
        for t in range(5)
    ]
    assert torch.stack(more).mean().item() == pytest.approx(0.9, abs=0.03)


def test_a_step_is_five_updates_of_the_decoder_at_the_chains():
    n, m = 40, 12
    x = torch.rand(n, DIM, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    vae = mlp_vae(DIM, latent=LATENT, hidden=4, generator=torch.Generator().manual_seed(0)).double()
    start = [p.detach().clone() for p in vae.parameters()]
    learner = MCEM(vae, n, batch_size=m, optimizer="sgd", lr=0.01)
    before = learner.objective.chains.clone()
    index = torch.randperm(n, generator=torch.Generator().manual_seed(0))[:m]
    told = learner.step(x[index], keys_at(0, "posterior", index), index)
    # Only the chains of the minibatch have moved.
    moved = (learner.objective.chains != before).any(1)
    assert set(moved.nonzero().flatten().tolist()) <= set(index.tolist()) and moved.sum() > m // 2
    z = learner.objective.chains[index]
    w1, b1, w2, b2 = (p.clone().requires_grad_() for p in start[4:])
    values = []
    for _ in range(5):
        logits = (z @ w1.T + b1).tanh() @ w2.T + b2
        value = (x[index] * logits - nn.functional.softplus(logits)).sum()
        values.append(value.item())
        for p, g in zip((w1, b1, w2, b2), torch.autograd.grad(value, (w1, b1, w2, b2)), strict=True):
            p.data += 0.01 * (g - (m / n * p.data if p.dim() > 1 else 0))
    for ours, theirs in zip(vae.parameters(), [*start[:4], w1, b1, w2, b2], strict=True):
        torch.testing.assert_close(ours.detach(), theirs.detach(), rtol=1e-10, atol=1e-12)
    log_prior = -0.5 * (z.square() + math.log(2 * math.pi)).sum()
    assert told.item() == pytest.approx((values[0] + log_prior.item()) / m, rel=1e-12)


def test_a_point_that_is_twice_in_a_minibatch_goes_on_from_one_place():
    model, index = linear_model(), torch.tensor([3, 1, 3, 0])
    chains, x = Chains(model, 5), linear_data(5)[index]
    before = chains.chains.clone()
    z = chains.move(x, keys_at(0, "posterior", index + 5 * torch.arange(4)), index, 10)
    assert not torch.equal(z[0], z[2])
    torch.testing.assert_close(chains.chains, torch.stack([z[3], z[1], before[2], z[2], before[4]]), rtol=0, atol=0)


def test_chains_begin_at_the_prior_and_their_seed_decides():
    n = 20_000
    one, other = (Chains(linear_model(), n, seed).chains for seed in (0, 1))
    assert torch.equal(one, Chains(linear_model(), n, 0).chains) and (one != other).all()
    # Means and variances over 20000 to 4.5 standard errors.
    assert one.mean(0).abs().max() < 4.5 / math.sqrt(n)
    assert (one.var(0) - 1).abs().max() < 4.5 * math.sqrt(2 / n)


def test_samples_are_counted_as_the_paper_counts_them():
    settings = Settings(learner="mcem", score="marginal", batch_size=1000, samples_seen=100_000)
    assert settings.samples_per_step == 15_000 and settings.steps == 7
    other = Settings(learner="mcem", score="marginal", batch_size=1000, hmc_steps=20, weight_updates=1)
    assert other.samples_per_step == 21_000
    assert Settings(batch_size=1000).samples_per_step == 1_000


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, 'score "bound" needs an encoder, and the learner \'mcem\' trains none: set score to "marginal"'),
        ({"n_samples": 2}, "n_samples means nothing to the learner 'mcem'"),
        ({"hmc_steps": 0}, "hmc_steps must be an integer, at least 1, got 0"),
        (
            {"learner": "aevb", "weight_updates": 2},
            "weight_updates means nothing to .* 'aevb': it is for 'mcem'",
        ),
    ],
    ids=str,
)
def test_settings_that_do_not_go_together_are_refused(options, told):
    score = {} if not options else {"score": "marginal"}
    with pytest.raises(ValueError, match=told):
        Settings(**{"learner": "mcem"} | score | options)


def test_what_it_cannot_do_is_refused():
    model = linear_model()
    with pytest.raises(ValueError, match="batch_size must be at most 50, one chain for each data point, got 51"):
        MCEM(model, 50, batch_size=51)
    with pytest.raises(ValueError, match='"mcem" supports one process, got 2'):
        MCEM(model, 50, batch_size=10, processes=Processes(0, 2))
    with pytest.raises(ValueError, match="index is needed"):
        MCEM(model, 50, batch_size=10).step(linear_data(10))
    with pytest.raises(ValueError, match="weight_updates must be at least 1, got 0"):
        MCEM(model, 50, weight_updates=0, batch_size=10)


@pytest.fixture
def quick_marginal(monkeypatch):
    """In the place of the estimator of evaluations, which has tests of its own."""

    def values_at_zero(model, x, *, first, count, n_samples, leapfrog_steps, progress):
        assert (n_samples, leapfrog_steps) == (50, 4)
        for done in (count // 2, count):
            progress(done)
        with torch.no_grad():
            zero = torch.zeros(count, LATENT)
            return SimpleNamespace(values=model.log_likelihood(x[first : first + count], zero).double())

    monkeypatch.setattr("aevb_ext.estimators.marginal_likelihood", values_at_zero, raising=False)


def small_run(n_test=40, **options):
    x = torch.rand(100 + n_test, DIM, generator=torch.Generator().manual_seed(0))
    vae = mlp_vae(DIM, latent=LATENT, hidden=4, generator=torch.Generator().manual_seed(0))
    usual = {"learner": "mcem", "score": "marginal", "batch_size": 20, "log_every": 1, "evaluate_every": 3_000}
    data = Data("small", x[n_test:], x[:n_test], image_shape=(1, DIM))
    return vae, data, usual | {"samples_seen": 15_000} | options


def test_a_run_is_evaluated_and_told_of_in_the_paper_s_samples(quick_marginal, tmp_path, capsys):
    vae, data, options = small_run(n_test=1_020)
    told = []

    class Evaluating(Callback):
        def on_evaluating(self, run, split, done, count):
            told.append((split, done, count))

    result = fit(vae, data, out=tmp_path / "run", callbacks=[Evaluating()], **options)
    expected = [("train", 50, 100), ("train", 100, 100), ("test", 500, 1_000), ("test", 1_000, 1_000)]
    assert told == 5 * expected
    assert [record.samples_seen for record in result.history] == [3_000, 6_000, 9_000, 12_000, 15_000]
    assert [record.steps for record in result.history] == [10, 20, 30, 40, 50]
    # The first thousand of each split, where there are as many.
    assert (result.train.count, result.test.count) == (100, 1_000)
    with torch.no_grad():
        expected = vae.log_likelihood(data.test[:1000], torch.zeros(1000, LATENT)).double()
    assert result.test.mean == pytest.approx(expected.mean().item(), rel=1e-12)
    lines = capsys.readouterr().err.splitlines()
    assert "3,000 of 15,000 samples" in lines[0] and "15,000 of 15,000 samples" in lines[-1]
    # Its encoder has learnt nothing that reconstructions could show.
    pictures = {path.name for path in (tmp_path / "run").glob("*.png")}
    assert pictures == {"curve.png", "samples.png", "manifold.png"}


def test_a_run_that_diverges_stops_and_keeps_its_curve(quick_marginal):
    vae, data, options = small_run(optimizer="sgd", lr=1e-3)

    class Diverge(Callback):
        def on_log(self, run, log):
            if run.steps == 27:
                run.learner.lr = 1e36

    with pytest.raises(NonFiniteBound, match=r"at step (27|28|29): .*smaller learning rate \(lr is 1e\+36\)") as caught:
        fit(vae, data, callbacks=[Diverge()], progress=False, **options)
    assert [record.samples_seen for record in caught.value.history] == [3_000, 6_000]
