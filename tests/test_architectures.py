"""Models by name, and of modules of one's own: shapes, learning, rebuilding, bad input."""

import json
import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from aevb_ext.configuration.choices import COUNT_LIKELIHOODS
from aevb_ext.data import Data, load
from aevb_ext.estimators import bound_a, bound_b
from aevb_ext.models import ARCHITECTURES, LIKELIHOODS, MEAN_ACTIVATIONS, VAE, conv_vae, make_model
from aevb_ext.models.layers import he_normal_
from aevb_ext.nn import BernoulliDecoder, GaussianDecoder, GaussianPosterior
from aevb_ext.train import fit, load_checkpoint, save_checkpoint

SMALL = {"latent": 3, "hidden": 16}


def small(architecture, image_shape=(12, 10), **options):
    generator = torch.Generator().manual_seed(options.pop("seed", 0))
    return make_model(architecture, image_shape=image_shape, generator=generator, **SMALL | options)


def pixels(n, *shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (n, math.prod(shape)), dtype=torch.uint8, generator=generator)


def of_likelihood(name):
    """The options of a model of bytes with this likelihood: they are classes, counts, or shades of grey."""
    if name == "categorical":
        return {"classes": 256}
    return {"library_size": 1e4} if name in COUNT_LIKELIHOODS else {"x_scale": 1 / 255}


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("shape", [(28, 28), (28, 20), (32, 32), (25, 17), (3, 16, 9), (2, 2), (1, 8, 65)], ids=str)
def test_images_of_any_shape(shape, likelihood):
    vae = conv_vae(shape, **SMALL, channels=4, likelihood=likelihood, **of_likelihood(likelihood))
    x = pixels(5, *shape)
    mu, logvar = vae.posterior(x)
    assert mu.shape == logvar.shape == (5, 3)
    assert vae.reconstruct(x).shape == x.shape
    for estimator in (bound_a, bound_b):
        bound = estimator(vae, x, n_samples=2)
        assert bound.shape == (5,) and bound.isfinite().all()
    bound.sum().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in vae.parameters())


def test_hidden_layers_are_those_that_were_asked_for():
    vae = make_model("deep-mlp", x_dim=12, latent=3, hidden=5, depth=2, activation="tanh").double()
    with pytest.raises(ValueError, match="activation must be one of silu, tanh, got 'relu'"):
        make_model("deep-mlp", x_dim=12, latent=3, activation="relu")
    first, _, second, _, last = vae.encoder
    x = torch.rand(4, 12, dtype=torch.float64)
    h = torch.tanh(torch.tanh(x @ first.weight.T + first.bias) @ second.weight.T + second.bias)
    torch.testing.assert_close(torch.cat(vae.posterior(x), 1), h @ last.weight.T + last.bias)


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_minibatches_of_none_and_of_one(architecture, n):
    vae = small(architecture, x_scale=1 / 255)
    assert vae.posterior(pixels(n, 12, 10))[0].shape == (n, 3)
    assert vae.decoder.mean(torch.randn(2, n, 3)).shape == (2, n, 120)


def test_pixels_are_where_the_image_has_them():
    # A convolution with padding knows an image's corner from its middle, and shifted images, shifted features: the
    # first feature maps of an image that moves by the stride move by one.
    vae = conv_vae((2, 32, 24), latent=3, channels=4).double()
    first = vae.encoder[:3]
    image = torch.zeros(1, 2, 32, 24, dtype=torch.float64)
    image[0, 1, 10, 14] = 1
    maps, moved = (first(t.flatten(1)) for t in (image, image.roll((2, 4), (2, 3))))
    assert maps.shape == (1, 4, 16, 12)
    torch.testing.assert_close(moved, maps.roll((1, 2), (2, 3)), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("architecture", "options"), [("deep-mlp", {}), ("deep-mlp", {"activation": "tanh"}), ("conv", {})]
)
def test_deep_networks_keep_the_size_of_their_signal(architecture, options):
    # Of an input of unit variance, whatever the depth; N(0, 0.01^2) would leave 1e-4 of it or less. Each layer's factor
    # is one only in expectation, and SiLU is no rectifier: hence a wide interval.
    vae = make_model(
        architecture, image_shape=(28, 28), latent=20, hidden=256, generator=torch.Generator().manual_seed(0), **options
    )
    generator = torch.Generator().manual_seed(1)
    outputs = {
        "encoder": vae.encoder(torch.randn(50, 784, generator=generator)),
        "decoder": vae.decoder.net(torch.randn(50, 20, generator=generator)),
    }
    for name, output in outputs.items():
        assert 0.1 < output.std() < 3, name


