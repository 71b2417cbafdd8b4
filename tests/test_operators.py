"""Every operator of torch.ops.aevb_ext, backwards too, raises if its arguments do not fit, and reads no other memory.

A new operator is one more row of ROWS, or a test fails.
"""

from dataclasses import dataclass, field

import pytest
import torch

import aevb_ext

OPS = torch.ops.aevb_ext


def _f(*shape):
    return torch.full(shape, 0.5)


def _b(*shape):
    return torch.ones(shape, dtype=torch.uint8)


KEY = torch.tensor([1, 2])
REDUCED = {"reduction": "sample", "batch_dims": 1}
DRAWN = {"key": KEY, "n_samples": 2, "first_sample": 0, "spread": "logvar"}
POSTERIOR = {"mu": _f(4, 3), "logvar": _f(4, 3)}
PRIOR = {"prior_mu": _f(4, 3), "prior_logvar": _f(4, 3), "spread": "logvar", **REDUCED}
BERNOULLI = {"x": _f(4, 3), "x_scale": 1.0, **REDUCED}
GAUSSIAN = {"x": _f(4, 3), "mu": _f(4, 3), "logvar": _f(4, 3), "spread": "logvar", "x_scale": 1.0, **REDUCED}
LAYER = {"x": _f(4, 3), "h": _f(4, 5), "weight": _f(3, 5), "bias": _f(3), "x_scale": 1.0, **REDUCED}
GAUSSIAN_LAYER = {**LAYER, "logvar": _f(3), "sigmoid": True}
LINEAR = {"x": _f(4, 5), "weight": _f(3, 5), "x_scale": 1.0}
OF_EACH = {"cotangent": _f(4)}
MIXTURE = {
    **{"z": _f(4, 3), "mu_k": _f(5, 3), "logvar_k": _f(5, 3), "logits_k": _f(5)},
    **{"spread": "logvar", "factorised": False},
}


ANY_PARAMS = {f"params: {w}" for w in ("less", "float16", "int64", "more dims", "elsewhere")}
NUMBERS = {"n_samples: 99", "first_sample: 99"}
OF_A_DRAW = {"n: 99", "call: -1", "call: 99", "call: huge"}


@dataclass
class Row:
    """An operator with arguments that fit, and which of its ill-fitting ones (see `mistakes`) are none."""

    name: str
    good: dict
    fine: set = field(default_factory=set)

    def __str__(self):
        return self.name


