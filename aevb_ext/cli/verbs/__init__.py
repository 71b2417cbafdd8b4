"""The verbs of ``aevb``: their arguments, their checks and an example of each, in the groups of its help.

Nothing here imports PyTorch. What a verb does stands in ``aevb_ext.cli.commands``.
"""

from __future__ import annotations

import argparse

from ..parser import Verbs
from . import look, paper, train, use

__all__ = ["GROUPS"]


def _add_doctor(verbs: Verbs) -> None:
    verbs.add(
        "doctor",
        "facts for a bug report, and cures for common faults",
        run=_doctor,
        extra=None,
        example="aevb doctor",
        description="Every operator is run once. The exit status is 1 if there is a fault.",
    )


def _doctor(_: argparse.Namespace) -> int:
    from ... import doctor

    return doctor.main()


# The groups in the order of the help: a title, and a function that adds its verbs.
GROUPS = {
    "train": train.add,
    "look at runs": look.add,
    "use a model": use.add,
    "the paper's experiments": paper.add,
    "when something is wrong": _add_doctor,
}
