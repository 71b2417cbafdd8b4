"""Half precision: gradients are finite wherever those of float32 are, and not lost for probabilities near 0 and 1."""

import itertools
import math
import random

import pytest
import torch
from cases import OPERATORS, SPREADS, runs_cuda
from torch import nn
from torch._dynamo import compiled_autograd
from torch.utils.checkpoint import checkpoint

import aevb_ext
from aevb_ext import compat
from aevb_ext._dtypes import widened
from aevb_ext.distributions import Bernoulli, DiagonalGaussian

HALVES = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
KEY = torch.tensor([1, 2])

MAGNITUDES = {
    torch.float16: [0.0, 6e-8, 1e-4, 0.3, 1.0, 12.0, 300.0, 65504.0],
    torch.bfloat16: [0.0, 1e-38, 1e-20, 0.3, 1.0, 12.0, 88.0, 1e19, 3.3e38],
}


def _bounded(t, dtype):
    """What is finite stays so: the largest number of the dtype stands for all beyond it."""
    most = torch.finfo(dtype).max
    return torch.where(t.isinf(), t, t.clamp(-most, most)).to(dtype)


def _extremes(half, names, spread):
    """Every combination of the extremes for two arguments, some for more, as columns of one row each."""
    signed = sorted({s * m for s in (-1, 1) for m in MAGNITUDES[half]})
    positive = [m for m in signed if m > 0]
    probs = [0.0, 6e-8, 1e-4, 0.5, 0.9995, 1.0]
    domain = {"probs": probs, "x": [0.0, 0.2, 1.0]}
    if spread in ("std", "var"):
        domain |= {"logvar": positive, "prior_logvar": positive}
    rows = list(itertools.product(*(domain.get(name, signed) for name in names)))
    rows = rows if len(rows) <= 4000 else random.Random(0).sample(rows, 4000)
    return {n: torch.tensor(column, dtype=half) for n, column in zip(names, zip(*rows, strict=True), strict=True)}


def _gradients(function, tensors, dtype, create_graph):
    leaves = [t.to(dtype).requires_grad_() for t in tensors.values()]
    outputs = function(**dict(zip(tensors, leaves, strict=True)))
    total = sum(o.float().sum() for o in (outputs if isinstance(outputs, tuple) else (outputs,)))
    return torch.autograd.grad(total, leaves, create_graph=create_graph)


def _cases():
    for operator in OPERATORS:
        if not operator.keys:
            for spread in SPREADS if operator.takes_spread else (None,):
                yield pytest.param(operator, spread, id=f"{operator}-{spread}")


@HALVES
@pytest.mark.parametrize(("operator", "spread"), list(_cases()))
def test_what_float32_has_and_the_dtype_has_not_is_its_largest_number(operator, spread, half, device):
    """The arithmetic is float32's, on CUDA near float32's, and its infinities and NaN are kept."""
    options = {"reduction": "none", "batch_dims": 0} if operator.reduces else {}
    options |= {"spread": operator.spreads[spread]} if spread else {}
    options |= {"key": KEY.to(device)} if operator.draws_noise else {}
    tensors = {n: t.to(device) for n, t in _extremes(half, list(operator.arguments), spread).items()}

    def function(**given):
        return getattr(aevb_ext, operator.name)(**given, **options)

    for create_graph in (False, True):
        found = _gradients(function, tensors, half, create_graph)
        exact = _gradients(function, tensors, torch.float32, create_graph)
        for name, a, b in zip(tensors, found, exact, strict=True):
            near = {"rtol": torch.finfo(half).eps, "atol": 1e-6} if runs_cuda(a) else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(
                a, _bounded(b, half), equal_nan=True, **near, msg=lambda said, n=name: f"{n}: {said}"
            )


@HALVES
@pytest.mark.parametrize("form", [(), (1,), (5,), (3, 1)], ids=str)
def test_sums_over_what_is_broadcast(form, half, device):
    """A spread's gradient is added up in float32 and then narrowed."""
    x, mu = torch.zeros(3, 5, device=device), torch.full((3, 5), 3.0, device=device, dtype=half)
    logvar = torch.full(form, -11.0, device=device, dtype=half)
    tensors = {"mu": mu, "logvar": logvar}
    for create_graph in (False, True):
        found, exact = (
            _gradients(lambda **t: aevb_ext.gaussian_log_prob(x, **t), tensors, dtype, create_graph)
            for dtype in (half, torch.float32)
        )
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a, _bounded(b, half))
    assert half == torch.bfloat16 or exact[1].max() > 65504


