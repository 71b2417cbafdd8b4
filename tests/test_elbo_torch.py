"""The ELBO and its heads in PyTorch's machinery: compiled, exported, transformed, copied, distributed."""

import copy
import pickle

import pytest
import torch
from test_elbo import KEY, OPTIONS
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

import aevb_ext
from aevb_ext.nn import ELBO, BernoulliDecoder, GaussianDecoder, GaussianPosterior

# One of each way through the code.
WAYS = {name: OPTIONS[name] for name in ("plain", "free bits", "capacity", "stl, 4", "iwae, 4", "dreg, 4")}
every_way = pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)


class VAE(nn.Module):
    """A VAE of somebody's own."""

    def __init__(self, decoder=BernoulliDecoder, dtype=torch.float32, **options):
        super().__init__()
        torch.manual_seed(0)
        out = 12 if decoder is GaussianDecoder else 6
        self.posterior = GaussianPosterior(nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 8)))
        self.decoder = decoder(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, out)))
        self.elbo = ELBO(**options)
        self.to(dtype)

    def forward(self, x, key=None):
        return self.elbo(x, self.posterior(x), self.decoder, key=key)


def data(batch=5, dtype=torch.float32):
    return torch.rand(batch, 6, dtype=dtype, generator=torch.Generator().manual_seed(1))


def value_and_gradients(vae, x, *arguments, run=None):
    vae.zero_grad()
    torch.manual_seed(2)
    terms = (vae if run is None else run)(x, *arguments)
    terms.loss.backward()
    return terms, [p.grad for p in vae.parameters()]


class TestCompile:
    @pytest.fixture(autouse=True)
    def fresh(self):
        torch._dynamo.reset()

    def test_the_whole_loss_through_inductor_with_the_noise_of_eager_mode(self):
        vae, x = VAE(n_samples=2, free_bits=0.1), data()

        def loss_and_latents(x):
            posterior, key = vae.posterior(x), aevb_ext.noise_key(x.device)
            return vae.elbo(x, posterior, vae.decoder, key=key).loss, posterior.rsample((2,), key=key)

        results = []
        for function in (loss_and_latents, torch.compile(loss_and_latents, fullgraph=True)):
            torch.manual_seed(3)
            results.append(function(x))
        torch.testing.assert_close(results[0][0], results[1][0])
        torch.testing.assert_close(results[0][1], results[1][1])

    def test_noise_is_that_of_eager_mode_bit_for_bit(self):
        elbo, (mu, logvar) = ELBO(3, importance_weighted=True), torch.randn(2, 5, 4)

        def draw(mu, logvar):
            drawn = []
            elbo(mu, (mu, logvar), lambda x, z: drawn.append(z) or z.sum(-1))
            return drawn[0]

        torch.manual_seed(3)
        eager = draw(mu, logvar)
        torch.manual_seed(3)
        assert torch.equal(torch.compile(draw, fullgraph=True)(mu, logvar), eager)

    @pytest.mark.parametrize(
        "options",
        [{"warmup_steps": 5, "beta": 2.0, "capacity": 2.0, "capacity_steps": 7}, {"free_bits": 0.1, "n_samples": 2}],
        ids=str,
    )
    def test_neither_schedules_nor_batches_compile_anything_again(self, options):
        vae, counter = VAE(**options), CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(vae, fullgraph=True, dynamic=True, backend=counter)
        losses, compilations = [], set()
        for batch in (5, 7, 20):
            for _ in range(2):
                terms, gradients = value_and_gradients(vae, data(batch), run=compiled)
                torch.testing.assert_close((terms, gradients), value_and_gradients(vae, data(batch)))
                losses.append(terms.loss.item())
                compilations.add(counter.frame_count)
                vae.elbo.step()
                vae.elbo.beta.fill_(vae.elbo.beta + 1)
            vae.elbo.set_beta(0.5)
        assert len(compilations) == 1
        assert len(set(losses)) == len(losses)

    def test_a_step_of_training_in_one_graph(self):
        """The schedule advances inside."""
        vae, x = VAE(warmup_steps=4), data()

        def run(x):
            terms = vae(x)
            vae.elbo.step()
            return terms.loss

        compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
        for step in range(6):
            compiled(x).backward()
            assert vae.elbo.steps == step + 1
            assert vae.elbo.current_beta == min(1.0, (step + 1) / 4)


