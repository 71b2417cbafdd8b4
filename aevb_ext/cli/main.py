"""``aevb``: train, sample, evaluate, report, compare, export, doctor."""

import argparse
import difflib

from .. import __version__, plots
from .._files import atomic_write, naming
from ..estimators import ESTIMATORS, evaluate_bound
from ..export import ExportError
from ..runs import open_run
from ..train import NonFiniteBound, PeerFailed, Processes, joined, load_checkpoint
from . import again, export, factor_analysis, paper, report, train
from .config import count

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run ``aevb`` with ``argv`` (default: the process's). Returns the exit status."""
    with joined() as processes:
        try:
            with processes.only_first_prints():
                arguments = _parsed(argv)
                return arguments.run(arguments) or 0
        except (ValueError, TypeError, OSError, ImportError, ExportError, NonFiniteBound, PeerFailed) as error:
            processes.tell(f"aevb: error: {error}")
            return 1
        except KeyboardInterrupt as error:
            processes.tell(f"aevb: {str(error) or 'interrupted'}")
            return 130


def _sample(a) -> None:
    checkpoint = load_checkpoint(a.checkpoint)
    if checkpoint.image_shape is None:
        raise ValueError(f"{a.checkpoint} was trained on {checkpoint.data}, whose data points are not images")
    picture = plots.png(plots.samples(checkpoint.model, checkpoint.image_shape, a.n, a.seed))
    with naming(a.out), atomic_write(a.out) as file:
        file.write(picture)
    print(f"written to {a.out}")


def _evaluate(a) -> None:
    checkpoint = load_checkpoint(a.checkpoint)
    try:
        config = open_run(a.checkpoint).config
    except FileNotFoundError:
        # A checkpoint that was taken out of its run's folder.
        config = {"data": checkpoint.data}
    data = again.data_of(a, config, checkpoint)
    device = Processes().device(a.device or train.default_device())
    model, data = checkpoint.model.to(device), data.to(device)
    for split in a.split or ("train", "test"):
        x = getattr(data, split)
        if x is None:
            raise ValueError(f"--split: {checkpoint.data} has no {split} split")
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

    sample = verbs.add_parser("sample", help="a picture of samples from a checkpoint's model")
    sample.set_defaults(run=_sample)
    sample.add_argument("checkpoint", metavar="RUN", help="the folder of a run (its best model), or a checkpoint")
    sample.add_argument("--out", required=True, metavar="FILE.png", help="the picture to write")
    sample.add_argument("--n", type=count, default=100, help="how many samples; default: %(default)s")
    sample.add_argument("--seed", type=int, default=0, help="default: %(default)s")

    evaluate = verbs.add_parser("evaluate", help="the bound of a checkpoint's model")
    evaluate.set_defaults(run=_evaluate)
    evaluate.add_argument("checkpoint", metavar="RUN", help="the folder of a run (its best model), or a checkpoint")
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
