"""The categorical log-likelihood against its definition in float64, for classes few and many, however logits lie."""

import pytest
import torch
import torch.nn.functional as F
from cases import DTYPES

from aevb_ext import categorical_log_prob, reference
from aevb_ext._library import ops
from benchmarks.memory import peak_bytes

REDUCTIONS = ("sample", "none", "sum", "mean")
# How the logits [B, *event, C] lie in memory.
LAYOUTS = {
    "contiguous": lambda t: t,
    "classes_second": lambda t: t.movedim(-1, 1).contiguous().movedim(1, -1),
    "classes_first": lambda t: t.movedim(-1, 0).contiguous().movedim(0, -1),
    "half": lambda t: torch.cat([torch.full_like(t, torch.nan), t], -1).chunk(2, -1)[1],
    "every_other": lambda t: torch.stack([t, torch.full_like(t, torch.nan)], -1).flatten(-2)[..., ::2],
    "every_other_position": lambda t: torch.stack([t, torch.full_like(t, torch.nan)], -2).flatten(-3, -2)[..., ::2, :],
}
CLASSES = (1, 2, 3, 10, 17, 64, 100, 256, 1000)
EVENTS = ((), (3,), (5, 4), (301,))


def _logits(*shape, dtype=torch.float64, spread=3.0):
    return (spread * torch.randn(shape, dtype=torch.float64)).to(dtype)


def _weights(values):
    return torch.linspace(1, 2, values.numel(), dtype=values.dtype, device=values.device).reshape(values.shape)


def _value_and_gradient(function, x, logits, **options):
    logits = logits.detach().requires_grad_()
    values = function(x, logits, **options)
    return values, torch.autograd.grad((values * _weights(values)).sum(), logits)[0]


def _assert_right(x, logits, **options):
    """Within 8 ulp of the arithmetic of the largest term, and the gradient within an ulp of its dtype more."""
    values, gradient = _value_and_gradient(categorical_log_prob, x, logits, **options)
    exact, exact_gradient = _value_and_gradient(reference.categorical_log_prob, x, logits.double(), **options)
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    eps = torch.finfo(wide).eps
    assert values.dtype == wide and gradient.dtype == logits.dtype
    torch.testing.assert_close(values.double(), exact, rtol=8 * eps, atol=8 * eps)
    # 1 - softmax where that is near 1: an error of an ulp of 1.
    rounding = 0 if logits.dtype == wide else torch.finfo(logits.dtype).eps
    torch.testing.assert_close(gradient.double(), exact_gradient, rtol=rounding + 16 * eps, atol=16 * eps + rounding**2)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("event", EVENTS, ids=str)
@pytest.mark.parametrize("classes", CLASSES)
def test_values_and_gradients(classes, event, dtype, device):
    x = torch.randint(classes, (4, *event), device=device)
    _assert_right(x, _logits(4, *event, classes, dtype=dtype).to(device))


@pytest.mark.compiled("where gradients lie")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("classes", [2, 10, 70, 1000])
def test_layouts(classes, layout, dtype, device):
    """A view is read in place, and its gradient lies as torch's own elementwise operators would lay it out."""
    logits = LAYOUTS[layout](_logits(3, 5, 6, classes, dtype=dtype).to(device))
    x = torch.randint(classes, (3, 5, 6), device=device)
    _assert_right(x, logits)
    _, gradient = _value_and_gradient(categorical_log_prob, x, logits)
    assert gradient.stride() == (2 * logits).stride()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("samples", [(), (3,), (2, 2)], ids=str)
def test_samples_and_reductions(samples, reduction, device):
    x = torch.randint(10, (4, 2, 5), device=device)
    logits = _logits(*samples, 4, 2, 5, 10, dtype=torch.float32).to(device)
    for batch_dims in (0, 1, 2, 3):
        _assert_right(x, logits, reduction=reduction, batch_dims=batch_dims)


