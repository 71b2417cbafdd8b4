"""The Lightning example: it computes the ELBO, and Lightning trains it."""

import runpy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import aevb_ext
from aevb_ext.data import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "lightning_vae.py"


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(EXAMPLE))


def test_its_loss_is_the_usual_formula(example):
    data = load("digits")
    model = example["LightningVAE"](data.dim, x_scale=data.x_scale)
    x = data.test[:50]
    model.log_dict = lambda *_, **__: None  # there is no trainer yet
    torch.manual_seed(0)
    loss = model.training_step(x, 0)
    torch.manual_seed(0)
    key = aevb_ext.noise_key()
    mu, logvar = model.posterior.net(x * data.x_scale).chunk(2, 1)
    logits = model.decoder.net(aevb_ext.reference.rsample(mu, logvar, key=key))
    reconstruction = F.binary_cross_entropy_with_logits(logits, x * data.x_scale, reduction="sum") / len(x)
    kl = -0.5 * (1 + logvar - mu**2 - logvar.exp()).sum() / len(x)
    torch.testing.assert_close(loss, reconstruction + kl)


def test_lightning_trains_it(example, tmp_path):
    torch.manual_seed(0)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    model, trainer = example["train"](
        max_epochs=4, accelerator="cpu", default_root_dir=tmp_path, enable_checkpointing=False, **options
    )
    data = load("digits")
    # Better than the best model without latent variables: the mean image, as a Bernoulli.
    p = (data.train.double().mean(0) * data.x_scale).clamp(1e-3, 1 - 1e-3)
    x = data.test.double() * data.x_scale
    constant = (x * p.log() + (1 - x) * (-p).log1p()).sum(1).mean()
    assert trainer.callback_metrics["bound"] > constant
    assert trainer.global_step == model.elbo.steps == 4 * 15
