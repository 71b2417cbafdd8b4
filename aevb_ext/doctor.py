"""``aevb doctor``: facts for a bug report, and cures for common faults."""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from . import _library, functional, reference
from ._extras import PURPOSES, lacking
from ._library import REBUILD
from ._messages import first_line
from ._version import __version__


def main() -> int:
    """Print the facts, then each fault with its cure. Returns the exit status: 1 if there is a fault."""
    known = facts()
    for name, value in known.items():
        print(f"{name:<{max(map(len, known))}} {value}")
    found = faults()
    print()
    for number, fault in enumerate(found, 1):
        print(f"fault {number}: {fault}")
    print(f"{len(found)} fault{'s' * (len(found) != 1)}" if found else "No fault found.")
    return 1 if found else 0


def facts() -> dict[str, str]:
    """Facts about this machine and this installation that a bug report needs."""
    found = {
        "aevb_ext": f"{__version__} in {Path(__file__).parent}",
        "python": f"{platform.python_version()} in {sys.prefix}",
        "system": f"{platform.platform()}",
        "cpu": f"{_cpu_name()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "torch": f"{torch.__version__}, CUDA {torch.version.cuda or 'none'}",
    }
    if _library._C is None:
        found["library"] = "none: every function computes its formula in plain PyTorch"
    else:
        info = _library.build_info()
        cuda = f"CUDA {info['cuda']} for {info['arch_list']}" if info["cuda"] else "no CUDA"
        if info["emulated"]:
            cuda += " but its kernels emulated"
        found["library"] = f"{info['version']}, commit {info['commit']}, torch {info['torch']}, {cuda}"
        found["library's file"] = str(_library._C.__file__)
        found["compiler"] = info["compiler"]
        found["instruction set"] = f"{info['cpu_in_use']} (built: {', '.join(info['cpu_built'])})"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(i)
            found[f"cuda:{i}"] = f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB"
    for extra, purpose in PURPOSES.items():
        found[f"extra {extra}"] = lacking(extra, purpose) or "installed"
    found["driver"] = "; ".join(nvidia_smi()) or "nvidia-smi finds no GPU"
    found["nvcc"] = _nvcc()
    return found


def faults() -> list[str]:
    """What is wrong here, each with its cure."""
    if _library._C is None:
        return [_library.fault(), *wrong_operators("cpu")]
    info = _library.build_info()
    found = [
        _library.of_earlier_sources(Path(str(_library._C.__file__)), _library.CSRC),
        _library.EMULATED if info["emulated"] else None,
        _gpu_not_used(info),
        _gpu_not_built_for(info),
    ]
    devices = ["cpu"]
    if torch.cuda.is_available() and info["cuda"]:
        devices.append("cuda")
    found += [wrong for device in devices for wrong in wrong_operators(device)]
    return [fault for fault in found if fault]


def wrong_operators(device: str) -> list[str]:
    """Run every operator forward and backward on ``device``; name those that fail or differ from the reference."""
    found = []
    for name, call in _CALLS.items():
        try:
            torch.testing.assert_close(_run(functional, call, device), _run(reference, call, device))
        except Exception as error:
            why = " ".join(str(error).split())
            found.append(f"{name} is wrong on {device} ({why}): please report this, with all lines above")
    return found


def nvidia_smi() -> list[str]:
    """The GPUs of this machine as nvidia-smi lists them, independent of PyTorch: "name, driver version" of each."""
    if not (program := shutil.which("nvidia-smi")):
        return []
    query = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _gpu_not_used(info: dict) -> str | None:
    gpus = nvidia_smi()
    if torch.cuda.is_available():
        if info["cuda"]:
            return None
        return (
            f"this machine has a GPU ({torch.cuda.get_device_name()}), and the library is built for the CPU alone. "
            f"Build it with CUDA: `AEVB_CUDA=1 {REBUILD}` in the source folder (needs nvcc)."
        )
    if not gpus or os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return None
    if torch.version.cuda is None:
        return (
            f"this machine has a GPU ({gpus[0]}), and torch {torch.__version__} is built without CUDA. "
            "Install a CUDA build of PyTorch (https://pytorch.org/get-started/locally has the command), then build "
            f"aevb_ext again: `{REBUILD}` in the source folder."
        )
    try:
        torch.cuda.init()
        why = "no device"
    except RuntimeError as error:
        why = first_line(error)
    return f"this machine has a GPU ({gpus[0]}), and torch {torch.__version__} cannot use it: {why}. Update the driver."


