"""What setup.py decides to build, and what must be true of the library that it built."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import setuptools
import torch

import aevb_ext
from aevb_ext import _build_note, _library

ROOT = Path(__file__).resolve().parents[1]
INFO = aevb_ext.build_info()


# What is built, and why


@pytest.fixture
def setup_py(monkeypatch):
    for name in ("AEVB_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    spec = importlib.util.spec_from_file_location("aevb_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "aevb_setup", module)
    spec.loader.exec_module(module)
    return module


def torch_of(cuda: str | None, *capabilities: tuple[int, int]):
    """A torch built with this CUDA, on a machine with GPUs of these capabilities."""
    return SimpleNamespace(
        __version__="2.99.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(
            device_count=lambda: len(capabilities), get_device_capability=lambda index: capabilities[index]
        ),
    )


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """CUDA_HOME with an nvcc that says it is of CUDA 13.0 and knows these architectures."""
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    archs = " ".join(f"compute_{arch}" for arch in (75, 80, 86, 89, 90, 100, 120, 121))
    nvcc.write_text(
        '#!/bin/sh\ncase "$1" in\n'
        "--version) echo 'Cuda compilation tools, release 13.0, V13.0.48';;\n"
        f"--list-gpu-arch) printf '%s\\n' {archs};;\n"
        f"--dryrun) echo '#$ TOP={tmp_path}/bin/..';;\n"
        "esac\n"
    )
    nvcc.chmod(0o755)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    return tmp_path


def test_cuda_is_built_where_torch_has_it_and_nvcc_is_found(setup_py, toolkit):
    cuda, why = setup_py.choose_cuda(torch_of("13.0"))
    assert (cuda.version, cuda.home, cuda.nvcc) == ("13.0", toolkit, toolkit / "bin" / "nvcc")
    assert "has CUDA" in why and str(cuda.nvcc) in why


def test_cuda_forbidden(setup_py, toolkit, monkeypatch):
    monkeypatch.setenv("AEVB_CUDA", "0")
    assert setup_py.choose_cuda(torch_of("13.0")) == (None, "AEVB_CUDA=0")


@pytest.mark.parametrize(
    "built_with, home, missing",
    [
        (None, None, "torch 2.99.0 is built without CUDA"),
        ("13.0", "/nowhere", "nvcc is missing: CUDA_HOME=/nowhere has no bin/nvcc"),
        ("12.8", None, "the major versions must agree"),
    ],
)
def test_cuda_impossible(setup_py, toolkit, monkeypatch, built_with, home, missing):
    """Wished for, it is an error that says what is missing; otherwise it is the reason for building without."""
    if home:
        monkeypatch.setenv("CUDA_HOME", home)
    cuda, why = setup_py.choose_cuda(torch_of(built_with))
    assert cuda is None and missing in why
    monkeypatch.setenv("AEVB_CUDA", "1")
    with pytest.raises(setup_py.PlatformError, match="AEVB_CUDA=1, but CUDA cannot be built") as error:
        setup_py.choose_cuda(torch_of(built_with))
    assert missing in str(error.value)


def test_a_wish_that_is_none(setup_py, monkeypatch):
    monkeypatch.setenv("AEVB_CUDA", "yes")
    with pytest.raises(setup_py.PlatformError, match=r"AEVB_CUDA=yes: expected 1 .* 0 .* or nothing"):
        setup_py.choose_cuda(torch_of("13.0"))


@pytest.mark.parametrize(
    "listed, gpus, expected",
    [
        (None, [], "8.0;8.6;8.9;9.0;10.0;12.0+PTX"),
        (None, [(9, 0)], "9.0"),
        (None, [(12, 0), (8, 0), (8, 0)], "8.0;12.0"),
        (None, [(13, 7)], "12.1+PTX"),  # newer than nvcc: PTX of the newest that it knows
        ("8.0 9.0a;12.0+PTX", [(9, 0)], "8.0;9.0a;12.0+PTX"),
        ("native", [(8, 9)], "8.9"),
    ],
)
def test_gpu_architectures(setup_py, toolkit, monkeypatch, listed, gpus, expected):
    if listed:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    cuda, _ = setup_py.choose_cuda(torch_of("13.0", *gpus))
    assert cuda.arch_list == expected
    assert ("code=compute_" in " ".join(cuda.arch_flags)) == ("+PTX" in expected)


def test_gpu_architecture_of_no_known_form(setup_py, toolkit, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0;Ampere")
    with pytest.raises(setup_py.PlatformError, match="Ampere is not of the form"):
        setup_py.choose_cuda(torch_of("13.0"))


def test_the_command_fails_before_it_compiles(tmp_path):
    """The whole of setup.py, with the torch that is installed here."""
    environment = {**os.environ, "AEVB_CUDA": "1", "CUDA_HOME": "/nowhere"}
    command = [sys.executable, "setup.py", "build_ext", f"--build-temp={tmp_path}", f"--build-lib={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert "AEVB_CUDA=1, but CUDA cannot be built" in done.stderr
    assert ("/nowhere" if torch.version.cuda else "is built without CUDA") in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_objects_of_an_editable_installation_are_kept(setup_py):
    """`pip install -e` finds what `build_ext --inplace` compiled, and compiles nothing again."""
    places = []
    for editable in (False, True):
        distribution = setuptools.Distribution({"cmdclass": {"build_ext": setup_py.BuildOperators}})
        command = distribution.get_command_obj("build_ext")
        if editable:  # as setuptools' editable_wheel has it
            distribution.get_command_obj("build").build_temp = "temporary"
            command.editable_mode = True
        command.ensure_finalized()
        places.append(command.build_temp)
    assert places[0] == places[1]


# What was built


def test_note():
    """What can be read of the library without loading it."""
    note = _build_note.read(Path(_library._C.__file__))
    assert note == {"torch": torch.__version__, "sources": _build_note.fingerprint(ROOT / "csrc")}


def test_build_info():
    assert INFO["version"] == aevb_ext.__version__
    assert torch.__version__.split("+")[0] == INFO["torch"].split("+")[0]
    assert INFO["cpu_in_use"] in INFO["cpu_built"]


def test_every_operator_has_a_cuda_kernel():
    if INFO["cuda"] is None:
        assert os.environ.get("AEVB_CUDA") != "1", "AEVB_CUDA=1, and the library has no CUDA"
        pytest.skip("built without CUDA")
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aevb_ext::")]
    assert len(names) >= 10, names  # five functions, forward and backward
    without = [name for name in names if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA")]
    # noise_key takes no tensor to be dispatched on: one kernel goes by its argument `device`, to CUDA's code too.
    # halves makes views, as PyTorch does on every device.
    assert set(without) == {"aevb_ext::noise_key", "aevb_ext::halves"}
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r"(?i)driver|no CUDA GPUs|no CUDA-capable"):
            aevb_ext.noise_key("cuda")


def of_instruction_set(symbol: str, isa: str) -> bool:
    """Whether a mangled name lies in, or is made of, aevb's namespace for an instruction set."""
    return f"4aevb{len(isa)}{isa}" in symbol


