"""Samples computed a block at a time: the same bounds and gradients as all at once, for any block."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

import aevb_ext
from aevb_ext.estimators import importance_weighted_bound
from aevb_ext.models import mlp_vae
from aevb_ext.nn import ELBO

KEY = torch.tensor([3, 4])
K, BATCH, LATENT, DIM = 7, 5, 4, 6

OPTIONS = {
    "plain": {},
    "free bits": {"free_bits": 0.5},
    "stl": {"gradient": "stl", "beta": 0.5},
    "iwae": {"importance_weighted": True},
    "iwae-stl": {"importance_weighted": True, "gradient": "stl"},
    "dreg": {"importance_weighted": True, "gradient": "dreg"},
}


class Decoder(nn.Module):
    def __init__(self, drops=False):
        super().__init__()
        self.net, self.drop = nn.Linear(LATENT, DIM, dtype=torch.float64), nn.Dropout(0.5 if drops else 0)

    def forward(self, x, z):
        logits = self.drop(self.net(z))
        return (x * logits - nn.functional.softplus(logits)).sum(-1)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def _inputs():
    mu, logvar = torch.randn(2, BATCH, LATENT, dtype=torch.float64)
    return torch.rand(BATCH, DIM, dtype=torch.float64), mu.requires_grad_(), logvar.requires_grad_()


def _terms_and_gradients(elbo, x, mu, logvar, decoder, leaves, key=KEY):
    terms = elbo(x, (mu, logvar), decoder, key=key)
    # Each term with weights of its own, so that no error in one is hidden by another.
    loss = sum((t * torch.linspace(1, 2, BATCH) * (i + 1)).sum() for i, t in enumerate(terms))
    return [*terms, *torch.autograd.grad(loss, leaves)]


@pytest.mark.parametrize("keys", [(), (BATCH,)], ids=["one key", "keys"])
@pytest.mark.parametrize("first,n", [(0, 4), (4, 5), (1, 3), (8, 1)])
@pytest.mark.parametrize("shape", [(7, 3), (4, 784), (3, 20_003)], ids=str)
def test_first_sample(shape, first, n, keys, device):
    """Forward and backward, bit for bit."""
    mu, log_std = torch.randn(2, *shape, device=device).unbind()
    key = torch.randint(1 << 40, (*(shape[:1] if keys else ()), 2)).to(device)
    every = aevb_ext.rsample(mu, log_std, n_samples=9, key=key, spread="log_std")
    leaf = log_std.clone().requires_grad_()
    options = {"n_samples": n, "first_sample": first, "key": key, "spread": "log_std"}
    some = aevb_ext.rsample(mu, leaf, **options)
    assert torch.equal(some, every[first : first + n])
    assert torch.equal(aevb_ext.rsample_kl(mu, log_std, **options)[0], some)
    assert torch.equal(aevb_ext.rsample(mu, log_std, **{**options, "n_samples": None}), every[first])
    gradient = torch.autograd.grad(some.sum(), leaf)[0]  # sum of sigma eps
    torch.testing.assert_close(gradient, (some - mu).sum(0).detach(), rtol=1e-4, atol=1e-4)


def test_bad_first_samples():
    mu = torch.zeros(2, 3)
    for first in (-1, 2**62):
        with pytest.raises(ValueError, match="first_sample"):
            aevb_ext.rsample(mu, mu, first_sample=first)


@pytest.mark.parametrize("block", [1, 2, 3, 6])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_as_all_at_once(options, block):
    x, mu, logvar = _inputs()
    decoder = Decoder()
    leaves = [mu, logvar, *decoder.parameters()]
    expected = _terms_and_gradients(ELBO(K, **options), x, mu, logvar, decoder, leaves)
    found = _terms_and_gradients(ELBO(K, block=block, **options), x, mu, logvar, decoder, leaves)
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(
            [*ELBO(K, block=block, **options)(x, (mu, logvar), decoder, key=KEY)], expected[:3], rtol=1e-11, atol=1e-12
        )


def _of_the_mean(mu, head):
    return mu, head(mu)


def _of_both(mu, head):
    return head(mu), mu + head(head(mu))


def _computed(mu, head):
    mean = head(mu).tanh()
    return mean, head(mean) * mean


@pytest.mark.parametrize("posterior", [_of_the_mean, _of_both, _computed])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_parameters_that_are_computed_of_one_another(options, posterior):
    """A spread from the mean, and weights that the decoder has too: no part of a gradient counts twice."""
    x, mu, _ = _inputs()
    decoder, head = Decoder(), nn.Linear(LATENT, LATENT, dtype=torch.float64)

    def tied(x, z):
        return decoder(x, head(z) + mu)

    def gradients(block):
        terms = ELBO(K, block=block, **options)(x, posterior(mu, head), tied, key=KEY)
        return torch.autograd.grad(terms.loss, [mu, *head.parameters(), *decoder.parameters()])

    torch.testing.assert_close(gradients(2), gradients(None), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["plain", "iwae"])
def test_gradcheck(name):
    x, mu, logvar = _inputs()
    decoder, elbo = Decoder(), ELBO(K, block=2, **OPTIONS[name])
    assert torch.autograd.gradcheck(
        lambda mu, logvar, *_: elbo(x, (mu, logvar), decoder, key=KEY).bound,
        (mu, logvar, *decoder.parameters()),
        nondet_tol=1e-12,  # a second backward adds the blocks up in another order
    )


def test_dropout_is_the_same_in_the_backward():
    """The loss is linear in the decoder's bias where logits are: a mask of ones and zeros shows in its gradient."""
    x, mu, logvar = _inputs()
    dropped = nn.Dropout(0.5)
    scale = torch.ones(DIM, dtype=torch.float64, requires_grad=True)

    def decoder(x, z):
        return (dropped(scale.expand(*z.shape[:-1], DIM))).sum(-1)

    terms = ELBO(K, block=2)(x, (mu, logvar), decoder, key=KEY)
    before = torch.get_rng_state()
    gradient = torch.autograd.grad(terms.reconstruction.sum(), scale)[0]
    torch.testing.assert_close(gradient.sum(), terms.reconstruction.sum().detach())
    assert torch.equal(torch.get_rng_state(), before)


