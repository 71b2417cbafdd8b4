"""Callbacks and reports: progress on a terminal and elsewhere, pictures, the history in a notebook, HTML pages."""

import html
import io
import json
import os
import re
import sys
import xml.etree.ElementTree as xml
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aevb_ext.configuration.saved_run import SavedRun, open_run
from aevb_ext.data import Data, TensorRows
from aevb_ext.estimators import latent_use
from aevb_ext.models import mlp_vae
from aevb_ext.plots import curve, evaluations, reconstructions
from aevb_ext.report import compare, comparison, report
from aevb_ext.train import Callback, History, fit
from aevb_ext.train.callbacks import Pictures, Progress, TensorBoard
from aevb_ext.train.run import Record

pytestmark = pytest.mark.once("text, pictures and pages")

Console = pytest.importorskip("rich.console").Console


def model(latent=2):
    return mlp_vae(6, latent=latent, hidden=4, generator=torch.Generator().manual_seed(0))


def data():
    x = torch.rand(60, 6, generator=torch.Generator().manual_seed(0))
    return Data("small", x[20:], x[:20], image_shape=(2, 3))


def trained(*callbacks, **options):
    settings = {"samples_seen": 2000, "batch_size": 20, "evaluate_every": 500, "log_every": 10}
    settings |= {"optimizer": "adam"} | options
    return fit(model(), data(), progress=False, callbacks=callbacks, **settings)


def shown(terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=120)
    with Progress(console=console) as progress:
        result = trained(progress)
    return file.getvalue(), result


def test_a_line_for_each_evaluation_where_there_is_no_terminal():
    text, result = shown(terminal=False)
    lines = text.splitlines()
    assert len(lines) == len(result.history) == 4 and "\x1b" not in text
    for line, record in zip(lines, result.history, strict=True):
        assert f"{record.samples_seen:,} of 2,000 samples" in line
        assert f"train {record.train:.2f}  test {record.test:.2f} nats" in line
        assert re.search(r"bound -\d+\.\d\d  KL \d+\.\d\d  [\d,]+/s  \d+:\d\d:\d\d left", line)


def test_a_bar_on_a_terminal():
    text, result = shown(terminal=True)
    # It is drawn over itself, and at its end says the last of everything.
    assert "\x1b[" in text and "samples" not in text
    drawn = re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]", "", text)
    assert "100%" in drawn and "left" in drawn and re.search(r"KL \d", drawn)
    assert f"test {result.history[-2].test:.2f}" in drawn


def test_pictures_are_drawn_anew_when_their_time_has_come(tmp_path, monkeypatch):
    now = 0.0
    monkeypatch.setattr("aevb_ext.train.callbacks.time.perf_counter", lambda: now)
    drawn = []

    class Clock(Callback):
        """An hour, in minutes, between two evaluations; and when it was that the pictures were drawn."""

        def on_evaluation(self, run, record):
            nonlocal now
            drawn.append((tmp_path / "curve.png").is_file())
            (tmp_path / "curve.png").unlink(missing_ok=True)
            now += 60

    trained(Pictures(tmp_path, every=100), Clock())
    # Evaluations are at 0, 60, 120 and 180; the pictures at 120, and at the end.
    assert drawn == [False, False, True, False]
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.png" for name in PICTURES}


PICTURES = ("curve", "manifold", "reconstructions", "samples")


def test_the_history_in_a_notebook():
    history = trained().history
    shown = history._repr_html_()
    # One tree (the prefix is HTML's own), of a chart and a table with a line for each evaluation under its header.
    tree = xml.fromstring(f"<html>{shown.replace('xlink:', '')}</html>")
    assert len(tree.findall(".//svg")) == 1 and len(tree.findall(".//table/tr")) == 1 + len(history)
    assert f"{history[-1].test:.2f} ± {history[-1].test_stderr:.2f}" in "".join(tree.itertext())
    assert History()._repr_html_() == "[]" and history.best() == max(history, key=lambda record: record.test)


def test_rows_that_stay_in_their_file_are_looked_at_a_few_at_a_time():
    class Counting(TensorRows):
        resident = False
        asked = ()

        def gather(self, index, keys=None):
            self.asked = (*self.asked, len(index))
            return super().gather(index, keys)

    x, vae = torch.rand(2500, 6), model()
    rows = Counting(x)
    use, expected = latent_use(vae, rows), latent_use(vae, x)
    assert rows.asked == (1000, 1000, 500)
    assert torch.equal(use.kl, expected.kl) and torch.equal(use.variance, expected.variance)
    rows = Counting(x)
    canvas = reconstructions(vae, rows, (2, 3), columns=5, rows=2)
    assert rows.asked == (10,) and canvas.nan_to_num().equal(reconstructions(vae, x, (2, 3), 5, 2).nan_to_num())


