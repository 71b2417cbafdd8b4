"""Calls that the operators do not support go to the original: same values, same errors, not counted."""

import re
import warnings

import pyro.distributions as dist
import pytest
import scvi
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from pythae.models import IWAE, VAE, BetaVAE, BetaVAEConfig, IWAEConfig, VAEConfig
from torch.distributions import Independent, Normal, kl_divergence

from aevb_ext.integrations import diffusers, pyro, pythae
from aevb_ext.integrations import scvi as scvi_patch

X = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
LATENT = 2 * X[:, :3] - 1


def _vae(cls=VAE, config=VAEConfig, loss="mse", **options):
    torch.manual_seed(0)
    return cls(config(input_dim=(6,), latent_dim=3, reconstruction_loss=loss, **options))


def _pythae_loss(loss="mse", recon=X, x=X, mu=LATENT, log_var=LATENT, z=LATENT):
    return _vae(loss=loss).loss_function(recon, x, mu, log_var, z)


def _iwae_loss(loss="mse", recon=None, x=X, z=None, samples=5):
    recon = X[:, None].expand(4, 5, 6) if recon is None else recon
    z = LATENT[:, None].expand(4, 5, 3) if z is None else z
    return _vae(IWAE, IWAEConfig, loss, number_samples=samples).loss_function(recon, x, z, z, z)


class Tempered(DiagonalGaussianDistribution):
    """Its std is not what its logvar says."""

    def __init__(self, parameters):
        super().__init__(parameters)
        self.std, self.var = self.std / 2, self.var / 4


class MeanAndVariance(DiagonalGaussianDistribution):
    """Without a logvar."""

    def __init__(self, parameters):
        self.parameters, (self.mean, self.var) = parameters, parameters.chunk(2, 1)
        self.std, self.deterministic = self.var.sqrt(), False


class Numbers(Normal):
    """Its mean is a number."""

    loc = 0.5

    def __init__(self, scale):
        super().__init__(torch.zeros_like(scale), scale)
        del self.__dict__["loc"]


IMAGES = torch.rand(2, 4, 3, 3, generator=torch.Generator().manual_seed(1))


def _posterior(parameters=IMAGES, cls=DiagonalGaussianDistribution):
    return cls(parameters)


CALLS = {
    diffusers.patch: {
        "sample of another std": lambda: _posterior(cls=Tempered).sample(),
        "kl of another std": lambda: _posterior(cls=Tempered).kl(),
        "kl to another std": lambda: _posterior().kl(_posterior(cls=Tempered)),
        "nll of another std": lambda: _posterior(cls=Tempered).nll(IMAGES[:, :2]),
        "sample without a logvar": lambda: _posterior(cls=MeanAndVariance).sample(),
        "kl without a logvar": lambda: _posterior(cls=MeanAndVariance).kl(),
        "kl to something else": lambda: _posterior().kl(Normal(0.0, 1.0)),
        "nll of a number": lambda: _posterior().nll(0.5),
        "nll of one value for all": lambda: _posterior().nll(IMAGES[:1, :1]),
        "nll of nothing": lambda: _posterior().nll(None),
        "nll over everything": lambda: _posterior().nll(IMAGES[:, :2], dims=None),
        "nll over a dimension twice": lambda: _posterior().nll(IMAGES[:, :2], dims=(1, 1)),
    },
    pythae.patch: {
        "sampling around a number": lambda: _vae()._sample_gauss(0.0, X),
        "sampling with one std": lambda: _vae()._sample_gauss(X, X[:1]),
        "sampling with a number": lambda: _vae()._sample_gauss(X, 1.0),
        "a loss of no such name": lambda: _pythae_loss("huber"),
        "one log_var": lambda: _pythae_loss(log_var=torch.zeros(1)),
        "log_var is a number": lambda: _pythae_loss(log_var=0.0),
        "integers": lambda: _pythae_loss(recon=torch.ones(4, 6, dtype=torch.int64)),
        "latents of three dimensions": lambda: _pythae_loss(mu=LATENT[None], log_var=LATENT[None]),
        "latents of another batch": lambda: _pythae_loss(mu=LATENT[:3], log_var=LATENT[:3]),
        "reconstructions of other data": lambda: _pythae_loss(recon=X[:, :4]),
        "no data": lambda: _pythae_loss(x=None),
        "bce of bytes": lambda: _pythae_loss("bce", x=(255 * X).byte()),
        "bce of int64": lambda: _pythae_loss("bce", x=X.round().long()),
        "bce of data just above 1": lambda: _pythae_loss("bce", x=X + (X == X.max()) * (1 + 1e-6 - X.max())),
        "bce of data just below 0": lambda: _pythae_loss("bce", x=X - (X == X.min()) * (1e-6 + X.min())),
        "bce of data up to 255": lambda: _pythae_loss("bce", x=255 * X),
        "bce of data that are NaN": lambda: _pythae_loss("bce", x=X.where(X < X.max(), torch.nan)),
        "bce of no probabilities": lambda: _pythae_loss("bce", recon=4 * X - 1),
        "bce of probabilities that are NaN": lambda: _pythae_loss("bce", recon=X.where(X < X.max(), torch.nan)),
        "beta of another batch": lambda: _vae(BetaVAE, BetaVAEConfig).loss_function(X, X, LATENT[:3], LATENT[:3], None),
        "iwae: bce of data up to 255": lambda: _iwae_loss("bce", x=255 * X),
        "iwae: bce of no probabilities": lambda: _iwae_loss("bce", recon=4 * X[:, None].expand(4, 5, 6) - 1),
        "iwae: other samples": lambda: _iwae_loss(samples=4),
        "iwae: no samples": lambda: _iwae_loss(recon=X, z=LATENT),
        "iwae: one z for all": lambda: _iwae_loss(z=LATENT[:, None]),
    },
    pyro.patch: {
        "a number for a mean": lambda: kl_divergence(Numbers(X), Normal(X, 1.0)),
        "to a number for a mean": lambda: kl_divergence(Independent(Normal(X, 1.0), 1), Independent(Numbers(X), 1)),
        "shapes that do not broadcast": lambda: kl_divergence(Normal(X, 1.0), Normal(X[:, :4], 1.0)),
        "events that do not broadcast": lambda: kl_divergence(
            dist.Normal(X, 1.0).to_event(1), dist.Normal(X[:, :4], 1.0).to_event(1)
        ),
        "complex": lambda: kl_divergence(*(Normal(X.to(torch.complex64), 1.0, validate_args=False) for _ in range(2))),
    },
    scvi_patch.patch: {
        "a variance below 0": lambda: scvi.nn.Encoder(6, 3, var_activation=lambda v: -v.exp())(X),
        "cells of other genes": lambda: scvi.nn.Encoder(5, 3)(X),
    },
}
ALL = [pytest.param(patch, call, id=name) for patch, calls in CALLS.items() for name, call in calls.items()]


