"""Areas under ROC curves, linear classifiers, held-out labels, arrays in files."""

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from aevb_ext.data import Data, load
from aevb_ext.models import mlp_vae
from aevb_ext.train import Settings
from aevb_ext.uses import (
    L2S,
    NotConverged,
    auc,
    fit_logistic,
    held_out,
    linear_probe,
    probe_latents,
    probe_pixels,
    without_label,
    write_npy,
    write_scores,
    writing_npz,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("n, m, values", [(1, 1, 2), (5, 3, 2), (40, 60, 7), (300, 11, 1000)])
def test_auc_is_the_count_of_pairs(n, m, values):
    # Few values, so that many pairs are equal.
    normal = torch.randint(values, (n,), generator=generator(n)).double()
    anomalous = torch.randint(values, (m,), generator=generator(m)).double() + 1
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in anomalous.tolist() for b in normal.tolist()]
    found = auc(normal, anomalous).value
    assert found == pytest.approx(sum(pairs) / len(pairs), rel=1e-15)
    # Which kind is called anomalous, and how the scores are spaced.
    assert auc(anomalous, normal).value == pytest.approx(1 - found, abs=1e-15)
    assert auc(normal**3, anomalous**3).value == found


def test_auc_of_scores_that_tell_all_or_nothing():
    low, high = torch.arange(5.0), torch.arange(5.0, 9.0)
    assert auc(low, high).value == 1 and auc(high, low).value == 0
    assert auc(torch.zeros(6), torch.zeros(3)).value == 0.5
    assert auc(low, high).stderr == 0 and math.isnan(auc(low, high[:1]).stderr)
    infinite = torch.tensor([math.inf])
    assert auc(low, infinite).value == 1 and auc(infinite, infinite).value == 0.5


def test_the_standard_error_of_auc_is_its_spread():
    # Of two normal distributions a distance d apart the area is Phi(d / sqrt 2).
    true = torch.special.ndtr(torch.tensor(1 / 2**0.5, dtype=torch.float64)).item()
    g = generator()
    scores = []
    for _ in range(500):
        found = auc(torch.randn(70, generator=g), 1 + torch.randn(40, generator=g))
        scores.append((found.value - true) / found.stderr)
    scores = torch.tensor(scores)
    # Nearly Student's t of many degrees of freedom, whose variance is a little above 1: 500 of them have a mean within
    # 6 / sqrt(500), and a mean square within 6 sqrt(2 / 500) of that.
    assert abs(scores.mean()) < 6 / 500**0.5
    assert abs(scores.square().mean() - 1.03) < 6 * (2 / 500) ** 0.5


@pytest.mark.parametrize(
    "normal, anomalous, message",
    [
        (torch.zeros(0), torch.zeros(3), r"normal must be scores \[N\] of at least one data point, got shape \[0\]"),
        (torch.zeros(3), torch.zeros(2, 2), r"anomalous must be scores .* got shape \[2, 2\]"),
        (torch.zeros(3), torch.tensor([0.0, math.nan]), "anomalous has a score that is NaN, of data point 1"),
    ],
)
def test_scores_that_are_none_are_refused(normal, anomalous, message):
    with pytest.raises(ValueError, match=message):
        auc(normal, anomalous)


def classes(n=300, d=4, seed=0, spread=2.0):
    """Features about a centre for each label; the labels are not 0, 1, 2."""
    g = generator(seed)
    centres = spread * torch.randn(3, d, dtype=torch.float64, generator=generator(99))
    labels = torch.randint(3, (n,), generator=g)
    return centres[labels] + torch.randn(n, d, dtype=torch.float64, generator=g) + 5, labels * 3 + 1


@pytest.mark.parametrize("l2", [1e-1, 1e-4])
def test_at_the_solution_the_gradient_is_zero(l2):
    features, labels = classes()
    found = fit_logistic(features, labels, l2, tolerance=1e-8)
    assert found.classes.tolist() == [1, 4, 7]
    # By the formula: (softmax - one-hot)' f / N + l2 W, and its sum over the data for the bias.
    logits = features @ found.weight.T + found.bias
    error = (logits - logits.logsumexp(1, keepdim=True)).exp() - (labels[:, None] == found.classes).double()
    assert (error.T @ features / len(labels) + l2 * found.weight).abs().max() < 2e-7
    assert error.mean(0).abs().max() < 2e-8
    # There is but one, wherever one begins.
    start = fit_logistic(features, labels, 1.0)
    again = fit_logistic(features, labels, l2, start=start, tolerance=1e-8)
    # A gradient of 1e-8, which l2 at least curves.
    torch.testing.assert_close(again.weight, found.weight, rtol=0, atol=20 * 1e-8 / l2)
    assert (found.predict(features) == labels).double().mean() > 0.8


