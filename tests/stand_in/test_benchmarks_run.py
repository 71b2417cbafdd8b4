"""What `make gpu-bench` and `make gpu` run on a GPU runs to its figures where there is none."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from no_numbers import RUNTIME, learning_rates_are_positive

# At the end: `aevb_ext` is the one that is tested, in this folder or installed.
sys.path.append(str(Path(__file__).parents[2]))

from aevb_ext.learners import AEVB
from benchmarks import __main__ as benchmarks_main
from benchmarks import check, gpu_check, integrations, measure, memory, report, sanitized, sweeps, training
from benchmarks.cases import cases

pytestmark = pytest.mark.skipif(not RUNTIME, reason="the CPU build of PyTorch has no CUDA to time")


@pytest.fixture
def short(monkeypatch):
    """Few rows, few turns, nothing compiled (Triton needs a driver), and no values checked by others."""
    monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)
    few = [replace(case, shape=replace(case.shape, batch=24)) for case in cases("cuda")]
    monkeypatch.setattr(benchmarks_main, "cases", lambda device: few)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)

    def learner(*arguments, **options):
        with learning_rates_are_positive():
            return AEVB(*arguments, **options)

    monkeypatch.setattr(training, "AEVB", learner)
    for module, name, value in (
        (memory.gc, "collect", lambda: None),
        (measure, "TURNS", (1, 1)),
        (measure, "LAUNCHES", 1),
        (measure, "BURST_SECONDS", 0),
        (training, "BURST_SECONDS", 0),
        (integrations, "BURST_SECONDS", 0),
        (sweeps, "EFFORT", measure.Effort(0, 1)),
        (sweeps, "BATCH_EFFORT", measure.Effort(0, 1)),
        (sweeps, "DECADES", (1e3,)),
        (sweeps, "BETWEEN", (3e3,)),
        (sweeps, "BATCHES", {"cuda": (512,)}),
    ):
        monkeypatch.setattr(module, name, value)


def test_the_benchmarks(short, tmp_path, capsys):
    """Every piece; what is missing is other packages."""
    results = benchmarks_main.run(torch.device("cuda"), measure.Effort(0, 1), "", tmp_path, float("inf"), False)
    assert results["failed"] == [], capsys.readouterr().err
    counts = {kind: len(results[kind]) for kind in ("cases", "training", "by_elements", "by_batch")}
    assert counts == {"cases": len(cases("cuda")), "training": 2, "by_elements": 2 * len(sweeps.SCALED), "by_batch": 1}
    measured = [figures for kind in (*counts, "integrations") for figures in results[kind]]
    for figures in measured:
        assert all("not installed" in why or "No module named" in why for why in figures["failures"].values()), figures
        assert figures["failures"] or figures["seconds"]["ours"] > 0
    assert all(figures["synchronisations"] == 0 for figures in results["training"] + results["by_batch"])
    assert len(report.markdown(results).splitlines()) > 40 and check.report(results)[0]
    (written,) = tmp_path.glob("*.json")
    assert json.loads(written.read_text())["by_batch"] == results["by_batch"]


@pytest.mark.parametrize("batch", [8192, 65536])
def test_memory_of_a_training_step(short, batch):
    """A captured step takes no more than an eager one, beside what cuBLAS takes for itself: 32 MiB for each stream."""
    figures = training.measure(training.Training(batch), torch.device("cuda"), measure.Effort(0, 1))
    peaks = figures["peak_bytes"]
    assert batch * (784 + 2 * 500) * 4 < peaks["ours"] < peaks["eager: textbook"] + (64 << 20)


def test_what_the_sanitizer_watches(capsys):
    sanitized.main()
    assert capsys.readouterr().out == "720 results computed\n"


def test_the_machine_is_described():
    about = gpu_check.machine(torch)
    assert about["gpu"] == torch.cuda.get_device_name() and about["multiprocessors"] == 132
