"""Programs that use this package pass mypy --strict without Any, and wrong types are reported."""

import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from printed import ROOT, programs

import aevb_ext

PACKAGE = Path(aevb_ext.__file__).parent
MYPY = shutil.which("mypy", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))

PUBLIC = (
    "reference noise functional compat distributions nn models data train learners estimators uses report plots export "
    "hmc factor_analysis integrations"
).split()

SETTINGS = """
[mypy]
strict = True
# Tensor.backward is not typed.
untyped_calls_exclude = torch
# Where the package lies beside the tests, its own errors are another test's.
[mypy-aevb_ext.*]
follow_imports = silent
[mypy-tomli.*,pooch.*,tqdm.*,scipy.*,diffusers.*,pythae.*,pyro.*,scvi.*,onnxruntime.*]
ignore_missing_imports = True
"""

# What may be of any type: options that are handed on, functions with arguments of their own, dicts of what JSON can
# hold, the items of other people's data sets, and the elements of NumPy's arrays.
MEANT = (
    r"\*Any, \*\*Any",
    r"\*\*(?:\w+: )?Any",
    r"dict\[(?:builtins\.)?(?:str|int), Any\]",
    r"Dataset\[Any\]",
    r"ndarray\[tuple\[Any, \.\.\.\], ",
    r"dtype\[Any\]",
)


WRONG = """
import torch
import aevb_ext

x: str = aevb_ext.gaussian_kl(torch.zeros(2, 3), torch.zeros(2, 3))
aevb_ext.rsample(torch.zeros(2, 3), torch.zeros(2, 3), n_sample=3)
"""


def test_users_programs_are_checked_and_none_of_our_types_is_any(tmp_path):
    printed = printed_programs()
    assert len(printed) >= 3
    written = {f"printed_{i}.py": program for i, program in enumerate(printed)}
    written |= {"surface.py": surface(), "wrong.py": WRONG}
    for name, program in written.items():
        (tmp_path / name).write_text(program)
    found = checked(tmp_path, list(written))
    assert {line.partition(":")[0] for line in found if ": error:" in line} == {"wrong.py"}, "\n".join(found)
    wrong = [line for line in found if line.startswith("wrong.py") and ": error:" in line]
    assert [line.split(":")[1] for line in wrong] == ["5", "6"]
    names = (tmp_path / "surface.py").read_text().splitlines()
    told = [line for line in found if "Revealed type is" in line]
    assert len(told) > 200
    untyped = [f"{names[int(line.split(':')[1]) - 1]}  {line}" for line in told if is_any(line)]
    assert not untyped, "\n".join(untyped)


def test_the_package_says_that_it_has_types():
    assert (PACKAGE / "py.typed").is_file()


@pytest.mark.parametrize("kind, said", [(True, "def (x: Any) -> Tensor"), (False, "def (**options: Any) -> Tensor")])
def test_any_is_seen(kind, said):
    assert is_any(said) == kind


def is_any(told: str) -> bool:
    for meant in MEANT:
        told = re.sub(meant, "", told)
    return re.search(r"\bAny\b", told) is not None


def printed_programs() -> list[str]:
    pages = ("README.md", "docs/heads.md", "docs/operators.md")
    return [program for page in pages for program in programs(ROOT / page)]


def surface() -> str:
    """A program that asks for the type of every public function, class, method and property."""
    lines = []
    for module in ["aevb_ext", *(f"aevb_ext.{name}" for name in PUBLIC)]:
        there = importlib.import_module(module)
        lines.append(f"import {module}")
        for name in there.__all__:
            value = getattr(there, name)
            if inspect.ismodule(value):
                continue
            lines.append(f"reveal_type({module}.{name})")
            if inspect.isclass(value) and value.__module__.startswith("aevb_ext"):
                lines += [f"reveal_type({module}.{name}.{method})" for method in methods(value)]
    return "\n".join(lines) + "\n"


def methods(of: type) -> list[str]:
    """What a class itself defines: the methods that are called, and the properties."""
    kinds = (property, classmethod, staticmethod)
    return [
        name
        for name, value in vars(of).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, kinds))
    ]


def checked(folder: Path, programs: list[str]) -> list[str]:
    """What mypy says of the programs."""
    settings = folder / "mypy.ini"
    settings.write_text(SETTINGS)
    environment = {**os.environ, "MYPYPATH": "" if "site-packages" in str(PACKAGE) else str(PACKAGE.parent)}
    command = [MYPY, "--config-file", settings.name, "--python-executable", sys.executable, "--no-pretty"]
    command += ["--no-error-summary", "--cache-dir", os.devnull, *programs]
    said = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert said.returncode == 1, said.stdout + said.stderr
    return said.stdout.splitlines()
