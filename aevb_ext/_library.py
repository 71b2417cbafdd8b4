"""Loads the compiled operators; says what to do when they cannot be loaded."""

import importlib

import torch


class _Missing:
    """Stands in for the operators of a library that did not load, so that `aevb doctor` can still run."""

    def __init__(self, why: str):
        self.why = why

    def __getattr__(self, name: str):
        raise ImportError(self.why)


def _cure(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            "aevb_ext's compiled library is not there: the package was not built. "
            "Run `pip install --no-build-isolation .` in the source folder (see `aevb doctor`)."
        )
    return (
        f"aevb_ext's compiled library does not load with torch {torch.__version__}: it was built for another torch. "
        "Build it again in this environment: `pip install --no-build-isolation --force-reinstall --no-deps .` "
        f"in the source folder (see `aevb doctor`). The loader said: {error}"
    )


try:
    _C = importlib.import_module("._C", __package__)
    ops = torch.ops.aevb_ext
except ImportError as error:
    _C = None
    ops = _Missing(_cure(error))


def is_loaded() -> bool:
    return _C is not None


def build_info() -> dict:
    """How the compiled library was built and what it uses here.

    Returns:
        dict with ``version`` (of aevb_ext), ``commit``, ``torch`` (built against), ``cuda`` (toolkit version, or None
        for a CPU-only build), ``arch_list`` (GPU architectures compiled for), ``compiler``, ``cpu_built`` (instruction
        sets in the library) and ``cpu_in_use`` (the one chosen on this machine).

    Raises:
        ImportError: the compiled library does not load; the message names the cure.
    """
    if not is_loaded():
        raise ImportError(ops.why)
    return _C.build_info()
