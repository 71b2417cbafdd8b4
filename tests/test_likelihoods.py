"""What the elementwise likelihoods promise beside their formula: limits, numbers that are none, and who checks them."""

import math

import mpmath
import pytest
import torch

import aevb_ext
from aevb_ext import (
    continuous_bernoulli_log_prob,
    discretized_logistic_log_prob,
    negative_binomial_log_prob,
    poisson_log_prob,
    student_t_log_prob,
    zero_inflated_negative_binomial_log_prob,
)

INF, NAN = math.inf, math.nan


def elements(function, x, *parameters, dtype=torch.float32, **named):
    """Values, and the gradient of each parameter, of columns of numbers."""
    leaves = [torch.tensor(column, dtype=dtype, requires_grad=True) for column in (*parameters, *named.values())]
    by_name = dict(zip(named, leaves[len(parameters) :], strict=True))
    options = {"reduction": "none", "batch_dims": 0}
    values = function(torch.tensor(x, dtype=dtype), *leaves[: len(parameters)], **by_name, **options)
    return values.tolist(), [g.tolist() for g in torch.autograd.grad(values.sum(), leaves)]


# The ends of the range, whose values are known.


def test_no_count_at_no_rate():
    values, (by_rate,) = elements(poisson_log_prob, [0.0, 1.0, 3.0], rate=[0.0, 0.0, 3.0])
    assert values[:2] == [0, -INF] and by_rate[0] == -1
    assert by_rate[2] == 0  # the maximum
    values, (by_log_rate,) = elements(poisson_log_prob, [0.0, 2.0], [-INF, -INF])
    assert values == [0, -INF] and by_log_rate == [0, 2]


def test_no_count_at_no_mean():
    values, (by_mean, by_dispersion) = elements(negative_binomial_log_prob, [0.0, 1.0], [0.0, 0.0], [2.0, 2.0])
    assert values == [0, -INF] and by_mean[0] == -1 and by_dispersion[0] == 0


@pytest.mark.parametrize("theta", [0.0, -1.0, NAN])
def test_a_dispersion_that_is_none(theta):
    for function, more in ((negative_binomial_log_prob, []), (zero_inflated_negative_binomial_log_prob, [[0.0] * 2])):
        values, gradients = elements(function, [0.0, 3.0], [2.0, 2.0], [theta, 1.0], *more)
        assert math.isnan(values[0]) and math.isfinite(values[1])
        assert math.isnan(gradients[1][0]) and math.isfinite(gradients[1][1])


@pytest.mark.parametrize(
    ("x", "mean", "theta"),
    [(3, 2.5, 1e8), (0, 1e-8, 1e8), (10**6, 1e6, 1e8), (7, 1e8, 1e-8), (1, 1e-8, 1e-8), (10**6, 1.0, 1e-8)],
)
def test_dispersions_from_tiny_to_huge(x, mean, theta):
    """Where the formula as written has lost everything: log Gamma(10^8) is 10^9."""
    values, _ = elements(negative_binomial_log_prob, [float(x)], [mean], [theta])
    m, t = mpmath.mpf(float(torch.tensor(mean))), mpmath.mpf(float(torch.tensor(theta)))
    with mpmath.workdps(60):
        exact = mpmath.loggamma(x + t) - mpmath.loggamma(t) - mpmath.loggamma(x + 1)
        exact += t * mpmath.log(t / (t + m)) + x * mpmath.log(m / (t + m))
    assert abs(values[0] - exact) <= 16 * 2**-24 * max(1e-7, abs(exact))


def test_the_limit_of_large_dispersion_is_poisson():
    counts, rates = [0.0, 1.0, 5.0, 100.0, 1e5], [0.5, 2.0, 5.0, 90.0, 1e5]
    of_nb, (by_mean, _) = elements(negative_binomial_log_prob, counts, rates, [1e20] * 5)
    of_poisson, (by_rate,) = elements(poisson_log_prob, counts, rate=rates)
    assert of_nb == pytest.approx(of_poisson, rel=1e-6) and by_mean == pytest.approx(by_rate, rel=1e-6, abs=1e-7)


def test_large_counts_keep_their_digits():
    """log p(10^8 | 10^8) is -10.1, the difference of terms of 10^9."""
    values, _ = elements(poisson_log_prob, [1e8], rate=[1e8])
    assert values[0] == pytest.approx(-0.5 * math.log(2 * math.pi * 1e8), rel=1e-6)


