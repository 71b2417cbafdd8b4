"""Arguments of fit: a wrong one raises an error that names it before anything is trained or written."""

import re
import warnings

import pytest
import torch
from torch import nn

from aevb_ext.data import Data
from aevb_ext.models import VAE, mlp_vae
from aevb_ext.nn import GaussianDecoder
from aevb_ext.train import Callback, Settings, fit

X = torch.rand(30, 6, generator=torch.Generator().manual_seed(0))
GOOD = Data("good", X[10:], X[:10])
ONCE = {"samples_seen": 20, "batch_size": 10, "optimizer": "adam"}


def model(**options):
    return mlp_vae(6, latent=2, hidden=3, generator=torch.Generator().manual_seed(0), **options)


def data(**splits):
    return Data(**{"name": "other", "train": X[10:], "test": X[:10]} | splits)


# What is given instead, what is raised, and what the message says.
MODELS = {
    "none": (None, TypeError, "model must be a VAE (aevb_ext.models), got NoneType"),
    "another module": (nn.Linear(6, 6), TypeError, "model must be a VAE (aevb_ext.models), got Linear"),
    "a class": (VAE, TypeError, "model must be a VAE (aevb_ext.models), got type"),
    "frozen": (model().requires_grad_(False), ValueError, "model has nothing to learn: none of its parameters has req"),
    "without parameters": (VAE(nn.Identity(), nn.Identity(), 3), ValueError, "model has nothing to learn"),
    "of another size": (
        *(mlp_vae(7, latent=2, hidden=3), ValueError),
        "data.train has data points of shape [6], and the model takes rows of 7 numbers",
    ),
}
DATA = {
    "a tensor": (X, TypeError, "data must be a Data (aevb_ext.data), got Tensor: load(path)"),
    "none": (None, TypeError, "data must be a Data (aevb_ext.data), got NoneType"),
    "a path": ("digits", TypeError, "data must be a Data (aevb_ext.data), got str"),
    "no train": (data(train=None), ValueError, "data must have train and test points, got None for data.train"),
    "no test": (data(test=None), ValueError, "data must have train and test points, got None for data.test"),
    "nothing in train": (data(train=X[:0]), ValueError, "data must have train and test points, got 0 and 10"),
    "nothing in valid": (data(valid=X[:0]), ValueError, "data.valid has no data points: leave it None"),
    "an array": (
        data(train=X.numpy()),
        TypeError,
        "data.train must be a tensor [N, *event] or Rows (aevb_ext.data), g",
    ),
    "a list": (
        data(valid=[[1.0] * 6]),
        TypeError,
        "data.valid must be a tensor [N, *event] or Rows (aevb_ext.data), g",
    ),
    "integers": (
        data(train=X.long()),
        TypeError,
        "data.train is of torch.int64, expected bool, uint8 or a float dtype",
    ),
    "complex": (data(test=X + 0j), TypeError, "data.test is of torch.complex64, expected bool, uint8 or a float dtype"),
    "a scalar": (data(train=X.sum()), ValueError, "tensor must be [N, *event], got a scalar"),
    "splits of two shapes": (
        *(data(test=X[:, :5]), ValueError),
        "data.test has data points of shape [5], those of data.train are of [6]",
    ),
    "pictures for rows": (
        *(data(train=X.reshape(-1, 2, 3), test=X.reshape(-1, 2, 3)), ValueError),
        "data.train has data points of shape [2, 3], and the model takes rows of 6 numbers",
    ),
    "x_scale": (data(x_scale=0), ValueError, "data.x_scale must be a positive number, got 0"),
    "outside": (data(train=2 * X), ValueError, "data.train * x_scale lies in"),
}
TOO_LONG = "samples_seen must be an integer below 2**63, got 1000000000000000000000000000000"
OTHERS = {
    "settings of a dict": (
        {"settings": {"lr": 1.0}},
        TypeError,
        "settings must be a Settings (aevb_ext.train), got dict",
    ),
    "both": ({"settings": Settings(), "lr": 1.0}, TypeError, "settings were given, and lr beside them"),
    "no such setting": ({"learning_rate": 1.0}, TypeError, "there is no argument and no setting 'learning_rate'"),
    "a slip": ({"batchsize": 5}, TypeError, "there is no argument and no setting 'batchsize': batch_size?"),
    "samples_seen nan": (
        {"samples_seen": float("nan")},
        ValueError,
        "samples_seen must be an integer, at least 1, got nan",
    ),
    "samples_seen inf": (
        {"samples_seen": float("inf")},
        ValueError,
        "samples_seen must be an integer, at least 1, got inf",
    ),
    "samples_seen 1e30": ({"samples_seen": 1e30}, ValueError, "samples_seen must be an integer, at least 1, got 1e+30"),
    "samples_seen 10^30": ({"samples_seen": 10**30}, ValueError, TOO_LONG),
    "samples_seen text": (
        {"samples_seen": "100"},
        ValueError,
        "samples_seen must be an integer, at least 1, got '100'",
    ),
    "batch_size 0": ({"batch_size": 0}, ValueError, "batch_size must be an integer, at least 1, got 0"),
    "batch_size nan": ({"batch_size": float("nan")}, ValueError, "batch_size must be an integer, at least 1, got nan"),
    "batch_size 2^63": (
        {"batch_size": 2**63},
        ValueError,
        "batch_size must be an integer below 2**63, got 92233720368",
    ),
    "seed of a half": (
        {"seed": 1.5},
        ValueError,
        "seed must be an integer of 64 bits, from -2**63 to 2**64 - 1, got 1.5",
    ),
    "seed of 20 digits": (
        *({"seed": 99999999999999999999}, ValueError),
        "seed must be an integer of 64 bits, from -2**63 to 2**64 - 1, got 99999999999999999999",
    ),
    "learner of a list": ({"learner": ["aevb"]}, ValueError, "learner must be one of aevb, wake-sleep"),
    "estimator None": ({"estimator": None}, ValueError, "estimator must be one of a, b, iwae, got None"),
    "lr text": ({"lr": "0.1"}, ValueError, "lr must be a positive number, got '0.1'"),
    "beta nan": ({"beta": float("nan")}, ValueError, "beta must be a finite number, at least 0, got nan"),
    "device": ({"device": 1.5}, TypeError, "device must be a device's name or a torch.device, got 1.5"),
    "out": ({"out": 5}, TypeError, "out must be a path or None, got 5"),
    "resume": ({"resume": "yes"}, TypeError, "resume must be True or False, got 'yes'"),
    "resume without out": ({"resume": True}, ValueError, "resume needs out"),
    "override": ({"override": 5}, TypeError, "override must be names of settings, got 5"),
    "keep": ({"keep": 1.5}, ValueError, "keep must be an integer, at least 1, got 1.5"),
    "checkpoint_every": (
        {"checkpoint_every": "9"},
        ValueError,
        "checkpoint_every must be an integer, at least 1, got '9'",
    ),
    "validate": ({"validate": None}, TypeError, "validate must be True or False, got None"),
    "progress": ({"progress": 1}, TypeError, "progress must be True or False, got 1"),
    "processes": ({"processes": 2}, TypeError, "processes must be a Processes (aevb_ext.train) or None, got 2"),
    "one callback": (
        {"callbacks": Callback()},
        TypeError,
        "callbacks must be a list of instances of aevb_ext.train.Callb",
    ),
    "a function": (
        {"callbacks": [print]},
        TypeError,
        "aevb_ext.train.Callback, got <built-in function print> among them",
    ),
    "a class of callbacks": ({"callbacks": [Callback]}, TypeError, "aevb_ext.train.Callback, got <class "),
}


