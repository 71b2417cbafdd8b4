"""Every likelihood in the trainer and the command line: decoders and PyTorch's distributions, learning, resuming."""

import math

import numpy as np
import pytest
import torch
from torch import distributions as D
from torch import nn

from aevb_ext import plots
from aevb_ext.cli.main import main
from aevb_ext.data import Data
from aevb_ext.estimators import evaluate_bound
from aevb_ext.models import LIKELIHOODS, make_model
from aevb_ext.nn import (
    CategoricalDecoder,
    ContinuousBernoulliDecoder,
    DiscretizedLogisticDecoder,
    LaplaceDecoder,
    NegativeBinomialDecoder,
    PoissonDecoder,
    StudentTDecoder,
    ZeroInflatedNegativeBinomialDecoder,
    likelihoods,
)
from aevb_ext.train import Callback, fit, load_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")

COUNTS = ("poisson", "negative_binomial", "zero_inflated_negative_binomial")
DIM, LATENT = 6, 2


@pytest.fixture
def one_thread():
    """Models as small as these take longer with several."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def net(outputs=1):
    torch.manual_seed(outputs)
    return nn.Linear(LATENT, outputs * DIM).double()


def drawn(kind, seed=0):
    """Data points ``[3, DIM]`` and samples of z ``[2, 3, LATENT]``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(5, (3, DIM), generator=generator, dtype=torch.int16)
    x[0] = 0
    z = torch.randn(2, 3, LATENT, dtype=torch.float64, generator=generator)
    return (x if kind == "counts" else x.double() / 4), z


def of_zero_inflation(mean, dispersion, gate):
    counts = D.NegativeBinomial(dispersion, logits=(mean / dispersion).log(), validate_args=False)

    def log_prob(x):
        zero = torch.logaddexp(gate.log(), (1 - gate).log() + counts.log_prob(x))
        return torch.where(x == 0, zero, (1 - gate).log() + counts.log_prob(x))

    return log_prob


def count_cases():
    """(decoder, a function from net's output and the sum of x to the log-likelihood of each element)."""
    theta = torch.linspace(0.5, 3, DIM).double()

    def negative_binomial(mean):
        return D.NegativeBinomial(theta, logits=(mean / theta).log(), validate_args=False).log_prob

    def zero_inflated(out, mean):
        gate = out.chunk(2, -1)[1].sigmoid()
        return of_zero_inflation(mean, theta, gate)

    for size in (None, 7.0):
        said = "means" if size is None else "proportions"
        yield f"poisson {said}", PoissonDecoder(net(), library_size=size), lambda out, mean: D.Poisson(mean).log_prob
        yield (
            f"negative binomial {said}",
            NegativeBinomialDecoder(net(), library_size=size, log_dispersion=theta.log()).double(),
            lambda out, mean: negative_binomial(mean),
        )
        yield (
            f"zero-inflated {said}",
            ZeroInflatedNegativeBinomialDecoder(net(2), library_size=size, log_dispersion=theta.log()).double(),
            zero_inflated,
        )


COUNT_CASES = {name: case for name, *case in count_cases()}


@pytest.mark.parametrize("decoder, log_prob_of", COUNT_CASES.values(), ids=COUNT_CASES)
def test_a_decoder_of_counts_is_the_distribution_of_its_mean(decoder, log_prob_of):
    x, z = drawn("counts")
    x[1:, 0] += 1  # a sum above 0, beside the data point without counts
    out = decoder.net(z)
    log_mean = out[..., :DIM]
    if decoder.library_size is None:
        mean = log_mean.exp()
    else:
        mean = log_mean.softmax(-1) * x.sum(1, keepdim=True)
        x, z, out, mean = x[1:], z[:, 1:], out[:, 1:], mean[:, 1:]  # torch's have no rate of 0
    expected = log_prob_of(out, mean)(x.double()).sum(-1)
    # log_dispersion has been rounded to float32.
    torch.testing.assert_close(decoder.log_prob(x, z), expected, rtol=1e-5, atol=1e-5)
    if decoder.library_size is not None:
        torch.testing.assert_close(
            decoder(z).parameters.get("mean", decoder.mean(z)).sum(-1), torch.full((2, 2), 7.0).double()
        )


