"""Finds and loads the compiled operators; says why and what to do where there are none."""

import importlib.util
import os
import re
import sys
import sysconfig
import warnings
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from . import _build_note
from ._version import __version__

PACKAGE = Path(__file__).resolve().parent
CSRC = PACKAGE.parent / "csrc"  # in a source folder

# The command that builds the library again. A library that lies beside the sources is replaced there (-e).
_BESIDE = (CSRC / "library.cpp").is_file() and any(PACKAGE.glob("_C*.so"))
REBUILD = f"pip install --no-build-isolation --force-reinstall --no-deps {'-e ' * _BESIDE}."


def wheel_of(version: str) -> re.Match[str] | None:
    """What the version of a wheel says of the torch that it fits: 0.1.0+torch2.13.cpu (make wheel)."""
    return re.fullmatch(r"(?P<of>.*[+.]torch)(?P<torch>\d+\.\d+)\.(?P<accelerator>\w+)", version)


# Who has a wheel has no source folder.
_WHEEL = wheel_of(__version__)


def find(package: Path, path: list[str]) -> tuple[ModuleSpec | None, str]:
    """The library to load or None, and a message about what is wrong with it.

    The library usually lies beside this file. In a source folder after `pip install .` there is none, or an earlier
    build, because the folder hides the installed package. Then the installed package's library is loaded, if it was
    compiled from this folder's C++.

    Args:
        package: the folder of this package.
        path: where Python looks for packages, `sys.path`.
    """
    if os.environ.get("AEVB_LIBRARY") == "0":
        return None, "aevb_ext's compiled library is not loaded, since AEVB_LIBRARY=0 is set: unset it to have it."
    csrc, fault, outdated = package.parent / "csrc", None, None
    if beside := PathFinder.find_spec("aevb_ext._C", [str(package)]):
        library = _file_of(beside)
        fault = of_another_torch(library)
        outdated = None if fault else of_earlier_sources(library, csrc)
        if fault is None and outdated is None:
            return beside, ""
    if (csrc / "library.cpp").is_file() and (installed := _installed(package, path)):
        library = _file_of(installed)
        hidden = _built_from_other_sources(library, csrc) or of_another_torch(library)
        if hidden is None:
            return installed, ""
        fault = fault or hidden
    if outdated:
        return beside, outdated
    return None, fault or _not_built(package)


def _file_of(spec: ModuleSpec) -> Path:
    return Path(spec.origin)  # type: ignore[arg-type]  # a library's spec has an origin


def _installed(package: Path, path: list[str]) -> ModuleSpec | None:
    elsewhere = [entry for entry in path if Path(entry).resolve() != package.parent]
    hidden = PathFinder.find_spec("aevb_ext", elsewhere)
    return PathFinder.find_spec("aevb_ext._C", hidden.submodule_search_locations or []) if hidden else None


def of_another_torch(library: Path, built: str | None = None) -> str | None:
    """A message if the library was built for another torch than this one; checked before the library is loaded.

    PyTorch's C++ interface changes from one minor version to the next: an operator may be missing, and a class with
    another layout makes the library compute nonsense. Within a minor version the interface stays.

    Args:
        built: the version that it was built for, if that is known. Default: the version in its build note, if it has
            one.
    """
    built = built or _build_note.read(library).get("torch")
    if built is None or _interface(built) == _interface(torch.__version__):
        return None
    return (
        f"aevb_ext's compiled library ({library}) was built for torch {built}, and this is torch {torch.__version__}, "
        f"whose C++ interface is another. {_cure(built)} (see `aevb doctor`)."
    )


def _cure(built: str) -> str:
    if _WHEEL:
        here = ".".join(torch.__version__.split(".")[:2])
        return (
            f"Install the wheel for this torch from where you have this one, `pip install "
            f"aevb-ext=={_WHEEL['of']}{here}.{_WHEEL['accelerator']}`, or the torch that this one fits: `pip install "
            f"'torch=={_WHEEL['torch']}.*'`"
        )
    return (
        f"Build it again in this environment: `{REBUILD}` in the source folder; or install what it was built for: "
        f"`pip install torch=={_public(built)}`"
    )


def _public(version: str) -> str:
    """The version without its local part: 2.13.0+cpu and 2.13.0+cu130 are one version."""
    return version.partition("+")[0]


def _interface(version: str) -> str:
    """The part of a torch version that fixes its C++ interface: major.minor, or all of it for a pre-release."""
    release = re.fullmatch(r"(\d+\.\d+)\.\d+", _public(version))
    return release[1] if release else version


def of_earlier_sources(library: Path, csrc: Path) -> str | None:
    """A message if the library was built before the C++ sources beside it changed, as far as its note can tell."""
    built = _build_note.read(library).get("sources")
    if built is None or not (csrc / "library.cpp").is_file() or built == _build_note.fingerprint(csrc):
        return None
    return (
        f"aevb_ext's compiled library ({library}) was built before {csrc} changed, and may not be what Python calls. "
        f"Build it again: `{REBUILD}` in {csrc.parent}."
    )


def _built_from_other_sources(library: Path, csrc: Path) -> str | None:
    if _build_note.read(library).get("sources") == _build_note.fingerprint(csrc):
        return None
    return (
        f"aevb_ext is imported from {csrc.parent}, where it was not built, and the library of the installed one "
        f"({library}) was built from other sources than {csrc} now has. Build it again: `{REBUILD}` in that folder."
    )


