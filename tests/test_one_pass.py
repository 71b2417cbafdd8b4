"""Value and gradient in one pass of the CUDA kernels, for a cotangent that they guess: the bits of two passes.

Which rows a backward computes again, and what is guessed when, are checks of tests/emulation (test_emulation.py).
"""

import pytest
import torch
from cases import Case, Shape
from program import same_bits
from test_speculative_gradient import CASES, REDUCED, SPECULATIVE, _case, _events, _filled, _without_guess

import aevb_ext

pytestmark = pytest.mark.skipif(not aevb_ext.build_info()["emulated"], reason="`make emulate` runs it")


def _backward(call, outputs, cotangent, **options):
    return torch.autograd.grad(outputs, list(call.floating().values()), cotangent, **options)


def _gradients(call, number):
    (output,) = call.run()
    return _backward(call, [output], _filled(output, number))


def _teach(call, number):
    """Two equal cotangents: the next forward guesses a third."""
    for _ in range(2):
        _gradients(call, number)


def _kept(call):
    """The bytes of the gradients that wait for a cotangent."""
    with torch.profiler.profile(profile_memory=True) as profile:
        outputs = call.run()
    events = profile.events()
    allocated = sum(event.cpu_memory_usage for event in events if not event.cpu_parent)
    return allocated - sum(o.untyped_storage().nbytes() for o in outputs)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_bits_do_not_depend_on_the_guess(case):
    call = case.build().differentiable()
    plain = {number: _without_guess(call, number) for number in (-0.3, 7.0)}
    (value,) = case.build().run()
    for number in (-0.3, -0.3, -0.3, 7.0):  # the third is guessed right, the last wrong
        (output,) = call.run()
        assert same_bits([output.detach()], [value])
        assert same_bits(_backward(call, [output], _filled(output, number)), plain[number])


@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
@pytest.mark.parametrize("reduction", REDUCED)
class TestOneCall:
    def _taught(self, operator, reduction):
        call = _case(operator, reduction=reduction).build().differentiable()
        expected = _without_guess(call, 3.0)
        _teach(call, 3.0)
        return call, expected

    def test_a_gradient_is_given_once(self, operator, reduction):
        """What the user has changed in place is not given again, nor changed by the next backward."""
        call, expected = self._taught(operator, reduction)
        (output,) = call.run()
        given = [_filled(output, 3.0)]
        first = _backward(call, [output], given, retain_graph=True)
        for g in first:
            g.fill_(99)
        second = _backward(call, [output], given, retain_graph=True)
        third = _backward(call, [output], [_filled(output, 5.0)])
        assert all((g == 99).all() for g in first)
        assert same_bits(second, expected) and same_bits(third, _without_guess(call, 5.0))

    def test_calls_in_between(self, operator, reduction):
        """Of the same key: they change the history, and not what this call has guessed."""
        call, expected = self._taught(operator, reduction)
        (output,) = call.run()
        _teach(call, 5.0)
        (other,) = call.run()
        assert same_bits(_backward(call, [output], [_filled(output, 3.0)]), expected)
        assert same_bits(_backward(call, [other], [_filled(other, 3.0)]), expected)

    def test_only_some_gradients(self, operator, reduction):
        for number in (3.0, 5.0):
            call, _ = self._taught(operator, reduction)
            expected = _without_guess(call, number)
            for wanted, of_all in zip(call.floating().values(), expected, strict=True):
                (output,) = call.run()
                found = torch.autograd.grad(output, wanted, _filled(output, number))
                assert same_bits(found, [of_all])

    def test_second_derivatives(self, operator, reduction):
        """By formulas of PyTorch, which take nothing of what was computed; a backward after them does."""
        call, expected = self._taught(operator, reduction)
        (output,) = call.run()
        given = [_filled(output, 3.0)]
        _backward(call, [output], given, create_graph=True)
        assert same_bits(_backward(call, [output], given), expected)

    def test_it_waits_beside_what_is_saved(self, operator, reduction):
        """Until the backward, or until the call is forgotten; not where none may come, nor after one that did not."""
        call, _ = self._taught(operator, reduction)
        gradients = sum(t.nbytes for t in call.floating().values())
        assert _kept(call) >= gradients  # and then nobody asks
        assert _kept(call) < gradients
        _gradients(call, 3.0)
        with torch.no_grad():
            assert _kept(call) < gradients
        assert _kept(call) >= gradients


def test_rows_of_several_cotangents():
    x = torch.rand(6, 784, generator=torch.Generator().manual_seed(0))
    logits = (8 * x - 4).flip(1).requires_grad_()

    def gradient(cotangents, hooked=False):
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t)
        with hooks if hooked else torch.enable_grad():
            (found,) = torch.autograd.grad(aevb_ext.bernoulli_log_prob(x, logits), logits, cotangents)
            return [found.view(torch.int32)]  # NaN too

    for last in (2.0, 0.0, float("nan")):
        for rows in ([2.0] * 6, [2.0] * 6, [2.0, 1.0, 0.0, -0.0, float("nan"), last]):
            assert same_bits(gradient(torch.tensor(rows)), gradient(torch.tensor(rows), hooked=True))
        wide = torch.tensor([2.0, 5.0]).repeat(6)[::2]
        assert same_bits(gradient(wide), gradient(torch.full((6,), 2.0), hooked=True))
        assert same_bits(gradient(torch.ones(()).expand(6)), gradient(torch.ones(6), hooked=True))


@pytest.mark.parametrize("operator", SPECULATIVE, ids=str)
def test_a_gradient_summed_over_rows_takes_two_passes(operator):
    """Of an operand with one number for a row: it has the bits of the sum that a backward alone makes."""
    if not operator.takes_spread or "kl" in operator.name:
        pytest.skip("its operands have one shape")
    call = Case(operator, Shape((3,), (784,)), torch.float32, form="scalar", reduction="mean").build().differentiable()
    expected = _without_guess(call, 1.0)
    _teach(call, 1.0)
    assert _kept(call) < sum(t.nbytes for t in call.floating().values())
    assert same_bits(_gradients(call, 1.0), expected)


def test_a_profile_has_the_backward():
    call = _case(SPECULATIVE[0]).build().differentiable()
    _teach(call, 1.0)
    ours = [name for name in _events(lambda: _gradients(call, 1.0)) if name.startswith("aevb_ext::")]
    assert ours == [f"aevb_ext::{SPECULATIVE[0].name}", f"aevb_ext::{SPECULATIVE[0].name}_backward"]
