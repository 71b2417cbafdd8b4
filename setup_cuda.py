"""Whether CUDA is built, and with what: the toolkit, and the GPU architectures to compile for."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from setuptools.errors import PlatformError

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


EMULATED = "AEVB_CUDA=emulated"  # why the CUDA kernels are compiled for the CPU


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
            raise Unavailable(f"{nvcc} does not work as nvcc: asked for its --version it said {first_line(said)!r}")
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
                f"{nvcc} names no GPU architectures: asked to --list-gpu-arch it said {first_line(said)!r}"
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


def first_line(said: str) -> str:
    """Of what a program says, that which says something."""
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
    if wish not in ("", "0", "1", "emulated"):
        raise PlatformError(
            f"AEVB_CUDA={wish}: expected 1 (with CUDA), 0 (without), nothing (where possible) or emulated (for tests)"
        )
    if wish in ("0", "emulated"):
        return None, f"AEVB_CUDA={wish}"
    try:
        cuda = Cuda.find(torch)
    except Unavailable as missing:
        if wish == "1":
            raise PlatformError(f"AEVB_CUDA=1, but CUDA cannot be built: {missing}") from None
        return None, str(missing)
    return cuda, "AEVB_CUDA=1" if wish else f"torch {torch.__version__} has CUDA and {cuda.nvcc} is there"
