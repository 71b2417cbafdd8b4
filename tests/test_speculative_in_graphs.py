"""Gradients computed before their cotangent is known, in compiled graphs: the bits of eager mode, and one pass."""

import functools
import re
import threading

import pytest
import torch
from cases import Case, Shape
from test_speculative_gradient import REDUCED, SPECULATIVE, _case, _filled, _same_bits, _without_guess
from torch._dynamo import compiled_autograd
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.utils import run_and_get_code
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import aevb_ext

pytestmark = [
    pytest.mark.cpu_kernels("in compiled graphs a cotangent is guessed on the CPU alone"),
    pytest.mark.usefixtures("many_programs"),
]
ops = torch.ops.aevb_ext
every_operator = pytest.mark.parametrize("operator", SPECULATIVE, ids=str)


@pytest.fixture(scope="module")
def many_programs():
    """All of one function, which the compiler would take for one that is compiled again and again."""
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=100):
        yield
    torch._dynamo.reset()
    _compiled.cache_clear()


def _program(operator, reduction):
    return _compiled(str(operator), reduction)


@functools.cache
def _compiled(name, reduction):
    """A call, and the same compiled: the forward's result of its tensors.

    One step has run, so that no test sees the operators that the compiler calls while it traces.
    """
    operator = next(operator for operator in SPECULATIVE if str(operator) == name)
    call = _case(operator, reduction=reduction).build().differentiable()
    compiled = torch.compile(lambda tensors: call.run(tensors)[0], fullgraph=True, dynamic=False, backend="aot_eager")
    _gradients((call, compiled), 1.0)
    return call, compiled


def _gradients(program, number, **options):
    call, compiled = program
    output = compiled(call.tensors)
    cotangent = number if isinstance(number, torch.Tensor) else _filled(output, number)
    return torch.autograd.grad(output, list(call.floating().values()), cotangent, **options)


def _operators(run):
    """The operators in `run`, and whether they allocated memory (for more than a single number)."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        run()
    events = profile.profiler.kineto_results.events()
    allocations = [e.start_ns() for e in events if e.name() == "[memory]" and e.nbytes() > 64]
    found = [event for event in events if event.name().startswith("aevb_ext::")]
    return [(e.name(), any(e.start_ns() <= t <= e.end_ns() for t in allocations)) for e in found]


def _passes(run):
    """Over the data: a backward that allocates nothing gives what its forward computed."""
    operators = _operators(run)
    assert {name.rpartition("_")[2] for name, _ in operators} == {"speculative", "backward"}
    return sum(allocates or not name.endswith("_backward") for name, allocates in operators)


def _teach(program, number):
    for _ in range(2):
        _gradients(program, number)


@every_operator
@pytest.mark.parametrize("reduction", REDUCED)
class TestBitsAndPasses:
    def test_right_and_wrong_guesses(self, operator, reduction):
        program = _program(operator, reduction)
        expected = {number: _without_guess(program[0], number) for number in (1.0, -0.3)}
        found = []
        _teach(program, -0.3)
        assert _passes(lambda: found.append(_gradients(program, -0.3))) == 1
        assert _passes(lambda: found.append(_gradients(program, 1.0))) == 2  # guessed wrong
        assert _passes(lambda: found.append(_gradients(program, 1.0))) == 2  # did not guess
        assert _passes(lambda: found.append(_gradients(program, 1.0))) == 1
        for gradients, number in zip(found, (-0.3, 1.0, 1.0, 1.0), strict=True):
            _same_bits(gradients, expected[number])

    def test_one_history_with_eager_mode(self, operator, reduction):
        program = _program(operator, reduction)
        call, eager = program[0], (program[0], lambda tensors: program[0].run(tensors)[0])
        _teach(eager, 5.0)
        assert _passes(lambda: _gradients(program, 5.0)) == 1
        _same_bits(_gradients(eager, 5.0), _without_guess(call, 5.0))

    @pytest.mark.parametrize("number", [0.0, -0.0, float("nan"), float("inf")])
    def test_peculiar_cotangents(self, operator, reduction, number):
        program = _program(operator, reduction)
        expected = _without_guess(program[0], number)
        for _ in range(3):
            _same_bits(_gradients(program, number), expected)

    def test_two_backwards(self, operator, reduction):
        """The second computes the gradient that the first gave away."""
        program = _program(operator, reduction)
        (call, compiled), found = program, []
        expected = _without_guess(call, 3.0)
        _teach(program, 3.0)
        output = compiled(call.tensors)
        for retain in (True, True, False):
            inputs = list(call.floating().values())
            found.append(torch.autograd.grad(output, inputs, _filled(output, 3.0), retain_graph=retain))
        for gradients in found:
            _same_bits(gradients, expected)
        assert all(a.data_ptr() != b.data_ptr() for a, b in zip(*found[:2], strict=True))

    def test_not_after_nobody_asked(self, operator, reduction):
        program = _program(operator, reduction)
        _teach(program, 3.0)
        program[1](program[0].tensors)
        assert [_passes(lambda: _gradients(program, 3.0)) for _ in range(2)] == [2, 1]

    def test_nothing_more_without_a_backward(self, operator, reduction):
        call, compiled = _program(operator, reduction)
        with torch.no_grad():
            expected = call.run()
            operators = _operators(lambda: _same_bits([compiled(call.tensors)], expected))
        assert {name for name, _ in operators} == {f"aevb_ext::{operator.name}"}


@every_operator
def test_rows_with_different_cotangents(operator):
    program = _program(operator, "sample")
    call = program[0]
    rows = torch.tensor([1.0, 1.0, -2.0, 0.0])
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        expected = torch.autograd.grad(call.run(), list(call.floating().values()), rows)
    _teach(program, 1.0)
    for _ in range(2):
        _same_bits(_gradients(program, rows), expected)


@every_operator
def test_dynamic_shapes(operator):
    """No new graph for another batch, which has a history of its own."""
    compilations, counter = [], CompileCounterWithBackend("aot_eager")
    options = Case(operator, Shape((4,), (33,)), reduction="mean").build().options
    compiled = torch.compile(
        lambda t: getattr(aevb_ext, operator.name)(**t, **options), fullgraph=True, dynamic=True, backend=counter
    )
    for batch in (4, 7, 12):
        call = _case(operator, shape=Shape((batch,), (33,)), reduction="mean").build().differentiable()
        expected = _without_guess(call, 3.0)
        program = call, lambda tensors: compiled(tensors)
        _teach(program, 3.0)
        found = []
        assert _passes(lambda program=program, found=found: found.append(_gradients(program, 3.0))) == 1
        _same_bits(found[0], expected)
        compilations.append(counter.frame_count)
    assert compilations == compilations[:1] * 3


def test_inductor():
    """A loss of three operators, through the default backend: eager's bits, in one pass of each."""

    def loss(x, logits, mu, logvar, h, weight):
        bernoulli = aevb_ext.bernoulli_log_prob(x, logits, reduction="mean")
        kl = aevb_ext.gaussian_kl(mu, logvar, reduction="mean")
        return 0.5 * kl - bernoulli - aevb_ext.linear_bernoulli_log_prob(x, h, weight, reduction="mean")

    generator = torch.Generator().manual_seed(0)
    sizes = (32, 50), (32, 8), (32, 8), (32, 12), (50, 12)
    tensors = [torch.randn(size, generator=generator).requires_grad_() for size in sizes]
    x = torch.rand(32, 50, generator=generator)
    compiled = torch.compile(loss, fullgraph=True, dynamic=False)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        expected = torch.autograd.grad(loss(x, *tensors), tensors)
    found = []
    for _ in range(3):
        found.append(torch.autograd.grad(compiled(x, *tensors), tensors))
    assert _passes(lambda: found.append(torch.autograd.grad(compiled(x, *tensors), tensors))) == 3
    for gradients in found:
        _same_bits(gradients, expected)