def test_features_that_say_nothing_leave_the_frequencies():
    labels = torch.tensor([0] * 5 + [1] * 15 + [2] * 80)
    found = fit_logistic(torch.ones(100, 2, dtype=torch.float64), labels, 1e-3, tolerance=1e-10)
    torch.testing.assert_close(found.bias.softmax(0), torch.tensor([0.05, 0.15, 0.8]).double(), rtol=1e-7, atol=0)
    assert found.weight.abs().max() < 1e-9


def test_a_logistic_regression_that_cannot_be_is_refused():
    features, labels = classes(20)
    with pytest.raises(ValueError, match=r"features must be \[N, D\] and labels \[N\], got \[20, 4\] and \[19\]"):
        fit_logistic(features, labels[1:], 1.0)
    with pytest.raises(ValueError, match="l2 must be a positive number, got 0"):
        fit_logistic(features, labels, 0)
    with pytest.raises(ValueError, match=r"at least two classes, got \[5\]"):
        fit_logistic(features, torch.full((20,), 5), 1.0)
    with pytest.raises(NotConverged, match="did not converge: its gradient is"):
        fit_logistic(features, labels, 1e-3, tolerance=1e-30)


def test_the_probe_takes_what_is_best_for_the_valid_split():
    # Thirty data points in 25 dimensions of which one matters: with little regularisation it is noise that is learnt.
    g = generator()
    features = torch.randn(2000, 25, dtype=torch.float64, generator=g)
    labels = (features[:, 0] + torch.randn(2000, dtype=torch.float64, generator=g) > 0).long()
    features[:, 0] *= 3
    splits = [(features[a:b], labels[a:b]) for a, b in ((0, 30), (30, 1000), (1000, 2000))]
    found = linear_probe(*splits)
    weak = fit_logistic(*splits[0], 1e-6)
    assert found.l2 > 1e-6
    assert found.valid_accuracy > (weak.predict(splits[1][0]) == splits[1][1]).double().mean()
    right = (found.classifier.predict(splits[2][0]) == splits[2][1]).double()
    assert found.count == 1000 and found.accuracy == pytest.approx(right.mean().item())
    assert found.stderr == pytest.approx(right.std(correction=0).item() / 1000**0.5, rel=1e-9)


def labelled(valid=True):
    """Bytes of which two say what the label is."""
    g = generator()
    splits = {}
    for split, n in (("train", 200), ("test", 50), ("valid", 40)):
        labels = torch.randint(3, (n,), generator=g)
        x = torch.randint(60, (n, 6), generator=g)
        x[:, 0] += 60 * labels
        x[:, 1] += 190 * (labels == 1)
        splits |= {split: x.to(torch.uint8), f"{split}_labels": labels}
    found = Data("marked", x_scale=1 / 255, **splits)
    return found if valid else replace(found, valid=None, valid_labels=None)


@pytest.mark.parametrize("valid", [True, False])
def test_what_pixels_say_is_read_off_them(valid):
    found = probe_pixels(labelled(valid))
    assert found.accuracy == 1 and found.classifier.weight.shape == (3, 6)
    # Of those that do as well the strongest.
    assert found.valid_accuracy == 1 and found.l2 == L2S[0]


def test_what_latents_do_not_say_is_not_read_off_them():
    data = labelled()
    vae = mlp_vae(6, latent=2, hidden=4, x_scale=data.x_scale)
    with torch.no_grad():
        vae.encoder[0].weight[:, :2] = 0
    # Chance, and at most the luck of guessing one of three among 50: beyond 5 standard errors at a rate below 1e-6.
    assert probe_latents(vae, data).accuracy < 1 / 3 + 5 * (2 / 9 / 50) ** 0.5
    with torch.no_grad():
        vae.encoder[0].weight.zero_()
        vae.encoder[0].weight[0, 0] = vae.encoder[0].weight[1, 1] = 1
        vae.encoder[2].weight.copy_(torch.eye(4))
        vae.encoder[0].bias.zero_()
    assert probe_latents(vae, data).accuracy == 1


def test_a_probe_needs_labels():
    for split in ("train", "valid", "test"):
        with pytest.raises(ValueError, match=f"marked has no labels of its {split} split"):
            probe_pixels(replace(labelled(), **{f"{split}_labels": None}))