class TestFunctionalTransforms:
    @every_way
    def test_grad(self, options):
        vae, x = VAE(dtype=torch.float64, **options), data(dtype=torch.float64)
        parameters = {name: p.detach() for name, p in vae.named_parameters()}

        def loss(parameters):
            terms = functional_call(vae, parameters, (x, KEY))
            return terms.loss, terms

        gradients, terms = grad(loss, has_aux=True)(parameters)
        expected_terms, expected = value_and_gradients(vae, x, KEY)
        torch.testing.assert_close(tuple(terms), tuple(expected_terms))
        torch.testing.assert_close(list(gradients.values()), expected)

    @pytest.mark.filterwarnings("ignore:There is a performance drop")
    @every_way
    def test_gradients_of_each_data_point(self, options):
        vae, x = VAE(dtype=torch.float64, **options), data(dtype=torch.float64)
        parameters = {name: p.detach() for name, p in vae.named_parameters()}
        keys = torch.stack([KEY + i for i in range(len(x))])

        def loss(parameters, row, key):
            return functional_call(vae, parameters, (row.unsqueeze(0), key)).loss

        gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, keys)
        for i in range(len(x)):
            expected = value_and_gradients(vae, x[i : i + 1], keys[i])[1]
            torch.testing.assert_close([g[i] for g in gradients.values()], expected)

    @pytest.mark.filterwarnings("ignore:There is a performance drop")
    def test_vmap_draws_noise_for_each(self):
        mu = torch.zeros(1, 4)

        def bound(x):
            return ELBO()(x, (mu, mu), lambda x, z: z.sum(-1)).bound

        bounds = vmap(bound, randomness="different")(torch.zeros(6, 1, 4))
        assert bounds.shape == (6, 1) and len(bounds.unique()) == 6


@pytest.mark.parametrize("name", ["plain", "free bits", "capacity", "iwae, 4"])
def test_derivatives_of_derivatives(name):
    """Not of the gradient estimators, which are no gradients of the bound that one could compare to."""
    options = OPTIONS[name]
    vae, x = VAE(dtype=torch.float64, **options), data(2, torch.float64)
    params = torch.linspace(-1.0, 2.0, 16, dtype=torch.float64).reshape(2, 8).requires_grad_()

    def loss(params):
        return vae.elbo(x, params.chunk(2, 1), vae.decoder, key=KEY).loss

    assert torch.autograd.gradcheck(loss, params)
    assert torch.autograd.gradgradcheck(loss, params)


@every_way
def test_a_gradient_penalty(options):
    """create_graph=True reaches every parameter, and is the same twice."""
    vae, x = VAE(**options), data().requires_grad_()
    penalties = []
    for _ in range(2):
        (of_x,) = torch.autograd.grad(vae(x, KEY).loss, x, create_graph=True)
        penalties.append(torch.autograd.grad(of_x.square().sum(), list(vae.parameters()), allow_unused=True))
    assert all(g is None or g.isfinite().all() for g in penalties[0])
    torch.testing.assert_close(*penalties, rtol=0, atol=0)


@every_way
def test_two_backwards(options):
    vae, x = VAE(**options), data()
    loss = vae(x, KEY).loss
    first, second = (torch.autograd.grad(loss, list(vae.parameters()), retain_graph=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@every_way
def test_activation_checkpoints(options):
    """Of the decoder alone, and of everything, where the noise is drawn again."""
    vae, x = VAE(**options), data()
    expected = value_and_gradients(vae, x)

    def decoder(x, z):
        return checkpoint(vae.decoder.log_prob, x, z, use_reentrant=False)

    def of_the_decoder(x):
        return vae.elbo(x, vae.posterior(x), decoder)

    def of_everything(x):
        return checkpoint(vae, x, use_reentrant=False)

    for run in (of_the_decoder, of_everything):
        torch.testing.assert_close(value_and_gradients(vae, x, run=run), expected, rtol=0, atol=0)


@pytest.mark.parametrize("decoder", [BernoulliDecoder, GaussianDecoder])
@every_way
def test_autocast(options, decoder):
    vae, x = VAE(decoder, **options), data()
    terms, gradients = value_and_gradients(vae, x, KEY)
    with torch.autocast("cpu", torch.bfloat16):
        half_terms, half_gradients = value_and_gradients(vae, x, KEY)
    assert all(t.dtype == torch.float32 for t in half_terms)
    # Rounded to 8 bits on the way, the noise included.
    torch.testing.assert_close(half_terms, terms, rtol=0.03, atol=0.15)
    torch.testing.assert_close(half_gradients, gradients, rtol=0.1, atol=0.1)


def test_inference_mode():
    vae, x = VAE(n_samples=3), data()
    with torch.inference_mode():
        terms = vae(x, KEY)
    torch.testing.assert_close(terms, vae(x, KEY))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@every_way
def test_copies(options, copied):
    vae, x = VAE(**options), data()
    vae.elbo.step()
    other = copied(vae)
    assert other.elbo.steps == 1
    torch.testing.assert_close(other(x, KEY), vae(x, KEY), rtol=0, atol=0)
    vae.elbo.step()
    assert other.elbo.steps == 1


def test_state_dict():
    vae, other = VAE(beta=2.0, warmup_steps=10), VAE(beta=1.0, warmup_steps=10)
    vae.elbo.step()
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.1)
    other.load_state_dict(vae.state_dict())
    torch.testing.assert_close(other(data(), KEY), vae(data(), KEY), rtol=0, atol=0)


def test_meta():
    vae = VAE(n_samples=3).to("meta")
    terms = vae(data().to("meta"), KEY.to("meta"))
    assert [tuple(t.shape) for t in terms] == [(5,)] * 3 and terms.loss.shape == ()
