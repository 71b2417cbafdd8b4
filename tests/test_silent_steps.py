"""Adagrad's silent steps: a run that consists of them warns before and after, and logs its learning rate."""

import io
import json
import warnings

import pytest
import torch

from aevb_ext.data import Data
from aevb_ext.models import mlp_vae
from aevb_ext.train import Callback, evaluation, fit
from aevb_ext.train.callbacks import Progress

Console = pytest.importorskip("rich.console").Console

X = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
DATA = Data("small", X[20:], X[:20])


def model():
    return mlp_vae(6, latent=2, hidden=4, generator=torch.Generator().manual_seed(0))


def told(**options):
    """What is warned of before the first step, and what is printed."""
    file, vae = io.StringIO(), model()
    before = [p.clone() for p in vae.parameters()]

    class Start(Callback):
        def on_start(self, run):
            self.warned = [str(w.message) for w in caught]

    start = Start()
    with warnings.catch_warnings(record=True) as caught, Progress(console=Console(file=file, width=200)) as bar:
        warnings.simplefilter("always")
        fit(vae, DATA, batch_size=5, progress=False, callbacks=[bar, start], **options)
    assert len(caught) == len(start.warned) and all(w.filename == __file__ for w in caught)
    moved = not all(torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))
    return start.warned, file.getvalue().splitlines()[-1], moved


def test_a_run_that_is_shorter_than_the_silent_steps_is_told_so_before_and_after():
    (warning,), last, moved = told(samples_seen=20)
    assert not moved and last == "not trained: none of the 4 steps changed a parameter"
    assert "of the run's 4 steps none changes parameters: Adagrad's first 100 only accumulate" in warning
    assert "samples_seen is 20; 1000 are 200 steps" in warning and "batch_size (it is 5)" in warning
    assert 'optimizer "adam"' in warning
    (warning,), last, moved = told(samples_seen=500)
    assert not moved and "none of the 100 steps" in last


def test_a_run_most_of_which_is_silent_is_told_so_before():
    (warning,), last, moved = told(samples_seen=505)
    assert moved and "not trained" not in last and "only the last 1 change parameters" in warning


@pytest.mark.parametrize(
    "options",
    [
        {"samples_seen": 1000},
        {"samples_seen": 20, "optimizer": "adam"},
        {"samples_seen": 20, "optimizer": "sgd"},
        {"samples_seen": 300, "learner": "mcem", "score": "marginal", "hmc_steps": 1, "weight_updates": 1},
    ],
    ids=["long", "adam", "sgd", "mcem"],
)
def test_what_is_trained_is_not_warned_of(options, monkeypatch):
    # Not what is looked at here, and slow.
    monkeypatch.setattr(evaluation, "_MARGINAL_POINTS", 2)
    warned, last, moved = told(**options)
    assert [w for w in warned if "Adagrad" in w] == [] and moved and "not trained" not in last


def test_the_learning_rate_that_is_logged_is_the_one_that_was_used(tmp_path):
    settings = {"samples_seen": 600, "batch_size": 5, "log_every": 5, "lr": 0.5, "lr_warmup": 10}
    with pytest.warns(UserWarning, match="only the last 20"):
        fit(model(), DATA, out=tmp_path / "run", progress=False, **settings)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    logged = {line["steps"]: line["lr"] for line in lines if line["event"] == "log"}
    assert logged == {**dict.fromkeys(range(5, 105, 5), 0.0), 105: 0.25, 110: 0.5, 115: 0.5, 120: 0.5}


def test_patience_begins_when_the_parameters_do(tmp_path):
    # Twenty evaluations of the same parameters are not twenty that found nothing better.
    with pytest.warns(UserWarning, match="only the last 80"):
        result = fit(model(), DATA, batch_size=5, samples_seen=900, evaluate_every=25, patience=2, progress=False)
    assert result.history[-1].steps > 100
    stopped = fit(model(), DATA, batch_size=5, optimizer="adam", lr=5.0, evaluate_every=5, patience=2, progress=False)
    assert "no better bound in 2 evaluations" in stopped.stopped
