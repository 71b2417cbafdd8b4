"""The layer of the networks is nn.Linear, to rounding, in everything that PyTorch can do with one."""

import pytest
import torch
from torch import nn

from aevb_ext._library import ops
from aevb_ext.nn import Linear
from benchmarks.memory import peak_bytes

EPS = torch.finfo(torch.float32).eps
# [*, in], out: of several tiles and of less than one, a vector, samples in front, nothing at all.
SHAPES = [((100, 784), 500), ((7, 3), 5), ((1, 1), 1), ((3,), 4), ((2, 5, 20), 33), ((0, 6), 4), ((3, 0, 6), 4)]


def layers(n_in, n_out, tanh, bias=True, dtype=torch.float32):
    torch.manual_seed(n_in + n_out)
    ours = Linear(n_in, n_out, bias, tanh=tanh, dtype=dtype)
    plain = nn.Linear(n_in, n_out, bias, dtype=torch.float64)
    plain.load_state_dict(ours.state_dict())
    return ours, nn.Sequential(plain, nn.Tanh()) if tanh else plain


def run(layer, x, cotangent):
    """The layer's output, and the gradients of x, weight and bias."""
    x = x.detach().to(next(layer.parameters()).dtype).requires_grad_()
    y = layer(x)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], cotangent.to(y.dtype))]


def assert_rounded(actual, exact, scale, terms):
    """A sum of n products in float32 is off by at most (n + 1) eps times the sum of their magnitudes."""
    assert actual.shape == exact.shape
    assert ((actual.double() - exact).abs() <= (terms + 8) * EPS * scale + 1e-30).all()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize(("shape", "n_out"), SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every other"])
def test_values_and_gradients(shape, n_out, tanh, bias, layout):
    ours, exact = layers(shape[-1], n_out, tanh, bias)
    x, cotangent = torch.randn(shape), torch.randn(*shape[:-1], n_out)
    if layout == "transposed" and x.dim() > 1:
        x, cotangent = (t.mT.contiguous().mT for t in (x, cotangent))
    elif layout == "every other":
        x, cotangent = (t.repeat_interleave(2, -1)[..., ::2] for t in (x, cotangent))
    y, dx, dweight, *dbias = run(ours, x, cotangent)
    exact_y, exact_dx, exact_dweight, *exact_dbias = run(exact, x, cotangent)
    weight, n_in = ours.weight.detach().double().abs(), shape[-1]
    rows_x, rows_g = x.double().abs().reshape(-1, n_in), cotangent.double().abs().reshape(-1, n_out)
    # The slope of tanh is at most 1, and that of its derivative too: it passes on the error of its argument.
    inner = n_in if tanh else 0
    size = 1 + (rows_x @ weight.T).max().item() if rows_x.numel() else 1.0
    extra = size if tanh else 1.0
    assert_rounded(y, exact_y, (rows_x @ weight.T + 1).reshape(y.shape), n_in)
    assert_rounded(dx, exact_dx, extra * (rows_g @ weight).reshape(x.shape), n_out + inner)
    assert_rounded(dweight, exact_dweight, extra * rows_g.T @ rows_x, len(rows_x) + inner)
    if bias:
        assert_rounded(dbias[0], exact_dbias[0], extra * rows_g.sum(0), len(rows_x) + inner)


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("shape", [(16, 2), (600, 784)], ids=str)
def test_numbers_that_lie_apart(shape, tanh):
    """Of a weight and a bias with NaN in the gaps nothing but their own numbers is read."""
    ours = layers(shape[-1], 8, tanh)[0]
    x = torch.randn(shape)
    expected = ours(x)
    for parameter in ours.parameters():
        apart = torch.full((*parameter.shape, 2), float("nan"))
        apart[..., 0] = parameter.detach()
        parameter.data = apart[..., 0]
    torch.testing.assert_close(ours(x), expected)


def test_tanh_is_exact_to_a_few_ulp():
    """Of all magnitudes, in vectors and in what is left of a row: 3 ulp, and the values that are exact, exactly."""
    exact = torch.tensor([0.5, 0.0, float("inf"), -float("inf"), 30.0, -30.0, 1e-40, -1e-40, float("nan")])
    x = torch.cat([torch.logspace(-12, 1.2, 30_000), -torch.logspace(-12, 1.2, 30_000), exact])
    zero = torch.zeros(1, len(x))
    for columns in (len(x), 3):
        rows = x.reshape(-1, columns)
        # A layer of no inputs is its bias.
        y = torch.cat([ops.linear(torch.ones(1, 1), zero[:, :columns].T, row, True) for row in rows[-500:]], 1)[0]
        true = x[-y.numel() :].double().tanh()
        spacing = torch.nextafter(true.float().abs(), torch.tensor(9.0)) - true.float().abs()
        finite = ~true.isnan()
        assert ((y.double() - true).abs() <= 3 * spacing)[finite].all()
        assert y[-1].isnan() and torch.equal(y[-8:-1], true.float()[-8:-1])


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("rows", [1, 64, 65, 70_001])
def test_the_bias_gradient_of_many_rows(rows, tanh):
    """As exact as that of few: a sum of 64 rows at a time is off by at most (64 + rows / 64) eps of the magnitudes."""
    generator = torch.Generator().manual_seed(rows)
    cotangent = torch.rand(rows, 37, generator=generator)
    y = torch.rand(rows, 37, generator=generator) if tanh else None
    x, weight = torch.ones(rows, 1), torch.zeros(37, 1)
    _, dweight, dbias = ops.linear_backward(cotangent, x, weight, y, [False, True, True])
    exact = cotangent.double() * (1 - y.double().square() if tanh else 1)
    assert ((dbias.double() - exact.sum(0)).abs() <= (70 + rows / 64) * EPS * exact.abs().sum(0)).all()
    torch.testing.assert_close(dweight[:, 0].double(), exact.sum(0), rtol=1e-4, atol=0)
    # With threads or without.
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert torch.equal(ops.linear_backward(cotangent, x, weight, y, [False, False, True])[2], dbias)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("wanted", [[False, False, True], [True, False, False], [False, True, False], [False] * 3])
@pytest.mark.parametrize("tanh", [False, True])
def test_only_what_is_wanted(tanh, wanted):
    cotangent, x, weight, y = torch.randn(6, 5), torch.randn(6, 4), torch.randn(5, 4), torch.rand(6, 5)
    every = ops.linear_backward(cotangent, x, weight, y if tanh else None, [True] * 3)
    some = ops.linear_backward(cotangent, x, weight, y if tanh else None, wanted)
    for want, a, b in zip(wanted, some, every, strict=True):
        assert torch.equal(a, b) if want else a is None or not a.numel()


@pytest.mark.parametrize("tanh", [False, True])
def test_derivatives_of_derivatives(tanh):
    x, weight, bias = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 4), (5, 4), (5,)))

    def layer(x, weight, bias):
        return ops.linear(x, weight, bias, tanh)

    assert torch.autograd.gradcheck(layer, (x, weight, bias))
    assert torch.autograd.gradgradcheck(layer, (x, weight, bias))


