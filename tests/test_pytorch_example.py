"""PyTorch's VAE example, and the four lines that make it use the fused operators: docs/pytorch-example.diff."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import our_noise
import pytest
import torch

from aevb_ext import compat

REPOSITORY = Path(__file__).parents[1]
DIFF = REPOSITORY / "docs" / "pytorch-example.diff"
EXAMPLE = REPOSITORY / "tests" / "programs" / "pytorch_example.py"
# Training loss of each batch and that of the test set, in nats per data point.
LOSSES = re.compile(r"(?:Loss|Test set loss): ([\d.]+)")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "main.py").write_text(EXAMPLE.read_text())
    return tmp_path


def _apply(folder):
    subprocess.run(["git", "apply", DIFF], cwd=folder, check=True)


def _run(folder, monkeypatch, capsys, *options):
    """The losses that the program prints."""
    arguments = ["--no-accel", "--epochs=2", "--batch-size=100", "--log-interval=1", *options]
    monkeypatch.setattr(sys, "argv", ["main.py", *arguments])
    runpy.run_path(str(folder / "main.py"), run_name="__main__")
    return [float(loss) for loss in LOSSES.findall(capsys.readouterr().out)]


@pytest.mark.parametrize("page", ["README.md", "docs/integrations.md"])
def test_is_printed_as_it_is(page):
    assert f"```diff\n{DIFF.read_text()}```\n" in (REPOSITORY / page).read_text()


def test_is_four_lines():
    added = [line for line in DIFF.read_text().splitlines() if re.match(r"\+(?!\+\+)", line)]
    assert len(added) == 4


def test_trains_alike(folder, monkeypatch, capsys):
    """With our noise fed to the original, both print the same losses, to the rounding that steps of Adam carry on."""
    with monkeypatch.context() as fed:
        fed.setattr(torch, "randn_like", our_noise.randn_like)
        original = _run(folder, monkeypatch, capsys)
    _apply(folder)
    calls = {"reparameterize": 0, "vae_loss": 0}

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    for name in calls:
        monkeypatch.setattr(compat, name, counted(name, getattr(compat, name)))
    ours = _run(folder, monkeypatch, capsys)

    steps, evaluations = 2 * 15, 2 * 3
    assert calls == {"reparameterize": steps + evaluations, "vae_loss": steps + evaluations}
    assert len(original) == steps + 2 and original[-1] < 0.7 * original[0]
    assert ours[0] == pytest.approx(original[0], rel=1e-6)
    assert ours == pytest.approx(original, rel=1e-5)
    assert sorted(path.name for path in (folder / "results").iterdir()) == [
        f"{what}_{epoch}.pt" for what in ("reconstruction", "sample") for epoch in (1, 2)
    ]


def test_a_seed_decides(folder, monkeypatch, capsys):
    _apply(folder)
    first, again, other = (_run(folder, monkeypatch, capsys, "--epochs=1", f"--seed={seed}") for seed in (1, 1, 2))
    assert first == again != other