@pytest.mark.parametrize("name", COUNTS)
def test_a_data_point_without_counts_has_a_finite_gradient(name):
    model = make_model(x_dim=DIM, latent=LATENT, hidden=4, likelihood=name, library_size=9.0)
    x = torch.zeros(3, DIM, dtype=torch.int32)
    value = model.log_likelihood(x, torch.randn(3, LATENT))
    # With a sum of 0 the only x is 0, whose probability is 1; a mean is at least e^-80.
    torch.testing.assert_close(value, torch.zeros(3), rtol=0, atol=1e-30)
    value.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.decoder.parameters())


def test_decoders_of_other_data_are_torchs_distributions():
    x, z = drawn("unit")
    one, two = net(), net(2)
    (mu, scale), logits = two(z).chunk(2, -1), one(z)
    for decoder, expected in (
        (LaplaceDecoder(two, sigmoid=False), D.Laplace(mu, scale.exp())),
        (LaplaceDecoder(one, log_scale=0.5), D.Laplace(logits.sigmoid(), math.exp(0.5))),
        (StudentTDecoder(two, df=3.0).double(), D.StudentT(3.0, mu.sigmoid(), scale.exp())),
        (ContinuousBernoulliDecoder(one), D.ContinuousBernoulli(logits=logits)),
    ):
        torch.testing.assert_close(decoder.double().log_prob(x, z), expected.log_prob(x).sum(-1), rtol=1e-6, atol=1e-6)
        if not isinstance(decoder, StudentTDecoder):
            torch.testing.assert_close(decoder.mean(z), expected.mean, rtol=1e-9, atol=1e-9)
    classes, _ = drawn("counts")
    decoder = CategoricalDecoder(net(5), classes=5)
    expected = D.Categorical(logits=decoder.net(z).unflatten(-1, (5, DIM)).transpose(-1, -2))
    torch.testing.assert_close(decoder.log_prob(classes, z), expected.log_prob(classes.double()).sum(-1))
    levels = torch.tensor([[0, 1, 77, 128, 254, 255]] * 3, dtype=torch.uint8)
    cdf = lambda t: ((t - mu.sigmoid()) / scale.exp()).sigmoid()  # noqa: E731
    k = levels.double() / 255
    upper = torch.where(levels == 255, 1.0, cdf(k + 1 / 510))
    lower = torch.where(levels == 0, 0.0, cdf(k - 1 / 510))
    torch.testing.assert_close(
        DiscretizedLogisticDecoder(two).log_prob(levels, z, 1 / 255), (upper - lower).log().sum(-1), rtol=1e-6, atol=0
    )


# Parameters at which the variance is known in closed form, and that variance.
SAMPLED = {
    "Poisson": ({"log_rate": 1.0}, math.e),
    "NegativeBinomial": ({"mean": 3.0, "dispersion": 2.0}, 3 + 9 / 2),
    "ZeroInflatedNegativeBinomial": (
        {"mean": 3.0, "dispersion": 2.0, "gate_logits": 0.0},
        0.5 * (7.5 + 9) - 1.5**2,
    ),
    "Laplace": ({"mu": 0.3, "scale": -0.4}, 2 * math.exp(-0.8)),
    "StudentT": ({"mu": 0.3, "scale": -0.4, "df": 9.0}, math.exp(-0.8) * 9 / 7),
    "ContinuousBernoulli": ({"logits": 2.0}, 1 / 4 - 1 / (4 * math.sinh(1) ** 2)),
    "DiscretizedLogistic": ({"mu": 0.5, "log_scale": -5.0}, math.exp(-10) * math.pi**2 / 3 + 1 / (12 * 255**2)),
}


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_have_the_mean_and_the_variance(name):
    numbers, variance = SAMPLED[name]
    n = 100_000
    p = getattr(likelihoods, name)(**{k: torch.full((1, n), v, dtype=torch.float64) for k, v in numbers.items()})
    x = p.sample(key=torch.tensor([1, 2]))
    # Five standard errors of a mean; the variance to 5 per cent, which is more than five of those.
    assert abs(x.mean() - p.mean[0, 0]) < 5 * math.sqrt(variance / n) + (1e-4 if name == "DiscretizedLogistic" else 0)
    assert x.var().item() == pytest.approx(variance, rel=0.05)
    getattr(likelihoods, name).check(x[:, :50], 1.0, "x")


