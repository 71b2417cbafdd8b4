"""``aevb``: the verbs, and how each ends."""

import argparse
import difflib

from .. import __version__
from ..estimators import ESTIMATORS, evaluate_bound
from ..export import ExportError
from ..train import NonFiniteBound, PeerFailed, joined
from ..uses import NotConverged
from . import (
    again,
    anomaly,
    augment,
    encode,
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
from .config import count

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


def _evaluate(a) -> None:
    model, data = again.model_and_data(a)
    for split in a.split or ("train", "test"):
        x, _ = data.split(split)
        bound = evaluate_bound(model, x, estimator=a.estimator, n_samples=a.samples, seed=a.seed)
        # With many samples a split takes minutes.
        print(f"{split} bound {bound} nats ({bound.count} points)", flush=True)


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
    for verb in (sample, augment, latent_space, encode, probe, anomaly, held_out):
        verb.add(verbs)

    evaluate = verbs.add_parser("evaluate", help="the bound of a checkpoint's model")
    evaluate.set_defaults(run=_evaluate)
    again.add_run(evaluate)
    again.add_flags(evaluate)
    evaluate.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default="b",
        help="a (eq. 6), b (eq. 7) or iwae (importance-weighted); default: %(default)s",
    )
    evaluate.add_argument(
        "--samples",
        type=count,
        default=1,
        metavar="L",
        help="of z a data point; memory does not grow with them; default: %(default)s",
    )
    evaluate.add_argument(
        "--split", choices=("train", "valid", "test"), action="append", help="may be repeated; default: train and test"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    evaluate.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")

    paper.add(verbs)
    report.add(verbs)
    export.add(verbs)
    factor_analysis.add(verbs)
    doctor = verbs.add_parser("doctor", help="what a bug report needs, and the cure of common faults")
    doctor.set_defaults(run=_doctor)
    verbs.metavar = " | ".join(verbs.choices)
    return parser, verbs
