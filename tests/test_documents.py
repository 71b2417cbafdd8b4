"""README, CONTRIBUTING and docs/: programs run as they are printed, commands are commands, links lead somewhere."""

import importlib.util
import inspect
import re
import shlex

import printed
import public
import pytest

from aevb_ext.cli import main
from aevb_ext.cli.main import verbs_of_aevb
from aevb_ext.cli.parser import parsed

pytestmark = pytest.mark.once("pages, and programs of what has tests of its own")

PROGRAMS = [(page, program) for page in printed.PAGES for program in printed.all_programs(page)]
COMMANDS = sorted({command for page in printed.PAGES for command in printed.commands(page)})
README = printed.ROOT / "README.md"


def _place(page):
    return page.relative_to(printed.ROOT).as_posix()


def test_there_are_programs_to_run():
    assert sum(page == README for page, _ in PROGRAMS) >= 1
    assert len(PROGRAMS) >= 15 and len(COMMANDS) >= 30


@pytest.mark.parametrize(
    ("page", "program"), PROGRAMS, ids=[f"{_place(page)}: {printed.name(program.text)}" for page, program in PROGRAMS]
)
def test_program_runs_as_printed(page, program, tmp_path, monkeypatch):
    if program.needs:
        pytest.importorskip(program.needs)
    monkeypatch.chdir(tmp_path)
    printed.run(program.text, page)


@pytest.mark.parametrize("page", printed.PAGES, ids=_place)
def test_what_is_not_run_has_a_reason(page):
    for block in printed.blocks(page):
        if block.mark and block.language == "python":
            kinds = [kind for kind in ("continues", "given", "needs", "not run") if block.marked(kind) is not None]
            assert len(kinds) == 1, f"what is {block.mark!r}?"
            assert kinds == ["continues"] or block.marked(kinds[0]), f"{block.mark!r} of what?"
    assert not re.search(r"^ +```python", page.read_text(), re.MULTILINE), "an indented block is not found, and not run"


@pytest.mark.parametrize("command", COMMANDS)
def test_command_is_one(command):
    """Its verb and flags are known, and their values are of the right kind: all but running it."""
    assert parsed(verbs_of_aevb(), [token for token in shlex.split(command)[1:] if token != "..."])


def test_commands_of_the_tutorial_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in printed.commands(printed.ROOT / "docs" / "tutorial.md"):
        assert main(shlex.split(command)[1:]) == 0, command
    assert (tmp_path / "samples.png").is_file() and (tmp_path / "runs" / "first").is_dir()


def _anchors(text):
    """As GitHub and the site's toc make them of headings."""
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", [*printed.PAGES, printed.ROOT / "CHANGELOG.md"], ids=_place)
def test_links_lead_somewhere(page):
    prose = re.sub(r"^```.*?^```$|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{target}: there is no {file}"
        if anchor:
            assert anchor in _anchors(file.read_text()), f"{target}: there is no such heading"


@pytest.mark.parametrize("page", printed.PAGES, ids=_place)
def test_files_that_are_named_exist(page):
    named = re.findall(r"`((?:csrc|aevb_ext|tests|benchmarks|docs|examples)/[\w./-]+)`", page.read_text())
    assert [name for name in named if not re.search(r"[A-Z]{3}", name) and not (printed.ROOT / name).exists()] == []


def test_readme_is_one_page():
    assert README.stat().st_size <= 9 * 1024


def test_every_public_name_is_in_the_reference():
    """On a page of its module, from a docstring; and every module is a page, or known not to be public."""
    reference = _reference()
    entries = {reference.home(*entry.rsplit(".", 1)) for entry in reference.names()}
    for module in reference.MODULES:
        imported = importlib.import_module(module)
        for name in getattr(imported, "__all__", reference.public(module)):
            value = getattr(imported, name)
            if inspect.ismodule(value):
                assert value.__name__ in reference.MODULES, f"{value.__name__} has no page"
                continue
            assert reference.home(module, name) in entries, f"{module}.{name}"
            if inspect.isroutine(value) or inspect.isclass(value):
                documented = value.__doc__ or module == "aevb_ext.reference"  # whose functions are those of functional
                assert documented, f"{module}.{name} has no docstring"
    there = {path.stem for path in reference.PACKAGE.iterdir() if path.is_dir() or path.suffix == ".py"}
    modules = {name for name in there if re.fullmatch(r"[a-z]\w*", name)} - reference.NOT_PUBLIC
    assert {f"aevb_ext.{name}" for name in modules} <= set(reference.MODULES)


def test_the_tests_of_public_things_agree_on_what_is_public():
    assert {module.__name__ for module in public.MODULES.values()} <= set(_reference().MODULES)


def _reference():
    spec = importlib.util.spec_from_file_location("site_reference", printed.ROOT / "docs" / "site" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_is_in_the_menu():
    menu = (printed.ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    pages = [page.relative_to(printed.ROOT / "docs").as_posix() for page in (printed.ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if page not in menu] == []


def test_hooks_have_the_versions_of_make_lint():
    extra = re.search(r"^lint = \[(.*)\]$", (printed.ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    hooks = (printed.ROOT / ".pre-commit-config.yaml").read_text()
    for tool in re.findall(r'"([^"]+)"', extra):
        # mypy reads PyTorch's types, and a hook's environment has no PyTorch.
        assert f"[{tool}]" in hooks or tool.startswith("mypy")


def test_readme_has_the_figures_of_the_results_files():
    from benchmarks import headline

    assert headline.markdown(headline.machines()) in README.read_text(), "python -m benchmarks.headline prints them"
