"""``aevb``: the verbs, and how each ends."""

import argparse
import difflib

from .. import __version__
from ..export import ExportError
from ..train import NonFiniteBound, PeerFailed, joined
from ..uses import NotConverged
from . import (
    anomaly,
    augment,
    encode,
    evaluate,
    export,
    factor_analysis,
    held_out,
    latent_space,
    paper,
    probe,
    report,
    sample,
    train,
)

__all__ = ["main"]

# Of this package: they say what is wrong.
_NAMED = (ExportError, NonFiniteBound, NotConverged, PeerFailed)


def main(argv: list[str] | None = None) -> int:
    """Run ``aevb`` with ``argv`` (default: the process's). Returns the exit status."""
    with joined() as processes:
        try:
            with processes.only_first_prints():
                arguments = _parsed(argv)
                return arguments.run(arguments) or 0
        except (ValueError, TypeError, OSError, ImportError, *_NAMED) as error:
            processes.tell(f"aevb: error: {error}")
            return 1
        except KeyboardInterrupt as error:
            processes.tell(f"aevb: {str(error) or 'interrupted'}")
            return 130


def _doctor(_) -> int | None:
    from .. import doctor

    return doctor.main()


def _parsed(argv: list[str] | None) -> argparse.Namespace:
    parser, verbs = _parser()
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        verb = verbs.choices[arguments.verb]
        near = difflib.get_close_matches(unknown[0].partition("=")[0], verb._option_string_actions, 1)
        verb.error(f"there is no argument {unknown[0]}" + (f": {near[0]}?" if near else ""))
    return arguments


def _parser() -> tuple[argparse.ArgumentParser, argparse.Action]:
    """The parser, and what has those of the verbs."""
    parser = argparse.ArgumentParser(
        prog="aevb", description="Auto-Encoding Variational Bayes (Kingma & Welling 2014)."
    )
    parser.add_argument("--version", action="version", version=f"aevb {__version__}")
    verbs = parser.add_subparsers(required=True, dest="verb")
    train.add(verbs)
    for verb in (sample, augment, latent_space, encode, probe, anomaly, held_out, evaluate):
        verb.add(verbs)
    paper.add(verbs)
    report.add(verbs)
    export.add(verbs)
    factor_analysis.add(verbs)
    doctor = verbs.add_parser("doctor", help="what a bug report needs, and the cure of common faults")
    doctor.set_defaults(run=_doctor)
    verbs.metavar = " | ".join(verbs.choices)
    return parser, verbs
