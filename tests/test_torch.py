"""The operators in PyTorch: opcheck, second derivatives, and the tensors that autograd saves.

What the rest of its machinery does with every public thing is in test_machinery*.py.
"""

import pytest
import torch
from cases import OPERATORS, Case, Shape, small_cases
from torch.utils._python_dispatch import TorchDispatchMode

import aevb_ext


class _Recorder(TorchDispatchMode):
    """Notes every call of a compiled operator."""

    def __init__(self):
        super().__init__()
        self.calls = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace == "aevb_ext":
            self.calls.setdefault(function, []).append((args, kwargs or {}))
        return function(*args, **(kwargs or {}))


def _schemas():
    names = torch._C._dispatch_get_all_op_names()
    return {name.removeprefix("aevb_ext::") for name in names if name.startswith("aevb_ext::")}


FORWARD = {operator.name for operator in OPERATORS} | {"binarize", "mixture_log_prob", "noise_key", "unpack_bits"}


def _opcheck_cases():
    cases = small_cases() + small_cases(dtype=torch.float32, reduction="mean", spread="std", form="scalar")
    return cases + small_cases(dtype=torch.bfloat16, reduction="none", spread="var", form="feature", layout="halves")


def _copy(argument, requires_grad):
    if not isinstance(argument, torch.Tensor):
        return argument
    return argument.detach().clone().requires_grad_(requires_grad and argument.is_floating_point())


class TestOpcheck:
    @pytest.mark.parametrize("case", _opcheck_cases(), ids=str)
    def test_operators_and_their_backward(self, case, device):
        with _Recorder() as recorder:
            call = case.build(device).differentiable()
            outputs = call.run()
            torch.autograd.grad([o.sum() for o in outputs], list(call.floating().values()))
        assert {str(f.name()).removeprefix("aevb_ext::") for f in recorder.calls} == {
            case.operator.name,
            case.operator.name + "_backward",
        }
        for function, calls in recorder.calls.items():
            for args, kwargs in calls:
                is_forward = not function.name().endswith("_backward")
                torch.library.opcheck(function, [_copy(a, is_forward) for a in args], kwargs)

    def test_noise_key(self, device):
        """Its result is random, so what compares two runs of it does not apply."""
        utilities = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(torch.ops.aevb_ext.noise_key.default, (), {"device": device}, test_utils=utilities)

    def test_widened(self, device):
        for half in (torch.float16, torch.bfloat16):
            t = torch.ones(3, 2, dtype=half, device=device, requires_grad=True)
            torch.library.opcheck(torch.ops.aevb_ext.widened.default, (t, torch.float32))

    def test_there_are_no_others(self):
        backward = {operator.name + "_backward" for operator in OPERATORS}
        speculative = {operator.name + "_speculative" for operator in OPERATORS if not operator.draws_noise}
        # tests/test_linear.py, test_linear_log_prob.py, test_mlp_bound.py and test_halves.py
        heads = {"linear_bernoulli_log_prob", "linear_gaussian_log_prob"}
        layers = {"linear", "mlp_bound"} | heads | {f"{name}_backward" for name in {"linear"} | heads}
        layers |= {name + "_speculative" for name in heads}
        layers |= {"mixture_log_prob_backward"}  # tests/test_mixture.py
        assert _schemas() == FORWARD | backward | speculative | layers | {"halves", "widened"}

    @pytest.mark.parametrize("key", ["CPU", "CUDA", "Meta"])
    def test_every_operator_has_every_kernel(self, key):
        for name in _schemas():
            places = (key, "CompositeExplicitAutograd", "CompositeImplicitAutograd")
            assert any(torch._C._dispatch_has_kernel_for_dispatch_key(f"aevb_ext::{name}", place) for place in places)


def _loss(call, names):
    """A function of tensors, all of whose results and gradients matter."""

    def weighted(output):
        return (output.flatten() * torch.arange(output.numel(), device=output.device).cos()).sum()

    def loss(*tensors):
        return sum(weighted(o) for o in call.run(dict(zip(names, tensors, strict=True))))

    return loss


def _inputs(call):
    """All tensors that go with the data points: with keys of their own, those too."""
    key = call.options.get("key")
    return call.tensors if key is None or key.dim() == 1 else call.tensors | {"key": key}


def _differentiable(call):
    """The positions of the tensors that have a gradient: data may be integers."""
    return tuple(k for k, t in enumerate(call.tensors.values()) if t.is_floating_point())


