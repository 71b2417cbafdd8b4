"""Imports go down through the layers of the package, and never in a circle."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "aevb_ext"

# From the lowest to the highest: a module imports from layers below its own, and from its own package.
LAYERS = (
    ("_types", "_extras"),
    ("_version", "_build_note", "_messages", "_files", "_arguments", "_checks", "_memory", "progress_bar"),
    ("configuration",),
    ("_library", "noise"),
    ("_dtypes",),
    ("reference", "_formulas", "_operand_checks", "_vmap"),
    ("_mixture",),
    ("_fallback",),
    ("functional",),
    ("compat", "distributions", "hmc", "doctor", "data"),
    ("integrations", "nn"),
    ("models",),
    ("estimators", "export"),
    ("learners", "plots"),
    ("train",),
    ("uses", "report", "paper", "factor_analysis"),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def imported(source: str, module: str) -> list[str]:
    """The modules of this package that a module imports, at its top and inside functions, as ``train.step``."""
    found = []
    package = ["aevb_ext", *module.split(".")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*above, *filter(None, [node.module])])
            names = [f"{origin}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [name.removeprefix("aevb_ext.") for name in names if name.startswith("aevb_ext.")]
    return found


def upward(source: str, module: str) -> list[str]:
    """What a module imports from a layer that is not below its own."""
    own = module.partition(".")[0]
    others = {name.partition(".")[0] for name in imported(source, module)} - {own}
    return sorted(name for name in others if name not in LEVEL or LEVEL[name] >= LEVEL[own])


def modules() -> dict[str, Path]:
    # The package itself gathers the names of all its operators.
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts)] = path
    del found["__init__"]
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_go_down(module):
    assert upward(modules()[module].read_text(), module) == []


def test_each_layer_is_of_modules_that_there_are():
    assert {name.partition(".")[0] for name in modules()} == set(LEVEL)


@pytest.mark.parametrize(
    "module, source",
    [
        ("functional", "from .train import fit"),
        ("models.vae", "def late():\n    from ..estimators import bound_a"),
        ("data.rows", "import aevb_ext.models"),
        ("learners.aevb", "from .. import plots"),
        ("nn.elbo", "from .. import __version__"),
    ],
)
def test_an_import_upward_is_found(module, source):
    assert len(upward(source, module)) == 1


def test_no_module_imports_itself_through_others():
    """Within a package too, where only what is imported at the top of a module counts."""
    known = modules()
    below = {}
    for module, path in known.items():
        top = "\n".join(
            ast.unparse(node)
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.Import | ast.ImportFrom)
        )
        targets = imported(top, module)
        # `from .step import Step` is of the module `step`, `from . import common` of `common`.
        below[module] = {t for name in targets for t in (name, name.rpartition(".")[0]) if t in known} - {module}
    done, under_way = set(), []

    def visit(module: str) -> None:
        assert module not in under_way, f"a circle: {' -> '.join([*under_way[under_way.index(module) :], module])}"
        if module in done:
            return
        under_way.append(module)
        for other in sorted(below[module]):
            visit(other)
        under_way.pop()
        done.add(module)

    for module in known:
        visit(module)


@pytest.mark.parametrize("module", ["aevb_ext", "aevb_ext.cli.commands.train"])
def test_the_compiler_is_imported_where_it_is_used(module):
    """PyTorch imports its compiler when something is compiled: it takes longer than all of this package."""
    program = f"import sys, {module}; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
