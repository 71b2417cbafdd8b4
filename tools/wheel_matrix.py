"""Prints which wheels to build, for .github/workflows/wheels.yml: those of which PyTorch's index has the torch.

    python tools/wheel_matrix.py

The index has a page of each accelerator; not every Python, machine and minor version is on each. Of a minor version the
latest patch is built with: a library fits all of them.
"""

import json
import re
import urllib.request
from collections.abc import Iterable

INDEX = "https://download.pytorch.org/whl"
ACCELERATORS = ("cpu", "cu126", "cu128", "cu130")
TORCHES = ("2.11", "2.12", "2.13", "2.14")
PYTHONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
RUNNERS = {"x86_64": "ubuntu-latest", "aarch64": "ubuntu-24.04-arm"}

_WHEEL = re.compile(
    r"torch-(?P<minor>\d+\.\d+)\.(?P<patch>\d+)(?:\+|%2B)(?P<accelerator>cpu|cu\d+)"
    r"-cp(?P<python>3\d+)-cp(?P=python)-manylinux\w*?_(?P<machine>x86_64|aarch64)\.whl"
)


def matrix(pages: Iterable[str]) -> list[dict[str, str]]:
    """The builds, by the pages of the index: what ``strategy.matrix.include`` takes."""
    latest: dict[tuple[str, ...], int] = {}
    for page in pages:
        for wheel in _WHEEL.finditer(page):
            python = f"3.{wheel['python'][1:]}"
            key = wheel["minor"], wheel["accelerator"], python, wheel["machine"]
            if wheel["minor"] in TORCHES and wheel["accelerator"] in ACCELERATORS and python in PYTHONS:
                latest[key] = max(latest.get(key, 0), int(wheel["patch"]))
    return [
        {
            "torch": f"{minor}.{patch}+{accelerator}",
            "accelerator": accelerator,
            # As NVIDIA's packages call it: nothing, or 12-6.
            "cuda": re.sub(r"cu(\d\d)(\d)", r"\1-\2", accelerator) if accelerator != "cpu" else "",
            "python": f"cp{python.replace('.', '')}",
            "machine": machine,
            "runner": RUNNERS[machine],
        }
        for (minor, accelerator, python, machine), patch in sorted(latest.items())
    ]


def _read(accelerator: str) -> str:
    with urllib.request.urlopen(f"{INDEX}/{accelerator}/torch/", timeout=60) as page:
        text: str = page.read().decode()
    return text


if __name__ == "__main__":
    print(json.dumps(matrix(map(_read, ACCELERATORS))))
