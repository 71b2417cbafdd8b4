"""Every public function in half precision under autocast, with a GradScaler."""

import pytest
import torch
from program import Program, inputs, seeded, value_and_gradients
from public import ROWS

HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


@HALF
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_autocast_and_grad_scaler(row, dtype, device):
    """Layers in half precision, the rest as it comes: the gradients are those of float32 to half precision."""
    program, arguments = Program(row, device), inputs(8, device)
    expected, _, gradients = value_and_gradients(program, *arguments)
    optimizer, scaler = (
        torch.optim.SGD(program.parameters(), lr=0.1),
        torch.amp.GradScaler(device.type, init_scale=2.0**10),
    )
    with torch.autocast(device.type, dtype):
        loss, _ = seeded(program, *arguments)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    # A few roundings, of numbers of the size of the largest.
    rounding = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(loss.float(), expected, rtol=rounding, atol=rounding)
    largest = max(g.abs().max().item() for g in gradients)
    for p, gradient in zip(program.parameters(), gradients, strict=False):
        assert p.grad.dtype == torch.float32
        torch.testing.assert_close(p.grad, gradient, rtol=0, atol=rounding * largest)
    before = [p.detach().clone() for p in program.parameters()]
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 2.0**10, "an overflow was found"
    for p, start in zip(program.parameters(), before, strict=True):
        torch.testing.assert_close(p.detach(), start - 0.1 * p.grad)
