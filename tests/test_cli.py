"""The command `aevb`: what it writes, what it prints, and how it fails."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from aevb_ext.cli import main
from aevb_ext.data import Data, load
from aevb_ext.models import mlp_vae
from aevb_ext.train import fit

pytestmark = pytest.mark.once("what the command writes and says is Python; test_cli_help.py runs each verb")

Image = pytest.importorskip("PIL.Image")

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

QUICK = ["train", "--hidden", "16", "--latent", "2", "--samples-seen", "1.5e4"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main([*QUICK, "--out", str(out)]) == 0
    return out


def test_train_writes_everything(run):
    names = {path.name for path in run.iterdir()}
    pictures = {"curve.png", "manifold.png", "reconstructions.png", "samples.png"}
    assert names == {"best.safetensors", "checkpoints", "config.toml", "environment.json", "metrics.jsonl"} | pictures


def test_evaluate_gives_the_bound_of_the_run(run, capsys):
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    newest = max((run / "checkpoints").iterdir())
    assert main(["evaluate", str(newest), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert f"test bound {last['test']:.2f} +- {last['test_stderr']:.2f} nats (297 points)" in printed
    assert re.search(r"train bound -\d+\.\d\d \+- \d+\.\d\d nats \(1500 points\)", printed)
    # The estimators are of the same bound: within 5 of the standard error of either's noise over the data.
    assert main(["evaluate", str(newest), "--estimator", "a", "--samples", "3"]) == 0
    other = float(re.search(r"test bound (\S+)", capsys.readouterr().out)[1])
    assert abs(other - last["test"]) < 5 * last["test_stderr"]


def test_evaluate_with_many_samples_is_tighter(run, capsys):
    bounds = []
    for options in (["b", "--samples", "1"], ["iwae", "--samples", "1500"]):
        assert main(["evaluate", str(run), "--split", "test", "--estimator", *options]) == 0
        printed = capsys.readouterr().out
        assert printed.count("bound") == 1 and "(297 points)" in printed
        bounds.append(float(re.search(r"test bound (\S+)", printed)[1]))
    assert bounds[0] + 0.1 < bounds[1] < 0


def test_evaluate_estimates_the_log_likelihood(run, capsys):
    """Three ways to the same number, each with its own errors of it."""
    pattern = r"test log p\(x\) (\S+) \+- (\S+) nats \(3 points\)"
    found = {}
    for estimator in ("marginal", "ais", "quadrature"):
        assert main(["evaluate", str(run), "--split", "test", "--count", "3", "--estimator", estimator]) == 0
        printed = capsys.readouterr().out
        found[estimator] = float(re.search(pattern, printed)[1])
        told = re.search(
            r"\+- (\S+) of it by the noise, effective sample size \S+ of (\d+) \(median\), acceptance \d\d%", printed
        )
        assert (told is None) == (estimator == "quadrature")
    assert found["marginal"] == pytest.approx(found["quadrature"], abs=0.5)
    assert found["ais"] == pytest.approx(found["quadrature"], abs=0.5)


def test_evaluate_tells_the_noise_and_what_is_not_to_be_trusted(run, tmp_path, capsys):
    bound = ["evaluate", str(run), "--split", "test", "--count", "50"]
    assert main([*bound, "--repeats", "3"]) == 0
    assert re.search(r"\(50 points\), \+- 0\.\d+ of it by the noise$", capsys.readouterr().out.strip())
    other = tmp_path / "other"
    assert main([*QUICK[:3], "--latent", "6", "--samples-seen", "200", "--out", str(other)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(other), "--split", "test", "--count", "3", "--estimator", "marginal"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("test log p(x) ")
    (line,) = [line for line in printed.err.splitlines() if line.startswith("warning: ")]
    assert "up to about 5 latent dimensions, and the model has 6" in line
    assert "latent must be at most 3" in failure(capsys, "evaluate", other, "--estimator", "quadrature")
    assert "quadrature draws none" in failure(capsys, "evaluate", run, "--estimator", "quadrature", "--samples", "2")
    assert "--repeats" in failure(capsys, "evaluate", run, "--estimator", "ais", "--repeats", "2")


def test_evaluate_refuses_the_bound_of_an_encoder_that_was_not_trained(run, tmp_path, capsys):
    copy = tmp_path / "mcem"
    shutil.copytree(run, copy)
    config = (copy / "config.toml").read_text()
    assert 'learner = "aevb"' in config
    (copy / "config.toml").write_text(config.replace('learner = "aevb"', 'learner = "mcem"'))
    said = failure(capsys, "evaluate", copy, "--estimator", "b")
    assert "the run's learner mcem trains none: take one of marginal, ais, quadrature" in said


def test_sample_writes_a_picture(run, tmp_path):
    for n in ("1", "7"):
        picture = tmp_path / f"{n}.png"
        assert main(["sample", str(run), "--out", str(picture), "--n", n]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")


def test_epochs_are_passes_over_the_training_data(tmp_path):
    out = tmp_path / "run"
    arguments = [
        "train",
        "--hidden",
        "8",
        "--epochs",
        "2",
        "--out",
        str(out),
        "--optimizer",
        "adam",
        "--estimator",
        "a",
    ]
    assert main([*arguments, "--samples", "2", "--batch-size", "50", "--likelihood", "gaussian"]) == 0
    config = tomllib.loads((out / "config.toml").read_text())
    assert config["samples_seen"] == 2 * 1500 and config["lr"] == 1e-3 and config["batch_size"] == 50
    assert config["model"]["latent"] == 5 and config["model"]["hidden"] == 8
    assert config["model"]["likelihood"] == "gaussian" and config["n_samples"] == 2


def test_runs_without_out_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["train", "--hidden", "4", "--samples-seen", "100"]) == 0
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"digits-1", "digits-2"}


def failure(capsys, *arguments):
    assert main([str(a) for a in arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def test_failures_say_why(run, tmp_path, capsys):
    out = tmp_path / "new"
    assert re.match("aevb: error: --out: .*not empty.*--resume", failure(capsys, *QUICK, "--out", run))
    assert "MNIST is not there" in failure(capsys, "train", "--data", "mnist", "--data-dir", tmp_path, "--out", out)
    assert "--data-dir" in failure(capsys, "train", "--data", "freyface", "--download", "--out", out)
    assert "lr must be" in failure(capsys, *QUICK, "--lr", "0", "--out", out)
    assert "device 'abacus'" in failure(capsys, *QUICK, "--device", "abacus", "--out", out)
    assert "there is no checkpoint" in failure(capsys, "evaluate", tmp_path / "none.safetensors")
    assert "digits has no valid split" in failure(capsys, "evaluate", run, "--split", "valid")
    picture = tmp_path / "x.png"
    assert "there is no checkpoint" in failure(capsys, "sample", tmp_path / "none.safetensors", "--out", picture)
    assert "error: --epochs and --samples-seen" in failure(capsys, *QUICK, "--epochs", "3", "--out", out)
    assert "cifar" in failure(capsys, "train", "--data", "cifar", "--out", out)
    assert list(tmp_path.iterdir()) == []
    truncated = tmp_path / "c.safetensors"
    truncated.write_bytes((run / "best.safetensors").read_bytes()[:-10])
    assert "truncated" in failure(capsys, "sample", truncated, "--out", tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == [truncated]


def test_divergence_is_a_failure_with_a_step(tmp_path, capsys):
    message = failure(capsys, *QUICK, "--optimizer", "sgd", "--lr", "1e30", "--out", tmp_path / "run")
    assert re.search(r"the bound is not finite at step \d+: .*smaller learning rate", message)


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--latent", "0"],
        ["train", "--samples-seen", "0.5"],
        ["sample", "c.safetensors"],
        ["train", "--latent", "five"],
        ["train", "--samples-seen", "inf"],
        ["fly"],
        [],
    ],
    ids=" ".join,
)
def test_usage_errors(arguments, capsys):
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2 and "usage: aevb" in capsys.readouterr().err


def test_a_flag_that_there_is_not_is_told_the_nearest(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--latnt", "5"])
    message = capsys.readouterr().err
    assert message.endswith("aevb train: error: there is no argument --latnt: --latent?\n")


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "aevb_ext", "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and re.fullmatch(
        r"aevb \d+\.\d+\.\d+\S*\n", done.stdout
    )  # an installed one has the commit


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_missing_gpu_is_named(tmp_path, capsys):
    assert "sees no CUDA device" in failure(capsys, *QUICK, "--device", "cuda", "--out", tmp_path / "run")


def test_a_run_goes_on_and_its_configuration_makes_it_again(run, tmp_path, capsys):
    out = tmp_path / "again"
    assert main(["train", "--config", str(run / "config.toml"), "--out", str(out), "--samples-seen", "1e4"]) == 0
    assert "not empty" in failure_of(["train", "--config", str(run / "config.toml"), "--out", str(out)], capsys)
    # Its own configuration is the one it goes on with.
    again = ["train", "--out", str(out), "--resume", "--samples-seen", "1.5e4"]
    assert "lr: 0.02 -> 0.5" in failure_of([*again, "--lr", "0.5"], capsys)
    assert main(again) == 0
    bounds = [
        [json.loads(line)["test"] for line in (folder / "metrics.jsonl").read_text().splitlines() if '"test"' in line][
            -1
        ]
        for folder in (run, out)
    ]
    # Stopped after 10 000 of 15 000 data points and gone on with: the same run.
    assert bounds[0] == bounds[1]


def test_data_of_any_range_by_a_mean_that_is_not_squashed(tmp_path, capsys):
    path, out = tmp_path / "below.npy", tmp_path / "run"
    np.save(path, np.random.RandomState(0).randn(60, 12).astype(np.float32) / 10 - 0.5)
    command = [*("train", "--data", str(path), "--likelihood", "gaussian", "--hidden", "8", "--latent", "2")]
    command += [*("--samples-seen", "300", "-M", "20", "--optimizer", "adam", "--out", str(out))]
    said = failure_of(command, capsys)
    assert re.search(r"data\.train \* --x-scale lies in \[-0\.\d+, -0\.\d+\], outside \[0, 1\]", said)
    assert '--mean-activation="identity" of make_model and aevb train' in said and not out.exists()
    assert main([*command, "--mean-activation", "identity"]) == 0
    assert tomllib.loads((out / "config.toml").read_text())["model"]["mean_activation"] == "identity"
    again = ["train", "--config", str(out / "config.toml"), "--out", str(tmp_path / "again")]
    assert main(again) == 0 and main(["train", "--resume", "--out", str(out), "--samples-seen", "400"]) == 0
    assert main(["evaluate", str(out)]) == 0
    assert "needs likelihood gaussian" in failure_of([*again[:3], "--likelihood", "bernoulli"], capsys)
    for x_scale in ("-1", "0", "nan", "inf"):
        assert f"x-scale must be a positive number, got {float(x_scale)}" in failure_of(
            [*again[:3], "--x-scale", x_scale, "--out", str(tmp_path / "other")], capsys
        )


def test_what_a_run_skips_is_skipped_when_it_is_evaluated(tmp_path, capsys):
    path, out = tmp_path / "outliers.npz", tmp_path / "run"
    x = np.random.RandomState(0).randn(40, 12).astype(np.float32)
    x[3, 5] = x[33, 0] = 1e25
    np.savez(path, train=x[:30], test=x[30:])
    command = [
        "train",
        "--data",
        str(path),
        "--likelihood",
        "gaussian",
        "--mean-activation",
        "identity",
        "--latent",
        "2",
    ]
    command += ["--samples-seen", "300", "-M", "10", "--optimizer", "adam", "--hidden", "8", "--out", str(out)]
    assert "not finite at step" in failure_of(command, capsys)
    shutil.rmtree(out)
    assert main([*command, "--non-finite", "skip"]) == 0
    trained = re.findall(r"^(?:train|test) bound +(.*)$", capsys.readouterr().out, re.M)
    assert len(trained) == 2 and all(line.endswith("nats (9 points, 1 more skipped, not finite)") for line in trained)
    newest = str(max((out / "checkpoints").iterdir()))
    for estimator in (["b"], ["a"], ["iwae", "--samples", "3"], ["ais", "--samples", "4"]):
        assert main(["evaluate", newest, "--split", "test", "--device", "cpu", "--estimator", *estimator]) == 0
        printed = capsys.readouterr().out
        assert "nats (9 points, 1 more skipped, not finite)" in printed and not re.search("nan|inf", printed)
        assert estimator != ["b"] or trained[1] in printed
    assert main(["evaluate", newest, "--split", "test", "--device", "cpu", "--count", "1"]) == 0
    assert re.fullmatch(r"test bound -\d+\.\d\d nats \(1 point\)\n", capsys.readouterr().out)


def test_a_run_without_a_step_that_counts_is_told_so_before_and_after(tmp_path, capsys):
    assert main([*QUICK[:5], "-M", "500", "--samples-seen", "2000", "--out", str(tmp_path / "run")]) == 0
    lines = capsys.readouterr().err.splitlines()
    (first,) = [i for i, line in enumerate(lines) if line.startswith("warning: of the run's 4 steps none changes")]
    (last,) = [i for i, line in enumerate(lines) if line == "not trained: none of the 4 steps changed a parameter"]
    (evaluated,) = [i for i, line in enumerate(lines) if "2,000 of 2,000 samples" in line]
    assert first < evaluated < last


def failure_of(arguments, capsys):
    capsys.readouterr()
    assert main(arguments) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batchsize = 5", "unknown key 'batchsize': batch_size?"),
        ("[model]\nlatnt = 5", "unknown key 'latnt': latent?"),
        ("lr = ", "not a TOML file"),
        ("batch_size = 0", "batch_size must be an integer, at least 1, got 0"),
        ('lr = "0.1"', "run.toml: lr must be a number, got '0.1'"),
        ("seed = 0.5", "run.toml: seed must be a whole number, got 0.5"),
        ("colour = 1", "run.toml: colour must be true or false, got 1"),
        ("data = 5", "run.toml: data must be text in quotes, got 5"),
        ("model = 5", "model must be a table, [model], got 5"),
        ("epochs = 1\nsamples_seen = 100", "epochs and samples_seen were both given"),
        ("depth = 3", "the architecture 'mlp' has no depth; it has latent, hidden"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_by_name(tmp_path, capsys, text, message):
    path = tmp_path / "run.toml"
    path.write_text(text)
    assert message in failure_of(["train", "--config", str(path), "--out", str(tmp_path / "run")], capsys)
    assert "no file" in failure_of(["train", "--config", str(tmp_path / "other.toml")], capsys)
    assert list(tmp_path.iterdir()) == [path]


def test_pages_about_runs(run, tmp_path, capsys):
    page, pages = tmp_path / "report.html", tmp_path / "runs.html"
    assert main(["report", str(run), "--out", str(page)]) == 0
    assert main(["compare", str(run), str(run), "--out", str(pages)]) == 0
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for written in (page, pages):
        text = written.read_text()
        assert f"{last['test']:.2f}".lstrip("-") in text
        assert "<script" not in text and "http" not in text and "</html>" in text
    assert run.name in capsys.readouterr().out
    assert "there is no run" in failure_of(["report", str(tmp_path / "none")], capsys)
    assert "not of a run" in failure_of(["compare", str(tmp_path)], capsys)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A run on files of one's own, with every option that says what they are; its path is one from where it began."""
    x = np.random.RandomState(0).randint(101, size=(60, 4, 4)).astype(np.float32)
    (tmp_path / "here").mkdir()
    np.save(tmp_path / "here" / "x.npy", x)
    monkeypatch.chdir(tmp_path / "here")
    options = ["--data", "x.npy", "--binarize", "dynamic", "--x-scale", "0.01", "--test-fraction", "0.3"]
    assert main(["train", *options, "--hidden", "4", "--samples-seen", "2000", "--out", str(tmp_path / "run")]) == 0
    monkeypatch.chdir(tmp_path)
    return tmp_path / "run"


