"""The README's Python examples run as they are printed."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
# Those that import the package are whole programs; the others show what people write without it.
PROGRAMS = [block for block in BLOCKS if re.search(r"^(import|from) aevb_ext", block, re.MULTILINE)]


def test_there_are_programs_to_run():
    assert len(PROGRAMS) >= 2


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.strip().splitlines()[-1][:40])
def test_program_runs_as_printed(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(program, str(README), "exec"), {"__name__": "__main__"})