@pytest.mark.parametrize(
    ("layer", "n"),
    [
        (nn.Linear(300, 400), 300),
        (nn.Conv2d(20, 300, 4, stride=2), 320),
        (nn.ConvTranspose2d(300, 20, 4, stride=2), 1200),
    ],
    ids=["linear", "conv", "transposed"],
)
def test_he_normal(layer, n):
    he_normal_(layer, torch.Generator().manual_seed(0))
    values, variance = layer.weight.detach().double(), 2 / n
    # The variance of k draws has the standard error s^2 sqrt(2 / k); 5 of them: an error rate below 1e-6.
    assert abs(values.square().mean() - variance) < 5 * variance * (2 / values.numel()) ** 0.5
    assert not layer.bias.any()
    # What it is for: the outputs in the middle have twice the variance of the inputs, which a rectifier halves.
    x = torch.randn(200, *((300,) if layer.weight.dim() == 2 else (layer.weight.shape[0 if n == 1200 else 1], 9, 9)))
    y = layer(x).detach()
    middle = y if y.dim() == 2 else y[:, :, 3:-3, 3:-3] if n == 1200 else y[:, :, 1:-1, 1:-1]
    assert abs(middle.var() - 2) < 0.2


@pytest.mark.parametrize("mean_activation", MEAN_ACTIVATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_is_rebuilt_from_its_config(architecture, mean_activation):
    vae = small(architecture, likelihood="gaussian", mean_activation=mean_activation, x_scale=1 / 255)
    # Configs of before there was an activation have none, and are of the sigmoid.
    assert vae.config.get("mean_activation", "sigmoid") == mean_activation
    assert vae.decoder.sigmoid == (mean_activation == "sigmoid")
    # As a file has it.
    again = make_model(**json.loads(json.dumps(vae.config)))
    assert again.config == vae.config and vae.config["architecture"] == architecture
    again.load_state_dict(vae.state_dict())
    x = pixels(4, 12, 10)
    assert torch.equal(vae.posterior(x)[0], again.posterior(x)[0])
    assert torch.equal(vae.reconstruct(x), again.reconstruct(x))


def test_a_config_without_a_name_is_the_papers_model():
    config = {"x_dim": 12, "latent": 3, "hidden": 7, "likelihood": "bernoulli", "x_scale": 1.0}
    assert make_model(**config).config == {"architecture": "mlp"} | config


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_data_of_any_range_has_a_mean_as_it_is(architecture):
    # N(-0.5, 0.05^2): the best of all is minus its entropy; a mean in (0, 1) has 0.5 or more to the data.
    n = 48 if architecture == "conv" else 6
    x = 0.05 * torch.randn(400, n, generator=torch.Generator().manual_seed(0)) - 0.5
    data = Data("below", x[100:], x[:100], image_shape=(8, 6) if architecture == "conv" else (2, 3))
    options = {"channels": 2} if architecture == "conv" else {}
    squashed, free = (
        small(architecture, data.image_shape, likelihood="gaussian", mean_activation=activation, **options)
        for activation in ("sigmoid", "identity")
    )
    settings = {"samples_seen": 6_000, "batch_size": 20, "optimizer": "adam", "lr": 0.02, "progress": False}
    with pytest.raises(
        ValueError, match=r"data.train \* x_scale lies in \[-0.*\], outside .*mean_activation=.identity"
    ):
        fit(squashed, data, **settings)
    result = fit(free, data, **settings)
    attainable = -n * (math.log(0.05) + 0.5 * math.log(2 * math.pi * math.e))
    assert 0.5 * attainable < result.test.mean < attainable + 5 * result.test.stderr


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_checkpoint_has_the_architecture(tmp_path, architecture):
    vae, path = small(architecture), tmp_path / "checkpoint.pt"
    save_checkpoint(path, vae, data="small", image_shape=(12, 10))
    loaded = load_checkpoint(path).model
    assert loaded.config == vae.config
    assert all(torch.equal(p, q) for p, q in zip(vae.parameters(), loaded.parameters(), strict=True))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_initial_parameters_follow_the_generator(architecture):
    first, again, other = (list(small(architecture, seed=seed).parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(first, again, strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(first, other, strict=True) if p.dim() > 1)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["deep-mlp", "conv"])
def test_the_digits_are_learnt(architecture):
    # Better than the best model without latent variables: the mean image of the training data, as a Bernoulli.
    data = load("digits")
    p = (data.train.double().mean(0) * data.x_scale).clamp(1e-3, 1 - 1e-3)
    x = data.test.double() * data.x_scale
    constant = Bernoulli(p, validate_args=False).log_prob(x).sum(1).mean()
    options = {"channels": 4} if architecture == "conv" else {"depth": 2}
    generator = torch.Generator().manual_seed(0)
    vae = make_model(
        architecture,
        image_shape=data.image_shape,
        latent=5,
        hidden=64,
        x_scale=data.x_scale,
        generator=generator,
        **options,
    )
    result = fit(vae, data, samples_seen=4_000, batch_size=20, optimizer="adam", lr=3e-3, progress=False)
    assert result.test.mean > constant + 5 * result.test.stderr


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_bound_compiles_in_one_graph(architecture):
    vae, x = small(architecture, (8, 6), x_scale=1 / 255), pixels(3, 8, 6)
    compiled = torch.compile(bound_b, fullgraph=True, backend="aot_eager")
    torch.manual_seed(0)
    eager = bound_b(vae, x)
    torch.manual_seed(0)
    torch.testing.assert_close(compiled(vae, x), eager)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_under_autocast_it_is_the_same_model(architecture, likelihood):
    vae, x = small(architecture, likelihood=likelihood, **of_likelihood(likelihood)), pixels(50, 12, 10)
    torch.manual_seed(0)
    exact = bound_b(vae, x).mean()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = bound_b(vae, x).mean()
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


class TwoHeads(nn.Module):
    """As PyTorch's example has it: two layers for mu and logvar."""

    def __init__(self):
        super().__init__()
        self.hidden, self.mu, self.logvar = nn.Linear(6, 8), nn.Linear(8, 2), nn.Linear(8, 2)

    def forward(self, x):
        h = self.hidden(x).relu()
        return self.mu(h), self.logvar(h)


def std_head(params):
    """A network whose second half is a standard deviation."""
    mu, s = params.chunk(2, 1)
    return torch.cat([mu, s.exp()], 1)


class Std(nn.Sequential):
    def forward(self, x):
        return std_head(super().forward(x))


OWN = {
    "packed": lambda: nn.Linear(6, 4),
    "two heads": TwoHeads,
    "GaussianPosterior": lambda: GaussianPosterior(nn.Linear(6, 4), clamp=(-5, 2)),
    "GaussianPosterior of std": lambda: GaussianPosterior(Std(nn.Linear(6, 4)), spread="std"),
}


@pytest.mark.parametrize("encoder", OWN.values(), ids=OWN)
def test_ones_own_encoder_and_decoder_are_all(encoder):
    torch.manual_seed(0)
    vae = VAE(encoder(), nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 6))).double()
    x = torch.rand(7, 6, dtype=torch.float64).round()
    mu, logvar = vae.posterior(x)
    q = vae.encoder(x)
    if isinstance(q, torch.Tensor):
        q = q.chunk(2, 1)
    if isinstance(q, tuple):
        torch.testing.assert_close((mu, logvar), tuple(q), rtol=0, atol=0)
    else:
        torch.testing.assert_close((mu, (0.5 * logvar).exp()), (q.mean, q.stddev))
    # A module without a likelihood gives logits of Bernoulli pixels.
    z = torch.randn(3, 7, 2, dtype=torch.float64)
    expected = Independent(Bernoulli(logits=vae.decoder.net(z)), 1).log_prob(x)
    torch.testing.assert_close(vae.log_likelihood(x, z), expected, rtol=1e-12, atol=0)
    # Its mean over many samples is the bound, from torch.distributions.
    prior, posterior = Normal(torch.zeros_like(mu), 1.0), Normal(mu, (0.5 * logvar).exp())
    kl = kl_divergence(posterior, prior).sum(1)
    values = bound_b(vae, x, 20_000)
    z = posterior.sample((20_000,))
    of_torch = Independent(Bernoulli(logits=vae.decoder.net(z)), 1).log_prob(x)
    # Two means of 20000 samples each; 5 standard errors of their difference: an error rate below 1e-6 each.
    error = 5 * of_torch.std(0) * (2 / 20_000) ** 0.5
    assert ((values - (of_torch.mean(0) - kl)).abs() < error).all()


