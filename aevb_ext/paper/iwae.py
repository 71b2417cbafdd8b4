"""The importance-weighted autoencoder on the fixed binarisation, against the values of Burda et al. 2016."""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from .._files import write_csv, write_whole
from .._types import StrPath
from ..configuration.choices import FIGURES
from ..configuration.saved_run import SavedRun
from ..estimators import evaluate_bound
from ..models import VAE
from . import published
from .planning import PlannedRun
from .presentation import environments, markdown_table, page
from .training import scored_once

__all__ = ["QUICK", "SAMPLES", "TITLE", "plan", "present"]

TITLE = FIGURES["iwae"].title
# Training samples of each model, by default and with --quick. (Burda et al. train on 164 million.)
SAMPLES, QUICK = 3 * 10**6, 2 * 10**5

# Samples of the bound that estimates the test log-likelihood, as in Burda et al.; fewer after a shorter training.
_EVALUATED, _EVALUATED_SHORT = 5000, 500


def plan(samples_seen: int, seeds: int, data_dir: StrPath | None = None) -> list[PlannedRun]:
    """k = 1, 5, 50: the network, batch size and optimizer of Burda et al. 2016 (section 5; arXiv 1509.00519).

    The learning rate decays along half a cosine. Theirs decays in stages over 3280 passes, which take too long here.
    """
    return [_planned(k, seed, samples_seen, data_dir) for seed in range(seeds) for k in published.IWAE_NLL]


def _planned(k: int, seed: int, samples_seen: int, data_dir: StrPath | None) -> PlannedRun:
    keys = {
        "data": "binarized_mnist",
        "architecture": "deep-mlp",
        "activation": "tanh",
        "depth": 2,
        "hidden": 200,
        "latent": 50,
        "likelihood": "bernoulli",
        "estimator": "iwae",
        "n_samples": k,
        "optimizer": "adam",
        "lr": 0.001,
        "schedule": "cosine",
        "batch_size": 20,
        "samples_seen": samples_seen,
        "seed": seed,
    }
    return PlannedRun.of(f"binarized_mnist-iwae-k{k}-{samples_seen}-seed{seed}", keys, data_dir)


def present(runs: dict[str, SavedRun], out: Path, data_dir: StrPath | None = None) -> str:
    """Write iwae.csv and iwae.md into ``out``; returns the page. The test split is scored first, once a model."""
    rows = []
    for run in runs.values():
        k, seen = run.config["n_samples"], run.evaluations[-1]["samples_seen"]
        samples = _EVALUATED if seen >= SAMPLES else _EVALUATED_SHORT
        score = _score(run, samples)
        rows.append(
            (
                k,
                run.config["seed"],
                seen,
                samples,
                round(-score["mean"], 2),
                round(score["stderr"], 2),
                published.IWAE_NLL[k],
            )
        )
    header = ("k", "seed", "samples_seen", "samples of the estimate", "test NLL", "stderr", "Burda et al.")
    write_csv(out / "iwae.csv", header, rows)
    about = (
        "Two tanh layers of 200 units on each side, 50 latent dimensions, minibatches of 20, Adam. The test NLL, in "
        "nats, is the importance-weighted bound of the model with the best bound on the valid split. **The budget is "
        "not theirs**: they train on 164 million samples (3280 passes)."
    )
    text = page(f"# {TITLE}", about, markdown_table(header, rows), environments(list(runs.values())))
    write_whole(out / "iwae.md", text.encode())
    return text


def _score(run: SavedRun, samples: int) -> dict:
    """The test log-likelihood."""

    def score(model: VAE, x: Tensor, progress: Callable[[int], None]) -> dict[str, float]:
        bound = evaluate_bound(model, x, estimator="iwae", n_samples=samples, progress=progress)
        return {"mean": bound.mean, "stderr": bound.stderr}

    return scored_once(run, f"test-iwae-{samples}", score)
