"""Every public function has a row in the table, and works with unusual tensors and copied modules."""

import copy
import pickle
import re

import pytest
import torch
from program import Program, inputs, same_bits, value_and_gradients
from public import FUNCTIONS, MODULES, ROWS, SHARED, WITHOUT_GRADIENT
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.testing._internal.two_tensor import TwoTensor

from aevb_ext._library import is_loaded

every_row = pytest.mark.parametrize("row", ROWS, ids=str)


@pytest.mark.parametrize("prefix", MODULES)
def test_every_public_name_has_a_row(prefix):
    names = {prefix + name for name in MODULES[prefix].__all__} - WITHOUT_GRADIENT - SHARED
    # A row is of a name, or of a method of one.
    assert names == {name for name in names if any(f"{row.name}.".startswith(name + ".") for row in ROWS)}


def _shapes(tree):
    return [(t.shape, t.stride(), t.dtype) for t in torch.utils._pytree.tree_leaves(tree)]


class Named(torch.Tensor):
    """A subclass that notes what is done with it."""

    calls = ()

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.calls += (str(function),)
        return super().__torch_function__(function, types, args, kwargs)


@every_row
def test_subclass(row, device):
    """It sees the operators called, and gets what plain tensors get."""
    program, (x, *rest) = Program(row, device), inputs(4, device)
    Named.calls = ()
    found = value_and_gradients(program, x.as_subclass(Named), *rest)
    if row in FUNCTIONS and is_loaded():
        assert any("aevb_ext" in call for call in Named.calls)
    assert all(type(output) is Named for output in found[1])
    assert same_bits(found, value_and_gradients(program, x, *rest))


@every_row
def test_wrapper_subclass(row, device):
    """Of two tensors, each of which an operator is called with."""
    program, (x, *rest) = Program(row, device), inputs(4, device)
    loss, outputs, gradients = value_and_gradients(program, TwoTensor(x, x / 2), *rest)
    found = [t.a for t in (loss, *outputs, *gradients)], [t.b for t in (loss, *outputs, *gradients)]
    for half, expected in zip(found, (x, x / 2), strict=True):
        loss, outputs, gradients = value_and_gradients(program, expected, *rest)
        assert same_bits(half, [loss, *outputs, *gradients])


@every_row
def test_meta_tensors(row):
    program, arguments = Program(row), inputs(4)
    expected = _shapes(value_and_gradients(program, *arguments))
    found = value_and_gradients(program.to("meta"), *(t.to("meta") for t in arguments))
    assert _shapes(found) == expected
    assert all(t.is_meta for t in torch.utils._pytree.tree_leaves(found))


@every_row
def test_fake_tensors(row, device):
    expected = value_and_gradients(Program(row, device), *inputs(4, device))
    with FakeTensorMode():
        found = value_and_gradients(Program(row, device), *inputs(4, device))
    assert _shapes(found) == _shapes(expected)
    for t in torch.utils._pytree.tree_leaves(found):
        assert isinstance(t, FakeTensor) and t.device.type == device.type


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64], ids=str)
@pytest.mark.parametrize("row", [row for row in ROWS if not row.any_dtype], ids=str)
def test_other_dtypes_are_refused_by_name(row, dtype):
    program, (x, y, _, key) = Program(row), inputs(4)
    tensors = {name: t.detach() for name, t in program.tensors(x, y).items()}
    for name, t in tensors.items():
        with pytest.raises(TypeError) as caught:
            program.outputs(tensors | {name: t.to(dtype)}, key)
        words = rf"(?i)\b{name} .*got.*({str(dtype).removeprefix('torch.')}|ComplexFloat)"
        assert re.search(words, str(caught.value)), caught.value


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("row", [row for row in ROWS if row.module], ids=str)
def test_copies_of_modules(row, copied, device):
    program, arguments = Program(row, device), inputs(4, device)
    twin = copy.copy(program)
    twin._modules = program._modules | {"module": copied(program.module)}
    assert same_bits(value_and_gradients(twin, *arguments), value_and_gradients(program, *arguments))
    assert list(twin.module.state_dict()) == list(program.module.state_dict())
    assert {p.data_ptr() for p in twin.module.parameters()}.isdisjoint(
        p.data_ptr() for p in program.module.parameters()
    )