@pytest.mark.parametrize(("given", "error", "message"), MODELS.values(), ids=MODELS)
def test_a_model_that_cannot_be_trained_is_refused(tmp_path, given, error, message):
    _refused(tmp_path, given, GOOD, {}, error, message)


@pytest.mark.parametrize(("given", "error", "message"), DATA.values(), ids=DATA)
def test_data_that_cannot_be_trained_on_is_refused(tmp_path, given, error, message):
    _refused(tmp_path, model(), given, {}, error, message)


@pytest.mark.parametrize(("given", "error", "message"), OTHERS.values(), ids=OTHERS)
def test_what_else_it_is_given_is_checked(tmp_path, given, error, message):
    _refused(tmp_path, model(), GOOD, given, error, message)


def _refused(tmp_path, vae, data, given, error, message):
    written = {} if {"resume", "out"} & given.keys() else {"out": tmp_path / "run"}
    others = {} if "settings" in given else ONCE
    with pytest.raises(error, match=re.escape(message)):
        fit(vae, data, **{"progress": False} | others | written | given)
    assert list(tmp_path.iterdir()) == []


def test_what_is_good_is_taken():
    class Duck:
        on_start = on_log = on_evaluating = on_evaluation = on_checkpoint = on_end = staticmethod(lambda *_: None)

    result = fit(
        model(), GOOD, callbacks=(each for each in [Duck(), Callback()]), progress=False, seed=2**64 - 1, **ONCE
    )
    assert result.test.mean < 0 and result.skipped == 0
    # A part of a model may be frozen, and torch.compile may have wrapped it.
    vae = model()
    vae.encoder.requires_grad_(False)
    before = [p.clone() for p in vae.parameters()]
    fit(torch.compile(vae, backend="eager"), GOOD, progress=False, seed=-1, **ONCE)
    moved = [not torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True)]
    assert moved == [False] * 4 + [True] * 4


