"""The table of operators, shapes and layouts from which most tests are generated.

A new operator is one more row of OPERATORS: values, gradients, layouts, opcheck, compile, export and functional
transforms are tested from it.
"""

import itertools
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from unittest import mock

import torch
from noise_definition import normals

import aevb_ext
from aevb_ext import reference

SPREADS = ("logvar", "log_std", "std", "var")
REDUCTIONS = ("sample", "none", "sum", "mean")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
X_DTYPES = ("same", torch.uint8, torch.bool, torch.float64, torch.float32, torch.bfloat16, torch.float16)

# Both words of the seed and of the offset are used.
KEY = (0x0123_4567_89AB_CDEF, 5 + (3 << 33))

# What a float32 result may be off by, in units of eps x (1 + |the terms it is a sum of|). The tight bounds, in ulp and
# over the whole range of the inputs, are those of test_extremes.py.
VALUE_EPS, GRADIENT_EPS = 16, 32


def runs_cuda(tensor) -> bool:
    """Whether the CUDA kernels compute with a tensor: on a GPU, or emulated."""
    return tensor.is_cuda or aevb_ext.build_info().get("emulated", False)


@dataclass(frozen=True)
class Shape:
    batch: tuple[int, ...]
    event: tuple[int, ...]
    samples: tuple[int, ...] = ()


SHAPES = {
    "1d": Shape((6,), ()),
    "event1": Shape((4,), (1,)),
    "event3": Shape((4,), (3,)),
    "event63": Shape((3,), (63,)),
    "event784": Shape((2,), (784,)),
    "image": Shape((2,), (3, 4, 6)),
    "video": Shape((2,), (3, 2, 4, 6)),
    "batch2": Shape((3, 2), (7,)),
    "batch0": Shape((), (37,)),
    "sampled": Shape((4,), (63,), samples=(3,)),
    "sampled_image": Shape((2,), (3, 4, 6), samples=(2,)),
    "sampled_twice": Shape((2,), (5,), samples=(2, 3)),
    "sampled_often": Shape((2,), (3, 4), samples=(37,)),
}
LONG = Shape((2,), (100003,))


# How a tensor lies in memory. Each takes a contiguous tensor to one of the same shape; "expanded" alone changes the
# values (to those of the first entry).


def _halves(t):
    """The second half of a tensor twice as wide, as `params.chunk(2, 1)` gives it: odd events are not even aligned."""
    dim = min(1, t.dim() - 1)
    return torch.cat([torch.full_like(t, math.nan), t], dim).chunk(2, dim)[1]


def _transposed(t):
    dims = tuple(reversed(range(t.dim())))
    return t.permute(dims).contiguous().permute(dims)


def _channels_last(t):
    return t.movedim(1, -1).contiguous().movedim(-1, 1) if t.dim() > 1 else t


def _every_other(t):
    return torch.stack([t, torch.full_like(t, math.nan)], -1).flatten(-2)[..., ::2]


def _expanded(t):
    return t[:1].expand(t.shape)


LAYOUTS = {
    "contiguous": lambda t: t,
    "halves": _halves,
    "transposed": _transposed,
    "channels_last": _channels_last,
    "every_other": _every_other,
    "expanded": _expanded,
}


def lay_out(t: torch.Tensor, layout: str) -> torch.Tensor:
    if t.dim() == 0:
        return t
    if not t.is_floating_point():  # no NaN to fill the gaps with
        return LAYOUTS[layout](t.double()).to(t.dtype) if layout != "expanded" else _expanded(t)
    return LAYOUTS[layout](t)


# Which shape an argument has.


def _data(shape, _):
    return shape.batch + shape.event


def _decoder(shape, _):
    return shape.samples + shape.batch + shape.event


def _spread_of(full: Callable) -> Callable:
    def broadcast(shape, form):
        ones = (1,) * len(shape.event)
        return {
            "full": full(shape, form),
            "scalar": (),
            "feature": shape.event,
            "channel": (shape.event[:1] + ones[1:]),
            "point": shape.batch + ones,
        }[form]

    return broadcast


SPREAD_FORMS = ("full", "scalar", "feature", "channel", "point")


# Which values it has, in float64.


def _normal(generator, shape):
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _unit(generator, shape):
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def _logits(generator, shape):
    return 3 * _normal(generator, shape)


def _probs(generator, shape):
    return 0.02 + 0.96 * _unit(generator, shape)


