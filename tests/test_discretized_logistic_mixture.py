"""The likelihood of PixelCNN++ and VDVAE: against its formula as published, against exact probabilities, everywhere."""

import math

import mpmath
import pytest
import torch
from cases import DTYPES

import aevb_ext
from aevb_ext import discretized_logistic_mixture_log_prob, reference
from aevb_ext._library import ops
from benchmarks.likelihoods import published_mixture
from benchmarks.memory import peak_bytes

REDUCTIONS = ("sample", "none", "sum", "mean")
# How params [..., 10 K, H, W] lie in memory.
LAYOUTS = {
    "contiguous": lambda t: t,
    "channels_last": lambda t: t.movedim(-3, -1).contiguous().movedim(-1, -3),
    "half": lambda t: torch.cat([torch.full_like(t, math.nan), t], -3).chunk(2, -3)[1],
    "width_first": lambda t: t.transpose(-1, -2).contiguous().transpose(-1, -2),
    "every_other": lambda t: torch.stack([t, torch.full_like(t, math.nan)], -1).flatten(-2)[..., ::2],
}


def _params(*batch, k=10, size=(5, 7), dtype=torch.float64, log_scale=-3.0):
    """Means within the range of x, scales from narrower than a bin to a tenth of the range."""
    params = torch.randn(*batch, 10 * k, *size, dtype=torch.float64)
    of_colours = params[..., k:, :, :].unflatten(-3, (3, 3, k))
    of_colours[..., 0, :, :, :] *= 0.5
    of_colours[..., 1, :, :, :] += log_scale
    return params.to(dtype)


def _levels(*batch, size=(5, 7)):
    """A quarter of them at either end."""
    levels = torch.randint(256, (*batch, 3, *size))
    ends = torch.randint(4, levels.shape)
    return levels.masked_fill(ends == 0, 0).masked_fill(ends == 1, 255).to(torch.uint8)


def _from_levels(levels, dtype=torch.float64):
    return (2 * levels.double() / 255 - 1).to(dtype)


def _weights(values):
    return torch.linspace(1, 2, values.numel(), dtype=values.dtype, device=values.device).reshape(values.shape)


def _value_and_gradient(function, x, params, **options):
    params = params.detach().requires_grad_()
    values = function(x, params, **options)
    return values, torch.autograd.grad((values * _weights(values)).sum(), params)[0]


def _assert_right(x, params, value_ulp=64, gradient_ulp=512, **options):
    """Against float64, in ulp of the arithmetic: of 1 + |value|, and of 1 + |gradient|.

    float32 rounds x - mu, which a scale of e^-7 then magnifies by 1097.
    """
    values, gradient = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params, **options)
    given = x if x.dtype == torch.uint8 else x.double()
    exact, exact_gradient = _value_and_gradient(
        reference.discretized_logistic_mixture_log_prob, given, params.double(), **options
    )
    wide = torch.float64 if params.dtype == torch.float64 else torch.float32
    eps = torch.finfo(wide).eps
    assert values.dtype == wide and gradient.dtype == params.dtype
    assert values.isfinite().all() and gradient.isfinite().all()
    torch.testing.assert_close(values.double(), exact, rtol=value_ulp * eps, atol=value_ulp * eps)
    rounding = 0 if params.dtype == wide else torch.finfo(params.dtype).eps
    tolerance = {"rtol": gradient_ulp * eps + rounding, "atol": gradient_ulp * eps + rounding**2}
    torch.testing.assert_close(gradient.double(), exact_gradient, **tolerance)


def _log_bin(x, mu, log_scale):
    """The logarithm of a bin's probability, exactly."""
    with mpmath.workdps(60):
        scale = mpmath.exp(mpmath.mpf(max(log_scale, -7)))
        mu, level = mpmath.mpf(mu), round((x + 1) * 255 / 2)
        centre = mpmath.mpf(2 * level) / 255 - 1
        upper = mpmath.inf if level == 255 else centre + mpmath.mpf(1) / 255
        lower = -mpmath.inf if level == 0 else centre - mpmath.mpf(1) / 255
        if centre > mu:  # the same on the side on which the probabilities of tails are small numbers
            lower, upper, mu = -upper, -lower, -mu

        def below(edge):
            return 1 / (1 + mpmath.exp((mu - edge) / scale))

        return mpmath.log(below(upper) - below(lower))


