"""Includes go downward alone: nothing in formulas/, cpu/ and cuda/ sees torch, and a plain program can run a kernel."""

import re
from pathlib import Path

import pytest

CSRC = Path(__file__).resolve().parents[1] / "csrc"

# What each may include of ours, and of others: the C++ library, the compiler's own headers, CUDA's; torch from ops/ on.
# Above these layers, the operators and library.cpp may include anything.
LAYERS = {
    "formulas": (["formulas"], r"[a-z_]+"),
    "call.h": (["formulas"], r"[a-z_]+"),
    "cpu": (["formulas", "call.h", "cpu"], r"[a-z_]+|(immintrin|arm_neon|cpuid)\.h"),
    "cuda": (["formulas", "call.h", "cuda"], r"[a-z_]+|cuda_[a-z0-9_]+\.h"),
    "ops/common": (["formulas", "call.h", "cpu", "cuda", "ops/common"], r".*"),
}


def is_of(layer: str, name: str) -> bool:
    return name == layer or name.startswith(f"{layer}/")


def forbidden(name: str, text: str) -> list[str]:
    """What a file of csrc includes that its layer may not."""
    layers, others = next(LAYERS[layer] for layer in LAYERS if is_of(layer, name))
    ours = re.findall(r'^\s*#\s*include\s*"(.*)"', text, re.MULTILINE)
    theirs = re.findall(r"^\s*#\s*include\s*<(.*)>", text, re.MULTILINE)
    assert len(ours) + len(theirs) == len(re.findall(r"#\s*include", text)), f"{name} has an include of another form"
    allowed = [any(is_of(layer, header) for layer in layers) and (CSRC / header).is_file() for header in ours]
    return [header for header, fine in zip(ours, allowed, strict=True) if not fine] + [
        header for header in theirs if not re.fullmatch(others, header)
    ]


@pytest.mark.parametrize("layer", LAYERS)
def test_includes_go_downward(layer):
    files = [CSRC / layer] if layer.endswith(".h") else sorted((CSRC / layer).rglob("*"))
    names = [path.relative_to(CSRC).as_posix() for path in files]
    found = {name: forbidden(name, (CSRC / name).read_text()) for name in names}
    assert found and not any(found.values()), found


@pytest.mark.parametrize(
    "name, header",
    [
        ("formulas/gaussian.h", "<torch/library.h>"),
        ("formulas/gaussian.h", '"call.h"'),
        ("formulas/gaussian.h", '"formulas/nowhere.h"'),
        ("call.h", '"cpu/kernels.h"'),
        ("cpu/rows.h", '"cuda/tiling.h"'),
        ("cpu/rows.h", "<ATen/Parallel.h>"),
        ("cpu/rows.h", "<cuda_fp16.h>"),
        ("cpu/rows.h", '"../ops/common/rows.h"'),
        ("cuda/noise_key.cu", "<ATen/cuda/PhiloxCudaState.h>"),
        ("cuda/rows.cuh", '"ops/common/rows.h"'),
        ("ops/common/rows.h", '"ops/halves.h"'),
    ],
)
def test_an_include_that_goes_upward(name, header):
    fine = (CSRC / name).read_text()
    assert forbidden(name, f"#include {header}\n{fine}") == [header.strip('"<>')]


# What waits for the device, or reads a number that it has computed.
WAITS = re.compile(
    r"Synchronize|cudaMemcpy|cudaMalloc|cudaFree|\.item(<\w+>)?\(|\.cpu\(|_local_scalar_dense|is_nonzero|(?<!std::)\bequal\(|"
    r"\bnonzero\(|masked_select"
)


def test_nothing_waits_for_the_device():
    sources = [path for path in CSRC.rglob("*") if path.is_file()]
    assert len(sources) > 50
    assert not {str(path): found for path in sources if (found := WAITS.findall(path.read_text()))}


@pytest.mark.parametrize(
    "line",
    ["x.item<double>()", "x.item()", "cudaStreamSynchronize(s);", "x.cpu()", "at::equal(a, b)", "x.is_nonzero()"],
)
def test_what_waits_is_seen(line):
    assert WAITS.search(line)
