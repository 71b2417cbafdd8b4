"""Values and gradients over the whole range of their inputs, against mpmath, in ulp.

An error is counted in ulp of a stated scale: the result itself wherever its formula has no inherent cancellation,
else the largest of the terms that cancel. Results below the smallest normal number may be flushed to zero.
"""

import math
from dataclasses import dataclass
from functools import partial

import mpmath
import pytest
import torch
from cases import SPREADS, in_parameterisation, runs_cuda
from mpmath import mp, mpf
from noise_definition import normals

import aevb_ext

BERNOULLI_ULP = 4
PROBS_ULP = 5  # on CUDA its logarithm is the special-function unit's; on the CPU 4 hold too
GAUSSIAN_ULP = 8

LOGITS = [0.0, *(s * m for s in (-1, 1) for m in (*(10 ** (k / 4) for k in range(-32, 17)), 0.7, 17.0, 88.5, 104.0))]
PROBS = [0.0, 1.0, 0.5, *(p for k in (*range(1, 47), 200) for p in (10.0**-k, 1 - 10.0**-k, 0.5 - 10.0**-k))]
TARGETS = (0.0, 1.0, 0.5, 1e-3, 1 / 3, 0.9990234375, 1 - 2**-24)
LOG_VARIANCES = [
    0.0,
    *(s * m for s in (-1, 1) for m in (*(10 ** (k / 3) for k in range(-24, 6)), 0.99, 1.0, 30.0, 60.0)),
]
MEANS = (0.0, 1e-8, -1e-8, 1e-4, 0.1, -1.0, 3.7, 100.0, -1e4, 1e4)


@pytest.fixture(autouse=True)
def precision():
    with mpmath.workprec(400):
        yield


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def grid(dtype, device):
    """Every combination of some numbers, as one row."""

    def build(*axes):
        tensors = torch.meshgrid(*(torch.tensor(a, dtype=torch.float64) for a in axes), indexing="ij")
        return [t.reshape(1, -1).to(device, dtype) for t in tensors]

    return build


@dataclass
class Exact:
    value: mpf
    scale: mpf  # what an ulp is counted of
    slack: float = 0.0  # further ulp that rounding of the input to the formula costs


def _ulp(scale, dtype):
    info = torch.finfo(dtype)
    scale = max(abs(scale), mpf(info.smallest_normal))
    return mpf(2) ** (mpmath.floor(mpmath.log(scale, 2))) * info.eps


def _worst(result, exact, bound):
    """The largest error, in units of its bound."""
    largest, worst = torch.finfo(result.dtype).max, 0.0
    for got, e in zip(result.flatten().tolist(), exact, strict=True):
        if abs(e.value) > largest:
            assert got == math.copysign(math.inf, e.value), f"{got} where the exact result overflows"
        elif abs(e.value) < largest / 4 or not math.isinf(got):
            assert math.isfinite(got), f"{got} instead of {mpmath.nstr(e.value)}"
            ulps = abs(mpf(got) - e.value) / _ulp(e.scale, result.dtype)
            worst = max(worst, float(ulps / (bound + e.slack)))
    return worst


def _check(results, inputs, exact, bound):
    """`exact` takes the numbers of one element and gives an Exact for each of `results`."""
    rows = [exact(*(mpf(v) for v in values)) for values in zip(*(t.flatten().tolist() for t in inputs), strict=True)]
    for name, result, column in zip(results, results.values(), zip(*rows, strict=True), strict=True):
        worst = _worst(result.cpu(), column, bound)
        assert worst <= 1, f"{name}: {worst * bound:.1f} ulp"


