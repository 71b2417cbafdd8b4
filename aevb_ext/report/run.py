"""The page of one run."""

from statistics import median

from torch import Tensor

from .. import plots
from ..data import Data
from ..estimators import latent_use
from ..models import VAE
from ..runs import SavedRun
from . import charts
from .page import cards, figure, grid, image, page, pairs, paragraph, section, table

__all__ = ["report"]

SPLITS = ("test", "valid", "train")


def report(run: SavedRun, model: VAE | None = None, data: Data | None = None) -> str:
    """A page that says all about a run: HTML in one file, which fetches nothing.

    Args:
        run: what it has written.
        model, data: its model, and what it was trained on, on the same device. Where either is None, what needs it is
            left out: pictures and latent dimensions.
    """
    use = None if model is None or data is None else latent_use(model, data.test)
    pictures = {} if use is None else plots.canvases(model, data)
    return page(
        run.name,
        paragraph(_subtitle(run)),
        cards(_key_figures(run, use)),
        section("Curves", grid(*_curves(run))),
        section("Pictures", grid(*(_picture(name, canvas) for name, canvas in pictures.items()))),
        _latents(use),
        section("Evaluations", _evaluations(run)),
        section("Configuration", pairs(run.config)),
        section("Environment", pairs(run.environment)),
    )


def bound(evaluation: dict, split: str) -> str:
    """The bound of a split with its standard error, as text; "-" where it was not evaluated."""
    value = evaluation.get(split)
    return "-" if value is None else f"{value:.2f} ± {evaluation[f'{split}_stderr']:.2f}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    hours, rest = divmod(round(seconds), 3600)
    if hours:
        return f"{hours} h {rest // 60} min"
    return f"{rest // 60} min {rest % 60} s" if rest >= 60 else f"{seconds:.1f} s"


def rate(run: SavedRun) -> str:
    """The middle of the samples a second that were logged."""
    rates = [log["rate"] for log in run.logs]
    return f"{median(rates):,.0f}" if rates else "-"


def _subtitle(run: SavedRun) -> str:
    if not run.evaluations:
        return "Nothing was evaluated yet."
    last = run.evaluations[-1]
    return (
        f"{run.config.get('data', 'own data')}: {last['samples_seen']:,} samples in {last['steps']:,} steps, "
        f"{duration(last['seconds'])}. Bounds are in nats per data point, ± the standard error over data points."
    )


def _key_figures(run: SavedRun, use) -> dict[str, str]:
    last = run.evaluations[-1] if run.evaluations else {}
    found = {f"{split} bound": bound(last, split) for split in SPLITS if split in last}
    if use is not None:
        found["active units"] = f"{use.active.sum()} of {len(use.active)}"
        found["KL, nats"] = f"{use.kl.sum():.2f}"
    return found | {"samples per second": rate(run)}


def _curves(run: SavedRun) -> list[str]:
    found = []
    if run.evaluations:
        seen = [line["samples_seen"] for line in run.evaluations]
        present = [split for split in SPLITS if split in run.evaluations[-1]]
        values = {split: (seen, [line[split] for line in run.evaluations]) for split in present}
        errors = {split: [line[f"{split}_stderr"] for line in run.evaluations] for split in present}
        bottom = plots.bottom(seen, [value for _, value in values.values()])
        chart = charts.lines("bound", values, "nats per data point", errors=errors, log_x=True, bottom=bottom)
        found.append(figure(chart, "Bound at the evaluations; the bands are standard errors."))
    logged = {key: _logged(run, key) for key in ("kl", "reconstruction", "lr", "beta", "rate")}
    found += [
        _chart("KL divergence", {"KL": logged["kl"]}, "nats per data point", "KL(q(z | x) || p(z)) while training.", 0),
        _chart(
            "reconstruction",
            {"reconstruction": logged["reconstruction"]},
            "nats per data point",
            "log p(x | z) while training.",
        ),
        _chart("learning rate", {"lr": logged["lr"]}, "learning rate", "Learning rate.", 0),
        _chart("rate", {"rate": logged["rate"]}, "samples per second", "Training rate.", 0),
    ]
    if len({value for value in logged["beta"][1]}) > 1:
        found.append(_chart("beta", {"beta": logged["beta"]}, "beta", "Weight of the KL divergence.", 0))
    return found


def _logged(run: SavedRun, key: str) -> tuple[list, list]:
    lines = [line for line in run.logs if line.get(key) is not None]
    return [line["samples_seen"] for line in lines], [line[key] for line in lines]


def _chart(name: str, series: dict, ylabel: str, caption: str, bottom=None) -> str:
    drawn = any(seen for seen, _ in series.values())
    return figure(charts.lines(name, series, ylabel, bottom=bottom), caption) if drawn else ""


_CAPTIONS = {
    "reconstructions": "Test data, and below each its reconstruction at the posterior's mean.",
    "samples": "Samples: z from the prior, the mean of p(x | z).",
    "manifold": "The latent plane through the inverse Gaussian CDF: the mean of p(x | z).",
}


def _picture(name: str, canvas: Tensor) -> str:
    return figure(image(plots.png(canvas), _CAPTIONS[name]), _CAPTIONS[name])


def _latents(use) -> str:
    if use is None:
        return ""
    order = use.kl.argsort(descending=True)
    kl, variance, active = ([*values[order].tolist()] for values in (use.kl, use.variance, use.active))
    chart = charts.bars("KL per dimension", kl, active, "latent dimension, in the order of its KL", "nats")
    rows = [
        (u, f"{a:.4f}", f"{b:.4f}", "yes" if on else "no")
        for u, a, b, on in zip(order.tolist(), kl, variance, active, strict=True)
    ]
    return section(
        "Latent dimensions",
        paragraph(
            f"{sum(active)} of {len(active)} are active: the mean of q(z | x) varies over the test data by more than "
            "0.01 (Burda et al. 2016)."
        ),
        grid(
            figure(chart, "KL of each dimension, the mean over test data; grey: not active."),
            table(("dimension", "KL, nats", "Var E[z | x]", "active"), rows),
        ),
    )


def _evaluations(run: SavedRun) -> str:
    if not run.evaluations:
        return ""
    present = [split for split in SPLITS if split in run.evaluations[-1]]
    rows = [
        (f"{line['samples_seen']:,}", f"{line['steps']:,}", duration(line["seconds"]), *(bound(line, s) for s in present))
        for line in run.evaluations
    ]
    return table(("samples seen", "steps", "time", *present), rows)
