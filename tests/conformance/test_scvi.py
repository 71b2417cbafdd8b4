"""scvi-tools on the fused operators: training on its synthetic data, and its likelihoods of counts."""

import warnings

import anndata
import numpy as np
import pytest
import scanpy
import scvi
import torch
from patch_mistakes import check_mistakes
from scvi.distributions import _negative_binomial
from torch.distributions import kl, normal

import aevb_ext
from aevb_ext.integrations.scvi import patch
from aevb_ext.noise import standard_normal

OF_NORMALS = "kl_divergence(Normal, Normal)"

CELLS, BATCH = 2 * 160, 40
TRAINING = CELLS * 9 // 10


@pytest.fixture(scope="module")
def cells():
    scvi.settings.seed = 0
    data = scvi.data.synthetic_iid(batch_size=CELLS // 2, n_genes=50, n_proteins=10)
    for model in (scvi.model.SCVI, scvi.model.SCANVI, scvi.model.LinearSCVI):
        labels = {"labels_key": "labels", "unlabeled_category": "label_0"} if model is scvi.model.SCANVI else {}
        model.setup_anndata(data, batch_key="batch", **labels)
    scvi.model.TOTALVI.setup_anndata(data, batch_key="batch", protein_expression_obsm_key="protein_expression")
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


def _linear(cells):
    return scvi.model.LinearSCVI(cells, n_hidden=32, n_latent=5)


def _totalvi(cells):
    return scvi.model.TOTALVI(cells, n_latent=5)


ZINB, NB, ENCODER = "ZeroInflatedNegativeBinomial.log_prob", "log_nb_positive", "Encoder.forward"

# A model, and what it calls in a step: how often its encoders sample, KLs of Normals, and likelihoods.
MODELS = {
    "SCVI": (_scvi(), {ENCODER: 1, OF_NORMALS: 1, ZINB: 1}),
    "SCVI, inferring the library size": (_scvi(use_observed_lib_size=False), {ENCODER: 2, OF_NORMALS: 2, ZINB: 1}),
    "SCVI, logistic normal": (_scvi(latent_distribution="ln"), {ENCODER: 1, OF_NORMALS: 1, ZINB: 1}),
    "SCVI, negative binomial": (_scvi(gene_likelihood="nb"), {ENCODER: 1, OF_NORMALS: 1, NB: 1}),
    "SCVI, Poisson": (_scvi(gene_likelihood="poisson"), {ENCODER: 1, OF_NORMALS: 1, "Poisson.log_prob": 1}),
    # Its encoder once more for the labelled cells, to classify them; the latent of a label has a sampled KL.
    "SCANVI": (_scanvi, {ENCODER: 3, OF_NORMALS: 1, ZINB: 1, "Normal.log_prob": 2}),
    "LinearSCVI": (_linear, {ENCODER: 2, OF_NORMALS: 2, NB: 1}),
    # Its RNA, its proteins, and the probability of these being background.
    "TOTALVI": (
        _totalvi,
        {OF_NORMALS: 2, NB: 1, "log_mixture_nb": 1, "Normal.log_prob": 1, "Bernoulli.log_prob": 1},
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MODELS)
def test_an_epoch(name, cells, our_noise):
    make, calls = MODELS[name]
    original = _train(make, cells)
    with patch() as applied:
        ours = _train(make, cells)
    assert len(original) > TRAINING // BATCH and original.isfinite().all() and (original[:, 2] > 0).all()
    torch.testing.assert_close(ours[0], original[0], rtol=2e-6, atol=0)
    torch.testing.assert_close(ours, original, rtol=1e-5, atol=0)
    reached = {label: count for label, count in applied.calls.items() if count}
    assert reached == {label: count * len(ours) for label, count in calls.items()}
    assert torch.equal(_train(make, cells), original)


@pytest.fixture(scope="module")
def blood():
    """700 blood cells that scanpy ships (Zheng et al. 2017), of which it has log(1 + counts scaled to 10,000)."""
    data = scanpy.datasets.pbmc68k_reduced()
    scaled = data.raw.X.expm1().toarray()
    one = np.where(scaled > 0, scaled, np.inf).min(1, keepdims=True)  # every cell has a gene that was counted once
    counts = np.round(scaled / one)
    np.testing.assert_allclose(counts, scaled / one, atol=0.2)  # three decimals are left of the largest, 259
    cells = anndata.AnnData(counts.astype(np.float32))
    scvi.model.SCVI.setup_anndata(cells)
    return cells


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("likelihood", "label"), [("zinb", ZINB), ("nb", NB)])
def test_five_epochs_of_blood_cells(likelihood, label, blood, our_noise):
    make = _scvi(gene_likelihood=likelihood)
    original = _train(make, blood, epochs=5)
    with patch() as applied:
        ours = _train(make, blood, epochs=5)
    assert applied.calls[label] == len(ours) > 5 * 15
    assert original[-1, 0] < 0.9 * original[0, 0]
    # Both round differently at each step, and Adam's steps carry it on.
    torch.testing.assert_close(ours, original, rtol=1e-4, atol=0)


def _counts(shape=(6, 9)):
    generator = torch.Generator().manual_seed(0)
    mu, theta, other_mu = (torch.randn(shape, generator=generator).exp() for _ in range(3))
    x = torch.poisson(2 * mu, generator=generator)
    return x, mu, theta, other_mu, torch.randn(shape, generator=generator)


FUNCTIONS = {
    "log_zinb_positive": lambda x, mu, theta, other, pi: (x, mu, theta, pi),
    "log_nb_positive": lambda x, mu, theta, other, pi: (x, mu, theta),
    "log_mixture_nb": lambda x, mu, theta, other, pi: (x, mu, other, theta, theta.flip(0), pi),
    "log_mixture_nb of one dispersion": lambda x, mu, theta, other, pi: (x, mu, other, theta, None, pi),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("theta_shape", [(6, 9), (9,)], ids=["full", "of each gene"])
def test_the_functions(name, theta_shape):
    """Against the originals in float64, also at a mean of 0, which their eps keeps finite."""
    x, mu, theta, other, pi = _counts()
    mu[0], mu[1] = 0.0, 1e-7
    given = FUNCTIONS[name](x, mu, theta.expand(6, 9)[0] if len(theta_shape) == 1 else theta, other, pi)
    exact = [t if t is None else t.double().requires_grad_(i > 0) for i, t in enumerate(given)]
    ours = [t if t is None else t.clone().requires_grad_(i > 0) for i, t in enumerate(given)]
    function = name.partition(" ")[0]
    expected = getattr(_negative_binomial, function)(*exact)
    with patch() as applied:
        value = getattr(_negative_binomial, function)(*ours)
    assert applied.calls[function] == 1
    # Theirs adds eps to theta too, once.
    torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=2e-6)
    gradients, right = (
        torch.autograd.grad(v.sum(), [t for t in given[1:] if t is not None])
        for v, given in ((value, ours), (expected, exact))
    )
    torch.testing.assert_close([g.double() for g in gradients], list(right), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("wrong", [0.5, -1.0, float("nan")])
def test_what_is_no_count_is_warned_of_as_ever(wrong):
    x, mu, theta, _, pi = _counts()
    p = scvi.distributions.ZeroInflatedNegativeBinomial(mu=mu, theta=theta, zi_logits=pi)
    with patch() as applied, warnings.catch_warnings():
        warnings.simplefilter("error")
        p.log_prob(x)
        assert applied.calls[ZINB] == 1
        x[1, 1] = wrong
        with pytest.raises(UserWarning, match="within the support"):
            p.log_prob(x)
    assert applied.calls[ZINB] == 1


def test_what_is_left_to_the_originals():
    x, mu, theta, _, pi = _counts()
    calls = [
        lambda f: f.log_nb_positive(x.double(), mu, theta),  # promotes
        lambda f: f.log_nb_positive(x.half(), mu.half(), theta.half()),
        lambda f: f.log_nb_positive(x, mu, theta, log_fn=lambda t: t.log()),
        lambda f: f.log_zinb_positive(x, mu, theta, pi, lgamma_fn=_negative_binomial.torch_lgamma_mps),
    ]
    originals = [call(_negative_binomial) for call in calls]
    with patch() as applied:
        ours = [call(_negative_binomial) for call in calls]
    torch.testing.assert_close(ours, originals, rtol=0, atol=0, equal_nan=True)
    assert not any(applied.calls.values())


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
    functions = [getattr(_negative_binomial, name) for name in ("log_zinb_positive", NB, "log_mixture_nb")]
    functions.append(vars(scvi.distributions.ZeroInflatedNegativeBinomial)["log_prob"])
    return list(kl._KL_REGISTRY.items()), dict(kl._KL_MEMOIZE), scvi.nn.Encoder.forward, functions


@pytest.mark.parametrize("distribution", ["scvi-tools", "torch"])
def test_mistakes(distribution, monkeypatch):
    check_mistakes(patch, distribution, _state, monkeypatch)
