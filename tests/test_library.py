"""The choice of the compiled library, and messages about one that does not fit."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import aevb_ext
from aevb_ext import _build_note, _library

PACKAGE = Path(aevb_ext.__file__).parent
LIBRARY = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"


@pytest.fixture
def places(tmp_path):
    """A source folder with its package and C++, and a folder of installed packages with ours among them."""
    made = SimpleNamespace(source=tmp_path / "source" / "aevb_ext", csrc=tmp_path / "source" / "csrc")
    made.site = tmp_path / "site" / "aevb_ext"
    for folder in (made.source, made.csrc, made.site):
        folder.mkdir(parents=True)
    (made.csrc / "kernels.cpp").write_text("one")
    (made.csrc / "library.cpp").touch()
    for package in (made.source, made.site):
        (package / "__init__.py").touch()
    return made


def build(package: Path, csrc: Path, built_for: str = torch.__version__) -> Path:
    library = package / LIBRARY
    library.write_bytes(b"\x7fELF")
    _build_note.write(library, torch=built_for, sources=_build_note.fingerprint(csrc))
    return library


def find(places):
    spec, why = _library.find(places.source, [str(places.source.parent), str(places.site.parent)])
    assert (spec is None) == (why != "")
    return why if spec is None else Path(spec.origin)


def test_the_library_beside_the_package_comes_first(places):
    build(places.site, places.csrc)
    beside = build(places.source, places.csrc)
    assert find(places) == beside


def test_a_source_folder_finds_the_library_that_was_installed_from_it(places, monkeypatch):
    installed = build(places.site, places.csrc)
    assert find(places) == installed
    monkeypatch.chdir(places.source.parent)
    spec, _ = _library.find(places.source, ["", str(places.site.parent)])
    assert spec.origin == str(installed)


@pytest.mark.parametrize("change", ["edited", "added", "removed", "renamed"])
def test_a_library_of_other_sources_is_not_taken(places, change):
    library = build(places.site, places.csrc)
    kernels = places.csrc / "kernels.cpp"
    if change == "edited":
        kernels.write_text("two")
    elif change == "added":
        (places.csrc / "more.h").touch()
    elif change == "removed":
        kernels.unlink()
    else:
        kernels.rename(places.csrc / "other.cpp")
    why = find(places)
    assert f"({library}) was built from other sources than {places.csrc} now has" in why
    assert "`pip install --no-build-isolation " in why


def test_an_installed_library_that_says_nothing_of_its_sources_is_not_taken(places):
    (places.site / LIBRARY).write_bytes(b"\x7fELF")
    assert "was built from other sources" in find(places)


def test_nothing_is_built(places):
    assert f"the package in {places.source} was not built. Run `pip install --no-build-isolation .`" in find(places)


def test_a_package_without_its_sources_takes_no_other_packages_library(places):
    build(places.site, places.csrc)
    shutil.rmtree(places.csrc)
    assert "was not built" in find(places)


def test_a_library_for_another_python(places):
    (places.source / "_C.cpython-38-none.so").touch()
    assert f"another Python (_C.cpython-38-none.so; this one loads {LIBRARY})" in find(places)


@pytest.mark.parametrize(
    "built, runs, fits",
    [
        ("2.13.0+cpu", "2.13.0+cpu", True),
        ("2.13.0+cpu", "2.13.0+cu130", True),
        ("2.13.0", "2.13.1", True),
        ("2.13.0", "2.14.1", False),
        ("2.1.0", "2.13.0", False),
        ("2.13.0", "3.13.0", False),
        ("2.14.0a0+git1234567", "2.14.0", False),
        ("2.14.0.dev20260901+cpu", "2.14.0.dev20260902+cpu", False),
        ("2.14.0.dev20260901+cpu", "2.14.0.dev20260901+cpu", True),
    ],
)
def test_of_which_torch_a_library_may_be(places, monkeypatch, built, runs, fits):
    monkeypatch.setattr(torch, "__version__", runs)
    library = build(places.source, places.csrc, built)
    if fits:
        assert find(places) == library
    else:
        assert f"({library}) was built for torch {built}, and this is torch {runs}" in find(places)
        assert _library.REBUILD in find(places) and f"`pip install torch=={built.partition('+')[0]}`" in find(places)


def test_a_wheel_of_another_torch_says_what_to_install(places, monkeypatch):
    """Who has a wheel has no source folder."""
    version = "0.1.0.dev7+g0123abc.torch2.13.cu126"
    monkeypatch.setattr(_library, "_WHEEL", _library.wheel_of(version))
    monkeypatch.setattr(torch, "__version__", "2.14.1+cu126")
    build(places.source, places.csrc, "2.13.0+cu126")
    shutil.rmtree(places.csrc)
    why = find(places)
    assert "was built for torch 2.13.0+cu126, and this is torch 2.14.1+cu126" in why and "source folder" not in why
    assert (
        "`pip install aevb-ext==0.1.0.dev7+g0123abc.torch2.14.cu126`" in why and "`pip install 'torch==2.13.*'`" in why
    )
    assert _library.wheel_of("0.1.0") is _library.wheel_of("0.1.0.dev7+g0123abc") is None


def test_an_installed_library_that_fits_is_taken_before_one_of_another_torch(places):
    """As where two environments share a source folder, and one built in it."""
    build(places.source, places.csrc, "1.0.0")
    assert "was built for torch 1.0.0" in find(places)
    build(places.site, places.csrc, "1.0.0")
    assert "was built for torch 1.0.0" in find(places)
    fits = build(places.site, places.csrc)
    assert find(places) == fits


def test_a_library_of_earlier_sources_is_taken_with_a_word_if_no_other_fits(places):
    """As after `git pull` where one had built in place."""
    beside = build(places.source, places.csrc)
    earlier = build(places.site, places.csrc)
    (places.csrc / "kernels.cpp").write_text("two")
    path = [str(places.source.parent), str(places.site.parent)]
    spec, why = _library.find(places.source, path)
    assert spec.origin == str(beside)
    assert f"({beside}) was built before {places.csrc} changed" in why and _library.REBUILD in why
    build(places.site, places.csrc)
    assert find(places) == earlier
    # One that says nothing of its sources may be of these.
    earlier.unlink()
    beside.write_bytes(b"\x7fELF")
    assert find(places) == beside


def test_a_library_without_a_note_says_its_torch_when_it_is_loaded(tmp_path):
    module = tmp_path / "_C.py"
    module.write_text('def build_info(): return {"torch": "1.0.0"}')
    loaded, why = _library._load(spec_from_file_location("aevb_ext._C", module))
    assert loaded is None and f"({module}) was built for torch 1.0.0" in why
    assert sys.modules["aevb_ext._C"] is _library._C


def test_a_note_is_read_back_whatever_stands_before_it(tmp_path):
    library = tmp_path / LIBRARY
    for before in (b"", b"\x7fELF" * 1000):
        library.write_bytes(before)
        assert _build_note.read(library) == {}
        _build_note.write(library, torch="2.13.0+cpu", sources="0123")
        assert _build_note.read(library) == {"torch": "2.13.0+cpu", "sources": "0123"}
        assert library.read_bytes().startswith(before)


def test_operators_run_in_a_source_folder_after_an_installation(places):
    """The whole of it, in a process of its own."""
    shutil.copytree(PACKAGE, places.source, ignore=shutil.ignore_patterns("*.so", "__pycache__"), dirs_exist_ok=True)
    library = Path(shutil.copy(_library._C.__file__, places.site))
    _build_note.write(library, torch=torch.__version__, sources=_build_note.fingerprint(places.csrc))
    program = "import torch, aevb_ext; print(aevb_ext.__file__, aevb_ext._library._C.__file__, sep='\\n'); "
    program += "print(aevb_ext.gaussian_kl(torch.ones(1, 3), torch.zeros(1, 3)).item())"
    command = [sys.executable, "-W", "error", "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(places.site.parent)}
    done = subprocess.run(command, cwd=places.source.parent, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(places.source / "__init__.py"), str(library), "1.5"], done.stderr