def _not_built(package: Path) -> str:
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    if others := sorted(path.name for path in package.glob("_C*.so")):
        return (
            f"aevb_ext's compiled library is there for another Python ({', '.join(others)}; this one loads "
            f"_C{suffix}). Build it for this one: `{REBUILD}` in the source folder (see `aevb doctor`)."
        )
    return (
        f"aevb_ext's compiled library is not there: the package in {package} was not built. "
        "Run `pip install --no-build-isolation .` in the source folder (see `aevb doctor`)."
    )


def _load(spec: ModuleSpec) -> tuple[ModuleType | None, str]:
    """The module and "", or None and a message why it does not load."""
    library = _file_of(spec)
    noted = _build_note.read(library).get("torch")
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)  # type: ignore[union-attr]  # a file's spec has a loader
    except ImportError as error:
        built_for = f"torch {noted}" if noted else "another torch"
        return None, (
            f"aevb_ext's compiled library ({library}) was built for {built_for} and does not load with torch "
            f"{torch.__version__}. Build it again in this environment: `{REBUILD}` in the source folder (see `aevb "
            f"doctor`). The loader said: {error}"
        )
    # Without a note, the library itself has to be asked. With one it is not: build_info() picks the instruction set.
    if noted is None and (fault := of_another_torch(library, module.build_info()["torch"])):
        return None, fault
    sys.modules[spec.name] = module
    return module, ""


_C, (_spec, _fault) = None, find(PACKAGE, sys.path)
if _spec:
    _C, _why = _load(_spec)
    _fault = _why or _fault
EMULATED = (
    "this aevb_ext was built with AEVB_CUDA=emulated, for tests: CPU tensors run the CUDA kernels, by a slow "
    "emulation. For anything else build it without: `AEVB_CUDA=0 " + REBUILD + "` in the source folder."
)
SLOWER = "Until then every function computes its formula in plain PyTorch, with the same results but slower."
if _C is None:
    _fault = f"{_fault} {SLOWER}"


def _warn(message: str) -> None:
    """Warn of the line outside this package that imports it, or calls it."""
    frame = sys._getframe()
    while frame.f_back and frame.f_code.co_filename.startswith((str(PACKAGE), "<frozen importlib")):
        frame = frame.f_back
    registry = frame.f_globals.setdefault("__warningregistry__", {})
    warnings.warn_explicit(message, RuntimeWarning, frame.f_code.co_filename, frame.f_lineno, registry=registry)


for _said in (_fault, EMULATED if getattr(_C, "emulated", False) else ""):
    if _said:
        _warn(_said)
ops: Any = torch.ops.aevb_ext


# Compiled graphs call overloads: let these be called directly (csrc/ops/common/direct_call.h). An earlier library, of
# which there was a warning, has no such calls.
for _name in getattr(_C, "direct_operators", list)():
    _overload = getattr(ops, _name.removeprefix("aevb_ext::")).default
    _overload._op = _C.direct_call(_name, _overload._op)  # type: ignore[union-attr]  # it has one


def _devices_with_kernels() -> frozenset[str]:
    if _C is None:
        return frozenset()
    # In PyTorch for ROCm a device of type "cuda" is one of AMD's.
    with_cuda = getattr(_C, "has_cuda", False) and torch.version.hip is None
    return frozenset(("cpu", "meta", "cuda") if with_cuda else ("cpu", "meta"))


# The types of devices with kernels in this library (for meta, shapes only). With tensors of any other, and of all if
# there is no library, the public functions compute their formulas in plain PyTorch (_fallback.py).
KERNELS = _devices_with_kernels()

_warned: set[str] = set()


def warn_of_formulas(device: str) -> None:
    """Warn, once for a type of device, if it has no kernels here. If there is no library, the import has warned."""
    if _C is None or device in KERNELS or device in _warned:
        return
    _warned.add(device)
    cure = ""
    if device == "cuda" and torch.version.hip is None:
        cure = (
            " Build it with CUDA: with nvcc and a CUDA build of PyTorch installed, run `AEVB_CUDA=1 "
            f"{REBUILD}` in the source folder (`aevb doctor` says what is missing)."
        )
    named = "AMD GPUs (ROCm)" if device == "cuda" and torch.version.hip else f"the device type {device}"
    _warn(
        f"aevb_ext's compiled library has no kernels for {named}: functions of its tensors compute their formulas in "
        f"plain PyTorch, with the same results but slower. torch.compile fuses them there.{cure}"
    )


# As functional.sampling._call_number: torch.compile calls it while it traces.
warn_of_formulas._dynamo_marked_constant = True  # type: ignore[attr-defined]  # any function has attributes


def is_loaded() -> bool:
    return _C is not None


def fault() -> str:
    """What is wrong with the compiled library and what to do; "" if nothing is."""
    return _fault


def build_info() -> dict[str, Any]:
    """How the compiled library was built and what it uses here.

    Returns:
        dict with ``version`` (of aevb_ext), ``commit``, ``torch`` (built against), ``cuda`` (toolkit version, or None
        for a CPU-only build), ``arch_list`` (GPU architectures compiled for), ``emulated`` (whether CPU tensors run the
        CUDA kernels by emulation, as in tests), ``compiler``, ``cpu_built`` (instruction sets in the library) and
        ``cpu_in_use`` (the one chosen on this machine). Without a compiled library ``cpu_in_use`` is ``"reference"``
        (the formulas in plain PyTorch), ``commit`` is ``"unknown"``, and what is of a build is None or empty.
    """
    if _C is None:
        return {
            "version": __version__,
            "commit": "unknown",
            "torch": None,
            "cuda": None,
            "arch_list": "",
            "emulated": False,
            "compiler": None,
            "cpu_built": [],
            "cpu_in_use": "reference",
        }
    info: dict[str, Any] = _C.build_info()
    return info