def test_hooks_of_parameters_are_called_once():
    x, mu, logvar = _inputs()
    decoder = Decoder()
    expected = torch.autograd.grad(ELBO(K)(x, (mu, logvar), decoder, key=KEY).loss, decoder.net.bias)[0]
    decoder.net.bias.register_hook(lambda g: 10 * g)
    ELBO(K, block=2)(x, (mu, logvar), decoder, key=KEY).loss.backward()
    torch.testing.assert_close(decoder.net.bias.grad, 10 * expected)


def test_what_a_closure_holds_gets_its_gradient_and_what_it_hides_is_refused():
    x, mu, logvar = _inputs()
    leaf, decoder = torch.ones(DIM, dtype=torch.float64, requires_grad=True), Decoder()
    hidden = leaf.exp()

    def conditional(x, z):
        return decoder(x * hidden, z)

    def gradient(decoder, **options):
        return torch.autograd.grad(ELBO(K, **options)(x, (mu, logvar), decoder, key=KEY).loss, leaf, retain_graph=True)

    torch.testing.assert_close(gradient(conditional, block=2), gradient(conditional))
    box = {"hidden": hidden}
    with pytest.raises(NotImplementedError, match="outside"):
        gradient(lambda x, z: decoder(x * box["hidden"], z), block=2)


@pytest.mark.parametrize(("block", "rows"), [(3, [1, 3, 3, 1, 3]), (5, [2, 5, 2]), (7, [7])], ids=str)
def test_the_last_block_is_evaluated_once(block, rows):
    """And it is one of full size."""
    x, mu, logvar = _inputs()
    decoder, found = Decoder(), []
    decoder.net.register_forward_pre_hook(lambda _, inputs: found.append(len(inputs[0])))
    ELBO(K, importance_weighted=True, block=block)(x, (mu, logvar), decoder, key=KEY).loss.backward()
    assert found == rows


def test_infinite_weights():
    """As all at once: where a block has no weight at all, and where all have none."""
    x, mu, logvar = _inputs()

    def decoder(x, z):
        return z.sum(-1) * 400 - torch.where(z[..., 0] > 0, torch.inf, 0.0)

    elbos = [ELBO(K, importance_weighted=True, block=block) for block in (None, 1, 2)]
    with torch.no_grad():
        bounds = [elbo(x, (mu, logvar), decoder, key=KEY).bound for elbo in elbos]
    assert not bounds[0].isnan().any()
    for bound in bounds[1:]:
        torch.testing.assert_close(bound, bounds[0])


def test_two_backwards_and_a_change_between():
    x, mu, logvar = _inputs()
    decoder = Decoder()
    loss = ELBO(K, importance_weighted=True, block=3)(x, (mu, logvar), decoder, key=KEY).loss
    first = torch.autograd.grad(loss, [mu, *decoder.parameters()], retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, [mu, *decoder.parameters()], retain_graph=True), first)
    with torch.no_grad():
        decoder.net.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("options", [OPTIONS["plain"], OPTIONS["iwae"]], ids=["plain", "iwae"])
def test_a_compiled_decoder(options):
    """The same numbers, from graphs that serve all blocks, and the next step's."""
    torch._dynamo.reset()
    x, mu, logvar = _inputs()
    decoder, counter = Decoder(), CompileCounterWithBackend("aot_eager")
    compiled, leaves = torch.compile(decoder, backend=counter, fullgraph=True), [mu, logvar, *decoder.parameters()]
    expected = _terms_and_gradients(ELBO(K, **options), x, mu, logvar, decoder, leaves)
    compilations = []
    for _ in range(2):
        found = _terms_and_gradients(ELBO(K, block=2, **options), x, mu, logvar, compiled, leaves)
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
        compilations.append(counter.frame_count)
    # Without and with gradients, each for the short block and for the others.
    assert 2 <= compilations[0] == compilations[1] <= 4


@pytest.mark.parametrize("block", [None, 2])
def test_importance_weighted_bound(block):
    """The formula, all at once."""
    model, x = mlp_vae(DIM, latent=LATENT, hidden=8).double(), _inputs()[0]
    found = importance_weighted_bound(model, x, K, block=block, key=KEY)
    mu, logvar = model.posterior(x)
    q = torch.distributions.Normal(mu, (logvar / 2).exp())
    z = aevb_ext.rsample(mu, logvar, n_samples=K, key=KEY)
    prior = torch.distributions.Normal(torch.zeros_like(q.mean), 1)
    log_weights = model.log_likelihood(x, z) + (prior.log_prob(z) - q.log_prob(z)).sum(-1)
    expected = log_weights.exp().mean(0).log()
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    parameters = list(model.parameters())
    gradients = [torch.autograd.grad(t.sum(), parameters) for t in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)
