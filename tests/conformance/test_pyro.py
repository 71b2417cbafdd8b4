"""Pyro with its analytic KLs on the fused operator: the VAE of its tutorial, and distributions made of Normals."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from patch_mistakes import check_mistakes
from pyro.infer import SVI, JitTraceMeanField_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import kl, kl_divergence

from aevb_ext.data import load
from aevb_ext.integrations import AlreadyPatched, torch_distributions
from aevb_ext.integrations.pyro import patch

OF_NORMALS, OF_INDEPENDENTS = "kl_divergence(Normal, Normal)", "kl_divergence(Independent, Independent)"

LATENT, HIDDEN, BATCH = 50, 400, 250


class Encoder(nn.Module):
    def __init__(self, pixels):
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(pixels, HIDDEN), nn.Softplus())
        self.loc, self.log_scale = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

    def forward(self, x):
        hidden = self.hidden(x)
        return self.loc(hidden), self.log_scale(hidden).exp()


class VAE(nn.Module):
    """Of the tutorial on variational autoencoders: pyro.ai/examples/vae.html."""

    def __init__(self, pixels):
        super().__init__()
        self.encoder = Encoder(pixels)
        self.decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.Softplus(), nn.Linear(HIDDEN, pixels), nn.Sigmoid())

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            loc, scale = x.new_zeros(len(x), LATENT), x.new_ones(len(x), LATENT)
            z = pyro.sample("latent", dist.Normal(loc, scale).to_event(1))
            # Grey pixels as probabilities of black ones, as in the tutorial, are outside of the support.
            pyro.sample("obs", dist.Bernoulli(self.decoder(z), validate_args=False).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            pyro.sample("latent", dist.Normal(*self.encoder(x)).to_event(1))


@pytest.fixture(scope="module")
def digits():
    data = load("digits")
    return data.train * data.x_scale, data.test * data.x_scale


def _train(digits, elbo, epochs=3):
    """The losses of the steps of SVI with Adam, and that of the test set at the end, in nats per data point."""
    train, test = digits
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    vae = VAE(train.shape[1])
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss=elbo)
    batches = train.split(BATCH)
    losses = [svi.step(batches[i]) / BATCH for _ in range(epochs) for i in torch.randperm(len(batches))]
    return losses, svi.evaluate_loss(test) / len(test)


ELBOS = {"eager": TraceMeanField_ELBO, "traced": lambda: JitTraceMeanField_ELBO(ignore_jit_warnings=True)}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
@pytest.mark.parametrize("elbo", ELBOS)
def test_the_tutorial_trains_to_the_same_bound(digits, elbo):
    original, original_bound = _train(digits, ELBOS[elbo]())
    with patch() as applied:
        ours, bound = _train(digits, ELBOS[elbo]())
    assert original[-1] < 0.6 * original[0]
    # Both round differently at each step, and Adam's steps carry it on.
    assert ours[0] == pytest.approx(original[0], rel=2e-7)
    assert ours == pytest.approx(original, rel=1e-6)
    assert bound == pytest.approx(original_bound, rel=1e-6)
    # Traced, it is the step in which Pyro looks for the parameters; the trace is the original's.
    # The log-likelihood of the data, and of z under guide and prior, which Pyro computes although it has their KL.
    steps = len(ours) + 1
    assert _reached(applied) == {OF_INDEPENDENTS: steps, "Independent.log_prob": 3 * steps}


def _reached(applied):
    return {label: count for label, count in applied.calls.items() if count}


def _normal(*batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return dist.Normal(torch.randn(batch, generator=generator), torch.rand(batch, generator=generator) + 0.5)


MASK = torch.tensor([True, False, True, True])
PAIRS = {
    "event": (_normal(4, 3).to_event(1), _normal(4, 3, seed=1).to_event(1)),
    "event of two dimensions": (_normal(2, 4, 3).to_event(2), _normal(2, 4, 3, seed=1).to_event(2)),
    "nested": (dist.Independent(_normal(4, 3).to_event(1), 1), _normal(4, 3, seed=1).to_event(2)),
    "prior broadcasts": (_normal(4, 3).to_event(1), _normal(3, seed=1).to_event(1)),
    "expanded": (_normal(4, 3).to_event(1), _normal(3, seed=1).to_event(1).expand([4])),
    "masked": (_normal(4, 3).to_event(1).mask(MASK), _normal(4, 3, seed=1).to_event(1).mask(True)),
    "masked inside": (_normal(3, 4).mask(MASK), _normal(3, 4, seed=1).mask(MASK)),
    "no event": (_normal(4), _normal(4, seed=1)),
    "torch's own": (torch.distributions.Normal(0.0, 1.0), torch.distributions.Normal(1.0, 1.0)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_kl_of_pyros_distributions(name):
    p, q = PAIRS[name]
    original = kl_divergence(p, q)
    with patch() as applied:
        ours = kl_divergence(p, q)
    torch.testing.assert_close(ours, original, rtol=2e-6, atol=2e-7)
    assert sum(applied.calls.values()) == 1


OTHERS = {
    "masked away": (_normal(4).mask(False), _normal(4, seed=1).mask(False)),
    "Delta": (dist.Delta(torch.zeros(4, 3)).to_event(1), _normal(4, 3).to_event(1)),
    "full covariance": (_normal(4, 3).to_event(1), dist.MultivariateNormal(torch.zeros(3), torch.eye(3))),
    "Laplace": (dist.Laplace(torch.zeros(4, 3), 1.0).to_event(1), dist.Laplace(torch.ones(4, 3), 1.0).to_event(1)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_kls_stay(name):
    p, q = OTHERS[name]
    original = _kl_or_refusal(p, q)
    with patch() as applied:
        assert _kl_or_refusal(p, q) == original
    assert applied.calls[OF_NORMALS] == applied.calls[OF_INDEPENDENTS] == 0


def _kl_or_refusal(p, q):
    try:
        value = kl_divergence(p, q)
    except NotImplementedError:
        return "refused"
    return value.tolist() if isinstance(value, torch.Tensor) else value


def test_a_prior_without_a_kl_is_sampled_as_ever():
    """TraceMeanField_ELBO falls back to sampling where there is no KL: the patch must not invent one."""

    def model():
        pyro.sample("z", dist.Laplace(torch.zeros(4, 3), 1.0).to_event(2))

    def guide():
        pyro.sample("z", dist.Normal(torch.ones(4, 3), 2.0).to_event(2))

    def loss():
        pyro.set_rng_seed(0)
        return TraceMeanField_ELBO().loss(model, guide)

    original = loss()
    with patch() as applied:
        assert loss() == pytest.approx(original, rel=1e-6)
    assert _reached(applied) == {"Independent.log_prob": 2}


def test_sites_without_an_event_and_with_a_scale(digits):
    """A regression with a hand-written guide: numbers, vectors, and a prior that broadcasts in a plate."""
    x = digits[0][:50, 300:310]

    def model():
        weights = pyro.sample("weights", dist.Normal(torch.zeros(5), 2.0).to_event(1))
        bias = pyro.sample("bias", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=2.0):
            noise = pyro.sample("noise", dist.Normal(0.0, 0.1))
            pyro.sample("y", dist.Normal(x[:, :5] @ weights + bias + noise, 1.0), obs=x[:, 6])

    def normal(name, *shape):
        return dist.Normal(pyro.param(name + "_loc", torch.ones(shape)), pyro.param(name + "_scale", torch.ones(shape)))

    def guide():
        pyro.sample("weights", normal("weights", 5).to_event(1))
        pyro.sample("bias", normal("bias"))
        with pyro.plate("data", len(x)), pyro.poutine.scale(scale=2.0):
            pyro.sample("noise", normal("noise", len(x)))

    def losses():
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), loss=TraceMeanField_ELBO())
        return [svi.step() for _ in range(5)]

    original = losses()
    with patch() as applied:
        assert losses() == pytest.approx(original, rel=1e-5)
    assert _reached(applied) == {OF_NORMALS: 10, OF_INDEPENDENTS: 5, "Normal.log_prob": 25, "Independent.log_prob": 10}


def _state():
    return list(kl._KL_REGISTRY.items()), dict(kl._KL_MEMOIZE)


def test_mistakes(monkeypatch):
    check_mistakes(patch, "pyro-ppl", _state, monkeypatch)


def test_the_patch_of_torch_is_the_same():
    """It covers Pyro, and the two together are refused."""
    pair = PAIRS["event"]
    with torch_distributions.patch() as applied:
        with pytest.raises(AlreadyPatched, match=r"undo that patch \(of torch\.distributions\) first"):
            patch()
        kl_divergence(*pair)
    assert applied.calls[OF_INDEPENDENTS] == 1