@pytest.mark.parametrize(("h_scale", "weight_scale"), [(1e-3, 3e4), (2e4, 1e-3)])
@pytest.mark.parametrize("head", ["bernoulli", "gaussian", "gaussian_spread"])
def test_a_linear_head(head, h_scale, weight_scale, device):
    """Products of finite numbers that are beyond float16, in the gradients of h, or of the weight and the bias."""
    torch.manual_seed(0)
    rows = 8 if head == "gaussian" else 4
    tensors = {"h": h_scale * torch.rand(6, 7), "weight": weight_scale * torch.rand(rows, 7), "bias": torch.zeros(rows)}
    if head == "gaussian":  # the second half is log sigma^2
        tensors["weight"][4:], tensors["bias"][4:] = 0, -9.0
    if head == "gaussian_spread":
        tensors["logvar"] = torch.full((4,), -9.0)
    operator = aevb_ext.linear_bernoulli_log_prob if head == "bernoulli" else aevb_ext.linear_gaussian_log_prob
    gradients = []
    for dtype in (torch.float16, torch.float32):
        leaves = {n: t.to(device).half().to(dtype).requires_grad_() for n, t in tensors.items()}
        value = 40 * operator(torch.zeros(6, 4, device=device), **leaves).sum()
        gradients.append(torch.autograd.grad(value, list(leaves.values())))
    found, exact = gradients
    assert all(g.isfinite().all() for g in (*found, *exact))
    assert max(g.abs().max() for g in exact[: 1 if h_scale < 1 else 2]) > 65504
    if head == "bernoulli":
        for a, b in zip(found, exact, strict=True):
            torch.testing.assert_close(a, _bounded(b, torch.float16), rtol=1e-2, atol=1e-2)


@HALVES
def test_what_is_not_finite_stays_so(half, device):
    """Of an infinite loss scale GradScaler must hear."""
    x, probs = torch.tensor([[0.2, 0.9]], device=device), torch.tensor([[0.3, 1.0]], device=device, dtype=half)
    for cotangent, expected in ((math.inf, [-math.inf, -math.inf]), (math.nan, [math.nan, math.nan])):
        leaf = probs.clone().requires_grad_()
        value = aevb_ext.bernoulli_log_prob_of_probs(x, leaf)
        (gradient,) = torch.autograd.grad(value, leaf, torch.full_like(value, cotangent))
        torch.testing.assert_close(gradient[0].tolist(), expected, equal_nan=True)


# The losses of sure probabilities, by the logits and the targets, in turn.


def _bce(logits, x):
    return compat.binary_cross_entropy(torch.sigmoid(logits), x, reduction="sum")


def _weighted_bce(logits, x):
    return compat.binary_cross_entropy(logits.sigmoid(), x, torch.ones_like(x), reduction="sum")


def _vae_loss(logits, x):
    zero = torch.zeros(1, 1, device=x.device)
    return compat.vae_loss(torch.sigmoid(logits).view(1, -1), x, zero, zero)


def _log_prob(logits, x):
    return -aevb_ext.bernoulli_log_prob_of_probs(x, torch.sigmoid(logits), reduction="sum", batch_dims=0)


def _of_a_view(logits, x):
    probs = torch.sigmoid(logits).unsqueeze(0).reshape(1, -1, 1).squeeze(-1)
    return -aevb_ext.bernoulli_log_prob_of_probs(x, probs).sum()


def _in_place(logits, x):
    return -aevb_ext.bernoulli_log_prob_of_probs(x, (logits + 0).sigmoid_()).sum()


def _distribution(logits, x):
    return -Bernoulli(probs=torch.sigmoid(logits)).log_prob(x).sum()


LOSSES = [_bce, _weighted_bce, _vae_loss, _log_prob, _of_a_view, _in_place, _distribution]
restored = pytest.mark.compiled(
    "only the kernels' node gives a float16 sigmoid's logits what the gradient by it has lost"
)
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__[1:])
LOGITS = [9.0, -18.0, -12.0, 12.0, 0.5, 30.0, -30.0, 7.0, -7.0]
TARGETS = [0.9, 0.2, 0.5, 0.0, 0.3, 0.0, 1.0, 1.0, 0.0]