class TestAgainstExactNumbers:
    """One component without coupling, whose value is a sum of three bins'."""

    @staticmethod
    def _pixel(dtype, levels, mu, log_scale):
        params = torch.zeros(1, 10, 1, 1, dtype=dtype)
        for colour in range(3):
            params[0, 1 + 3 * colour], params[0, 2 + 3 * colour] = mu, log_scale
        x = _from_levels(torch.tensor(levels), dtype).reshape(1, 3, 1, 1)
        given = params[0, :, 0, 0].double().tolist()
        exact = sum(_log_bin(float(2 * level / 255 - 1), given[1], given[2]) for level in levels)
        return x, params, exact

    @pytest.mark.parametrize("mu", [-100.0, -1.5, -1.0, -0.3, 0.0, 0.00390625, 0.25, 0.998, 1.2, 50.0])
    @pytest.mark.parametrize("levels", [(0, 0, 0), (255, 255, 255), (0, 127, 255), (128, 96, 160), (1, 254, 3)])
    def test_value(self, levels, mu):
        for log_scale in (-20, -7, -6.5, -5, -3, -1, 0, 2, 5, 11, 12, 13, 20, 40, 80):
            x, params, exact = self._pixel(torch.float64, levels, mu, log_scale)
            # x - mu is rounded, and magnified by at most 1097.
            bound = 1e-15 * 1100 * (1 + abs(mu)) * 10 + 1e-14 * abs(float(exact))
            for of in (aevb_ext, reference):
                value = of.discretized_logistic_mixture_log_prob(x, params).item()
                assert abs(value - float(exact)) < bound, log_scale

    @pytest.mark.parametrize("log_scale", [-7, -3, 0, 5, 12, 20])
    @pytest.mark.parametrize("levels", [(0, 0, 0), (255, 255, 255), (128, 128, 128)])
    def test_value_in_float32(self, levels, log_scale):
        x, params, exact = self._pixel(torch.float32, levels, 0.0, log_scale)
        value = discretized_logistic_mixture_log_prob(x, params).item()
        # 1097 times an ulp of x, or a few ulp of the value.
        slack = 2**-24 * math.exp(min(7, -min(log_scale, 0))) * 3
        assert abs(value - float(exact)) < slack + 4e-7 * (1 + abs(float(exact)))


@pytest.mark.parametrize("log_scale", [-4.0, -1.0, 0.0])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_aspublished_mixture(k, log_scale, device):
    """Where theirs is the logarithm of the difference and not of the density, which is what a bin's mass is not."""
    x = _from_levels(_levels(9)).to(device)
    params = _params(9, k=k).to(device)
    of_colours = params[:, k:].unflatten(1, (3, 3, k))
    of_colours[:, :, 1] = log_scale + 0.3 * of_colours[:, :, 0]
    of_colours[:, :, 0] = x.unsqueeze(2) + 0.05 * of_colours[:, :, 0]
    of_colours[:, :, 2] *= 0.02
    theirs, theirs_gradient = _value_and_gradient(published_mixture, x, params)
    ours, gradient = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params, reduction="none")
    # They subtract probabilities that differ by 1e-5 or more.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    torch.testing.assert_close(gradient, theirs_gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("level", [0, 255])
def test_the_gradient_of_a_mean_on_the_first_or_the_last_level(level, device):
    """Where the formula for means beyond it takes over from the one for means before."""
    params = torch.zeros(3, 10, 1, 1, dtype=torch.float64, device=device)
    params[:, 1] = (2 * level / 255 - 1) + torch.tensor([-1e-9, 0, 1e-9], dtype=torch.float64, device=device)[
        :, None, None
    ]
    x = torch.tensor([level, 127, 128], dtype=torch.uint8, device=device).reshape(1, 3, 1, 1)
    _, gradient = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params, reduction="sum")
    assert gradient[1, 1].sign() == (1 if level else -1)
    torch.testing.assert_close(gradient, gradient[:1].expand(3, 10, 1, 1), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("k", [1, 2, 10, 13])
@pytest.mark.parametrize("size", [(1, 1), (5, 7), (1, 40), (16, 16), (20, 30)], ids=str)
def test_values_and_gradients(size, k, dtype, device):
    x, params = _levels(3, size=size).to(device), _params(3, k=k, size=size, dtype=dtype).to(device)
    _assert_right(x, params, value_ulp=256, gradient_ulp=1 << 14, reduction="none")


@pytest.mark.cpu_kernels("of so many components, that take minutes to emulate")
def test_many_components():
    _assert_right(_levels(1), _params(1, k=300, dtype=torch.float32), value_ulp=256, gradient_ulp=4096)


@pytest.mark.compiled("where gradients lie")
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("of_x", ["contiguous", "channels_last", "width_first"])
def test_layouts(of_x, layout, dtype, device):
    """A view is read in place, and its gradient lies as torch's own elementwise operators would lay it out."""
    x = LAYOUTS[of_x](_levels(2, size=(9, 8)).to(device))
    params = LAYOUTS[layout](_params(2, size=(9, 8), dtype=dtype).to(device))
    expected = _value_and_gradient(
        discretized_logistic_mixture_log_prob, x.contiguous(), params.contiguous(), reduction="none"
    )
    found = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params, reduction="none")
    assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert found[1].stride() == (2 * params).stride()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("samples", [(), (3,), (2, 2)], ids=str)
