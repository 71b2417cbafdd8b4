"""The extras of this package: what each is for, which of its packages are missing here, and what to type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

__all__ = ["EXTRAS", "PURPOSES", "check_extra", "command", "lacking", "missing", "of_extra"]

# The packages of each extra as pip calls them, with the names that they are imported by.
EXTRAS = {
    "train": {
        "numpy": "numpy",
        "matplotlib": "matplotlib",
        "pillow": "PIL",
        "pooch": "pooch",
        "rich": "rich",
        "safetensors": "safetensors",
        "tqdm": "tqdm",
    },
    "tensorboard": {"tensorboard": "tensorboard"},
    "anndata": {"anndata": "anndata"},
    "export": {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript"},
}
PURPOSES = {
    "train": "the trainer",
    "tensorboard": "aevb train --tensorboard",
    "anndata": ".h5ad files",
    "export": "ONNX in aevb export",
}


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed, as pip calls them. Nothing is imported."""
    return [package for package, module in EXTRAS[extra].items() if find_spec(module) is None]


def lacking(extra: str, what: str) -> str:
    """A message that says what to type if packages of an extra are not installed; "" if all are.

    Args:
        extra: a key of ``EXTRAS``.
        what: what needs it: "aevb train", "aevb_ext.train".
    """
    if not (absent := missing(extra)):
        return ""
    those = f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'}"
    return f"{what} needs the extra {extra!r}, of which {those} not installed here: type `{command(extra)}`"


def check_extra(extra: str, what: str) -> None:
    """Raise ImportError with the message of :func:`lacking` if packages of an extra are not installed."""
    if told := lacking(extra, what):
        raise ImportError(told)


def command(extra: str) -> str:
    """What to type for an extra: in the source folder, where the package is not installed."""
    from importlib import metadata  # which takes as long as all that `aevb --help` needs

    try:
        metadata.version("aevb-ext")
    except metadata.PackageNotFoundError:
        return f"pip install --no-build-isolation '.[{extra}]'"
    return f"pip install 'aevb-ext[{extra}]'"


@contextmanager
def of_extra(extra: str, what: str) -> Iterator[None]:
    """A context, and a decorator, of imports: where a package of the extra is missing, ``check_extra`` raises."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name and error.name.partition(".")[0] in EXTRAS[extra].values():
            check_extra(extra, what)
        raise
