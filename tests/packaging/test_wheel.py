"""`make wheel`: what is in the wheel that it built, and what it does where there is torch alone and no compiler."""

import re
import sysconfig
import time
import zipfile

import printed
import pytest
import torch
from environment import ROOT, Environment, metadata

MINOR = ".".join(torch.__version__.split(".")[:2])


@pytest.fixture(scope="module")
def wheel():
    (built,) = (ROOT / "build" / "wheel").glob("*.whl")
    (repaired,) = (ROOT / "dist").glob(f"{built.name.rpartition('-')[0]}-*.whl")
    return repaired


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    made = Environment(tmp_path_factory.mktemp("wheel") / "venv")
    start = time.monotonic()
    made.install("--no-cache-dir", wheel)
    print(f"\ninstalled {wheel.name} ({wheel.stat().st_size / 1e6:.1f} MB) in {time.monotonic() - start:.1f} s")
    return made


def test_it_names_the_torch_that_it_fits(wheel):
    about = metadata(wheel)
    assert re.search(rf"[+.]torch{MINOR}\.(cpu|cu\d+)$", about["Version"])
    needed = [line for line in about.get_all("Requires-Dist") if "extra" not in line]
    assert needed == [f"torch=={MINOR}.*"]


def test_it_runs_on_other_linuxes(wheel):
    assert re.search(r"-manylinux_\d+_\d+_\w+\.whl$", wheel.name)


def test_it_has_the_package_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as file:
        names = [name for name in file.namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == {"aevb_ext", "aevb_command.py"}
    tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / "aevb_ext").rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == tracked | {"aevb_command.py"}
    others = {name for name in names if not name.endswith(".py")}
    assert {"aevb_ext/py.typed", "aevb_ext/datasets/digits.npz"} < others
    assert [name for name in others if name.endswith(".so")] == [f"aevb_ext/_C{sysconfig.get_config_var('EXT_SUFFIX')}"]


def test_its_commit_is_its_version(environment, wheel):
    said = environment.python("import aevb_ext; print(aevb_ext.__version__, aevb_ext.build_info()['commit'])").stdout
    version, commit = said.split()
    assert version == metadata(wheel)["Version"]
    assert "dev" not in version or f"+g{commit.replace('-', '.')}." in version


def test_values_and_gradients_are_those_of_the_formulas(environment):
    done = environment.python("from aevb_ext import doctor; raise SystemExit(doctor.main())")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("program", printed.programs(ROOT / "README.md"), ids=printed.name)
def test_readme_runs(environment, program):
    done = environment.python(f"{program}\nassert loss.isfinite() and encoder.weight.grad.isfinite().all()")
    assert done.returncode == 0 and "Error" not in done.stderr, done.stderr


def test_there_is_one_openmp_runtime(environment):
    """A second one beside torch's would have threads of its own."""
    done = environment.python(
        "import aevb_ext, re, torch\n"
        "aevb_ext.gaussian_kl(torch.zeros(512, 512), torch.zeros(512, 512))\n"
        "print(*sorted(set(re.findall(r'/\\S*/lib(?:gomp|iomp|omp)\\S*', open('/proc/self/maps').read()))))"
    )
    (runtime,) = done.stdout.split()
    assert "/torch/lib/" in runtime


def test_another_torch_is_said_before_the_library_is_loaded(environment):
    done = environment.python("import torch; torch.__version__ = '99.1.0'; import aevb_ext")
    assert done.returncode == 0 and "undefined symbol" not in done.stderr
    (said,) = re.findall(r"RuntimeWarning: (.*)", done.stderr)
    assert f"was built for torch {torch.__version__}, and this is torch 99.1.0" in said
    assert f"`pip install 'torch=={MINOR}.*'`" in said and "source folder" not in said


def test_the_extra_is_asked_for_and_what_is_said_installs_it(environment):
    done = environment.run("aevb", "train")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    (typed,) = re.findall(r"pip install ('aevb-ext\[train\]')", line)
    environment.install(typed.strip("'"))
    done = environment.run("aevb", "train", "--samples-seen", "1000")
    assert done.returncode == 0, done.stderr


def test_the_operators_tests_pass(environment):
    environment.install("aevb-ext[test]")
    tests = [ROOT / "tests" / f"test_{name}.py" for name in ("operators", "values")]
    done = environment.run(
        "pytest", "-q", "-p", "no:cacheprovider", "-c", ROOT / "pyproject.toml", "--rootdir", ROOT, *tests
    )
    assert done.returncode == 0, done.stdout[-3000:]
    print(f"\n{done.stdout.splitlines()[-1]}")
