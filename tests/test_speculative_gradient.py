"""Gradients computed before their cotangent is known: a guess changes the time of a result, never a bit of it."""

import subprocess
import sys
import threading

import pytest
import torch
from cases import LOOPS, Case, Shape
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import aevb_ext

SPECULATIVE = [operator for operator in LOOPS if operator.reduces and not operator.draws_noise]
REDUCED = ("sample", "sum", "mean")
DTYPES = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
SHAPES = {
    "event3": Shape((300,), (3,)),  # many short rows to one piece of work
    "event37": Shape((5,), (37,)),
    "event784": Shape((3,), (784,)),
    "image": Shape((2,), (3, 4, 6)),
    "event9001": Shape((2,), (9001,)),  # more than one block to a row
    "sampled": Shape((4,), (50,), samples=(3,)),
}
SMALL = Shape((4,), (33,))


def _case(operator, **fixed):
    return Case(operator, **{"shape": SMALL, "dtype": torch.float32, "name": "small"} | fixed)


def _filled(output, number):
    return torch.full_like(output, number)


def _gradients(call, number=1.0, **options):
    (output,) = call.run()
    return torch.autograd.grad(output, list(call.floating().values()), _filled(output, number), **options)


def _teach(call, number):
    """Two equal cotangents: the next forward guesses a third."""
    for _ in range(2):
        _gradients(call, number)


def _without_guess(call, number):
    """By the operator's backward: hooks on what is saved keep it from guessing."""
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        return _gradients(call, number)


def _events(run):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return [event.name for event in profile.events()]


def _speculated(run):
    """Whether the forward's gradients were what the backward gave."""
    ours = [name for name in _events(run) if name.startswith("aevb_ext::")]
    assert any(not name.endswith("_backward") for name in ours), "the operator was not seen"
    return not any(name.endswith("_backward") for name in ours)


def _same_bits(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)
        assert torch.equal(a.signbit() & (a == 0), b.signbit() & (b == 0))


def _every():
    for operator in SPECULATIVE:
        for reduction in REDUCED:
            for dtype in DTYPES:
                yield _case(operator, reduction=reduction, dtype=dtype)
        if not operator.thorough:
            continue
        for name, shape in SHAPES.items():
            if shape.samples and not operator.takes_x:
                continue
            for layout in ("contiguous", "halves"):
                for dtype in (torch.float32, torch.bfloat16):
                    yield _case(operator, shape=shape, name=name, layout=layout, dtype=dtype)
        for form in ("scalar", "feature", "channel", "point") if operator.takes_spread else ():
            for dtype in (torch.float32, torch.bfloat16):
                yield _case(operator, shape=SHAPES["image"], name="image", form=form, dtype=dtype, reduction="mean")
        if operator.takes_x:
            for x_dtype in (torch.uint8, torch.bool, torch.bfloat16, torch.float64):
                yield _case(operator, x_dtype=x_dtype, reduction="mean")


CASES = list(_every())


@pytest.mark.cpu_kernels("on a device kernels guess, and the host sees nothing of it: test_one_pass.py")
@pytest.mark.parametrize("number", [1.0, -0.3])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_do_not_depend_on_the_guess(case, number):
    call = case.build().differentiable()
    expected = _without_guess(call, number)
    _teach(call, number)
    found = []
    assert _speculated(lambda: found.append(_gradients(call, number)))
    _same_bits(found[0], expected)
    _teach(call, 7.0)
    _same_bits(_gradients(call, number), expected)
    _teach(call, number)
    (output,) = call.run()
    inputs = list(call.floating().values())
    for retain in (True, True, False):
        _same_bits(torch.autograd.grad(output, inputs, _filled(output, number), retain_graph=retain), expected)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_do_not_depend_on_the_guess(case):
    call = case.build()
    expected = call.run()
    recorded = call.differentiable()
    _teach(recorded, 1.0)
    _same_bits([o.detach() for o in recorded.run()], expected)


@pytest.mark.parametrize("number", [0.0, -0.0, float("nan"), float("inf"), 2.0**16, 1e-40])
@pytest.mark.parametrize("reduction", REDUCED)
@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
def test_peculiar_cotangents(operator, reduction, number):
    call = _case(operator, reduction=reduction).build().differentiable()
    expected = _without_guess(call, number)
    for _ in range(4):
        _same_bits(_gradients(call, number), expected)


@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
@pytest.mark.parametrize("number", [0.0, float("nan")])
def test_zero_and_nan_are_never_guessed(operator, number):
    call = _case(operator).build().differentiable()
    _teach(call, number)
    assert not _speculated(lambda: _gradients(call, number))


