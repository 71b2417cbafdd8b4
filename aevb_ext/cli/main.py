"""``aevb``: train, sample, evaluate, report, compare, export, doctor."""

import argparse
import difflib

from .. import __version__, plots
from .._files import atomic_write, naming
from ..estimators import ESTIMATORS, evaluate_bound
from ..export import ExportError
from ..train import NonFiniteBound, PeerFailed, Processes, joined, load_checkpoint
from . import export, report, train
from .config import count
from .saved import data_of

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
    data = data_of(a.checkpoint, checkpoint, a.data_dir)
    device = Processes().device(a.device or train.default_device())
    model, data = checkpoint.model.to(device), data.to(device)
    for name in ("train", "valid", "test"):
        if (x := getattr(data, name)) is not None:
            bound = evaluate_bound(model, x, estimator=a.estimator, n_samples=a.samples, seed=a.seed)
            print(f"{name} bound {bound} nats ({bound.count} points)")


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

    evaluate = verbs.add_parser("evaluate", help="the bound of the data splits under a checkpoint's model")
    evaluate.set_defaults(run=_evaluate)
    evaluate.add_argument("checkpoint", metavar="RUN", help="the folder of a run (its best model), or a checkpoint")
    evaluate.add_argument("--data-dir", metavar="DIR", help="where the files of named data are")
    evaluate.add_argument(
        "--estimator", choices=ESTIMATORS, default="b", help="a (eq. 6) or b (eq. 7); default: %(default)s"
    )
    evaluate.add_argument(
        "--samples", type=count, default=1, metavar="L", help="of z a data point; default: %(default)s"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    evaluate.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")

    report.add(verbs)
    export.add(verbs)
    doctor = verbs.add_parser("doctor", help="what a bug report needs, and the cure of common faults")
    doctor.set_defaults(run=_doctor)
    verbs.metavar = " | ".join(verbs.choices)
    return parser, verbs