def test_a_gate_that_is_shut_or_open():
    x, mean, theta = [0.0, 4.0], [2.0, 2.0], [3.0, 3.0]
    plain, _ = elements(negative_binomial_log_prob, x, mean, theta)
    shut, _ = elements(zero_inflated_negative_binomial_log_prob, x, mean, theta, [-100.0, -100.0])
    assert shut == pytest.approx(plain, rel=1e-6)
    wide_open, (by_mean, by_theta, _) = elements(zero_inflated_negative_binomial_log_prob, x, mean, theta, [100.0] * 2)
    assert (
        wide_open == pytest.approx([0, plain[1] - 100], rel=1e-6, abs=1e-6)
        and abs(by_mean[0]) + abs(by_theta[0]) < 1e-30
    )


def test_probabilities_sum_to_one():
    counts = [float(k) for k in range(400)]
    n = len(counts)
    for function, parameters in (
        (negative_binomial_log_prob, ([7.0] * n, [2.0] * n)),
        (zero_inflated_negative_binomial_log_prob, ([7.0] * n, [2.0] * n, [0.3] * n)),
        (poisson_log_prob, ([2.0] * n,)),
    ):
        values, _ = elements(function, counts, *parameters, dtype=torch.float64)
        assert math.fsum(map(math.exp, values)) == pytest.approx(1, abs=1e-12)
    levels = [k / 255 for k in range(256)]
    for mu, log_scale in ((0.3, -2.0), (5.0, -3.0), (-0.1, 4.0), (0.5, -9.0)):
        values, _ = elements(discretized_logistic_log_prob, levels, [mu] * 256, [log_scale] * 256, dtype=torch.float64)
        assert math.fsum(map(math.exp, values)) == pytest.approx(1, abs=1e-12)


def test_a_density_integrates_to_one():
    grid = torch.linspace(0, 1, 20001, dtype=torch.float64)
    for logit in (0.0, 1e-9, 1e-3, -0.05, 4.0, -40.0):
        logits = torch.full_like(grid, logit)
        density = continuous_bernoulli_log_prob(grid, logits, reduction="none", batch_dims=0).exp()
        assert torch.trapezoid(density, grid).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_scale_of_zero_is_a_point(dtype):
    """All density is at mu: infinite there, and none elsewhere."""
    mu = torch.tensor([0.0, 0.0, 1e30, -2.0], dtype=dtype)
    x = torch.tensor([0.0, 1e-30, -1e30, -2.0], dtype=dtype)
    expected = torch.tensor([math.inf, -math.inf, -math.inf, math.inf], dtype=dtype)
    for spread, scale in (("scale", 0.0), ("log_scale", -math.inf)):
        scales = torch.full_like(mu, scale)
        assert torch.equal(
            aevb_ext.laplace_log_prob(x, mu, scales, spread=spread, reduction="none", batch_dims=1), expected
        )


def test_many_degrees_of_freedom_are_the_gaussian():
    x, mu, scale = [0.3, 5.0], [0.0, 1.0], [1.0, 2.0]
    values, gradients = elements(student_t_log_prob, x, mu, scale, [1e30] * 2)
    variance = [2 * math.log(s) for s in scale]
    expected, others = elements(aevb_ext.gaussian_log_prob, x, mu, variance)
    assert values == pytest.approx(expected, rel=1e-6) and gradients[0] == pytest.approx(others[0], rel=1e-6)
    assert all(math.isfinite(g) for g in gradients[2])


# What is in one row stays there; what is data may be integers.

CALLS = {
    "poisson_log_prob": {"log_rate": 0.5},
    "negative_binomial_log_prob": {"mean": 0.5, "dispersion": 2.0},
    "zero_inflated_negative_binomial_log_prob": {"mean": 0.5, "dispersion": 2.0, "gate_logits": 0.1},
    "laplace_log_prob": {"mu": 0.5, "scale": 2.0},
    "student_t_log_prob": {"mu": 0.5, "scale": 2.0, "df": 3.0},
    "continuous_bernoulli_log_prob": {"logits": 0.5},
    "discretized_logistic_log_prob": {"mu": 0.5, "log_scale": -1.0},
}


