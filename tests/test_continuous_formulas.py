"""csrc/formulas/continuous.h, student_t.h and discretized_logistic.h by themselves, against mpmath, in ulp.

An error is counted in ulp of the result, to which is added what an ulp of each operand changes: where x - mu or a
gradient cancels, no formula can be better than its operands. Values with a normalising constant count in ulp of at
least 1, the size of that constant.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from test_count_formulas import evaluate, pytestmark  # noqa: F401  compiled in the same way

mpmath = pytest.importorskip("mpmath")
mp, mpf = mpmath.mp, mpmath.mpf

ULP = 6
SPREADS = {"log_std": 1, "std": 2}
POINTS = 60


@pytest.fixture(autouse=True)
def precision():
    with mpmath.workdps(60):
        yield


def scale_and_slope(spread, s):
    """The scale, and the derivative of its logarithm."""
    return (s, 1 / s) if spread == "std" else (mp.exp(s), mpf(1))


def laplace(spread, x, mu, s):
    b, slope = scale_and_slope(spread, s)
    t = abs(x - mu) / b
    by_mu = mp.sign(x - mu) / b
    return -mp.log(2 * b) - t, -by_mu, by_mu, slope * (t - 1)


def student_t(spread, x, mu, s, df):
    b, slope = scale_and_slope(spread, s)
    t = (x - mu) / b
    if df == mp.inf:
        return -mp.log(2 * mp.pi * b * b) / 2 - t * t / 2, -t / b, t / b, slope * (t * t - 1), mpf(0)
    with mpmath.extradps(2 * max(0, int(mp.log10(df)))):
        a, y = df / 2, t * t / df
        constant = mp.loggamma(a + 0.5) - mp.loggamma(a) - mp.log(mp.pi * df) / 2
        by_mu = (df + 1) * t / (df + t * t) / b
        by_df = mp.digamma(a + 0.5) - mp.digamma(a) - 1 / df - mp.log(1 + y) + (df + 1) * y / (df + t * t)
        value = constant - mp.log(b) - (a + 0.5) * mp.log(1 + y)
        return value, -by_mu, by_mu, slope * ((df + 1) * t * t / (df + t * t) - 1), by_df / 2


def continuous_bernoulli(_, x, logits):
    if logits == 0:
        return mpf(0), mpf(0), x - 0.5
    with mpmath.extradps(80):
        m = abs(logits)
        tail = 1 / m - mp.exp(-m) / -mp.expm1(-m)  # of the mean, to 0 or to 1
        value = (x - (logits > 0)) * logits - mp.log(-mp.expm1(-m) / m)
        return value, logits, x - (logits > 0) + (tail if logits > 0 else -tail)


def sigmoid(a):
    return 1 / (1 + mp.exp(-a)) if a > 0 else mp.exp(a) / (1 + mp.exp(a))


def log_sigmoid(a):
    return min(a, 0) - mp.log1p(mp.exp(-abs(a)))


def discretized_logistic(spread, x, mu, s):
    b, slope = scale_and_slope(spread, s)
    level = max(0, min(255, mp.nint(255 * x)))
    low, high = ((level + half - 255 * mu) / 255 / b for half in (mpf(-0.5), mpf(0.5)))
    if level == 0:
        return log_sigmoid(high), mpf(0), -sigmoid(-high) / b, -slope * high * sigmoid(-high)
    if level == 255:
        return log_sigmoid(-low), mpf(0), sigmoid(low) / b, slope * low * sigmoid(low)
    with mpmath.extradps(90):
        width = 1 / (255 * b)
        inside = -mp.expm1(-width)
        value = log_sigmoid(high) + log_sigmoid(-low) + mp.log(inside)
        by_scale = low * sigmoid(low) - high * sigmoid(-high) - width * mp.exp(-width) / inside
        return value, mpf(0), (sigmoid(low) - sigmoid(-high)) / b, slope * by_scale


def log_uniform(rng, low, high, count):
    return 10 ** rng.uniform(low, high, count)


def signs(rng, count):
    return rng.choice([-1.0, 1.0], count)


def scales(rng, spread, wide):
    log_scale = np.concatenate([rng.normal(0, 1.5, POINTS), rng.uniform(-wide, wide, POINTS)])
    return np.exp(log_scale) if spread == "std" else log_scale


def of_location(rng, spread):
    x = np.concatenate([rng.normal(0, 1, POINTS), signs(rng, POINTS) * log_uniform(rng, -6, 10, POINTS)])
    mu = np.concatenate([rng.normal(0, 1, POINTS), np.zeros(POINTS)])
    return x, mu, scales(rng, spread, 25)


def of_student_t(rng, spread):
    df = np.concatenate([log_uniform(rng, -3, 6, POINTS), log_uniform(rng, -3, 15, POINTS)])
    df[::40] = np.inf
    return *of_location(rng, spread), df


def of_logits(rng, _):
    x = np.concatenate([rng.uniform(0, 1, POINTS), rng.choice([0, 0.5, 1], POINTS), [0.5, 1, 0, 0.3]])
    far = signs(rng, POINTS) * log_uniform(rng, -30, 38, POINTS)
    return x, np.concatenate([rng.normal(0, 3, POINTS), far, [0.0, 3.4e38, -3.4e38, 2.0]])


def of_levels(rng, spread):
    level = np.concatenate([rng.integers(0, 256, POINTS), rng.choice([0, 1, 128, 254, 255], POINTS)])
    near = level / 255 + rng.choice([-0.5, 0, 0.5, 0.1], 2 * POINTS) / 255
    mu = np.where(np.arange(2 * POINTS) % 2, rng.normal(0.5, 1, 2 * POINTS), near)
    return level / 255, mu, scales(rng, spread, 40)


class Case(NamedTuple):
    exact: Callable
    operands: Callable
    least: float = 0  # of the scale of a value


CASES = {
    "laplace": Case(laplace, of_location, 1),
    "student_t": Case(student_t, of_student_t, 1),
    "continuous_bernoulli": Case(continuous_bernoulli, of_logits),
    "discretized_logistic": Case(discretized_logistic, of_levels),
}


def errors(got, exact, moved, info, least):
    """Of one point's value and gradients, in ulp."""
    for k, (number, e) in enumerate(zip(got.tolist(), exact, strict=True)):
        if abs(e) > float(info.max):
            assert number == float(mp.sign(e)) * np.inf or abs(number) > info.max / 2
            continue
        eps = float(info.eps)
        scale = eps * max(abs(e), least if k == 0 else 0) + float(info.smallest_normal)
        yield np.inf if not np.isfinite(number) else float(abs(mpf(number) - e) / (scale + sum(m[k] for m in moved)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize(
    ("name", "spread"),
    [(n, s) for n in CASES for s in SPREADS if n != "continuous_bernoulli" or s == "std"],
)
def test_values_and_gradients_are_right_to_a_few_ulp(name, spread, dtype, evaluate):  # noqa: F811
    case = CASES[name]
    operands = np.stack(case.operands(np.random.default_rng(0), spread)).astype(dtype)
    info = np.finfo(dtype)
    results = evaluate(name, operands, spread=SPREADS[spread])
    worst = 0.0
    for point, got in zip(operands.T.tolist(), results.T, strict=True):
        point = [mpf(p) for p in point]
        exact = case.exact(spread, *point)
        moved = []
        for k, p in enumerate(point):
            if mp.isfinite(p):
                near = (p * (1 + sign * mpf(float(info.eps))) for sign in (-1, 1))
                both = [case.exact(spread, *point[:k], q, *point[k + 1 :]) for q in near]
                moved.append([max(abs(n - e) for n in of_one) for *of_one, e in zip(*both, exact, strict=True)])
        worst = max(worst, *errors(got, exact, moved, info, case.least))
    assert worst <= ULP


@pytest.mark.parametrize(
    ("name", "spread", "point"),
    [
        ("laplace", "std", (0.3, -0.2, 0.7)),
        ("laplace", "log_std", (0.3, 0.9, 0.7)),
        ("student_t", "std", (0.3, -2.0, 0.7, 3.0)),
        ("student_t", "log_std", (0.3, 0.5, -1.0, 0.4)),
        ("continuous_bernoulli", "std", (0.3, -2.5)),
        ("continuous_bernoulli", "std", (0.6, 0.1)),
        ("discretized_logistic", "std", (0.2, 0.3, 0.04)),
        ("discretized_logistic", "log_std", (0.0, 0.1, -3.0)),
        ("discretized_logistic", "log_std", (1.0, 0.7, -2.0)),
    ],
)
def test_the_exact_gradients_are_derivatives_of_the_exact_values(name, spread, point):
    exact = CASES[name].exact
    value, *gradients = exact(spread, *map(mpf, point))
    for k, gradient in enumerate(gradients):
        if name == "discretized_logistic" and k == 0:
            assert gradient == 0  # a mass does not change within a bin
            continue
        derivative = mp.diff(lambda p, k=k: exact(spread, *point[:k], p, *point[k + 1 :])[0], mpf(point[k]))
        assert abs(derivative - gradient) < 1e-15 * (1 + abs(gradient)), (value, k)


SPECIAL = (0.0, 1e-30, 0.3, 1.0, -1.0, 1e30, -1e30, np.inf, np.nan)
SPECIAL_LOG_SCALES = (-200.0, -88.0, 0.0, 88.0, 200.0, np.nan)
SPECIAL_SCALES = (0.0, 1e-38, 1.0, 1e30, np.inf, np.nan, -1.0)
SPECIAL_DF = (1e-40, 1e-3, 1.0, 1e30, np.inf, np.nan, 0.0, -1.0)


@pytest.mark.parametrize(
    ("name", "spread"),
    [(n, s) for n in CASES for s in SPREADS if n != "continuous_bernoulli" or s == "std"],
)
def test_only_a_nan_and_what_is_no_parameter_make_one(name, spread, evaluate):  # noqa: F811
    finite_x = tuple(v for v in SPECIAL if not np.isinf(v))
    scale = SPECIAL_SCALES if spread == "std" else SPECIAL_LOG_SCALES
    axes = {
        "continuous_bernoulli": (finite_x, (*SPECIAL, -np.inf)),
        "student_t": (finite_x, SPECIAL, scale, SPECIAL_DF),
    }.get(name, (finite_x, SPECIAL, scale))
    operands = np.stack([a.ravel() for a in np.meshgrid(*axes)]).astype(np.float32)
    results = evaluate(name, operands, spread=SPREADS[spread])
    outside = np.isnan(operands).any(0)
    if len(axes) > 2 and spread == "std":
        outside |= operands[2] < 0
    if name == "student_t":
        outside |= operands[3] <= 0
    assert np.isnan(results[0, outside]).all()
    assert not np.isnan(results[:, ~outside]).any()
