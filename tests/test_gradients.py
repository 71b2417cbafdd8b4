"""Every function's gradients: against those of the reference formula in float64, and by finite differences."""

import pytest
import torch
from cases import CASES, GRADIENT_EPS, OPERATORS, REDUCTIONS, SPREADS, Case, Shape, arithmetic_dtype, small_cases

import aevb_ext
from aevb_ext._library import is_loaded


def _cotangents(outputs):
    """Numbers of size 1 for every result, exact in every type."""
    generator = torch.Generator().manual_seed(2718)
    return [
        (torch.randint(-4, 5, o.shape, generator=generator) / 4).to(device=o.device, dtype=o.dtype) for o in outputs
    ]


def _exact_gradients(call, cotangents):
    """In float64, for each input: the gradient, and the sum of the magnitudes that it is the sum of."""
    leaves = {name: t.detach().cpu().double() for name, t in call.tensors.items()}
    full = torch.broadcast_shapes(*(t.shape for t in leaves.values()))
    spread_out = {name: t.expand(full).clone().requires_grad_() for name, t in leaves.items()}
    if call.options.get("n_samples") is not None or "x" not in leaves:
        outputs = call.exact(spread_out)
    else:
        outputs = call.exact(spread_out, batch_dims=call.options["batch_dims"] + len(full) - leaves["x"].dim())
    gradients = torch.autograd.grad(outputs, list(spread_out.values()), [c.cpu().double() for c in cotangents])
    return {
        name: (g.sum_to_size(leaves[name].shape), (1 + g.abs()).sum_to_size(leaves[name].shape))
        for name, g in zip(leaves, gradients, strict=True)
    }


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradients(case, device):
    call = case.build(device).differentiable()
    outputs = call.run()
    cotangents = _cotangents(outputs)
    inputs = call.floating()
    gradients = torch.autograd.grad(outputs, list(inputs.values()), cotangents)
    exact = _exact_gradients(call, cotangents)
    for (name, t), gradient in zip(inputs.items(), gradients, strict=True):
        expected, magnitude = exact[name]
        assert gradient.dtype == t.dtype and gradient.shape == t.shape and gradient.device == t.device, name
        bound = GRADIENT_EPS * torch.finfo(arithmetic_dtype(case.dtype)).eps * magnitude
        if t.dtype != arithmetic_dtype(case.dtype):  # rounded once to the type of the input
            bound = bound + 0.5 * torch.finfo(t.dtype).eps * expected.abs() + torch.finfo(t.dtype).smallest_normal
        error = (gradient.cpu().double() - expected).abs()
        assert (error <= bound).all(), f"that of {name} is off by {(error / bound).max():.1f} times the bound"


def _checked():
    """Every operator with every spread, reduction and form of the spread, each at least once."""
    cases = []
    for operator in OPERATORS:
        for i, spread in enumerate(SPREADS if operator.takes_spread else SPREADS[:1]):
            forms = operator.forms if operator.takes_form else ("full",)
            for j, form in enumerate(forms if spread == "logvar" else ("full", "channel")):
                shape = Shape((2,), (2, 1), samples=(2,)) if form == "full" else Shape((2,), (2, 2))
                reduction = REDUCTIONS[(i + j) % 4] if operator.reduces else "sample"
                cases.append(Case(operator, shape, spread=spread, form=form, reduction=reduction, name="small"))
        if not operator.takes_spread:
            cases += [Case(operator, Shape((2,), (3,), (2,)), reduction=r, name="small") for r in REDUCTIONS]
    return cases


def _function(case, device):
    """A function of the tensors, and these; they require a gradient where finite differences give one."""
    call = case.build(device).differentiable()
    if case.operator.discrete:
        call.tensors["x"].requires_grad_(False)
    names = list(call.tensors)
    return lambda *tensors: call.run(dict(zip(names, tensors, strict=True))), tuple(call.tensors.values())


@pytest.mark.parametrize("case", _checked(), ids=str)
def test_gradcheck(case, device):
    assert torch.autograd.gradcheck(*_function(case, device))


@pytest.mark.parametrize("case", _checked(), ids=str)
def test_gradgradcheck(case, device):
    assert torch.autograd.gradgradcheck(*_function(case, device))


@pytest.mark.parametrize("layout", ["halves", "transposed", "expanded"])
@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_gradcheck_of_strided_inputs(case, layout, device):
    case = Case(case.operator, Shape((2,), (3,)), layout=layout)
    function, tensors = _function(case, device)
    if layout == "expanded":  # finite differences cannot move one of several elements that share their memory
        ones = tuple(t[:1].clone().requires_grad_(t.requires_grad) for t in tensors)
        assert torch.autograd.gradcheck(lambda *t: function(*(a.expand(2, 3) for a in t)), ones)
    else:
        assert torch.autograd.gradcheck(function, tensors)


@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_each_input_alone(case, device):
    """Only what is asked for is differentiated, and the rest of the inputs does not change it."""
    call = case.build(device).differentiable()
    names = list(call.floating())
    together = torch.autograd.grad([o.sum() for o in call.run()], list(call.floating().values()))
    for name, expected in zip(names, together, strict=True):
        tensors = {n: t.detach().requires_grad_(n == name) for n, t in call.tensors.items()}
        (alone,) = torch.autograd.grad([o.sum() for o in call.run(tensors) if o.requires_grad], tensors[name])
        torch.testing.assert_close(alone, expected)


def test_each_result_alone(device):
    """z and KL of rsample_kl may be used separately: the gradient of the other is then none."""
    generator = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64).to(device).requires_grad_()
    key = torch.tensor([3, 4], device=device)
    z, kl = aevb_ext.rsample_kl(mu, logvar, key=key)
    of_z = torch.autograd.grad(z.sin().sum(), (mu, logvar), retain_graph=True)
    of_kl = torch.autograd.grad(kl.sum(), (mu, logvar))
    expected = torch.autograd.grad(aevb_ext.rsample(mu, logvar, key=key).sin().sum(), (mu, logvar))
    torch.testing.assert_close(of_z, expected)
    torch.testing.assert_close(of_kl, torch.autograd.grad(aevb_ext.gaussian_kl(mu, logvar).sum(), (mu, logvar)))


@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_retain_graph(case, device):
    call = case.build(device).differentiable()
    total, inputs = sum(o.square().sum() for o in call.run()), list(call.floating().values())
    first = torch.autograd.grad(total, inputs, retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(total, inputs), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_a_changed_input_is_noticed(case, device):
    """An input written in place after the forward would make the backward wrong: PyTorch must be able to say so."""
    if not case.operator.thorough and not is_loaded():
        pytest.skip("the formula in float64 has a copy of it")
    call = case.build(device).differentiable()
    *_, name = call.floating()
    changed = call.tensors[name].clone()
    outputs = call.run(call.tensors | {name: changed})
    with torch.no_grad():
        changed += 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad([o.sum() for o in outputs], call.tensors[name])


def test_no_gradient_is_recorded_without_need(device):
    for case in small_cases():
        assert not any(o.requires_grad for o in case.build(device).run())


def test_integer_data_has_no_gradient(device):
    for operator in OPERATORS:
        if operator.takes_x:
            call = Case(operator, Shape((2,), (3,)), x_dtype=torch.uint8).build(device).differentiable()
            call.run()[0].sum().backward()
            assert [name for name, t in call.tensors.items() if t.grad is None] == ["x"]
