"""Exported models compute what the model computes and do not need this package; otherwise the export is refused."""

import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from aevb_ext.cli import main
from aevb_ext.export import ExportError, export_onnx, export_programs
from aevb_ext.models import VAE, GaussianDecoder, GaussianPosterior, make_model
from aevb_ext.train import save_checkpoint

SHAPE = (9, 6)


def of_ones_own():
    # An encoder that gives a distribution of bounded spread, layers that train otherwise than they are evaluated, and
    # a likelihood with a learnt scale.
    encoder = GaussianPosterior(
        nn.Sequential(nn.Linear(54, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Dropout(0.5), nn.Linear(8, 6)),
        clamp=(-4, 4),
        soft=True,
        spread="log_std",
    )
    decoder = GaussianDecoder(nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 54)), logvar=-1.0)
    return VAE(encoder, decoder, latent=3, x_scale=1 / 255)


def by_name(architecture, likelihood):
    model = make_model(architecture, image_shape=SHAPE, latent=3, hidden=8, likelihood=likelihood, x_scale=1 / 255)
    for parameter in model.parameters():
        # As of a model that has learnt: at first tanh is nearly a straight line.
        nn.init.normal_(parameter, std=0.5)
    return model


MODELS = {
    "mlp": lambda: by_name("mlp", "bernoulli"),
    "one's own": of_ones_own,
}


def loaded(folder, name):
    return torch.export.load(folder / f"{name}.pt2").module()


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_programs_give_what_the_model_gives(make, tmp_path):
    model, pixels = make(), torch.randint(256, (11, 54), dtype=torch.uint8)
    paths = export_programs(model, tmp_path / "new", pixels / 255)
    assert [path.name for path in paths] == ["encoder.pt2", "decoder.pt2"]
    assert model.training
    model.eval()
    encoder, decoder = loaded(tmp_path / "new", "encoder"), loaded(tmp_path / "new", "decoder")
    for batch in (1, 11):
        x = pixels[:batch]
        mu, logvar = model.posterior(x)
        torch.testing.assert_close(encoder(x / 255), (mu, logvar), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(decoder(mu), model.reconstruct(x), rtol=1e-4, atol=1e-5)


WITHOUT_US = """
import sys
sys.modules["aevb_ext"] = None  # importing it is an ImportError
import torch
assert not hasattr(torch.ops.aevb_ext, "linear")
x = torch.rand(5, 54, generator=torch.Generator().manual_seed(0))
mu, logvar = torch.export.load(sys.argv[1]).module()(x)
torch.save((mu, logvar, torch.export.load(sys.argv[2]).module()(mu)), sys.argv[3])
"""


def test_programs_need_nothing_of_this_package(tmp_path):
    model = by_name("conv", "gaussian")
    paths, out = export_programs(model, tmp_path), tmp_path / "out.pt"
    done = subprocess.run([sys.executable, "-c", WITHOUT_US, *paths, out], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Nor does loading them say anything of them.
    assert "Symbol" not in done.stderr
    x = torch.rand(5, 54, generator=torch.Generator().manual_seed(0))
    mu, logvar = model.posterior(255 * x)
    torch.testing.assert_close(torch.load(out), (mu, logvar, model.decoder.mean(mu)), rtol=1e-4, atol=1e-5)


class Noisy(nn.Module):
    """It draws also when it is evaluated: an export draws something else."""

    def forward(self, x):
        return x + torch.rand_like(x)


class Branching(nn.Module):
    def forward(self, x):
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("layer", "message"),
    [(Noisy(), r"decoder\.pt2 was not written: it deviates"), (Branching(), "cannot trace the decoder: .*")],
    ids=["noisy", "branching"],
)
def test_what_cannot_be_exported_is_refused(layer, message, tmp_path):
    model = VAE(nn.Linear(4, 4), nn.Sequential(nn.Linear(2, 4), layer), latent=2)
    with pytest.raises(ExportError, match=message):
        export_programs(model, tmp_path, torch.rand(3, 4))
    assert not list(tmp_path.iterdir())


def test_a_model_made_by_hand_needs_an_example(tmp_path):
    with pytest.raises(ValueError, match="x is needed"):
        export_programs(VAE(nn.Linear(4, 4), nn.Linear(2, 4)), tmp_path)


def test_packages_that_are_missing_are_named(tmp_path, monkeypatch, capsys):
    absent = {"onnx", "onnxruntime"}
    monkeypatch.setattr("aevb_ext._extras.find_spec", lambda name: None if name in absent else name)
    model = by_name("mlp", "bernoulli")
    missing = (
        "decoder.onnx needs the extra 'export', of which onnx, onnxruntime are not installed here: type `pip install"
    )
    with pytest.raises(ImportError, match=re.escape(missing)):
        export_onnx(model, tmp_path)
    save_checkpoint(tmp_path / "c.safetensors", model, data="digits")
    # What can be written without them is, beside the checkpoint: the command ends well.
    assert main(["export", str(tmp_path / "c.safetensors")]) == 0
    captured = capsys.readouterr()
    *written, left_out = captured.out.splitlines()
    assert [line.rpartition("/")[2] for line in written] == ["encoder.pt2", "decoder.pt2"] and captured.err == ""
    assert left_out.startswith(f"left out: {missing}")
    assert {path.name for path in (tmp_path / "export").iterdir()} == {"encoder.pt2", "decoder.pt2"}