def _sure(device="cpu"):
    logits = torch.tensor(LOGITS, device=device).requires_grad_()
    return logits, torch.tensor(TARGETS, device=device)


def _right(gradient, scale=1.0):
    """sigmoid(l) - x, to what float16 can say of the sigmoid and of the gradient."""
    logits, x = _sure(gradient.device)
    exact = scale * (logits.detach().double().sigmoid() - x.double())
    torch.testing.assert_close(gradient.double(), exact, rtol=2e-3, atol=1e-3 * scale)


@restored
@every_loss
def test_the_gradient_of_sure_probabilities_by_the_logits(loss, device):
    logits, x = _sure(device)
    value = loss(logits.half(), x)
    for retain in (True, True, False):
        (gradient,) = torch.autograd.grad(value, logits, retain_graph=retain)
        _right(gradient)
    # As a loss's own backward, twice the one that is expected after it.
    for scale in (2.0, 1024.0):
        (gradient,) = torch.autograd.grad(scale * loss(logits.half(), x), logits)
        _right(gradient, scale)


@restored
@every_loss
def test_its_derivative(loss, device):
    """p (1 - p), up to what float16 has of it."""
    logits, x = _sure(device)
    (gradient,) = torch.autograd.grad(loss(logits.half(), x), logits, create_graph=True)
    _right(gradient.detach())
    (second,) = torch.autograd.grad(gradient.sum(), logits)
    p = logits.detach().half().sigmoid().double()
    torch.testing.assert_close(second.double(), p * (1 - p), rtol=4e-3, atol=1e-3)


@restored
@every_loss
def test_machinery_of_sure_probabilities(loss):
    logits, x = _sure()
    torch._dynamo.reset()
    compiled = torch.compile(lambda logits, x: loss(logits.half(), x), fullgraph=True, backend="aot_eager")
    _right(torch.autograd.grad(compiled(logits, x), logits)[0])
    for reentrant in (False, True):
        value = checkpoint(lambda logits, x: loss(logits.half(), x), logits, x, use_reentrant=reentrant)
        value.backward()
        _right(logits.grad)
        logits.grad = None
    _right(torch.func.grad(lambda logits: loss(logits.half(), x))(logits.detach()))


@restored
def test_compiled_autograd_of_sure_probabilities():
    logits, x = _sure()
    torch._dynamo.reset()
    with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
        for loss in (_bce, _of_a_view):
            _right(torch.autograd.grad(loss(logits.half(), x), logits)[0])


@restored
def test_the_probabilities_have_a_gradient_themselves(device):
    """Bounded; and that of the logits goes beside it."""
    logits, x = _sure(device)
    probs = logits.half().sigmoid()
    value = compat.binary_cross_entropy(probs, x, reduction="sum")
    by_probs, by_logits = torch.autograd.grad(value, [probs, logits], retain_graph=True)
    (alone,) = torch.autograd.grad(value, probs, retain_graph=True)
    probs.retain_grad()
    value.backward()
    p = probs.detach().float()
    expected = _bounded((p - x) / (p * (1 - p)).clamp_min(1e-12), torch.float16)
    for gradient in (by_probs, alone, probs.grad):
        torch.testing.assert_close(gradient, expected)
    assert expected.abs().max() == 65504
    _right(by_logits)
    _right(logits.grad)


def test_who_changes_the_gradient_on_its_way_is_obeyed(device):
    logits, x = _sure(device)
    probs = logits.half().sigmoid()
    probs.register_hook(torch.zeros_like)
    compat.binary_cross_entropy(probs, x, reduction="sum").backward()
    assert (logits.grad == 0).all()


CASTS = {
    "float": lambda p: p.float(),
    "double": lambda p: p.double(),
    "there and back": lambda p: p.float().half(),
    "after a view": lambda p: p.view(1, -1).float().view(-1),
}


@restored
@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("loss", ["bce", "of_probs"])
def test_a_sigmoid_that_is_cast_before_the_loss(cast, loss, device):
    """As those write it who leave autocast for a cross entropy."""
    logits, x = _sure(device)
    half = logits.detach().half().requires_grad_()
    probs = CASTS[cast](half.sigmoid())
    if loss == "bce":
        value = compat.binary_cross_entropy(probs, x, reduction="sum")
    else:
        value = -aevb_ext.bernoulli_log_prob_of_probs(x, probs, reduction="sum", batch_dims=1)
    by_probs, by_logits = torch.autograd.grad(value, [probs, half])
    assert by_probs.isfinite().all()
    exact = half.detach().double().sigmoid() - x.double()
    torch.testing.assert_close(by_logits.double(), exact, rtol=2e-3, atol=5e-4)