ROWS = [
    Row(
        "bernoulli_log_prob", {**BERNOULLI, "logits": _f(4, 3)}, {"logits: more dims", "logits: float16", "x: float16"}
    ),
    Row(
        "bernoulli_log_prob_backward",
        {**BERNOULLI, **OF_EACH, "logits": _f(4, 3), "wanted": [True] * 2},
        {"x: float16", "cotangent: float16", "logits: float16"},
    ),
    Row(
        "bernoulli_log_prob_of_probs",
        {**BERNOULLI, "probs": _f(4, 3)},
        {"probs: more dims", "probs: float16", "x: float16"},
    ),
    Row(
        "bernoulli_log_prob_of_probs_backward",
        {**BERNOULLI, **OF_EACH, "probs": _f(4, 3), "wanted": [True] * 2},
        {"x: float16", "cotangent: float16", "probs: float16"},
    ),
    Row("gaussian_log_prob", GAUSSIAN, {"mu: more dims", "x: float16"}),
    Row(
        "gaussian_log_prob_backward",
        {**GAUSSIAN, **OF_EACH, "wanted": [True] * 3},
        {"x: float16", "cotangent: float16"},
    ),
    Row("gaussian_kl", {**POSTERIOR, **PRIOR}, {"mu: more dims"}),
    Row("gaussian_kl_backward", {**POSTERIOR, **PRIOR, **OF_EACH, "wanted": [True] * 4}, {"cotangent: float16"}),
    Row("mixture_log_prob", MIXTURE, {"z: more dims"}),
    Row(
        "mixture_log_prob_backward",
        {**MIXTURE, **OF_EACH, "log_density": _f(4), "wanted": [True] * 4},
        {"cotangent: float16", "log_density: float16"},
    ),
    Row("rsample", {**POSTERIOR, **DRAWN}, {"mu: more dims", *NUMBERS}),
    Row(
        "rsample_backward",
        {"cotangent": _f(2, 4, 3), "logvar": _f(4, 3), **DRAWN, "wanted": [True] * 2},
        {"cotangent: more dims", "first_sample: 99"},
    ),
    Row("rsample_kl", {**POSTERIOR, **DRAWN, **REDUCED}, {"mu: more dims", *NUMBERS}),
    Row(
        "rsample_kl_backward",
        {
            **{**POSTERIOR, **DRAWN, **REDUCED},
            **{"z_cotangent": _f(2, 4, 3), "kl_cotangent": _f(4), "wanted": [True] * 2},
        },
        {"kl_cotangent: float16", "first_sample: 99"},
    ),
    Row("linear", {**LINEAR, "bias": _f(3), "tanh": True}, {"x: more dims"}),
    Row("linear_backward", {**LINEAR, "cotangent": _f(4, 3), "y": _f(4, 3), "wanted": [True] * 3}),
    Row("linear_bernoulli_log_prob", LAYER, {"x: float16", "h: more dims"}),
    Row(
        "linear_bernoulli_log_prob_backward",
        {**LAYER, **OF_EACH, "wanted": [True] * 4},
        {"x: float16", "cotangent: float16"},
    ),
    Row("linear_gaussian_log_prob", GAUSSIAN_LAYER, {"x: float16", "h: more dims"}),
    Row(
        "linear_gaussian_log_prob_backward",
        {**GAUSSIAN_LAYER, **OF_EACH, "wanted": [True] * 5},
        {"x: float16", "cotangent: float16"},
    ),
    Row(
        "binarize",
        {"x": _f(4, 3), "key": KEY, "x_scale": 1.0},
        {f"x: {w}" for w in ("float16", "more", "less", "more dims")},
    ),
    Row("unpack_bits", {"packed": _b(4, 2), "n": 11}, {"packed: more dims", "packed: elsewhere"}),
    Row(
        "mlp_bound",
        {
            "x": _f(4, 3),
            "key": torch.ones(4, 2, dtype=torch.int64),
            "parameters": [_f(5, 3), _f(5), _f(4, 5), _f(4), _f(6, 2), _f(6), _f(3, 6), _f(3)],
            "x_scale": 1.0,
        },
    ),
    # As chunk has it, of any tensor.
    Row("halves", {"params": _f(4, 6), "dim": 1}, ANY_PARAMS | {"dim: -1"}),
    Row(
        "widened",
        {"t": _f(4, 3), "dtype": torch.float64},
        {f"t: {w}" for w in ("more", "less", "float16", "more dims", "elsewhere")},
    ),
    Row("noise_key", {"device": torch.device("cpu"), "generator": torch.Generator(), "n": 3, "call": 0}, OF_A_DRAW),
]
# The elementwise likelihoods: their parameterisation and their parameters, of which the first has the whole shape.
LOG_PROBS = {
    "poisson": ("log_rate", ("log_rate",)),
    "negative_binomial": ("mean", ("mean", "dispersion")),
    "zero_inflated_negative_binomial": ("mean", ("mean", "dispersion", "gate_logits")),
    "laplace": ("scale", ("mu", "scale")),
    "student_t": ("log_scale", ("mu", "scale", "df")),
    "continuous_bernoulli": ("logits", ("logits",)),
    "discretized_logistic": ("log_scale", ("mu", "log_scale")),
}
for name, (form, parameters) in LOG_PROBS.items():
    given = {"x": _f(4, 3), **dict.fromkeys(parameters, _f(4, 3)), "form": form, "x_scale": 1.0, **REDUCED}
    alone = {f"{parameters[0]}: float16"} if len(parameters) == 1 else set()
    wanted = {"wanted": [True] * (1 + len(parameters))}
    ROWS += [
        Row(f"{name}_log_prob", given, {"x: float16", "x: int64", f"{parameters[0]}: more dims", *alone}),
        Row(
            f"{name}_log_prob_backward",
            {**given, **OF_EACH, **wanted},
            {"x: float16", "x: int64", "cotangent: float16", *alone},
        ),
    ]
# In compiled graphs the forward of operators over rows computes the wanted gradients ahead.
SPECULATIVE = {
    "bernoulli_log_prob": 2,
    "bernoulli_log_prob_of_probs": 2,
    "gaussian_log_prob": 3,
    "gaussian_kl": 4,
    "linear_bernoulli_log_prob": 4,
    "linear_gaussian_log_prob": 5,
    **{f"{name}_log_prob": 1 + len(parameters) for name, (_, parameters) in LOG_PROBS.items()},
}
ROWS += [
    Row(f"{row.name}_speculative", row.good | {"wanted": [True] * SPECULATIVE[row.name]}, row.fine)
    for row in ROWS
    if row.name in SPECULATIVE
]
every_row = pytest.mark.parametrize("row", ROWS, ids=str)


