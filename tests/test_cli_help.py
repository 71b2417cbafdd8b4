"""The help of `aevb`: its groups, and the example of each verb."""

import glob
import re
import shlex

import printed
import pytest

from aevb_ext._extras import missing
from aevb_ext.cli import main
from aevb_ext.cli.main import verbs_of_aevb
from aevb_ext.cli.verbs import GROUPS
from aevb_ext.configuration.choices import FIGURES

VERBS = verbs_of_aevb().choices


def help_of(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.fixture(autouse=True)
def a_terminal_of_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def words_of(example):
    """As a shell gives them to the program."""
    return [word for pattern in shlex.split(example)[1:] for word in (glob.glob(pattern) or [pattern])]


def test_every_verb_has_a_line_in_a_group(capsys):
    groups = re.findall(r"^(.+):\n((?:  .+\n)+)", help_of(capsys), re.MULTILINE)
    listed = {title: re.findall(r"^  (\S+) +\S", lines, re.MULTILINE) for title, lines in groups}
    assert list(listed)[: len(GROUPS)] == list(GROUPS)
    assert [verb for title in GROUPS for verb in listed[title]] == list(VERBS)
    assert all(listed[title] for title in GROUPS)


def test_help_ends_with_how_to_begin(capsys):
    commands = re.findall(r"^  (aevb .*)$", help_of(capsys), re.MULTILINE)
    assert commands == [VERBS["train"].example, VERBS["report"].example]


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_no_wider_than_a_terminal(verb, capsys):
    lines = help_of(capsys, *filter(None, [verb])).splitlines()
    too_wide = [line for line in lines if len(line) > 80]
    # An example can be copied only if it is one line.
    assert [line for line in too_wide if not line.startswith("  aevb ")] == []


@pytest.mark.parametrize("verb", VERBS)
def test_help_ends_with_an_example_that_is_a_command(verb, capsys):
    told = help_of(capsys, verb)
    example = VERBS[verb].example
    assert told.endswith(f"\nexample:\n  {example}\n") and example.startswith(f"aevb {verb}")
    arguments, unknown = verbs_of_aevb().parser.parse_known_args(words_of(example))
    assert arguments.subcommand == verb and unknown == []


@pytest.fixture(scope="module")
def after_training(tmp_path_factory):
    """A folder where the example of `train` was run, with less to train; test_documents.py runs it as it is."""
    if absent := missing("train"):
        pytest.skip(f"{absent[0]} is not installed")
    example, tutorial = VERBS["train"].example, printed.ROOT / "docs" / "tutorial.md"
    assert example in printed.commands(tutorial)
    path = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        assert main([*words_of(example), "--samples-seen", "2e3"]) == 0
    return path


# `paper` needs data that is not here.
RUN = [verb for verb in VERBS if verb not in ("train", "paper")]
# Those that take more than a few seconds.
SLOW = {"held-out", "probe", "export", "factor-analysis"}


@pytest.mark.parametrize("verb", [pytest.param(v, marks=pytest.mark.slow) if v in SLOW else v for v in RUN])
def test_an_example_runs_as_it_is_printed(verb, after_training, monkeypatch):
    monkeypatch.chdir(after_training)
    words = words_of(VERBS[verb].example)
    assert main(words) == 0
    assert "--out" not in words or (after_training / words[words.index("--out") + 1]).exists()


def test_a_setting_is_explained_in_the_words_of_its_docstring(capsys):
    told = " ".join(help_of(capsys, "train").split())
    assert "--clip X the largest norm of the gradient of the mean bound; a longer gradient is scaled down" in told
    # Python 3.13 and later name the value once.
    assert re.search("--batch-size( N)?, -M N M, data points per step, over all processes. Default: 100", told)


def test_the_figures_of_the_paper_are_listed(capsys):
    told = help_of(capsys, "paper")
    assert all(name in told for name in FIGURES)