def test_classes_are_sampled_as_often_as_they_occur():
    logits = torch.tensor([0.1, 0.2, 0.7]).log().double().expand(1, 50_000, 3)
    x = likelihoods.Categorical(logits=logits).sample(key=torch.tensor([1, 2]))
    found = torch.bincount(x.flatten().long(), minlength=3) / 50_000
    torch.testing.assert_close(found, torch.tensor([0.1, 0.2, 0.7]), atol=0.011, rtol=0)  # five standard errors


@pytest.mark.parametrize("likelihood", [name for name in LIKELIHOODS if name not in ("bernoulli", "gaussian")])
def test_a_sample_depends_on_its_own_key_alone(likelihood):
    options = {"classes": 4} if likelihood == "categorical" else {}
    model = make_model(x_dim=DIM, latent=LATENT, hidden=4, likelihood=likelihood, **options)
    keys = torch.tensor([[5, 1], [5, 2], [9, 1]])
    x = model.generate(3, sampled=True, key=keys)
    assert torch.equal(model.generate(1, sampled=True, key=keys[1:2]), x[1:2])
    assert x.shape == (3, DIM)


def synthetic(n=600, genes=60, seed=0):
    """Counts of a negative binomial (inverse dispersion 4) whose log proportions have rank 2; and what made them."""
    rng = np.random.default_rng(seed)
    loadings, offset = rng.normal(size=(2, genes)), rng.normal(size=genes)
    share = np.exp(rng.normal(size=(n, 2)) @ loadings + offset)
    mean = share / share.sum(1, keepdims=True) * rng.lognormal(6, 0.5, size=(n, 1))
    return rng.poisson(rng.gamma(4.0, mean / 4)).astype(np.int32)


def test_a_model_of_counts_learns_what_no_independent_model_can():
    x = torch.from_numpy(synthetic())
    train, test = x[:500], x[500:]
    data = Data("counts", train, test)
    found = {}
    for name in ("poisson", "negative_binomial"):
        model = make_model(
            *("deep-mlp",),
            x_dim=60,
            latent=2,
            hidden=64,
            depth=1,
            likelihood=name,
            library_size=float(train.sum(1, dtype=torch.float64).mean()),
            generator=torch.Generator().manual_seed(0),
        )
        first = evaluate_bound(model, test).mean
        history = fit(
            *(model, data),
            samples_seen=20_000,
            optimizer="adam",
            lr=1e-2,
            batch_size=50,
            evaluate_every=6_000,
            log_every=1000,
            progress=False,
        ).history
        bounds = [first, *(record.test for record in history)]
        assert bounds == sorted(bounds), "the bound rises"
        found[name] = bounds[-1]
    # Genes independent given the sum: each gene's share of the sum, and the best dispersion for all of them.
    total = test.sum(1, keepdim=True)
    mean = total * (train.sum(0) / train.sum()).double()
    of_poisson = D.Poisson(mean).log_prob(test.double()).sum(1).mean()
    independent = max(
        D.NegativeBinomial(torch.tensor(theta).double(), logits=(mean / theta).log())
        .log_prob(test.double())
        .sum(1)
        .mean()
        for theta in np.geomspace(0.05, 50, 40)
    )
    assert found["poisson"] > of_poisson + 150
    assert found["negative_binomial"] > independent + 12
    assert found["negative_binomial"] > found["poisson"] + 15