@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
@pytest.mark.parametrize("as_given", ["different", "expanded", "strided", "negative view", "zeros without memory"])
def test_other_cotangents(operator, as_given):
    """What a backward is given need not be one number, nor lie in memory as it reads."""
    call = _case(operator).build().differentiable()
    (output,) = call.run()
    ones = torch.ones_like(output)
    given, plain = {
        "different": lambda: (torch.arange(4.0) + 1, torch.arange(4.0) + 1),
        "expanded": lambda: (torch.ones(1).expand(4), ones),
        "strided": lambda: (torch.tensor([1.0, 5.0]).repeat(4)[::2], ones),
        "negative view": lambda: (torch._neg_view(ones), -ones),
        "zeros without memory": lambda: (torch._efficientzerotensor(4), torch.zeros(4)),
    }[as_given]()
    inputs = list(call.floating().values())
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        expected = torch.autograd.grad(call.run(), inputs, plain)
    _teach(call, 1.0)
    _same_bits(torch.autograd.grad(call.run(), inputs, given), expected)


@pytest.mark.parametrize("case", [_case(operator) for operator in LOOPS], ids=str)
def test_inputs_with_their_sign_to_be_changed(case):
    """A tensor's memory may hold the negative of its numbers (the imaginary part of a conjugate)."""
    call = case.build().differentiable()
    turned = {name: torch._neg_view(-t.detach()).requires_grad_() for name, t in call.tensors.items()}
    assert all(t.is_neg() for t in turned.values())
    outputs = call.run(turned)
    _same_bits([o.detach() for o in outputs], [o.detach() for o in call.run()])
    found = torch.autograd.grad([o.sum() for o in outputs], list(turned.values()))
    _same_bits(found, torch.autograd.grad([o.sum() for o in call.run()], list(call.tensors.values())))


@pytest.mark.cpu_kernels("on a device kernels guess, and the host sees nothing of it: test_one_pass.py")
@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
@pytest.mark.parametrize("reduction", REDUCED)
class TestWhenItLooksAhead:
    def test_after_two_equal_cotangents(self, operator, reduction):
        call = _case(operator, reduction=reduction).build().differentiable()
        _teach(call, 3.0)
        assert _speculated(lambda: _gradients(call, 3.0))
        assert not _speculated(lambda: _gradients(call, 5.0))  # guessed wrong
        assert not _speculated(lambda: _gradients(call, 5.0))  # did not guess
        assert _speculated(lambda: _gradients(call, 5.0))

    def test_not_after_nobody_asked(self, operator, reduction):
        call = _case(operator, reduction=reduction).build().differentiable()
        _teach(call, 3.0)
        call.run()
        assert [_speculated(lambda: _gradients(call, 5.0)) for _ in range(3)] == [False, False, True]

    def test_not_when_nobody_will_ask(self, operator, reduction):
        """A forward that is not recorded neither guesses nor changes what the next one guesses."""
        call = _case(operator, reduction=reduction).build().differentiable()
        _teach(call, 3.0)
        with torch.no_grad():
            call.run()
        with torch.inference_mode():
            call.run()
        assert _speculated(lambda: _gradients(call, 3.0))

    def test_not_under_a_checkpoint(self, operator, reduction):
        call = _case(operator, reduction=reduction).build().differentiable()
        expected = _without_guess(call, 3.0)
        _teach(call, 3.0)
        found = []

        def run():
            (output,) = checkpoint(call.run, use_reentrant=False)
            inputs = list(call.floating().values())
            found.append(torch.autograd.grad(output, inputs, _filled(output, 3.0)))

        assert not _speculated(run)
        _same_bits(found[0], expected)

    def test_not_under_a_transform(self, operator, reduction):
        call = _case(operator, reduction=reduction).build()
        recorded = call.differentiable()
        names = list(call.tensors)
        _teach(recorded, 3.0)

        def loss(*tensors):
            return 3 * sum(o.sum() for o in call.run(dict(zip(names, tensors, strict=True))))

        gradients = torch.func.grad(loss, tuple(range(len(names))))(*call.tensors.values())
        torch.testing.assert_close(gradients, _gradients(recorded, 3.0))
        assert _speculated(lambda: _gradients(recorded, 3.0))

    def test_not_under_a_dispatch_mode(self, operator, reduction):
        class Watcher(TorchDispatchMode):
            seen = ()

            def __torch_dispatch__(self, function, types, args=(), kwargs=None):
                self.seen += (function.name(),)
                return function(*args, **(kwargs or {}))

        call = _case(operator, reduction=reduction).build().differentiable()
        expected = _without_guess(call, 3.0)
        _teach(call, 3.0)
        with Watcher() as watcher:
            found = _gradients(call, 3.0)
        _same_bits(found, expected)
        name = f"aevb_ext::{operator.name}"
        assert name in watcher.seen and name + "_backward" in watcher.seen


