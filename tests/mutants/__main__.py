"""Whether the tests see a fault: every one of faults.py, built into a copy of the sources, must make a test fail.

The copy is compiled once, with all faults in it; the environment variable AEVB_FAULT says which one is there.
"""

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .faults import CPU, CUDA, Fault

ROOT = Path(__file__).resolve().parents[2]
# Where a fault is looked for that the file of its row does not see: the tests of numbers, not of programs.
OTHERS = "values gradients extremes numbers layouts rows noise noise_keys bits halves half_gradients linear_log_prob"
OTHERS += " speculative_gradient memory distributions compat likelihoods mixture categorical sums_over_rows"
COPIES = ROOT / "build" / "mutants"
CHOICE = """
#include <cstdlib>
namespace aevb {
inline const int fault = std::getenv("AEVB_FAULT") ? std::atoi(std::getenv("AEVB_FAULT")) : 0;
}
"""


def copy_sources(copy: Path, faults: list[Fault]) -> None:
    """What git has, as it is in the working tree, with the faults. A file that is there already as it has to be is not
    written, so that it is not compiled again."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            here = [(number, fault) for number, fault in enumerate(faults, 1) if f"csrc/{fault.file}" == name]
            content = (ROOT / name).read_bytes()
            write_if_other(copy / name, with_faults(content.decode(), here).encode() if here else content)


def write_if_other(path: Path, content: bytes) -> None:
    if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def with_faults(source: str, faults: list[tuple[int, Fault]]) -> str:
    for number, fault in faults:
        before, rest = fault.right.split("«")
        right, after = rest.split("»")
        whole = before + right + after
        if source.count(whole) != 1:
            sys.exit(f"{fault.file} has {source.count(whole)} times what is to be made wrong once: {whole}")
        chosen = f"(::aevb::fault == {number} ? ({fault.wrong}) : ({right}))"
        source = source.replace(whole, before + chosen + after)
    include = '#include "fault.h"\n'
    before, once, after = source.partition("#pragma once\n")
    return before + once + include + after if once else include + source


def build(faults: list[Fault], copy: Path, kernels: str) -> None:
    copy_sources(copy, faults)
    write_if_other(copy / "csrc" / "fault.h", f"#pragma once{CHOICE}".encode())
    environment = os.environ | {"AEVB_CUDA": kernels, "AEVB_CPU_ISA": "baseline"}
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=copy, env=environment, check=True)


def seen_by(copy: Path, number: int, *tests: str) -> str:
    """The first test that fails with a fault, or "" where none does."""
    environment = os.environ | {"AEVB_FAULT": str(number), "PYTHONPATH": ""}
    command = [sys.executable, "-m", "pytest", "-xq", "-p", "no:cacheprovider", "--tb=no", *tests]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED ")]
    if done.returncode == 1 and failed:
        return failed[0].removeprefix("FAILED tests/").split(" - ")[0]
    if done.returncode < 0:
        return f"signal {-done.returncode} in {tests[0]}"
    sys.exit(f"pytest ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of faults (default: all)")
    parser.add_argument("--cuda", action="store_true", help="faults of the CUDA kernels, which the CPU emulates")
    options = parser.parse_args()
    faults, copy = (CUDA, COPIES / "cuda") if options.cuda else (CPU, COPIES / "cpu")
    build(faults, copy, "emulated" if options.cuda else "0")
    files = sorted({f"tests/{fault.tests}.py" for fault in faults})
    if failed := seen_by(copy, 0, *files):
        sys.exit(f"without a fault {failed} fails")
    others = ["tests/fuzz", *(f"tests/test_{name}.py" for name in OTHERS.split())]
    wanted = options.only or range(1, len(faults) + 1)

    def look(number: int) -> bool:
        fault = faults[number - 1]
        seen = seen_by(copy, number, f"tests/{fault.tests}.py") or seen_by(copy, number, *others)
        print(f"{number:3} {fault.file}: {fault.right}  ->  {fault.wrong}\n    {seen or 'NOT SEEN'}", flush=True)
        return bool(seen)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        missed = list(pool.map(look, wanted)).count(False)
    print(f"{len(wanted)} faults, {missed} not seen")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
