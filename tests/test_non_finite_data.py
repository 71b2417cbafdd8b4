"""Values that are not finite: skipped in steps and evaluations on request, counted and reported."""

import io
import json
import math
from types import SimpleNamespace

import pytest
import torch

from aevb_ext.data import Data
from aevb_ext.estimators import Bound, bound_values
from aevb_ext.learners import LEARNERS
from aevb_ext.models import mlp_vae
from aevb_ext.train import NonFiniteBound, fit
from aevb_ext.train.callbacks import Progress
from aevb_ext.train.evaluation import shared_bound

Console = pytest.importorskip("rich.console").Console

OUTLIER = 1e25
QUICK = {"samples_seen": 240, "batch_size": 12, "log_every": 5, "optimizer": "adam", "progress": False}


def model(latent=2):
    options = {"latent": latent, "hidden": 4, "likelihood": "gaussian", "mean_activation": "identity"}
    return mlp_vae(6, **options, generator=torch.Generator().manual_seed(0))


def data(outliers=True):
    x = torch.rand(38, 6, generator=torch.Generator().manual_seed(0))
    train, test, valid = x[:24].clone(), x[24:32].clone(), x[32:]
    if outliers:
        # One that evaluations look at, one that they do not: of train they have as many as of test.
        train[3, 2] = train[20, 0] = test[3, 4] = test[7, 0] = OUTLIER
    return Data("outliers", train, test, valid=valid)


def settings_of(learner):
    options = {"mcem": {"score": "marginal", "hmc_steps": 2, "weight_updates": 2}}.get(learner, {})
    return {"learner": learner, "samples_seen": 960 if learner == "mcem" else 240} | options


@pytest.mark.filterwarnings("ignore::aevb_ext.estimators.UntrustedEstimate")
@pytest.mark.parametrize("learner", LEARNERS)
def test_an_outlier_is_skipped_everywhere_and_counted(tmp_path, learner, monkeypatch):
    # Rougher, and sooner done.
    monkeypatch.setattr("aevb_ext.train.evaluation._MARGINAL", {"n_samples": 8, "leapfrog_steps": 1})
    vae, out = model(), tmp_path / "run"
    settings = QUICK | settings_of(learner) | {"non_finite": "skip"}
    result = fit(vae, data(), out=out, **settings)
    assert all(p.isfinite().all() for p in vae.parameters())
    assert math.isfinite(result.train.mean) and math.isfinite(result.test.mean)
    assert (result.train.count, result.train.skipped) == (7, 1)
    assert (result.test.count, result.test.skipped) == (6, 2)
    if learner != "mcem":
        assert (result.valid.count, result.valid.skipped) == (6, 0)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    evaluations = [line for line in lines if line["event"] == "evaluation"]
    assert all((line["train_skipped"], line["test_skipped"]) == (1, 2) for line in evaluations)
    assert not any("valid_skipped" in line for line in evaluations)
    # Each epoch, two steps, has two minibatches that hold one of the two, or one that holds both.
    logs = [line for line in lines if line["event"] == "log"]
    updates = 2 if learner == "mcem" else 1
    assert sum(line["skipped"] for line in logs) == result.skipped and 10 * updates <= result.skipped <= 20 * updates
    assert sum(line["non_finite"] for line in logs) == 20 * updates


def test_what_is_left_is_what_there_is_without_the_outliers():
    """The bound over the others is their mean and standard error, on the noise that they always have."""
    vae, x = model(), data().test
    values = bound_values(vae, x)
    kept = values[values.isfinite()]
    bound = Bound.of(values, skip_non_finite=True)
    assert len(kept) == 6 and bound == Bound(kept.mean().item(), kept.std().item() / 6**0.5, 6, None, 2)
    assert Bound.of(values).mean == -math.inf and Bound.of(values).skipped == 0
    repeated = torch.stack([values, values + 1])
    assert Bound.of(repeated, skip_non_finite=True).skipped == 2
    assert (
        Bound.of(repeated, skip_non_finite=True).noise_stderr == Bound.of(repeated[:, values.isfinite()]).noise_stderr
    )


