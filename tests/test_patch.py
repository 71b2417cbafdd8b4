"""Patches of third-party packages, tested on a made-up package: all or nothing, in order, and counted."""

import importlib
import sys

import pytest
import torch

from aevb_ext.integrations import AlreadyPatched, NotInstalled, OutOfOrder, Patch, PatchError, UnknownVersion
from aevb_ext.integrations._patch import Replacement, require

SOURCE = """
def double(x):
    "Twice x."
    return 2 * x

class Shape:
    def __init__(self, size):
        self.size = size

    def area(self, scale=1):
        return scale * self.size**2

    @staticmethod
    def unit():
        return 1

    sides = 4

class Square(Shape):
    pass

registry = {"double": double}
"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``made_up`` 1.2, installed as pip would have it."""
    (tmp_path / "made_up.py").write_text(SOURCE)
    metadata = tmp_path / "made_up-1.2+local.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.2+local\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield importlib.import_module("made_up")
    del sys.modules["made_up"]


def _area(self, scale=1):
    return NotImplemented if scale == 0 else ("ours", self.size, scale)


def _double(x):
    return ("ours", x)


def _replacements(package):
    return [
        Replacement(package, "double", _double),
        Replacement(package.Shape, "area", _area),
        Replacement(package.registry, "double", _double, "registry[double]"),
        Replacement(package.registry, "triple", lambda x: ("ours", 3 * x), "registry[triple]"),
    ]


def _state(package):
    return vars(package).copy(), dict(vars(package.Shape)), dict(vars(package.Square)), package.registry.copy()


def test_replaces_what_it_names_and_puts_the_same_objects_back(package):
    before = _state(package)
    patch = Patch("made_up", _replacements(package))
    assert patch.attributes == ("made_up.double", "Shape.area", "registry[double]", "registry[triple]")
    assert package.double(3) == ("ours", 3) == package.registry["double"](3)
    assert package.registry["triple"](1) == ("ours", 3)
    assert package.Square(5).area(scale=2) == ("ours", 5, 2)
    assert package.double.__doc__ == "Twice x." and package.Shape.area.__qualname__ == "Shape.area"
    changed = {name for name, old in before[0].items() if vars(package)[name] is not old}
    assert changed == {"double"}
    assert {name for name, old in before[1].items() if vars(package.Shape)[name] is not old} == {"area"}
    patch.undo()
    assert _state(package) == before
    assert package.double(3) == 6 and package.Square(5).area() == 25


def test_counts_the_calls_that_it_answers(package):
    with Patch("made_up", _replacements(package)) as patch:
        package.double(1), package.double(2), package.Shape(3).area()
        assert package.Shape(3).area(scale=0) == 0  # the original's answer
        with pytest.raises(TypeError):
            package.double()
    package.double(1)
    assert patch.calls == {"made_up.double": 2, "Shape.area": 1, "registry[double]": 0, "registry[triple]": 0}


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_traces_and_forward_derivatives_are_of_the_original(package):
    x = torch.tensor([1.0, 2.0])
    with Patch("made_up", [Replacement(package, "double", lambda x: x * 0)]) as patch:
        assert torch.equal(torch.jit.trace(package.double, x, check_trace=False)(x), 2 * x)
        assert torch.equal(torch.func.jvp(package.double, (x,), (x,))[1], 2 * x)
        assert torch.equal(torch.func.hessian(lambda x: package.double(x * x).sum())(x), torch.eye(2) * 4)
        with torch.autograd.forward_ad.dual_level():
            assert torch.equal(package.double(x), 2 * x)
        assert not any(patch.calls.values())
        assert torch.equal(package.double(x), 0 * x)  # and afterwards ours again
    assert patch.calls["made_up.double"] == 1


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
def test_what_has_no_original_is_ours_within_a_trace(package):
    with Patch("made_up", [Replacement(package.registry, "triple", lambda x: 3 * x, "triple")]) as patch:
        x = torch.tensor(2.0)
        assert torch.jit.trace(lambda x: package.registry["triple"](x), x)(x) == 6
    assert patch.calls["triple"] >= 1


def test_an_exception_within_the_block_undoes(package):
    before = _state(package)
    with pytest.raises(ZeroDivisionError), Patch("made_up", _replacements(package)):
        raise ZeroDivisionError
    assert _state(package) == before


def test_undone_within_the_block(package):
    with Patch("made_up", _replacements(package)) as patch:
        patch.undo()
        assert not patch.is_applied
    assert package.double(3) == 6


def test_caches_are_dropped_on_both_changes(package):
    changes = []
    with Patch("made_up", _replacements(package), on_change=lambda: changes.append(package.double(3))):
        assert changes == [("ours", 3)]
    assert changes == [("ours", 3), 6]


