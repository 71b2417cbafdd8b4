"""Compares AEVB with coordinate ascent and the exact evidence on factor analysis, where all three are available."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .data import Data
from .learners.cavi import cavi, variational_em
from .models.factor_analysis import FactorAnalysis, factor_analysis_vae
from .train import fit

__all__ = ["Comparison", "compare", "simulated", "table"]


@dataclass(frozen=True)
class Comparison:
    """Evidence and bounds of one set of parameters, means over the data points, in nats.

    Attributes:
        parameters: the name of the set of parameters.
        evidence: log p(x), exactly.
        cavi: the bound of :func:`~aevb_ext.learners.cavi.cavi`.
        aevb: the bound of the encoder that AEVB trained, with its expectation in closed form; None without an encoder.
        gap: how far the best diagonal q stays below the evidence, by its formula.
        correlation: the largest absolute partial correlation of two latent dimensions in p(z | x).
    """

    parameters: str
    evidence: float
    cavi: float
    aevb: float | None
    gap: float
    correlation: float


def compare(
    x: Tensor, latent: int, *, samples_seen: int = 500_000, lr: float = 0.01, seed: int = 0, progress: bool = True
) -> list[Comparison]:
    """The evidence, the bound of coordinate ascent and the bound of AEVB, for six sets of parameters.

    Two sets are those that variational EM starts from and those that it learns. Two more are the learnt ones with z
    rotated: so that the posterior is diagonal, and at random, which leaves p(x) as it is but correlates the posterior.
    For these two AEVB trains its encoder alone. In the last two AEVB learns the parameters together with its encoder:
    starting from the randomly rotated ones, and from the start of variational EM.

    Args:
        x: ``[N, x_dim]``, without constant features.
        latent: how many latent dimensions.
        samples_seen, lr: of each training by AEVB, with estimator B, minibatches of 100, and Adam with a cosine decay.
        seed: of the initial parameters, of the rotation, and of the trainings.
        progress: show the progress of the trainings on stderr.

    Returns:
        A comparison for each of the six.

    Raises:
        ValueError: x has constant features, or a size is out of range.
    """
    generator = torch.Generator().manual_seed(seed)
    start = FactorAnalysis(x.shape[1], latent, generator=generator)
    start.start_(x)
    options: dict[str, Any] = {"samples_seen": samples_seen, "lr": lr, "seed": seed, "progress": progress}

    learnt = deepcopy(start)
    variational_em(learnt, x)
    diagonal = deepcopy(learnt)
    diagonal.align_()
    correlated = deepcopy(diagonal)
    turn = torch.linalg.qr(torch.randn(latent, latent, generator=generator)).Q
    correlated.net.weight.data @= turn
    rows = [_compared("at the start", start, x), _compared("learnt by coordinate ascent", learnt, x)]
    for name, model in (("the same, posterior diagonal", diagonal), ("the same, turned", correlated)):
        rows.append(_compared(name, model, x, _encoder(model, x, learn_model=False, **options)))
    for name, model in (("learnt by AEVB, from those turned", correlated), ("learnt by AEVB, from the start", start)):
        # Training the encoder also changes the model in place.
        encoder = _encoder(model, x, learn_model=True, **options)
        rows.append(_compared(name, model, x, encoder))
    return rows


def simulated(n: int = 1000, x_dim: int = 10, latent: int = 3, seed: int = 0) -> Tensor:
    """``[n, x_dim]``: drawn from factor analysis with W from N(0, 1 / latent) and log psi from N(-1, 0.5^2)."""
    generator = torch.Generator().manual_seed(seed)
    model = FactorAnalysis(x_dim, latent, generator=generator)
    with torch.no_grad():
        model.logvar.normal_(-1, 0.5, generator=generator)
        z = torch.randn(n, latent, generator=generator)
        noise = torch.randn(n, x_dim, generator=generator)
        return model.net(z) + model.logvar.mul(0.5).exp() * noise


def table(rows: list[Comparison]) -> str:
    """The comparisons as a Markdown table."""
    lines = [
        "| parameters | log p(x) | CAVI | AEVB | log p(x) - CAVI | by its formula | largest correlation |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        aevb = "" if r.aevb is None else f"{r.aevb:.4f}"
        numbers = f"{r.evidence:.4f} | {r.cavi:.4f} | {aevb} | {r.evidence - r.cavi:.4f} | {r.gap:.4f}"
        lines.append(f"| {r.parameters} | {numbers} | {r.correlation:.3f} |")
    return "\n".join(lines)


def _encoder(model: FactorAnalysis, x: Tensor, *, learn_model: bool, seed: int, **options: Any) -> nn.Module:
    """Train an encoder by AEVB for the model; with ``learn_model``, train the model too, in place."""
    generator = torch.Generator().manual_seed(seed)
    vae = factor_analysis_vae(x.shape[1], latent=model.net.in_features, generator=generator)
    vae.decoder = model.requires_grad_(learn_model)
    data = Data("factor analysis", x, x)
    options |= {"optimizer": "adam", "schedule": "cosine", "evaluate_every": options["samples_seen"]}
    fit(vae, data, seed=seed, **options)
    return vae.encoder


@torch.no_grad()
def _compared(parameters: str, model: FactorAnalysis, x: Tensor, encoder: nn.Module | None = None) -> Comparison:
    found, exact, x = cavi(model, x), deepcopy(model).double(), x.double()
    precision = exact.precision()
    spread = precision.diagonal().sqrt()
    correlation = (precision / spread / spread[:, None]).triu(1).abs().max()
    evidence, cavi_bound = exact.marginal().log_prob(x).mean().item(), found.bound.mean().item()
    aevb = None if encoder is None else exact.bound(x, *deepcopy(encoder).double()(x)).mean().item()
    return Comparison(parameters, evidence, cavi_bound, aevb, exact.gap().item(), correlation.item())