def test_without_a_label_none_of_it_is_left():
    data = labelled()
    rest = without_label(data, 1)
    assert rest.name == "marked without 1" and rest.source is None
    for split in ("train", "test", "valid"):
        (x, labels), (all_x, all_labels) = rest.split(split), data.split(split)
        assert torch.equal(x, all_x[all_labels != 1]) and torch.equal(labels, all_labels[all_labels != 1])
    # Rows in files, too.
    stored = replace(data, train=load("digits", binarize="dynamic").train, train_labels=load("digits").train_labels)
    assert len(without_label(stored, 0).train) == (stored.train_labels != 0).sum()
    with pytest.raises(ValueError, match="nothing but the label 1 in its test split"):
        without_label(replace(data, test_labels=torch.ones(50, dtype=torch.int64)), 1)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """How label 1 stands out, and where it was found out: a function that does it again."""
    out = tmp_path_factory.mktemp("held-out")

    def run(**options):
        return list(
            held_out(
                labelled(),
                lambda data: mlp_vae(data.dim, latent=2, hidden=8, x_scale=data.x_scale, generator=generator()),
                Settings(samples_seen=400, batch_size=20, evaluate_every=400),
                out,
                n_samples=3,
                **{"labels": [1]} | options,
            )
        )

    return run, out, run()


def test_held_out_scores_are_in_the_file(experiment):
    _, out, (result,) = experiment
    with open(out / "without-1" / "scores.csv") as file:
        rows = list(csv.DictReader(file))
    labels = labelled().test_labels
    assert [int(row["label"]) for row in rows] == labels.tolist()
    assert [int(row["index"]) for row in rows] == list(range(50))
    for name, found in (("bound", result.bound), ("iwae", result.iwae)):
        scores = torch.tensor([float(row[name]) for row in rows], dtype=torch.float64)
        assert auc(scores[labels != 1], scores[labels == 1]) == found
        if name == "bound":
            assert result.mean_anomalous == pytest.approx(-scores[labels == 1].mean().item())
    assert (result.label, result.anomalous, result.normal) == (1, (labels == 1).sum(), (labels != 1).sum())


def test_a_held_out_label_goes_on_where_it_was(experiment):
    run, out, (result,) = experiment
    lines = (out / "without-1" / "metrics.jsonl").read_text().count('"evaluation"')
    assert run() == [result]
    assert (out / "without-1" / "metrics.jsonl").read_text().count('"evaluation"') == lines
    with pytest.raises(ValueError, match=r"labels must be among \[0, 1, 2\], which marked has, got \[3\]"):
        run(labels=[1, 3])


def test_held_out_needs_labels_that_are_in_the_test(tmp_path):
    settings = Settings(samples_seen=400)
    for change, message in (
        ({"test_labels": None}, "no labels of its test split"),
        ({"test_labels": torch.zeros(50, dtype=torch.int64)}, "has 50 data points of 50 with the label 0"),
    ):
        with pytest.raises(ValueError, match=message):
            next(held_out(replace(labelled(), **change), None, settings, tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_scores_without_labels(tmp_path):
    write_scores(tmp_path / "s.csv", None, {"score": torch.tensor([0.1, -2.5], dtype=torch.float64)})
    assert (tmp_path / "s.csv").read_text() == "index,label,score\n0,,0.1\n1,,-2.5\n"


def test_arrays_are_written_a_block_at_a_time(tmp_path):
    x, index = torch.randn(10, 3, 2), torch.arange(10)
    write_npy(tmp_path / "x.npy", iter(x.split(4)), 10)
    assert np.array_equal(np.load(tmp_path / "x.npy"), x.numpy())
    with writing_npz(tmp_path / "x.npz") as write:
        write("x", iter(x.transpose(1, 2).split(3)), 10)
        write("index", [index], 10)
    with np.load(tmp_path / "x.npz") as found:
        assert found.files == ["x", "index"]
        assert np.array_equal(found["x"], x.transpose(1, 2).numpy()) and np.array_equal(found["index"], index.numpy())
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="blocks have 10 rows, expected 11"):
        write_npy(tmp_path / "y.npy", x.split(4), 11)
    with pytest.raises(ValueError, match="blocks differ"), writing_npz(tmp_path / "y.npz") as write:
        write("x", [x, x.double()], 20)
    with pytest.raises(FileNotFoundError, match="none"):
        write_npy(tmp_path / "none" / "x.npy", [x], 10)
    assert sorted(tmp_path.iterdir()) == before
