"""With our patch, exactly those of a package's own tests fail that fail without it.

Of the packages, scvi-tools alone has its tests in its sdist. How to run those of the others is in patched.py, and what
came of it in docs/integrations.md.
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "build" / "own-tests"

# For each package, its patch, a quick selection of its own tests that goes through all that is replaced, and those of
# the whole that need what `make conformance` does not install.
SELECTIONS = {
    "scvi-tools": (
        "scvi",
        ["tests/module", "tests/model/test_linear_scvi.py", "tests/model/test_condscvi.py"],
        ["tests/external/mrvi_jax", "tests/external/tangram", "tests/model/test_jaxscvi.py"],
    ),
}


def _sources(package: str) -> Path:
    """The unpacked sdist of the version that is installed; pip fetches it once."""
    version = importlib.metadata.version(package)
    folder = SOURCES / f"{package.replace('-', '_')}-{version}"
    if not folder.exists():
        options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-binary", ":all:", "--dest", SOURCES]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, f"{package}=={version}"], check=True)
        with tarfile.open(f"{folder}.tar.gz") as archive:
            # Python has the filter from 3.10.12 and 3.11.4 on.
            safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
            archive.extractall(SOURCES, **safely)
    return folder


def _run(folder: Path, tests: list[str], report: Path, *options: str) -> dict:
    """What patched.py reports of them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "patched", "--disable-warnings"]
    paths = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(
        [*command, "--tb=short", "--report", report, *options, *tests],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": paths},
    )
    return json.loads(report.read_text())


def _failures(run: dict) -> set[str]:
    return {test for test, outcome in run["outcomes"].items() if outcome == "failed"}


@pytest.mark.parametrize("package", SELECTIONS)
def test_own_tests(package, tmp_path, request, record_property):
    patch, selection, missing = SELECTIONS[package]
    folder = _sources(package)
    if request.config.getoption("--whole-suites"):
        selection = ["tests", *(f"--ignore={path}" for path in missing)]
    ours = _run(folder, selection, tmp_path / "with.json", "--patch", patch)
    failures = _failures(ours)
    if failures:
        failures -= _failures(_run(folder, sorted(failures), tmp_path / "without.json"))
    calls = {test: count for test, count in ours["calls"].items() if count}
    version = importlib.metadata.version(package)
    ran = sum(outcome != "skipped" for outcome in ours["outcomes"].values())
    record_property(
        "own tests",  # conftest.py prints it
        f"{package} {version}: {ran} of its own tests, our operators reached in {len(calls)}, "
        f"by {sum(sum(count.values()) for count in calls.values())} calls; {len(failures)} fail with the patch alone",
    )
    assert not failures
    assert calls, "none of these tests reached our operators"