def _counts(generator, shape):
    """Half of them 0."""
    return (-6 * (1 - _unit(generator, shape)).log() - 4).clamp(min=0).round()


def _levels(generator, shape):
    return (255 * _unit(generator, shape)).round() / 255


def _positive(generator, shape):
    return _log_variance(generator, shape).exp()


def _log_variance(generator, shape):
    return 4 * _unit(generator, shape) - 2


@dataclass(frozen=True)
class Argument:
    values: Callable
    shape: Callable
    is_spread: bool = False


def _spread(full):
    return Argument(_log_variance, _spread_of(full), is_spread=True)


def _broadcast(values):
    """A parameter of a decoder beside the one that has the whole shape."""
    return Argument(values, _spread_of(_decoder))


@dataclass(frozen=True)
class Operator:
    """A public function: its tensors, and which of the common options it takes."""

    name: str
    arguments: dict[str, Argument]
    draws_noise: bool = False
    keys: bool = False  # one for each data point
    reduces: bool = True
    forms: tuple[str, ...] = SPREAD_FORMS
    variant: str = ""
    spreads: dict[str, str] = field(default_factory=lambda: {name: name for name in SPREADS})  # what each is here
    x_dtypes: tuple = X_DTYPES
    x_scales: dict = field(default_factory=lambda: {torch.uint8: 1 / 255, "same": 1.0})  # others: 0.75
    counts: bool = False
    discrete: bool = False  # finite differences of x are no derivative
    thorough: bool = True  # whether it has kernels of its own, and is not one more formula in others' loops

    @property
    def takes_x(self):
        return "x" in self.arguments

    @property
    def takes_spread(self):
        return any(a.is_spread for a in self.arguments.values())

    @property
    def takes_form(self):
        return any(a.shape not in (_data, _decoder) for a in self.arguments.values())

    def __str__(self):
        return f"{self.name}_{self.variant}" if self.variant else self.name


_posterior = {"mu": Argument(_normal, _data), "logvar": _spread(_data)}
_prior_mean = {"prior_mu": Argument(_normal, _spread_of(_data))}
_prior_spread = {"prior_logvar": _spread(_data)}
OPERATORS = [
    Operator("rsample", _posterior, draws_noise=True, reduces=False),
    Operator("gaussian_kl", _posterior),
    Operator("gaussian_kl", {**_posterior, **_prior_mean, **_prior_spread}, variant="to_prior"),
    Operator("gaussian_kl", {**_posterior, **_prior_mean}, variant="to_prior_mean"),
    Operator("gaussian_kl", {**_posterior, **_prior_spread}, variant="to_prior_spread"),
    Operator("rsample_kl", _posterior, draws_noise=True),
    Operator("rsample", _posterior, draws_noise=True, keys=True, reduces=False, variant="keys"),
    Operator("rsample_kl", _posterior, draws_noise=True, keys=True, variant="keys"),
    Operator("bernoulli_log_prob", {"x": Argument(_unit, _data), "logits": Argument(_logits, _decoder)}),
    Operator("bernoulli_log_prob_of_probs", {"x": Argument(_unit, _data), "probs": Argument(_probs, _decoder)}),
    Operator(
        "gaussian_log_prob",
        {"x": Argument(_unit, _data), "mu": Argument(_normal, _decoder), "logvar": _spread(_decoder)},
    ),
]