def test_samples_and_reductions(samples, reduction, device):
    _assert_right(_levels(4).to(device), _params(*samples, 4, k=2).to(device), gradient_ulp=4096, reduction=reduction)
    values = discretized_logistic_mixture_log_prob(
        _levels(4).to(device), _params(*samples, 4, k=2).to(device), reduction=reduction
    )
    assert values.shape == {"sample": (*samples, 4), "none": (*samples, 4, 5, 7)}.get(reduction, ())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_of_x(dtype, device):
    """Bytes are the levels; in float32 the two are rounded alike within an ulp of 1."""
    levels, params = _levels(2).to(device), _params(2, dtype=torch.float32).to(device)
    x = _from_levels(levels, dtype)
    _assert_right(x, params, value_ulp=256, gradient_ulp=8192)
    if dtype == torch.float64:
        of_bytes = discretized_logistic_mixture_log_prob(levels, params.double())
        torch.testing.assert_close(
            discretized_logistic_mixture_log_prob(x, params.double()), of_bytes, rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("log_scale", [-7.0, -4.0, -1.0, 3.0, 15.0])
@pytest.mark.parametrize("colour", [0, 1, 2])
def test_probabilities_of_all_levels_sum_to_one(colour, log_scale, device):
    """Over the levels of a colour given those before it: what they sum to is the probability of those before."""
    k = 4
    params = _params(k=k, size=(1, 1), log_scale=log_scale).to(device)
    levels = torch.tensor([40, 200, 255], device=device).reshape(3, 1, 1).expand(3, 1, 256).clone()

    def probability(levels, certain):
        """With colours whose highest level is certain: they count for nothing."""
        given = params.clone()
        for c in certain:
            levels[c], given[(1 + 3 * c) * k : (2 + 3 * c) * k], given[(2 + 3 * c) * k : (3 + 3 * c) * k] = 255, 1e3, -7
        given = given.expand(10 * k, 1, 256)
        return discretized_logistic_mixture_log_prob(levels.to(torch.uint8), given, reduction="none").exp()

    of_those_before = probability(levels.clone(), range(colour, 3))[0, 0]
    levels[colour] = torch.arange(256, device=device)
    every = probability(levels, range(colour + 1, 3))
    torch.testing.assert_close(every.sum(), of_those_before, rtol=1e-12, atol=0)
    assert colour > 0 or of_those_before.isclose(torch.ones_like(of_those_before), rtol=1e-14)


class TestExtremes:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
    @pytest.mark.parametrize("log_scale", [-20.0, -10.0, -7.0, 0.0, 7.0, 12.0, 20.0])
    @pytest.mark.parametrize("far", [0.0, 2.0, 50.0])
    def test_all_scales_and_means_far_away(self, far, log_scale, dtype, device):
        params = _params(2, log_scale=log_scale)
        params[:, 10:20] += far
        params[:, 40:50] -= far
        params = params.to(dtype).double().to(device)
        x = _from_levels(_levels(2)).to(device)
        values, gradient = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params, reduction="none")
        assert values.isfinite().all() and gradient.isfinite().all()
        _assert_right(x, params, value_ulp=4096, gradient_ulp=1 << 20, reduction="none")
        narrow = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params.float(), reduction="none")
        assert narrow[0].isfinite().all() and narrow[1].isfinite().all()
        torch.testing.assert_close(narrow[0].double(), values, rtol=2e-5, atol=2e-3)

    def test_where_the_published_formula_takes_the_density(self, device):
        """Far from every mean, and in the bins' limit: the logarithm goes on as its tail does."""
        params = torch.zeros(1, 10, 1, 1, dtype=torch.float64, device=device)
        params[0, 2::3] = torch.tensor([-7.0, -7.0, -7.0], dtype=torch.float64).reshape(3, 1, 1)
        x = torch.tensor([0.5, 0.0, 0.0], dtype=torch.float64, device=device).reshape(1, 3, 1, 1)
        ours = discretized_logistic_mixture_log_prob(x, params)
        tail = (-math.exp(7) * (0.5 - 1 / 255)) + math.log(-math.expm1(-math.exp(7) * 2 / 255))
        middle = math.log(math.tanh(math.exp(7) / 255 / 2))
        assert ours.item() == pytest.approx(tail + 2 * middle, rel=1e-12)

    def test_log_scales_below_the_least_have_no_gradient(self, device):
        params = _params(1, dtype=torch.float32, log_scale=-12.0).clamp(max=2).to(device)
        _, gradient = _value_and_gradient(discretized_logistic_mixture_log_prob, _levels(1).to(device), params)
        least = params[:, 20:30] < -7
        assert least.any() and not gradient[:, 20:30][least].any()

    def test_a_logit_of_minus_infinity_takes_a_component_away(self, device):
        x, params = _levels(2).to(device), _params(2, k=3).to(device)
        without = params.unflatten(1, (10, 3))[:, :, :2].flatten(1, 2)
        params[:, 2] = -math.inf
        values, gradient = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params)
        expected, of_others = _value_and_gradient(discretized_logistic_mixture_log_prob, x, without)
        torch.testing.assert_close(values, expected, rtol=1e-14, atol=0)
        gradient = gradient.unflatten(1, (10, 3))
        torch.testing.assert_close(gradient[:, :, :2].flatten(1, 2), of_others, rtol=1e-12, atol=1e-14)
        assert not gradient[:, :, 2].any()

    @pytest.mark.parametrize("channel", [0, 4, 11, 25, 28])
    def test_nan_stays_in_its_pixel(self, channel, device):
        x, params = _levels(3).to(device), _params(3, k=3, dtype=torch.float32).to(device)
        params[1, channel, 2, 4] = math.nan
        values, gradient = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params, reduction="none")
        of_nan = torch.zeros(3, 5, 7, dtype=torch.bool, device=device)
        of_nan[1, 2, 4] = True
        assert torch.equal(values.isnan(), of_nan)
        assert torch.equal(gradient.isnan().any(1), of_nan)

    def test_nan_in_x_stays_in_its_pixel(self, device):
        x, params = _from_levels(_levels(2), torch.float32).to(device), _params(2, dtype=torch.float32).to(device)
        x[1, 2, 3, 1] = math.nan
        values = discretized_logistic_mixture_log_prob(x, params, reduction="none")
        assert values.isnan().nonzero().tolist() == [[1, 3, 1]]


