"""``make gpu``, ``make gpu-test``, ``make gpu-bench``: what a GPU has to confirm, in three parts of eight minutes each.

    make gpu         builds in place; doctor, a test of each operator and dtype, captured graphs, the sanitizer
    make gpu-test    every test of the GPU; called again, those that have not passed yet
    make gpu-bench   operators and training steps against their rivals; called again, what is not measured yet

Each builds what is not built. A stage that fails or runs out of its time is recorded, and the next one still runs. All
add to one results file, benchmarks/results/<gpu>.json, which is copied to the folder that the environment variable OUT
names, if any.

AEVB_CUDA=emulated rehearses them where there is no GPU: the CUDA kernels run on the CPU (tests/emulation), CPU tensors
stand for those of a GPU, and the results stay in build/gpu.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOGS = ROOT / "build" / "gpu"
PYTHON = sys.executable
PART_S = 465  # of a part, so that with what begins and ends it it takes less than eight minutes
BENCHMARKS, PASSED = LOGS / "benchmarks", LOGS / "passed"
SECONDS = "(the seconds that are left)"  # in a stage's command
REHEARSAL = os.environ.get("AEVB_CUDA") == "emulated"


@dataclass
class Stage:
    name: str
    command: list[str]
    limit_s: float
    environment: dict[str, str] = field(default_factory=dict)
    status: int = 0  # with which it ends when all is well
    outcome: str = "not run"
    seconds: float = 0.0
    # The last lines of the output, kept if the stage failed.
    output: list[str] = field(default_factory=list)

    def run(self) -> None:
        print(f"{self.name} ...", flush=True)
        start = time.monotonic()
        left = f"{max(self.limit_s - 30, 0):.0f}"
        with open(LOGS / f"{self.name}.log", "w+") as log:
            process = subprocess.Popen(
                [left if word is SECONDS else word for word in self.command],
                cwd=ROOT,
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status = process.wait(self.limit_s)
                self.outcome = "passed" if status == self.status else f"failed (exit status {status})"
            except subprocess.TimeoutExpired:
                self.outcome = f"ran out of its {self.limit_s:.0f} s"
                _end(process)
            log.seek(0)
            lines = log.read().splitlines()
        self.seconds = round(time.monotonic() - start, 1)
        if self.outcome != "passed":
            self.output = lines[-60:]
            print("\n".join(self.output))
        print(f"{self.name}: {self.outcome}, {self.seconds:.0f} s", flush=True)


def _end(process: subprocess.Popen) -> None:
    """Interrupt the stage, so that pytest still writes its report; then kill processes that are left."""
    os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(8)
    except subprocess.TimeoutExpired:
        pass
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def stages(part: str) -> list[Stage]:
    # The library is used where it lies, also by what a stage starts elsewhere.
    cuda = {"AEVB_CUDA": "emulated", "AEVB_GPU": "rehearsed"} if REHEARSAL else {"AEVB_CUDA": "1"}
    found = [Stage("build", [PYTHON, "setup.py", "-q", "build_ext", "--inplace"], 300, cuda)] if not is_built() else []
    pytest = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "benchmarks.gpu_pytest", "-m", "cuda"]
    parallel = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    if part == "gpu":
        # That the kernels are emulated is a fault by itself.
        found.append(Stage("doctor", [PYTHON, "-m", "aevb_ext", "doctor"], 20, cuda, status=int(REHEARSAL)))
        found.append(Stage("smoke", [*pytest, "--smoke", "tests"], 120, cuda))
        if sanitizer := _compute_sanitizer():
            # Without the caching allocator every tensor is a separate allocation, whose bounds the sanitizer knows.
            alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(ROOT)}
            for tool in ("memcheck", "racecheck"):
                command = [sanitizer, "--tool", tool, "--error-exitcode", "9", PYTHON, "benchmarks/sanitized.py"]
                found.append(Stage(tool, command, 40, alone))
        else:
            print("compute-sanitizer is not here: memcheck and racecheck are left out")
    if part == "gpu-test":
        report = [f"--junitxml={LOGS / 'tests.xml'}", "--passed", str(PASSED)]
        found.append(Stage("tests", [*pytest, *parallel, *report, "tests"], PART_S, cuda))
    if part == "gpu-bench":
        # It starts no case in its last half minute.
        timed = [PYTHON, "-m", "benchmarks", "--device", "cpu" if REHEARSAL else "cuda", "--resume"]
        quick = ["--quick", "--only", "100 x 20"] if REHEARSAL else []
        found.append(
            Stage("benchmarks", [*timed, *quick, "--out", str(BENCHMARKS), "--seconds", SECONDS], PART_S, cuda)
        )
    return found


def is_built() -> bool:
    """Whether the library in place is of these sources, for this torch, and has CUDA."""
    note = runpy.run_path(str(ROOT / "aevb_ext" / "_build_note.py"))
    info = build_info()
    wanted = "emulated" if REHEARSAL else "cuda"
    if not info or not info.get(wanted):
        return False
    path = Path(info["path"])
    return note["read"](path).get("sources") == note["fingerprint"](ROOT / "csrc")


def _compute_sanitizer() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}{os.pathsep}{home}/bin")


def machine(torch) -> dict:
    about = {"python": platform.python_version(), "torch": torch.__version__, "torch_cuda": torch.version.cuda}
    if REHEARSAL:
        return {"gpu": "rehearsal", **about}
    gpu = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which(query[0]) else ""
    return {
        "gpu": gpu.name,
        "capability": f"{gpu.major}.{gpu.minor}",
        "memory_GiB": round(gpu.total_memory / 2**30, 1),
        "multiprocessors": gpu.multi_processor_count,
        "driver": driver or "unknown",
        **about,
    }


def build_info() -> dict | None:
    """build_info() of the library in place and its path, from a separate process, since it may not load."""
    program = (
        "import aevb_ext, json; print(json.dumps(aevb_ext.build_info() | {'path': aevb_ext._library._C.__file__}))"
    )
    done = subprocess.run([PYTHON, "-c", program], cwd=ROOT, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def test_summary() -> dict | None:
    """Of all calls of ``make gpu-test`` with this build: what passed before is not run again."""
    try:
        suite = ElementTree.parse(LOGS / "tests.xml").getroot().find("testsuite")
    except (OSError, ElementTree.ParseError):
        return None
    count = {name: int(suite.get(name)) for name in ("tests", "failures", "errors", "skipped")}
    bad = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    count["passed"] = len(PASSED.read_text().splitlines()) if PASSED.is_file() else 0
    return {**count, "failed": bad}


def figures() -> dict:
    """The results of `python -m benchmarks`, which it writes after every case."""
    for path in BENCHMARKS.glob("*.json"):
        return json.loads(path.read_text())
    return {}


def verdict(path: Path) -> str:
    """The tables, and the measurements against their targets."""
    asked = (
        subprocess.run([PYTHON, "-m", "benchmarks", what, str(path)], cwd=ROOT, capture_output=True, text=True)
        for what in ("--markdown", "--check")
    )
    return "\n".join(done.stdout + done.stderr for done in asked)


def fingerprint() -> str:
    """Of all that a stage runs: what passed or was measured before a change of it says nothing of it now."""
    folders = (ROOT / name for name in ("aevb_ext", "benchmarks", "csrc", "tests"))
    suffixes = {".py", ".h", ".cpp", ".cu", ".cuh"}
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes)
    return hashlib.sha256(b"\0".join(part for f in files for part in (str(f).encode(), f.read_bytes()))).hexdigest()


def results_so_far(path: Path, of: dict) -> dict:
    """What other parts have found, on this machine, with this build, of these sources."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    return before if all(before.get(name) == value for name, value in of.items()) else {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=["gpu", "gpu-test", "gpu-bench"], default="gpu")
    part = parser.parse_args().part
    try:
        import torch
    except ImportError:
        return f"make {part}: {PYTHON} has no torch: name one that has it, make {part} PYTHON=..."
    if not torch.cuda.is_available() and not REHEARSAL:
        return f"make {part} needs a GPU, and torch {torch.__version__} (CUDA {torch.version.cuda}) sees none here"
    if importlib.util.find_spec("pytest") is None:
        return f"make {part}: {PYTHON} lacks pytest"

    start = time.monotonic()
    LOGS.mkdir(parents=True, exist_ok=True)
    done = stages(part)
    sources, of = fingerprint(), LOGS / "sources"
    if done[0].name == "build" or not of.is_file() or of.read_text() != sources:
        shutil.rmtree(LOGS)
        LOGS.mkdir()
        of.write_text(sources)
    for stage in done:
        stage.limit_s = min(stage.limit_s, start + PART_S - time.monotonic())
        stage.run()
        if stage.name == "build" and stage.outcome != "passed":
            break  # all other stages need the build

    about = machine(torch)
    now = {"machine": about, "build": build_info(), "sources": sources}
    name = re.sub(r"[^a-z0-9]+", "-", about["gpu"].lower()).strip("-")
    path = LOGS / "rehearsal.json" if REHEARSAL else ROOT / "benchmarks" / "results" / f"{name}.json"
    before = results_so_far(path, now)
    told = {s.name: {k: v for k, v in asdict(s).items() if k in ("outcome", "seconds", "output")} for s in done}
    results = {
        **before,
        **figures(),
        **now,
        "stages": before.get("stages", {}) | told,
        "tests": test_summary() or before.get("tests"),
    }
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    if out := os.environ.get("OUT"):
        shutil.copy(path, out)

    print(f"\n{about['gpu']}, {time.monotonic() - start:.0f} s in all; {path.relative_to(ROOT)}")
    for stage in done:
        print(f"  {stage.name:<11}{stage.outcome}, {stage.seconds:.0f} s")
    if part == "gpu-test" and (tests := results["tests"]):
        print(f"  {tests['passed']} passed, {tests['failures'] + tests['errors']} failed, {tests['skipped']} skipped")
        for test in tests["failed"][:20]:
            print(f"    {test}")
    if part == "gpu-bench" and "cases" in results:
        print(verdict(path))
    return 0 if all(stage.outcome == "passed" for stage in done) else 1


if __name__ == "__main__":
    sys.exit(main())