@pytest.mark.filterwarnings("error")
def test_one_data_point_has_no_standard_error(tmp_path):
    x = data().train
    settings = {"samples_seen": 40, "batch_size": 20, "optimizer": "adam", "progress": False}
    result = fit(model(), Data("one", x, x[:1], image_shape=(2, 3)), out=tmp_path / "run", **settings)
    assert (str(result.test), result.test.told) == (f"{result.test.mean:.2f}", f"{result.test.mean:.2f} nats (1 point)")
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test_stderr"] is last["train_stderr"] is None and last["test"] == result.test.mean
    cell = f"<td>{result.test.mean:.2f}</td>"
    for page in (report(open_run(tmp_path / "run")), result.history._repr_html_()):
        assert cell in page and "nan" not in page
    # It goes on from there as any run does.
    fit(model(), Data("one", x, x[:1], image_shape=(2, 3)), out=tmp_path / "run", resume=True, **settings)


def test_what_was_skipped_is_on_the_page():
    line = {"test": -1.5, "test_stderr": 0.25, "test_skipped": 2, "train": -1.0, "train_stderr": None}
    assert [evaluations.bound(line, split) for split in evaluations.SPLITS] == [
        "-1.50 ± 0.25 (2 skipped)",
        "-",
        "-1.00",
    ]


def test_tensorboard_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install tensorboard$"):
        TensorBoard()


def saved(name, **config):
    return SavedRun(Path(name), None, config, {}, [], [], [])


def test_a_comparison_has_what_differs_also_of_the_model():
    first = saved("first", lr=0.1, seed=1, model={"latent": 2, "hidden": 5})
    second = saved("second", lr=0.2, seed=1, model={"latent": 3, "hidden": 5})
    header, rows = comparison([first, second])
    assert header == ["run", "samples seen", "time", "samples/s", "lr", "model.latent"]
    assert [row[-2:] for row in rows] == [["0.1", "2"], ["0.2", "3"]]


def test_the_name_of_a_folder_is_text(resumed):
    """Neither mathematics, which matplotlib would set or refuse, nor hidden from the legend, nor HTML."""
    names = ["$\\frac{1}$", "$x_1$", "_hidden", "<b>", os.fsdecode(b"\xff")]
    page = compare([replace(resumed, folder=Path("/") / name) for name in names])
    charts = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    expected = [*map(html.escape, names[:-1]), "\ufffd"]
    assert charts and all(f">{name}</text>" in chart for chart in charts for name in expected)
    assert all(f"<td>{name}</td>" in page for name in expected) and page.encode()
    history = [Record(seen, 1, 1.0, -2.0, 0.1, -2.0, 0.1) for seen in (1, 10)]
    assert curve(history, names[0]).startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def resumed(tmp_path_factory):
    out = tmp_path_factory.mktemp("watching") / "run"
    settings = {"samples_seen": 1000, "batch_size": 20, "progress": False, "out": out}
    fit(model(), data(), **settings)
    fit(model(), data(), **settings | {"samples_seen": 2000, "lr": 0.5}, resume=True, override=["lr"])
    return open_run(out)


def test_a_page_says_where_a_run_went_on_and_what_changed(resumed):
    page = report(resumed, model(), data())
    assert [line["steps"] for line in resumed.resumptions] == [50]
    rows = [re.findall(r"<td>(.*?)</td>", row) for row in re.findall(r"<tr>.*?</tr>", page)]
    (row,) = [row for row in rows if row and "lr:" in row[-1]]
    assert row[:2] == ["1,000", "50"] and row[-1] == "samples_seen: 1000 to 2000, lr: 0.02 to 0.5"
    assert "Resumed" not in report(SavedRun(*[*vars(resumed).values()][:-1], []))


def test_a_page_without_pictures_says_why(resumed):
    page = report(resumed, missing="There is no <checkpoint>.")
    assert "There is no &lt;checkpoint&gt;." in page and "<img" not in page
    assert json.dumps(resumed.config["batch_size"]) in page
