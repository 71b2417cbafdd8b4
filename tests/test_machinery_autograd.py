"""Every public function in autograd: second derivatives, several backwards, checkpoints, modes."""

import pytest
import torch
from program import Program, in_plain_pytorch, inputs, same_bits, seeded, value_and_gradients
from public import ROWS
from torch.utils.checkpoint import checkpoint

every_row = pytest.mark.parametrize("row", ROWS, ids=str)


def _with_penalty(program, x, *rest):
    """The gradients of a loss with a penalty on the norm of its gradient (Gulrajani et al. 2017, eq. 3)."""
    x = x.detach().requires_grad_()
    loss, _ = seeded(program, x, *rest)
    (of_x,) = torch.autograd.grad(loss, x, create_graph=True)
    penalty = (of_x.norm(dim=1) - 1).square().mean()
    return torch.autograd.grad(loss + 10 * penalty, [*program.parameters(), x])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("row", [row for row in ROWS if row.takes_key], ids=str)
def test_gradient_penalty(row, dtype, device):
    program = Program(row, device)
    with in_plain_pytorch():
        expected = _with_penalty(program.double(), *inputs(4, device, torch.float64))
    found = _with_penalty(program.to(dtype), *inputs(4, device, dtype))
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-4}[dtype]
    torch.testing.assert_close([g.double() for g in found], list(expected), rtol=tolerance, atol=tolerance / 10)


@every_row
def test_two_backwards(row, device):
    program, arguments = Program(row, device), inputs(4, device)
    loss, _ = program(*arguments)
    first, second = (torch.autograd.grad(loss, list(program.parameters()), retain_graph=r) for r in (True, False))
    assert same_bits(first, second)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, list(program.parameters()))


@pytest.mark.parametrize("use_reentrant", [False, True])
@every_row
def test_checkpoint(row, use_reentrant, device):
    """The forward that is computed again draws the same noise from a key of its own."""
    program, arguments = Program(row, device), inputs(4, device)[:3]

    def checkpointed(*arguments):
        return checkpoint(program, *arguments, use_reentrant=use_reentrant)

    results = []
    for run in (program, checkpointed):
        x = arguments[0].detach().requires_grad_()
        loss, outputs = seeded(run, x, *arguments[1:])
        torch.rand(1, device=device)  # what else is drawn in between
        loss.backward()
        results.append((loss, outputs, [p.grad for p in program.parameters()], x.grad))
        program.zero_grad()
    assert same_bits(*results)


@every_row
def test_deterministic_algorithms(row, device):
    """Nothing that it does is refused, and it changes nothing."""
    program, arguments = Program(row, device), inputs(4, device)
    expected = value_and_gradients(program, *arguments)
    torch.use_deterministic_algorithms(True)
    try:
        assert same_bits(value_and_gradients(program, *arguments), expected)
    finally:
        torch.use_deterministic_algorithms(False)


@every_row
def test_inference_mode(row, device):
    program, arguments = Program(row, device), inputs(4, device)
    with torch.inference_mode():
        loss, outputs = seeded(program, *arguments)
    assert loss.is_inference() and all(output.is_inference() for output in outputs)
    assert same_bits((loss, outputs), seeded(program, *arguments))
