"""Any value of any option of any subcommand either works, or gives an error message and a status other than 0.

``python tests/test_cli_sweep.py`` tries every option of every verb with each of the values below; the tests try those
that PyTorch, Python or the system would otherwise have had the last word on.
"""

import contextlib
import io
import re
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from aevb_ext.cli import main
from aevb_ext.cli.main import verbs_of_aevb

pytestmark = pytest.mark.once("the messages of the command are Python")

VALUES = [
    "",
    "nan",
    "inf",
    "-1",
    "0",
    "0.5",
    "1e30",
    "99999999999999999999",
    "x",
    "FOLDER",
    "none/x",
    "/proc/x",
    "/dev/full",
]


def base(folder: Path) -> dict[str, list[str]]:
    """Each verb with what makes it end soon."""
    run, data = str(folder / "run"), str(folder / "x.npy")
    small = ["--data", data, "--hidden", "4", "--latent", "2", "--samples-seen", "100"]
    return {
        "train": ["train", *small, "--out", "NEW"],
        "sample": ["sample", run, "--out", "x.png", "--n", "2"],
        "augment": ["augment", run, "--split", "test", "--n", "1", "--out", "x.npz"],
        "manifold": ["manifold", run, "--side", "2", "--out", "x.png"],
        "interpolate": ["interpolate", run, "--out", "x.png"],
        "encode": ["encode", run, "--split", "test", "--out", "x.npz"],
        "probe": ["probe", run],
        "anomaly": ["anomaly", run, "--out", "x.csv"],
        "held-out": ["held-out", *small, "--out", "NEW"],
        "evaluate": ["evaluate", run, "--split", "test", "--count", "3"],
        # Without data it ends before it trains.
        "paper": ["paper", "figure4", "--data-dir", "none", "--out", "NEW", "--samples-seen", "100"],
        "report": ["report", run, "--out", "x.html"],
        "compare": ["compare", run, "--out", "x.html"],
        "export": ["export", "none", "--out", "NEW"],
        "factor-analysis": "factor-analysis --n 20 --x-dim 3 --latent 1 --samples-seen 100".split(),
    }


def make(folder: Path) -> None:
    """A run, and the data that it is of."""
    np.save(folder / "x.npy", np.random.RandomState(0).randint(256, size=(60, 4, 4)).astype(np.uint8))
    assert said_by(base(folder)["train"], folder, out="run")[0] == 0


def said_by(arguments: list[str], folder: Path, out="") -> tuple[int, str]:
    """The status that the command ends with, and what it says on stderr."""
    said_by.count += 1
    places = {"NEW": str(folder / (out or f"new{said_by.count}")), "FOLDER": str(folder)}
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            status = main([places.get(argument, argument) for argument in arguments])
        except SystemExit as ended:
            status = ended.code
    return status, err.getvalue()


said_by.count = 0


def check(arguments: list[str], folder: Path, message: str = "") -> None:
    status, said = said_by(arguments, folder)
    last = (said.splitlines() or [""])[-1]
    if message or status:
        assert status in (1, 2) and re.match(r"aevb( [\w-]+)?: error: .", last), said[-500:]
    assert re.search(message, last), last


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        make(path)
        yield path


