"""The likelihoods of counts, scales and grey levels against PyTorch: time and memory of forward and backward.

python -m benchmarks.likelihoods                       measures this machine
python -m benchmarks.likelihoods --only zero           the lines with this in their name
    --json FILE                                        keep the figures as well, beside those that are there
python -m benchmarks.likelihoods --markdown FILES      the table of docs/likelihoods.md, of each ratio the least

Ours, eager PyTorch and torch.compile take turns; the gradients of all parameters are computed. Memory is the most that
PyTorch's allocator had handed out at once, beyond the inputs, and without the gradients, which everybody has to write.
"""

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, distributions

import aevb_ext

from . import mixtures
from .cases import Case, Operation, Shape, _minus
from .machine import environment
from .measure import FULL, OURS_COMPILED, Effort, kind_of, measure
from .rivals import _reduce

CPU = torch.device("cpu")
EPS = 1e-8  # that scvi-tools adds to what it takes a logarithm of


# Formulas as their users write them.


def zinb_log_positive(x, mean, dispersion, gate_logits, reduction):
    """As scvi-tools has it."""
    softplus_pi = F.softplus(-gate_logits)
    log_theta_eps = torch.log(dispersion + EPS)
    log_theta_mu_eps = torch.log(dispersion + mean + EPS)
    pi_theta_log = -gate_logits + dispersion * (log_theta_eps - log_theta_mu_eps)
    case_zero = F.softplus(pi_theta_log) - softplus_pi
    case_non_zero = (
        -softplus_pi
        + pi_theta_log
        + x * (torch.log(mean + EPS) - log_theta_mu_eps)
        + torch.lgamma(x + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(x + 1)
    )
    values = (x < EPS).to(x.dtype) * case_zero + (x > EPS).to(x.dtype) * case_non_zero
    return _reduce(-values, reduction)


def nb_log_positive(x, mean, dispersion, reduction):
    """As scvi-tools has it."""
    log_theta_mu_eps = torch.log(dispersion + mean + EPS)
    values = (
        dispersion * (torch.log(dispersion + EPS) - log_theta_mu_eps)
        + x * (torch.log(mean + EPS) - log_theta_mu_eps)
        + torch.lgamma(x + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(x + 1)
    )
    return _reduce(-values, reduction)


def nb_distributions(x, logits, total_count, reduction):
    of = distributions.NegativeBinomial(total_count, logits=logits, validate_args=False)
    return _reduce(-of.log_prob(x), reduction)


def poisson_textbook(x, log_rate, reduction):
    return _reduce(log_rate.exp() - x * log_rate + torch.lgamma(x + 1), reduction)


def poisson_distributions(x, rate, reduction):
    return _reduce(-distributions.Poisson(rate, validate_args=False).log_prob(x), reduction)


def laplace_distributions(x, mu, scale, reduction):
    return _reduce(-distributions.Laplace(mu, scale, validate_args=False).log_prob(x), reduction)


def student_t_distributions(x, mu, scale, df, reduction):
    return _reduce(-distributions.StudentT(df, mu, scale, validate_args=False).log_prob(x), reduction)


def continuous_bernoulli_distributions(x, logits, reduction):
    return _reduce(-distributions.ContinuousBernoulli(logits=logits, validate_args=False).log_prob(x), reduction)


def discretized_logistic_textbook(x, mu, log_scale, reduction):
    """As PixelCNN++ has it, for levels in [0, 1]."""
    inverse, centred = torch.exp(-log_scale), x - mu
    plus, minus = inverse * (centred + 1 / 510), inverse * (centred - 1 / 510)
    delta, middle = torch.sigmoid(plus) - torch.sigmoid(minus), inverse * centred
    density = middle - log_scale - 2 * F.softplus(middle) - 5.5412635
    inside = torch.where(delta > 1e-5, torch.log(delta.clamp(min=1e-12)), density)
    values = torch.where(x < 0.001, plus - F.softplus(plus), torch.where(x > 0.999, -F.softplus(minus), inside))
    return _reduce(-values, reduction)


def published_mixture(x, params):
    """discretized_mix_logistic_loss of PixelCNN++ and VDVAE, negated and unsummed, of tensors [..., channels, H, W]."""
    x, params = x.movedim(-3, -1), params.movedim(-3, -1)
    k = params.shape[-1] // 10
    logits, rest = params[..., :k], params[..., k:].reshape(*params.shape[:-1], 3, 3 * k)
    means, log_scales, coeffs = rest[..., :k], rest[..., k : 2 * k].clamp(min=-7.0), rest[..., 2 * k :].tanh()
    x = x.unsqueeze(-1)
    m2 = means[..., 1, :] + coeffs[..., 0, :] * x[..., 0, :]
    m3 = means[..., 2, :] + coeffs[..., 1, :] * x[..., 0, :] + coeffs[..., 2, :] * x[..., 1, :]
    centered = x - torch.stack([means[..., 0, :], m2, m3], -2)
    inv_stdv = torch.exp(-log_scales)
    plus_in, min_in, mid_in = (inv_stdv * (centered + shift) for shift in (1 / 255, -1 / 255, 0))
    cdf_delta = plus_in.sigmoid() - min_in.sigmoid()
    log_pdf_mid = mid_in - log_scales - 2 * F.softplus(mid_in)
    inner = torch.where(cdf_delta > 1e-5, cdf_delta.clamp(min=1e-12).log(), log_pdf_mid - math.log(127.5))
    log_probs = torch.where(x > 0.999, -F.softplus(min_in), inner)
    log_probs = torch.where(x < -0.999, plus_in - F.softplus(plus_in), log_probs)
    return (log_probs.sum(-2) + logits.log_softmax(-1)).logsumexp(-1)


def discretized_logistic_mixture_textbook(x, params, reduction):
    return _reduce(-published_mixture(x, params).flatten(1), reduction)


def cross_entropy(x, logits, reduction):
    return _reduce(F.cross_entropy(logits.movedim(-1, 1), x, reduction="none"), reduction)


# What they are given: counts as a count matrix of single cells has them, nine of ten 0.


def _learnt(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


def _positive(*shape: int) -> Tensor:
    return (0.5 * torch.randn(shape)).exp().requires_grad_()


def _counts(shape: Shape) -> Tensor:
    expressed = torch.rand(shape.batch, shape.event) < 0.1
    return torch.where(expressed, torch.empty(shape.batch, shape.event).geometric_(0.3), 0)


def _floor(n: dict[str, int], again: int) -> tuple[int, int]:
    """All inputs are read; the gradients of all but x are written, as in the table of benchmarks/cases.py."""
    read = sum(size for name, size in n.items() if name not in ("full", "value"))
    return read + n["value"], n["value"] + again * read + read - n["x"]


def _operation(name: str, operator: str, inputs, rivals: dict, **fixed) -> Operation:
    return Operation(
        name,
        operator,
        lambda shape, device, dtype: {k: v if device.type == "cpu" else v.to(device) for k, v in inputs(shape).items()},
        _minus(getattr(aevb_ext, operator), **fixed),
        rivals,
        _floor,
    )


@dataclass(frozen=True)
class Line:
    """asked: the least ratio of each kind of rival's time to ours. memory: of eager's peak to ours. by_name: it takes
    minutes and 15 GB, and is measured where --only names it."""

    operation: Operation
    shape: Shape
    asked: dict[str, float] = field(default_factory=dict)
    memory: float | None = None
    by_name: bool = False

    @property
    def case(self) -> Case:
        return Case(self.operation, self.shape, torch.float32, "mean", self.asked)


CELLS, IMAGES, COLOURS = Shape(1024, 4000), Shape(1024, 3072), Shape(64, 3 * 32 * 32)
ZINB = _operation(
    "zero-inflated negative binomial",
    "zero_inflated_negative_binomial_log_prob",
    lambda s: {
        "x": _counts(s),
        "mean": _positive(s.batch, s.event),
        "dispersion": _positive(s.event),
        "gate_logits": _learnt(s.batch, s.event),
    },
    {"scvi-tools": zinb_log_positive},
)
NB = _operation(
    "negative binomial",
    "negative_binomial_log_prob",
    lambda s: {"x": _counts(s), "mean": _positive(s.batch, s.event), "dispersion": _positive(s.event)},
    {"scvi-tools": nb_log_positive},
)
NB_OF_LOGITS = _operation(
    "negative binomial of logits",
    "negative_binomial_log_prob",
    lambda s: {"x": _counts(s), "logits": _learnt(s.batch, s.event), "total_count": _positive(s.event)},
    {"distributions": nb_distributions},
)
POISSON = _operation(
    "Poisson",
    "poisson_log_prob",
    lambda s: {"x": _counts(s), "log_rate": _learnt(s.batch, s.event)},
    {"textbook": poisson_textbook},
)
POISSON_OF_RATE = _operation(
    "Poisson of rate",
    "poisson_log_prob",
    lambda s: {"x": _counts(s), "rate": _positive(s.batch, s.event)},
    {"distributions": poisson_distributions},
)
LAPLACE = _operation(
    "Laplace",
    "laplace_log_prob",
    lambda s: {
        "x": torch.randn(s.batch, s.event),
        "mu": _learnt(s.batch, s.event),
        "scale": _positive(s.batch, s.event),
    },
    {"distributions": laplace_distributions},
)
STUDENT_T = _operation(
    "Student t",
    "student_t_log_prob",
    lambda s: {
        "x": torch.randn(s.batch, s.event),
        "mu": _learnt(s.batch, s.event),
        "scale": _positive(s.batch, s.event),
        "df": _positive(s.event),
    },
    {"distributions": student_t_distributions},
)
CONTINUOUS_BERNOULLI = _operation(
    "continuous Bernoulli",
    "continuous_bernoulli_log_prob",
    lambda s: {"x": torch.rand(s.batch, s.event), "logits": _learnt(s.batch, s.event)},
    {"distributions": continuous_bernoulli_distributions},
)
DISCRETIZED_LOGISTIC = _operation(
    "discretized logistic",
    "discretized_logistic_log_prob",
    lambda s: {
        "x": torch.randint(256, (s.batch, s.event)) / 255,
        "mu": torch.rand(s.batch, s.event).requires_grad_(),
        "log_scale": (0.3 * torch.randn(s.batch, s.event) - 1.5).requires_grad_(),
    },
    {"textbook": discretized_logistic_textbook},
)
COMPONENTS = 10


def _pixels(shape: Shape, lie) -> dict[str, Tensor]:
    side = int((shape.event // 3) ** 0.5)
    x = 2 * torch.randint(256, (shape.batch, 3, side, side)) / 255 - 1
    params = torch.randn(shape.batch, 10 * COMPONENTS, side, side)
    log_scales = params[:, COMPONENTS:].unflatten(1, (3, 3, COMPONENTS))[:, :, 1]
    log_scales.mul_(0.3).sub_(1.5)  # wider than a level, where the density that others take for its mass is near it
    return {"x": lie(x), "params": lie(params).detach().requires_grad_()}


def _channels_last(t: Tensor) -> Tensor:
    return t.contiguous(memory_format=torch.channels_last)


def _classes_second(t: Tensor) -> Tensor:
    return t.movedim(2, 1).contiguous().movedim(1, 2)


MIXTURE, MIXTURE_CHANNELS = (
    _operation(
        f"mixture of discretized logistics{named}",
        "discretized_logistic_mixture_log_prob",
        lambda s, lie=lie: _pixels(s, lie),
        {"textbook": discretized_logistic_mixture_textbook},
    )
    for named, lie in (("", Tensor.contiguous), (", channels_last", _channels_last))
)
CATEGORICAL, CATEGORICAL_SECOND = (
    _operation(
        f"categorical of 256{named}",
        "categorical_log_prob",
        lambda s, lie=lie: {
            "x": torch.randint(256, (s.batch, s.event)),
            "logits": lie(torch.randn(s.batch, s.event, 256)).requires_grad_(),
        },
        {"cross_entropy": cross_entropy},
    )
    for named, lie in (("", Tensor.contiguous), (", classes second", _classes_second))
)
LINES = [
    Line(ZINB, CELLS, {"eager": 6, "compile": 2}, memory=10),
    Line(NB, CELLS, {"eager": 6, "compile": 2}, memory=10),
    Line(NB_OF_LOGITS, CELLS, {"eager": 6, "compile": 2}, memory=10),
    Line(POISSON, CELLS, {"eager": 4, "compile": 1.3}),
    Line(POISSON_OF_RATE, CELLS, {"eager": 4, "compile": 1.3}),
    Line(LAPLACE, IMAGES),
    Line(STUDENT_T, IMAGES),
    Line(CONTINUOUS_BERNOULLI, IMAGES),
    Line(DISCRETIZED_LOGISTIC, IMAGES),
    Line(MIXTURE, COLOURS, {"eager": 4}, memory=5),
    Line(MIXTURE_CHANNELS, COLOURS, {"eager": 4}, memory=5),
    Line(CATEGORICAL, Shape(64, 784)),
    Line(CATEGORICAL_SECOND, Shape(64, 784)),
    Line(mixtures.PRIOR, Shape(4096, 50), {"eager": 4}, memory=20),
    Line(mixtures.TOTAL_CORRELATION, Shape(1024, 32), {"eager": 4}, memory=20),
    Line(mixtures.TOTAL_CORRELATION, Shape(4096, 32), {"eager": 4}, memory=20, by_name=True),
]


def figures_of(line: Line) -> dict:
    figures = measure(line.case, CPU, Effort(0.1, 2) if line.by_name else FULL)
    inputs = line.case.inputs("cpu")
    gradients = sum(t.nbytes for t in inputs.values() if t.requires_grad)
    quickest: dict[str, float] = {}
    leanest: dict[str, int] = {}
    for name, seconds in figures["seconds"].items():
        kind = name if name in ("ours", OURS_COMPILED) else kind_of(name)
        quickest[kind] = min(seconds, quickest.get(kind, seconds))
        if name in figures["peak_bytes"]:
            peak = figures["peak_bytes"][name] - gradients
            leanest[kind] = min(peak, leanest.get(kind, peak))
    return {
        "seconds": quickest,
        "extra_bytes": leanest,
        "floors": quickest["ours"] / quickest["copy"],
        "asked": line.asked,
        "memory_asked": line.memory,
    }


def row(name: str, *machines: dict) -> str:
    """Times of each machine, of each ratio the least, and the memory of the last one."""
    asked, extra = machines[0]["asked"], machines[-1]["extra_bytes"]

    def least(rival: str, ours: str) -> float:
        return min(of["seconds"][rival] / of["seconds"][ours] for of in machines)

    ratios = [
        f"{least(kind, 'ours'):.1f}x" + (f" (asked {asked[kind]})" if kind in asked else "")
        for kind in ("eager", "compile")
    ]
    times = ", ".join(f"{of['seconds']['ours'] * 1e3:.1f}" for of in machines)
    floors = ", ".join(f"{of['floors']:.1f}" for of in machines)
    memory = [f"{extra[kind] / 1e6:.1f}" for kind in ("ours", "eager", "compile")]
    cells = [name, times, *ratios, f"{least('compile', OURS_COMPILED):.1f}x", floors, *memory]
    return f"| {' | '.join(cells)} |"


COLUMNS = (
    *("likelihood", "ours, ms", "eager", "torch.compile", "ours inside torch.compile", "floors"),
    *("extra MB: ours", "eager", "compile"),
)
HEADER = f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}"


def markdown(files: list[Path]) -> str:
    """The table of several results files; a line that one of them lacks is of the others."""
    figures = [json.loads(file.read_text())["likelihoods"] for file in files]
    names = (f"{line.operation.name}, {line.shape}" for line in LINES)
    rows = [
        row(name, *(of[name] for of in figures if name in of)) for name in names if any(name in of for of in figures)
    ]
    return "\n".join([HEADER, *rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.likelihoods",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", default="", metavar="TEXT")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", type=Path, metavar="FILE", nargs="+")
    given = parser.parse_args()
    if given.markdown:
        print(markdown(given.markdown))
        return
    kept = json.loads(given.json.read_text()) if given.json and given.json.exists() else {}
    print(HEADER)
    for line in LINES:
        name = f"{line.operation.name}, {line.shape}"
        if given.only not in name or (line.by_name and not given.only):
            continue
        figures = figures_of(line)
        print(row(name, figures), flush=True)
        if given.json:
            kept = kept | environment(CPU) | {"likelihoods": kept.get("likelihoods", {}) | {name: figures}}
            given.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
