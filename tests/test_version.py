"""The version that setup.py gives a build, and the torch that the build requires."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from setuptools.errors import PlatformError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def versions(tmp_path, monkeypatch):
    """setup_version.py in a folder that has a package of version 1.2.3 and no repository."""
    monkeypatch.delenv("AEVB_COMMIT", raising=False)
    monkeypatch.delenv("AEVB_BUILD", raising=False)
    spec = importlib.util.spec_from_file_location("aevb_setup_version", ROOT / "setup_version.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "aevb_ext").mkdir()
    (tmp_path / "aevb_ext" / "_version.py").write_text('"""The version."""\n\n__version__ = "1.2.3"\n')
    return module


@pytest.fixture
def git(versions, monkeypatch):
    """A repository there, of one commit; the function runs git in it."""
    if shutil.which("git") is None:
        pytest.skip("no git")
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false"]

    def run(*words: str) -> str:
        done = subprocess.run(["git", "-C", versions.ROOT, *who, *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    run("init", "-q")
    run("add", "-A")
    run("commit", "-q", "-m", "one")
    return run


def test_a_commit_with_the_tag_of_its_version_is_that_release(versions, git):
    git("tag", "v1.2.3")
    assert versions.version() == "1.2.3"


@pytest.mark.parametrize("tag", [None, "v1.2.2", "1.2.3", "v1.2.3.4"])
def test_any_other_commit_comes_before_the_release(versions, git, tag):
    if tag:
        git("tag", tag)
    head = git("rev-parse", "HEAD")
    assert versions.version() == f"1.2.3.dev1+g{head[:12]}"


def test_a_later_commit_has_a_higher_version(versions, git):
    version = pytest.importorskip("packaging.version").Version
    made = [version(versions.version())]
    for number in range(10):
        git("commit", "-q", "--allow-empty", "-m", f"another {number}")
        made.append(version(versions.version()))
    git("tag", "v1.2.3")
    made.append(version(versions.version()))
    assert made == sorted(set(made)) and not made[-1].is_prerelease


def test_a_changed_file_makes_it_no_release(versions, git):
    git("tag", "v1.2.3")
    path = versions.ROOT / "aevb_ext" / "_version.py"
    path.write_text(path.read_text() + "# changed\n")
    assert re.fullmatch(r"1\.2\.3\.dev1\+g[0-9a-f]{12}\.dirty", versions.version())
    assert versions.commit().endswith("-dirty")


def test_without_git_it_is_what_was_written(versions, git, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert (versions.version(), versions.commit()) == ("1.2.3", "unknown")


@pytest.mark.parametrize("dirty", [False, True])
def test_what_is_frozen_is_read_back_where_there_is_no_repository(versions, git, tmp_path, dirty):
    """As in an sdist. The file may be a link to the repository's, which stays as it is."""
    if dirty:
        (versions.ROOT / "aevb_ext" / "_version.py").write_text('__version__ = "1.2.3"\n')
    version, commit = versions.version(), versions.commit()
    sdist = tmp_path / "sdist"
    (sdist / "aevb_ext").mkdir(parents=True)
    os.link(versions.ROOT / "aevb_ext" / "_version.py", sdist / "aevb_ext" / "_version.py")
    versions.freeze(sdist, version)
    assert '__version__ = "1.2.3"\n' in (versions.ROOT / "aevb_ext" / "_version.py").read_text()
    versions.ROOT = sdist
    assert (versions.version(), versions.commit()) == (version, commit)


@pytest.mark.parametrize("given, commit", [("", "unknown"), ("v0.1-3-g0123abc-dirty", "v0.1-3-g0123abc-dirty")])
def test_commit_where_there_is_no_repository(versions, monkeypatch, given, commit):
    monkeypatch.setenv("AEVB_COMMIT", given)
    assert versions.commit() == commit


@pytest.mark.parametrize("given", ['"', "a b", "a\\", "x" * 101])
def test_commit_that_is_none(versions, monkeypatch, given):
    monkeypatch.setenv("AEVB_COMMIT", given)
    with pytest.raises(PlatformError, match=r"^AEVB_COMMIT=.*: expected a commit"):
        versions.commit()


@pytest.mark.parametrize(
    "version, with_cuda, expected",
    [
        ("1.2.3", False, "1.2.3+torch2.13.cpu"),
        ("1.2.3", True, "1.2.3+torch2.13.cu126"),
        ("1.2.3.dev7+g0123abc", True, "1.2.3.dev7+g0123abc.torch2.13.cu126"),
    ],
)
def test_a_wheel_names_its_torch(versions, version, with_cuda, expected):
    built_with = SimpleNamespace(__version__="2.13.0+cu126", version=SimpleNamespace(cuda="12.6"))
    assert versions.with_torch(version, built_with, with_cuda) == expected


@pytest.mark.parametrize(
    "here, expected",
    [
        ("2.13.0+cpu", "torch==2.13.*"),
        ("2.13.1", "torch==2.13.*"),
        ("2.15.0.dev20261127+cu130", "torch==2.15.0.dev20261127"),  # whose interface is that of the day
        ("2.14.0a0+git0123abc", "torch==2.14.0a0"),
        (None, "torch>=2.11"),
    ],
)
def test_a_library_requires_the_minor_version_that_it_is_compiled_against(versions, monkeypatch, here, expected):
    requirement = pytest.importorskip("packaging.requirements").Requirement
    monkeypatch.setattr(versions, "torch_version", lambda: here)
    monkeypatch.setattr(sys, "argv", ["setup.py", "bdist_wheel"])
    assert versions.requirements() == [expected]
    assert here is None or requirement(expected).specifier.contains(here, prereleases=True)
    # An sdist is compiled later, and without a library any torch is right.
    monkeypatch.setattr(sys, "argv", ["setup.py", "sdist"])
    assert versions.requirements() == ["torch>=2.11"]
    monkeypatch.setattr(sys, "argv", ["setup.py", "bdist_wheel"])
    monkeypatch.setenv("AEVB_BUILD", "0")
    assert versions.requirements() == ["torch>=2.11"]


def test_torchs_version_is_read_without_importing_it():
    program = "import sys, setup_version; print(setup_version.torch_version(), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == [torch.__version__, "False"], done.stderr


def test_a_missing_torch_is_said_when_pip_asks_for_the_metadata(tmp_path):
    """It does so before it downloads what is required and builds. With build isolation there is no torch."""
    program = "import runpy, sys; sys.modules['torch'] = None; sys.argv[0] = 'setup.py'\n"
    program += "runpy.run_path('setup.py', run_name='__main__')"
    command = [sys.executable, "-c", program, "dist_info", "--output-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "    pip install torch ninja\n    pip install --no-build-isolation .\n" in done.stderr
    assert list(tmp_path.iterdir()) == []
