"""What can be shown of CUDA without a GPU: tests/stand_in, in a process whose CUDA is a stand-in.

With a CUDA build of PyTorch its runtime is replaced (emulation/runtime.cpp) by one that executes no kernel and writes
down what it is asked for. The CPU build is told that there is a device (emulation/fake_device.cpp), and its tensors are
fake.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import aevb_ext

ROOT = Path(__file__).resolve().parents[1]
FOLDER, SOURCES = ROOT / "tests" / "stand_in", ROOT / "tests" / "emulation"
CUDA = torch.version.cuda is not None
HEADERS = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "include"


def _build(folder: Path) -> Path:
    setup = runpy.run_path(str(ROOT / "setup.py"))
    compiler, flags = setup["host_compiler"]()
    shared = [*compiler, *flags, "-std=c++20", "-shared", "-fPIC", "-Wall", "-Wextra"]
    if CUDA:
        library = folder / "libcuda.so.1"  # which PyTorch's libraries look for by this name
        of_build = [SOURCES / "runtime.cpp", "-isystem", HEADERS, "-Wl,-soname,libcuda.so.1", "-ldl"]
    else:
        library, torch_folder = folder / "fake_device.so", Path(torch.__file__).parent
        libraries = [f"-L{torch_folder / 'lib'}", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch_folder / 'lib'}"]
        of_build = [SOURCES / "fake_device.cpp", "-isystem", torch_folder / "include", *libraries]
    command = [*shared, *of_build, "-o", library]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stderr}"
    return library


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no library is loaded before PyTorch's")
@pytest.mark.skipif(
    CUDA and not str(torch.version.cuda).startswith("13."), reason="the stand-in has the interface of CUDA 13's runtime"
)
@pytest.mark.skipif(
    CUDA and not (aevb_ext.build_info()["cuda"] and (HEADERS / "cuda_runtime_api.h").is_file()),
    reason=f"with a CUDA build of PyTorch it needs one of aevb_ext, and the toolkit's headers in {HEADERS}",
)
def test_in_a_process_with_a_stand_in_for_cuda(tmp_path):
    package = Path(aevb_ext.__file__).parents[1]
    path = os.pathsep.join([str(package), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", FOLDER],
        env=os.environ | {"LD_PRELOAD": str(_build(tmp_path)), "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]


WAITING = "|".join(
    (
        r"\bitem(<|\()|_local_scalar_dense|\bis_nonzero\b|at::equal",  # the host asks for a number
        r"\bnonzero\b|masked_select",  # or for a size that depends on numbers
        r"\bto\([^)]*kCPU|\.cpu\(|cudaMemcpy\w*",
        r"\w*Synchronize\b|\bsynchronize\b",
    )
)


def test_no_source_calls_what_waits_for_a_device():
    sources = [path for path in (ROOT / "csrc").rglob("*.*") if "cpu" not in path.parts]
    found = {path.name: match[0] for path in sources if (match := re.search(WAITING, path.read_text()))}
    assert len(sources) > 50 and found == {}