@pytest.mark.parametrize("tanh", [False, True])
def test_opcheck(tanh):
    x, weight, bias = (torch.randn(s, requires_grad=True) for s in ((6, 4), (5, 4), (5,)))
    torch.library.opcheck(ops.linear.default, (x, weight, bias, tanh))
    y = ops.linear(x, weight, bias, tanh).detach() if tanh else None
    arguments = (torch.randn(6, 5), x.detach(), weight.detach(), y, [True, False, True])
    torch.library.opcheck(ops.linear_backward.default, arguments, test_utils=("test_schema", "test_faketensor"))


# Rows of less than one block, and of several.
BYTES = [((7, 3), 5), ((3,), 4), ((2, 5, 20), 33), ((0, 6), 4), ((2001, 784), 20)]


def data(shape, dtype):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2 if dtype == torch.bool else 256, shape, generator=generator).to(dtype)


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool])
@pytest.mark.parametrize(("shape", "n_out"), BYTES, ids=str)
def test_bytes(shape, n_out, dtype, tanh):
    ours, exact = layers(shape[-1], n_out, tanh)
    x, x_scale, cotangent = (
        data(shape, dtype),
        1 / 255 if dtype == torch.uint8 else 1.0,
        torch.randn(*shape[:-1], n_out),
    )
    y = ours(x, x_scale)
    gradients = torch.autograd.grad(y, list(ours.parameters()), cotangent)
    exact_y, _, *exact_gradients = run(exact, x.double() * x_scale, cotangent)
    weight, n_in = ours.weight.detach().double().abs(), shape[-1]
    rows_x, rows_g = (x.double() * x_scale).reshape(-1, n_in), cotangent.double().abs().reshape(-1, n_out)
    inner = n_in if tanh else 0
    extra = 1 + (rows_x @ weight.T).max().item() if tanh and rows_x.numel() else 1.0
    assert_rounded(y, exact_y, (rows_x @ weight.T + 1).reshape(y.shape), n_in)
    assert_rounded(gradients[0], exact_gradients[0], extra * rows_g.T @ rows_x, len(rows_x) + inner)
    assert_rounded(gradients[1], exact_gradients[1], extra * rows_g.sum(0), len(rows_x) + inner)