needs_several = pytest.mark.skipif(len(INFO["cpu_built"]) == 1, reason="one instruction set alone")


@needs_several
@pytest.mark.skipif(shutil.which("objdump") is None, reason="objdump is not installed")
def test_no_wide_instruction_outside_its_own_namespace():
    """An old CPU runs everything but the kernels of the other instruction sets: it must meet no AVX there."""
    command = ["objdump", "-d", "--no-show-raw-insn", _library._C.__file__]
    wide = {"avx2": set(), "avx512": set(), "elsewhere": set()}
    function, place = "", "elsewhere"
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as objdump:
        for line in objdump.stdout:
            if header := re.match(r"[0-9a-f]+ <(.+)>:", line):
                function = header[1]
                place = next((isa for isa in ("avx2", "avx512") if of_instruction_set(function, isa)), "elsewhere")
            # Every instruction of AVX and later is spelt v..., on xmm registers too; verr and verw are older.
            elif re.match(r"\s+[0-9a-f]+:\s+v(?!er[rw])", line):
                wide[place].add(function)
    assert objdump.returncode == 0
    assert wide["elsewhere"] == set()
    assert wide["avx2"] and wide["avx512"]  # or this test sees nothing


@needs_several
@pytest.mark.skipif(shutil.which("nm") is None, reason="nm is not installed")
@pytest.mark.parametrize("isa", INFO["cpu_built"])
def test_objects_share_no_symbol_between_instruction_sets(isa):
    """The linker keeps one of several equal inline functions, whichever: none may be equal between the objects."""
    kind = "cuda" if INFO["cuda"] else "cpu"
    objects = sorted(ROOT.glob(f"build/temp*/torch-{torch.__version__}/{kind}/cpu/kernels.cpp.{isa}.o"))
    if not objects:
        pytest.skip("the objects of this build are not here")
    listed = subprocess.run(["nm", "--defined-only", objects[0]], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-2:] for line in listed.splitlines()]
    shared = [name for kind, name in symbols if kind.isupper() or kind in "uvw"]
    assert shared and [name for name in shared if not of_instruction_set(name, isa)] == []


@needs_several
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="qemu-user is not installed")
@pytest.mark.parametrize("cpu, isa", [("Nehalem", "baseline"), ("Haswell", "avx2")])
def test_older_cpus(cpu, isa):
    """On a CPU without AVX and on one with AVX2 alone every operator runs, forward and backward, and is right."""
    # OpenBLAS, which NumPy brings, takes an emulated CPU for one with instructions that it lacks.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Prescott"}
    environment.pop("AEVB_CPU_ISA", None)
    command = ["qemu-x86_64", "-cpu", cpu, sys.executable, "-m", "aevb_ext", "doctor"]
    done = subprocess.run(
        command, cwd=Path(aevb_ext.__file__).parents[1], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(rf"instruction set +{isa} ", done.stdout)
