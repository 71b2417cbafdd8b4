"""Builds aevb_ext._C, the compiled operators; says in one line what it builds and why.

Environment variables:
    AEVB_BUILD            0: nothing is compiled, and neither torch nor a compiler is needed. The package is Python
                          alone, and computes its formulas in plain PyTorch. Default: 1.
    AEVB_CUDA             1: with CUDA, or an error that says what is missing. 0: without. Default: CUDA where torch has
                          it and nvcc is found. emulated: for tests, the CUDA kernels compiled for the CPU, slow, and
                          in place of its own (tests/emulation).
    CUDA_HOME             the CUDA toolkit. Default: the one of the nvcc on PATH, or /usr/local/cuda.
    TORCH_CUDA_ARCH_LIST  GPU architectures, e.g. "8.0;9.0+PTX". Default: those of the GPUs that are visible, or else
                          every current one.
    AEVB_COMMIT           what build_info() says of the source, where this is neither a git repository nor an sdist.
    AEVB_WHEEL            1: a wheel for others, whose version names the torch that it fits (make wheel).
    CXX, CXXFLAGS         the C++ compiler, and flags that follow those given here.
    AEVB_CPU_ISA          baseline: the CPU kernels for that instruction set alone, compiled in a third of the time.
    MAX_JOBS              how many compilers run at once. Default: one per core.

Ninja runs the compilers, as it does for torch's own BuildExtension, which knows one set of flags for all C++ sources:
here those of the CPU kernels are compiled once per instruction set, and library.cpp alone is told the commit, so that a
new commit does not compile everything again.
"""

import contextlib
import os
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import setuptools
from setuptools import Extension, setup

# As pyproject.toml has it, which pip does not look at without build isolation. Earlier ones make no wheels.
if tuple(map(int, setuptools.__version__.split(".")[:2])) < (70, 1):
    sys.exit(
        f"error: aevb_ext is built with setuptools 70.1 or later, and this is {setuptools.__version__}: type "
        "`pip install 'setuptools>=77,<82'`, and then what you typed once more"
    )

from setuptools.command.build import build
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.dist_info import dist_info
from setuptools.command.sdist import sdist
from setuptools.errors import CompileError, PlatformError

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # which pip does not put there
from setup_cuda import EMULATED, Cuda, choose_cuda, first_line
from setup_version import OLDEST_TORCH, commit, freeze, minor, requirements, torch_version, version, with_torch

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"

CHOICE_OF_KERNELS = CSRC / "cpu" / "instruction_sets.cpp"
KERNELS = sorted(set(CSRC.glob("cpu/*.cpp")) - {CHOICE_OF_KERNELS})
TORCH_H = "ops/common/torch.h"
INSTRUCTION_SETS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64") and os.environ.get("AEVB_CPU_ISA") != "baseline":
    _AVX2 = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx2"] = _AVX2
    INSTRUCTION_SETS["avx512"] = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]

CXX_FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", f"-I{CSRC}"]
# The kernels read neither errno nor the floating-point exception flags; nothing here changes a result. They say where
# a product and a sum are one operation (csrc/cpu/vec.h, fma).
KERNEL_FLAGS = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti"]
NVCC_FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-lineinfo", "--expt-relaxed-constexpr", f"-I{CSRC}"]
NVCC_FLAGS += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall", "-Xfatbin", "-compress-all"]
# The CUDA kernels as C++ for tests. What the sanitizer calls at each access is the emulation's own; names are for its
# messages. Memory is read as words of another type than it was written in, as nvcc allows.
EMULATION = ROOT / "tests" / "emulation"
CHOICE = CSRC / "ops" / "common" / "launch.cpp"
EMULATED_MACROS = ["-DAEVB_EMULATED"]
EMULATED_FLAGS = ["-O1", "-fsanitize=thread", "-fvisibility=default", "-fno-strict-aliasing", "-Wno-unknown-pragmas"]


def unsupported_platform() -> str | None:
    """Why nothing is compiled on this platform, if that is so."""
    if sys.platform == "win32":
        return "the CPU kernels are written with the vector types of GCC and Clang, which Visual C++ does not have"
    return None


def check_torch(here: str | None) -> None:
    """pip would build against the torch that is there, and then replace it by one that is required."""
    if here is None:
        raise PlatformError(
            "aevb_ext is compiled against the torch that it will run with, and this build sees none. Type\n\n"
            "    pip install torch ninja\n    pip install --no-build-isolation .\n\n"
            "Without --no-build-isolation pip builds in an empty environment, whatever is installed in this one."
        )
    if tuple(map(int, minor(here).split("."))) < tuple(map(int, OLDEST_TORCH.split("."))):
        raise PlatformError(
            f"aevb_ext needs torch {OLDEST_TORCH} or later, and this is {here}: type `pip install "
            f"'torch>={OLDEST_TORCH}'`, and then what you typed once more"
        )