def test_several_processes_skip_what_one_does():
    x, vae = torch.rand(1500, 6), model()
    x[1200, 0] = x[3, 1] = OUTLIER
    alone = shared_bound(vae, x, SimpleNamespace(rank=0, world_size=1, sum=lambda v: v), skip_non_finite=True)
    shares = []
    for rank in range(2):
        shared_bound(vae, x, SimpleNamespace(rank=rank, world_size=2, sum=lambda v: shares.append(v) or v))
    together = SimpleNamespace(rank=1, world_size=2, sum=lambda v: v + shares[0])
    assert shared_bound(vae, x, together, skip_non_finite=True) == alone and alone.skipped == 2


@pytest.mark.parametrize("estimator", ["a", "b", "iwae"])
def test_stop_stops(estimator):
    for bad in (data(), Data("test alone", data(outliers=False).train, data().test)):
        with pytest.raises(NonFiniteBound, match=r"not finite at step \d|the test bound is -?(inf|nan) at step 20"):
            fit(model(), bad, estimator=estimator, **QUICK)


def test_nothing_that_is_finite_stops_all_the_same():
    bad = Data("all", torch.full((24, 6), OUTLIER), torch.full((8, 6), OUTLIER))
    with pytest.raises(NonFiniteBound, match=r"the train bound is -?(inf|nan) at step 20"):
        fit(model(), bad, non_finite="skip", **QUICK)


def test_without_an_outlier_nothing_is_said(tmp_path):
    text, result = shown(data(outliers=False), tmp_path / "run", non_finite="skip")
    assert result.skipped == 0 and "skipped" not in text
    written = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "_skipped" not in written and '"skipped": 0' in written
    shown(data(outliers=False), tmp_path / "other", non_finite="stop")
    assert "skipped" not in (tmp_path / "other" / "metrics.jsonl").read_text()


def shown(data, out=None, **options):
    file = io.StringIO()
    with Progress(console=Console(file=file, force_terminal=False, width=200)) as bar:
        result = fit(model(), data, out=out, callbacks=[bar], **QUICK | options)
    return file.getvalue(), result


def test_the_terminal_says_what_was_skipped(tmp_path):
    text, result = shown(data(), tmp_path / "run", non_finite="skip", samples_seen=120)
    line, last = text.splitlines()
    assert f"/s  {result.skipped} skipped  " in line
    assert f"train {result.train.mean:.2f} (1 skipped)" in line and f"test {result.test.mean:.2f} (2 skipped)" in line
    assert last == f"skipped: {result.skipped} updates of the parameters, whose gradient was not finite"
    # It is the run's count, also where it was interrupted.
    again = fit(model(), data(), out=tmp_path / "run", resume=True, **QUICK | {"non_finite": "skip"})
    whole = fit(model(), data(), **QUICK | {"non_finite": "skip"})
    assert again.skipped == whole.skipped > result.skipped > 0
    assert str(again.test) == str(whole.test)


@pytest.mark.parametrize(
    ("bound", "text", "told"),
    [
        (Bound(-1.234, 0.5, 300), "-1.23 +- 0.50", "-1.23 +- 0.50 nats (300 points)"),
        (Bound(-1.234, math.nan, 1), "-1.23", "-1.23 nats (1 point)"),
        (Bound.of(torch.tensor([-1.234])), "-1.23", "-1.23 nats (1 point)"),
        (Bound(2.0, 0.25, 18, None, 2), "2.00 +- 0.25", "2.00 +- 0.25 nats (18 points, 2 more skipped, not finite)"),
    ],
)
def test_a_bound_in_words(bound, text, told):
    assert (str(bound), bound.told) == (text, told)
