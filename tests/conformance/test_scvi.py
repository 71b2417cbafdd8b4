"""scvi-tools on the fused operators: an epoch on its synthetic data."""

import pytest
import scvi
import torch
from patch_mistakes import check_mistakes
from torch.distributions import kl, normal

import aevb_ext
from aevb_ext.integrations.scvi import patch
from aevb_ext.noise import standard_normal

OF_NORMALS, OF_INDEPENDENTS = "kl_divergence(Normal, Normal)", "kl_divergence(Independent, Independent)"

CELLS, BATCH = 2 * 160, 40
TRAINING = CELLS * 9 // 10


@pytest.fixture(scope="module")
def cells():
    scvi.settings.seed = 0
    data = scvi.data.synthetic_iid(batch_size=CELLS // 2, n_genes=50)
    for model in (scvi.model.SCVI, scvi.model.SCANVI):
        labels = {"labels_key": "labels", "unlabeled_category": "label_0"} if model is scvi.model.SCANVI else {}
        model.setup_anndata(data, batch_key="batch", **labels)
    return data


@pytest.fixture
def our_noise(monkeypatch):
    """What torch's Normal adds to its mean is the noise of a key, drawn when ours would be."""

    def noise(shape, dtype, device):
        return standard_normal(aevb_ext.noise_key(device), tuple(shape), dtype)

    monkeypatch.setattr(normal, "_standard_normal", noise)


def _train(make, cells, epochs=1):
    """The loss, its reconstruction and its KL of each step of training and of validation."""
    scvi.settings.seed = 0
    model, steps = make(cells), []

    def record(module, args, outputs):
        loss = outputs[2]
        steps.append([loss.loss.item(), loss.reconstruction_loss_sum.item(), loss.kl_local_sum.item()])

    model.module.register_forward_hook(record)
    model.train(
        max_epochs=epochs,
        batch_size=BATCH,
        check_val_every_n_epoch=1,
        plan_kwargs={"n_epochs_kl_warmup": None},  # or else the first epoch gives the KL no weight
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=None,
    )
    return torch.tensor(steps, dtype=torch.float64)


def _scvi(**options):
    return lambda cells: scvi.model.SCVI(cells, n_hidden=32, n_latent=5, **options)


def _scanvi(cells):
    return scvi.model.SCANVI(cells, n_hidden=32, n_latent=5)


# A model, how often its encoders sample in a step, and how many KLs of Normals it has.
MODELS = {
    "SCVI": (_scvi(), 1, 1),
    "SCVI, inferring the library size": (_scvi(use_observed_lib_size=False), 2, 2),
    "SCVI, logistic normal": (_scvi(latent_distribution="ln"), 1, 1),
    "SCANVI": (_scanvi, 3, 1),  # once more for the labelled cells, to classify them
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_an_epoch(name, cells, our_noise):
    make, encoders, divergences = MODELS[name]
    original = _train(make, cells)
    with patch() as applied:
        ours = _train(make, cells)
    assert len(original) > TRAINING // BATCH and original.isfinite().all() and (original[:, 2] > 0).all()
    torch.testing.assert_close(ours[0], original[0], rtol=2e-6, atol=0)
    torch.testing.assert_close(ours, original, rtol=1e-5, atol=0)
    calls = {OF_NORMALS: divergences, OF_INDEPENDENTS: 0, "Encoder.forward": encoders}
    assert applied.calls == {label: count * len(ours) for label, count in calls.items()}
    assert torch.equal(_train(make, cells), original)


@pytest.mark.parametrize("return_dist", [False, True])
def test_what_the_encoder_returns(return_dist, our_noise):
    """As ever, for data in more dimensions too: parameters (or the distribution) and a sample."""
    encoder = scvi.nn.Encoder(7, 3, n_hidden=8, distribution="ln", return_dist=return_dist).eval()
    x = torch.randn(4, 6, 7)

    def encode():
        torch.manual_seed(1)
        *parameters, latent = encoder(x)
        if return_dist:
            assert type(parameters[0]) is torch.distributions.Normal
            parameters = [parameters[0].loc, parameters[0].scale]
        return [*parameters, latent]

    original = encode()
    with patch():
        torch.testing.assert_close(encode(), original)


def _state():
    return list(kl._KL_REGISTRY.items()), dict(kl._KL_MEMOIZE), scvi.nn.Encoder.forward


@pytest.mark.parametrize("distribution", ["scvi-tools", "torch"])
def test_mistakes(distribution, monkeypatch):
    check_mistakes(patch, distribution, _state, monkeypatch)
