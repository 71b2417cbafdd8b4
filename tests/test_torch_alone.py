"""The operators need torch alone. What the trainer needs is an extra, which is named where it is missing."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from aevb_ext import _extras

ROOT = Path(__file__).parents[1]
of_python = pytest.mark.once("what is said of a missing package is Python")
HIDDEN = {module for modules in _extras.EXTRAS.values() for module in modules.values()} | {"tomli"}


def run(program: str, hidden: set[str] = HIDDEN) -> subprocess.CompletedProcess[str]:
    """Run a program as if these were not installed."""
    begin = f"import sys\nsys.path.insert(0, 'tests')\nsys.modules.update(dict.fromkeys({sorted(hidden)}))\n"
    return subprocess.run([sys.executable, "-c", begin + program], cwd=ROOT, capture_output=True, text=True)


def test_every_public_operator_runs_and_imports_none_of_them():
    """Forward and backward, on the rows from which the tests of PyTorch's machinery are made."""
    done = run(
        "import program, public\n"
        "for row in public.ROWS:\n"
        "    loss, _, gradients = program.value_and_gradients(program.Program(row), *program.inputs())\n"
        "    assert loss.isfinite() and all(gradient.isfinite().all() for gradient in gradients), row\n"
        f"print(len(public.ROWS), *[name for name in {sorted(HIDDEN)} if sys.modules[name] is not None])"
    )
    assert done.returncode == 0, done.stderr
    count, *imported = done.stdout.split()
    assert int(count) > 40 and imported == []


def test_what_the_operators_import():
    done = run(
        "import torch\n"
        "before = set(sys.modules)\n"
        "import aevb_ext\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})\n"
        "print(*sorted(name for name in sys.modules if name.startswith('aevb_ext.')))",
        hidden=set(),
    )
    assert done.returncode == 0, done.stderr
    packages, ours = (set(line.split()) for line in done.stdout.splitlines())
    assert packages & (HIDDEN | {"numpy"}) == set()
    trainer = ("cli", "data", "estimators", "learners", "models", "paper", "plots", "report", "train", "uses")
    assert ours & {f"aevb_ext.{name}" for name in trainer} == set()


@of_python
def test_each_part_of_the_trainer_asks_for_its_extra():
    parts = ["data", "estimators", "factor_analysis", "learners", "paper", "report", "train", "uses"]
    done = run(
        "import importlib\n"
        f"for part in {parts}:\n"
        "    try:\n"
        "        importlib.import_module(f'aevb_ext.{part}')\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    said = done.stdout.splitlines()
    assert len(said) == len(parts), done.stdout + done.stderr
    for line in said:
        assert "numpy, matplotlib" in line and line.endswith(f"type `{_extras.command('train')}`")


@of_python
def test_the_command_asks_for_its_extra():
    """Without a traceback: it is installed with the operators."""
    programs = "from aevb_ext.cli import main; raise SystemExit(main())", "import aevb_ext.__main__"
    for program in programs:
        done = run(f"sys.argv = ['aevb', 'train']\n{program}")
        assert done.returncode == 1 and "Traceback" not in done.stderr
        last = done.stderr.splitlines()[-1]  # after what torch says of NumPy
        assert last.startswith("aevb: error: ") and _extras.command("train") in last


# What is imported where it is used: a machine with a GPU that has torch, NumPy and pytest alone can train.
USES = {
    "rich": "train.callbacks.Progress()",
    "safetensors": "train.load_checkpoint('pyproject.toml')",
    "matplotlib": "plots.curve([], 'x')",
    "PIL": "data.load('docs/uses')",
    "pooch": "data.download('mnist', '/nowhere')",
}


@of_python
def test_a_use_of_a_package_that_is_missing_asks_for_the_extra():
    for module in USES:
        pytest.importorskip(module)
    done = run(
        "from aevb_ext import data, plots, train\n"
        f"for module, use in {USES}.items():\n"
        "    there, sys.modules[module] = sys.modules.get(module), None\n"
        "    try:\n"
        "        eval(use)\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
        "    sys.modules[module] = there\n"
        "    if there is None:\n"
        "        del sys.modules[module]\n",
        hidden=set(),
    )
    said = done.stdout.splitlines()
    assert len(said) == len(USES), done.stdout + done.stderr
    named = {module: name for name, module in _extras.EXTRAS["train"].items()}
    for module, line in zip(USES, said, strict=True):
        assert f"of which {named[module]} is not installed here: type `{_extras.command('train')}`" in line


def test_what_to_type_fits_how_it_is_installed(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: "0.1.0")
    assert _extras.command("train") == "pip install 'aevb-ext[train]'"

    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    assert _extras.command("train") == "pip install --no-build-isolation '.[train]'"
