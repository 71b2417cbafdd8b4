"""Wake-Sleep: each phase's gradient goes where it should, dreams are drawn from the model, and it learns."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal

from aevb_ext import bernoulli_log_prob
from aevb_ext.data import Data
from aevb_ext.learners import WakeSleep
from aevb_ext.models import VAE, mlp_vae
from aevb_ext.noise import keys_at, rekeyed, standard_normal, words
from aevb_ext.train import Callback, NonFiniteBound, Settings, fit

N, M, DIM, LATENT = 50, 12, 6, 2


def model(likelihood="bernoulli", dtype=torch.float64, x_scale=1.0, dim=DIM):
    generator = torch.Generator().manual_seed(0)
    vae = mlp_vae(dim, latent=LATENT, hidden=5, likelihood=likelihood, x_scale=x_scale, generator=generator).to(dtype)
    with torch.no_grad():
        for p in vae.parameters():
            p.mul_(40)
    return vae


def plain(net, x):
    """The network of the paper, layer by layer."""
    first, _, last = net
    return (x @ first.weight.T + first.bias).tanh() @ last.weight.T + last.bias


@pytest.mark.parametrize("data", ["bytes", "floats"])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_each_phase_ascends_in_its_own_parameters(likelihood, data):
    """Against the formulas in plain PyTorch on the same noise."""
    x = torch.randint(0, 256, (M, DIM), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    x, x_scale = (x, 1 / 255) if data == "bytes" else (x / 255.0, 1.0)
    x = x if data == "bytes" else x.double()
    ours, theirs = model(likelihood, x_scale=x_scale), model(likelihood, x_scale=x_scale)
    key = keys_at(0, "posterior", torch.arange(M))
    learner = WakeSleep(ours, N, batch_size=M, optimizer="sgd", lr=0.01)
    start = [p.detach().clone() for p in ours.parameters()]
    told = learner.step(x, key)

    def q(x):
        mu, logvar = plain(theirs.encoder, x).chunk(2, 1)
        return Normal(mu, (0.5 * logvar).exp())

    def p(z):
        output = plain(theirs.decoder.net, z)
        if likelihood == "bernoulli":
            return Bernoulli(logits=output, validate_args=False)
        mean, logvar = output.chunk(2, 1)
        return Normal(mean.sigmoid(), (0.5 * logvar).exp())

    pixels = x.double() * x_scale
    posterior, eps = q(pixels), standard_normal(key, (LATENT,), torch.float64)
    z = (posterior.mean + posterior.stddev * eps).detach()
    wake = p(z).log_prob(pixels).sum()
    dreamt_z = standard_normal(rekeyed(key, "dream"), (LATENT,), torch.float64)
    dreams, noise = p(dreamt_z), rekeyed(key, "dream x")
    if likelihood == "bernoulli":
        dreamt_x = (words(noise, DIM) < dreams.probs * 2.0**32).double()
    else:
        dreamt_x = dreams.mean + dreams.stddev * standard_normal(noise, (DIM,), torch.float64)
    sleep = q(dreamt_x.detach()).log_prob(dreamt_z).sum()
    parts = {"encoder": sleep, "decoder": wake}
    expected = [
        g for part, value in parts.items() for g in torch.autograd.grad(value, list(getattr(theirs, part).parameters()))
    ]
    found = [p.grad for p in ours.parameters()]
    for ascended, gradient in zip(expected, found, strict=True):
        torch.testing.assert_close(-gradient, ascended, rtol=1e-10, atol=1e-12)
    # Both from the same parameters, with the prior's share of the weights.
    for p0, g, after in zip(start, expected, ours.parameters(), strict=True):
        prior = M / N * p0 if p0.dim() > 1 else 0
        torch.testing.assert_close(after.detach(), p0 + 0.01 * (g - prior), rtol=1e-10, atol=1e-12)
    kl = torch.distributions.kl_divergence(posterior, Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(told, ((wake - kl) / M).detach(), rtol=1e-12, atol=0)


def test_the_three_noises_of_a_data_point_are_independent():
    """Correlations over 20000 points are within 4.5 standard deviations of 0: of 9, one fails with probability 6e-5."""
    n = 20_000
    key = keys_at(3, "posterior", torch.arange(n))
    keys = [key, rekeyed(key, "dream"), rekeyed(key, "dream x")]
    eps = torch.cat([standard_normal(k, (1,), torch.float64) for k in keys], 1)
    off = eps.T.corrcoef() - torch.eye(3, dtype=torch.float64)
    assert off.abs().max() < 4.5 / math.sqrt(n)


def test_it_finds_latent_structure():
    """Twelve pixels that are all on or all off: log 2 nats a point; what is known without a latent is 8.3."""
    on = torch.rand(2_000, 1, generator=torch.Generator().manual_seed(0)) < 0.5
    x = on.expand(-1, 12).to(torch.uint8) * 255
    data, vae = Data("bars", x[200:], x[:200], x_scale=1 / 255), model(x_scale=1 / 255, dtype=torch.float32, dim=12)
    options = {"samples_seen": 30_000, "optimizer": "adam", "lr": 0.02, "evaluate_every": 30_000}
    bound = fit(vae, data, learner="wake-sleep", progress=False, **options).test.mean
    assert -2.5 < bound <= -math.log(2)


@pytest.mark.parametrize("option", ["beta", "beta_warmup", "free_bits", "n_samples", "sample_block", "estimator"])
def test_what_means_nothing_to_it_is_refused_by_name(option):
    value = {"estimator": "iwae", "beta": 0.5, "free_bits": 0.1}.get(option, 2)
    with pytest.raises(
        ValueError, match=rf"{option} means nothing to the learner 'wake-sleep': it is for 'aevb'.*{value}"
    ):
        Settings(learner="wake-sleep", **{option: value})
    Settings(learner="wake-sleep", **{option: getattr(Settings(), option)})
    with pytest.raises(TypeError, match=option):
        WakeSleep(model(), N, **{option: value})


def test_a_decoder_that_cannot_dream_is_refused():
    class Plain(nn.Linear):
        def log_prob(self, x, z, x_scale=1.0):
            return bernoulli_log_prob(x, self(z), x_scale=x_scale)

    vae = VAE(nn.Linear(DIM, 2 * LATENT), Plain(LATENT, DIM), LATENT)
    with pytest.raises(TypeError, match=r"must give a Bernoulli or DiagonalGaussian .*, got Tensor"):
        WakeSleep(vae, N, batch_size=M).step(torch.rand(M, DIM))


def test_an_unknown_learner_is_refused():
    with pytest.raises(ValueError, match=r"learner must be one of aevb, wake-sleep, .*got 'em'"):
        Settings(learner="em")


def test_a_run_that_diverges_stops_and_keeps_its_curve():
    x = torch.rand(300, DIM, generator=torch.Generator().manual_seed(0))
    data, told = Data("small", x[40:], x[:40]), r"at step [1-9]\d\d?: .*smaller learning rate \(lr is 1e\+36\)"
    options = {"optimizer": "sgd", "batch_size": 20, "evaluate_every": 100, "log_every": 1, "progress": False}

    class Diverge(Callback):
        def on_log(self, run, log):
            if run.steps == 27:
                run.learner.lr = 1e36

    with pytest.raises(NonFiniteBound, match=told) as caught:
        vae = model(dtype=torch.float32)
        fit(vae, data, learner="wake-sleep", lr=1e-3, callbacks=[Diverge()], **options)
    assert [record.samples_seen for record in caught.value.history] == [100, 200, 300, 400, 500]
