"""The report of one run."""

from statistics import median

from torch import Tensor

from .. import plots
from ..configuration.choices import LEARNER_TRAITS
from ..configuration.saved_run import SavedRun
from ..data import Data
from ..estimators import LatentUse, latent_use
from ..models import VAE
from ..plots import charts, evaluations
from ..plots.html import cards, figure, grid, image, page, pairs, paragraph, section, table

__all__ = ["report"]


def report(run: SavedRun, model: VAE | None = None, data: Data | None = None, missing: str = "") -> str:
    """The report of a run as one self-contained HTML page.

    Args:
        run: the saved run.
        model, data: its model, and the data it was trained on, on the same device. If either is None, pictures and
            latent dimensions are left out.
        missing: the reason why they are left out, for the page.
    """
    name, use, pictures = run.config.get("learner", "aevb"), None, {}
    encodes = LEARNER_TRAITS[name].encodes
    if model is not None and data is not None:
        pictures = plots.canvases(model, data, encodes=encodes)
        use = latent_use(model, data.test) if encodes else None
    if not encodes:
        note = f"The learner {name} trains no encoder: the use of latent dimensions is not shown."
        missing = note if model is not None else f"{missing} {note}".strip()
    return page(
        run.name,
        paragraph(_subtitle(run)),
        cards(_key_figures(run, use)),
        section("Curves", grid(*_curves(run, encodes))),
        section("Pictures", grid(*(_picture(name, canvas) for name, canvas in pictures.items()))),
        _latents(use) if use is not None else paragraph(missing),
        section("Evaluations", evaluations.listed(run.evaluations) if run.evaluations else ""),
        section("Resumed", _resumptions(run.resumptions) if run.resumptions else ""),
        section("Configuration", pairs(run.config)),
        section("Environment", pairs(run.environment)),
    )


def rate(run: SavedRun) -> str:
    """The median of the logged samples per second."""
    rates = evaluations.curve(run.logs, "rate")[1]
    return f"{median(rates):,.0f}" if rates else "-"


def _score(run: SavedRun) -> str:
    """The name of the score that was evaluated."""
    return plots.SCORED[run.config.get("score", "bound")]


def _subtitle(run: SavedRun) -> str:
    if not run.evaluations:
        return "Nothing was evaluated yet."
    last = run.evaluations[-1]
    return (
        f"{run.config.get('data', 'own data')}: {last['samples_seen']:,} samples in {last['steps']:,} steps, "
        f"{evaluations.duration(last['seconds'])}. Evaluations are of the {_score(run)}, in nats per data point, ± the "
        "standard error over data points."
    )


def _key_figures(run: SavedRun, use: LatentUse | None) -> dict[str, str]:
    splits = evaluations.present(run.evaluations)
    found = {f"{split} {_score(run)}": evaluations.bound(run.evaluations[-1], split) for split in splits}
    if use is not None:
        found["active units"] = f"{use.active.sum()} of {len(use.active)}"
        found["KL, nats"] = f"{use.kl.sum():.2f}"
    return found | {"samples per second": rate(run)}


# The quantities logged while training: key, label of the axis, lower end of the axis, caption.
_LOGGED = (
    ("kl", "nats per data point", 0, "KL(q(z | x) || p(z)) while training."),
    ("reconstruction", "nats per data point", None, "log p(x | z) while training."),
    ("lr", "learning rate", 0, "Learning rate."),
    ("rate", "samples per second", 0, "Training rate."),
    ("beta", "beta", 0, "Weight of the KL divergence."),
)
# Shown only if they vary: constant ones are in the configuration.
_OFTEN_CONSTANT = ("lr", "beta")


def _curves(run: SavedRun, encodes: bool) -> list[str]:
    found = []
    if run.evaluations:
        chart = evaluations.chart(run.evaluations, _score(run))
        found.append(figure(chart, f"{_score(run).capitalize()} at the evaluations; the bands: standard errors."))
    for key, ylabel, bottom, caption in _LOGGED:
        seen, values = evaluations.curve(run.logs, key)
        if key == "kl" and not encodes:
            caption = "-log p(z) of the chains while training."
        if seen and (key not in _OFTEN_CONSTANT or len(set(values)) > 1):
            found.append(figure(charts.lines(key, {key: (seen, values)}, ylabel, bottom=bottom), caption))
    return found


_CAPTIONS = {
    "reconstructions": "Test data, and below each its reconstruction at the posterior's mean.",
    "samples": "Samples: z from the prior, the mean of p(x | z).",
    "manifold": "The latent plane through the inverse Gaussian CDF: the mean of p(x | z).",
}


def _picture(name: str, canvas: Tensor) -> str:
    return figure(image(plots.png(canvas), _CAPTIONS[name]), _CAPTIONS[name])


def _resumptions(lines: list[dict]) -> str:
    rows = [
        (
            *evaluations.reached(line),
            ", ".join(f"{name}: {old} to {new}" for name, (old, new) in line["changed"].items()) or "nothing",
        )
        for line in lines
    ]
    return table((*evaluations.REACHED, "changed"), rows)


def _latents(use: LatentUse) -> str:
    order = use.kl.argsort(descending=True)
    kl, variance, active = (values[order].tolist() for values in (use.kl, use.variance, use.active))
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
