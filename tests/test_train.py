"""The learner does Algorithm 1; the trainer is reproducible, refuses bad input, and leaves whole files."""

import json
import math
import sys
from itertools import pairwise

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aevb_ext.data import Data, load
from aevb_ext.estimators import ESTIMATORS, bound_b, evaluate_bound
from aevb_ext.learners import AEVB
from aevb_ext.models import mlp_vae
from aevb_ext.noise import keys_at
from aevb_ext.train import NonFiniteBound, fit, load_checkpoint

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def model(seed=0, x_dim=6, **kwargs):
    arguments = {"latent": 2, "hidden": 5} | kwargs
    return mlp_vae(x_dim, generator=torch.Generator().manual_seed(seed), **arguments)


def small_data(n_test=40):
    x = torch.rand(300, 6, generator=torch.Generator().manual_seed(0)).round()
    return Data("small", x[n_test:], x[:n_test], image_shape=(2, 3))


def bits(model):
    return [p.detach().clone() for p in model.parameters()]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


def test_a_step_ascends_the_scaled_objective():
    # SGD on M/N times (eq. 8 + log N(weights; 0, I)), written out.
    learnt, written_out = model().double(), model().double()
    x, n_data, lr = torch.rand(4, 6, dtype=torch.float64), 50, 0.01
    key = keys_at(1, "posterior", torch.arange(4))
    AEVB(learnt, n_data, batch_size=4, optimizer="sgd", lr=lr).step(x, key)
    objective = n_data / 4 * bound_b(written_out, x, key=key).sum()
    weights = [p for name, p in written_out.named_parameters() if name.endswith("weight")]
    objective = objective - 0.5 * sum(w.square().sum() for w in weights)
    (4 / n_data * objective).backward()
    for p, q in zip(learnt.parameters(), written_out.parameters(), strict=True):
        torch.testing.assert_close(p, q + lr * q.grad, rtol=1e-12, atol=1e-14)


def test_adagrad_accumulates_before_it_updates():
    vae, x = model(), torch.rand(10, 6)
    start, learner = bits(vae), AEVB(vae, 100, batch_size=10)
    for _ in range(100):
        learner.step(x)
    assert same(bits(vae), start)
    sums = [state["sum"].clone() for state in learner.optimizer.state.values()]
    assert all((s > 0).any() for s in sums)
    gradients = {p: p.detach().clone() for p in vae.parameters()}
    learner.step(x)
    # Adagrad's own step from the accumulated squares: lr * g / sqrt(sum), at most lr / sqrt(1) for any gradient.
    moved = [(p - gradients[p]).abs().max() for p in vae.parameters()]
    assert all(0 < m <= learner.lr for m in moved)


@pytest.mark.slow
@pytest.mark.parametrize(("estimator", "optimizer"), [("a", "adagrad"), ("b", "adam")])
def test_latent_structure_is_found(estimator, optimizer):
    # Six pixels that are always equal: without latent variables no model is above -6 ln 2 = -4.16; the best of all is
    # -ln 2 = -0.69, one bit of latent information.
    x = torch.rand(500, 1, generator=torch.Generator().manual_seed(0)).round().expand(-1, 6).contiguous()
    data = Data("equal pixels", x[:400], x[400:])
    lr = {"adagrad": 0.1, "adam": 0.01}[optimizer]
    result = fit(
        model(),
        data,
        samples_seen=100_000,
        estimator=estimator,
        n_samples=2,
        optimizer=optimizer,
        lr=lr,
        progress=False,
    )
    assert result.test.mean > -3 * math.log(2)


@pytest.mark.slow
def test_the_digits_are_learnt():
    # Better than the best model without latent variables: the mean image of the training data, as a Bernoulli.
    data = load("digits")
    p = (data.train.double().mean(0) * data.x_scale).clamp(1e-3, 1 - 1e-3)
    x = data.test.double() * data.x_scale
    constant = (x * p.log() + (1 - x) * (-p).log1p()).sum(1)
    vae = model(x_dim=data.dim, latent=5, hidden=50, x_scale=data.x_scale)
    result = fit(vae, data, samples_seen=120_000, progress=False)
    assert result.test.mean > constant.mean() + 5 * result.test.stderr


def test_the_same_seed_gives_the_same_bits():
    runs = []
    for seed in (3, 3, 4):
        vae = model()
        result = fit(vae, small_data(), samples_seen=20_000, batch_size=50, seed=seed, progress=False)
        runs.append((bits(vae), result.train, result.test))
    assert same(runs[0][0], runs[1][0]) and runs[0][1:] == runs[1][1:]
    assert not same(runs[0][0], runs[2][0])