@pytest.mark.parametrize(
    "dtype", [torch.uint8, torch.int16, torch.int32, torch.int64, *DTYPES], ids=lambda dtype: str(dtype)
)
def test_dtypes_of_classes(dtype, device):
    x = torch.randint(200, (6, 7), device=device)
    logits = _logits(6, 7, 200, dtype=torch.float32).to(device)
    assert torch.equal(categorical_log_prob(x.to(dtype), logits), categorical_log_prob(x, logits))
    assert categorical_log_prob(x[:, :1].expand(6, 7).bool(), logits).shape == (6,)


@pytest.mark.cpu_kernels("of so many classes, that take minutes to emulate")
@pytest.mark.parametrize("layout", ["contiguous", "classes_first"])
@pytest.mark.parametrize("classes", [8191, 8192, 8193, 100_003])
def test_many_classes(classes, layout):
    """Their sum is streamed in several pieces."""
    logits = LAYOUTS[layout](_logits(3, classes, dtype=torch.float32))
    logits[0, 5] = 40  # the largest in the first piece,
    logits[1, -1] = 60  # or in the last
    _assert_right(torch.tensor([5, 0, classes - 1]), logits)
    _assert_right(torch.tensor([5, 0, classes - 1]), logits.bfloat16())


def test_is_torchs(device):
    logits = _logits(8, 3, 20, dtype=torch.float32).to(device)
    x = torch.randint(20, (8, 3), device=device)
    ours = categorical_log_prob(x, logits, reduction="none")
    torch.testing.assert_close(ours, -F.cross_entropy(logits.movedim(-1, 1), x, reduction="none"))
    torch.testing.assert_close(ours, torch.distributions.Categorical(logits=logits).log_prob(x))
    assert categorical_log_prob(x, logits, reduction="mean").isclose(ours.sum(1).mean())


def test_probabilities_sum_to_one(device):
    logits = _logits(5, 1, 30).to(device)
    every = categorical_log_prob(
        torch.arange(30, device=device).expand(5, 30), logits.expand(5, 30, 30), reduction="none"
    )
    torch.testing.assert_close(
        every.exp().sum(1), torch.ones(5, dtype=torch.float64, device=device), rtol=1e-14, atol=0
    )


@pytest.mark.parametrize("classes", [5, 300])
class TestExtremes:
    def test_minus_infinity_is_a_class_that_does_not_occur(self, classes, device):
        logits = _logits(3, classes, dtype=torch.float32).to(device)
        logits[0, 1:] = -torch.inf  # but for one
        logits[1, 2] = -torch.inf  # the one that is asked for
        values, gradient = _value_and_gradient(categorical_log_prob, torch.tensor([0, 2, 2], device=device), logits)
        assert values[0] == 0 and values[1] == -torch.inf and values[2].isfinite()
        assert gradient.isfinite().all()
        assert not gradient[0].any()
        torch.testing.assert_close(gradient[1:].sum(1), torch.zeros(2, device=device), rtol=0, atol=1e-6)

    def test_nothing_but_minus_infinity_is_no_distribution(self, classes, device):
        logits = torch.full((1, classes), -torch.inf, device=device)
        assert categorical_log_prob(torch.tensor([0], device=device), logits).isnan()

    @pytest.mark.parametrize("size", [1e4, 1e30, 3e38])
    def test_large_logits(self, classes, size, device):
        logits = _logits(4, classes, dtype=torch.float32).sign().mul(size).to(device)
        x = torch.tensor([0, 1, 2, 3], device=device)
        logits[:, 0], logits[:, 1] = size, -size
        values, gradient = _value_and_gradient(categorical_log_prob, x, logits)
        exact, exact_gradient = _value_and_gradient(reference.categorical_log_prob, x, logits.double())
        torch.testing.assert_close(values, exact.float())  # which is -infinity beyond float32
        torch.testing.assert_close(gradient, exact_gradient.float())

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
    def test_nan_stays_in_its_row(self, classes, dtype, device):
        logits = _logits(4, 3, classes, dtype=dtype).to(device)
        logits[2, 1, 3] = torch.nan
        x = torch.zeros(4, 3, dtype=torch.int64, device=device)
        values, gradient = _value_and_gradient(categorical_log_prob, x, logits, reduction="none")
        of_nan = torch.zeros(4, 3, dtype=torch.bool, device=device)
        of_nan[2, 1] = True
        assert torch.equal(values.isnan(), of_nan)
        assert torch.equal(gradient.isnan().any(-1), of_nan)

    @pytest.mark.parametrize("none", [-1, "classes", 2**40, -(2**62)])
    def test_what_is_no_class_gives_nan(self, classes, none, device):
        logits = _logits(4, classes, dtype=torch.float32).to(device)
        x = torch.zeros(4, dtype=torch.int64, device=device)
        x[1] = classes if none == "classes" else none
        for given in (x, x.double()):
            values, gradient = _value_and_gradient(categorical_log_prob, given, logits)
            assert values.isnan().tolist() == [False, True, False, False]
            assert gradient.isnan().all(1).tolist() == [False, True, False, False]
            assert gradient.isnan().any(1).tolist() == [False, True, False, False]
            assert reference.categorical_log_prob(given, logits).isnan().tolist() == [False, True, False, False]

    @pytest.mark.parametrize("none", [0.5, -1.0, torch.nan, torch.inf])
    def test_a_fraction_is_no_class(self, classes, none, device):
        x = torch.tensor([1.0, none], device=device)
        logits = _logits(2, classes, dtype=torch.float32).to(device)
        assert categorical_log_prob(x, logits).isnan().tolist() == [False, True]
        assert reference.categorical_log_prob(x, logits).isnan().tolist() == [False, True]

    def test_a_gradient_beyond_float16_is_its_largest_number(self, classes, device):
        logits = torch.zeros(1, classes, dtype=torch.float16, device=device, requires_grad=True)
        (1e6 * categorical_log_prob(torch.tensor([0], device=device), logits)).sum().backward()
        assert logits.grad[0, 0] == 65504 and logits.grad.isfinite().all()