def _with_gradients(function, **inputs):
    """Of elementwise values: as one row (wide loads and their tail), and the same bits as rows of one element."""

    def found(shape):
        leaves = [t.reshape(shape).requires_grad_() for t in inputs.values()]
        outputs = function(*leaves)
        value = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        gradients = torch.autograd.grad(value.sum(), leaves)
        named = {"value": value} | {f"gradient of {n}": g for n, g in zip(inputs, gradients, strict=True)}
        return {name: t.detach().flatten().contiguous() for name, t in named.items()}

    row, column = found((1, -1)), found((-1, 1))
    for name, result in row.items():
        assert torch.equal(result.view(torch.uint8), column[name].view(torch.uint8)), f"{name}: other bits as a column"
    return row


def test_bernoulli(grid):
    """Targets in [0, 1]: both terms of the log-likelihood have one sign, so the value is right relative to itself."""

    def exact(x, logit):
        residual, e = x - (logit > 0), mpmath.exp(-abs(logit))
        value = residual * logit - mpmath.log1p(e)
        tail = e / (1 + e)
        gradient = residual + (tail if logit > 0 else -tail)
        return Exact(value, value), Exact(logit, logit), Exact(gradient, abs(residual) + tail)

    x, logits = grid(TARGETS, LOGITS)
    results = _with_gradients(partial(aevb_ext.bernoulli_log_prob, reduction="none"), x=x, logits=logits)
    _check(results, (x, logits), exact, BERNOULLI_ULP)


def test_bernoulli_of_probs(grid):
    """The logarithms have one sign; they count as -100 where they are less, and p (1 - p) as 1e-12."""

    def exact(x, p):
        logs = mpmath.log(p) if p > 0 else -mpmath.inf, mpmath.log1p(-p) if p < 1 else -mpmath.inf
        log_p, log_not_p = (max(logarithm, mpf(-100)) for logarithm in logs)
        value = x * log_p + (1 - x) * log_not_p
        by_p = (x - p) / max(p * (1 - p), mpf(1e-12))
        return Exact(value, value), Exact(log_p - log_not_p, max(abs(log_p), abs(log_not_p))), Exact(by_p, by_p)

    x, probs = grid(TARGETS, PROBS)
    results = _with_gradients(partial(aevb_ext.bernoulli_log_prob_of_probs, reduction="none"), x=x, probs=probs)
    _check(results, (x, probs), exact, PROBS_ULP if runs_cuda(probs) else BERNOULLI_ULP)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_bernoulli_of_certain_probs_in_half_precision(half, device):
    """As binary_cross_entropy has it in float32, whose 1e-12 is not a number of float16, and whose 1e12 is not."""
    x = torch.tensor([0.0, 1.0, 0.0, 1.0], device=device)
    probs = torch.tensor([0.0, 1.0, 1.0, 0.0], device=device, dtype=half).requires_grad_()
    value = aevb_ext.bernoulli_log_prob_of_probs(x, probs, reduction="none")
    assert value.tolist() == [0, 0, -100, -100]
    (gradient,) = torch.autograd.grad(value.sum(), probs)
    largest = torch.finfo(half).max
    assert torch.equal(gradient, torch.tensor([0, 0, -1e12, 1e12], device=device).clamp(-largest, largest).to(half))


@pytest.mark.parametrize("scale", [1 / 255, 0.1], ids=["1/255", "0.1"])
def test_a_scaled_target_that_is_the_probability_has_no_gradient(dtype, scale, device):
    """The product is rounded before p is taken from it: what is left of an exact one would be over 1e-12 at p = 1."""
    x = torch.arange(256, device=device, dtype=torch.uint8)
    probs = (x.to(dtype) * scale).requires_grad_()
    x, probs = x[probs <= 1], probs[probs <= 1]
    (gradient,) = torch.autograd.grad(aevb_ext.bernoulli_log_prob_of_probs(x, probs, x_scale=scale).sum(), probs)
    assert (probs == 1).any() and (gradient == 0).all()


def _log_variance(s, spread):
    match spread:
        case "logvar":
            return s
        case "log_std":
            return 2 * s
        case "std":
            return 2 * mpmath.log(s)
        case "var":
            return mpmath.log(s)