def _outcome(call):
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of shapes that mse_loss broadcasts
        try:
            return call()
        except Exception as error:
            return type(error), str(error)


@pytest.fixture
def validated():
    """Distributions check their arguments, as they do until something is compiled in the process."""
    before = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(True)
    yield
    torch.distributions.Distribution.set_default_validate_args(before)


@pytest.mark.usefixtures("validated")
@pytest.mark.parametrize("patch, call", ALL)
def test_outcome_is_the_originals(patch, call):
    original = _outcome(call)
    with patch() as applied:
        ours = _outcome(call)
    if isinstance(original, torch.Tensor) or isinstance(original[0], torch.Tensor):
        torch.testing.assert_close(ours, original, rtol=0, atol=0, equal_nan=True)
    else:
        assert ours == original
    assert not any(applied.calls.values())


class Loss(torch.nn.Module):
    """One that torch.jit.trace takes: it knows no ModelOutput."""

    def __init__(self, *arguments, **options):
        super().__init__()
        self.model = _vae(*arguments, **options)

    def forward(self, x):
        return self.model({"data": x}).loss


def _normal(loc, scale, event_dims=0):
    return dist.Normal(loc, scale, validate_args=False).to_event(event_dims)


# Programs that reach the operators, and that torch.jit.trace and torch.func.jvp take without the patch.
PROGRAMS = {
    "diffusers: sample": (diffusers.patch, lambda: lambda x: _posterior(x).sample(), IMAGES),
    "diffusers: kl": (diffusers.patch, lambda: lambda x: _posterior(x).kl(_posterior(2 * x)), IMAGES),
    "diffusers: nll": (diffusers.patch, lambda: lambda x: _posterior(x).nll(x[:, :2]), IMAGES),
    "pythae: VAE": (pythae.patch, lambda: Loss(), X),
    "pythae: BetaVAE": (pythae.patch, lambda: Loss(BetaVAE, BetaVAEConfig, "bce"), X),
    "pythae: IWAE": (pythae.patch, lambda: Loss(IWAE, IWAEConfig), X),
    "pyro: Normal": (pyro.patch, lambda: lambda x: kl_divergence(_normal(x, 1 + x), _normal(2 * x, x[:1] + 1)), X),
    "pyro: Independent": (
        pyro.patch,
        lambda: lambda x: kl_divergence(_normal(x, 1 + x, 1), _normal(2 * x, 1 + x, 1)),
        X,
    ),
    "scvi: Encoder": (scvi_patch.patch, lambda: scvi.nn.Encoder(6, 3).eval(), X),
}
each_program = pytest.mark.parametrize("patch, make, x", PROGRAMS.values(), ids=PROGRAMS)


@pytest.fixture
def unchecked():
    """torch's Normal looks at its arguments' values, of which torch.jit.trace warns whether patched or not."""
    torch.distributions.Distribution.set_default_validate_args(False)
    yield
    torch.distributions.Distribution.set_default_validate_args(__debug__)


@each_program
def test_a_trace_is_the_originals(patch, make, x, unchecked):
    """And so are the warnings, of which most have none: to Pyro, unless told otherwise, each is an error."""

    def traced():
        program = make()
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            graph = str(torch.jit.trace(program, x, check_trace=False).inlined_graph)
        return re.sub(r"\.___torch_mangle_\d+", "", graph), [(w.category, str(w.message)) for w in raised]

    original = traced()
    with patch() as applied:
        assert traced() == original
        assert not any(applied.calls.values())
        make()(x)  # not traced
        assert any(applied.calls.values())


@each_program
def test_a_forward_mode_derivative_is_the_originals(patch, make, x):
    def derivative():
        torch.manual_seed(3)
        program = make()
        return torch.func.jvp(program, (x,), (torch.ones_like(x),))[1]

    original = derivative()
    with patch() as applied:
        torch.testing.assert_close(derivative(), original, rtol=0, atol=0)
    assert not any(applied.calls.values())


METHODS = {
    "sampling": lambda mu, std: _vae()._sample_gauss(mu, std),
    "loss of VAE": lambda recon, x, mu, log_var: _pythae_loss("bce", recon, x, mu, log_var),
    "loss of IWAE": lambda recon, x, z: _iwae_loss("mse", recon, x, z),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_symbolic_trace_is_the_originals(name):
    original = torch.fx.symbolic_trace(METHODS[name]).code
    with pythae.patch() as applied:
        assert torch.fx.symbolic_trace(METHODS[name]).code == original
    assert not any(applied.calls.values())