@pytest.mark.parametrize("classes", [3, 256])
def test_bits_do_not_depend_on_threads_or_the_batch(classes):
    logits = _logits(33, 700, classes, dtype=torch.float32)
    x = torch.randint(classes, (33, 700))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = _value_and_gradient(categorical_log_prob, x, logits)
        torch.set_num_threads(4)
        together = _value_and_gradient(categorical_log_prob, x, logits)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone[0], together[0]) and torch.equal(alone[1], together[1])
    assert torch.equal(categorical_log_prob(x[5:6], logits[5:6]), alone[0][5:6])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("classes", [3, 40])
def test_derivatives(classes, reduction, device):
    x = torch.randint(classes, (2, 3), device=device)
    logits = _logits(2, 3, classes).to(device).requires_grad_()

    def function(logits):
        return categorical_log_prob(x, logits, reduction=reduction)

    assert torch.autograd.gradcheck(function, logits)
    assert torch.autograd.gradgradcheck(function, logits)


def test_a_floating_x_has_no_gradient(device):
    x = torch.ones(2, 3, device=device, requires_grad=True)
    logits = torch.zeros(2, 3, 4, device=device, requires_grad=True)
    categorical_log_prob(x, logits).sum().backward()
    assert x.grad is None and logits.grad.any()


def test_func_transforms(device):
    x, logits = torch.randint(7, (4, 3), device=device), _logits(4, 3, 7).to(device)
    _, whole = _value_and_gradient(lambda x, t: categorical_log_prob(x, t, reduction="sum"), x, logits)
    per_point = torch.func.vmap(torch.func.grad(lambda t, x: categorical_log_prob(x, t, batch_dims=0)))(logits, x)
    torch.testing.assert_close(per_point, whole)
    shared = torch.func.vmap(lambda t: categorical_log_prob(x, t, reduction="mean"), in_dims=3)(
        torch.stack([logits, 2 * logits], 3)
    )
    torch.testing.assert_close(shared[1], categorical_log_prob(x, 2 * logits, reduction="mean"))
    of_data = torch.func.vmap(lambda x: categorical_log_prob(x, logits[:2, 0]))(x[:, :2])
    expected = torch.stack([categorical_log_prob(row, logits[:2, 0]) for row in x[:, :2]])
    torch.testing.assert_close(of_data, expected)


