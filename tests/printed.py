"""The Python programs that a page prints, to be run as they are printed."""

import re
from pathlib import Path


def programs(page: Path) -> list[str]:
    """Its Python blocks that import the package; the others show what people write without it."""
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    return [block for block in blocks if re.search(r"^\s*(import|from) aevb_ext", block, re.MULTILINE)]


def run(program: str, page: Path) -> None:
    exec(compile(program, str(page), "exec"), {"__name__": "__main__"})


def name(program: str) -> str:
    return program.strip().splitlines()[-1][:40]
