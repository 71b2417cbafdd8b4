"""Builds aevb_ext._C, the compiled operators; says in one line what it builds and why.

Environment variables:
    AEVB_CUDA             1: with CUDA, or an error that says what is missing. 0: without. Default: CUDA where torch has
                          it and nvcc is found.
    CUDA_HOME             the CUDA toolkit. Default: the one of the nvcc on PATH, or /usr/local/cuda.
    TORCH_CUDA_ARCH_LIST  GPU architectures, e.g. "8.0;9.0+PTX". Default: those of the GPUs that are visible, or else
                          every current one.
    AEVB_COMMIT           what build_info() says of the source, where this is no git repository.
    CXX, CXXFLAGS         the C++ compiler, and flags added to those given here.
    MAX_JOBS              how many compilers run at once. Default: one per core.

The objects are compiled here and not by torch's BuildExtension, which knows one set of flags for all C++ sources: the
CPU kernels are one source compiled once per instruction set, and library.cpp alone is told the commit, so that a new
commit does not compile everything again.
"""

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
from dataclasses import dataclass
from pathlib import Path

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
from setuptools.errors import CompileError, PlatformError

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"

KERNELS = CSRC / "cpu" / "kernels.cpp"
INSTRUCTION_SETS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    _AVX2 = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx2"] = _AVX2
    INSTRUCTION_SETS["avx512"] = [*_AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]

CUDA_ARCHS = ("80", "86", "89", "90", "100", "120")
# torch's names, in TORCH_CUDA_ARCH_LIST, and what it has for them (torch.utils.cpp_extension).
NAMED_ARCHS = {
    "Volta": "7.0+PTX",
    "Turing": "7.5+PTX",
    "Ampere+Tegra": "8.7",
    "Ampere": "8.0;8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell+Tegra": "11.0",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
}

CXX_FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", f"-I{CSRC}"]
# The kernels read neither errno nor the floating-point exception flags; nothing here changes a result. They say where
# a product and a sum are one operation (csrc/cpu/vec.h, fma).
KERNEL_FLAGS = ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fno-exceptions", "-fno-rtti"]
NVCC_FLAGS = ["-std=c++20", "-O3", "-DNDEBUG", "-lineinfo", "--expt-relaxed-constexpr", f"-I{CSRC}"]
NVCC_FLAGS += ["-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall", "-Xfatbin", "-compress-all"]
# at::parallel_for, a template, is serial in sources compiled without it.
OPENMP_FLAGS = ["-fopenmp"] if sys.platform == "linux" else []


class Unavailable(Exception):
    """Why CUDA cannot be built here."""