def test_inductor_copies_no_image():
    """It keeps a convolution's output channels_last, whatever eager mode has, and the likelihood takes it so."""
    torch.manual_seed(0)
    x, h = torch.rand(2, 3, 8, 8), torch.randn(2, 4, 8, 8)
    layer = torch.nn.Conv2d(4, 3, 3, padding=1)

    def loss(x, h):
        return aevb_ext.bernoulli_log_prob(x, layer(h), reduction="mean")

    compiled = torch.compile(loss, fullgraph=True, dynamic=False)
    parameters = list(layer.parameters())
    found, code = run_and_get_code(lambda: torch.autograd.grad(compiled(x, h), parameters))
    _compiled.cache_clear()  # it has made the compiler forget every program
    torch.testing.assert_close(found, torch.autograd.grad(loss(x, h), parameters))
    assert len(code) == 2 and all("torch.ops.aevb_ext.bernoulli_log_prob_" in one for one in code)
    copies = [name for one in code for name in re.findall(r"cpp_fused_\w*", one) if "log_prob" in name]
    assert not copies


@every_operator
def test_compiled_autograd(operator):
    """A compiled backward that is traced anew, with the compiled forward's tensor among its inputs."""
    program = _program(operator, "mean")
    expected = _without_guess(program[0], 3.0)
    for _ in range(3):
        with compiled_autograd._enable(torch.compile(backend="aot_eager", fullgraph=True)):
            found = _gradients(program, 3.0)
        _same_bits(found, expected)


