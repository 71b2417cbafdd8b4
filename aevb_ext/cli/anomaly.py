"""``aevb anomaly``."""

from ..bar import bar
from ..estimators import ESTIMATORS
from ..uses import write_scores
from . import again
from .config import count
from .files import file_to_write

__all__ = ["add"]


def add(verbs) -> None:
    """The verb."""
    parser = verbs.add_parser(
        "anomaly",
        help="how little a model expects each data point: minus its bound",
        description="Writes a line for each data point: its number in the split, its label (where it is known) and its "
        "score, minus the bound in nats: the higher, the odder.",
    )
    parser.set_defaults(run=_anomaly)
    again.add_uses_flags(parser, "test")
    parser.add_argument("--out", required=True, type=file_to_write(".csv"), metavar="FILE.csv", help="what to write")
    parser.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default="b",
        help="a (eq. 6), b (eq. 7) or iwae (importance-weighted); default: %(default)s",
    )
    parser.add_argument("--samples", type=count, default=1, metavar="L", help="of z a data point; default: %(default)s")


def _anomaly(a) -> None:
    model, data = again.encoder_and_data(a)
    x, labels = data.split(a.split)
    how = {"estimator": a.estimator, "n_samples": a.samples, "seed": a.seed}
    with bar("scoring", len(x)) as told:
        scores = model.anomaly_scores(x, **how, progress=told).cpu()
    write_scores(a.out, labels, {"score": scores})
    print(f"written to {a.out}: {len(scores)} scores, mean {scores.mean():.2f} nats, highest {scores.max():.2f}")