@pytest.mark.parametrize(("name", "where"), [(name, where) for name in CALLS for where in ("x", *CALLS[name])])
def test_nan_stays_in_its_row(name, where):
    tensors = {"x": torch.ones(3, 40)} | {k: torch.full((3, 40), v) for k, v in CALLS[name].items()}
    for column in (0, 17, 39):
        tensors[where][1] = 0.5
        tensors[where][1, column] = NAN
        leaves = {k: t.clone().requires_grad_() for k, t in tensors.items()}
        values = getattr(aevb_ext, name)(**leaves)
        assert values.isnan().tolist() == [False, True, False]
        for gradient in torch.autograd.grad(values.sum(), list(leaves.values())):
            assert not gradient[[0, 2]].isnan().any() and not gradient[1, torch.arange(40) != column].isnan().any()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("name", ["poisson_log_prob", "zero_inflated_negative_binomial_log_prob"])
def test_integers_are_the_numbers_they_are(name, dtype):
    """In any layout, and in a number of elements that is no multiple of a vector's."""
    most = {torch.uint8: 200, torch.int16: 30000}.get(dtype, 10**6)
    counts = torch.randint(most, (5, 2, 37)).to(dtype)
    parameters = {k: torch.full((5, 2, 37), v) for k, v in CALLS[name].items()}
    for x in (counts, counts.transpose(0, 1).contiguous().transpose(0, 1), counts[:1].expand(5, 2, 37)):
        found = getattr(aevb_ext, name)(x, **parameters, reduction="none")
        assert torch.equal(found, getattr(aevb_ext, name)(x.float(), **parameters, reduction="none"))


# Numbers are looked at if that is asked for.


@pytest.mark.parametrize(
    ("x", "parameters", "message"),
    [
        ([1.0, -1.0], {}, r"x has -1\.0: expected counts: whole numbers from 0 on"),
        ([1.0, 0.5], {}, r"x has 0\.5: expected counts"),
        ([1.0, NAN], {}, r"x has nan: expected counts"),
        ([1.0, 2.0], {"mean": [1.0, -2.0]}, r"mean has -2\.0: expected numbers from 0 on"),
        ([1.0, 2.0], {"dispersion": [0.0, 2.0]}, r"dispersion has 0\.0: expected positive numbers"),
        ([1.0, 2.0], {"gate_logits": [0.0, NAN]}, r"gate_logits has nan: expected numbers that are not NaN"),
    ],
)
def test_validate_args_names_what_is_no_count(x, parameters, message):
    right = {"mean": [1.0, 1.0], "dispersion": [1.0, 1.0], "gate_logits": [0.0, 0.0]}
    given = {k: torch.tensor(v).unsqueeze(0) for k, v in (right | parameters).items()}
    x = torch.tensor(x).unsqueeze(0)
    with pytest.raises(ValueError, match=message):
        zero_inflated_negative_binomial_log_prob(x, **given, validate_args=True)
    zero_inflated_negative_binomial_log_prob(x, **given)  # and not without
    if not parameters:
        with pytest.raises(ValueError, match=message):
            poisson_log_prob(x, given["mean"], validate_args=True)
        with pytest.raises(ValueError, match=message):
            negative_binomial_log_prob(x, given["mean"], given["dispersion"], validate_args=True)


def test_what_is_right_passes():
    x = torch.tensor([[0, 3]])
    assert torch.equal(
        poisson_log_prob(x, rate=torch.ones(1, 2), validate_args=True), poisson_log_prob(x, rate=torch.ones(1, 2))
    )


ONE = torch.ones(1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: poisson_log_prob(ONE), "log_rate and rate are two ways to give one parameter: give one"),
        (lambda: poisson_log_prob(ONE, ONE, rate=ONE), "log_rate and rate are two ways"),
        (lambda: negative_binomial_log_prob(ONE, ONE), "mean and dispersion, or total_count and logits"),
        (lambda: negative_binomial_log_prob(ONE, ONE, ONE, logits=ONE), "one of the two pairs"),
        (lambda: negative_binomial_log_prob(ONE, total_count=ONE), "one of the two pairs"),
        (lambda: aevb_ext.laplace_log_prob(ONE, ONE, ONE, spread="std"), 'spread must be "scale" or "log_scale"'),
        (lambda: negative_binomial_log_prob(ONE, ONE, torch.ones(3)), r"dispersion has shape \[3\].*mean's shape"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
