"""``make gpu``: build in place, test, sanitise and time on the GPU of this machine; write one results file.

A stage that fails or runs out of its time is recorded and the next one still runs. The whole ends inside nine minutes.
The results go to benchmarks/results/<gpu>.json and, where the environment variable OUT names a folder, there too.
"""

import importlib.util
import json
import os
import platform
import re
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
ALL_S = 515  # a stage needs a few more seconds to end
BENCHMARKS = LOGS / "benchmarks"
SECONDS = "(the seconds that are left)"  # in a stage's command


@dataclass
class Stage:
    name: str
    command: list[str]
    limit_s: float
    environment: dict[str, str] = field(default_factory=dict)
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
                self.outcome = "passed" if status == 0 else f"failed (exit status {status})"
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


def stages() -> list[Stage]:
    pytest = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    parallel = ["-n", "8"] if importlib.util.find_spec("xdist") else []
    found = [
        Stage("build", [PYTHON, "setup.py", "-q", "build_ext", "--inplace"], 110, {"AEVB_CUDA": "1"}),
        Stage("doctor", [PYTHON, "-m", "aevb_ext", "doctor"], 20),
        Stage("tests", [*pytest, *parallel, "-m", "cuda", f"--junitxml={LOGS / 'tests.xml'}", "tests"], 110),
    ]
    if sanitizer := _compute_sanitizer():
        # Without the caching allocator every tensor is a separate allocation, whose bounds the sanitizer knows.
        alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(ROOT)}
        for tool in ("memcheck", "racecheck"):
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", PYTHON, "benchmarks/sanitized.py"]
            found.append(Stage(tool, command, 40, alone))
    else:
        print("compute-sanitizer is not here: memcheck and racecheck are left out")
    # Alone and last: they may take the remaining time, and start nothing in its last half minute.
    timed = [PYTHON, "-m", "benchmarks", "--device", "cuda", "--out", str(BENCHMARKS), "--seconds", SECONDS]
    return [*found, Stage("benchmarks", timed, ALL_S)]


def _compute_sanitizer() -> str | None:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    return shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}{os.pathsep}{home}/bin")


def machine(torch) -> dict:
    gpu = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.strip() if shutil.which(query[0]) else ""
    return {
        "gpu": gpu.name,
        "capability": f"{gpu.major}.{gpu.minor}",
        "memory_GiB": round(gpu.total_memory / 2**30, 1),
        "multiprocessors": gpu.multi_processor_count,
        "driver": driver or "unknown",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_cuda": torch.version.cuda,
    }


def build_info() -> dict | None:
    """build_info() of the library just built, from a separate process, since it may not load."""
    program = "import aevb_ext, json; print(json.dumps(aevb_ext.build_info()))"
    done = subprocess.run([PYTHON, "-c", program], cwd=ROOT, capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def test_summary() -> dict | None:
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
    count["passed"] = count["tests"] - count["failures"] - count["errors"] - count["skipped"]
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


def main() -> int:
    try:
        import torch
    except ImportError:
        return f"make gpu: {PYTHON} has no torch: name one that has it, make gpu PYTHON=..."
    if not torch.cuda.is_available():
        return f"make gpu needs a GPU, and torch {torch.__version__} (CUDA {torch.version.cuda}) sees none here"
    if missing := [name for name in ("pytest", "matplotlib") if importlib.util.find_spec(name) is None]:
        return f"make gpu: {PYTHON} lacks {', '.join(missing)}"

    shutil.rmtree(LOGS, ignore_errors=True)
    LOGS.mkdir(parents=True)
    start = time.monotonic()
    done = stages()
    for stage in done:
        stage.limit_s = min(stage.limit_s, start + ALL_S - time.monotonic())
        stage.run()
        if stage.name == "build" and stage.outcome != "passed":
            break  # all other stages need the build

    tests = test_summary()
    results = {
        **figures(),
        "machine": machine(torch),
        "build": build_info(),
        "stages": [{k: v for k, v in asdict(s).items() if k in ("name", "outcome", "seconds", "output")} for s in done],
        "tests": tests,
    }
    name = re.sub(r"[^a-z0-9]+", "-", results["machine"]["gpu"].lower()).strip("-")
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    if out := os.environ.get("OUT"):
        shutil.copy(path, out)

    print(f"\n{results['machine']['gpu']}, {time.monotonic() - start:.0f} s in all; {path.relative_to(ROOT)}")
    for stage in done:
        print(f"  {stage.name:<11}{stage.outcome}, {stage.seconds:.0f} s")
    if tests:
        print(f"  {tests['passed']} passed, {tests['failures'] + tests['errors']} failed, {tests['skipped']} skipped")
        for test in tests["failed"][:20]:
            print(f"    {test}")
    if "cases" in results:
        print(verdict(path))
    return 0 if all(stage.outcome == "passed" for stage in done) else 1


if __name__ == "__main__":
    sys.exit(main())