def test_seldom_in_a_checkpoint():
    """Whose first forward is computed again: a gradient that it computed would be lost in every step."""
    x, logits = torch.rand(6, 40), torch.randn(6, 40).requires_grad_()

    def loss(logits):
        return aevb_ext.bernoulli_log_prob(x, logits, reduction="mean")

    compiled = torch.compile(lambda t: checkpoint(loss, t, use_reentrant=False), fullgraph=True, backend="aot_eager")
    (expected,) = torch.autograd.grad(loss(logits), logits)

    def steps(number):
        for _ in range(number):
            assert torch.equal(torch.autograd.grad(compiled(logits), logits)[0], expected)

    steps(8)
    operators = _operators(lambda: steps(16))
    first, again = operators[::3], operators[1::3]
    assert {name for name, _ in first + again} == {"aevb_ext::bernoulli_log_prob_speculative"}
    assert sum(allocates for _, allocates in first) <= 2 and not any(allocates for _, allocates in again)


def test_not_under_a_transform():
    """torch.func differentiates its gradients, so there is nothing to compute ahead."""
    x, logits = torch.rand(4, 33), torch.randn(4, 33)
    targets = set()

    def note(graph, _):
        targets.update(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def gradient(logits):
        return torch.func.grad(lambda t: aevb_ext.bernoulli_log_prob(x, t, reduction="mean"))(logits)

    backend = aot_autograd(fw_compiler=note)
    found = torch.compile(gradient, fullgraph=True, backend=backend)(logits)
    torch.testing.assert_close(found, gradient(logits))
    assert targets and not any("_speculative" in target for target in targets)


class TestOperators:
    """The pair of operators by hand."""

    @pytest.mark.parametrize("case", [_case(o, dtype=torch.bfloat16) for o in SPECULATIVE], ids=str)
    def test_opcheck(self, case):
        """Except that without numbers the tensor that holds the gradient shares the memory of an operand."""
        seen = []

        class Recorder(TorchDispatchMode):
            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                if function.namespace == "aevb_ext":
                    seen.append((function, args))
                return function(*args, **(kwargs or {}))

        call = case.build().differentiable()
        with Recorder():
            torch.autograd.grad(call.run(), list(call.floating().values()), torch.ones(4))
        forward, (given, arguments) = getattr(ops, f"{case.operator.name}_speculative").default, seen[1]
        arguments = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
        tests = ("test_schema", "test_autograd_registration", "test_aot_dispatch_dynamic")
        torch.library.opcheck(forward, tuple(arguments[1:]), test_utils=tests)
        found = forward(*arguments[1:])
        with FakeTensorMode() as mode:
            fake = forward(*(mode.from_tensor(a) if isinstance(a, torch.Tensor) else a for a in arguments[1:]))
        assert [(t.shape, t.stride(), t.dtype, t.device) for t in fake] == [
            (t.shape, t.stride(), t.dtype, t.device) for t in found
        ]
        torch.library.opcheck(given, (*arguments, found[1]))

    def _pair(self, number=1.0):
        generator = torch.Generator().manual_seed(0)
        x, logits = torch.rand(2, 5, 200, generator=generator)
        settings = 1.0, "mean", 1
        cotangent = torch.tensor(number)
        expected = ops.bernoulli_log_prob_backward(cotangent, x, logits, *settings, [False, True])
        for _ in range(65):  # after gradients that nobody took
            value, speculative = ops.bernoulli_log_prob_speculative(x, logits, *settings, [False, True])
            ops.bernoulli_log_prob_backward(cotangent, x, logits, *settings, [False, True], speculative)
        value, speculative = ops.bernoulli_log_prob_speculative(x, logits, *settings, [False, True])
        assert torch.equal(value, ops.bernoulli_log_prob(x, logits, *settings))

        def backward(speculative, wanted=(False, True)):
            return ops.bernoulli_log_prob_backward(cotangent, x, logits, *settings, wanted, speculative)

        return speculative, backward, expected

    def test_it_is_given_once(self):
        speculative, backward, expected = self._pair()
        for allocates in (False, True):
            found = []
            ((_, allocated),) = _operators(lambda found=found: found.append(backward(speculative)))
            assert allocated == allocates
            _same_bits(found[0][1:], expected[1:])

    @pytest.mark.parametrize("change", [torch.clone, lambda t: torch.zeros(1), lambda t: None, lambda t: t[:0].clone()])
    def test_another_tensor_in_its_place(self, change):
        """What the compiler or a hook made of it: the gradient is computed."""
        speculative, backward, expected = self._pair()
        _same_bits(backward(change(speculative))[1:], expected[1:])

    def test_more_is_wanted_than_was_computed(self):
        speculative, backward, expected = self._pair()
        by_x, by_logits = backward(speculative, (True, True))
        _same_bits([by_logits], expected[1:])
        assert by_x.shape == by_logits.shape

    def test_threads(self):
        """One of them gets it, the others compute."""
        for _ in range(20):
            speculative, backward, expected = self._pair()
            found, together = [], threading.Barrier(3)

            def work(speculative=speculative, backward=backward, found=found, together=together):
                together.wait()
                found.append(backward(speculative)[1])

            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len({gradient.data_ptr() for gradient in found}) == 3
            assert all(torch.equal(gradient, expected[1]) for gradient in found)