class TestErrorsLeaveThePackageAsItWas:
    def test_patching_twice(self, package):
        with Patch("made_up", _replacements(package)[:2]) as patch:
            state = _state(package)
            with pytest.raises(AlreadyPatched, match=r"Shape.area of made_up is patched already"):
                Patch("made_up", [Replacement(package.registry, "triple", _double, "x"), _replacements(package)[1]])
            assert _state(package) == state and patch.is_applied
        Patch("made_up", _replacements(package)).undo()

    def test_undoing_twice(self, package):
        patch = Patch("made_up", _replacements(package))
        patch.undo()
        before = _state(package)
        with pytest.raises(OutOfOrder, match="made_up was undone already"):
            patch.undo()
        with pytest.raises(OutOfOrder, match="make a new one"), patch:
            pass
        with Patch("made_up", _replacements(package)):
            with pytest.raises(OutOfOrder):
                patch.undo()
            assert package.double(3) == ("ours", 3)
        assert _state(package) == before

    def test_undoing_out_of_order(self, package):
        patch = Patch("made_up", _replacements(package))
        ours, theirs = package.Shape.area, lambda self: 0
        package.Shape.area = theirs
        state = _state(package)
        with pytest.raises(OutOfOrder, match=r"Shape.area of made_up has been replaced .* by test_patch.*lambda"):
            patch.undo()
        assert _state(package) == state and patch.is_applied
        package.Shape.area = ours
        patch.undo()
        assert package.Shape(2).area() == 4

    def test_undoing_when_the_attribute_is_gone(self, package):
        patch = Patch("made_up", _replacements(package))
        ours = package.registry.pop("triple")
        with pytest.raises(OutOfOrder, match=r"registry\[triple\] .* by not there"):
            patch.undo()
        package.registry["triple"] = ours
        patch.undo()

    @pytest.mark.parametrize("name", ["sides", "unit", "volume"])
    def test_not_a_method_of_the_class(self, package, name):
        before = _state(package)
        replacements = [*_replacements(package), Replacement(package.Shape, name, _area)]
        with pytest.raises(PatchError, match=rf"Shape.{name} of made_up should be a function, but is"):
            Patch("made_up", replacements)
        assert _state(package) == before

    def test_an_inherited_method_is_not_the_class_own(self, package):
        with pytest.raises(PatchError, match=r"Square.area of made_up should be a function, but is not there"):
            Patch("made_up", [Replacement(package.Square, "area", _area)])

    def test_failure_halfway(self, package):
        """The second of three attributes cannot be written: the first is put back."""
        before = _state(package)
        replacements = _replacements(package)
        replacements[1:2] = [Replacement(torch.Tensor.__base__, "dim", _area)]  # a type of C refuses
        with pytest.raises(PatchError, match=r"made_up could not be applied: .*immutable type"):
            Patch("made_up", replacements)
        assert _state(package) == before
        Patch("made_up", _replacements(package)).undo()

    def test_failure_halfway_of_undoing(self, package):
        def refuse():
            if package.double(1) == 2:
                raise OSError("the cache is locked")

        patch = Patch("made_up", _replacements(package), on_change=refuse)
        state = _state(package)
        with pytest.raises(PatchError, match="made_up could not be undone: the cache is locked"):
            patch.undo()
        assert _state(package) == state and patch.is_applied


class TestRequire:
    def test_known_version(self, package):
        require("made-up", ("1.1", "1.2"))

    def test_unknown_version(self, package):
        with pytest.raises(
            UnknownVersion, match=r"made-up 1\.2\+local is installed; its patch knows 1\.1 or 1\.3 only"
        ):
            require("made-up", ("1.1", "1.3"))

    def test_not_installed(self):
        with pytest.raises(NotInstalled, match=r"nowhere is not installed: pip install 'nowhere==1\.3'") as raised:
            require("nowhere", ("1.1", "1.3"))
        assert isinstance(raised.value, ImportError) and raised.value.name == "nowhere"

    @pytest.mark.parametrize("error", [AlreadyPatched, NotInstalled, OutOfOrder, UnknownVersion])
    def test_every_error_is_a_patch_error(self, error):
        assert issubclass(error, PatchError) and issubclass(error, RuntimeError)


def test_compiled_code_goes_through_without_a_graph_break(package):
    class Module(torch.nn.Module):
        def scaled(self, x, scale):
            return x * scale

        def forward(self, x, scale):
            return self.scaled(x, scale)

    replacement = Replacement(Module, "scaled", lambda self, x, scale: NotImplemented if scale == 1 else x - scale)
    with Patch("made_up", [replacement]) as patch:
        compiled = torch.compile(Module(), backend="eager", fullgraph=True)
        x = torch.arange(3.0)
        assert torch.equal(compiled(x, 2), x - 2) and torch.equal(compiled(x, 1), x)
        assert torch.equal(Module()(x, 2), x - 2)
    assert list(patch.calls.values()) == [1]
