"""csrc/formulas/counts.h by itself, against mpmath: by how many ulp its values and gradients are off.

An ulp is that of a scale, which stands beside each exact number: the number itself where nothing cancels, otherwise the
largest of the terms that do. A formula of a logarithm or of logits computes with their exponential, and is allowed what
an ulp of that changes.
"""

import platform
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

mp = pytest.importorskip("mpmath").mp

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "tests" / "formulas" / "evaluate.cpp"
COMPILER = shutil.which("c++")
FLAGS = ["-std=c++20", "-O1", f"-I{ROOT / 'csrc'}", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
NUMBERS = {
    "baseline": ["-DAEVB_ISA=baseline"],
    "avx2": ["-DAEVB_ISA=avx2", *AVX2],
    "avx512": ["-DAEVB_ISA=avx512", *AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"],
    "scalars of the GPU": ["-DAEVB_SCALARS", f"-I{ROOT / 'tests' / 'emulation'}", "-Wno-unknown-pragmas"],
}

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
    pytest.mark.cpu_kernels("the formulas are compiled apart from the library"),
    pytest.mark.once("a program of its own, without PyTorch"),
]


def here() -> list[str]:
    """The narrowest and the widest instruction set of this processor, and the GPU's numbers."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not Path("/proc/cpuinfo").exists():
        return ["baseline", "scalars of the GPU"]
    has = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= {*has}:
        return ["baseline", "avx512", "scalars of the GPU"]
    return ["baseline", *["avx2"] * ({"avx2", "fma", "f16c"} <= {*has}), "scalars of the GPU"]


@pytest.fixture(scope="module", params=here())
def evaluate(request, tmp_path_factory):
    """Runs a formula on these numbers: a row for the values, and one for each operand's gradients."""
    folder = tmp_path_factory.mktemp("formulas")
    subprocess.run([COMPILER, *FLAGS, *NUMBERS[request.param], SOURCE, "-o", folder / "evaluate"], check=True)

    def run(formula: str, operands: np.ndarray, x_scale: float = 1.0, spread: int | None = None) -> np.ndarray:
        name, _, kind = formula.partition(" of ")
        name = name if kind != "logits" else f"{name} of logits"
        if spread is None:
            spread = {"": 0, "log rate": 0, "rate": 3, "logits": 0}[kind]
        operands.tofile(folder / "operands")
        words = [
            name.replace(" ", "_"),
            {4: "float", 8: "double"}[operands.itemsize],
            spread,
            x_scale,
            operands.shape[1],
        ]
        subprocess.run([folder / "evaluate", *map(str, words), folder / "operands", folder / "results"], check=True)
        return np.fromfile(folder / "results", operands.dtype).reshape(1 + len(operands), -1)

    return run


def excess(t):
    return t - mp.log1p(t)


def h(z):
    return mp.digamma(z) - mp.log(z)


def softplus(a):
    return mp.log1p(mp.exp(a))


def sigmoid(a):
    return 1 / (1 + mp.exp(-a))


# Each gives (number, scale) of the value and of the gradient of each operand.


def of_terms(*terms):
    return sum(terms), max(map(abs, terms))


def of_fraction(x, scale, *terms):
    """Below 1, x is the continuous extension: right to an ulp of what the gamma functions give."""
    return max(map(abs, (scale, *terms))) if 0 < x < 1 else abs(scale)


def negative_binomial(x, mean, theta):
    value = mp.loggamma(x + theta) - mp.loggamma(theta) - mp.loggamma(x + 1) - theta * mp.log1p(mean / theta)
    value += x * mp.log(mean / (mean + theta)) if x else 0
    dmean = x / mean - (x + theta) / (mean + theta)
    rising, falling = h(x + theta) - h(theta), -excess((x - mean) / (mean + theta))
    share = mean * (x + theta) / ((mean + theta) * (x + 1))
    return (
        (value, of_fraction(x, value, 1, mp.loggamma(theta))),
        of_terms(h(x + theta), -h(x + 1), mp.log(share)),
        (dmean, abs(dmean)),
        (rising + falling, of_fraction(x, max(rising, -falling), h(theta))),
    )


def negative_binomial_of_logits(x, logits, total):
    odds, success, failure = mp.exp(logits), sigmoid(logits), sigmoid(-logits)
    value, *_ = negative_binomial(x, total * odds, total)
    distance = x * failure - total * success
    rising, logarithm = h(x + total) - h(total), mp.log((x + total) / (total * (1 + odds)))
    dx, largest = of_terms(h(x + total), -h(x + 1), mp.log(success * (x + total) / (x + 1)))
    return (
        (value[0], value[1] + abs(distance)),
        (dx, largest + failure),
        (distance, max(x * failure, total * success)),
        (rising + logarithm, of_fraction(x, max(rising, abs(logarithm)), h(total)) + success),
    )


def zero_inflated_negative_binomial(x, mean, theta, gate):
    value, *gradients = negative_binomial(x, mean, theta)
    if x:
        return (value[0] - softplus(gate), value[1] + softplus(gate)), *gradients, (-sigmoid(gate), sigmoid(gate))
    log_zero = value[0]
    value = mp.log(sigmoid(gate) + sigmoid(-gate) * mp.exp(log_zero))
    sampled, distance = sigmoid(log_zero - gate), 1 + abs(log_zero - gate)  # an ulp of what is exponentiated
    dgate = -sigmoid(-gate) * sigmoid(gate - log_zero) * mp.expm1(log_zero)
    return (
        (value, abs(value)),
        (0, 0),  # of x: a zero is of two kinds, and not the limit of small x
        *((sampled * exact, sampled * scale * distance) for exact, scale in gradients[1:]),
        (dgate, dgate * distance),
    )


def poisson(x, rate):
    value = (x * mp.log(rate) if x else 0) - rate - mp.loggamma(x + 1)
    drate = x / rate - 1
    return (value, of_fraction(x, value, 1)), of_terms(mp.log(rate / (x + 1)), -h(x + 1)), (drate, abs(drate))


def poisson_of_log(x, log_rate):
    rate = mp.exp(log_rate)
    value, dx, _ = poisson(x, rate)
    return (value[0], value[1] + abs(x - rate)), (dx[0], dx[1] + 1), (x - rate, max(x, rate))


# The range that is promised, and where x is as large as its mean.


def log_uniform(random, low, high, size):
    return 10 ** random.uniform(low, high, size)


def counts_means_dispersions(size: int, fractions: bool = False) -> np.ndarray:
    random = np.random.default_rng(7)
    grid = np.meshgrid([0, 1, 2, 30, 1e6], [1e-8, 0.3, 2, 1e8], [1e-8, 0.5, 0.9999, 1, 1.0001, 30, 1e8])
    x = np.floor(log_uniform(random, 0, 6, size)) * (random.random(size) < 0.7)
    x[: size // 10] = np.floor(log_uniform(random, 6, 8, size // 10))
    if fractions:
        x = log_uniform(random, -6, 1, size)
    theta = log_uniform(random, -8, 8, size)
    near = np.maximum(x, 0.1) * np.exp(random.normal(size=size) * log_uniform(random, -5, 0.5, size))
    mean = np.where(random.random(size) < 0.5, near, log_uniform(random, -8, 8, size))
    return np.concatenate([[x, mean, theta], np.reshape(grid, (3, -1))[:, : size // 2]], 1)


def gates(size):
    random = np.random.default_rng(8)
    return random.normal(size=size) * log_uniform(random, -2, 1.5, size)


def operands_of(formula: str, size: int, fractions: bool) -> np.ndarray:
    """They are numbers of float32, so that one reference serves both types."""
    x, mean, theta = counts_means_dispersions(size, fractions)
    gate = gates(x.size)
    columns = {
        "poisson of rate": (x, mean),
        "poisson of log rate": (x, np.where(gate > 0, np.log(mean), gate)),
        "negative binomial": (x, mean, theta),
        "negative binomial of logits": (x, np.where(gate > 0, np.log(mean / theta), gate), theta),
        "zero inflated negative binomial": (x, mean, theta, gate),
    }
    return np.stack(columns[formula]).astype(np.float32)


class Bounds(NamedTuple):
    """In ulp: of the value, and of the gradient of x and each parameter."""

    exact: Callable
    ulp: tuple[float, ...]


FORMULAS = {
    "poisson of rate": Bounds(poisson, (6, 6, 1)),
    "poisson of log rate": Bounds(poisson_of_log, (3, 3, 2)),
    "negative binomial": Bounds(negative_binomial, (6, 6, 2, 8)),
    "negative binomial of logits": Bounds(negative_binomial_of_logits, (4, 6, 2, 4)),
    "zero inflated negative binomial": Bounds(zero_inflated_negative_binomial, (6, 6, 2, 8, 4)),
}


@pytest.fixture(scope="module")
def references():
    """What is exact at the operands of each formula, computed once for all numbers."""
    known = {}

    def of(formula: str, size: int, fractions: bool):
        if (formula, fractions) not in known:
            operands = operands_of(formula, size, fractions)
            with mp.workdps(60):
                exact = [FORMULAS[formula].exact(*(mp.mpf(float(v)) for v in column)) for column in operands.T]
            known[formula, fractions] = operands, exact
        return known[formula, fractions]

    return of


def errors(result: np.ndarray, exact) -> np.ndarray:
    """In ulp, by result and column. What overflows is infinite, and what is below the normal numbers loses digits."""
    info = np.finfo(result.dtype)
    table = np.empty(result.shape)
    for (k, i), got in np.ndenumerate(result):
        number, scale = exact[i][k]
        if not np.isfinite(got):
            table[k, i] = 0 if abs(number) > info.max and got == np.inf * mp.sign(number) else np.inf
        else:
            table[k, i] = abs(mp.mpf(float(got)) - number) / (info.eps * scale + info.tiny)
    return table


@pytest.mark.parametrize("fractions", [False, True], ids=["counts", "fractions"])
@pytest.mark.parametrize("formula", FORMULAS)
def test_values_and_gradients_are_right_to_a_few_ulp(formula, fractions, evaluate, references, size=250):
    operands, exact = references(formula, size, fractions)
    for dtype in (np.float32, np.float64):
        result = evaluate(formula, operands.astype(dtype))
        off = errors(result, exact)
        for k, bound in enumerate(FORMULAS[formula].ulp):
            worst = int(off[k].argmax())
            where = f"{dtype.__name__}, result {k} at {operands[:, worst].tolist()}: {result[k, worst]!r}"
            assert off[k, worst] <= bound, f"{where} is off by {off[k, worst]:.3g} ulp"


INFINITE = float("inf")
LIMITS = {  # (operands, value, gradient of each parameter)
    "poisson of rate": [
        ((0, 0), 0, (-1,)),
        ((0, 3), -3, (-1,)),
        ((2, 0), -INFINITE, (INFINITE,)),
        ((2, INFINITE), -INFINITE, (-1,)),
    ],
    "poisson of log rate": [
        ((0, -INFINITE), 0, (0,)),
        ((2, -INFINITE), -INFINITE, (2,)),
        ((0, 1e30), -INFINITE, (-INFINITE,)),
        ((2, 1e30), -INFINITE, (-INFINITE,)),
        ((1, -200), -200, (1,)),  # where float32 has no rate any more
    ],
    "negative binomial": [
        ((0, 0, 2), 0, (-1, 0)),
        ((1, 0, 2), -INFINITE, (INFINITE, 0)),
        ((1, 2, INFINITE), np.log(2) - 2, (-0.5, 0)),  # Poisson
        ((0, 2, INFINITE), -2, (-1, 0)),
    ],
    "negative binomial of logits": [
        ((0, 1e30, 1), -1e30, (-1, -1e30)),
        ((0, -1e30, 1), 0, (0, 0)),
        ((1, 1e30, 1), -1e30, (-1, -1e30)),
        ((1, -1e30, 1), -1e30, (1, 1)),
        ((0, 0, 0), 0, (0, -np.log(2))),  # no trials, as torch.distributions has it
        ((1, 0, 0), -INFINITE, (0.5, INFINITE)),
    ],
    "zero inflated negative binomial": [
        ((0, 0, 2, 0), 0, (-0.5, 0, 0)),
        ((0, 2, 2, INFINITE), 0, (0, 0, 0)),
        ((0, 2, 1, -INFINITE), -np.log(3), (-1 / 3, 2 / 3 - np.log(3), 0)),
        ((1, 2, 1, -INFINITE), np.log(2 / 9), (-1 / 6, 4 / 3 - np.log(3), 0)),
        ((0, 1e8, 1e8, -1e30), -1e8 * np.log(2), (-0.5, 0.5 - np.log(2), 0)),
        ((1, 2, 1, 1e30), -1e30, (-1 / 6, 4 / 3 - np.log(3), -1)),
    ],
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("formula", LIMITS)
def test_limits(formula, dtype, evaluate):
    operands, values, gradients = zip(*LIMITS[formula], strict=True)
    result = evaluate(formula, np.array(operands, dtype).T.copy())
    expected = np.array([(value, *gradient) for value, gradient in zip(values, gradients, strict=True)]).T
    np.testing.assert_allclose(result[[0, *range(2, len(result))]], expected, 8 * np.finfo(dtype).eps, 1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("formula", FORMULAS)
def test_numbers_never_make_a_nan(formula, dtype, evaluate):
    info = np.finfo(dtype)
    small = [0, info.tiny / 8, 1e-30, 1e-8, 0.5, 1, 1e8, 1e30, info.max, INFINITE]
    real = [0, 1, -1, 90, -90, 1e30, -1e30, info.max, -info.max, INFINITE, -INFINITE]
    positive = small[1:]
    ranges = {
        "poisson of rate": [small],
        "poisson of log rate": [real],
        "negative binomial": [small, positive],
        "negative binomial of logits": [real, small],
        "zero inflated negative binomial": [small, positive, real],
    }
    counts = [0, 1e-20, 0.5, 1, 7, 1e6, 1e8]
    operands = np.reshape(np.meshgrid(counts, *ranges[formula]), (1 + len(ranges[formula]), -1)).astype(dtype)
    wrong = np.isnan(evaluate(formula, operands)).any(0)
    assert not wrong.any(), operands[:, wrong][:, :5].T


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("x", [0, 3])
@pytest.mark.parametrize("formula", FORMULAS)
def test_a_nan_and_what_has_no_likelihood_give_nan(formula, x, dtype, evaluate):
    right = {"poisson of rate": (2,), "poisson of log rate": (1,), "negative binomial": (2, 1)}
    right |= {"negative binomial of logits": (0.5, 1), "zero inflated negative binomial": (2, 1, 0.5)}
    without_sign = {"poisson of log rate": [1], "negative binomial of logits": [1]}
    for k in range(1 + len(right[formula])):
        free = k in without_sign.get(formula, []) or k == 3
        for wrong in [np.nan] if free else [np.nan, -1]:
            operands = np.array([[x], *([v] for v in right[formula])], dtype)
            operands[k] = wrong
            assert np.isnan(evaluate(formula, operands)[0]).all(), f"operand {k} is {wrong}"
    if formula in ("negative binomial", "zero inflated negative binomial"):
        operands = np.array([[x], *([v] for v in right[formula])], dtype)
        operands[2] = 0
        assert np.isnan(evaluate(formula, operands)[[0, 2, 3]]).all(), "theta is 0"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("formula", FORMULAS)
def test_bits_do_not_depend_on_neighbours(formula, dtype, evaluate):
    operands = np.concatenate([operands_of(formula, 400, fractions) for fractions in (False, True)], 1).astype(dtype)
    order = np.random.default_rng(9).permutation(operands.shape[1])
    by_count = np.argsort(operands[0], kind="stable")  # zeros beside zeros, fractions beside fractions
    bits = evaluate(formula, operands).view(f"u{operands.itemsize}")
    for other in (order, by_count):
        assert (bits[:, other] == evaluate(formula, operands[:, other].copy()).view(bits.dtype)).all()


def test_scaled_data(evaluate):
    operands = np.array([[0, 255, 510], [1, 2, 3], [2, 2, 2]], np.float64)
    scaled, plain = operands.copy(), operands.copy()
    plain[0] /= 255
    result, expected = evaluate("negative binomial", scaled, 1 / 255), evaluate("negative binomial", plain)
    expected[1] /= 255
    np.testing.assert_allclose(result, expected, 1e-14)
