"""Nothing reads a number of a CUDA tensor, forward or backward, so that no host waits for a device."""

import contextlib

import pytest
import torch
from no_numbers import RUNTIME, autocast, waits, without_numbers
from program import Program, in_plain_pytorch, inputs, seeded, value_and_gradients
from public import FUNCTIONS, ROWS
from test_autocast import MIXED, SEVERAL, mixed, outputs_and_gradients
from torch._subclasses.fake_tensor import DataDependentOutputException

# Fake tensors take twenty times as long as those without numbers.
SOME = ROWS if RUNTIME else FUNCTIONS


def _of(row):
    """A program and what it is called with, when all copies to the device are done."""
    program, arguments = Program(row, "cuda"), inputs(4, "cuda")
    waits()
    return program, arguments


def _check(tree):
    assert all(t.device.type == "cuda" for t in torch.utils._pytree.tree_leaves(tree))
    assert waits() == []


def test_a_read_is_seen():
    refused = pytest.raises(DataDependentOutputException)
    with without_numbers(), contextlib.nullcontext() if RUNTIME else refused:
        t = torch.ones(3, device="cuda")
        waits()
        t.sum().item()
    assert waits() == (["copy to the host, 4 bytes on stream 0", "wait: for stream 0"] if RUNTIME else [])


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_value_and_gradients(row):
    with without_numbers():
        program, arguments = _of(row)
        _check(value_and_gradients(program, *arguments))


@pytest.mark.parametrize("row", FUNCTIONS, ids=str)
def test_formulas_in_plain_pytorch(row):
    """As a device without kernels has them."""
    with without_numbers(), in_plain_pytorch():
        program, arguments = _of(row)
        _check(value_and_gradients(program, *arguments))


@pytest.mark.parametrize("row", [row for row in SOME if row.draws_noise], ids=str)
def test_noise_of_a_key_that_is_drawn(row):
    with without_numbers():
        program, arguments = _of(row)
        _check(value_and_gradients(program, *arguments[:3]))


@pytest.mark.parametrize("row", SOME, ids=str)
def test_second_derivatives(row):
    with without_numbers():
        program, (x, *rest) = _of(row)
        x.requires_grad_()
        loss, _ = seeded(program, x, *rest)
        (of_x,) = torch.autograd.grad(loss, x, create_graph=True)
        _check(torch.autograd.grad(loss + of_x.square().sum(), [*program.parameters(), x]))


def _dtypes(tree):
    return [t.dtype for t in torch.utils._pytree.tree_leaves(tree)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16] if RUNTIME else [torch.bfloat16], ids=str)
@pytest.mark.parametrize("row", SOME, ids=str)
def test_under_autocast(row, dtype):
    """Our operators' results have the dtypes that they have on the CPU; other rows have PyTorch's own operators too."""
    with without_numbers():
        program, arguments = _of(row)
        with autocast(dtype):
            found = value_and_gradients(program, *arguments)
        _check(found)
    with torch.autocast("cpu", dtype):
        expected = value_and_gradients(Program(row), *inputs(4))
    assert _dtypes(found[2]) == _dtypes(expected[2])
    if row in FUNCTIONS:
        assert _dtypes(found) == _dtypes(expected)


@pytest.mark.parametrize(("dtypes", "widest"), MIXED, ids=str)
@pytest.mark.parametrize("operator", SEVERAL if RUNTIME else SEVERAL[1:2], ids=str)
def test_operands_of_several_dtypes_under_autocast(operator, dtypes, widest):
    """Results and gradients have the dtypes that they have on the CPU, where test_autocast.py looks at their values."""
    call = mixed(operator, dtypes, torch.device("cpu"))
    expected = outputs_and_gradients(call, contextlib.nullcontext(), lambda t: t.to(widest))
    with without_numbers():
        found = outputs_and_gradients(mixed(operator, dtypes, torch.device("cuda")), autocast(torch.bfloat16))
    assert _dtypes(found) == _dtypes(expected)
    assert [g.dtype for g in found[1]] == [t.dtype for t in call.tensors.values()]