def test_numbers_that_never_vary_are_warned_of_where_the_bound_has_no_limit():
    """A Gaussian's variance goes to 0 there; not that of a Bernoulli, nor one that is bounded or shared."""
    x = X.clone()
    x[10:, 1] = x[10:, 4] = 0.5
    constant, message = (
        Data("constant", x[10:], x[:10]),
        "2 of the 6 elements of a data point are constant in all of data",
    )
    sizes, own = {"latent": 2, "hidden": 3, "likelihood": "gaussian"}, {"net": nn.Linear(2, 6), "sigmoid": False}
    told = {
        "free": mlp_vae(6, **sizes),
        "of any range": mlp_vae(6, **sizes, mean_activation="identity"),
        "each its own": VAE(nn.Linear(6, 4), GaussianDecoder(**own, logvar=torch.zeros(6))),
    }
    quiet = {
        "bernoulli": model(),
        "clamped": VAE(nn.Linear(6, 4), GaussianDecoder(nn.Linear(2, 12), clamp=(-8, 8))),
        "one for all": VAE(nn.Linear(6, 4), GaussianDecoder(**own, logvar=0.0)),
    }
    for name, vae in (told | quiet).items():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fit(vae, constant, progress=False, **ONCE)
            fit(vae, GOOD, progress=False, **ONCE)
        assert [message in str(w.message) and w.filename == __file__ for w in caught] == [True] * (name in told), name


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_data_that_is_scaled_twice_is_warned_of(likelihood):
    message = r"data.train \* x_scale goes up to 0.00384 in size .x_scale is 0.00392157., where data in \[0, 1\] is exp"
    vae = mlp_vae(6, latent=2, hidden=3, likelihood=likelihood, x_scale=1 / 255)
    with pytest.warns(UserWarning, match=message):
        fit(vae, GOOD, progress=False, **ONCE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(vae, Data("bytes", (X[10:] * 255).byte(), (X[:10] * 255).byte(), x_scale=1 / 255), progress=False, **ONCE)


@pytest.mark.parametrize(("scale", "far"), [(1 / 255, False), (0.1, False), (1.0, True), (1e-5, True)])
def test_data_far_from_where_a_mean_begins_is_warned_of(scale, far):
    grey = Data("grey", (X[10:] * 255).byte(), (X[:10] * 255).byte(), x_scale=scale)
    largest = grey.train.max().item() * scale
    options = {"latent": 2, "hidden": 3, "likelihood": "gaussian", "mean_activation": "identity", "x_scale": scale}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(mlp_vae(6, **options), grey, progress=False, **ONCE)
    told = [str(w.message) for w in caught]
    assert [f"data.train * x_scale goes up to {largest:.3g} in size" in each for each in told] == [True] * far
