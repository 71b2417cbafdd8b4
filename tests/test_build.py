"""The decisions of setup.py, and properties of the library that it built."""

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
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
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which it adds its folder
    spec = importlib.util.spec_from_file_location("aevb_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "aevb_setup", module)
    spec.loader.exec_module(module)
    return module


def torch_of(cuda: str | None, *capabilities: tuple[int, int], version: str = "2.99.0"):
    """A torch built with this CUDA, on a machine with GPUs of these capabilities."""
    return SimpleNamespace(
        __version__=version,
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


def test_nothing_is_compiled_where_that_is_asked_for(setup_py, monkeypatch):
    monkeypatch.delenv("AEVB_BUILD", raising=False)
    assert [extension.name for extension in setup_py.extensions()] == ["aevb_ext._C"]
    monkeypatch.setenv("AEVB_BUILD", "0")
    assert setup_py.extensions() == []
    monkeypatch.setenv("AEVB_BUILD", "no")
    with pytest.raises(setup_py.PlatformError, match="AEVB_BUILD=no: expected 1, or 0 to install without compiled"):
        setup_py.extensions()


def test_a_wheel_for_every_platform(tmp_path):
    """Made without a compiler and ninja, and without an import of torch."""
    (tmp_path / "torch.py").write_text("raise ImportError")
    (tmp_path / "version.py").write_text("__version__ = '99.0'")  # which is looked for beside it
    made = ["egg_info", "--egg-base", tmp_path, "build", "--build-base", tmp_path / "build", "bdist_wheel"]
    environment = {"PATH": "", "PYTHONPATH": str(tmp_path), "AEVB_BUILD": "0"}
    command = [sys.executable, "setup.py", "-q", *made, "--bdist-dir", tmp_path / "wheel", "--dist-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert "aevb_ext/functional/gaussian.py" in names and not [name for name in names if name.endswith(".so")]


def test_cuda_forbidden(setup_py, toolkit, monkeypatch):
    monkeypatch.setenv("AEVB_CUDA", "0")
    assert setup_py.choose_cuda(torch_of("13.0")) == (None, "AEVB_CUDA=0")


@pytest.mark.parametrize(
    "built_with, home, missing",
    [
        (None, None, "torch 2.99.0 is built without CUDA"),
        ("13.0", "/nowhere", "nvcc is missing: CUDA_HOME=/nowhere has no program bin/nvcc"),
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


def test_the_emulation_is_built_where_it_is_asked_for(setup_py, toolkit, monkeypatch, tmp_path):
    """Its objects are those of a build for the CPU, or have names of their own."""
    monkeypatch.setenv("AEVB_CUDA", "emulated")
    assert setup_py.choose_cuda(torch_of("13.0")) == (None, setup_py.EMULATED)
    command = setup_py.BuildOperators(setup_py.setuptools.Distribution({"name": "aevb-ext", "version": "1"}))
    command.build_temp = tmp_path
    plain, emulated = ({o.path: o for o in command._objects(torch, None, of)} for of in (False, True))
    own = emulated.keys() - plain.keys()
    assert all(plain[path] == emulated[path] for path in emulated.keys() - own)
    assert {emulated[path].source for path in own} == {
        *(ROOT / "csrc" / "cuda").glob("*.cu"),
        *(ROOT / "tests" / "emulation").glob("[lm]*.cpp"),
        ROOT / "csrc" / "ops" / "common" / "launch.cpp",
        ROOT / "csrc" / "library.cpp",
    }
    assert {plain[path].source for path in plain.keys() - emulated.keys()} == {
        ROOT / "csrc" / "ops" / "common" / "launch.cpp",
        ROOT / "csrc" / "library.cpp",
    }


def test_a_wish_that_is_none(setup_py, monkeypatch):
    monkeypatch.setenv("AEVB_CUDA", "yes")
    with pytest.raises(setup_py.PlatformError, match=r"AEVB_CUDA=yes: expected 1 .* 0 .* nothing .* or emulated"):
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
        (" 9.0 ; 8.0;9.0;", [], "9.0;8.0"),
        ("Turing", [], "7.5+PTX"),
        ("Ampere;Hopper", [], "8.0;8.6+PTX;9.0+PTX"),
    ],
)
def test_gpu_architectures(setup_py, toolkit, monkeypatch, listed, gpus, expected):
    if listed:
        monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    cuda, _ = setup_py.choose_cuda(torch_of("13.0", *gpus))
    assert cuda.arch_list == expected
    assert ("code=compute_" in " ".join(cuda.arch_flags)) == ("+PTX" in expected)


@pytest.mark.parametrize("listed", ["Volta", "Turing", "Ampere", "Ampere+Tegra", "Ada", "Hopper", "8.0 9.0a;12.0+PTX"])
def test_architectures_are_read_as_torch_reads_them(setup_py, toolkit, monkeypatch, listed):
    from torch.utils.cpp_extension import _get_cuda_arch_flags

    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    archs = sys.modules["setup_cuda"]._listed_archs(listed, ["70", "75", "80", "86", "87", "89", "90", "120"])
    cuda = setup_py.Cuda(nvcc=None, home=None, version="13.0", archs=archs)
    assert sorted(cuda.arch_flags) == _get_cuda_arch_flags()


# What cannot be built with is said in one sentence: the variable, what it is, what is expected


@pytest.mark.parametrize(
    "listed, fault",
    [
        (";", "it names none"),
        (" ", "it names none"),
        ("All", "All is no GPU architecture"),
        ("9.0;ampere", "ampere is no GPU architecture"),
        ("90", "90 is no GPU architecture"),
        ("sm_90", "sm_90 is no GPU architecture"),
        ("9.0,8.0", "9.0,8.0 is no GPU architecture"),
        ("8.0;;9.0+ptx", "9.0+ptx is no GPU architecture"),
        ("5.0", "nvcc does not know 5.0"),
        ("9.0;13.7a+PTX", "nvcc does not know 13.7a+PTX"),
        ("Volta", "nvcc does not know 7.0+PTX"),
    ],
)
def test_gpu_architectures_that_are_none(setup_py, toolkit, monkeypatch, listed, fault):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", listed)
    with pytest.raises(setup_py.PlatformError) as error:
        setup_py.choose_cuda(torch_of("13.0"))
    said = str(error.value)
    assert said.startswith(f"TORCH_CUDA_ARCH_LIST={listed}: {fault}; expected") and "7.5, 8.0, " in said
    assert ", 12.1; +PTX after a number, or a name: " in said and "Turing" in said


@pytest.mark.parametrize(
    "program, fault",
    [
        (
            "#!/bin/sh\necho; echo I am another\n",
            "does not work as nvcc: asked for its --version it said 'I am another'",
        ),
        ("#!/bin/sh\n", "does not work as nvcc: asked for its --version it said 'nothing'"),
        ("#!/nowhere/sh\n", 'it said "[Errno 2] No such file or directory'),
        (
            "#!/bin/sh\necho release 13.0\n",
            "names no GPU architectures: asked to --list-gpu-arch it said 'release 13.0'",
        ),
    ],
)
def test_nvcc_that_is_none(setup_py, toolkit, program, fault):
    (toolkit / "bin" / "nvcc").write_text(program)
    cuda, why = setup_py.choose_cuda(torch_of("13.0"))
    assert cuda is None and why.startswith(str(toolkit / "bin" / "nvcc")) and fault in why


@pytest.mark.parametrize("home", ["a file", "an empty folder", "nvcc is a folder", "nvcc is no program"])
def test_cuda_home_without_nvcc(setup_py, tmp_path, monkeypatch, home):
    place = tmp_path / "home"
    if home == "a file":
        place.touch()
    elif home == "an empty folder":
        place.mkdir()
    elif home == "nvcc is a folder":
        (place / "bin" / "nvcc").mkdir(parents=True)
    else:
        (place / "bin").mkdir(parents=True)
        (place / "bin" / "nvcc").touch()
    monkeypatch.setenv("CUDA_HOME", str(place))
    assert setup_py.choose_cuda(torch_of("13.0")) == (
        None,
        f"nvcc is missing: CUDA_HOME={place} has no program bin/nvcc",
    )


@pytest.mark.parametrize("given, expected", [("1", 1), ("7", 7), (" 02 ", 2), ("", os.cpu_count())])
def test_max_jobs(setup_py, monkeypatch, given, expected):
    monkeypatch.setenv("MAX_JOBS", given)
    assert setup_py.jobs() == expected


@pytest.mark.parametrize("given", ["abc", "0", "-1", "1.5", "1e3", "auto", "9999999999"])
def test_max_jobs_that_is_no_number_of_compilers(setup_py, monkeypatch, given):
    monkeypatch.setenv("MAX_JOBS", given)
    with pytest.raises(
        setup_py.PlatformError, match=rf"^MAX_JOBS={given}: expected .* a whole number from 1 to 999999$"
    ):
        setup_py.jobs()


@pytest.mark.parametrize(
    "variables, fault",
    [
        ({"CXX": "nonsense"}, "`nonsense` does not compile .* No such file or directory.* (CXX=nonsense); install"),
        ({"CXX": "/"}, "`/` does not compile .* Permission denied.* (CXX=/); install"),
        ({"CXX": "false"}, "`false` does not compile .* said 'nothing' (CXX=false); install"),
        ({"CXX": "env nonsense"}, "`env nonsense` does not compile .* (CXX=env nonsense); install"),
        ({"CXXFLAGS": "--nonsense"}, "`c++ --nonsense` does not compile .* (CXXFLAGS=--nonsense); install"),
        ({"PATH": "/nowhere"}, "`c++` does not compile .* No such file or directory.*; install"),
    ],
)
def test_a_compiler_that_is_none(setup_py, monkeypatch, variables, fault):
    for name in ("CXX", "CXXFLAGS"):
        monkeypatch.delenv(name, raising=False)
    if "CXXFLAGS" in variables and shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    pattern = ".*".join(re.escape(part) for part in fault.split(".*"))
    with pytest.raises(setup_py.PlatformError, match=f"^no C.. compiler: {pattern} GCC 11, .* CXX=g..-12$"):
        setup_py.host_compiler()


@pytest.mark.parametrize("name", ["CC", "CFLAGS", "CPPFLAGS", "CXX", "CXXFLAGS", "LDFLAGS", "LDSHARED"])
def test_compiler_variables_with_an_open_quotation(setup_py, monkeypatch, name):
    monkeypatch.setenv(name, "-DA='b")
    extension = setuptools.Extension("aevb_ext._C", [])
    command = setup_py.BuildOperators(setuptools.Distribution({"ext_modules": [extension]}))
    command.ensure_finalized()
    with pytest.raises(setup_py.PlatformError, match=rf"^{name}=-DA='b: expected words .* No closing quotation$"):
        command.run()


def test_a_compiler_and_its_flags(setup_py, monkeypatch):
    monkeypatch.setenv("CXX", "")
    monkeypatch.setenv("CXXFLAGS", "-O1 -DA='b c'")
    assert setup_py.host_compiler() == (["c++"], ["-O1", "-DA=b c"])


def test_torch_that_pip_would_replace_after_the_build(setup_py):
    for new in ("2.11.0+cpu", "2.13.0", "3.0.0a0"):
        setup_py.check_torch(new)
    for old in ("2.9.1+cu128", "1.13.0"):
        with pytest.raises(
            setup_py.PlatformError, match=rf"torch 2\.11 or later, and this is {re.escape(old)}: type `pip"
        ):
            setup_py.check_torch(old)


def test_python_without_its_headers(setup_py, monkeypatch, tmp_path):
    setup_py.check_headers()
    monkeypatch.setattr(setup_py.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(setup_py.PlatformError, match=rf"^{tmp_path}/Python\.h is missing.* python3-dev"):
        setup_py.check_headers()


def test_ninja_that_is_not_there(setup_py, monkeypatch):
    monkeypatch.setitem(sys.modules, "ninja", None)
    assert setup_py.find_ninja() is None
    monkeypatch.setitem(sys.modules, "ninja", SimpleNamespace(BIN_DIR=""))  # its package, and no program
    monkeypatch.setenv("PATH", "/nowhere")
    assert setup_py.find_ninja() is None


def test_setuptools_that_makes_no_wheels(setup_py, monkeypatch):
    for old in ("65.5.0", "70.0.0", "9.1"):
        monkeypatch.setattr(setuptools, "__version__", old)
        with pytest.raises(
            SystemExit, match=rf"70\.1 or later, and this is {old}: type `pip install 'setuptools>=77,<82'"
        ):
            runpy.run_path(ROOT / "setup.py")
    monkeypatch.setattr(setuptools, "__version__", "70.1.0.post20240701")
    runpy.run_path(ROOT / "setup.py")


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


@pytest.mark.parametrize("platform, compiled", [("linux", True), ("darwin", True), ("win32", False)])
def test_platforms_on_which_nothing_is_compiled(setup_py, monkeypatch, capsys, platform, compiled):
    monkeypatch.setattr(sys, "platform", platform)
    assert [extension.name for extension in setup_py.extensions()] == ["aevb_ext._C"] * compiled
    assert ("without compiled operators: " in capsys.readouterr().out) is not compiled


def test_the_baseline_alone(monkeypatch, request):
    monkeypatch.setenv("AEVB_CPU_ISA", "baseline")
    assert list(request.getfixturevalue("setup_py").INSTRUCTION_SETS) == ["baseline"]


def test_what_is_compiled_again_for_another_torch(setup_py, monkeypatch):
    """All but the kernels, which include none of it: with CUDA or without, they are the same files."""
    monkeypatch.setattr(setup_py, "host_compiler", lambda: (["c++"], []))
    command = setup_py.BuildOperators(setuptools.Distribution({"name": "aevb_ext", "version": "0"}))
    command.ensure_finalized()
    one, other = (
        {
            (str(compiled.path), *compiled.command)
            for compiled in command._objects(torch_of(None, version=version), None)
        }
        for version in ("2.98.0", "2.99.0")
    )
    kernels = {f"{source.name}.{isa}.o" for source in setup_py.KERNELS for isa in setup_py.INSTRUCTION_SETS}
    kernels.add("instruction_sets.cpp.o")
    assert {Path(path).name for path, *_ in one & other} == kernels
    assert len(one) == len(other) > len(kernels) and not {path for path, *_ in one - other} & {p for p, *_ in other}


# What is compiled again


class Sources:
    """A folder of small sources and headers, with the objects that setup.py makes of them."""

    def __init__(self, setup_py, folder: Path):
        self.setup_py, self.folder = setup_py, folder
        self.flags = {"one": [], "two": []}
        (folder / "shared.h").write_text("#pragma once\n")
        (folder / "own.h").write_text('#include "shared.h"\n')
        (folder / "one.cpp").write_text('#include "own.h"\nint one() { return 1; }\n')
        (folder / "two.cpp").write_text('#include "shared.h"\nint two() { return 2; }\n')

    def object(self, name: str):
        path = self.folder / "the objects" / f"{name}.cpp.o"
        return self.setup_py.Object(path, self.folder / f"{name}.cpp", ["c++", *self.flags[name]])

    def build(self, *names: str) -> set[str]:
        """Builds the objects of these sources; which of them were compiled."""
        before = {name: self._made(name) for name in self.flags}
        objects = [self.object(name) for name in names or self.flags]
        self.setup_py.compile_all(objects, self.folder / "the build", self.setup_py.find_ninja())
        return {name for name in self.flags if self._made(name) != before[name]}

    def _made(self, name: str) -> int | None:
        path = self.object(name).path
        return path.stat().st_mtime_ns if path.exists() else None


@pytest.fixture
def made(setup_py, tmp_path):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    return Sources(setup_py, tmp_path)


@pytest.fixture
def sources(made):
    pytest.importorskip("ninja")
    assert made.build() == {"one", "two"} and made.build() == set()
    return made


def test_a_header_compiles_what_includes_it(sources):
    for header, including in (("own.h", {"one"}), ("shared.h", {"one", "two"}), ("two.cpp", {"two"})):
        (sources.folder / header).touch()
        assert (header, sources.build()) == (header, including)
        assert sources.build() == set()


def test_a_command_compiles_what_it_is_of(sources):
    sources.flags["two"] = ["-DA='$b  c'"]
    assert sources.build() == {"two"} and sources.build() == set()


def test_an_object_that_is_lost_is_compiled_again(sources):
    sources.object("one").path.unlink()
    assert sources.build() == {"one"}


def test_a_build_of_fewer_objects_forgets_none(sources):
    """As a build for one torch, which has objects of its own, between two for another."""
    assert sources.build("one") == set() and sources.build("two") == set() and sources.build() == set()
    (sources.folder / "shared.h").touch()
    assert sources.build("one") == {"one"} and sources.build() == {"two"}


def test_what_does_not_compile_is_named(sources, monkeypatch, capfd):
    monkeypatch.setattr(sources.setup_py, "ROOT", sources.folder)
    (sources.folder / "own.h").write_text("no C++\n")
    with pytest.raises(sources.setup_py.CompileError, match=r"^one\.cpp does not compile"):
        sources.build()
    assert "own.h:1:" in capfd.readouterr().out
    (sources.folder / "own.h").write_text("")
    assert sources.build() == {"one"}


def test_without_ninja_all_is_compiled_each_time(made, monkeypatch, capfd):
    monkeypatch.setattr(made.setup_py, "find_ninja", lambda: None)
    monkeypatch.setattr(made.setup_py, "ROOT", made.folder)
    assert made.build() == {"one", "two"} == made.build()
    assert "`pip install ninja`" in capfd.readouterr().out
    (made.folder / "own.h").write_text("no C++\n")
    with pytest.raises(made.setup_py.CompileError, match=r"^one\.cpp does not compile"):
        made.build()
    assert "own.h:1:" in capfd.readouterr().out


# What was built


def test_note():
    """What can be read of the library without loading it."""
    note = _build_note.read(Path(_library._C.__file__))
    assert note == {"torch": torch.__version__, "sources": _build_note.fingerprint(ROOT / "csrc")}


def test_build_info():
    assert aevb_ext.__version__.startswith(INFO["version"])
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
    # halves makes views, and widened casts, as PyTorch does on every device. mlp_bound is made of others there.
    assert set(without) == {f"aevb_ext::{name}" for name in ("noise_key", "halves", "widened", "mlp_bound")}
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match=r"(?i)driver|no CUDA GPUs|no CUDA-capable"):
            aevb_ext.noise_key("cuda")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_openmp_runtime_is_torchs():
    """A second one would have threads of its own."""
    program = (
        "import re, torch\n"
        "def runtimes(): return set(re.findall(r'/.*/lib(?:gomp|iomp|omp)[-.\\d].*', open('/proc/self/maps').read()))\n"
        "x = torch.ones(512, 512).exp()\n"
        "of_torch = runtimes()\n"
        "import aevb_ext\n"
        "aevb_ext.gaussian_kl(x, x)\n"
        "print(len(of_torch), runtimes() == of_torch)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["1", "True"], done.stdout + done.stderr


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
    objects = sorted(ROOT.glob(f"build/temp.*-{sys.implementation.cache_tag}/kernels/cpu/*.cpp.{isa}.o"))
    if not objects:
        pytest.skip("the objects of this build are not here")
    listed = subprocess.run(["nm", "--defined-only", *objects], capture_output=True, text=True, check=True).stdout
    symbols = [line.split()[-2:] for line in listed.splitlines() if len(line.split()) > 1]
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
