"""Anomaly detection: ``aevb anomaly`` and ``aevb held-out``."""

import argparse
from dataclasses import replace
from pathlib import Path

from .._files import write_csv
from ..estimators import ESTIMATORS
from ..progress_bar import bar
from ..uses import HeldOut, held_out, write_scores
from . import common
from .common import Subcommands, default_device, file_to_write
from .config import add_flags, count, data_of_keys, model_of_keys, read_config, resolved, settings_of_keys, whole

__all__ = ["add_anomaly", "add_held_out"]


def add_anomaly(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "anomaly",
        help="an anomaly score of each data point: minus its bound",
        description="Writes a line for each data point: its number in the split, its label (where it is known) and its "
        "score: minus the bound in nats. The higher the score, the more anomalous.",
    )
    parser.set_defaults(run=_anomaly)
    common.add_uses_flags(parser, "test")
    parser.add_argument("--out", required=True, type=file_to_write(".csv"), metavar="FILE.csv", help="what to write")
    parser.add_argument(
        "--estimator",
        choices=ESTIMATORS,
        default="b",
        help="a (eq. 6), b (eq. 7) or iwae (importance-weighted); default: %(default)s",
    )
    parser.add_argument("--samples", type=count, default=1, metavar="L", help="of z a data point; default: %(default)s")


def _anomaly(a: argparse.Namespace) -> None:
    model, data = common.encoder_and_data(a)
    x, labels = data.split(a.split)
    how = {"estimator": a.estimator, "n_samples": a.samples, "seed": a.seed}
    with bar("scoring", len(x)) as told:
        scores = model.anomaly_scores(x, **how, progress=told).cpu()
    write_scores(a.out, labels, {"score": scores})
    print(f"written to {a.out}: {len(scores)} scores, mean {scores.mean():.2f} nats, highest {scores.max():.2f}")


# Training length of each run: the scores hardly change after it, and it takes half a minute of a core.
_SAMPLES_SEEN = 300_000


def add_held_out(subcommands: Subcommands) -> None:
    """Add the subcommand."""
    parser = subcommands.add_parser(
        "held-out",
        help="train without the data points of a label, and see whether they stand out",
        description="Trains a model without each label, scores the whole test split by minus the bound, and measures "
        "how well the score separates the label from the others: the area under the ROC curve. DIR/without-LABEL has "
        "each run and its scores, DIR/auc.csv the table. Runs that were begun are resumed.",
        usage="aevb held-out --out DIR [--labels N ...] [--k K] [--config FILE.toml] [--data DATA] [--KEY VALUE ...]",
    )
    parser.set_defaults(run=_held_out)
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder for the runs and the table")
    parser.add_argument("--labels", type=whole, nargs="+", metavar="N", help="the labels to leave out; default: all")
    parser.add_argument(
        "--k", type=count, default=50, help="samples of the importance-weighted bound; default: %(default)s"
    )
    parser.add_argument("--config", metavar="FILE.toml", help="keys and values of the runs, as of `aevb train`")
    parser.add_argument("--device", help="default: cuda where there is one and the build has it, else cpu")
    add_flags(parser)


def _held_out(a: argparse.Namespace) -> None:
    keys = resolved(a)
    given = {} if a.config is None else read_config(a.config)
    if not any(given.get(name) or getattr(a, name) for name in ("samples_seen", "epochs")):
        keys["samples_seen"] = _SAMPLES_SEEN
    data = data_of_keys(keys)
    settings = settings_of_keys(keys, data)
    if settings.evaluate_every is None:
        # The AUC is measured at the end; evaluations during training are not needed.
        settings = replace(settings, evaluate_every=settings.samples_seen)
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    results: list[HeldOut] = []
    for result in held_out(
        data,
        lambda data: model_of_keys(keys, data, settings.seed),
        settings,
        out,
        labels=a.labels,
        n_samples=a.k,
        device=default_device() if a.device is None else a.device,
        show=bar,
    ):
        if not results:
            print(f"label  points  {'AUC, bound':18}  {f'AUC, k = {a.k}':18}  bound of it  of the others")
        results.append(result)
        print(
            f"{result.label:5}  {result.anomalous:6}  {result.bound!s:18}  {result.iwae!s:18}  "
            f"{result.mean_anomalous:11.2f}  {result.mean_normal:13.2f}",
            flush=True,
        )
        _write(out / "auc.csv", results, a.k, settings.samples_seen)
    print(f"written to {out}: auc.csv, and each run with its scores.csv")


def _write(path: Path, results: list[HeldOut], k: int, samples_seen: int) -> None:
    rows = [
        {
            "label": result.label,
            "samples_seen": samples_seen,
            "anomalous": result.anomalous,
            "normal": result.normal,
            "auc_bound": result.bound.value,
            "auc_bound_stderr": result.bound.stderr,
            "k": k,
            "auc_iwae": result.iwae.value,
            "auc_iwae_stderr": result.iwae.stderr,
            "bound_anomalous": result.mean_anomalous,
            "bound_normal": result.mean_normal,
        }
        for result in results
    ]
    write_csv(path, rows[0], [row.values() for row in rows])