@pytest.mark.parametrize("shape", [(100, 784), (7, 3), (3,), (2, 5, 20), (667, 784)], ids=str)
def test_few_bytes_are_converted_once(shape):
    """To the bits of a layer of floats, and kept for the backward, whatever becomes of the bytes."""
    ours, _ = layers(shape[-1], 9, True)
    x, cotangent = data(shape, torch.uint8), torch.randn(*shape[:-1], 9)
    of_floats = ours(x.float() * torch.tensor(1 / 255))
    of_bytes = ours(x, 1 / 255)
    expected = torch.autograd.grad(of_floats, list(ours.parameters()), cotangent)
    x.zero_()
    found = torch.autograd.grad(of_bytes, list(ours.parameters()), cotangent)
    assert torch.equal(of_bytes, of_floats) and all(map(torch.equal, found, expected))
    every_other = data((2 * 9, 3), torch.uint8)[::2]
    assert torch.equal(layers(3, 4, True)[0](every_other, 0.5), layers(3, 4, True)[0](every_other * 0.5))


def test_bytes_in_pytorch():
    """Derivatives of derivatives, torch.func, torch.compile, opcheck and autocast."""
    ours, _ = layers(20, 5, True)
    x = data((6, 20), torch.uint8)
    floats, parameters = x * (1 / 255), dict(ours.named_parameters())

    def loss(parameters, *x):
        return torch.func.functional_call(ours, parameters, x).square().sum()

    def penalty(*x):
        gradients = torch.autograd.grad(loss(parameters, *x), list(parameters.values()), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in gradients), list(parameters.values()))

    torch.testing.assert_close(penalty(x, 1 / 255), penalty(floats))
    per_point = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, None))
    torch.testing.assert_close(per_point(parameters, x, 1 / 255), per_point(parameters, floats, 1.0))
    compiled = torch.compile(ours, fullgraph=True)
    torch.testing.assert_close(compiled(x, 1 / 255), ours(x, 1 / 255))
    weight, bias = (p.detach().clone().requires_grad_() for p in parameters.values())
    torch.library.opcheck(ops.linear.default, (x, weight, bias, True, 1 / 255))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x, 1 / 255), ours(x.bfloat16() * (1 / 255)))


def test_bytes_are_never_all_there_in_floats():
    ours, _ = layers(784, 4, True)
    rows = 20_000
    x = data((rows, 784), torch.uint8)
    peak = peak_bytes(lambda: ours(x, 1 / 255).sum().backward(), torch.device("cpu"))
    assert peak < rows * 784 * 4 / 4