@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
def test_elements_are_never_speculative(operator):
    call = _case(operator, reduction="none").build().differentiable()
    _teach(call, 1.0)
    assert not _speculated(lambda: _gradients(call, 1.0))


@pytest.mark.cpu_kernels("on a device kernels guess, and the host sees nothing of it: test_one_pass.py")
def test_the_first_guess_is_one():
    """Of a process: what a loss's own backward begins with."""
    code = """if True:
        import torch, aevb_ext
        logits = torch.randn(4, 33, requires_grad=True)
        with torch.autograd.profiler.profile(use_kineto=False) as profile:
            aevb_ext.bernoulli_log_prob(torch.rand(4, 33), logits).sum().backward()
        print(*(event.name for event in profile.function_events if event.name.startswith("aevb_ext::")))
    """
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["aevb_ext::bernoulli_log_prob"]


@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
def test_only_some_gradients(operator):
    """Asked of the backward alone: the forward has computed them all."""
    call = _case(operator).build().differentiable()
    expected = dict(zip(call.floating(), _without_guess(call, 1.0), strict=True))
    for name, wanted in call.floating().items():
        _teach(call, 1.0)
        (output,) = call.run()
        output.backward(_filled(output, 1.0), inputs=[wanted])
        _same_bits([wanted.grad], [expected[name]])
        assert [n for n, t in call.floating().items() if t.grad is not None] == [name]
        wanted.grad = None


@pytest.mark.parametrize("layout", ["contiguous", "halves"])
@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
def test_accumulated_gradients_are_apart(operator, layout):
    """What is added to one input's gradient, in place, reaches no other, and not the next step's."""
    call = _case(operator, layout=layout).build().differentiable()
    expected = _without_guess(call, 1.0)
    _teach(call, 1.0)
    for _ in range(3):
        call.run()[0].sum().backward()
    for (name, t), once in zip(call.floating().items(), expected, strict=True):
        torch.testing.assert_close(t.grad, 3 * once, msg=name)
        t.grad.fill_(99)
    _same_bits(_gradients(call, 1.0), expected)


@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
def test_a_changed_input_is_noticed(operator):
    call = _case(operator).build().differentiable()
    _teach(call, 1.0)
    for name in call.floating():
        if name == "x" and operator.name == "bernoulli_log_prob":
            name = "logits"
        changed = call.tensors[name].clone()
        (output,) = call.run(call.tensors | {name: changed})
        with torch.no_grad():
            changed += 1
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            output.sum().backward()


@pytest.mark.parametrize("reduction", REDUCED)
@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
def test_double_backward_after_a_guess(operator, reduction):
    call = _case(operator, reduction=reduction, dtype=torch.float64).build().differentiable()
    inputs = list(call.floating().values())
    once = _without_guess(call, 1.0)

    def second(outputs):
        first = torch.autograd.grad(outputs, inputs, _filled(outputs[0], 1.0), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    _teach(call, 1.0)
    outputs = call.run()
    torch.testing.assert_close(second(outputs), second(call.exact(call.tensors)))
    _teach(call, 1.0)
    (output,) = call.run()
    torch.autograd.grad(output, inputs, _filled(output, 1.0), create_graph=True)
    _same_bits(torch.autograd.grad(output, inputs, _filled(output, 1.0)), once)


def test_threads_do_not_mix():
    """Each with a cotangent of its own, of one kind of call: what one saw another may guess, and is then wrong."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(64, 200, generator=generator)
    numbers, wrong = (1.0, 2.0, 3.0), []
    logits = [torch.randn(64, 200, generator=generator).requires_grad_() for _ in numbers]

    def gradient(t, number):
        return torch.autograd.grad(number * aevb_ext.bernoulli_log_prob(x, t).sum(), t)[0]

    expected = [gradient(t, number) for t, number in zip(logits, numbers, strict=True)]
    together = threading.Barrier(len(numbers))

    def work(i):
        together.wait()
        for _ in range(200):
            if not torch.equal(gradient(logits[i], numbers[i]), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(numbers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_threads_through_one_graph():
    """Several backwards of one forward at once: one of them gets the speculative gradient."""
    x, logits = torch.rand(2, 64, 200, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(aevb_ext.bernoulli_log_prob(x, logits).sum(), logits)
    found = []
    for _ in range(50):
        total = aevb_ext.bernoulli_log_prob(x, logits).sum()
        together = threading.Barrier(3)

        def work(total=total, together=together):
            together.wait()
            found.append(torch.autograd.grad(total, logits, retain_graph=True)[0])

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 150 and all(torch.equal(gradient, expected) for gradient in found)