def test_ones_own_modules_are_trained():
    x = torch.rand(400, 1, generator=torch.Generator().manual_seed(0)).round().expand(-1, 6).contiguous()
    torch.manual_seed(0)
    vae = VAE(TwoHeads(), nn.Linear(2, 6))
    result = fit(vae, Data("equal pixels", x[:300], x[300:]), samples_seen=50_000, lr=0.1, progress=False)
    # Without latent variables none is above -6 ln 2; the best of all is -ln 2.
    assert result.test.mean > -3 * math.log(2)
    assert vae.latent == 2


def test_ones_own_convolutions_with_feature_maps_as_latent():
    net = nn.Sequential(nn.Conv2d(3, 2, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1))
    encoder, decoder = nn.Conv2d(3, 8, 4, stride=4), nn.Sequential(nn.ConvTranspose2d(4, 3, 4, stride=4), net)
    vae = VAE(encoder, BernoulliDecoder(decoder, latent_dims=3), x_scale=1 / 255)
    x = torch.randint(256, (5, 3, 16, 8), dtype=torch.uint8)
    mu, _ = vae.posterior(x)
    assert mu.shape == (5, 4, 4, 2) and vae.latent == 32
    assert bound_b(vae, x, 2).shape == (5,)
    assert vae.reconstruct(x).shape == x.shape