@pytest.mark.parametrize("tanh", [False, True])
def test_torch_func(tanh):
    ours, exact = layers(4, 5, tanh)
    x = torch.randn(6, 4)

    def derivatives(layer, dtype):
        parameters = {name: p.detach() for name, p in layer.named_parameters()}

        def loss(parameters, x):
            return torch.func.functional_call(layer, parameters, (x,)).square().sum()

        of_each_point = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x.to(dtype))
        ensemble = {name: torch.stack([p, 2 * p]) for name, p in parameters.items()}
        losses = torch.func.vmap(loss, in_dims=(0, None))(ensemble, x.to(dtype))
        return [*of_each_point.values(), torch.func.jacrev(layer)(x.to(dtype)), losses]

    for a, b in zip(derivatives(ours, torch.float32), derivatives(exact, torch.float64), strict=True):
        torch.testing.assert_close(a, b.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tanh", [False, True])
def test_compiled(tanh):
    ours, _ = layers(20, 30, tanh)
    x, cotangent = torch.randn(50, 20), torch.randn(50, 30)
    for eager, compiled in zip(
        run(ours, x, cotangent), run(torch.compile(ours, fullgraph=True), x, cotangent), strict=True
    ):
        torch.testing.assert_close(compiled, eager)


@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes_are_nn_linear(dtype, tanh):
    ours, _ = layers(20, 30, tanh, dtype=dtype)
    x = torch.randn(50, 20, dtype=dtype)
    expected = nn.functional.linear(x, ours.weight, ours.bias)
    assert torch.equal(ours(x), expected.tanh() if tanh else expected)


def test_autocast_is_nn_linear():
    ours, _ = layers(20, 30, False)
    x = torch.randn(50, 20)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = ours(x), nn.functional.linear(x, ours.weight, ours.bias)
    assert y.dtype == torch.bfloat16 and torch.equal(y, expected)


def test_the_initial_parameters_are_those_of_nn_linear():
    parameters = []
    for layer in (Linear, nn.Linear):
        torch.manual_seed(3)
        parameters.append(layer(6, 4).state_dict())
    assert list(parameters[0]) == list(parameters[1])
    assert all(torch.equal(a, b) for a, b in zip(*(p.values() for p in parameters), strict=True))


def test_the_graph_is_released():
    ours, _ = layers(4, 5, True)
    y = ours(torch.randn(3, 4))
    y.sum().backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.sum().backward()


SIZES_OF_ZERO = [
    (shape, n_out)
    for shape in ((0,), (0, 6), (3, 0), (0, 0), (2, 0, 6), (0, 2, 6), (2, 3, 0), (0, 3, 0), (6,), (3, 6), (2, 3, 6))
    for n_out in (0, 4)
    if 0 in (*shape, n_out)
]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tanh", [False, True])
@pytest.mark.parametrize(("shape", "n_out"), SIZES_OF_ZERO, ids=str)
def test_sizes_of_zero(shape, n_out, tanh, bias):
    """Rows, inputs, outputs: what nn.functional.linear gives, and its first and second derivatives."""
    torch.manual_seed(0)
    x, weight, b = torch.randn(shape), torch.randn(n_out, shape[-1]), torch.randn(n_out)
    cotangent = torch.randn(*shape[:-1], n_out)

    def plain(x, weight, b=None):
        y = nn.functional.linear(x, weight, b)
        return y.tanh() if tanh else y

    def derivatives(layer):
        leaves = [t.clone().requires_grad_() for t in ((x, weight, b) if bias else (x, weight))]
        y = layer(*leaves)
        first = torch.autograd.grad(y, leaves, cotangent, retain_graph=True)
        again = torch.autograd.grad(y, leaves, cotangent, create_graph=True)
        norm = sum(g.square().sum() for g in again)
        second = torch.autograd.grad(norm, leaves, materialize_grads=True) if norm.requires_grad else ()
        return [y, *first, *again, *second]

    found = derivatives(lambda x, weight, b=None: ops.linear(x, weight, b, tanh))
    torch.testing.assert_close(found, derivatives(plain))


def test_a_changed_output_is_noticed():
    ours, _ = layers(4, 5, True)
    y = ours(torch.randn(3, 4))
    total = y.sum()
    with torch.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        total.backward()


@pytest.mark.parametrize(
    ("x", "weight", "bias", "error", "match"),
    [
        (torch.ones(3, 5), torch.ones(2, 4), None, ValueError, r"x must be \[\*, 4\].*got \[3, 5\]"),
        (torch.tensor(1.0), torch.ones(2, 4), None, ValueError, r"x must be .*got \[\]"),
        (torch.ones(3, 4), torch.ones(4), None, ValueError, r"weight must be .*got \[4\]"),
        (torch.ones(3, 4), torch.ones(2, 4), torch.ones(3), ValueError, r"bias must be \[2\].*got \[3\]"),
        (torch.ones(3, 4).double(), torch.ones(2, 4), None, TypeError, "one dtype, got Double and Float"),
        (torch.ones(3, 5).byte(), torch.ones(2, 4), None, ValueError, r"x must be \[\*, 4\].*got \[3, 5\]"),
    ],
)
def test_errors(x, weight, bias, error, match):
    with pytest.raises(error, match=match):
        ops.linear(x, weight, bias, False)


def test_a_scale_is_of_bytes():
    with pytest.raises(ValueError, match=r"x_scale is of bytes and truth values, got 0.5 with x of Float"):
        ops.linear(torch.ones(3, 4), torch.ones(2, 4), None, False, 0.5)