class TestFunctionalTransforms:
    @pytest.mark.parametrize("case", small_cases(), ids=str)
    def test_vmap_of_grad(self, case, device):
        """Per-example gradients of a minibatch."""
        call = Case(case.operator, Shape((4,), (3,))).build(device)
        names = list(_inputs(call))

        def loss(*rows):
            tensors = {name: row.unsqueeze(0) for name, row in zip(names, rows, strict=True)}
            return sum(o.square().sum() for o in call.run(tensors))

        positions = _differentiable(call)
        gradients = torch.func.vmap(torch.func.grad(loss, positions))(*_inputs(call).values())
        for i in range(4):
            rows = [t[i].detach().requires_grad_(t.is_floating_point()) for t in _inputs(call).values()]
            expected = torch.autograd.grad(loss(*rows), [rows[k] for k in positions])
            torch.testing.assert_close(tuple(g[i] for g in gradients), expected)

    @pytest.mark.parametrize("case", small_cases(), ids=str)
    def test_hessian_vector_product(self, case, device):
        call = Case(case.operator, Shape((2,), (3,))).build(device)
        given, loss = list(call.tensors.values()), _loss(call, list(call.tensors))
        positions = _differentiable(call)
        tangents = tuple(torch.ones_like(given[k]) for k in positions)

        def directional(*tensors):
            gradients = torch.func.grad(loss, positions)(*tensors)
            return sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))

        def of_leaves(*leaves):
            return loss(*(leaves[positions.index(k)] if k in positions else t for k, t in enumerate(given)))

        product = torch.func.grad(directional, positions)(*given)
        leaves = tuple(given[k].detach().requires_grad_() for k in positions)
        expected = torch.autograd.functional.vhp(of_leaves, leaves, tangents)[1]
        torch.testing.assert_close(product, expected)


class TestWhatAutogradKeeps:
    """A forward keeps the operands that its backward reads, where they lie, and nothing of its own making."""

    @staticmethod
    def _kept(run):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            result = run()
        return kept, result

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("case", small_cases(), ids=str)
    def test_operands_and_the_key(self, case, dtype, device):
        """Neither noise nor scale; of a sample's mean, which its gradient does not depend on, not even that."""
        call = Case(case.operator, Shape((4,), (784,), (2,)), dtype, layout="halves").build(device).differentiable()
        kept, _ = self._kept(call.run)
        read = dict(call.tensors)
        if case.operator.draws_noise:
            read["key"] = call.options["key"]
        if case.operator.name == "rsample":
            del read["mu"]
        places = [[(t.data_ptr(), t.shape, t.stride()) for t in tensors] for tensors in (kept, read.values())]
        assert places[0] == places[1]

    @pytest.mark.parametrize("kind", ["tanh", "bernoulli", "gaussian"])
    def test_a_layer_keeps_its_operands(self, kind, device):
        """None of the layer's output, but for tanh's, which is the result."""
        shapes = ((6, 784), (3, 6, 20), (784, 20), (784,))
        x, h, weight, bias = (torch.full(shape, 0.5, device=device, requires_grad=True) for shape in shapes)
        if kind == "tanh":
            kept, result = self._kept(lambda: torch.ops.aevb_ext.linear(h, weight, bias, True, 1.0))
            read = [h, weight, bias, result]
        elif kind == "bernoulli":
            kept, _ = self._kept(lambda: aevb_ext.linear_bernoulli_log_prob(x, h, weight, bias))
            read = [x, h, weight, bias]
        else:
            spread = torch.zeros((), device=device, requires_grad=True)
            kept, _ = self._kept(lambda: aevb_ext.linear_gaussian_log_prob(x, h, weight, bias, spread, sigmoid=True))
            read = [x, h, weight, bias, spread]
        assert [t.data_ptr() for t in kept] == [t.data_ptr() for t in read]

    def test_a_fresh_key_is_all_that_a_draw_adds(self, device):
        mu, logvar = torch.zeros(2, 64, 64, device=device).requires_grad_().unbind()
        kept, _ = self._kept(lambda: aevb_ext.rsample(mu, logvar, n_samples=3))
        added = [t for t in kept if t.data_ptr() not in (mu.data_ptr(), logvar.data_ptr())]
        assert [tuple(t.shape) for t in added] == [(2,)]


@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_inputs_are_not_written(case, device):
    call = case.build(device).differentiable()
    before = {name: (t.clone(), t._version) for name, t in call.tensors.items()}
    torch.autograd.grad([o.sum() for o in call.run()], list(call.floating().values()))
    for name, t in call.tensors.items():
        assert torch.equal(t, before[name][0]) and t._version == before[name][1]