def test_bits_do_not_depend_on_threads_or_the_batch():
    x, params = _levels(17, size=(11, 30)), _params(17, size=(11, 30), dtype=torch.float32)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params)
        torch.set_num_threads(4)
        together = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone[0], together[0]) and torch.equal(alone[1], together[1])
    assert torch.equal(discretized_logistic_mixture_log_prob(x[5:6], params[5:6]), alone[0][5:6])


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_derivatives(reduction, device):
    x, params = _levels(1, size=(2, 3)).to(device), _params(1, k=2, size=(2, 3), log_scale=-1.0).to(device)

    def function(params):
        return discretized_logistic_mixture_log_prob(x, params, reduction=reduction)

    params.requires_grad_()
    assert torch.autograd.gradcheck(function, params)
    assert torch.autograd.gradgradcheck(function, params)


def test_the_differentiable_backward_is_the_kernels(device):
    """At all scales: what create_graph=True gives is computed by operations of PyTorch."""
    for log_scale in (-8.0, -5.0, 0.0, 11.0, 20.0, 90.0):
        x, params = _levels(2).to(device), _params(2, log_scale=log_scale).to(device).requires_grad_()
        value = discretized_logistic_mixture_log_prob(x, params).sum()
        (kernels,) = torch.autograd.grad(value, params, retain_graph=True)
        (differentiable,) = torch.autograd.grad(value, params, create_graph=True)
        torch.testing.assert_close(differentiable, kernels, rtol=1e-9, atol=1e-9)


def test_func_transforms(device):
    x, params = _levels(4).to(device), _params(4, k=2).to(device)
    _, whole = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params, reduction="sum")
    per_point = torch.func.vmap(torch.func.grad(lambda t, x: discretized_logistic_mixture_log_prob(x, t)))(params, x)
    torch.testing.assert_close(per_point, whole, rtol=1e-9, atol=1e-9)
    shared = torch.func.vmap(lambda t: discretized_logistic_mixture_log_prob(x, t, reduction="mean"), in_dims=4)(
        torch.stack([params, 2 * params], 4)
    )
    torch.testing.assert_close(shared[1], discretized_logistic_mixture_log_prob(x, 2 * params, reduction="mean"))