@restored
def test_float64_targets_of_a_float16_sigmoid(device):
    logits, x = _sure(device)
    half = logits.detach().half().requires_grad_()
    compat.binary_cross_entropy(half.sigmoid(), x.double(), reduction="sum").backward()
    exact = half.detach().double().sigmoid() - x.double()
    torch.testing.assert_close(half.grad.double(), exact, rtol=2e-3, atol=5e-4)


@pytest.mark.parametrize("between", [lambda p: p * 1, lambda p: p.flip(0).flip(0)])
def test_a_hidden_sigmoid_leaves_it_finite(between, device):
    logits, x = _sure(device)
    compat.binary_cross_entropy(between(logits.half().sigmoid()), x, reduction="sum").backward()
    assert logits.grad.isfinite().all()


def test_sure_probabilities_of_other_dtypes_are_as_they_were(device):
    """The gradient is the probabilities' times p (1 - p), as PyTorch has it."""
    logits, x = _sure(device)
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        probs = logits.detach().to(dtype).sigmoid().requires_grad_()
        (by_probs,) = torch.autograd.grad(compat.binary_cross_entropy(probs, x, reduction="sum"), probs)
        leaf = logits.detach().to(dtype).requires_grad_()
        (gradient,) = torch.autograd.grad(compat.binary_cross_entropy(leaf.sigmoid(), x, reduction="sum"), leaf)
        assert torch.equal(gradient, torch.ops.aten.sigmoid_backward(by_probs, probs.detach()))


@restored
def test_a_loss_scale_that_is_too_large_is_bounded(device):
    """As the gradient by any logits is: GradScaler sees it in the sums of such, which are those of the weights."""
    logits = torch.tensor([-20.0, 0.0], device=device).half().requires_grad_()
    (2.0**17 * compat.binary_cross_entropy(logits.sigmoid(), torch.ones(2, device=device), reduction="sum")).backward()
    assert logits.grad[0].item() == -65504