@pytest.mark.parametrize(
    ("verb", "flags", "message"),
    [
        ("train", ["--seed", "99999999999999999999"], r"--seed: expected a whole number .*, got '9+'"),
        ("train", ["--seed", "1.5"], "--seed: expected a whole number .*, got '1.5'"),
        ("train", ["--device", "mps"], "--device 'mps' cannot be trained or evaluated on: "),
        ("train", ["--device", "meta"], "--device 'meta' cannot be trained or evaluated on: "),
        ("train", ["--device", "x"], "--device 'x' is not a device"),
        ("train", ["--device", ""], "--device '' is not a device"),
        ("train", ["--hidden", "1e15"], "memory"),
        ("train", ["--batch-size", "1e18"], "memory"),
        ("train", ["--lr", "nan"], "--lr must be a positive number, got nan"),
        ("train", ["-M", "0"], "-M must be an integer, at least 1, got 0"),
        ("train", ["--keep", "1e30"], "expected a whole number of at least 1, and less than 2"),
        ("train", ["--resume", "--lr", "1", "--out", "RUN"], r"lr: 0.02 -> 1.0.*: --allow-change lr"),
        ("train", ["--resume", "--out", "RUN", "--allow-change", "lrr"], "--allow-change: there is no 'lrr'"),
        ("train", ["--resume", "--out", "none"], "--resume: there is no folder none"),
        ("train", ["--out", "RUN"], "--out: the folder .* is not empty; .* resume the run in it .--resume."),
        ("train", ["--out", "/proc/x"], "--out: the folder cannot be written: .*'/proc/x'"),
        ("train", ["--config", "FOLDER"], "--config: there is no file"),
        ("evaluate", ["--device", "meta"], "--device 'meta' cannot be"),
        ("evaluate", ["--samples", "1e15"], "memory"),
        ("evaluate", ["--seed", "1e30"], "--seed: expected a whole number"),
        ("evaluate", ["--estimator", "marginl"], "there is no 'marginl': marginal[?]"),
        ("interpolate", ["--pair", "0", "18446744073709551615"], "--pair: the test split has the data points 0 to"),
        ("manifold", ["--dims", "0", "18446744073709551615"], "--dims must be two different dimensions from 0 to 1"),
        ("held-out", ["--labels", "0"], "labels"),
        ("trian", [], "there is no 'trian': train[?] there are train, "),
        ("sample", ["--ot", "x.png"], "there is no argument --ot: --out[?]"),
        ("figures", ["--latent", "5"], "there is no 'figures', there are train, "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_with_the_flag(folder, verb, flags, message):
    arguments = base(folder).get(verb, [verb])
    if verb == "sample":
        arguments = ["sample", "RUN"]
    check([{"RUN": str(folder / "run")}.get(word, word) for word in [*arguments, *flags]], folder, message)


def test_advice_names_flags(folder):
    status, said = said_by(["train", "--data", str(folder / "x.npy"), "--samples-seen", "100", "--out", "NEW"], folder)
    (line,) = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert status == 0 and "(--samples-seen is 100;" in line and "a smaller --batch-size (it is 100)" in line
    arguments = ["train", "--data", str(folder / "x.npy"), "--out", "NEW", "--samples", "3"]
    check([*arguments, "--batch-size", "1e15"], folder, "lower --samples .3. or --batch-size .10{15}., or ")
    # Of a file they are keys.
    (folder / "run.toml").write_text("batch_size = -1\n")
    check([*arguments, "--config", str(folder / "run.toml")], folder, r"run\.toml: batch_size must be an integer")
    check([*arguments, "--config", str(folder / "run.toml"), "-M", "0"], folder, "error: -M must be an integer")


def test_processes_that_cannot_join_are_told_why(folder, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    check(["probe", "run"], folder, "WORLD_SIZE is 2, but RANK, .* not set: start with torchrun")
    monkeypatch.setenv("WORLD_SIZE", "two")
    check(["probe", "run"], folder, "WORLD_SIZE must be a number, got 'two'")


def test_a_fault_of_ours_is_a_traceback(monkeypatch):
    monkeypatch.setattr("aevb_ext.doctor.main", lambda: torch.ones(2) @ torch.ones(3))
    with pytest.raises(RuntimeError, match="size"):
        main(["doctor"])


@pytest.mark.parametrize("epochs", ["inf", "nan", "0", "-1", "1e-9", "1e300"])
def test_epochs_are_a_length(folder, epochs):
    expected = "--epochs must (be a positive number|come to one data point)"
    check(["train", "--data", str(folder / "x.npy"), "--out", "NEW", "--epochs", epochs], folder, expected)


def test_the_command_alone_shows_its_help(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith("usage: aevb") and "train a VAE on a dataset" in told


def test_an_output_that_takes_no_more_is_an_error_in_a_sentence(folder, capfd, monkeypatch):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["evaluate", str(folder / "run"), "--split", "test"]) == 1
        monkeypatch.undo()
        assert "aevb: error: No space left on device" in capfd.readouterr().err


def options_of(verb: str) -> list[str]:
    """All that take a value."""
    actions = verbs_of_aevb().choices[verb]._actions
    return [action.option_strings[0] for action in actions if action.option_strings and action.nargs != 0]


if __name__ == "__main__":
    import os
    import tempfile
    import traceback

    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        make(Path(place))
        tried = failed = 0
        for verb, arguments in base(Path(place)).items():
            if sys.argv[1:] and verb not in sys.argv[1:]:
                continue
            for option in options_of(verb):
                for value in VALUES:
                    tried += 1
                    if "-v" in sys.argv:
                        print(verb, option, value, flush=True)
                    try:
                        check([*arguments, f"{option}={value}"], Path(place))
                    except BaseException as error:
                        failed += 1
                        print(f"aevb {verb} {option}={value}: {type(error).__name__}: {error}", flush=True)
                        if not isinstance(error, AssertionError):
                            traceback.print_tb(error.__traceback__, -2)
            print(f"{verb}: {tried} tried, {failed} failed", flush=True)