def find_ninja() -> str | None:
    with contextlib.suppress(ImportError):
        import ninja

        return shutil.which("ninja", path=ninja.BIN_DIR) or shutil.which("ninja")
    return None


def check_headers() -> None:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if not header.is_file():
        raise PlatformError(
            f"{header} is missing, and C++ needs it: install Python's headers (the package python3-dev of Debian and "
            "Ubuntu, python3-devel of Fedora)"
        )


def jobs() -> int:
    """How many compilers run at once."""
    given = os.environ.get("MAX_JOBS", "").strip()
    if not given:
        return os.cpu_count() or 1
    if not re.fullmatch(r"0*[1-9][0-9]{0,5}", given):
        raise PlatformError(
            f"MAX_JOBS={given}: expected how many compilers may run at once, a whole number from 1 to 999999"
        )
    return int(given)


def _words(name: str) -> list[str]:
    """What an environment variable has for a command line."""
    given = os.environ.get(name, "")
    try:
        return shlex.split(given)
    except ValueError as error:
        raise PlatformError(f"{name}={given}: expected words as a shell has them, and it has {error}") from None


def host_compiler() -> tuple[list[str], list[str]]:
    """The C++ compiler and the user's flags, which compile C++20."""
    compiler, flags = _words("CXX") or ["c++"], _words("CXXFLAGS")
    probe = [*compiler, *flags, "-std=c++20", "-x", "c++", "-fsyntax-only", os.devnull]
    try:
        done = subprocess.run(probe, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = first_line(done.stdout) if done.returncode else None
    except OSError as error:
        said = str(error)
    if said is None:
        return compiler, flags
    given = ", ".join(f"{name}={os.environ[name]}" for name in ("CXX", "CXXFLAGS") if os.environ.get(name))
    raise PlatformError(
        f"no C++ compiler: `{shlex.join(compiler + flags)}` does not compile an empty C++20 program and said {said!r}"
        f"{f' ({given})' if given else ''}; install GCC 11, Clang 14 or later, or name one, as in CXX=g++-12"
    )


class Object(NamedTuple):
    """An object file, and what compiles it."""

    path: Path
    source: Path
    command: list[str]
    needs: tuple[Path, ...] = ()  # objects that are made first


def write_ninja(path: Path, objects: list[Object]) -> None:
    """What ninja goes by: an object is compiled again when its command or a file that it read has changed."""
    from ninja import ninja_syntax

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        writer = ninja_syntax.Writer(file, width=sys.maxsize)
        # The log of commands is one for all torches, and what was read stays beside each object: a build for one torch
        # forgets nothing of another's.
        writer.variable("builddir", ninja_syntax.escape(str(path.parent)))
        writer.rule("compile", "$compiler -MMD -MF $out.d -c $in -o $out", description="$object", depfile="$out.d")
        for one in objects:
            variables = {"compiler": shlex.join(one.command), "object": f"{one.path.parent.name}/{one.path.name}"}
            variables = {name: ninja_syntax.escape(value) for name, value in variables.items()}
            needs = [str(path) for path in one.needs]
            writer.build(str(one.path), "compile", str(one.source), implicit=needs, variables=variables)


def compile_all(objects: list[Object], folder: Path, ninja: str | None) -> None:
    if ninja is None:
        print("aevb_ext: without ninja (`pip install ninja`) every build compiles all objects anew", flush=True)
        return compile_anew(objects)
    build = folder.resolve() / "build.ninja"
    write_ninja(build, objects)
    failed = []
    with subprocess.Popen([ninja, "-f", build, "-j", str(jobs())], stdout=subprocess.PIPE, text=True) as running:
        for line in running.stdout:
            print(line, end="", flush=True)
            if line.startswith("FAILED: "):
                failed += [one.source for one in objects if line.rstrip().endswith(f" {one.path}")]
    if running.returncode:
        raise not_compiled(failed, "ninja")


def compile_anew(objects: list[Object]) -> None:
    def compiled(one: Object) -> bool:
        one.path.parent.mkdir(parents=True, exist_ok=True)
        command = [*one.command, "-c", str(one.source), "-o", str(one.path)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        print(f"{one.path.parent.name}/{one.path.name}\n{done.stdout}", end="", flush=True)
        return done.returncode == 0

    failed = []
    for waits in (False, True):  # those that others need, as they need none themselves, and those that need them
        wave = [one for one in objects if bool(one.needs) is waits]
        with ThreadPoolExecutor(jobs()) as pool:
            failed += [one.source for one, well in zip(wave, pool.map(compiled, wave), strict=True) if not well]
        if failed:
            raise not_compiled(failed, "the compiler")


def not_compiled(sources: list[Path], who: str) -> CompileError:
    names = ", ".join(str(source.relative_to(ROOT)) for source in sources) or "csrc"
    return CompileError(f"{names} does not compile, as {who} said above")


def _emulated_objects(
    compiler: list[str], given: list[str], host: list[str], torch_h: Object, of_torch: Path, of_all: Path
) -> list[Object]:
    """The CUDA kernels for the CPU, what runs them, and what chooses them."""
    include, needs = f"-I{EMULATION}", (torch_h.path,)
    plain = [*compiler, include, *CXX_FLAGS]
    kernels = [*plain, *EMULATED_FLAGS, *given, "-x", "c++"]
    objects = [Object(of_all / f"{source.name}.o", source, kernels) for source in sorted(CSRC.glob("cuda/*.cu"))]
    objects.append(Object(of_all / "machine.o", EMULATION / "machine.cpp", [*plain, *given]))
    objects.append(Object(of_torch / "choice.o", CHOICE, [*host, *EMULATED_MACROS], needs))
    objects.append(Object(of_torch / "launch.o", EMULATION / "launch.cpp", [*host, include], needs))
    return objects


class Metadata(dist_info):
    """pip asks for it before it downloads what is required, which of torch alone takes minutes."""

    def run(self) -> None:
        if self.distribution.ext_modules:
            check_torch(torch_version())
        super().run()


class BuildPackage(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            freeze(Path(self.build_lib), self.distribution.get_version())


class SourceDistribution(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        freeze(Path(base_dir), self.distribution.get_version())


class BuildOperators(build_ext):
    def finalize_options(self) -> None:
        super().finalize_options()
        if self.editable_mode:
            # setuptools names a temporary folder, where each `pip install -e` would compile everything again.
            usual = build(self.distribution)
            usual.ensure_finalized()
            self.build_temp = usual.build_temp

    def run(self) -> None:
        for name in ("CC", "CFLAGS", "CPPFLAGS", "CXX", "CXXFLAGS", "LDFLAGS", "LDSHARED"):
            _words(name)  # setuptools splits them too, for the linker, and its error names none
        super().run()

    def build_extension(self, extension: Extension) -> None:
        check_torch(torch_version())
        import torch

        check_headers()
        ninja = find_ninja()
        cuda, why = choose_cuda(torch)
        emulated = why == EMULATED
        with_cuda = f"and for CUDA {cuda.version} ({cuda.arch_list})" if cuda else "alone, without CUDA"
        if emulated:
            with_cuda = "and, for tests, the CUDA kernels, which run in their place"
        print(f"aevb_ext: building for the CPU ({', '.join(INSTRUCTION_SETS)}) {with_cuda}: {why}", flush=True)
        if cuda:
            os.environ["CUDA_HOME"] = str(cuda.home)  # torch.utils.cpp_extension reads it when it is imported

        note = runpy.run_path(str(ROOT / "aevb_ext" / "_build_note.py"))  # to import aevb_ext takes the library
        sources = note["fingerprint"](CSRC)
        objects = self._objects(torch, cuda, emulated)
        compile_all(objects, Path(self.build_temp), ninja)
        self._link(extension, objects, cuda)
        note["write"](self.get_ext_fullpath(extension.name), torch=torch.__version__, sources=sources)

    def _objects(self, torch, cuda: Cuda | None, emulated: bool = False) -> list[Object]:
        from torch.utils.cpp_extension import include_paths

        # One folder per torch: objects are never shared between two, but for the kernels', which include none of it.
        temporary = Path(self.build_temp).resolve()
        of_torch, of_all = temporary / f"torch-{torch.__version__}" / ("cuda" if cuda else "cpu"), temporary / "kernels"
        compiler, given = host_compiler()
        plain = [*compiler, *CXX_FLAGS]
        system = [sysconfig.get_path("include"), *include_paths("cuda" if cuda else "cpu")]
        if cuda:
            # What a small toolkit leaves out (cublas, cusparse, ...) is in the packages that torch depends on.
            system += [str(path) for path in Path(torch.__path__[0]).parent.glob("nvidia/cu*/include")]
        host = [*plain, "-DTORCH_EXTENSION_NAME=_C", "-DTORCH_API_INCLUDE_EXTENSION_H"]
        if cuda:
            host.append("-DAEVB_WITH_CUDA")
        host += [word for path in system for word in ("-isystem", path)] + given

        def compiled(source: Path, command: list[str], folder: Path, suffix: str = ".o", needs=()) -> Object:
            return Object(folder / f"{source.relative_to(CSRC)}{suffix}", source, command, needs)

        # Compilers take what is precompiled for the header beside which it lies; Clang does by its whole path alone.
        torch_h = compiled(CSRC / TORCH_H, [*host, "-x", "c++-header"], of_torch, ".gch")
        host += ["-include", str(of_torch / TORCH_H)]

        # The longest first, so that they do not run alone at the end.
        objects = [torch_h]
        if cuda:
            nvcc = [str(cuda.nvcc), *NVCC_FLAGS, *cuda.arch_flags]
            if programs := [word for word in _words("CXX") if not word.startswith("-")]:
                nvcc += ["-ccbin", programs[-1]]  # of CXX="ccache g++ -m64" g++
            objects += [compiled(source, nvcc, of_all) for source in sorted(CSRC.glob("cuda/*.cu"))]
        for name, flags in reversed(INSTRUCTION_SETS.items()):
            command = [*plain, *KERNEL_FLAGS, *flags, f"-DAEVB_ISA={name}", *given]
            objects += [compiled(source, command, of_all, f".{name}.o") for source in KERNELS]
        choice = ["-DAEVB_BASELINE_ONLY"] if len(INSTRUCTION_SETS) == 1 else []
        objects.append(compiled(CHOICE_OF_KERNELS, [*plain, *choice, *given], of_all))
        sources = set(CSRC.glob("ops/**/*.cpp"))
        if not cuda:
            sources -= set(CSRC.glob("ops/**/*_cuda.cpp"))
        # What knows of the emulation has objects of its own; the others are those of a build for the CPU.
        of_library = of_torch.with_name("emulated") if emulated else of_torch
        if emulated:
            sources.remove(CHOICE)
            objects += _emulated_objects(compiler, given, host, torch_h, of_library, temporary / "emulated")
        objects += [compiled(source, host, of_torch, needs=(torch_h.path,)) for source in sorted(sources)]
        about = {
            "AEVB_VERSION": re.match(r"[\d.]*\d", self.distribution.get_version())[0],
            "AEVB_COMMIT": commit(),
            "AEVB_ARCH_LIST": cuda.arch_list if cuda else "",
        }
        macros = [f'-D{name}="{value}"' for name, value in about.items()] + EMULATED_MACROS * emulated
        objects.append(compiled(CSRC / "library.cpp", [*host, *macros], of_library, needs=(torch_h.path,)))
        return objects

    def _link(self, extension: Extension, objects: list[Object], cuda: Cuda | None) -> None:
        from torch.utils.cpp_extension import library_paths

        extension.extra_objects = [str(o.path) for o in objects if o.path.suffix == ".o"]
        extension.library_dirs = library_paths("cuda" if cuda else "cpu")
        extension.libraries = ["c10", "torch", "torch_cpu", "torch_python"]
        if cuda:
            extension.libraries += ["cudart", "c10_cuda", "torch_cuda"]
        # Objects of another torch can be older than the library that this one replaces.
        self.force = True
        super().build_extension(extension)


def extensions() -> list[Extension]:
    """What is compiled. Without it the package is Python alone, and computes its formulas in plain PyTorch."""
    given = os.environ.get("AEVB_BUILD", "1")
    if given not in ("0", "1"):
        raise PlatformError(f"AEVB_BUILD={given}: expected 1, or 0 to install without compiled operators")
    if given == "0":
        return []
    if why := unsupported_platform():
        print(f"aevb_ext: building without compiled operators: {why}", flush=True)
        return []
    return [Extension("aevb_ext._C", [], language="c++")]


def version_to_build() -> str:
    """The version; of a wheel for others with the torch that it fits."""
    wish = os.environ.get("AEVB_WHEEL", "")
    if wish not in ("", "0", "1"):
        raise PlatformError(f"AEVB_WHEEL={wish}: expected 1 (the version names the torch that it fits), 0 or nothing")
    if wish != "1" or "sdist" in sys.argv:
        return version()
    check_torch(torch_version())
    import torch

    return with_torch(version(), torch, with_cuda=choose_cuda(torch)[0] is not None)


def main() -> None:
    try:
        about = {"version": version_to_build(), "install_requires": requirements(), "ext_modules": extensions()}
    except PlatformError as error:
        sys.exit(f"error: {error}")
    setup(
        cmdclass={
            "build_ext": BuildOperators,
            "build_py": BuildPackage,
            "dist_info": Metadata,
            "sdist": SourceDistribution,
        },
        **about,
    )


if __name__ == "__main__":
    main()
