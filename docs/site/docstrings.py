"""Docstrings have the roles of reStructuredText: for the site they become links, code and formulas of HTML itself."""

import re
import sys
from pathlib import Path

import griffe
from latex2mathml.converter import convert

sys.path.insert(0, str(Path(__file__).parent))
import reference

_ENTRIES = reference.names() | set(reference.MODULES)


def _formula(latex: str, display: str) -> str:
    mathml = convert(" ".join(latex.split()), display=display)
    # "log p", but "log(p)".
    mathml = re.sub(
        r"(<mi>(?:log|max|min|mean)</mi>)(?=<m(?:i|sub|sup|subsup|frac)>)", r'\1<mspace width="0.17em"/>', mathml
    )
    # What stands between the tags is Markdown's otherwise.
    return mathml.replace("*", "&#42;").replace("|", "&#124;")


def _block(match: re.Match) -> str:
    indent, latex = match[1], match[2]
    return f'{indent}<div class="formula">{_formula(latex, "block")}</div>'


def _target(name: str, module: str) -> str | None:
    """The entry that is meant in a module, if there is one."""
    where = module.split(".")
    near = [".".join([*where[:i], name]) for i in range(len(where), 0, -1)]
    return next((entry for entry in (name, *near) if entry in _ENTRIES), None)


def _role(match: re.Match, module: str) -> str:
    role, content = match[1], " ".join(match[2].split())
    if role == "math":
        return _formula(content, "inline")
    titled = re.fullmatch(r"(.+?) <(.+)>", content)
    title, name = (titled[1], titled[2]) if titled else (content, content)
    if title.startswith("~"):
        title = title.rpartition(".")[2]
    entry = _target(name.lstrip("~."), module)
    return f"[`{title.lstrip('.')}`][{entry}]" if entry else f"`{title.lstrip('~.')}`"


def as_markdown(text: str, module: str) -> str:
    """A docstring of a module."""
    # A formula ends where what is indented less, or an empty line, begins.
    text = re.sub(r"^( *)\.\. math:: (.*(?:\n\1 +\S.*)*)", _block, text, flags=re.MULTILINE)
    text = re.sub(r":(\w+):`([^`]+)`", lambda match: _role(match, module), text)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


class Docstrings(griffe.Extension):
    """Of every object that is read."""

    def on_object(self, *, obj: griffe.Object, **_) -> None:
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value, obj.module.path)
