"""Under autocast, operands of several dtypes are promoted to the widest; unsupported dtypes raise an error."""

import contextlib

import pytest
import torch
from cases import LOOPS, Case, Shape

import aevb_ext

DOUBLE, FLOAT, BF16, HALF = torch.float64, torch.float32, torch.bfloat16, torch.float16

# Those of the operands in turn, and the widest of them.
MIXED = [
    ((BF16, FLOAT), FLOAT),
    ((FLOAT, BF16), FLOAT),
    ((HALF, FLOAT), FLOAT),
    ((BF16, HALF), FLOAT),  # neither holds the other
    ((FLOAT, DOUBLE), DOUBLE),
    ((BF16, FLOAT, HALF, BF16), FLOAT),
    ((BF16, BF16), BF16),
    ((HALF, HALF), HALF),
]

# Whose operands have to be of one dtype.
SEVERAL = [operator for operator in LOOPS if len(operator.arguments.keys() - {"x"}) > 1]


def _autocast(device, dtype=BF16):
    return torch.autocast(device.type, dtype=dtype)


def mixed(operator, dtypes, device):
    """A call whose data are in float32 and whose other operands have these dtypes in turn."""
    call = Case(operator, Shape((4,), (7,), (2,)), FLOAT).build(device)
    names = [name for name in call.tensors if name != "x"]
    for i, name in enumerate(names):
        call.tensors[name] = call.tensors[name].to(dtypes[i % len(dtypes)])
    return call


def outputs_and_gradients(call, context, convert=lambda t: t):
    leaves = {name: t.detach().requires_grad_() for name, t in call.tensors.items()}
    with context:
        outputs = call.run({name: t if name == "x" else convert(t) for name, t in leaves.items()})
    # Cotangents that no forward guesses, exact in every dtype.
    cotangents = [(torch.arange(o.numel(), device=o.device) % 5 - 2).reshape(o.shape).to(o.dtype) for o in outputs]
    return outputs, torch.autograd.grad(outputs, list(leaves.values()), cotangents)


@pytest.mark.parametrize(("dtypes", "widest"), MIXED, ids=str)
@pytest.mark.parametrize("operator", SEVERAL, ids=str)
def test_as_if_the_caller_had_cast(operator, dtypes, widest, device):
    call = mixed(operator, dtypes, device)
    expected = outputs_and_gradients(call, contextlib.nullcontext(), lambda t: t.to(widest))
    found = outputs_and_gradients(call, _autocast(device))
    for results, others in zip(found, expected, strict=True):
        for a, b in zip(results, others, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b)
    for gradient, t in zip(found[1], call.tensors.values(), strict=True):
        assert gradient.dtype == t.dtype and gradient.shape == t.shape
    if operator.draws_noise:
        assert found[0][0].dtype == widest


@pytest.mark.parametrize("operator", SEVERAL, ids=str)
def test_only_where_it_is_on(operator, device):
    """Outside, and where it is turned off or on for another device, dtypes that differ are a mistake."""
    call = mixed(operator, (BF16, FLOAT), device)
    other = torch.device("cuda" if device.type == "cpu" else "cpu")
    full, second = [name for name in call.tensors if name != "x"][:2]
    for contexts in ([], [_autocast(device), torch.autocast(device.type, enabled=False)]):
        with contextlib.ExitStack() as stack:
            for context in contexts:
                stack.enter_context(context)
            with pytest.raises(TypeError, match=rf"{second} is \w+, but {full} is \w+: expected one dtype"):
                call.run()
    if torch.cuda.is_available():
        with _autocast(other), pytest.raises(TypeError, match="expected one dtype"):
            call.run()


@pytest.mark.parametrize("operator", SEVERAL, ids=str)
def test_a_spread_that_broadcasts(operator, device):
    """Its gradient is summed in the wide type, and rounded once to its own."""
    call = mixed(operator, (FLOAT, BF16), device)
    second = [name for name in call.tensors if name != "x"][1]
    call.tensors[second] = call.tensors[second].flatten()[0]
    expected = outputs_and_gradients(call, contextlib.nullcontext(), lambda t: t.to(FLOAT))
    found = outputs_and_gradients(call, _autocast(device))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("outside", [False, True], ids=["inside", "outside"])
@pytest.mark.parametrize("operator", SEVERAL, ids=str)
def test_compiled(operator, outside, device):
    """With autocast in what is compiled, or around it."""
    torch._dynamo.reset()
    call = mixed(operator, (BF16, FLOAT), device)
    names = list(call.tensors)

    def function(*tensors):
        with contextlib.nullcontext() if outside else _autocast(device):
            return call.run(dict(zip(names, tensors, strict=True)))

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for f in (function, compiled):
        leaves = [t.detach().requires_grad_() for t in call.tensors.values()]
        with _autocast(device) if outside else contextlib.nullcontext():
            outputs = f(*leaves)
        results.append((*outputs, *torch.autograd.grad([o.sum() for o in outputs], leaves)))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@pytest.mark.parametrize("operator", SEVERAL, ids=str)
def test_vmapped(operator, device):
    call = mixed(operator, (BF16, FLOAT), device)
    if operator.keys:
        call.options["key"] = call.options["key"][0]

    def function(*tensors):
        return call.run(dict(zip(call.tensors, (t.unsqueeze(-2) for t in tensors), strict=True)))

    dims = tuple(t.dim() - 2 for t in call.tensors.values())
    with _autocast(device):
        found = torch.func.vmap(function, in_dims=dims)(*call.tensors.values())
        rows = zip(*(t.unbind(d) for t, d in zip(call.tensors.values(), dims, strict=True)), strict=True)
        expected = [torch.stack(o) for o in zip(*(function(*row) for row in rows), strict=True)]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("dtype", [BF16, HALF], ids=str)
def test_a_vae_with_a_head_in_float32(dtype, device):
    """What autocast makes of the usual model: the mean of a layer, a spread that went through an exponential."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(8, 12, generator=generator).to(device)
    torch.manual_seed(0)
    mean, spread = (torch.nn.Linear(12, 3, device=device) for _ in range(2))
    with _autocast(device, dtype):
        mu, std = mean(x), spread(x).exp()
        assert (mu.dtype, std.dtype) in ((dtype, FLOAT), (dtype, dtype))
        z, kl = aevb_ext.rsample_kl(mu, std.float(), spread="std")
        log_prob = aevb_ext.gaussian_log_prob(x[:, :3], mu, torch.zeros((), device=device))
        assert z.dtype == kl.dtype == log_prob.dtype == FLOAT
        loss = kl.sum() + z.sum() - log_prob.sum()
    loss.backward()
    for layer in (mean, spread):
        assert layer.weight.grad.dtype == FLOAT and layer.weight.grad.abs().sum() > 0


REFUSED = [torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz]
REFUSED += [torch.complex32, torch.complex64, torch.complex128]


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("dtype", REFUSED, ids=str)
@pytest.mark.parametrize("operator", LOOPS, ids=str)
def test_what_no_operator_takes(operator, dtype, autocast, device):
    call = Case(operator, Shape((4,), (7,)), FLOAT).build(device)
    for name, t in call.tensors.items():
        with _autocast(device) if autocast else contextlib.nullcontext(), pytest.raises(TypeError) as caught:
            call.run(call.tensors | {name: t.to(dtype)})
        data = ", float16, uint8 or bool" if operator.thorough else ", float16, uint8, bool, int16, int32 or int64"
        accepted = "float64, float32, bfloat16" + (data if name == "x" else " or float16")
        assert f"{name} must be {accepted}, got {str(dtype).removeprefix('torch.')}" in str(caught.value)