class Stop(Callback):
    """Ends the run after a number of steps."""

    def __init__(self, steps):
        self._steps = steps

    def on_log(self, run, log):
        if run.steps >= self._steps:
            run.stop("here")


def test_a_run_on_a_sparse_matrix_resumes_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    x = synthetic(200, 20)
    row, column = np.nonzero(x)
    np.savez(
        "counts.npz",
        data=x[row, column],
        indices=column.astype(np.int32),
        indptr=np.searchsorted(row, np.arange(201)),
        shape=np.array(x.shape),
        format=np.array(b"csr"),
    )
    how = ["--data", "counts.npz", "--likelihood", "zinb", "--latent", "2", "--hidden", "8", "--optimizer", "adam"]
    how += ["--samples-seen", "2000", "--evaluate-every", "1000", "--checkpoint-every", "500", "--log-every", "2"]
    assert main(["train", *how, "--out", "whole"]) == 0
    with monkeypatch.context() as stopped:
        import aevb_ext.cli.commands.train as command

        fitted = command.fit
        stopped.setattr(command, "fit", lambda *a, **k: fitted(*a, **{**k, "callbacks": [Stop(7)]}))
        assert main(["train", *how, "--out", "parts"]) == 0
    assert load_checkpoint("parts").samples_seen < 2000
    assert main(["train", "--resume", "--out", "parts"]) == 0
    one, other = (load_checkpoint(name).model.state_dict() for name in ("whole", "parts"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert main(["train", *how, "--likelihood", "nb", "--resume", "--out", "parts"]) == 1


@pytest.mark.parametrize("likelihood", ["zinb", "laplace", "student_t"])
def test_a_decoder_is_one_graph(likelihood):
    model = make_model(x_dim=DIM, latent=LATENT, hidden=4, likelihood=likelihood)
    x, z = torch.arange(2 * DIM).view(2, DIM), torch.randn(2, LATENT)
    compiled = torch.compile(model.decoder.log_prob, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, z), model.decoder.log_prob(x, z))


@pytest.mark.parametrize("likelihood, options", [("nb", {}), ("categorical", {"classes": 40})])
def test_pictures_of_counts_and_classes_are_white_at_the_largest_number(likelihood, options):
    model = make_model(image_shape=(4, 3), latent=LATENT, hidden=4, likelihood=likelihood, **options)
    x = torch.randint(40, (5, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    x[0, 0] = 39
    canvas = plots.reconstructions(model, x, (4, 3))
    assert canvas.nan_to_num(0).max() == 1 and canvas[0, 0] == 1
    assert canvas[0, 1] == x[0, 1] / 39


OTHER_VERBS = [
    ["encode", "run", "--out", "z.npz"],
    ["anomaly", "run", "--out", "a.csv"],
    ["augment", "run", "--n", "2", "--out", "more.npz"],
    ["report", "run"],
]


@pytest.mark.parametrize("likelihood", [*LIKELIHOODS, "nb"])
def test_every_likelihood_trains_and_is_used_by_every_verb(likelihood, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).integers(4, size=(60, 4, 3)).astype(np.uint8)
    np.save("x.npy", x)
    how = ["--latent", "2", "--hidden", "4", "--samples-seen", "40", "--batch-size", "20", "--optimizer", "adam"]
    assert main(["train", "--data", "x.npy", "--likelihood", likelihood, *how, "--out", "run"]) == 0
    verbs = [
        ["evaluate", "run", "--estimator", "iwae", "--samples", "3"],
        ["sample", "run", "--n", "3", "--sampled", "--out", "s.npy"],
    ]
    if likelihood == "zero_inflated_negative_binomial":
        verbs += OTHER_VERBS
    for verb in verbs:
        assert main(verb) == 0, capsys.readouterr().err
    assert np.load("s.npy").shape == (3, 4, 3) and np.isfinite(np.load("s.npy")).all()
    assert "bound nan" not in capsys.readouterr().out