def _slope(s, spread):
    """d log sigma^2 / d s"""
    return {"logvar": mpf(1), "log_std": mpf(2), "std": s and 2 / s, "var": s and 1 / s}[spread]


def _through_log(v, spread):
    """e^v is right to |v| ulp where v is a rounded logarithm."""
    return float(abs(v)) if spread in ("std", "var") else 0.0


@pytest.mark.parametrize("spread", SPREADS)
def test_gaussian_kl(grid, spread):
    """A sum of two terms that are not negative: right relative to itself, near the prior and far from it."""

    def exact(mu, s):
        v = _log_variance(s, spread)
        value = (mpmath.expm1(v) - v + mu * mu) / 2
        d_v = mpmath.expm1(v) / 2
        d_scale = d_v if spread in ("logvar", "log_std") else (mpmath.exp(v) + 1) / 2
        slope, slack = _slope(s, spread), _through_log(v, spread)
        return Exact(value, value, slack), Exact(mu, mu), Exact(d_v * slope, d_scale * slope, slack)

    mu, v = grid(MEANS, LOG_VARIANCES)
    s = in_parameterisation(v.double(), spread).to(v.dtype)
    results = _with_gradients(partial(aevb_ext.gaussian_kl, spread=spread, reduction="none"), mu=mu, spread=s)
    _check(results, (mu, s), exact, GAUSSIAN_ULP)


@pytest.mark.parametrize("spread", SPREADS)
def test_gaussian_kl_to_a_prior(grid, spread):
    """Also where the two nearly agree, about any prior: only w = log sigma^2 / sigma_p^2 is rounded first."""

    def exact(mu, s, prior_mu, prior_s):
        w = _log_variance(s, spread) - _log_variance(prior_s, spread)
        precision = mpmath.exp(-_log_variance(prior_s, spread))
        d = mu - prior_mu
        value = (mpmath.expm1(w) - w + d * d * precision) / 2
        d_w, d_mu = mpmath.expm1(w) / 2, d * precision
        d_prior = (mpmath.expm1(w) + d * d * precision) / 2
        d_scale = abs(d_w) if spread in ("logvar", "log_std") else (mpmath.exp(w) + 1) / 2
        slack = float(abs(w)) + _through_log(w, spread)
        return (
            Exact(value, value, slack),
            Exact(d_mu, d_mu),
            Exact(d_w * _slope(s, spread), d_scale * _slope(s, spread), slack),
            Exact(-d_mu, d_mu),
            Exact(-d_prior * _slope(prior_s, spread), (d_scale + d * d * precision) * _slope(prior_s, spread), slack),
        )

    ratios = (0.0, 1e-6, -1e-3, 0.3, -2.0, 20.0)
    mu, v, difference, ratio = grid((0.5, -100.0), (-20.0, -0.7, 0.0, 3.0), (0.0, 1e-5, 2.0), ratios)
    s, prior_s = (in_parameterisation(t.double(), spread).to(t.dtype) for t in (v, v - ratio))
    inputs = {"mu": mu, "spread": s, "prior_mu": mu - difference, "prior_spread": prior_s}
    results = _with_gradients(partial(aevb_ext.gaussian_kl, spread=spread, reduction="none"), **inputs)
    _check(results, list(inputs.values()), exact, GAUSSIAN_ULP)