def _operator(row):
    return getattr(OPS, row.name).default


def _mistakes(row):
    """Name and arguments of calls each of which has one argument that does not fit."""
    for argument in _operator(row)._schema.arguments:
        name, given = argument.name, row.good.get(argument.name)
        others = {}
        if isinstance(given, torch.Tensor):
            other = torch.int32 if given.dtype == torch.int64 else torch.int64
            others = {
                "more": given.new_ones([size + 3 for size in given.shape]),
                "less": given[..., :0],
                "more dims": given.expand(2, *given.shape),
                "int64": given.to(other),
                "float16": given.half(),
                "elsewhere": given.to("meta"),
                "None": None,
            }
            if argument.type.kind() == "OptionalType":
                del others["None"]
        elif isinstance(given, list):
            others = {"short": given[:-1], "long": [*given, True]}
        elif isinstance(given, str):
            others = {"unknown": "nonsense", "None": None}
        elif type(given) is int:
            others = {"-1": -1, "99": 99, "huge": 2**62}
        elif isinstance(given, torch.Generator):
            others = {"a number": 1}
        for what, value in others.items():
            yield f"{name}: {what}", row.good | {name: value}


def test_every_operator_has_a_row():
    registered = {s.name for s in torch._C._jit_get_all_schemas() if s.name.startswith("aevb_ext::")}
    assert sorted(f"aevb_ext::{row.name}" for row in ROWS) == sorted(registered)


@every_row
def test_what_fits_is_taken(row):
    assert row.good.keys() <= {argument.name for argument in _operator(row)._schema.arguments}
    _operator(row)(**row.good)


@every_row
def test_what_does_not_fit_is_refused(row):
    taken = set()
    for what, arguments in _mistakes(row):
        try:
            _operator(row)(**arguments)
        except (ValueError, TypeError, IndexError, RuntimeError):
            continue
        taken.add(what)
    assert taken == row.fine


BACKWARDS = [row for row in ROWS if row.name.endswith("_backward")]


@pytest.mark.parametrize("reduction", ["none", "sample", "sum", "mean"])
@pytest.mark.parametrize("row", [row for row in BACKWARDS if "reduction" in row.good], ids=str)
def test_a_cotangent_is_of_its_reduction(row, reduction):
    name = "kl_cotangent" if "kl_cotangent" in row.good else "cotangent"
    shapes = {"none": (4, 3), "sample": (4,), "sum": (), "mean": ()}
    for shape in {*shapes.values(), (1,), (4, 1), (50, 7), (2, 4, 3)}:
        arguments = row.good | {"reduction": reduction, name: _f(*shape)}
        if shape == shapes[reduction]:
            _operator(row)(**arguments)
        else:
            with pytest.raises(ValueError, match=name):
                _operator(row)(**arguments)


@pytest.mark.parametrize("row", BACKWARDS, ids=str)
def test_nothing_is_wanted(row):
    """Of rows that are longer than what is worked on at a time: no result, and no place that one would be put."""
    long = {3: 9000, 5: 7}
    widened = {
        name: t.new_ones([long.get(size, size) for size in t.shape])
        for name, t in row.good.items()
        if isinstance(t, torch.Tensor) and t is not KEY
    }
    results = _operator(row)(**(row.good | widened | {"wanted": [False] * len(row.good["wanted"])}))
    assert not any(r is not None and r.any() for r in results)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rows", [0, 1, 3, 1001])
def test_a_mean_is_torchs_mean_of_the_rows(rows, dtype):
    mu, logvar = torch.randn(2, rows, 5, dtype=dtype)
    rows_of_kl, rows_of_sampling = aevb_ext.gaussian_kl(mu, logvar), aevb_ext.rsample_kl(mu, logvar)[1]
    for mean, of_rows in (
        (aevb_ext.gaussian_kl(mu, logvar, reduction="mean"), rows_of_kl),
        (aevb_ext.rsample_kl(mu, logvar, reduction="mean")[1], rows_of_sampling),
        (aevb_ext.gaussian_kl(mu, logvar.requires_grad_(), reduction="mean"), rows_of_kl),
    ):
        assert mean.dtype == dtype
        torch.testing.assert_close(mean.detach(), of_rows.mean(), rtol=0, atol=0, equal_nan=True)