def test_latent_is_known_once_data_was_seen():
    vae = VAE(nn.Linear(6, 4), nn.Linear(2, 6))
    with pytest.raises(RuntimeError, match="latent is not known yet"):
        _ = vae.latent
    vae.posterior(torch.rand(1, 6))
    assert vae.latent == 2
    assert VAE(nn.Linear(6, 4), nn.Linear(2, 6), 2).latent == 2


def test_a_compiled_posterior_tells_latent_too():
    vae = VAE(nn.Linear(6, 4), nn.Linear(2, 6))
    torch.compile(vae.posterior, fullgraph=True, backend="eager")(torch.rand(3, 6))
    assert vae.latent == 2


def test_a_likelihood_that_is_given_stays():
    for decoder in (GaussianDecoder(nn.Linear(2, 12)), BernoulliDecoder(nn.Linear(2, 6))):
        assert VAE(nn.Linear(6, 4), decoder).decoder is decoder


@pytest.mark.parametrize(
    ("encoder", "error", "message"),
    [
        (lambda x: x[:, :5], ValueError, "size 5 .* no halves"),
        (lambda x: {"mu": x}, TypeError, "encoder must give .* got dict"),
        (lambda x: (x, x, x), TypeError, "encoder must give .* got tuple"),
    ],
    ids=["odd", "dict", "three"],
)
def test_an_encoder_that_gives_something_else(encoder, error, message):
    vae = VAE(nn.Identity(), nn.Linear(2, 6))
    vae.encoder.forward = encoder
    with pytest.raises(error, match=message):
        vae.posterior(torch.rand(3, 6))