@pytest.mark.compiled("operators")
def test_opcheck(device):
    for dtype, reduction in ((torch.float32, "mean"), (torch.bfloat16, "none"), (torch.float64, "sample")):
        x, params = _levels(2).to(device), _params(2, k=2, dtype=dtype).to(device)
        cotangent = torch.ones_like(discretized_logistic_mixture_log_prob(x, params, reduction=reduction))
        given = params.detach().requires_grad_()
        torch.library.opcheck(ops.discretized_logistic_mixture_log_prob.default, (x, given, reduction))
        backward = ops.discretized_logistic_mixture_log_prob_backward.default
        torch.library.opcheck(backward, (cotangent, x, params, reduction))


def test_in_a_compiled_graph(device, fresh_compiler):
    x, params = _levels(2).to(device), _params(2, dtype=torch.float32).to(device)
    compiled = torch.compile(discretized_logistic_mixture_log_prob, fullgraph=True, backend="aot_eager")
    for _ in range(3):  # the gradient is guessed from the second time on
        found = _value_and_gradient(compiled, x, params, reduction="mean")
        expected = _value_and_gradient(discretized_logistic_mixture_log_prob, x, params, reduction="mean")
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.compiled("operators")
def test_a_guessed_gradient_has_the_bits_of_one_that_is_not(device):
    x, params = _levels(2).to(device), _params(2, dtype=torch.float32).to(device)
    cotangent = torch.tensor(1.0, device=device)
    expected = ops.discretized_logistic_mixture_log_prob_backward(cotangent, x, params, "mean")
    for _ in range(3):
        given = params.detach().requires_grad_()
        discretized_logistic_mixture_log_prob(x, given, reduction="mean").backward()
        assert torch.equal(given.grad, expected)


def test_nothing_of_nothing(device):
    params = torch.zeros(0, 10, 2, 2, device=device, requires_grad=True)
    values = discretized_logistic_mixture_log_prob(torch.zeros(0, 3, 2, 2, device=device), params)
    values.sum().backward()
    assert values.shape == (0,) and params.grad.shape == params.shape
    no_pixels = torch.zeros(2, 10, 0, 3, device=device)
    assert discretized_logistic_mixture_log_prob(torch.zeros(2, 3, 0, 3, device=device), no_pixels).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4, 3, 2, 5)}, ValueError, "the pixels of x"),
        ({"x": torch.zeros(4, 1, 2, 2)}, ValueError, r"x must be \[\*batch, 3, H, W\]"),
        ({"x": torch.zeros(2, 2)}, ValueError, r"x must be \[\*batch, 3, H, W\]"),
        ({"x": torch.zeros(4, 3, 2, 2, dtype=torch.int64)}, TypeError, "x must be"),
        ({"params": torch.zeros(4, 25, 2, 2)}, ValueError, "params must be"),
        ({"params": torch.zeros(4, 0, 2, 2)}, ValueError, "params must be"),
        ({"params": torch.zeros(20, 2)}, ValueError, "params must be"),
        ({"params": torch.zeros(4, 20, 2, 2, dtype=torch.int64)}, TypeError, "params must be"),
        ({"params": [1.0]}, TypeError, "params must be"),
        ({"reduction": "median"}, ValueError, "reduction must be"),
        ({"reduction": 3}, TypeError, "reduction must be"),
    ],
    ids=str,
)
def test_errors(change, error, message):
    good = {"x": torch.zeros(4, 3, 2, 2), "params": torch.zeros(4, 20, 2, 2)}
    assert discretized_logistic_mixture_log_prob(**good).shape == (4,)
    with pytest.raises(error, match=message):
        discretized_logistic_mixture_log_prob(**good | change)


@pytest.mark.compiled("of the kernels' memory")
@pytest.mark.cpu_kernels("of memory, with results that take minutes to emulate")
def test_memory():
    """Forward and backward hold the gradient, and little beside it: a fifth of what the published formula does."""
    x = _from_levels(_levels(8, size=(32, 32)), torch.float32)
    params = _params(8, size=(32, 32), dtype=torch.float32).requires_grad_()

    def step(function):
        function().backward()
        params.grad = None

    def ours():
        return discretized_logistic_mixture_log_prob(x, params, reduction="mean")

    step(ours)
    peak = peak_bytes(lambda: step(ours), torch.device("cpu"))
    assert peak < 1.1 * params.nbytes
    assert peak < peak_bytes(lambda: step(lambda: published_mixture(x, params).sum()), torch.device("cpu")) / 5
