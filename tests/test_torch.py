"""The operators at home in PyTorch: opcheck, torch.compile, torch.export, torch.func, autocast, what autograd keeps."""

import pytest
import torch
from cases import OPERATORS, Case, Shape, small_cases
from torch._dynamo.testing import CompileCounterWithBackend
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


FORWARD = {operator.name for operator in OPERATORS} | {"noise_key"}


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
        torch.library.opcheck(torch.ops.aevb_ext.noise_key.default, (device,), test_utils=utilities)

    def test_there_are_no_others(self):
        backward = {operator.name + "_backward" for operator in OPERATORS}
        assert _schemas() == FORWARD | backward | {"linear", "linear_backward", "halves"}

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


def _value_and_gradients(function, call):
    call = call.differentiable()
    value = function(*_inputs(call).values())
    return value, torch.autograd.grad(value, list(call.floating().values()))


def _inputs(call):
    """All tensors that go with the data points: with keys of their own, those too."""
    key = call.options.get("key")
    return call.tensors if key is None or key.dim() == 1 else call.tensors | {"key": key}


class TestCompile:
    @pytest.fixture(autouse=True)
    def fresh(self):
        torch._dynamo.reset()

    @pytest.mark.parametrize("case", small_cases(dtype=torch.float32), ids=str)
    def test_fullgraph(self, case, device):
        call = Case(case.operator, Shape((5,), (7,), (3,)), torch.float32).build(device)
        loss = _loss(call, list(_inputs(call)))
        compiled = torch.compile(loss, fullgraph=True, dynamic=False, backend="aot_eager")
        torch.testing.assert_close(_value_and_gradients(compiled, call), _value_and_gradients(loss, call))

    @pytest.mark.parametrize("case", small_cases(dtype=torch.float32), ids=str)
    def test_dynamic_shapes_compile_once(self, case, device):
        counter = CompileCounterWithBackend("aot_eager")
        compiled, compilations = None, []
        for batch, event in ((5, 7), (6, 9), (11, 30)):
            call = Case(case.operator, Shape((batch,), (event,), (3,)), torch.float32).build(device)
            if compiled is None:
                loss = _loss(call, list(_inputs(call)))
                compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
            torch.testing.assert_close(_value_and_gradients(compiled, call), _value_and_gradients(loss, call))
            compilations.append(counter.frame_count)
        assert compilations == compilations[:1] * 3

    @pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
    def test_inductor(self, dynamic, device):
        """The whole ELBO of a minibatch, through the default backend, with the noise of eager mode bit for bit."""

        def elbo(x, mu, logvar, weight):
            z, kl = aevb_ext.rsample_kl(mu, logvar, n_samples=2)
            log_prob = aevb_ext.bernoulli_log_prob(x, z @ weight)
            return (log_prob.mean(0) - kl).mean(), z

        compiled = torch.compile(elbo, fullgraph=True, dynamic=dynamic)
        generator = torch.Generator().manual_seed(0)
        for batch in (4, 6):
            x = torch.rand(batch, 12, generator=generator).to(device)
            params = torch.randn(batch, 10, generator=generator).to(device).requires_grad_()
            weight = torch.randn(5, 12, generator=generator).to(device).requires_grad_()
            results = []
            for function in (elbo, compiled):
                torch.manual_seed(batch)
                bound, z = function(x, *params.chunk(2, 1), weight)
                results.append((z, bound, *torch.autograd.grad(bound, (params, weight)), aevb_ext.noise_key(device)))
            assert torch.equal(results[0][0], results[1][0])
            assert torch.equal(results[0][-1], results[1][-1])
            torch.testing.assert_close(results[0], results[1])

    def test_two_draws_stay_two_draws(self, device):
        def twice(mu, logvar):
            return aevb_ext.rsample(mu, logvar), aevb_ext.rsample(mu, logvar)

        mu, logvar = torch.zeros(2, 4, 5, device=device)
        torch.manual_seed(0)
        eager = twice(mu, logvar)
        torch.manual_seed(0)
        compiled = torch.compile(twice, fullgraph=True)(mu, logvar)
        assert not torch.equal(*eager)
        assert torch.equal(eager[0], compiled[0]) and torch.equal(eager[1], compiled[1])


@pytest.mark.parametrize("case", small_cases(dtype=torch.float32), ids=str)
def test_export(case, device):
    call = case.build(device)

    class Module(torch.nn.Module):
        def forward(self, *tensors):
            return call.run(dict(zip(inputs, tensors, strict=True)))

    inputs = _inputs(call)
    program = torch.export.export(Module(), tuple(inputs.values()))
    assert any("aevb_ext" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(*inputs.values()), call.run(), rtol=0, atol=0)


def test_export_with_a_dynamic_batch(device):
    class Module(torch.nn.Module):
        def forward(self, x, logits):
            return aevb_ext.bernoulli_log_prob(x, logits)

    x, logits = torch.rand(2, 4, 7, device=device)
    batch = torch.export.Dim("batch")
    program = torch.export.export(Module(), (x, logits), dynamic_shapes=({0: batch}, {0: batch}))
    x, logits = torch.rand(2, 9, 7, device=device)
    torch.testing.assert_close(program.module()(x, logits), aevb_ext.bernoulli_log_prob(x, logits))