@dataclass(frozen=True)
class Cuda:
    nvcc: Path
    home: Path
    version: str
    archs: tuple[str, ...]  # of nvcc's numbers: "90", "90+PTX"

    @classmethod
    def find(cls, torch) -> "Cuda":
        if torch.version.cuda is None:
            raise Unavailable(f"torch {torch.__version__} is built without CUDA: install a CUDA build of PyTorch")
        nvcc = _find_nvcc()
        said = _output(nvcc, "--version")
        release = re.search(r"release (\d+\.\d+)", said)
        if release is None:
            raise Unavailable(f"{nvcc} does not work as nvcc: asked for its --version it said {_first_line(said)!r}")
        version = release[1]
        if version.split(".")[0] != torch.version.cuda.split(".")[0]:
            raise Unavailable(
                f"{nvcc} is of CUDA {version}, torch {torch.__version__} of CUDA {torch.version.cuda}, and the major "
                "versions must agree: set CUDA_HOME to a toolkit that fits"
            )
        # nvcc knows its toolkit; its own path may be a wrapper's.
        top = re.search(r"TOP=(.*)", _output(nvcc, "--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull))
        home = Path(top[1].strip()).resolve() if top else nvcc.parent.parent
        said = _output(nvcc, "--list-gpu-arch")
        known = re.findall(r"compute_(\d+)\b", said)
        if not known:
            raise Unavailable(
                f"{nvcc} names no GPU architectures: asked to --list-gpu-arch it said {_first_line(said)!r}"
            )
        return cls(nvcc, home, version, _archs(torch, known))

    @property
    def arch_list(self) -> str:
        """The architectures as TORCH_CUDA_ARCH_LIST writes them."""
        return ";".join(re.sub(r"^(\d+)(\d)", r"\1.\2", arch) for arch in self.archs)

    @property
    def arch_flags(self) -> list[str]:
        flags = []
        for arch in self.archs:
            number = arch.removesuffix("+PTX")
            flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
            if arch.endswith("+PTX"):
                flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
        return flags


def _output(*command) -> str:
    """What a program says, on either stream; of one that cannot be run, why."""
    words = [str(word) for word in command]
    try:
        return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    except OSError as error:
        return str(error)


def _first_line(said: str) -> str:
    return next((line for line in said.splitlines() if line.strip()), "nothing")


def _find_nvcc() -> Path:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        if home := os.environ.get(name):
            if nvcc := shutil.which("nvcc", path=Path(home) / "bin"):
                return Path(nvcc)
            raise Unavailable(f"nvcc is missing: {name}={home} has no program bin/nvcc")
    if found := shutil.which("nvcc", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/local/cuda/bin"):
        return Path(found)
    raise Unavailable("nvcc is missing: it is neither on PATH nor in /usr/local/cuda, and CUDA_HOME is not set")


def _archs(torch, known: list[str]) -> tuple[str, ...]:
    listed = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if listed and listed != "native":
        return _listed_archs(listed, known)
    newest = max(known, key=int)
    capabilities = (torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
    visible = {f"{major}{minor}" for major, minor in capabilities}
    if visible:
        archs = sorted(visible.intersection(known), key=int)
        return tuple(archs) if visible <= set(known) else (*archs, f"{newest}+PTX")
    archs = [arch for arch in CUDA_ARCHS if arch in known]
    return (*archs[:-1], f"{archs[-1]}+PTX")


def _listed_archs(listed: str, known: list[str]) -> tuple[str, ...]:
    """As torch's extensions read the list: numbers and names between semicolons or spaces."""

    def fault(what: str) -> PlatformError:
        numbers = ", ".join(re.sub(r"(\d)$", r".\1", arch) for arch in known)
        return PlatformError(
            f"TORCH_CUDA_ARCH_LIST={listed}: {what}; expected GPU architectures that this nvcc knows ({numbers}; +PTX "
            f"after a number, or a name: {', '.join(NAMED_ARCHS)}) between semicolons, as in 8.0;9.0+PTX"
        )

    words = re.split(r"[;\s]+", listed.strip("; "))
    numbers = [number for word in words for number in NAMED_ARCHS.get(word, word).split(";")]
    for number in numbers:
        if not number:
            raise fault("it names none")
        form = re.fullmatch(r"(\d+)\.(\d)[af]?(\+PTX)?", number)
        if form is None:
            raise fault(f"{number} is no GPU architecture")
        if form[1] + form[2] not in known:
            raise fault(f"nvcc does not know {number}")
    return tuple(dict.fromkeys(number.replace(".", "") for number in numbers))


def choose_cuda(torch) -> tuple[Cuda | None, str]:
    """What to build CUDA with, or None, and why."""
    wish = os.environ.get("AEVB_CUDA", "")
    if wish not in ("", "0", "1"):
        raise PlatformError(f"AEVB_CUDA={wish}: expected 1 (with CUDA), 0 (without) or nothing (where possible)")
    if wish == "0":
        return None, "AEVB_CUDA=0"
    try:
        cuda = Cuda.find(torch)
    except Unavailable as missing:
        if wish == "1":
            raise PlatformError(f"AEVB_CUDA=1, but CUDA cannot be built: {missing}") from None
        return None, str(missing)
    return cuda, "AEVB_CUDA=1" if wish else f"torch {torch.__version__} has CUDA and {cuda.nvcc} is there"


@dataclass(frozen=True)
class Object:
    """One object file; it is compiled again when its command or a file that it read has changed."""

    path: Path
    source: Path
    command: list[str]

    def _notes(self) -> tuple[Path, Path]:
        return Path(f"{self.path}.d"), Path(f"{self.path}.command")

    def is_fresh(self) -> bool:
        dependencies, command = self._notes()
        try:
            built = self.path.stat().st_mtime
            read = shlex.split(dependencies.read_text().replace("\\\n", " ").partition(": ")[2])
            return command.read_text() == shlex.join(self.command) and all(os.stat(f).st_mtime <= built for f in read)
        except OSError:
            return False

    def compile(self) -> None:
        dependencies, command = self._notes()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        command.unlink(missing_ok=True)
        flags = ["-MMD", "-MF", str(dependencies), "-c", str(self.source), "-o", str(self.path)]
        if subprocess.run([*self.command, *flags]).returncode:
            raise CompileError(f"{self.source.relative_to(ROOT)} does not compile: {shlex.join(self.command)}")
        command.write_text(shlex.join(self.command))


def check_torch(torch, requirements: list[str]) -> None:
    """pip would build against the torch that is there, and then replace it by one that the requirements allow."""
    major, minor = re.search(r"^torch>=(\d+)\.(\d+)", "\n".join(requirements), re.MULTILINE).groups()
    here = re.match(r"(\d+)\.(\d+)", torch.__version__)
    if (int(here[1]), int(here[2])) < (int(major), int(minor)):
        raise PlatformError(
            f"aevb_ext needs torch {major}.{minor} or later, and this is {torch.__version__}: type `pip install "
            f"'torch>={major}.{minor}'`, and then what you typed once more"
        )


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


def host_compiler() -> list[str]:
    """The C++ compiler and the user's flags, which compile C++20."""
    compiler = [*(_words("CXX") or ["c++"]), *_words("CXXFLAGS")]
    probe = [*compiler, "-std=c++20", "-x", "c++", "-fsyntax-only", os.devnull]
    try:
        done = subprocess.run(probe, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        said = _first_line(done.stdout) if done.returncode else None
    except OSError as error:
        said = str(error)
    if said is None:
        return compiler
    given = ", ".join(f"{name}={os.environ[name]}" for name in ("CXX", "CXXFLAGS") if os.environ.get(name))
    raise PlatformError(
        f"no C++ compiler: `{shlex.join(compiler)}` does not compile an empty C++20 program and said {said!r}"
        f"{f' ({given})' if given else ''}; install GCC 11, Clang 14 or later, or name one, as in CXX=g++-12"
    )


def compile_all(objects: list[Object]) -> None:
    stale = [o for o in objects if not o.is_fresh()]

    def compile_one(numbered: tuple[int, Object]) -> None:
        number, one = numbered
        print(f"[{number}/{len(stale)}] {one.path.parent.name}/{one.path.name}", flush=True)
        one.compile()

    pool = ThreadPoolExecutor(jobs())
    try:
        list(pool.map(compile_one, enumerate(stale, 1)))
    finally:
        pool.shutdown(cancel_futures=True)


def _commit() -> str:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        given = os.environ.get("AEVB_COMMIT") or "unknown"
        if not re.fullmatch(r"[\w.+/-]{1,100}", given, re.ASCII):
            raise PlatformError(f"AEVB_COMMIT={given}: expected a commit: letters, digits and _ . + - / alone")
        return given
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    described = subprocess.run(command, capture_output=True, text=True)
    return described.stdout.strip() if described.returncode == 0 else "unknown"


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
        try:
            import torch
        except ImportError:
            raise PlatformError(
                "aevb_ext is compiled against the torch it will run with, and this build sees none: install torch "
                "first, then `pip install --no-build-isolation .`"
            ) from None
        check_torch(torch, self.distribution.install_requires)
        check_headers()
        cuda, why = choose_cuda(torch)
        with_cuda = f"and for CUDA {cuda.version} ({cuda.arch_list})" if cuda else "alone, without CUDA"
        print(f"aevb_ext: building for the CPU ({', '.join(INSTRUCTION_SETS)}) {with_cuda}: {why}", flush=True)
        if cuda:
            os.environ["CUDA_HOME"] = str(cuda.home)  # torch.utils.cpp_extension reads it when it is imported

        note = runpy.run_path(str(ROOT / "aevb_ext" / "_build_note.py"))  # to import aevb_ext takes the library
        sources = note["fingerprint"](CSRC)
        objects = self._objects(torch, cuda)
        compile_all(objects)
        self._link(extension, objects, cuda)
        note["write"](self.get_ext_fullpath(extension.name), torch=torch.__version__, sources=sources)

    def _objects(self, torch, cuda: Cuda | None) -> list[Object]:
        from torch.utils.cpp_extension import include_paths

        # One folder per torch: objects are never shared between two, but for the kernels', which include none of it.
        temporary = Path(self.build_temp).resolve()
        of_torch = temporary / f"torch-{torch.__version__}" / ("cuda" if cuda else "cpu")
        compiler = host_compiler()
        system = [sysconfig.get_path("include"), *include_paths("cuda" if cuda else "cpu")]
        if cuda:
            # What a small toolkit leaves out (cublas, cusparse, ...) is in the packages that torch depends on.
            system += [str(path) for path in Path(torch.__path__[0]).parent.glob("nvidia/cu*/include")]
        host = [*compiler, *CXX_FLAGS, *OPENMP_FLAGS, "-DTORCH_EXTENSION_NAME=_C", "-DTORCH_API_INCLUDE_EXTENSION_H"]
        if len(INSTRUCTION_SETS) == 1:
            host.append("-DAEVB_BASELINE_ONLY")
        if cuda:
            host.append("-DAEVB_WITH_CUDA")
        host += [word for path in system for word in ("-isystem", path)]

        def compiled(source: Path, command: list[str], suffix: str = "", folder: Path = of_torch) -> Object:
            name = source.relative_to(CSRC)
            return Object(folder / name.parent / f"{name.name}{suffix}.o", source, command)

        # The longest first, so that they do not run alone at the end.
        objects = []
        if cuda:
            nvcc = [str(cuda.nvcc), *NVCC_FLAGS, *cuda.arch_flags, *(w for p in system for w in ("-isystem", p))]
            if programs := [word for word in _words("CXX") if not word.startswith("-")]:
                nvcc += ["-ccbin", programs[-1]]  # of CXX="ccache g++ -m64" g++
            objects += [compiled(source, nvcc) for source in sorted(CSRC.glob("cuda/*.cu"))]
        for name, flags in reversed(INSTRUCTION_SETS.items()):
            command = [*compiler, *CXX_FLAGS, *KERNEL_FLAGS, *flags, f"-DAEVB_ISA={name}"]
            objects.append(compiled(KERNELS, command, f".{name}", temporary / "kernels"))
        sources = {*CSRC.glob("ops/**/*.cpp"), *CSRC.glob("cpu/*.cpp")} - {KERNELS}
        if not cuda:
            sources -= set(CSRC.glob("ops/**/*_cuda.cpp"))
        objects += [compiled(source, host) for source in sorted(sources)]
        about = {
            "AEVB_VERSION": self.distribution.get_version(),
            "AEVB_COMMIT": _commit(),
            "AEVB_ARCH_LIST": cuda.arch_list if cuda else "",
        }
        macros = [f'-D{name}="{value}"' for name, value in about.items()]
        objects.append(compiled(CSRC / "library.cpp", [*host, *macros]))
        return objects

    def _link(self, extension: Extension, objects: list[Object], cuda: Cuda | None) -> None:
        from torch.utils.cpp_extension import library_paths

        extension.extra_objects = [str(o.path) for o in objects]
        extension.library_dirs = library_paths("cuda" if cuda else "cpu")
        extension.libraries = ["c10", "torch", "torch_cpu", "torch_python"]
        if cuda:
            extension.libraries += ["cudart", "c10_cuda", "torch_cuda"]
        extension.extra_link_args = OPENMP_FLAGS
        # Objects of another torch can be older than the library that this one replaces.
        self.force = True
        super().build_extension(extension)


if __name__ == "__main__":
    setup(ext_modules=[Extension("aevb_ext._C", [], language="c++")], cmdclass={"build_ext": BuildOperators})
