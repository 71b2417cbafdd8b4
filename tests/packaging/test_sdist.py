"""`make sdist`: the source distribution has what the repository has, and is installed as a folder and as an archive."""

import re
import shutil
import subprocess
import sys

import pytest
from environment import ROOT, Environment

import aevb_ext


@pytest.fixture(scope="module")
def archive():
    return max((ROOT / "dist").glob("*.tar.gz"), key=lambda path: path.stat().st_mtime)


@pytest.fixture(scope="module")
def folder(archive, tmp_path_factory):
    place = tmp_path_factory.mktemp("sdist")
    shutil.unpack_archive(archive, place)
    (unpacked,) = place.iterdir()
    return unpacked


def test_it_has_what_the_repository_has(folder):
    """All that README links to, and nothing that was built."""
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    listed = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=True).stdout
    expected = {name for name in listed.splitlines() if not re.match(r"\.github/|\.ci/|\.gitignore", name)}
    made = {name for name in there if re.match(r"aevb_ext\.egg-info/|PKG-INFO|setup\.cfg", name)}
    assert there - made == expected


def test_its_commit_is_written_into_it(folder):
    command = [sys.executable, "setup.py", "--version"]
    here, there = (subprocess.run(command, cwd=place, capture_output=True, text=True) for place in (ROOT, folder))
    assert here.stdout == there.stdout != ""
    assert there.stdout.strip() in (folder / "aevb_ext" / "_version.py").read_text()


def test_it_is_of_no_torch(folder):
    lines = (folder / "PKG-INFO").read_text().splitlines()
    assert [line for line in lines if line.startswith("Requires-Dist: torch")] == ["Requires-Dist: torch>=2.11"]


@pytest.mark.parametrize("form", ["folder", "archive"])
def test_it_installs(form, request, tmp_path):
    """The baseline's kernels alone, which take a third of the time."""
    environment = Environment(tmp_path / "venv")
    environment.install("ninja")
    source = request.getfixturevalue(form)
    environment.install("--no-build-isolation", "--no-cache-dir", source, compiler=True, AEVB_CPU_ISA="baseline")
    done = environment.python("from aevb_ext import doctor; raise SystemExit(doctor.main())")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[0].split()[:2] == ["aevb_ext", aevb_ext.__version__]
