"""Anomaly detection: ``aevb anomaly`` and ``aevb held-out``."""

import argparse
from dataclasses import replace
from pathlib import Path

from ... import uses
from ..._files import write_csv
from ...progress_bar import bar
from .common import data_of_keys, default_device, model_and_data, model_of_keys, settings_of_keys

__all__ = ["anomaly", "held_out"]


def anomaly(a: argparse.Namespace) -> None:
    """Score each data point of a split."""
    model, data = model_and_data(a)
    x, labels = data.split(a.split)
    how = {"estimator": a.estimator, "n_samples": a.samples, "seed": a.seed}
    with bar("scoring", len(x)) as told:
        scores = model.anomaly_scores(x, **how, progress=told).cpu()
    uses.write_scores(a.out, labels, {"score": scores})
    print(f"written to {a.out}: {len(scores)} scores, mean {scores.mean():.2f} nats, highest {scores.max():.2f}")


def held_out(a: argparse.Namespace) -> None:
    """Train without each label, and measure whether it stands out."""
    data = data_of_keys(a.keys)
    settings = settings_of_keys(a.keys, data)
    if settings.evaluate_every is None:
        # The AUC is measured at the end; evaluations during training are not needed.
        settings = replace(settings, evaluate_every=settings.samples_seen)
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    results: list[uses.HeldOut] = []
    for result in uses.held_out(
        data,
        lambda data: model_of_keys(a.keys, data, settings.seed),
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


def _write(path: Path, results: list[uses.HeldOut], k: int, samples_seen: int) -> None:
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