class TestFunctionalTransforms:
    @pytest.mark.parametrize("case", small_cases(), ids=str)
    def test_grad(self, case, device):
        call = case.build(device)
        loss = _loss(call, list(_inputs(call)))
        positions = tuple(range(len(call.tensors)))
        gradients = torch.func.grad(loss, argnums=positions)(*_inputs(call).values())
        torch.testing.assert_close(gradients, _value_and_gradients(loss, call)[1])

    @pytest.mark.parametrize("case", small_cases(), ids=str)
    def test_jacrev(self, case, device):
        call = Case(case.operator, Shape((2,), (3,))).build(device)
        names = list(call.tensors)

        def function(*tensors):
            return call.run(dict(zip(names, tensors, strict=True)))[-1]

        leaves = tuple(t.detach().requires_grad_() for t in call.tensors.values())
        expected = torch.autograd.functional.jacobian(function, leaves)
        positions = tuple(range(len(names)))
        torch.testing.assert_close(torch.func.jacrev(function, positions)(*call.tensors.values()), expected)

    @pytest.mark.parametrize("case", small_cases(), ids=str)
    def test_vmap_of_grad(self, case, device):
        """Per-example gradients of a minibatch."""
        call = Case(case.operator, Shape((4,), (3,))).build(device)
        names = list(_inputs(call))

        def loss(*rows):
            tensors = {name: row.unsqueeze(0) for name, row in zip(names, rows, strict=True)}
            return sum(o.square().sum() for o in call.run(tensors))

        positions = tuple(range(len(call.tensors)))
        gradients = torch.func.vmap(torch.func.grad(loss, positions))(*_inputs(call).values())
        for i in range(4):
            rows = [t[i].detach().requires_grad_(t.is_floating_point()) for t in _inputs(call).values()]
            expected = torch.autograd.grad(loss(*rows), rows[: len(positions)])
            torch.testing.assert_close(tuple(g[i] for g in gradients), expected)

    @pytest.mark.parametrize("case", small_cases(), ids=str)
    def test_hessian_vector_product(self, case, device):
        call = Case(case.operator, Shape((2,), (3,))).build(device)
        loss = _loss(call, list(call.tensors))
        positions = tuple(range(len(call.tensors)))
        tangents = tuple(torch.ones_like(t) for t in call.tensors.values())

        def directional(*tensors):
            gradients = torch.func.grad(loss, positions)(*tensors)
            return sum((g * t).sum() for g, t in zip(gradients, tangents, strict=True))

        product = torch.func.grad(directional, positions)(*call.tensors.values())
        leaves = tuple(t.detach().requires_grad_() for t in call.tensors.values())
        expected = torch.autograd.functional.vhp(loss, leaves, tangents)[1]
        torch.testing.assert_close(product, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(dtype, device):
    """A decoder in half precision: what its layers give is taken as it is, the data stay as they are."""
    decoder = torch.nn.Linear(5, 12, device=device)
    x, z = torch.rand(4, 12, device=device), torch.randn(4, 5, device=device)
    with torch.autocast(device.type, dtype=dtype):
        logits = decoder(z)
        assert logits.dtype == dtype
        value = aevb_ext.bernoulli_log_prob(x, logits)
    assert value.dtype == torch.float32
    value.sum().backward()
    assert decoder.weight.grad.dtype == torch.float32
    torch.testing.assert_close(value, aevb_ext.bernoulli_log_prob(x, logits.float()), rtol=1e-6, atol=1e-5)


class TestWhatAutogradKeeps:
    """A forward keeps inputs for its backward, and nothing of its own making."""

    @staticmethod
    def _kept(run):
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
            result = run()
        return kept, result

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("case", small_cases(), ids=str)
    def test_only_inputs(self, case, dtype, device):
        call = Case(case.operator, Shape((4,), (784,), (2,)), dtype, layout="halves").build(device).differentiable()
        kept, _ = self._kept(call.run)
        inputs = {t.data_ptr() for t in (*call.tensors.values(), call.options.get("key")) if t is not None}
        assert kept and {t.data_ptr() for t in kept} <= inputs

    def test_rsample_keeps_neither_noise_nor_scale_nor_mean(self, device):
        mu, logvar = torch.zeros(2, 4, 5, device=device).requires_grad_().unbind()
        key = torch.tensor([1, 2], device=device)
        kept, _ = self._kept(lambda: aevb_ext.rsample(mu, logvar, key=key, n_samples=3))
        assert {t.data_ptr() for t in kept} <= {logvar.data_ptr(), key.data_ptr()}

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


@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_meta_tensors_give_shapes(case):
    call = case.build()
    outputs = call.run()
    call.options = {k: v.to("meta") if isinstance(v, torch.Tensor) else v for k, v in call.options.items()}
    for on_meta, output in zip(call.run({n: t.to("meta") for n, t in call.tensors.items()}), outputs, strict=True):
        assert on_meta.device.type == "meta"
        assert on_meta.shape == output.shape and on_meta.dtype == output.dtype