@pytest.mark.compiled("operators")
def test_opcheck(device):
    for dtype, reduction in ((torch.float32, "mean"), (torch.bfloat16, "none"), (torch.float64, "sample")):
        x, logits = torch.randint(9, (4, 3), device=device), _logits(4, 3, 9, dtype=dtype).to(device)
        cotangent = torch.ones_like(categorical_log_prob(x, logits, reduction=reduction))
        given = logits.detach().requires_grad_()
        torch.library.opcheck(ops.categorical_log_prob.default, (x, given, reduction, 1))
        torch.library.opcheck(ops.categorical_log_prob_backward.default, (cotangent, x, logits, reduction, 1))


def test_in_a_compiled_graph(device, fresh_compiler):
    x, logits = torch.randint(9, (4, 3), device=device), _logits(4, 3, 9, dtype=torch.float32).to(device)
    compiled = torch.compile(categorical_log_prob, fullgraph=True, backend="aot_eager")
    for _ in range(3):  # the gradient is guessed from the second time on
        found = _value_and_gradient(compiled, x, logits, reduction="mean")
        expected = _value_and_gradient(categorical_log_prob, x, logits, reduction="mean")
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])


@pytest.mark.compiled("operators")
def test_a_guessed_gradient_has_the_bits_of_one_that_is_not(device):
    x, logits = torch.randint(9, (40, 3), device=device), _logits(40, 3, 9, dtype=torch.float32).to(device)
    cotangent = torch.tensor(1.0, device=device)
    expected = ops.categorical_log_prob_backward(cotangent, x, logits, "mean", 1)
    for _ in range(3):
        given = logits.detach().requires_grad_()
        categorical_log_prob(x, given, reduction="mean").backward()
        assert torch.equal(given.grad, expected)


def test_nothing_of_nothing(device):
    logits = torch.zeros(0, 3, 5, device=device, requires_grad=True)
    values = categorical_log_prob(torch.zeros(0, 3, dtype=torch.int64, device=device), logits)
    values.sum().backward()
    assert values.shape == (0,) and logits.grad.shape == (0, 3, 5)
    empty_event = categorical_log_prob(
        torch.zeros(2, 0, dtype=torch.int64, device=device), torch.zeros(2, 0, 5, device=device)
    )
    assert empty_event.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": torch.zeros(4, 2, dtype=torch.int64)}, ValueError, r"x has shape \[4, 2\]"),
        ({"x": torch.zeros(4, 3, dtype=torch.complex64)}, TypeError, "x must be"),
        ({"x": torch.zeros(4, 3, dtype=torch.int8)}, TypeError, "x must be"),
        ({"logits": torch.zeros(4, 3, 5, dtype=torch.int64)}, TypeError, "logits must be"),
        ({"logits": torch.zeros(())}, ValueError, "logits must be"),
        ({"logits": torch.zeros(4, 3, 0)}, ValueError, "at least one class"),
        ({"reduction": "median"}, ValueError, "reduction must be"),
        ({"batch_dims": 3}, ValueError, "batch_dims must be"),
        ({"x": torch.full((4, 3), 5), "validate_args": True}, ValueError, "x must have integers from 0 to 4"),
        ({"x": torch.full((4, 3), -1), "validate_args": True}, ValueError, "x must have integers from 0 to 4"),
        ({"x": torch.full((4, 3), 0.5), "validate_args": True}, ValueError, "x must have integers from 0 to 4"),
    ],
    ids=str,
)
def test_errors(change, error, message):
    good = {"x": torch.zeros(4, 3, dtype=torch.int64), "logits": torch.zeros(4, 3, 5)}
    assert categorical_log_prob(**good, validate_args=True).shape == (4,)
    with pytest.raises(error, match=message):
        categorical_log_prob(**good | change)


@pytest.mark.compiled("of the kernels' memory")
@pytest.mark.cpu_kernels("of memory, with results that take minutes to emulate")
def test_memory():
    """Forward and backward hold the gradient, and little beside it."""
    x, logits = torch.randint(256, (64, 256)), torch.randn(64, 256, 256, requires_grad=True)

    def step():
        categorical_log_prob(x, logits, reduction="mean").backward()
        logits.grad = None

    step()
    assert peak_bytes(step, torch.device("cpu")) < 1.1 * logits.nbytes