@restored
@pytest.mark.parametrize("loss", ["bce", "vae_loss"])
def test_training_with_saturated_pixels_moves(loss, device):
    """Under float16 autocast with GradScaler: no step is skipped for them, and they come back."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 784, device=device)
    with torch.no_grad():
        layer.bias[:100] = 40.0
        layer.bias[100:120] = -40.0
    h, x = torch.randn(64, 4, device=device), torch.full((64, 784), 0.3, device=device)
    zero = torch.zeros(64, 1, device=device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1e-3)
    scaler = torch.amp.GradScaler(device.type, init_scale=1024.0)
    before = layer.bias.detach().clone()
    for _ in range(4):
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype=torch.float16):
            probs = torch.sigmoid(layer(h))
            assert probs.dtype == torch.float16 and (probs == 1).any() and (probs == 0).any()
            value = (
                compat.binary_cross_entropy(probs, x, reduction="sum")
                if loss == "bce"
                else compat.vae_loss(probs, x, zero, zero)
            )
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 1024.0
    moved = (layer.bias.detach() - before).double()
    # The sum over 64 rows of (0.3 - sigmoid), in each of four steps.
    torch.testing.assert_close(moved[:100], torch.full_like(moved[:100], -0.7 * 64 * 4e-3), rtol=1e-2, atol=0)
    torch.testing.assert_close(moved[100:120], torch.full_like(moved[100:120], 0.3 * 64 * 4e-3), rtol=1e-2, atol=0)


def _value_and_gradients(function, dtype, create_graph, *numbers):
    leaves = [torch.tensor([float(n)], dtype=dtype, requires_grad=True) for n in numbers]
    value = function(*leaves)
    return value.item(), [g.item() for g in torch.autograd.grad(value.sum(), leaves, create_graph=create_graph)]


@pytest.mark.parametrize("create_graph", [False, True])
def test_no_step_on_the_way_to_a_gradient_overflows(create_graph):
    """In float32: the value is a number, and so is what it is differentiated to."""

    def check(function, *numbers):
        value, found = _value_and_gradients(function, torch.float32, create_graph, *numbers)
        exact_value, exact = _value_and_gradients(function, torch.float64, create_graph, *numbers)
        assert math.isfinite(value) and value == pytest.approx(exact_value, rel=1e-5)
        assert found == [pytest.approx(e, rel=1e-5, abs=1e-30) for e in exact]

    def gaussian(spread):
        return lambda x, mu, s: aevb_ext.gaussian_log_prob(x, mu, s, spread=spread, batch_dims=0)

    def kl(spread):
        return lambda *tensors: aevb_ext.gaussian_kl(*tensors, spread=spread, batch_dims=0)

    check(gaussian("logvar"), 0.0, 1e-20, -120.0)
    check(gaussian("logvar"), 0.5, 0.5, -200.0)  # 1 / sigma is beyond float32, and times 0
    check(kl("logvar"), 0.25, -200.0, 0.25, -200.0)
    check(kl("std"), 1.0, 4e-39)  # as 2 / s is
    check(kl("var"), 1.0, 2e-39)
    if not create_graph:  # where (x - mu) / sigma comes by way of a logarithm, and is not quite 1
        check(gaussian("var"), 2.0**-66, 0.0, 2.0**-132)  # (t^2 - 1) / s, where 1 / s is beyond float32
        check(gaussian("var"), 2.0**-66 * (1 + 2.0**-20), 0.0, 2.0**-132)


def test_a_flat_sigmoid_before_a_steep_gaussian():
    """The gradient by the mean is beyond float32, the slope of the sigmoid brings it back."""
    found = []
    for dtype in (torch.float32, torch.float64):
        h = torch.full((1, 1), -80.0, dtype=dtype, requires_grad=True)
        x, weight, logvar = (torch.tensor(v, dtype=dtype) for v in ([[1e-3]], [[1.0]], -101.0))
        value = aevb_ext.linear_gaussian_log_prob(x, h, weight, logvar=logvar, sigmoid=True)
        assert value.isfinite()
        found.append(torch.autograd.grad(value.sum(), h)[0].item())
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_the_gradient_by_data_is_that_of_the_value(device):
    """No logarithm is less than -100 in the value, nor in its derivative by x."""
    for create_graph in (False, True):
        x = torch.tensor([0.3, 0.3, 0.3], device=device).requires_grad_()
        probs = torch.tensor([0.0, 1.0, 0.5], device=device)
        value = aevb_ext.bernoulli_log_prob_of_probs(x, probs)
        (gradient,) = torch.autograd.grad(value.sum(), x, create_graph=create_graph)
        assert gradient[:2].tolist() == [-100.0, 100.0] and abs(gradient[2].item()) < 1e-6


def _one_of_two_dtypes(device):
    """Calls of a half-precision tensor beside a wider one, whose gradient by it is beyond float16."""
    mu, logvar = torch.full((3,), 2.0, device=device), torch.full((3,), -30.0, device=device)
    x, wide = torch.zeros_like(mu), torch.float64
    with_autocast = torch.autocast(device.type, torch.float16)
    yield "autocast", mu, with_autocast(lambda t: aevb_ext.gaussian_log_prob(x, t, logvar))
    yield "autocast, KL", mu, with_autocast(lambda t: aevb_ext.gaussian_kl(t, logvar, x, logvar))
    yield "gaussian_nll_loss", mu, lambda t: compat.gaussian_nll_loss(t, x.to(wide), (logvar + 10).exp(), eps=0.0)
    yield "binary_cross_entropy", 0 * mu, lambda t: compat.binary_cross_entropy(t, 1 + x.to(wide))
    yield "distributions", mu, lambda t: DiagonalGaussian(t, logvar).log_prob(x)


def test_what_is_widened_first(device):
    """A tensor in another dtype than the others, which is given to the operator in a wider one."""
    for name, t, function in _one_of_two_dtypes(device):
        leaf = t.half().requires_grad_()
        (gradient,) = torch.autograd.grad(function(leaf).sum(), leaf)
        wide = t.double().requires_grad_()
        (exact,) = torch.autograd.grad(function(wide).sum(), wide)
        assert exact.abs().min() > 65504, name
        assert torch.equal(gradient, _bounded(exact, torch.float16)), name


def test_widening_keeps_infinite_cotangents(device):
    """Which GradScaler must see."""
    leaf = torch.ones(2, dtype=torch.float16, device=device, requires_grad=True)
    wide = widened(leaf, torch.float32)
    (gradient,) = torch.autograd.grad(wide, leaf, torch.tensor([1e6, math.inf], device=device))
    assert gradient.tolist() == [65504, math.inf]
