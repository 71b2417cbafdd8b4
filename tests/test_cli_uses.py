"""The subcommands that use a trained model: what they write, and how they fail."""

import csv
import re
import shutil

import numpy as np
import pytest
import torch

from aevb_ext.cli import main
from aevb_ext.data import load
from aevb_ext.estimators import bound_values
from aevb_ext.train import load_checkpoint
from aevb_ext.uses import auc

pytestmark = pytest.mark.once("what the verbs write is Python; test_uses.py and test_cli_help.py run what they call")

image, colormaps = pytest.importorskip("matplotlib.image"), pytest.importorskip("matplotlib").colormaps
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("uses") / "run"
    assert main(["train", "--hidden", "16", "--latent", "3", "--samples-seen", "3000", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def no_images(tmp_path_factory):
    """A run on data points that are no pictures."""
    folder = tmp_path_factory.mktemp("flat")
    np.save(folder / "x.npy", np.random.RandomState(0).rand(30, 5).astype(np.float32))
    arguments = ["--hidden", "4", "--latent", "3", "--samples-seen", "100", "--out", str(folder / "run")]
    assert main(["train", "--data", str(folder / "x.npy"), *arguments]) == 0
    return folder / "run"


def size(path):
    with Image.open(path) as image:
        return image.size


def test_sample_writes_arrays_beside_the_picture(run, tmp_path, capsys):
    outs = [tmp_path / name for name in ("a.png", "a.npy", "a.npz")]
    arguments = [argument for out in outs for argument in ("--out", str(out))]
    assert main(["sample", str(run), "--n", "1003", *arguments]) == 0
    assert capsys.readouterr().out == "".join(f"written to {out}\n" for out in outs)
    x = np.load(outs[1])
    assert x.shape == (1003, 32, 32) and 0 <= x.min() <= x.max() <= 1
    assert np.array_equal(np.load(outs[2])["x"], x)
    # Fewer are the first ones; draws are bits with that mean; another seed is another draw.
    assert main(["sample", str(run), "--n", "12", "--out", str(tmp_path / "b.npy")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "b.npy"), x[:12], rtol=1e-5)
    assert main(["sample", str(run), "--n", "1003", "--sampled", "--out", str(tmp_path / "b.npy")]) == 0
    bits = np.load(tmp_path / "b.npy")
    assert set(np.unique(bits)) == {0, 1}
    assert abs((bits - x).sum()) < 6 * (x * (1 - x)).sum() ** 0.5
    assert main(["sample", str(run), "--n", "12", "--seed", "1", "--out", str(tmp_path / "b.npy")]) == 0
    assert not np.array_equal(np.load(tmp_path / "b.npy"), x[:12])


def test_augment_writes_variants_that_can_be_trained_on(run, tmp_path, capsys):
    out = tmp_path / "more.npz"
    assert main(["augment", str(run), "--split", "test", "--n", "2", "--temperature", "0", "--out", str(out)]) == 0
    digits = load("digits")
    with np.load(out) as found:
        assert found["train"].shape == (594, 32, 32) and found["train"].dtype == np.float32
        assert found["index"].tolist() == [i // 2 for i in range(594)]
        assert found["labels"].tolist() == digits.test_labels.repeat_interleave(2).tolist()
        expected = load_checkpoint(run).model.reconstruct(digits.test).detach().reshape(-1, 32, 32)
        np.testing.assert_allclose(found["train"][::2], expected, rtol=1e-5)
        assert np.array_equal(found["train"][::2], found["train"][1::2])
    # Ten rows of an original and two variants: much higher than wide.
    width, height = size(tmp_path / "more.png")
    assert height > 2 * width
    arguments = ["--hidden", "4", "--samples-seen", "100", "--out", str(tmp_path / "again")]
    assert main(["train", "--data", str(out), *arguments]) == 0
    assert load_checkpoint(tmp_path / "again").image_shape == (32, 32)


def test_augment_goes_further_with_the_temperature(run, tmp_path):
    expected = load_checkpoint(run).model.reconstruct(load("digits").test).detach().reshape(-1, 32, 32).numpy()
    distances = []
    for temperature in ("0.5", "1", "2"):
        out = tmp_path / f"{temperature}.npz"
        arguments = ["--split", "test", "--n", "1", "--temperature", temperature, "--out", str(out)]
        assert main(["augment", str(run), *arguments]) == 0
        distances.append(np.abs(np.load(out)["train"] - expected).mean())
    assert 0 < distances[0] < distances[1] < distances[2]


def test_encode_writes_the_posterior_of_each_data_point(run, tmp_path):
    assert main(["encode", str(run), "--out", str(tmp_path / "z.npz")]) == 0
    digits = load("digits")
    mu, logvar = load_checkpoint(run).model.posterior(digits.train)
    with np.load(tmp_path / "z.npz") as found:
        np.testing.assert_allclose(found["mean"], mu.detach(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found["logvar"], logvar.detach(), rtol=1e-4, atol=1e-5)
        assert found["labels"].tolist() == digits.train_labels.tolist()


def test_encode_draws_the_means_coloured_by_label(run, tmp_path, capsys):
    """A cloud of each of ten labels, in colours of their own, all of the means within the axes."""
    out = tmp_path / "z.png"
    assert main(["encode", str(run), "--out", str(out), "--dims", "1", "0"]) == 0
    assert "the means of z1 and z0 of 1500 data points" in capsys.readouterr().out
    pixels = image.imread(out)[..., :3].reshape(-1, 3)
    for colour in colormaps["tab10"].colors:  # in the legend at least, where it is not mixed with others
        assert (np.abs(pixels - np.array(colour)).max(1) < 0.01).any()
    for dims in (["0", "0"], ["0", "99"], ["-1", "0"]):
        assert main(["encode", str(run), "--out", str(out), "--dims", *dims]) == 1
        assert "--dims: a picture is of two of the" in capsys.readouterr().err


def test_anomaly_writes_minus_the_bound(run, tmp_path, capsys):
    model, digits = load_checkpoint(run).model, load("digits")
    for options, how in (([], {}), (["--estimator", "iwae", "--samples", "4"], {"estimator": "iwae", "n_samples": 4})):
        assert main(["anomaly", str(run), "--out", str(tmp_path / "s.csv"), *options]) == 0
        with open(tmp_path / "s.csv") as file:
            rows = list(csv.DictReader(file))
        scores = torch.tensor([float(row["score"]) for row in rows], dtype=torch.float64)
        torch.testing.assert_close(scores, -bound_values(model, digits.test, **how), rtol=1e-5, atol=0)
        assert [int(row["label"]) for row in rows] == digits.test_labels.tolist()
        assert re.search(rf"297 scores, mean {scores.mean():.2f} nats", capsys.readouterr().out)


def test_held_out_prints_the_table_that_it_writes(tmp_path, capsys):
    arguments = ["held-out", "--hidden", "8", "--samples-seen", "500", "--k", "2", "--labels", "1", "7"]
    for _ in range(2):
        # The second time nothing is left to train.
        assert main([*arguments, "--out", str(tmp_path)]) == 0
        printed = capsys.readouterr().out
        with open(tmp_path / "auc.csv") as file:
            rows = list(csv.DictReader(file))
        assert [row["label"] for row in rows] == ["1", "7"] and {row["samples_seen"] for row in rows} == {"500"}
        for row in rows:
            with open(tmp_path / f"without-{row['label']}" / "scores.csv") as file:
                scores = list(csv.DictReader(file))
            kinds = [
                torch.tensor([float(s["bound"]) for s in scores if (s["label"] == row["label"]) == held_out])
                for held_out in (False, True)
            ]
            assert auc(*kinds).value == pytest.approx(float(row["auc_bound"]), abs=1e-3)
            assert re.search(rf"^ +{row['label']} +{row['anomalous']} +{float(row['auc_bound']):.4f} ", printed, re.M)
    settings = (tmp_path / "without-1" / "config.toml").read_text()
    assert 'data = "digits without 1"' in settings and "samples_seen = 500" in settings


def test_probe_tells_accuracies(no_images, run, capsys, monkeypatch):
    # Few of its pixels, so that it is quick.
    monkeypatch.setattr("aevb_ext.uses.probe.L2S", (1e-2,))
    assert main(["probe", str(run)]) == 0
    printed = capsys.readouterr().out
    found = re.findall(r"(.+): accuracy (0\.\d{4}) \+- (0\.\d{4}) \(297 points; (\d+) features, l2 0\.01\)", printed)
    assert [(name, features) for name, _, _, features in found] == [("latent means", "3"), ("pixels", "1024")]
    # A linear classifier of these digits is known to be right about 95 times of 100.
    assert float(found[1][1]) > 0.9 > float(found[0][1])
    for _, accuracy, stderr, _ in found:
        p = float(accuracy)
        assert float(stderr) == pytest.approx((p * (1 - p) / 297) ** 0.5, abs=1e-4)


def test_pictures_of_latent_space(run, tmp_path):
    out = tmp_path / "p.png"
    assert main(["manifold", str(run), "--dims", "2", "0", "--side", "5", "--out", str(out)]) == 0
    assert size(out)[0] == size(out)[1]
    assert main(["interpolate", str(run), "--pair", "0", "296", "--steps", "6", "--out", str(out)]) == 0
    width, height = size(out)
    # A row of eight images.
    assert 8 < width / height < 10
    assert main(["interpolate", str(run), "--out", str(out)]) == 0


def test_data_that_are_no_pictures_have_arrays_alone(no_images, tmp_path, capsys):
    out = tmp_path / "x.npz"
    assert main(["sample", str(no_images), "--n", "7", "--out", str(out)]) == 0
    assert np.load(out)["x"].shape == (7, 5)
    assert main(["augment", str(no_images), "--out", str(out)]) == 0
    with np.load(out) as found:
        assert found.files == ["train", "index"] and found["train"].shape == (135, 5)
    assert main(["anomaly", str(no_images), "--out", str(tmp_path / "s.csv")]) == 0
    assert re.fullmatch(r"0,,\S+", (tmp_path / "s.csv").read_text().splitlines()[1])
    assert {path.name for path in tmp_path.iterdir()} == {"x.npz", "s.csv"}


@pytest.mark.parametrize(
    "verb, arguments, message",
    [
        ("sample", ["--out", "x.png"], "whose data points are not images"),
        ("interpolate", ["--out", "x.png"], "whose data points are not images"),
        ("manifold", ["--out", "x.png"], "whose data points are not images"),
        ("probe", [], "no labels of its train split"),
        ("encode", ["--out", "x.npz", "--split", "valid"], "has no valid split"),
    ],
)
def test_mistakes_are_named(no_images, verb, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([verb, str(no_images), *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and re.search(f"aevb: error: .*{message}", captured.err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "verb, arguments, message",
    [
        ("manifold", ["--out", "x.png"], r"z has 3: say which two \(from 0 to 2\)"),
        ("manifold", ["--out", "x.png", "--dims", "0", "3"], "dims must be two different dimensions from 0 to 2"),
        ("interpolate", ["--out", "x.png", "--pair", "0", "297"], "--pair: the test split has .* 0 to 296, got 297"),
        ("interpolate", ["--out", "x.png", "--steps", "1"], "steps must be an integer, at least 2"),
    ],
)
def test_mistakes_about_pictures_are_named(run, verb, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([verb, str(run), *arguments]) == 1
    assert re.search(f"aevb: error: .*{message}", capsys.readouterr().err)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["augment", "encode", "probe", "anomaly", "interpolate"])
def test_a_run_whose_encoder_has_not_learnt_is_refused(run, verb, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    config.write_text(config.read_text().replace('learner = "aevb"', 'learner = "mcem"'))
    written = {"augment": "x.npz", "encode": "x.npz", "anomaly": "x.csv", "interpolate": "x.png"}
    out = ["--out", str(tmp_path / written[verb])] if verb in written else []
    assert main([verb, str(tmp_path / "run"), *out]) == 1
    assert "was trained by mcem, which trains no encoder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_mistakes_about_held_out_are_named(tmp_path, capsys):
    assert main(["held-out", "--out", str(tmp_path), "--learner", "mcem", "--score", "marginal"]) == 1
    assert "learner: mcem trains no encoder" in capsys.readouterr().err
    assert main(["held-out", "--out", str(tmp_path), "--labels", "10"]) == 1
    assert "labels must be among [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], which digits has, got [10]" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["augment", "r", "--out", "x.npz", "--temperature", "-1"],
        ["augment", "r", "--out", "x.npz", "--temperature", "nan"],
    ],
)
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "expected a finite number of at least 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verb", "kinds"),
    [
        ("sample", [".png", ".npy", ".npz"]),
        ("augment", [".npz"]),
        ("encode", [".npz", ".png"]),
        ("anomaly", [".csv"]),
        ("manifold", [".png"]),
        ("interpolate", [".png"]),
        ("report", [".html"]),
        ("compare", [".html"]),
    ],
)
def test_what_out_may_be_is_said_before_anything_is_read(verb, kinds, tmp_path, monkeypatch, capsys):
    """A file of a kind that the verb writes, in a folder that there is; then only is it missed that there is no run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"folder{kinds[0]}").mkdir()
    expected = f"expected {' or '.join(f'FILE{kind}' for kind in kinds)}, got "
    for out, message in (
        ("x.jpg", expected),
        ("x", expected),
        ("", expected),
        (f"none/x{kinds[0]}", "there is no folder none to write"),
        (f"folder{kinds[0]}", f"folder{kinds[0]} is a folder, expected a file"),
        (f"{'x' * 300}/x{kinds[0]}", r"'x+/x\.\w+' cannot be a file: .*File name too long"),
    ):
        with pytest.raises(SystemExit) as ended:
            main([verb, "r", "--out", out])
        assert ended.value.code == 2
        assert re.search(f"aevb {verb}: error: argument --out: {message}", capsys.readouterr().err)
    for kind in [*kinds, kinds[0].upper()]:
        assert main([verb, "r", "--out", f"x{kind}"]) == 1
        assert "aevb: error: there is no" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [f"folder{kinds[0]}"]
