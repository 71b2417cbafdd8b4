"""The README's Python examples run as they are printed."""

from pathlib import Path

import printed
import pytest

README = Path(__file__).parents[1] / "README.md"
PROGRAMS = printed.programs(README)


def test_there_are_programs_to_run():
    assert len(PROGRAMS) >= 2


@pytest.mark.parametrize("program", PROGRAMS, ids=printed.name)
def test_program_runs_as_printed(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed.run(program, README)