_of_scale = {
    "spreads": {"logvar": "log_scale", "log_std": "log_scale", "std": "scale", "var": "scale"},
    "thorough": False,
}
_of_counts = {
    "x_dtypes": ("same", torch.int64, torch.int32, torch.int16, torch.uint8, torch.float64, torch.bfloat16),
    "x_scales": {torch.int64: 1.0, torch.uint8: 1.0, "same": 1.0},
    "counts": True,
    "discrete": True,
    "thorough": False,
}
_located = {"x": Argument(_unit, _data), "mu": Argument(_normal, _decoder)}
_counted = {"x": Argument(_counts, _data)}
_mean = {"mean": Argument(_positive, _decoder)}
OPERATORS += [
    Operator("poisson_log_prob", _counted | {"log_rate": Argument(_normal, _decoder)}, **_of_counts),
    Operator("poisson_log_prob", _counted | {"rate": Argument(_positive, _decoder)}, variant="of_rate", **_of_counts),
    Operator("negative_binomial_log_prob", _counted | _mean | {"dispersion": _broadcast(_positive)}, **_of_counts),
    Operator(
        "negative_binomial_log_prob",
        _counted | {"logits": Argument(_normal, _decoder), "total_count": _broadcast(_positive)},
        variant="of_logits",
        **_of_counts,
    ),
    Operator(
        "zero_inflated_negative_binomial_log_prob",
        _counted | _mean | {"dispersion": _broadcast(_positive), "gate_logits": _broadcast(_normal)},
        **_of_counts,
    ),
    Operator("laplace_log_prob", _located | {"scale": _spread(_decoder)}, **_of_scale),
    Operator("student_t_log_prob", _located | {"scale": _spread(_decoder), "df": _broadcast(_positive)}, **_of_scale),
    Operator(
        "continuous_bernoulli_log_prob",
        {"x": Argument(_unit, _data), "logits": Argument(_logits, _decoder)},
        thorough=False,
    ),
    Operator(
        "discretized_logistic_log_prob",
        {"x": Argument(_levels, _data), "mu": Argument(_unit, _decoder), "log_scale": _spread(_decoder)},
        x_dtypes=("same", torch.uint8, torch.float64, torch.float32),
        x_scales={torch.uint8: 1 / 255, "same": 1.0, torch.float64: 1.0, torch.float32: 1.0},
        discrete=True,
        **_of_scale,
    ),
]

# For tests of the loops and of what surrounds them, which know nothing of the formula: one of each number of operands.
LOOPS = [
    operator
    for operator in OPERATORS
    if operator.thorough or operator.name in ("poisson_log_prob", "zero_inflated_negative_binomial_log_prob")
]


def keys(batch: tuple[int, ...]) -> torch.Tensor:
    """Noise keys ``[*batch, 2]``, one for each data point."""
    offset = torch.arange(math.prod(batch)).reshape(batch)
    return torch.stack([KEY[0] ^ (offset << 40), KEY[1] + offset], -1)


def in_parameterisation(log_variance: torch.Tensor, spread: str) -> torch.Tensor:
    return {
        "logvar": lambda v: v,
        "log_std": lambda v: v / 2,
        "std": lambda v: (v / 2).exp(),
        "var": lambda v: v.exp(),
        "log_scale": lambda v: v / 2,
        "scale": lambda v: (v / 2).exp(),
    }[spread](log_variance)


@dataclass(frozen=True)
class Case:
    operator: Operator
    shape: Shape
    dtype: torch.dtype = torch.float64
    layout: str = "contiguous"
    reduction: str = "sample"
    spread: str = "logvar"
    form: str = "full"  # the shape that the spread (and the prior) broadcasts from
    x_dtype: torch.dtype | str = "same"
    name: str = field(default="", compare=False)

    def __str__(self):
        parts = [str(self.operator), self.name, self.layout, _short(self.dtype)]
        parts += [self.reduction] if self.operator.reduces else []
        parts += [self.operator.spreads[self.spread]] if self.operator.takes_spread else []
        parts += [self.form] if self.operator.takes_form else []
        parts += ["x_" + _short(self.x_dtype)] if self.operator.takes_x else []
        return "-".join(parts)

    def build(self, device="cpu") -> "Call":
        generator = torch.Generator().manual_seed(1312_6114)
        tensors = {}
        for name, argument in self.operator.arguments.items():
            values = argument.values(generator, argument.shape(self.shape, self.form))
            dtype = self.dtype
            if argument.is_spread:
                values = in_parameterisation(values, self.operator.spreads[self.spread])
            if name == "x" and self.x_dtype != "same":
                dtype = self.x_dtype
                if not self.operator.counts:
                    values = {torch.uint8: (values * 255).round(), torch.bool: values > 0.5}.get(dtype, values)
            tensors[name] = lay_out(values.to(device=device, dtype=dtype), self.layout)
        return Call(self.operator.name, tensors, self._options(device))

    def _options(self, device):
        options = {}
        if self.operator.reduces:
            options |= {"reduction": self.reduction, "batch_dims": len(self.shape.batch)}
        if self.operator.takes_spread:
            options["spread"] = self.operator.spreads[self.spread]
        if self.operator.takes_x:
            options["x_scale"] = self.operator.x_scales.get(self.x_dtype, 0.75)
        if self.operator.draws_noise:
            options["key"] = (
                keys(self.shape.batch).to(device) if self.operator.keys else torch.tensor(KEY, device=device)
            )
            options["n_samples"] = math.prod(self.shape.samples) if self.shape.samples else None
        return options