@pytest.mark.parametrize("spread", SPREADS)
def test_gaussian_log_prob(grid, spread):
    """The three terms of the log-likelihood may cancel, as may the two of its slope: relative to their magnitudes."""

    def exact(x, mu, s):
        v = _log_variance(s, spread)
        precision, d = mpmath.exp(-v), x - mu
        terms = mpmath.log(2 * mp.pi) / 2, v / 2, d * d * precision / 2
        d_mu, square = d * precision, d * d * precision
        slope = _slope(s, spread)
        return (
            Exact(-sum(terms), sum(abs(t) for t in terms)),
            Exact(-d_mu, d_mu),
            Exact(d_mu, d_mu),
            Exact((square - 1) / 2 * slope, (square + 1) / 2 * slope),
        )

    x, mu, v = grid((0.0, 1.0, 0.4), (*MEANS, 0.4, 0.4 + 1e-6), LOG_VARIANCES[::2])
    s = in_parameterisation(v.double(), spread).to(v.dtype)
    results = _with_gradients(
        partial(aevb_ext.gaussian_log_prob, spread=spread, reduction="none"), x=x, mu=mu, spread=s
    )
    _check(results, (x, mu, s), exact, GAUSSIAN_ULP)


def test_gaussian_log_prob_of_a_sigmoid(grid):
    """A mean in (0, 1): its slope mu (1 - mu) does not cancel where mu is next to 1."""

    def exact(x, m, v):
        e = mpmath.exp(-abs(m))
        mu, slope = (1 if m > 0 else e) / (1 + e), e / (1 + e) ** 2
        precision, d = mpmath.exp(-v), x - mu
        terms = mpmath.log(2 * mp.pi) / 2, v / 2, d * d * precision / 2
        # mu is rounded before x is taken from it, and the slope is a product of two sigmoids of three roundings each.
        d_scale, square = abs(x) + mu, (abs(x) + mu) ** 2 * precision
        return (
            Exact(-sum(terms), abs(terms[0]) + abs(terms[1]) + square / 2),
            Exact(d * precision * slope, d_scale * precision * slope, 4),
            Exact((d * d * precision - 1) / 2, (square + 1) / 2),
        )

    def of_a_layer(m, v):
        """The identity's two outputs are m and v."""
        weight = torch.eye(2, dtype=m.dtype, device=m.device)
        h = torch.stack([m.flatten(), v.flatten()], 1)
        return aevb_ext.linear_gaussian_log_prob(x.reshape(-1, 1), h, weight, sigmoid=True).reshape(m.shape)

    x, m, v = grid((0.0, 1.0, 0.5), LOGITS, (0.0, -3.0, 2.0))
    results = _with_gradients(of_a_layer, m=m, spread=v)
    _check(results, (x, m, v), exact, GAUSSIAN_ULP)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("fused", [False, True], ids=["rsample", "rsample_kl"])
def test_rsample(grid, spread, fused):
    """mu + sigma eps: relative to |mu| + sigma r, where r is the radius of Box and Muller."""
    mu, v = grid(MEANS, LOG_VARIANCES)
    s = in_parameterisation(v.double(), spread).to(v.dtype)
    key = torch.tensor([11, 12], device=mu.device)
    eps, radius = normals(key, mu.shape, uniforms=mu.dtype)
    function = aevb_ext.rsample_kl if fused else aevb_ext.rsample
    results = _with_gradients(partial(function, key=key, spread=spread), mu=mu, spread=s)

    def exact(mu, s, eps, radius):
        sigma = mpmath.exp(_log_variance(s, spread) / 2)
        d_s = sigma / 2 * _slope(s, spread)
        return (
            Exact(mu + sigma * eps, abs(mu) + sigma * radius),
            Exact(mpf(1), mpf(1)),
            Exact(d_s * eps, d_s * radius),
        )

    _check(results, (mu, s, eps, radius), exact, GAUSSIAN_ULP)


