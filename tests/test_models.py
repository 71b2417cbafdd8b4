"""The paper's networks, and the likelihoods of the decoders against torch.distributions."""

import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal

from aevb_ext.models import make_model, mlp_vae


def model(likelihood="bernoulli", seed=0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return mlp_vae(12, latent=3, hidden=7, likelihood=likelihood, generator=generator, **kwargs)


def test_parameters_are_the_papers():
    vae = mlp_vae(784, latent=20, hidden=500, generator=torch.Generator().manual_seed(0))
    assert [tuple(p.shape) for p in vae.parameters()] == [
        (500, 784),
        (500,),
        (40, 500),
        (40,),
        (500, 20),
        (500,),
        (784, 500),
        (784,),
    ]
    for parameter in vae.parameters():
        # N(0, 0.01^2): the mean and the variance of n draws have standard errors s / sqrt(n) and s^2 sqrt(2 / n).
        # 5 of them: an error rate below 1e-6 for each.
        n, values = parameter.numel(), parameter.detach().double()
        assert abs(values.mean()) < 5 * 0.01 / n**0.5
        assert abs(values.square().mean() - 1e-4) < 5 * 1e-4 * (2 / n) ** 0.5


def test_initial_parameters_follow_the_generator():
    first, again, other = model(seed=1), model(seed=1), model(seed=2)
    for a, b, c in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) and not torch.equal(a, c)


def test_posterior_is_halves_of_one_tensor():
    mu, logvar = model().posterior(torch.rand(5, 12))
    assert mu.shape == logvar.shape == (5, 3)
    assert mu.untyped_storage().data_ptr() == logvar.untyped_storage().data_ptr()


@pytest.mark.parametrize("n_samples", [(), (1,), (4,)])
def test_bernoulli_likelihood(n_samples):
    vae = model().double()
    x, z = torch.randint(2, (5, 12), dtype=torch.uint8), torch.randn(*n_samples, 5, 3, dtype=torch.float64)
    expected = Independent(Bernoulli(logits=vae.decoder.net(z)), 1).log_prob(x.double())
    torch.testing.assert_close(vae.log_likelihood(x, z), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("n_samples", [(), (1,), (4,)])
def test_gaussian_likelihood_of_scaled_bytes(n_samples):
    vae = model("gaussian", x_scale=1 / 256).double()
    x = torch.randint(256, (5, 12), dtype=torch.uint8)
    z = torch.randn(*n_samples, 5, 3, dtype=torch.float64)
    mean, logvar = vae.decoder.net(z).chunk(2, -1)
    expected = Independent(Normal(mean.sigmoid(), (0.5 * logvar).exp()), 1).log_prob(x.double() / 256)
    torch.testing.assert_close(vae.log_likelihood(x, z), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_bytes_and_their_scaled_values_are_the_same_data(likelihood):
    x = torch.randint(256, (5, 12), dtype=torch.uint8)
    of_bytes, of_floats = model(likelihood, x_scale=1 / 255), model(likelihood)
    torch.testing.assert_close(of_bytes.posterior(x), of_floats.posterior(x / 255))
    z = torch.randn(5, 3)
    torch.testing.assert_close(of_bytes.log_likelihood(x, z), of_floats.log_likelihood(x / 255, z))
    torch.testing.assert_close(of_bytes.reconstruct(x), of_floats.reconstruct(x / 255))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16], ids=str)
def test_floats_of_another_dtype_are_the_same_data(dtype):
    vae, x, z = model("gaussian"), torch.rand(5, 12).to(dtype), torch.randn(5, 3)
    for ours, of_float in zip(vae.posterior(x), vae.posterior(x.float()), strict=True):
        assert torch.equal(ours, of_float)
    torch.testing.assert_close(vae.log_likelihood(x, z), vae.log_likelihood(x.float(), z))


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_means_are_probabilities_or_grey_values(likelihood):
    mean = model(likelihood).decoder.mean(100 * torch.randn(50, 3))
    assert mean.shape == (50, 12) and (mean >= 0).all() and (mean <= 1).all()


