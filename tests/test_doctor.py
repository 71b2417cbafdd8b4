"""`aevb doctor` finds no fault in a sound installation, and gives a cure for each fault it knows."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import aevb_ext
from aevb_ext import _build_note, _library, doctor, functional

PACKAGE = Path(aevb_ext.__file__).parent


def build_info(**changes):
    return lambda: {**aevb_ext.build_info(), **changes}


def test_a_sound_installation_has_no_fault(capsys):
    assert doctor.main() == 0
    said = capsys.readouterr().out
    info = aevb_ext.build_info()
    for expected in (aevb_ext.__version__, torch.__version__, info["torch"], info["commit"], info["cpu_in_use"]):
        assert expected in said
    assert "No fault found" in said


def copied_package(folder: Path) -> Path:
    """The package without its library."""
    return Path(shutil.copytree(PACKAGE, folder / "aevb_ext", ignore=shutil.ignore_patterns("*.so", "__pycache__")))


def run_doctor(folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-c", "from aevb_ext import doctor; raise SystemExit(doctor.main())"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_library_of_another_torch(tmp_path):
    """A library that needs a symbol which this torch does not have, as one built for another torch does."""
    compiler = shutil.which(os.environ.get("CC", "cc"))
    if compiler is None:
        pytest.skip("no C compiler")
    library = copied_package(tmp_path) / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    source = tmp_path / "library.c"
    source.write_text("void of_another_torch(void); void* PyInit__C(void) { of_another_torch(); return 0; }")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    done = run_doctor(tmp_path)
    assert done.returncode == 1, done.stderr
    said = f"({library}) was built for another torch and does not load with torch {torch.__version__}"
    assert said in done.stdout and "`pip install --no-" in done.stdout and "of_another_torch" in done.stdout
    assert f"RuntimeWarning: aevb_ext's compiled library {said}" in done.stderr  # by the import


def test_the_command_says_in_a_line_that_there_is_no_library(tmp_path):
    copied_package(tmp_path)
    shutil.copy(PACKAGE.parent / "aevb_command.py", tmp_path)
    program = "import sys; from aevb_command import main; sys.argv[1:] = ['doctor']; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "fault 1: " in done.stdout
    assert re.fullmatch("warning: aevb_ext's compiled library .*\n", done.stderr)


def test_library_that_was_built_before_its_sources_changed(monkeypatch, tmp_path):
    library = tmp_path / "_C.so"
    library.touch()
    (tmp_path / "library.cpp").touch()
    _build_note.write(library, torch=torch.__version__, sources="those")
    monkeypatch.setattr(_library._C, "__file__", str(library))
    monkeypatch.setattr(_library, "CSRC", tmp_path)
    (fault,) = doctor.faults()
    assert f"({library}) was built before {tmp_path} changed" in fault and doctor.REBUILD in fault
    library.write_bytes(b"")
    _build_note.write(library, torch=torch.__version__, sources=_build_note.fingerprint(tmp_path))
    assert doctor.faults() == []


def test_gpu_that_the_library_was_not_built_for_at_all(monkeypatch):
    monkeypatch.setattr(_library, "build_info", build_info(cuda=None))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "NVIDIA Test")
    (fault,) = doctor.faults()
    assert "NVIDIA Test" in fault and "CPU alone" in fault and "AEVB_CUDA=1" in fault


def test_gpu_that_torch_was_not_built_for(monkeypatch, tmp_path):
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho NVIDIA Test, 580.1\n")
    smi.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    (fault,) = doctor.faults()
    assert "NVIDIA Test, 580.1" in fault and "Install a CUDA build of PyTorch" in fault


@pytest.mark.parametrize(
    "arch_list, capability, runs",
    [
        ("8.0", (8, 0), True),
        ("8.0", (8, 9), True),  # the same major version, a later minor one
        ("8.6", (8, 0), False),
        ("8.0", (9, 0), False),  # machine code is of one major version
        ("8.0+PTX", (12, 0), True),  # PTX is of every later one
        ("9.0a", (9, 0), True),
        ("10.0a", (10, 3), False),
        ("8.0;8.6;8.9;9.0;10.0;12.0+PTX", (12, 1), True),
        ("9.0;12.0+PTX", (7, 5), False),
    ],
)
def test_what_an_arch_list_runs_on(arch_list, capability, runs):
    assert doctor.runs_on(arch_list, capability) is runs


def test_an_operator_that_computes_something_else(monkeypatch):
    right = functional.gaussian_kl
    monkeypatch.setattr(functional, "gaussian_kl", lambda *args, **kwargs: right(*args, **kwargs) + 1)
    (fault,) = doctor.faults()
    assert fault.startswith("gaussian_kl is wrong on cpu")
