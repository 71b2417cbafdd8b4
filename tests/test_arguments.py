"""Wrong values for every argument of every public function: the error names argument, value and expectation."""

import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from public import MODULES
from torch import nn
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

import aevb_ext
from aevb_ext import compat, functional, noise
from aevb_ext.distributions import Bernoulli, DiagonalGaussian, DiagonalGaussianMixture
from aevb_ext.nn import (
    ELBO,
    BernoulliDecoder,
    CategoricalDecoder,
    ContinuousBernoulliDecoder,
    DiscretizedLogisticDecoder,
    GaussianDecoder,
    GaussianPosterior,
    HierarchicalELBO,
    LaplaceDecoder,
    Linear,
    NegativeBinomialDecoder,
    PoissonDecoder,
    StudentTDecoder,
    ZeroInflatedNegativeBinomialDecoder,
)

F = torch.zeros(4, 3)
HALF = torch.full((4, 3), 0.5)
KEY = torch.tensor([1, 2])
INDEX = torch.arange(4)


def _wrong(*names) -> dict:
    """Values by what a message says of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # prototypes and what is deprecated
        every = {
            "None": None,
            "0.0": 0.0,
            "2.5": 2.5,
            "42": 42,
            "1j": 1j,
            "'a name'": "a name",
            "list of 1.5": [1.5],
            "tuple of 1.5": (1.5,),
            "ndarray": np.zeros((4, 3), np.float32),
            "sparse_coo": F.to_sparse(),
            "sparse_csr": F.to_sparse_csr(),
            "_mkldnn": F.to_mkldnn(),
            "nested": torch.nested.nested_tensor([F[0], F[1]]),
            "nested tensor": torch.nested.nested_tensor([F[0], F[1]], layout=torch.jagged),
            "quint8": torch.quantize_per_tensor(F, 1.0, 0, torch.quint8),
            "[Cc]omplex": F.to(torch.complex64),
            "(int64|Long)": F.long(),
            "(int32|Int)": torch.zeros(2, dtype=torch.int32),
            "(float32|Float)": torch.zeros(4, 3),
            "class Generator": torch.Generator,
            "Linear": nn.Linear(3, 3),
        }
    return {name: every[name] for name in names}


DENSE = ("sparse_coo", "sparse_csr", "_mkldnn", "nested", "nested tensor")
NO_TENSOR = ("0.0", "'a name'", "list of 1.5", "ndarray")
NO_NUMBER = ("'a name'", "1j", "list of 1.5", "(float32|Float)")
NO_INTEGER = ("2.5", *NO_NUMBER)
NO_NAME = ("42", "list of 1.5")
NO_OBJECT = ("2.5", "'a name'", "(float32|Float)", "Linear")

# What is wrong for each kind of argument, beside None where it is not the default.
WRONG = {
    "floating": _wrong(*NO_TENSOR, *DENSE, "quint8", "[Cc]omplex", "(int64|Long)"),
    "data": _wrong(*NO_TENSOR, *DENSE, "quint8", "[Cc]omplex", "(int64|Long)"),
    "counts": _wrong(*NO_TENSOR, *DENSE, "quint8", "[Cc]omplex"),
    "floating or integer": _wrong(*NO_TENSOR, *DENSE, "[Cc]omplex"),
    "dense": _wrong(*NO_TENSOR, *DENSE),
    "tensor": _wrong(*NO_TENSOR),
    "bytes": _wrong(*NO_TENSOR, *DENSE, "(int64|Long)", "(float32|Float)"),
    "key": _wrong("42", "'a name'", "list of 1.5", "ndarray", "sparse_coo", "(int32|Int)", "(float32|Float)"),
    "index": _wrong("42", "list of 1.5", "ndarray", "(int32|Int)", "(float32|Float)"),
    "words": _wrong("42", "list of 1.5", "ndarray", "(float32|Float)"),
    "integer": _wrong(*NO_INTEGER),
    "number": _wrong(*NO_NUMBER),
    "number or tensor": _wrong("'a name'", "1j", "list of 1.5"),
    "name": _wrong(*NO_NAME) | {"nonsense": "nonsense"},
    "truth": _wrong("'a name'"),
    "generator": _wrong("42", "'a name'", "class Generator", "list of 1.5"),
    "device": _wrong("2.5", "'a name'", "list of 1.5"),
    "shape": _wrong("42", "'a name'", "list of 1.5", "tuple of 1.5"),
    "bounds": _wrong("42", "'a name'") | {r"\(1.5,\)": (1.5,), r"\(1.0, -1.0\)": (1.0, -1.0)},
    "net": _wrong("42", "'a name'", "(float32|Float)"),
    "dtype": _wrong("42", "'a name'") | {"int64": torch.int64},
    "distribution": _wrong(*NO_OBJECT),
    "prior": _wrong(*NO_OBJECT, "list of 1.5"),
    "posterior": _wrong("Linear") | {"float": 2.5, "str": "a name", "list": [F, F], r"\(Tensor, float\)": (F, 0.0)},
    "decoder": _wrong(*NO_OBJECT),
    "numbers": _wrong("'a name'", "1j", "ndarray", "(float32|Float)"),
    "levels": _wrong("42", "'a name'", "(float32|Float)"),
}
# What the names stand for; of the others see the rows. Flags that PyTorch's own signatures have are any truth.
KINDS = {
    **dict.fromkeys(("mu", "logvar", "prior_mu", "prior_logvar", "logits", "probs", "h", "weight", "bias"), "floating"),
    **dict.fromkeys(("rate", "log_rate", "mean", "dispersion", "total_count", "gate_logits"), "floating"),
    **dict.fromkeys(("scale", "log_scale", "df"), "floating"),
    **dict.fromkeys(("input", "recon_x"), "floating"),
    **dict.fromkeys(("x", "value", "target"), "data"),
    **dict.fromkeys(("n_samples", "first_sample", "batch_dims", "latent_dims", "dim", "n"), "integer"),
    **dict.fromkeys(("count", "start", "rounds", "seed", "in_features", "out_features"), "integer"),
    **dict.fromkeys(("warmup_steps", "free_bits_groups", "capacity_steps", "block"), "integer"),
    **dict.fromkeys(("x_scale", "eps", "beta", "free_bits", "capacity"), "number"),
    **dict.fromkeys(("spread", "reduction", "gradient", "purpose"), "name"),
    **dict.fromkeys(("sample_shape", "batch_shape", "shape"), "shape"),
    **dict.fromkeys(("sigmoid", "soft", "tanh", "factorised"), "truth"),
    **dict.fromkeys(("mu_k", "logvar_k", "logits_k"), "floating"),
    **{kind: kind for kind in ("key", "index", "generator", "device", "net", "dtype", "prior", "posterior", "decoder")},
    **{"log_likelihood": "floating", "levels": "levels"},
    **{"params": "dense", "packed": "bytes", "z": "tensor", "clamp": "bounds", "other": "distribution"},
}
FREE = {"size_average", "reduce", "full", "validate_args", "expand", "_instance", "importance_weighted", "name"}


@dataclass
class Row:
    """A public thing and a call of it that is right."""

    name: str
    call: Callable
    right: dict
    kinds: dict = field(default_factory=dict)

    def __str__(self):
        return self.name

    @property
    def parameters(self):
        named = inspect.signature(self.call).parameters.values()
        return [p for p in named if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) and p.name not in FREE]


def _functions(module, prefix, rows, **kinds):
    return [Row(prefix + name, getattr(module, name), right, kinds) for name, right in rows.items()]


def _methods(prefix, instance, rows, **kinds):
    return [Row(f"{prefix}.{name}", getattr(instance, name), right, kinds) for name, right in rows.items()]


POSTERIOR = {"mu": F, "logvar": F}
LAYER = {"x": F, "h": F, "weight": torch.zeros(3, 3)}
FUNCTIONS = _functions(
    aevb_ext,
    "",
    {
        "bernoulli_log_prob": {"x": F, "logits": F},
        "bernoulli_log_prob_of_probs": {"x": F, "probs": HALF},
        "binarize": {"x": F},
        "gaussian_kl": POSTERIOR,
        "gaussian_log_prob": POSTERIOR | {"x": F},
        "halves": {"params": torch.zeros(4, 6)},
        "linear_bernoulli_log_prob": LAYER,
        "linear_gaussian_log_prob": LAYER | {"logvar": F[0, 0]},
        "noise_key": {},
        "rsample": POSTERIOR,
        "rsample_kl": POSTERIOR,
        "unpack_bits": {"packed": torch.zeros(4, 1, dtype=torch.uint8), "n": 3},
    },
) + _functions(
    aevb_ext,
    "",
    {
        "poisson_log_prob": {"x": F, "log_rate": F},
        "negative_binomial_log_prob": {"x": F, "mean": HALF, "dispersion": HALF},
        "zero_inflated_negative_binomial_log_prob": {"x": F, "mean": HALF, "dispersion": HALF, "gate_logits": F},
        "laplace_log_prob": {"x": F, "mu": F, "scale": HALF},
        "student_t_log_prob": {"x": F, "mu": F, "scale": HALF, "df": HALF},
        "continuous_bernoulli_log_prob": {"x": F, "logits": F},
        "discretized_logistic_log_prob": {"x": F, "mu": F, "log_scale": F},
    },
    x="counts",
)
FUNCTIONS += [
    Row(
        "categorical_log_prob",
        aevb_ext.categorical_log_prob,
        {"x": torch.zeros(4, dtype=torch.int64), "logits": F},
        {"x": "counts"},
    ),
    Row(
        "discretized_logistic_mixture_log_prob",
        aevb_ext.discretized_logistic_mixture_log_prob,
        {"x": torch.zeros(4, 3, 2, 2), "params": torch.zeros(4, 10, 2, 2)},
        {"params": "floating"},
    ),
]
FUNCTIONS += _functions(
    aevb_ext, "", {"mixture_log_prob": {"z": F, "mu_k": F, "logvar_k": F, "logits_k": F[:, 0]}}, z="floating"
)
COMPAT = [
    *_functions(
        compat,
        "compat.",
        {
            "binary_cross_entropy": {"input": HALF, "target": F},
            "binary_cross_entropy_with_logits": {"input": F, "target": F},
            "reparameterize": POSTERIOR,
            "vae_loss": POSTERIOR | {"recon_x": HALF, "x": F},
        },
        weight="tensor",
        pos_weight="tensor",
    ),
    Row(
        "compat.gaussian_nll_loss",
        compat.gaussian_nll_loss,
        {"input": F, "target": F, "var": HALF},
        {"target": "floating or integer", "var": "number or tensor", "eps": "number or tensor"},
    ),
]
GAUSSIAN, BERNOULLI = DiagonalGaussian(F, F), Bernoulli(logits=F)
DISTRIBUTIONS = [
    Row("distributions.DiagonalGaussian", DiagonalGaussian, POSTERIOR),
    Row("distributions.Bernoulli", Bernoulli, {"logits": F}, {"probs": None}),
    Row("distributions.Bernoulli", Bernoulli, {"probs": HALF}, {"logits": None}),
    *_methods(
        "distributions.DiagonalGaussian",
        GAUSSIAN,
        {
            "from_params": {"params": torch.zeros(4, 6)},
            "expand": {"batch_shape": (2, 4)},
            "rsample": {},
            "sample": {},
            "rsample_kl": {},
            "kl": {"other": GAUSSIAN},
            "log_prob": {"value": F},
        },
        value="floating or integer",
        soft=None,
    ),
    *_methods(
        "distributions.Bernoulli",
        BERNOULLI,
        {"expand": {"batch_shape": (2, 4)}, "sample": {}, "kl": {"other": BERNOULLI}, "log_prob": {"value": F}},
        value="floating or integer",
    ),
]
MIXTURE = {"mu": F, "logvar": F}
DISTRIBUTIONS += [
    Row("distributions.DiagonalGaussianMixture", DiagonalGaussianMixture, MIXTURE | {"logits": F[:, 0]}),
    *_methods(
        "distributions.DiagonalGaussianMixture",
        DiagonalGaussianMixture(**MIXTURE),
        {"sample": {}, "log_prob": {"value": F}},
    ),
]
NET, NET2 = nn.Linear(3, 3), nn.Linear(3, 6)
BERNOULLI_DECODER, GAUSSIAN_DECODER = BernoulliDecoder(NET), GaussianDecoder(NET2)
OF_Z = {"forward": {"z": F}, "mean": {"z": F}, "log_prob": {"x": F, "z": F}}
SUPPORT = {"check_support": {"x": F, "x_scale": 1.0, "name": "x"}}
MODULES_OF_NN = [
    Row("nn.ELBO", ELBO, {}),
    *_methods(
        "nn.ELBO",
        ELBO(),
        {
            "forward": {"x": F, "posterior": (F, F), "decoder": BERNOULLI_DECODER},
            "set_beta": {"beta": 1.0},
        },
    ),
    Row("nn.HierarchicalELBO", HierarchicalELBO, {}, {"free_bits": "numbers"}),
    *_methods(
        "nn.HierarchicalELBO",
        HierarchicalELBO(),
        {"forward": {"log_likelihood": F[:, 0], "levels": [((F, F), None)]}, "set_beta": {"beta": 1.0}},
    ),
    Row("nn.GaussianPosterior", GaussianPosterior, {"net": NET2}),
    Row("nn.BernoulliDecoder", BernoulliDecoder, {"net": NET}),
    *_methods("nn.BernoulliDecoder", BERNOULLI_DECODER, OF_Z),
    *_methods("nn.BernoulliDecoder", BERNOULLI_DECODER, SUPPORT, x="tensor"),
    Row("nn.GaussianDecoder", GaussianDecoder, {"net": NET2}, {"logvar": "number or tensor"}),
    *_methods("nn.GaussianDecoder", GAUSSIAN_DECODER, OF_Z),
    *_methods("nn.GaussianDecoder", GAUSSIAN_DECODER, SUPPORT, x="tensor"),
    Row("nn.Linear", Linear, {"in_features": 3, "out_features": 3}, {"bias": "truth"}),
    *_methods("nn.Linear", Linear(3, 3), {"forward": {"x": F}}, x="tensor"),
]
# The likelihoods' other decoders, each made of a network; classes are x themselves.
OF_LIKELIHOODS = {
    PoissonDecoder: ({"net": NET}, {}),
    NegativeBinomialDecoder: ({"net": NET}, {}),
    ZeroInflatedNegativeBinomialDecoder: ({"net": NET2}, {}),
    LaplaceDecoder: ({"net": NET2}, {}),
    StudentTDecoder: ({"net": NET2}, {}),
    DiscretizedLogisticDecoder: ({"net": NET2}, {}),
    ContinuousBernoulliDecoder: ({"net": NET}, {}),
    CategoricalDecoder: ({"net": NET2, "classes": 2}, {"classes": "integer"}),
}
for cls, (right, kinds) in OF_LIKELIHOODS.items():
    name = f"nn.{cls.__name__}"
    learned = dict.fromkeys(("log_dispersion", "log_scale", "df"), "number or tensor")
    MODULES_OF_NN.append(Row(name, cls, right, learned | {"library_size": "number"} | kinds))
    MODULES_OF_NN += _methods(name, cls(**right), OF_Z | SUPPORT, x="tensor")
NOISE = [
    *_functions(
        noise,
        "noise.",
        {
            "words": {"key": KEY, "count": 3},
            "standard_normal": {"key": KEY, "shape": (3,), "dtype": torch.float32},
            "keys_at": {"seed": 0, "purpose": "posterior", "index": INDEX},
            "rekeyed": {"key": KEY, "purpose": "posterior"},
            "seed_for": {"seed": 0, "purpose": "posterior"},
        },
    ),
    Row(
        "noise.philox4x32",
        noise.philox4x32,
        {"counter": [INDEX] * 4, "key": [INDEX] * 2},
        {"counter": "words", "key": "words"},
    ),
]
ROWS = FUNCTIONS + COMPAT + DISTRIBUTIONS + MODULES_OF_NN + NOISE
CASES = [
    pytest.param(row, p, id=f"{row}-{p.name}")
    for row in ROWS
    for p in row.parameters
    if row.kinds.get(p.name, KINDS.get(p.name, "")) is not None
]


@pytest.mark.parametrize(("row", "parameter"), CASES)
def test_what_an_argument_is_not(row, parameter):
    wrong = WRONG[row.kinds.get(parameter.name) or KINDS[parameter.name]]
    if parameter.default not in (None, False):
        wrong = {"None": None} | wrong
    row.call(**row.right)
    for came, value in wrong.items():
        with pytest.raises((TypeError, ValueError)) as caught:
            row.call(**row.right | {parameter.name: value})
        message = str(caught.value)
        assert re.search(rf"\b{parameter.name}\b.* must be .*\bgot .*{came}", message), f"of {came}: {message}"
        assert "csrc" not in message and "Cast error" not in message
        cause = caught.value.__context__
        assert cause is None or caught.value.__suppress_context__, f"of {came}: what failed of it is shown as well"


def _public_methods(cls):
    """Those that it has of its own, with arguments."""
    names = [name for name in vars(cls) if not name.startswith("_") and name not in FREE]
    methods = {name: getattr(cls, name) for name in names if callable(getattr(cls, name))}
    return [name for name, method in methods.items() if len(inspect.signature(method).parameters) > 1]


# Those whose arguments are any truth, are the network's own, or are a tuple's elements.
OTHERS = {"build_info", "nn.ELBOTerms", "nn.HierarchicalELBOTerms", "nn.GaussianPosterior.forward"}
OTHERS |= {"distributions.Bernoulli.enumerate_support"}


@pytest.mark.parametrize("prefix", [*MODULES, "noise."])
def test_every_argument_has_a_row(prefix):
    if prefix == "noise.":
        functions = vars(noise).items()
        names = {name for name, f in functions if inspect.isfunction(f) and f.__module__ == noise.__name__}
        names = {name for name in names if not name.startswith("_")} - {"keys_of"}  # of the functions' own use
    else:
        names = {name for name in MODULES[prefix].__all__ if not inspect.ismodule(getattr(MODULES[prefix], name))}
    expected = {prefix + name for name in names}
    for name in names if prefix != "noise." else ():
        if inspect.isclass(cls := getattr(MODULES[prefix], name)):
            expected |= {f"{prefix}{name}.{method}" for method in _public_methods(cls)}
    assert expected - {row.name for row in ROWS} <= OTHERS
    for row in ROWS:
        assert all(p.name in row.kinds or p.name in KINDS for p in row.parameters), row


INTEGERS = {"int": int, "int64": np.int64, "uint8": np.uint8, "tensor": torch.tensor, "array": np.array}
NUMBERS = {"float": float, "int": int, "float32": np.float32, "float64": np.float64, "int64": np.int64}
NUMBERS |= {"tensor": torch.tensor, "array": np.array}


@pytest.mark.parametrize("integer", INTEGERS.values(), ids=INTEGERS)
def test_integers_of_all_kinds(integer):
    one = integer(1)
    expected = aevb_ext.rsample(F, F, n_samples=1, first_sample=1, key=KEY)
    assert torch.equal(aevb_ext.rsample(F, F, n_samples=one, first_sample=one, key=KEY), expected)
    assert aevb_ext.gaussian_kl(F, F, batch_dims=one).shape == (4,)
    assert aevb_ext.halves(torch.zeros(4, 6), one)[0].shape == (4, 3)
    assert aevb_ext.unpack_bits(torch.zeros(4, 1, dtype=torch.uint8), one).shape == (4, 1)
    assert ELBO(one).n_samples == 1
    assert noise.seed_for(one, "posterior") == noise.seed_for(1, "posterior")


@pytest.mark.parametrize("number", NUMBERS.values(), ids=NUMBERS)
def test_numbers_of_all_kinds(number):
    x = torch.rand(4, 3)
    expected = aevb_ext.bernoulli_log_prob(x, HALF, x_scale=2.0)
    assert torch.equal(aevb_ext.bernoulli_log_prob(x, HALF, x_scale=number(2)), expected)
    if not hasattr(number(2), "ndim"):
        assert torch.equal(compat.gaussian_nll_loss(x, HALF, number(2)), compat.gaussian_nll_loss(x, HALF, 2.0))


def test_shapes_and_generators_of_all_kinds():
    for shape in ((2,), [2], torch.Size([2]), (np.int64(2),)):
        assert GAUSSIAN.rsample(shape).shape == BERNOULLI.sample(shape).shape == (2, 4, 3)
    for of in (list, tuple):
        generators = of(torch.Generator().manual_seed(i) for i in range(4))
        assert GAUSSIAN.rsample(generator=generators).shape == (4, 3)
        assert aevb_ext.noise_key(generator=generators).shape == (4, 2)


def test_sizes_of_a_compiler():
    """A number of samples that torch.compile has as a symbol."""

    @torch.compile(fullgraph=True, dynamic=True, backend="eager")
    def draw(mu, like):
        return aevb_ext.rsample(mu, mu, n_samples=like.shape[0], key=KEY)

    torch._dynamo.reset()
    for n in (3, 5):
        assert torch.equal(draw(HALF, torch.zeros(n)), aevb_ext.rsample(HALF, HALF, n_samples=n, key=KEY))


def test_a_scale_that_is_not_finite_is_data_that_is_not():
    """NaN in, NaN out: no number is looked at."""
    assert aevb_ext.bernoulli_log_prob(HALF, HALF, x_scale=float("nan")).isnan().all()
    assert (aevb_ext.bernoulli_log_prob(HALF, HALF, x_scale=float("inf")) == float("inf")).all()


def families():
    """The modules of functional that explain what failed."""
    return [module for module in vars(functional).values() if hasattr(module, "explain")]


@pytest.mark.parametrize("row", FUNCTIONS + COMPAT, ids=str)
def test_a_call_that_is_right_asks_nothing(row, monkeypatch):
    """What a failed call is explained by costs nothing where it does not fail."""

    def asked(*args, **kwargs):
        raise AssertionError("a call that is right was explained")

    for module in (compat, *families()):
        monkeypatch.setattr(module, "explain", asked)
    row.call(**row.right)


def _zeros(*shape):
    return torch.zeros(shape)


# Right kinds that do not fit one another or their range: what each docstring's Raises says, where test_errors.py and
# the tests of the thing itself have it not.
UNFIT = {
    "n_samples": (
        lambda: aevb_ext.rsample(F, F, n_samples=2**63),
        r"n_samples must be an integer of 64 bits, got 9223",
    ),
    "batch_dims": (lambda: aevb_ext.gaussian_kl(F, F, batch_dims=2**70), r"batch_dims must be an integer of 64 bits"),
    "target": (lambda: compat.gaussian_nll_loss(F, _zeros(4, 2), F), r"target has shape \[4, 2\].*input, .*\[4, 3\]"),
    "logvar": (lambda: compat.reparameterize(F, _zeros(3, 3)), r"logvar has shape \[3, 3\].*mu, .*\[4, 3\]"),
    "of loss": (lambda: compat.vae_loss(HALF, F, F, _zeros(3, 3)), r"logvar has shape \[3, 3\].*mu, .*\[4, 3\]"),
    "z": (lambda: BernoulliDecoder(NET, latent_dims=3)(F), r"z must have latent_dims=3 dimensions .*, got \[4, 3\]"),
    "z of mean": (lambda: GaussianDecoder(NET2, latent_dims=3).mean(F), r"z must have latent_dims=3 .*, got \[4, 3\]"),
    "count": (lambda: noise.words(KEY, -1), r"count and start must be at least 0, got -1 and 0"),
    "start": (lambda: noise.words(KEY, 1, -4), r"count and start must be at least 0, got 1 and -4"),
    "shape": (
        lambda: noise.standard_normal(KEY, (-1,), torch.float32),
        r"shape must have no negative size, got \[-1\]",
    ),
    "key": (lambda: noise.words(torch.zeros(3).long(), 1), r"key must have shape \[\*batch, 2\].*got \[3\]"),
    "key of purpose": (lambda: noise.rekeyed(KEY[0], "posterior"), r"key must have shape \[\*batch, 2\].*got \[\]"),
}


@pytest.mark.parametrize(("call", "message"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_what_fails_for_another_reason_stays_what_it_is():
    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(lambda mu: aevb_ext.rsample(mu, mu))(F)
    with pytest.raises(IndexError):
        aevb_ext.halves(F, 5)
    with pytest.raises(NotImplementedError, match="No KL"):
        GAUSSIAN.kl(Categorical(F.exp()))
    mixture = MixtureSameFamily(Categorical(torch.ones(2)), Independent(Normal(F[:2], 1.0), 1))
    with pytest.raises(NotImplementedError):
        GAUSSIAN.kl(mixture)