BAD = {
    "no such architecture": ("resnet", {}, ValueError, "architecture must be one of mlp, deep-mlp, conv, got 'resnet'"),
    "no image_shape": ("conv", {"x_dim": 120}, ValueError, "image_shape is needed by .*'conv'"),
    "no x_dim": ("mlp", {}, ValueError, "x_dim is needed"),
    "sizes that disagree": ("conv", {"x_dim": 99, "image_shape": (12, 10)}, ValueError, "120 numbers, but x_dim is 99"),
    "x_dim": ("deep-mlp", {"x_dim": 0}, ValueError, "x_dim"),
    "depth": ("deep-mlp", {"x_dim": 5, "depth": 0}, ValueError, "depth"),
    "channels": ("conv", {"image_shape": (12, 10), "channels": 0}, ValueError, "channels"),
    "hidden": ("conv", {"image_shape": (12, 10), "hidden": -1}, ValueError, "hidden"),
    "latent": ("conv", {"image_shape": (12, 10), "latent": 2.5}, ValueError, "latent"),
    "likelihood": ("conv", {"image_shape": (12, 10), "likelihood": "binomial"}, ValueError, "likelihood"),
    "one side": ("conv", {"image_shape": (12,)}, ValueError, "image_shape"),
    "four sides": ("conv", {"image_shape": (1, 3, 12, 10)}, ValueError, "image_shape"),
    "a side of one pixel": ("conv", {"image_shape": (12, 1)}, ValueError, "image_shape"),
    "an option of another": ("mlp", {"x_dim": 5, "channels": 3}, TypeError, "channels"),
    "no text": (["mlp"], {"x_dim": 5}, ValueError, r"architecture must be one of mlp, deep-mlp, conv, got \['mlp'\]"),
    "likelihood None": ("mlp", {"x_dim": 5, "likelihood": None}, ValueError, "likelihood must be one of .*got None"),
    "x_dim of text": ("mlp", {"x_dim": "5"}, ValueError, "x_dim must be an integer, at least 1, got '5'"),
    "x_dim of a half": ("mlp", {"x_dim": 5.5}, ValueError, "x_dim must be an integer, at least 1, got 5.5"),
    "latent None": ("mlp", {"x_dim": 5, "latent": None}, ValueError, "latent must be an integer, .*got None"),
    "latent True": ("conv", {"image_shape": (12, 10), "latent": True}, ValueError, "latent must be .*got True"),
    "hidden, far too many": ("mlp", {"x_dim": 5, "hidden": 2**63}, ValueError, r"hidden must be .*below 2\*\*63, got"),
    "x_scale": ("mlp", {"x_dim": 5, "x_scale": -1}, ValueError, "x_scale must be a positive number, got -1"),
    "logvar_scale": ("mlp", {"x_dim": 5, "logvar_scale": "1"}, ValueError, "logvar_scale must be a positive number"),
    "activation": (
        "deep-mlp",
        {"x_dim": 5, "activation": 1},
        ValueError,
        "activation must be one of silu, tanh, got 1",
    ),
    "mean_activation": (
        *("mlp", {"x_dim": 5, "likelihood": "gaussian", "mean_activation": "tanh"}, ValueError),
        "mean_activation must be one of sigmoid, identity, got 'tanh'",
    ),
    "mean_activation of bernoulli": (
        *("conv", {"image_shape": (12, 10), "mean_activation": "identity"}, ValueError),
        'mean_activation "identity" needs likelihood gaussian, or another with a location: the mean of bernoulli is',
    ),
    "a number for a shape": ("mlp", {"image_shape": 784}, ValueError, "image_shape must be .*got 784"),
    "text for a shape": ("conv", {"image_shape": "28x28"}, ValueError, "image_shape must be .*got '28x28'"),
    "generator": ("mlp", {"x_dim": 5, "generator": 0}, TypeError, "generator must be a torch.Generator or None, got 0"),
}


@pytest.mark.parametrize(("architecture", "options", "error", "message"), BAD.values(), ids=BAD)
def test_bad_arguments_are_named(architecture, options, error, message):
    with pytest.raises(error, match=message):
        make_model(architecture, **SMALL | options)
