"""What `make gpu`, `make gpu-test` and `make gpu-bench` decide: which tests run, and what they add up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as benchmarks_main
from benchmarks import gpu_check
from benchmarks.measure import QUICK

pytestmark = pytest.mark.once("which tests and benchmarks are chosen is Python")

ROOT = Path(__file__).parents[1]


def passed(folder, *arguments):
    """The tests that pass when a small suite is run with the plugin."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "-p", "benchmarks.gpu_pytest"]
    done = subprocess.run([*command, *arguments, folder], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return [line.split()[0] for line in done.stdout.splitlines() if " PASSED" in line]


SUITE = {
    "test_other.py": "def test_last(): pass\ndef test_fails(): assert False\n",
    "test_values.py": """
import pytest
from types import SimpleNamespace as S
CASES = [S(operator=S(name=name), dtype=dtype) for name in "ab" for dtype in "xy" for _ in range(3)]
@pytest.mark.parametrize("case", CASES)
def test_values(case): pass
""",
    "test_cuda.py": "def test_graph_capture(): pass\ndef test_large(): pass\n",
}


@pytest.fixture
def suite(tmp_path):
    for name, program in SUITE.items():
        (tmp_path / name).write_text(program)
    return tmp_path


def test_the_first_look_has_a_test_of_each_operator_and_dtype_and_captures(suite):
    names = [name.rpartition("::")[2] for name in passed(suite, "--smoke")]
    assert names == [f"test_values[case{i}]" for i in (0, 3, 6, 9)] + ["test_graph_capture"]


def test_what_passed_is_not_run_again(suite, tmp_path):
    options = "--passed", str(tmp_path / "passed")
    first = passed(suite, *options)
    assert len(first) == 15 and first[-1].endswith("test_last") and "test_values" in first[0]
    assert passed(suite, *options) == []
    assert len((tmp_path / "passed").read_text().splitlines()) == 15


def test_parts_add_to_the_results_of_one_build_and_its_sources(tmp_path):
    path, now = tmp_path / "results.json", {"machine": {"gpu": "one"}, "build": {"commit": "a"}, "sources": "b"}
    assert gpu_check.results_so_far(path, now) == {}
    found = {**now, "stages": {"tests": {}}}
    path.write_text(json.dumps(found))
    assert gpu_check.results_so_far(path, now) == found
    for other in ({"build": {"commit": "b"}}, {"machine": {"gpu": "two"}}, {"sources": "c"}):
        assert gpu_check.results_so_far(path, now | other) == {}


def test_a_change_of_any_source_is_one_of_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "ROOT", tmp_path)
    seen = set()
    for name in ("aevb_ext/a.py", "benchmarks/a.py", "csrc/cuda/a.cu", "tests/a.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("")
        seen.add(gpu_check.fingerprint())
    (tmp_path / "tests/a.py").write_text("changed")
    assert len(seen | {gpu_check.fingerprint()}) == 5


def test_a_stage_that_fails_or_hangs_is_recorded_with_what_it_said(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_check, "LOGS", tmp_path)
    said = "import time; print('so far', flush=True); "
    for program, outcome in (("1 / 0", "failed (exit status 1)"), ("time.sleep(60)", "ran out of its 1 s")):
        stage = gpu_check.Stage("one", [sys.executable, "-c", said + program], 1.0 if "sleep" in program else 60.0)
        stage.run()
        assert stage.outcome == outcome and "so far" in stage.output


def test_benchmarks_go_on_after_the_last_piece(tmp_path, monkeypatch):
    begun = []

    def pieces(*_):
        for name in "abc":
            yield "cases", lambda name=name: begun.append(name) or [{"name": name, "failures": {}}]

    monkeypatch.setattr(benchmarks_main, "pieces", pieces)
    monkeypatch.setattr(benchmarks_main.report, "line", str)
    monkeypatch.setattr(benchmarks_main, "copy_bandwidth", lambda _: 1e9)
    cpu = benchmarks_main.torch.device("cpu")
    benchmarks_main.run(cpu, QUICK, "", tmp_path, seconds=0, resume=True)
    assert begun == ["a"]
    results = benchmarks_main.run(cpu, QUICK, "", tmp_path, seconds=60, resume=True)
    assert begun == ["a", "b", "c"] and [found["name"] for found in results["cases"]] == ["a", "b", "c"]
    benchmarks_main.run(cpu, QUICK, "", tmp_path, seconds=60, resume=False)
    assert begun == ["a", "b", "c"] * 2
    benchmarks_main.run(cpu, QUICK, "another case", tmp_path, seconds=60, resume=True)
    assert begun == ["a", "b", "c"] * 3


def test_a_benchmark_that_fails_hides_no_other(tmp_path, monkeypatch, capsys):
    """It is recorded, and not tried again; after an error of the GPU the next process goes on."""
    begun = []

    def piece(name):
        begun.append(name)
        match name:
            case "b":
                raise ValueError("one that fails")
            case "c":
                raise benchmarks_main.torch.AcceleratorError("an illegal memory access")
        return [{"name": name, "failures": {}}]

    monkeypatch.setattr(benchmarks_main, "pieces", lambda *_: (("cases", lambda n=n: piece(n)) for n in "abcd"))
    monkeypatch.setattr(benchmarks_main.report, "line", str)
    monkeypatch.setattr(benchmarks_main, "copy_bandwidth", lambda _: 1e9)
    settings = benchmarks_main.torch.device("cpu"), QUICK, "", tmp_path, 60, True
    with pytest.raises(benchmarks_main.torch.AcceleratorError):
        benchmarks_main.run(*settings)
    results = benchmarks_main.run(*settings)
    assert begun == ["a", "b", "c", "d"] and [found["name"] for found in results["cases"]] == ["a", "d"]
    assert results["failed"] == [
        "piece 1, of cases: ValueError: one that fails",
        "piece 2, of cases: AcceleratorError: an illegal memory access",
    ]
    assert "one that fails" in capsys.readouterr().err


def test_benchmarks_need_no_pictures(tmp_path, monkeypatch, capsys):
    """Where matplotlib is not installed, as on a machine with a GPU that has torch alone."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "benchmarks.plots", raising=False)
    monkeypatch.delattr(sys.modules["benchmarks"], "plots", raising=False)
    monkeypatch.setattr(benchmarks_main, "run", lambda *_: {"failed": []})
    monkeypatch.setattr(sys, "argv", ["benchmarks", "--out", str(tmp_path)])
    assert benchmarks_main.main() == 0 and "no pictures" in capsys.readouterr().out
    monkeypatch.setattr(benchmarks_main, "run", lambda *_: {"failed": ["one"]})
    assert benchmarks_main.main() == 1
