"""The examples of docs/integrations.md run as they are printed."""

from pathlib import Path

import printed
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "integrations.md"
PROGRAMS = printed.programs(PAGE)


def test_there_is_one_for_each_package():
    for package in ("diffusers", "pythae", "pyro", "scvi", "torch_distributions"):
        assert any(f"integrations.{package}" in program for program in PROGRAMS)


@pytest.mark.parametrize("program", PROGRAMS, ids=printed.name)
def test_program_runs_as_printed(program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    printed.run(program, PAGE)
