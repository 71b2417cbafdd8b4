"""Replacing attributes of a third-party package, and putting them back."""

import functools
import importlib.metadata
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


class PatchError(RuntimeError):
    """A patch could not be applied or undone; the package is as it was before the attempt."""


class AlreadyPatched(PatchError):
    """An attribute is replaced by another patch that has not been undone."""


class OutOfOrder(PatchError):
    """A patch is undone that is not in force, or whose attributes have been replaced again since."""


class UnknownVersion(PatchError):
    """The patch was not tested with the installed version of the package."""


class NotInstalled(ImportError, PatchError):
    """The package is not installed."""


def require(distribution: str, versions: tuple[str, ...]) -> None:
    """Check that one of ``versions`` of ``distribution`` is installed, without importing it.

    A local version suffix (torch's ``+cpu``) does not count.

    Raises:
        NotInstalled, UnknownVersion: naming what is installed and what is known.
    """
    known = " or ".join(versions)
    try:
        installed = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        raise NotInstalled(
            f"{distribution} is not installed: pip install '{distribution}=={versions[-1]}'", name=distribution
        ) from None
    if installed.partition("+")[0] not in versions:
        raise UnknownVersion(f"{distribution} {installed} is installed; its patch knows {known} only")


@dataclass(frozen=True)
class Replacement:
    """An attribute that a patch replaces, and the function that replaces it.

    Args:
        owner: a class or a module, one of whose own attributes is replaced; or a dict, one of whose entries is.
        name: the attribute's name, or the dict's key. A dict may lack the key: undoing removes it again.
        function: called instead, with the same arguments. If it returns ``NotImplemented``, the original is called as
            if there were no patch, and the call is not counted. Within ``torch.jit.trace`` and forward-mode
            differentiation, which the operators do not support, the original is called at once.
        label: the attribute's name in ``Patch.attributes``, ``Patch.calls`` and messages. Default: ``"Class.method"``
            or ``"module.function"``; for a dict there is no default.
    """

    owner: Any
    name: Any
    function: Callable
    label: str = ""

    def __str__(self):
        if self.label:
            return self.label
        return f"{self.owner.__qualname__ if isinstance(self.owner, type) else self.owner.__name__}.{self.name}"

    def current(self):
        """The present value (of a class, its own entry: neither bound nor inherited)."""
        return (self.owner if isinstance(self.owner, MutableMapping) else vars(self.owner)).get(self.name, _ABSENT)

    def write(self, value) -> None:
        if isinstance(self.owner, MutableMapping):
            if value is _ABSENT:
                del self.owner[self.name]
            else:
                self.owner[self.name] = value
        else:
            setattr(self.owner, self.name, value)


_ABSENT = object()

# The patch in force of each replaced attribute, by (id of the owner, name).
_in_force: dict[tuple[int, Any], "Patch"] = {}


class Patch:
    """Attributes of a package, replaced from its creation until :meth:`undo`, or until the end of a ``with`` block.

    Args:
        package: the package's name, for messages.
        replacements: what is replaced.
        on_change: called after the attributes are written, on creation and on undoing (to update the package's caches).

    Attributes:
        attributes: the names of all replaced attributes.
        calls: how many calls reached our operators through each of them. Calls in code traced by torch.compile or
            torch.export are not counted: counting would be a side effect of the graph.

    Raises:
        AlreadyPatched: another patch of one of the attributes is in force.
        PatchError: an attribute is not there, or not a function; or writing failed.
    """

    def __init__(self, package: str, replacements: list[Replacement], on_change: Callable[[], None] = lambda: None):
        self.package = package
        self._replacements = list(replacements)
        self._on_change = on_change
        self.attributes = tuple(str(r) for r in self._replacements)
        self.calls = dict.fromkeys(self.attributes, 0)
        for r in self._replacements:
            self._check(r)
        self._originals = [r.current() for r in self._replacements]
        self._ours = [self._counted(r, old) for r, old in zip(self._replacements, self._originals, strict=True)]
        self._write(self._ours, self._originals, "applied")
        _in_force.update((_place(r), self) for r in self._replacements)

    @property
    def is_applied(self) -> bool:
        return all(_in_force.get(_place(r)) is self for r in self._replacements)

    def undo(self) -> None:
        """Put the original objects back.

        Raises:
            OutOfOrder: the patch is not in force (it was undone before), or one of the attributes has been replaced
                since: undo that replacement first. Nothing is changed then.
        """
        if not self.is_applied:
            raise OutOfOrder(f"the patch of {self.package} was undone already")
        for r, ours in zip(self._replacements, self._ours, strict=True):
            if r.current() is not ours:
                raise OutOfOrder(
                    f"{r} of {self.package} has been replaced since it was patched, by {_describe(r.current())}: "
                    "undo that first, then this patch"
                )
        self._write(self._originals, self._ours, "undone")
        for r in self._replacements:
            del _in_force[_place(r)]

    def __enter__(self) -> "Patch":
        if not self.is_applied:
            raise OutOfOrder(f"the patch of {self.package} was undone already: make a new one")
        return self

    def __exit__(self, *_) -> None:
        if self.is_applied:
            self.undo()

    def _check(self, r: Replacement) -> None:
        if _place(r) in _in_force:
            raise AlreadyPatched(
                f"{r} of {self.package} is patched already: undo that patch (of {_in_force[_place(r)].package}) first"
            )
        current = r.current()
        if isinstance(r.owner, MutableMapping) and current is _ABSENT:
            return
        if current is _ABSENT or isinstance(current, staticmethod | classmethod) or not callable(current):
            raise PatchError(f"{r} of {self.package} should be a function, but is {_describe(current)}")

    def _counted(self, r: Replacement, original) -> Callable:
        function, calls, label = r.function, self.calls, str(r)

        @functools.wraps(function if original is _ABSENT else original)
        def replacement(*args, **kwargs):
            asked = original is _ABSENT or not _originals_only()
            result = function(*args, **kwargs) if asked else NotImplemented
            if result is NotImplemented:
                if original is _ABSENT:
                    raise NotImplementedError(f"{label} is not defined for these arguments")
                return original(*args, **kwargs)
            if not torch.compiler.is_compiling():
                calls[label] += 1
            return result

        return replacement

    def _write(self, new: list, old: list, done: str) -> None:
        """Write all attributes, or none if one fails."""
        written = []
        try:
            for r, value, before in zip(self._replacements, new, old, strict=True):
                r.write(value)
                written.append((r, before))
            self._on_change()
        except Exception as error:
            for r, before in reversed(written):
                r.write(before)
            raise PatchError(f"the patch of {self.package} could not be {done}: {error}") from error


def are_dense(*values) -> bool:
    """Whether these are dense tensors. Other arguments (numbers, proxies, sparse tensors) go to the original."""
    return all(isinstance(v, Tensor) and v.layout == torch.strided and not v.is_nested for v in values)


def _originals_only() -> bool:
    """Whether torch.jit.trace or forward-mode differentiation (such as torch.func.jvp) is active."""
    return torch.jit.is_tracing() or forward_ad._current_level >= 0


def _place(r: Replacement) -> tuple[int, Any]:
    return id(r.owner), r.name


def _describe(value) -> str:
    if value is _ABSENT:
        return "not there"
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
