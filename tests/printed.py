"""The Python programs and commands that a page prints, extracted to be run or parsed as they are printed.

A comment right before a Python block, which no reader sees, says what the block is when it is no program by itself:

    <!-- continues -->          it goes on where the block before it ends
    <!-- given: NAME -->        it begins where GIVEN[NAME] ends
    <!-- needs: PACKAGE -->     a program, where that package is installed
    <!-- not run: WHY -->
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
# GitHub and the site show these; what is in .github are forms.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE
)

# What a page's words say is there already.
GIVEN = {
    "a model and its data": """
import torch
from aevb_ext.data import load
from aevb_ext.models import make_model
from aevb_ext.train import Callback, fit

data = load("digits")
model = make_model(x_dim=data.dim, latent=2, hidden=20, x_scale=data.x_scale)
x = torch.rand(2, data.dim)
fit = __import__("functools").partial(fit, samples_seen=2000, optimizer="adam", progress=False)
""",
    "heads": """
import torch
from torch import nn
import aevb_ext
from aevb_ext.models import make_model
from aevb_ext.nn import BernoulliDecoder, GaussianPosterior
from types import SimpleNamespace

posterior, decoder = GaussianPosterior(nn.Linear(784, 4)), BernoulliDecoder(nn.Linear(2, 784))
x = torch.rand(2, 784)
data = SimpleNamespace(test=x)
model = make_model(x_dim=784, latent=2, hidden=20)
""",
    "a last layer": """
import torch
import aevb_ext

layer, wide, h = torch.nn.Linear(50, 784), torch.nn.Linear(50, 2 * 784), torch.randn(10, 50)
x = torch.randint(256, (10, 784), dtype=torch.uint8)
""",
}


@dataclass(frozen=True)
class Block:
    """What stands between two fences."""

    language: str
    text: str
    mark: str = ""

    def marked(self, kind: str) -> str | None:
        """What the mark of that kind says; None where it is of another."""
        found = re.fullmatch(rf"{kind}(?:: (.*))?", self.mark)
        return found and (found[1] or "")


def blocks(page: Path) -> list[Block]:
    return [Block(m["language"], m["text"], m["mark"] or "") for m in _FENCE.finditer(page.read_text())]


@dataclass(frozen=True)
class Program:
    """Python blocks that belong together, and the package that they need."""

    text: str
    needs: str | None = None


def all_programs(page: Path) -> list[Program]:
    found = []
    for block in blocks(page):
        if block.language != "python" or block.marked("not run") is not None:
            continue
        if block.marked("continues") is not None:
            before = found.pop()
            found.append(Program(f"{before.text}\n{block.text}", before.needs))
        else:
            given = block.marked("given")
            found.append(Program((GIVEN[given] if given else "") + block.text, block.marked("needs")))
    return found


def programs(page: Path) -> list[str]:
    """Its Python programs, also those that need other packages."""
    return [program.text for program in all_programs(page)]


def commands(page: Path) -> list[str]:
    """The lines that call `aevb`, also by torchrun, in blocks of no language: without what is said about them."""
    lines = [line for block in blocks(page) if block.language in ("", "sh") for line in block.text.splitlines()]
    typed = (re.sub(r"^(\$ )?(torchrun .* -m aevb_ext )?", r"\2", line).partition("#")[0].strip() for line in lines)
    calls = (re.sub(r"^torchrun .* -m aevb_ext ", "aevb ", line) for line in typed)
    return [line for line in calls if line.startswith("aevb ")]


def run(program: str, page: Path) -> None:
    exec(compile(program, str(page), "exec"), {"__name__": "__main__"})


def name(program: str) -> str:
    return program.strip().splitlines()[-1][:40]
