"""The paper's figures: what is planned, trained side by side, drawn and compared."""

import csv
import json
import math

import pytest
import torch

from aevb_ext.cli import main
from aevb_ext.configuration.saved_run import SavedRun, open_run
from aevb_ext.models import make_model
from aevb_ext.paper import FIGURES, ablation, figure2, figure3, make, planning, published
from aevb_ext.paper.planning import PlannedRun, evaluation_at, split_keys
from aevb_ext.paper.training import train_all
from aevb_ext.train import Settings

pytestmark = pytest.mark.once("plans, files and pictures of runs; test_learner.py and test_train.py train")

imread = pytest.importorskip("matplotlib.image").imread

SMALL = {"data": "digits", "latent": 2, "hidden": 8, "samples_seen": 3000, "evaluate_every": 1000, "seed": 0}


def saved(folder, data="mnist", latent=3, learner="aevb", seed=0, values=((10**6, -150.0), (10**7, -130.0)), **config):
    """A run that ended with these test bounds; those of training points are 1 higher."""
    lines = [
        {"samples_seen": n, "steps": n // 100, "train": v + 1, "train_stderr": 0.5, "test": v, "test_stderr": 0.25}
        for n, v in values
    ]
    config = {"data": data, "learner": learner, "seed": seed, "model": {"latent": latent}, **config}
    return SavedRun(folder, None, config, {"commit": "abc"}, [], lines, [])


@pytest.mark.parametrize("figure", FIGURES)
def test_plans_are_runs_that_can_be_trained(figure):
    for seeds in (1, 3):
        plan = FIGURES[figure].plan(10**7, seeds, "somewhere")
        assert len({run.name for run in plan}) == len(plan)
        for run in plan:
            data, settings, model = split_keys(run.keys)
            assert data["data_dir"] == "somewhere"
            Settings(**settings)
            make_model(x_dim=560 if data["data"] == "freyface" else 784, **model)


def test_figure_2_is_at_the_papers_settings():
    plan = figure2.plan(10**7, 3)
    curves = {(run.keys["data"], run.keys["latent"], run.keys["learner"]) for run in plan}
    assert curves == set(published.FIGURE2)
    for run in plan:
        keys = run.keys
        assert (keys["optimizer"], keys["lr"], keys["batch_size"]) == ("adagrad", 0.02, 100)
        assert keys["hidden"] == {"mnist": 500, "freyface": 200}[keys["data"]]
        assert run.samples_seen == (10**7 if keys["seed"] == 0 else 10**6)


def test_figure_3_is_at_the_papers_settings():
    plan = figure3.plan(10**7, 1)
    assert {(run.keys["train_count"], run.keys["learner"]) for run in plan} == set(published.FIGURE3)
    assert all((run.keys["latent"], run.keys["hidden"]) == (3, 100) for run in plan)
    # Monte Carlo EM: full batches.
    assert all(r.keys["batch_size"] == r.keys["train_count"] for r in plan if r.keys["learner"] == "mcem")


def test_values_are_compared_where_both_have_them(tmp_path):
    runs = {
        "a": saved(tmp_path),
        "b": saved(tmp_path, seed=1, values=((999_950, -152.0),)),
        "c": saved(tmp_path, learner="wake-sleep", values=((10**6, -156.0),)),
    }
    page = figure2.present(runs, tmp_path)
    assert page == (tmp_path / "figure2.md").read_text()
    # The paper's: -152.9 and -155.3 after a million, -138.0 after ten; Wake-Sleep's -155.1.
    assert "| MNIST | 3 | AEVB | 1e6 | -151.0 (-152.0 to -150.0, 2 seeds) | -152.9 | +1.9 | -150.0 | -155.3 |" in page
    assert "| MNIST | 3 | AEVB | 1e7 | -130.0 | -138.0 | +8.0 |" in page
    assert "| MNIST | 3 | Wake-Sleep | 1e6 | -156.0 | -155.1 | -0.9 |" in page
    with open(tmp_path / "figure2.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert rows[2] | {} == {
        "data": "mnist",
        "latent": "3",
        "learner": "aevb",
        "seed": "1",
        "samples_seen": "999950",
        "train": "-151.0",
        "train_stderr": "0.5",
        "test": "-152.0",
        "test_stderr": "0.25",
    }
    assert imread(tmp_path / "figure2.png").shape[1] > 1000


def test_figure_3_is_compared(tmp_path):
    about = {"train_count": 1000, "values": ((10**7, -142.0),)}
    runs = {name: saved(tmp_path, learner=name, **about) for name in ("aevb", "mcem", "wake-sleep")}
    page = figure3.present(runs, tmp_path)
    assert "| 1,000 | Monte Carlo EM | 1e7 | -141.0 +- 0.5 | -118.3 | -142.0 +- 0.2 | -142.4 |" in page
    assert page.count("| 1,000 |") == 3


def test_an_ablation_names_what_was_changed(tmp_path):
    wake_sleep = {"data": "freyface", "latent": 20, "learner": "wake-sleep", "lr": 0.02}
    aevb = {"data": "mnist", "latent": 3, "learner": "aevb", "lr": 0.02}
    runs = {
        # The log-variances' scale is of the model; what a configuration does not name has the default, 1.
        "a": saved(tmp_path, **wake_sleep, values=((10**6, 568.0),), model={"latent": 20, "logvar_scale": 0.1}),
        "b": saved(tmp_path, **wake_sleep, values=((10**6, 690.0),), model={"latent": 20}),
        "c": saved(tmp_path, **aevb, estimator="a", values=((10**6, -150.0),)),
        "d": saved(tmp_path, **aevb, estimator="b", values=((10**6, -157.0),)),
    }
    page = ablation.present(runs, tmp_path)
    lines = [line for line in page.splitlines() if "1000000" in line]
    assert [line.split(" | ")[2:5] for line in lines] == [
        ["AEVB", "as in Figure 2", "0"],
        ["AEVB", "estimator B", "0"],
        ["Wake-Sleep", "as in Figure 2", "0"],
        ["Wake-Sleep", "log-variances as fast as the rest", "0"],
    ]
    assert "-157.0" in lines[1] and "-152.9" in lines[1] and "690.0" in lines[3] and "567" in lines[3]


def test_every_run_of_the_ablation_has_one_change():
    usual = {run.name: run.keys for run in figure2.plan(10**6, 3)}
    for run in ablation.plan(10**6, 3):
        original = next(keys for name, keys in usual.items() if run.name.startswith(f"{name}-") or run.name == name)
        changed = {key for key in run.keys if run.keys[key] != original[key]}
        assert len(changed) == (run.name not in usual)


def test_the_papers_curves_are_read_where_they_are(tmp_path):
    assert published.curves2(None) == published.curves2(tmp_path) == published.curves3(tmp_path) == {}
    (tmp_path / "paper").mkdir()
    file = tmp_path / "paper" / "figure2_digitised.csv"
    file.write_text("dataset,Nz,algorithm,split,samples_evaluated,lower_bound\nMNIST,3,WakeSleep,test,54838,-241.07\n")
    assert published.curves2(tmp_path) == {("mnist", 3, "wake-sleep", "test"): ([54838.0], [-241.07])}
    (tmp_path / "paper" / "figure3_digitised.csv").write_text("a,b,c,d,e\n1000,MCEM,train,1.5,-120.5\n")
    assert published.curves3(tmp_path) == {(1000, "mcem", "train"): ([1.5e6], [-120.5])}
    file.write_text("header\nMNIST,3,Sleep,test,54838,-241.07\n")
    with pytest.raises(ValueError, match=r"figure2_digitised\.csv is damaged in line 2"):
        published.curves2(tmp_path)


def test_an_evaluation_is_found_to_a_step_or_two(tmp_path):
    run = saved(tmp_path, values=((990_000, 1.0), (1_000_100, 2.0), (1_300_000, 3.0)))
    assert evaluation_at(run, 10**6)["test"] == 2.0
    assert evaluation_at(run, 10**7) is None


@pytest.mark.slow
def test_runs_are_trained_side_by_side_once_and_go_on(tmp_path):
    short, other = PlannedRun("one", SMALL), PlannedRun("two", {**SMALL, "seed": 1})
    # Its first steps are so large that nothing after them is finite.
    wild = PlannedRun("wild", {**SMALL, "optimizer": "sgd", "lr": 1e30, "log_every": 1})
    failed = train_all([short, other, wild], tmp_path, workers=3)
    assert list(failed) == ["wild"] and "lr is 1e+30" in failed["wild"]
    runs = [open_run(tmp_path / name) for name in ("one", "two")]
    assert [run.evaluations[-1]["samples_seen"] for run in runs] == [3000, 3000]
    assert runs[0].evaluations[-1]["test"] != runs[1].evaluations[-1]["test"]
    before = (tmp_path / "one" / "metrics.jsonl").read_text()
    assert train_all([short], tmp_path) == {}
    assert (tmp_path / "one" / "metrics.jsonl").read_text() == before
    # A larger budget goes on from where the smaller one ended.
    longer = PlannedRun("one", {**SMALL, "samples_seen": 4000})
    assert train_all([longer], tmp_path) == {} and longer.is_complete(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert [line["samples_seen"] for line in lines if line["event"] == "resumed"] == [3000]
    with pytest.raises(ValueError, match=r"one is another run than the figure needs \(hidden: 8 there, 9 now\)"):
        train_all([other, PlannedRun("one", {**SMALL, "hidden": 9})], tmp_path)


def test_the_cost_grows_with_the_samples(monkeypatch):
    # Where the first step alone takes longer than all steps are to be timed, one is timed all the same.
    monkeypatch.setattr(planning, "_SECONDS", 0.0)
    one, ten = (
        planning.estimated_seconds([PlannedRun("a", {**SMALL, "batch_size": 100, "samples_seen": n})])
        for n in (10**6, 10**7)
    )
    assert 0 < one < math.inf and ten > one
    assert torch.get_num_threads() >= 1


def test_bad_input(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"figure must be one of figure2, figure3, .*got 'figure9'"):
        make("figure9", tmp_path)
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        make("figure2", tmp_path, seeds=0)
    assert main(["paper", "figure2", "--data-dir", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert "MNIST is not there" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["paper", "figure9"])
    assert "figure2" in capsys.readouterr().err