class TestNothingElseMakesANaN:
    """Beyond the range where results are finite they are infinite, of the right sign, or still finite."""

    @pytest.fixture
    def column(self, device):
        return lambda *values: torch.tensor(values, device=device).reshape(-1, 1)

    def test_infinite_logits(self, column):
        inf = math.inf
        x, logits = column(1.0, 0.0, 0.0, 1.0, 0.5, 0.5), column(inf, -inf, inf, -inf, inf, -inf).requires_grad_()
        value = aevb_ext.bernoulli_log_prob(x, logits)
        assert value.tolist() == [0, 0, -inf, -inf, -inf, -inf]
        value.sum().backward()
        assert logits.grad.flatten().tolist() == [0, 0, -1, 1, -0.5, 0.5]

    def test_what_is_no_probability(self, device):
        """It has no likelihood: NaN for it alone, in the value and in its gradient, whatever the target."""
        probs = torch.tensor([0.3, -1e-7, 1.0000001, -math.inf, math.inf, math.nan, 0.6], device=device)
        for target in (0.0, 0.25, 1.0):
            for dtype in (torch.float32, torch.float64):
                x, p = torch.full((7, 1), target, device=device), probs.to(dtype).reshape(7, 1).requires_grad_()
                value = aevb_ext.bernoulli_log_prob_of_probs(x, p)
                for create_graph in (False, True):
                    (gradient,) = torch.autograd.grad(value.sum(), p, create_graph=create_graph, retain_graph=True)
                    for result in (value, gradient):
                        assert result.flatten().isnan().tolist() == [False, *[True] * 5, False]

    def test_far_spreads(self, column):
        """e^200 and e^-200 are not float32 numbers, log-likelihoods and divergences are."""
        x, mu, logvar = column(0.4, 0.4, 0.4), column(0.4, 0.4, 0.5), column(200.0, -200.0, 200.0).requires_grad_()
        value = aevb_ext.gaussian_log_prob(x, mu, logvar)
        half_log_2pi = 0.5 * math.log(2 * math.pi)
        expected = torch.tensor([-half_log_2pi - 100, -half_log_2pi + 100, -half_log_2pi - 100])
        torch.testing.assert_close(value.cpu(), expected)
        value.sum().backward()
        torch.testing.assert_close(logvar.grad.cpu(), torch.full((3, 1), -0.5))

        assert aevb_ext.gaussian_log_prob(column(0.4), column(0.5), column(-200.0)).item() == -math.inf
        assert aevb_ext.gaussian_kl(column(3.0), column(-200.0)).item() == pytest.approx(0.5 * (199 + 9))
        assert aevb_ext.gaussian_kl(column(3.0), column(200.0)).item() == math.inf

    def test_infinite_posteriors(self, column):
        inf = math.inf
        mu, logvar = column(inf, -inf, 0.0, 0.0), column(0.0, 0.0, inf, -inf)
        assert (aevb_ext.gaussian_kl(mu, logvar) == inf).all()
        assert aevb_ext.gaussian_log_prob(column(0.0, 0.0, 0.0), mu[:3], logvar[:3]).tolist() == [-inf] * 3
        z = aevb_ext.rsample(column(1.5, inf, 0.0), column(-inf, 0.0, inf), key=torch.tensor([1, 2], device=mu.device))
        assert z[0].item() == 1.5 and z[1].item() == inf and abs(z[2].item()) == inf

    def test_a_zero_cotangent_at_an_overflow_gives_a_zero_gradient(self, column):
        """A loss that masks the rows which overflowed must not get NaN from them."""
        mask = column(0.0, 1.0).flatten()
        mu, x = column(1.0, 1.0).requires_grad_(), column(0.0, 0.0).requires_grad_()
        key = torch.tensor([1, 2], device=mu.device)
        for value, others in (
            (lambda s: aevb_ext.gaussian_log_prob(x, mu, s), (x, mu)),
            (lambda s: aevb_ext.gaussian_kl(mu, -s), (mu,)),
            (lambda s: aevb_ext.gaussian_kl(mu, mu, x, s), (mu, x)),
            (lambda s: aevb_ext.rsample(mu, -s, key=key)[:, 0], (mu,)),
            (lambda s: aevb_ext.rsample_kl(mu, -s, key=key)[1], (mu,)),
        ):
            spread = column(-300.0, 0.5).requires_grad_()
            for gradient in torch.autograd.grad(value(spread), (*others, spread), mask):
                assert gradient[0].item() == 0 and math.isfinite(gradient[1].item())

    def test_a_loss_times_zero_has_a_zero_gradient(self, device):
        """In rows so long that they are worked on one by one."""
        x, mu, spread = (torch.full((2, 200), v, device=device).requires_grad_() for v in (1.0, 0.0, -300.0))
        for value in (aevb_ext.gaussian_log_prob(x, mu, spread), aevb_ext.gaussian_kl(mu + x, -spread)):
            assert value.isinf().all()
            for gradient in torch.autograd.grad(0 * value.sum(), (x, mu, spread)):
                assert (gradient == 0).all()

    def test_a_nan_stays_in_its_row(self, device):
        """And comes out of it, wherever it came in."""
        good = torch.full((3, 37), 0.25, device=device)
        key = torch.tensor([1, 2], device=device)
        for function, arguments in (
            (aevb_ext.bernoulli_log_prob, 2),
            (aevb_ext.bernoulli_log_prob_of_probs, 2),
            (aevb_ext.gaussian_log_prob, 3),
            (aevb_ext.gaussian_kl, 2),
            (aevb_ext.gaussian_kl, 4),
            (lambda mu, logvar: aevb_ext.rsample_kl(mu, logvar, key=key)[1], 2),
            (lambda mu, logvar: aevb_ext.rsample(mu, logvar, key=key).sum(-1), 2),
        ):
            for position in range(arguments):
                for element in (0, 20, 36):
                    inputs = [good.clone() for _ in range(arguments)]
                    inputs[position][1, element] = math.nan
                    leaves = [t.requires_grad_() for t in inputs]
                    value = function(*leaves)
                    assert value.isnan().tolist() == [False, True, False]
                    for gradient in torch.autograd.grad(value.sum(), leaves):
                        elsewhere = gradient.flatten()[torch.arange(3 * 37, device=device) != 37 + element]
                        assert elsewhere.isfinite().all()

    def test_a_nan_is_kept_by_every_reduction_and_type(self, device):
        for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
            x, logits = torch.full((2, 5, 3), 0.5, device=device, dtype=dtype)
            logits[2, 1] = math.nan
            for reduction in ("sum", "mean"):
                assert aevb_ext.bernoulli_log_prob(x, logits, reduction=reduction).isnan()
            none = aevb_ext.bernoulli_log_prob(x, logits, reduction="none")
            assert none.isnan().sum() == 1 and none[2, 1].isnan()

    @pytest.mark.parametrize("spread", SPREADS)
    def test_a_posterior_that_is_the_prior_has_gradients_of_plus_zero(self, column, spread):
        s = 1.0 if spread in ("std", "var") else 0.0
        mu, own, prior = column(0.3), column(s).requires_grad_(), column(s).requires_grad_()
        value = aevb_ext.gaussian_kl(mu, own, mu, prior, spread=spread).sum()
        for gradient in torch.autograd.grad(value, (own, prior)):
            assert gradient.item() == 0 and not gradient.signbit()

    @pytest.mark.parametrize("spread", ["std", "var"])
    def test_a_slope_is_finite_where_the_inverse_of_the_spread_is_not(self, column, spread):
        """1 / 1e-39 is no number of float32; what is 0.2 of it is."""
        mu, own, prior = column(0.0), column(1.1e-39).requires_grad_(), column(1e-39).requires_grad_()
        value = aevb_ext.gaussian_kl(mu, own, mu, prior, spread=spread).sum()
        found = [gradient.item() for gradient in torch.autograd.grad(value, (own, prior))]
        p, q = own.item(), prior.item()
        excess = (p / q) ** (2 if spread == "std" else 1) - 1
        slopes = (excess / p, -excess / q)
        expected = slopes if spread == "std" else [slope / 2 for slope in slopes]
        assert found == pytest.approx(expected, rel=1e-5)