def last_evaluation(run):
    return [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"evaluation"' in line][-1]


def test_a_run_knows_what_it_was_trained_on(own, tmp_path, capsys):
    """No flag says again what the data was."""
    config, again = str(own / "config.toml"), tmp_path / "again"
    assert main(["train", "--config", config, "--out", str(again)]) == 0
    expected, found = (json.loads(last_evaluation(folder)) for folder in (own, again))
    assert found | {"seconds": 0} == expected | {"seconds": 0}
    assert main(["train", "--resume", "--out", str(own), "--samples-seen", "3000"]) == 0
    last = json.loads(last_evaluation(own))
    capsys.readouterr()
    assert last["samples_seen"] == 3000
    checkpoint = own / "checkpoints" / f"{last['steps']:09d}.safetensors"
    assert main(["evaluate", str(checkpoint), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "(42 points)" in printed and f"test bound {last['test']:.2f} " in printed and "(18 points)" in printed
    assert main(["report", str(own)]) == 0
    assert "left out" not in capsys.readouterr().out


def test_data_that_moved_is_found_with_the_flag_that_the_message_names(own, tmp_path, capsys):
    (tmp_path / "here").rename(tmp_path / "there")
    moved = ["--data", str(tmp_path / "there" / "x.npy")]
    for command in (["evaluate", str(own)], ["train", "--config", str(own / "config.toml"), "--out", "other"]):
        assert re.search(r"there is no \S+here/x.npy.*\(--data\)", failure_of(command, capsys))
        assert main([*command, *moved]) == 0
    assert main(["report", str(own)]) == 0
    assert re.search(r"left out: there is no \S+here/x.npy.*\(--data\)", capsys.readouterr().out)
    assert main(["report", str(own), *moved]) == 0
    assert "left out" not in capsys.readouterr().out


def test_a_folder_of_named_data_that_moved(tmp_path, capsys):
    faces = np.random.RandomState(0).randint(256, size=(1965, 28, 20)).astype(np.uint8)
    data = Data("freyface", torch.from_numpy(faces[:20]).flatten(1), torch.from_numpy(faces[20:40]).flatten(1), 1 / 256)
    vae = mlp_vae(560, latent=2, hidden=4, x_scale=data.x_scale)
    # As load("freyface", ...) gives it, whose files are not here.
    data = replace(data, source={"data": "freyface", "data_dir": str(tmp_path / "faces")})
    fit(vae, data, samples_seen=100, out=tmp_path / "run", progress=False)
    for command in (["evaluate", str(tmp_path / "run")], ["train", "--config", str(tmp_path / "run" / "config.toml")]):
        told = failure_of(command, capsys)
        assert f"{tmp_path}/faces" in told and "(--data-dir)" in told


def test_a_checkpoint_taken_out_of_its_folder(run, tmp_path, capsys):
    shutil.copy(run / "best.safetensors", tmp_path)
    printed = []
    for path in (run, tmp_path / "best.safetensors"):
        assert main(["evaluate", str(path), "--device", "cpu"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


def test_what_load_was_given_is_what_it_says(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.zeros((10, 4), np.uint8))
    monkeypatch.chdir(tmp_path)
    assert load("digits").source == {"data": "digits"}
    assert load("x.npy", test_fraction=0.5, x_scale=0.25).source == {
        "data": str(tmp_path / "x.npy"),
        "test_fraction": 0.5,
        "x_scale": 0.25,
    }
    assert load("digits", "somewhere", binarize="dynamic").source == {
        "data": "digits",
        "data_dir": str(tmp_path / "somewhere"),
        "binarize": "dynamic",
    }


def pictures(folder):
    """A folder of pictures in colour, and a file of grey ones."""
    generator = np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for i in range(12):
        Image.fromarray(generator.integers(0, 256, (6, 5, 3), np.uint8)).save(folder / "pictures" / f"{i}.png")
    np.save(folder / "grey.npy", generator.integers(0, 256, (40, 6, 5), np.uint8))
    return folder


@pytest.mark.parametrize(
    "data",
    [
        ["pictures", "--colour", "--test-fraction", "0.4"],
        ["grey.npy", "--binarize", "dynamic"],
        ["grey.npy", "--binarize", "threshold", "--x-scale", "0.002"],
    ],
    ids=" ".join,
)
def test_a_run_remembers_how_its_data_was_loaded(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(pictures(tmp_path))
    assert main(["train", "--data", *data, "--hidden", "4", "--samples-seen", "100", "--out", "run"]) == 0
    trained = re.search(r"test bound +(.*)", capsys.readouterr().out)[1]
    assert main(["evaluate", "run"]) == 0
    assert re.search(r"test bound +(.*)", capsys.readouterr().out)[1] == trained
    assert main(["train", "--config", "run/config.toml", "--out", "again"]) == 0
    assert re.search(r"test bound +(.*)", capsys.readouterr().out)[1] == trained
    assert main(["report", "run"]) == 0
    assert "left out" not in capsys.readouterr().out and "active units" in (tmp_path / "run/report.html").read_text()
    # Away from its run a checkpoint does not know how, and says so.
    (tmp_path / "run" / "best.safetensors").rename("bare.safetensors")
    assert "which says how to load it" in failure_of(["evaluate", "bare.safetensors"], capsys)