def _gpu_not_built_for(info: dict) -> str | None:
    if not torch.cuda.is_available() or not info["cuda"]:
        return None
    for i in range(torch.cuda.device_count()):
        here = torch.cuda.get_device_capability(i)
        if not runs_on(info["arch_list"], here):
            arch = ".".join(map(str, here))
            return (
                f"the library is built for the GPU architectures {info['arch_list']}, and cuda:{i} is of {arch}. "
                f"Build it again: `AEVB_CUDA=1 TORCH_CUDA_ARCH_LIST={arch} {REBUILD}` in the source folder."
            )
    return None


def runs_on(arch_list: str, capability: tuple[int, int]) -> bool:
    """Whether code for ``arch_list`` ("8.0;9.0+PTX") runs on a GPU of this compute capability.

    Machine code runs on later minor versions of its major version (architecture-specific code, "9.0a", on that one
    alone), PTX on everything later.
    """
    for arch in arch_list.split(";"):
        major, minor, specific, ptx = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", arch).groups()  # type: ignore[union-attr]  # setup.py writes this format
        built = int(major), int(minor)
        if capability == built or (not specific and capability > built and (ptx or capability[0] == built[0])):
            return True
    return False


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        if named := re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text()):
            return named[1]
    return platform.processor() or platform.machine()


def _nvcc() -> str:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    program = shutil.which("nvcc", path=f"{home}/bin{os.pathsep}{os.environ.get('PATH', '')}")
    if not program:
        return "none"
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    version = re.search(r"release ([\d.]+)", done.stdout)
    return f"{version[1] if version else 'of unknown version'}, {program}"


# A call of each operator on small inputs; f is the module that has it: functional or reference.
_CALLS = {
    # The reference draws other keys, but the same generator state must give the same key again.
    "noise_key": lambda f, mu, logvar, key, x: functional.noise_key(
        mu.device, torch.Generator(mu.device).manual_seed(0)
    ),
    "rsample": lambda f, mu, logvar, key, x: f.rsample(mu, logvar, key=key, n_samples=2),
    "gaussian_kl": lambda f, mu, logvar, key, x: f.gaussian_kl(mu, logvar),
    "rsample_kl": lambda f, mu, logvar, key, x: f.rsample_kl(mu, logvar, key=key),
    "bernoulli_log_prob": lambda f, mu, logvar, key, x: f.bernoulli_log_prob(x, mu),
    "bernoulli_log_prob_of_probs": lambda f, mu, logvar, key, x: f.bernoulli_log_prob_of_probs(x, 0.5 + 0.4 * mu),
    "gaussian_log_prob": lambda f, mu, logvar, key, x: f.gaussian_log_prob(x, mu, logvar),
    "mixture_log_prob": lambda f, mu, logvar, key, x: f.mixture_log_prob(x, mu, logvar),
    "poisson_log_prob": lambda f, mu, logvar, key, x: f.poisson_log_prob(4 * x, mu),
    "negative_binomial_log_prob": lambda f, mu, logvar, key, x: f.negative_binomial_log_prob(
        4 * x, mu.exp(), logvar.exp()
    ),
    "zero_inflated_negative_binomial_log_prob": (
        lambda f, mu, logvar, key, x: f.zero_inflated_negative_binomial_log_prob(
            (4 * x).detach().round(), mu.exp(), logvar.exp(), mu
        )
    ),
    "laplace_log_prob": lambda f, mu, logvar, key, x: f.laplace_log_prob(x, mu, logvar.exp()),
    "student_t_log_prob": lambda f, mu, logvar, key, x: f.student_t_log_prob(x, mu, logvar.exp(), 1 + logvar.exp()),
    "continuous_bernoulli_log_prob": lambda f, mu, logvar, key, x: f.continuous_bernoulli_log_prob(x, mu),
    "discretized_logistic_log_prob": lambda f, mu, logvar, key, x: f.discretized_logistic_log_prob(x, mu, logvar),
}


def _run(module: Any, call: Callable[..., Any], device: str) -> list[torch.Tensor]:
    """The values, and the gradients of their sum."""
    count = torch.arange(3 * 37, dtype=torch.float32).reshape(3, 37)
    mu, logvar, x = (wave.to(device).requires_grad_() for wave in (count.sin(), count.cos(), count.sin() ** 2))
    values = call(module, mu, logvar, torch.tensor([1, 2], device=device), x)
    values = [values] if isinstance(values, torch.Tensor) else list(values)
    scored = [value.double().sum() for value in values if value.requires_grad]
    if not scored:
        return values
    gradients = torch.autograd.grad(sum(scored), (mu, logvar, x), allow_unused=True)
    return values + [gradient for gradient in gradients if gradient is not None]