def test_a_step_does_not_wait_for_the_device():
    class NoRead(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert function not in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
            return function(*args, **(kwargs or {}))

    vae, x = model(), torch.rand(10, 6)
    learner = AEVB(vae, 100, batch_size=10, optimizer="sgd")
    with NoRead():
        bound = learner.step(x)
    assert bound.shape == () and not bound.requires_grad


def test_the_curve_is_evenly_spaced_and_ends_at_the_end():
    result = fit(model(), small_data(), samples_seen=100_050, batch_size=100, optimizer="adam", progress=False)
    seen = [record.samples_seen for record in result.history]
    assert seen[0] == 10_000 and seen[-1] == 100_100
    ratios = [b / a for a, b in pairwise(seen[:-1])]
    assert all(abs(math.log10(ratio) - 1 / 8) < 0.01 for ratio in ratios)
    assert (result.history[-1].test, result.history[-1].test_stderr) == (result.test.mean, result.test.stderr)


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_evaluations_are_of_the_bound_that_is_trained(estimator):
    data, vae = small_data(), model()
    result = fit(vae, data, samples_seen=600, estimator=estimator, n_samples=4, progress=False)
    bounds = {name: evaluate_bound(vae, data.test, estimator=name, n_samples=4).mean for name in ESTIMATORS}
    assert result.test.mean == pytest.approx(bounds[estimator], rel=1e-6)
    assert all(abs(bounds[name] - bounds[estimator]) > 1e-5 for name in ESTIMATORS if name != estimator)


def test_a_run_shorter_than_one_evaluation_is_evaluated_once():
    result = fit(model(), small_data(), samples_seen=1, batch_size=7, progress=False)
    assert [record.samples_seen for record in result.history] == [7]


def test_the_folder_of_a_run(tmp_path):
    out, vae = tmp_path / "a" / "run", model()
    result = fit(vae, small_data(), samples_seen=20_000, out=out, progress=False)
    pictures = {"curve.png", "manifold.png", "reconstructions.png", "samples.png"}
    others = {"best.safetensors", "checkpoints", "config.toml", "environment.json", "metrics.jsonl"}
    assert {path.name for path in out.iterdir()} == others | pictures
    for picture in pictures:
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["test"] for line in lines if line["event"] == "evaluation"] == [
        record.test for record in result.history
    ]
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["model"] == vae.config and config["samples_seen"] == 20_000 and config["lr"] == 0.02
    checkpoint = load_checkpoint(out / "checkpoints" / "000000200.safetensors")
    assert same(bits(checkpoint.model), bits(vae))
    assert (checkpoint.data, checkpoint.image_shape, checkpoint.samples_seen) == ("small", (2, 3), 20_000)


@pytest.mark.parametrize("kind", ["not empty", "a file", "under a file"])
def test_a_folder_that_cannot_be_used_is_refused_before_training(tmp_path, kind):
    out, vae = tmp_path / "run", model()
    if kind == "not empty":
        out.mkdir()
        (out / "notes").write_text("mine")
    else:
        out.write_text("mine")
    before, start = sorted(tmp_path.rglob("*")), bits(vae)
    with pytest.raises(OSError, match="out: "):
        fit(vae, small_data(), out=out / "run" if kind == "under a file" else out, progress=False)
    assert sorted(tmp_path.rglob("*")) == before and same(bits(vae), start)


def test_data_outside_the_support_is_refused_by_name(tmp_path):
    good, bad = torch.rand(30, 6), torch.rand(30, 6) + 0.5
    for data, name in ((Data("x", bad, good), "train"), (Data("x", good, bad), "test")):
        with pytest.raises(ValueError, match=rf"data\.{name} .*Bernoulli"):
            fit(model(), data, out=tmp_path / "run", progress=False)
    with pytest.raises(ValueError, match=r"data\.train .*Gaussian"):
        fit(model(likelihood="gaussian"), Data("x", bad.log().sqrt(), good), out=tmp_path / "run", progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 0},
        {"samples_seen": 0},
        {"n_samples": 0},
        {"lr": -1.0},
        {"lr": float("nan")},
        {"optimizer": "lbfgs"},
        {"estimator": "c"},
        {"device": "abacus"},
        pytest.param(
            {"device": "cuda"}, marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
        ),
    ],
    ids=str,
)
def test_bad_arguments_are_named_and_nothing_is_written(tmp_path, bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        fit(model(), small_data(), out=tmp_path / "run", progress=False, **bad)
    assert list(tmp_path.iterdir()) == []


def test_no_data_is_refused():
    with pytest.raises(ValueError, match="got 300 and 0"):
        fit(model(), small_data(n_test=0), progress=False)


def test_a_bound_that_is_not_finite_stops_the_run_at_its_step(tmp_path):
    data = small_data()
    poisoned = Data("poisoned", torch.full_like(data.train, float("nan")), data.test)
    stopped = r"not finite at step 1: .*smaller learning.* last good checkpoint is .*run.checkpoints.0+\.safetensors"
    with pytest.raises(NonFiniteBound, match=stopped):
        fit(model(), poisoned, validate=False, out=tmp_path / "run", progress=False)
    # A learning rate that throws the parameters to infinity at the first update: the next bound shows it.
    with pytest.raises(NonFiniteBound, match="at step 2: "):
        fit(model(), data, optimizer="sgd", lr=1e38, out=tmp_path / "other", progress=False)
    for name in ("run", "other"):
        # As the run began: nothing that is not finite was written.
        assert [path.name for path in (tmp_path / name / "checkpoints").iterdir()] == ["000000000.safetensors"]
        assert same(bits(load_checkpoint(tmp_path / name).model), bits(model()))