@dataclass
class Call:
    """A public function with its arguments."""

    name: str
    tensors: dict[str, torch.Tensor]
    options: dict

    def run(self, tensors=None) -> tuple[torch.Tensor, ...]:
        return _tuple(getattr(aevb_ext, self.name)(**(self.options | (tensors or self.tensors))))

    def floating(self) -> dict[str, torch.Tensor]:
        return {name: t for name, t in self.tensors.items() if t.is_floating_point()}

    def differentiable(self) -> "Call":
        """The same call on the same values and strides, recorded by autograd."""
        tensors = {name: t.detach().requires_grad_(name in self.floating()) for name, t in self.tensors.items()}
        return Call(self.name, tensors, self.options)

    def exact(self, tensors=None, **options) -> tuple[torch.Tensor, ...]:
        """The reference formula in float64 on the CPU, with the noise that the operator's arithmetic stands for."""
        arithmetic = torch.float64 if self._dtype() == torch.float64 else torch.float32

        def noise(key, shape, dtype, start=0):
            assert start == 0
            drawn = [normals(k, shape, uniforms=arithmetic)[0] for k in key.reshape(-1, 2)]
            return (
                torch.stack(drawn).reshape(*key.shape[:-1], *shape)
                if drawn
                else torch.empty(*key.shape[:-1], *shape).double()
            )

        tensors = tensors or {name: t.detach().cpu().double() for name, t in self.tensors.items()}
        options = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in (self.options | options).items()}
        with mock.patch.object(reference, "standard_normal", noise):
            return _tuple(getattr(reference, self.name)(**tensors, **options))

    def exact_terms(self) -> tuple[torch.Tensor, ...]:
        """Before the reduction; what a result's rounding error is measured against."""
        return self.exact(reduction="none") if "reduction" in self.options else self.exact()

    def _dtype(self):
        return next(t.dtype for name, t in self.tensors.items() if name != "x")


def arithmetic_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _tuple(outputs):
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _short(dtype):
    return str(dtype).removeprefix("torch.")


def _factors(operator: Operator) -> dict[str, list]:
    return {
        "name": list(SHAPES) if operator.thorough else ["event63", "image", "sampled"],
        "layout": list(LAYOUTS) if operator.thorough else ["contiguous", "halves", "channels_last"],
        "dtype": list(DTYPES),
        "reduction": list(REDUCTIONS) if operator.reduces else ["sample"],
        "spread": list(SPREADS) if operator.takes_spread else ["logvar"],
        "form": list(operator.forms) if operator.takes_form else ["full"],
        "x_dtype": list(operator.x_dtypes) if operator.takes_x else ["same"],
    }


def _pairwise(factors: dict[str, list]) -> list[dict]:
    """Rows in which every two levels of every two factors meet at least once: the full product has thousands."""
    choose = random.Random(0)
    pairs = [((f, a), (g, b)) for f, g in itertools.combinations(factors, 2) for a in factors[f] for b in factors[g]]
    missing, rows = dict.fromkeys(pairs), []
    for pair in pairs:
        if pair not in missing:
            continue
        candidates = [{f: choose.choice(levels) for f, levels in factors.items()} | dict(pair) for _ in range(40)]
        covered = [[p for p in itertools.combinations(row.items(), 2) if p in missing] for row in candidates]
        best = max(range(len(candidates)), key=lambda i: len(covered[i]))
        rows.append(candidates[best])
        for p in covered[best]:
            del missing[p]
    return rows


def _cases() -> list[Case]:
    cases = []
    for operator in OPERATORS:
        cases += [Case(operator, SHAPES[row["name"]], **row) for row in _pairwise(_factors(operator))]
        cases += [
            Case(operator, LONG, dtype, layout, name="event100003")
            for dtype, layout in ((torch.float32, "halves"), (torch.bfloat16, "contiguous"))
        ]
    return cases


CASES = _cases()

# One small call of each operator with each spread and each reduction that it takes, for the tests of what PyTorch
# does with an operator, which do not depend on its numbers.
SMALL = Shape((2,), (3,), samples=(2,))


def small_cases(**fixed) -> list[Case]:
    return [Case(operator, SMALL, name="small", **fixed) for operator in OPERATORS]
