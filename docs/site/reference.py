"""The public names, page by page: read from each module's __all__, without importing anything."""

import ast
import functools
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "aevb_ext"

# The pages, in the order of the menu. A name is documented where it stands first.
MODULES = (
    "aevb_ext",
    "aevb_ext.functional",
    "aevb_ext.noise",
    "aevb_ext.reference",
    "aevb_ext.distributions",
    "aevb_ext.nn",
    "aevb_ext.compat",
    "aevb_ext.integrations",
    "aevb_ext.models",
    "aevb_ext.data",
    "aevb_ext.train",
    "aevb_ext.learners",
    "aevb_ext.estimators",
    "aevb_ext.uses",
    "aevb_ext.export",
    "aevb_ext.hmc",
    "aevb_ext.factor_analysis",
    "aevb_ext.paper",
    "aevb_ext.report",
)
# Parts of the program `aevb`, which is documented as such, their tools, and what other modules give out.
NOT_PUBLIC = {"cli", "configuration", "datasets", "doctor", "plots", "progress_bar"}
# Packages whose modules are public too: name -> what of them.
PARTS = {
    "aevb_ext.integrations": ("diffusers", "pythae", "pyro", "scvi", "torch_distributions"),
    "aevb_ext.learners": ("learner", "cavi"),
    "aevb_ext.models": ("factor_analysis",),
    "aevb_ext.nn": ("decoders", "likelihoods"),
}


def source(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(source(module).read_text())


def public(module: str) -> list[str]:
    """Its __all__; where there is none, the functions and classes of its own whose names begin with no underscore."""
    tree = _tree(module)
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == "__all__":
            return list(ast.literal_eval(node.value))
    own = (node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)))
    return [name for name in own if not name.startswith("_")]


@functools.cache
def home(module: str, name: str) -> str:
    """Where what a module calls so is written, as "module.name": where its imports lead."""
    for node in _tree(module).body:
        if not isinstance(node, ast.ImportFrom):
            continue
        for imported in node.names:
            if (imported.asname or imported.name) == name:
                parts = module.split(".")
                if source(module).name != "__init__.py":
                    parts = parts[:-1]
                above = parts[: len(parts) - node.level + 1] if node.level else []
                origin = ".".join([*above, *(node.module or "").split(".")]).strip(".")
                if PACKAGE.joinpath(*origin.split(".")[1:], imported.name).is_dir() or (
                    source(f"{origin}.{imported.name}").is_file()
                ):
                    return f"{origin}.{imported.name}"
                return home(origin, imported.name)
    return f"{module}.{name}"


def summary(module: str) -> str:
    return (ast.get_docstring(_tree(module)) or "").partition("\n\n")[0].replace("\n", " ")


def pages() -> dict[str, list[tuple[str, str | None]]]:
    """module -> (public name, the name under which it is documented on another page or None) of each."""
    documented: dict[str, str] = {}
    found = {}
    for module in MODULES:
        rows = []
        for name in public(module):
            at = home(module, name)
            rows.append((name, documented.get(at, at if at in MODULES else None)))
            documented.setdefault(at, _entry(module, name))
        found[module] = rows
    return found


def page(module: str, rows: list[tuple[str, str | None]]) -> str:
    """Markdown, with mkdocstrings' directives."""
    hidden = ["members: false", "show_root_heading: false", "show_root_toc_entry: false"]
    parts = [f"# `{module}` {{ #{module} }}", _directive(module, *hidden)]
    elsewhere = [f"[`{name}`][{there}]" for name, there in rows if there]
    if elsewhere:
        parts.append(f"Described elsewhere: {', '.join(elsewhere)}.")
    parts += [_directive(_entry(module, name)) for name, there in rows if not there]
    for name in _names_of_parts(module):
        short = name.removeprefix(f"{module}.")
        parts.append(_directive(name, f"heading: {short}", f"toc_label: {short}"))
    return "\n\n".join(parts) + "\n"


def _directive(name: str, *options: str) -> str:
    return "\n      ".join([f"::: {name}", *options]).replace("\n      ", "\n    options:\n      ", 1)


def _entry(module: str, name: str) -> str:
    """What mkdocstrings finds it by: where a module beside it has its name, by the place where it is written."""
    return home(module, name) if source(f"{module}.{name}").is_file() else f"{module}.{name}"


def _names_of_parts(module: str) -> list[str]:
    parts = [f"{module}.{part}" for part in PARTS.get(module, ())]
    return [f"{part}.{name}" for part in parts for name in public(part) if not name.isupper()]


def names() -> set[str]:
    """All that has an entry of its own."""
    found = {_entry(module, name) for module, rows in pages().items() for name, there in rows if not there}
    return found.union(*(_names_of_parts(module) for module in PARTS))