def test_logvar_scale_is_of_the_weights_of_log_variances_alone():
    vae = model("gaussian", logvar_scale=0.1).double()
    x, z = torch.rand(5, 12, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    first, _, last = vae.encoder
    h = (x @ first.weight.T + first.bias).tanh()
    mu, logvar = vae.posterior(x)
    torch.testing.assert_close(mu, h @ last.weight[:3].T + last.bias[:3], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(logvar, 0.1 * h @ last.weight[3:].T + last.bias[3:], rtol=1e-12, atol=1e-14)
    first, _, last = vae.decoder.net
    h = (z @ first.weight.T + first.bias).tanh()
    mean = (h @ last.weight[:12].T + last.bias[:12]).sigmoid()
    logvar = 0.1 * h @ last.weight[12:].T + last.bias[12:]
    expected = Independent(Normal(mean, (0.5 * logvar).exp()), 1).log_prob(x)
    torch.testing.assert_close(vae.log_likelihood(x, z), expected, rtol=1e-12, atol=0)
    # The logits of a Bernoulli are no log-variances.
    torch.testing.assert_close(model(logvar_scale=0.1).reconstruct(x.float()), model().reconstruct(x.float()))


def test_adagrad_moves_scaled_weights_so_much_less():
    x, far = torch.rand(5, 12), {}
    for scale in (1.0, 0.1):
        vae = model(logvar_scale=scale)
        last = vae.encoder[-1]
        optimizer = torch.optim.Adagrad(vae.parameters(), lr=0.02)
        before = scale * last.weight[3:].detach().clone()
        vae.posterior(x)[1].sum().backward()
        optimizer.step()
        # Adagrad's first step is the learning rate in the direction of each gradient's sign.
        far[scale] = scale * last.weight[3:].detach() - before
    torch.testing.assert_close(far[0.1], 0.1 * far[1.0])


def test_logvar_scale_is_kept_with_the_model():
    vae = model("gaussian", logvar_scale=0.1)
    again = make_model(**vae.config)
    again.load_state_dict(vae.state_dict())
    x = torch.rand(5, 12)
    torch.testing.assert_close(again.posterior(x), vae.posterior(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    "bad",
    [{"x_dim": 0}, {"latent": 0}, {"hidden": -1}, {"likelihood": "gamma"}, {"logvar_scale": 0.0}],
    ids=lambda bad: next(iter(bad)),
)
def test_bad_arguments_are_named(bad):
    arguments = {"x_dim": 12, "latent": 3, "hidden": 7} | bad
    with pytest.raises(ValueError, match=next(iter(bad))):
        mlp_vae(arguments.pop("x_dim"), **arguments)


@pytest.mark.parametrize(
    ("x", "helps"),
    [
        (torch.tensor([[0.0, 1.5]]), "x_scale should map the largest value to 1"),
        # No scale helps against numbers below 0, a shift does.
        (torch.tensor([[-0.1, 1.0]]), "no x_scale moves negative values there: rescale the data, to (x + 1) / 2"),
        (torch.tensor([[1.0 + 2e-6]]), "clip the values just outside, clamp(0, 1)"),
        (torch.tensor([[-1e-30, 1.02]]), "clip the values just outside, clamp(0, 1)"),
    ],
    ids=["above", "below", "just above", "just below"],
)
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_support_of_probabilities_and_of_squashed_means(likelihood, x, helps):
    decoder = model(likelihood).decoder
    low, high = (f"{bound.item():.6g}" for bound in x.aminmax())
    with pytest.raises(ValueError, match=r"data\.test \* x_scale lies in .*outside .*\[0, 1\]") as error:
        decoder.check_support(x, 1.0, "data.test")
    assert f"[{low}, {high}]" in str(error.value) and 'mean_activation="identity"' in str(error.value)
    assert f"(x_scale is 1): {helps}" in str(error.value)
    decoder.check_support((x - x.min()) / (x.max() - x.min() + 1), 1.0, "data.test")


def test_bernoulli_support_of_bytes():
    x = torch.tensor([[0, 255]], dtype=torch.uint8)
    model().decoder.check_support(x, 1 / 255, "x")
    model().decoder.check_support(x[:0], 1 / 255, "x")
    with pytest.raises(ValueError, match="x_scale"):
        model().decoder.check_support(x, 1.0, "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "options", [{}, {"likelihood": "gaussian"}, {"likelihood": "gaussian", "mean_activation": "identity"}], ids=str
)
def test_what_is_not_finite_has_no_likelihood(options, value):
    with pytest.raises(ValueError, match=r"data\.train has values that are not finite"):
        model(**options).decoder.check_support(torch.tensor([[0.5, value]]), 1.0, "data.train")


def test_a_mean_that_is_not_squashed_takes_any_numbers():
    decoder = model("gaussian", mean_activation="identity").decoder
    decoder.check_support(torch.tensor([[-3.0, 1e30]]), 1.0, "data.train")
    decoder.check_support(torch.tensor([[0, 255]], dtype=torch.uint8), 1.0, "data.train")


@pytest.mark.parametrize("n_samples", [(), (4,)])
def test_gaussian_likelihood_of_a_mean_as_it_is(n_samples):
    vae = model("gaussian", mean_activation="identity").double()
    x, z = 9 * torch.randn(5, 12, dtype=torch.float64), torch.randn(*n_samples, 5, 3, dtype=torch.float64)
    mean, logvar = vae.decoder.net(z).chunk(2, -1)
    expected = Independent(Normal(mean, (0.5 * logvar).exp()), 1).log_prob(x)
    torch.testing.assert_close(vae.log_likelihood(x, z), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(vae.decoder.mean(z), mean, rtol=0, atol=0)
    # The networks are the same ones.
    for a, b in zip(vae.parameters(), model("gaussian").double().parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("x_scale", [0, -1.0, float("nan"), float("inf"), "1", None, True], ids=repr)
def test_a_scale_is_a_positive_number(x_scale):
    with pytest.raises(ValueError, match="x_scale must be a positive number, got "):
        model(x_scale=x_scale)
