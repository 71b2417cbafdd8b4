"""docs/from-what-you-wrote.md: both sides of its table are run as printed, and must agree."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Bernoulli, Normal, kl_divergence

import aevb_ext
from aevb_ext import distributions
from aevb_ext.noise import standard_normal

PAGE = Path(__file__).parents[1] / "docs" / "from-what-you-wrote.md"
TABLE = PAGE.read_text()
# | where | `what you wrote` | `what you write now` |
ROWS = re.findall(r"^\| ([^|`]*) \| `([^`]+)` \| `([^`]+)`", TABLE, re.MULTILINE)

BATCH, CHANNELS, SIDE = 3, 4, 2
SEED = 1312


def _program_names() -> dict:
    """What the expressions call things, float64, so that only a different formula could make a difference."""
    generator = torch.Generator().manual_seed(SEED)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    pixels = (BATCH, 1, 4, 4)
    names = {name: normal(BATCH, 5) for name in ("mu", "logvar", "prior_mu", "prior_logvar")}
    names |= {name: normal(BATCH, CHANNELS, SIDE, SIDE) for name in ("mu1", "mu2", "logsigma1", "logsigma2")}
    names |= {name: normal(BATCH, CHANNELS, SIDE, SIDE) for name in ("mean1", "mean2", "logvar1", "logvar2")}
    names |= {"z_loc": normal(BATCH, 5), "z_scale": normal(BATCH, 5).exp()}
    names |= {"qz_m": normal(BATCH, 5), "qz_v": normal(BATCH, 5).exp() + 1e-4}
    names |= {"logits": normal(BATCH, 16), "x": torch.rand(pixels, generator=generator, dtype=torch.float64)}
    names |= {"moments": 5 * normal(BATCH, 2 * CHANNELS, SIDE, SIDE)}
    names["recon_x"] = names["logits"].sigmoid()
    names["log_sigma_x"] = normal(())
    return names


def _helpers() -> dict:
    """The small functions of the projects whose code the table has, in their signatures."""
    return {
        "normal_kl": lambda m1, v1, m2, v2: 0.5 * (v2 - v1 - 1 + (v1 - v2).exp() + (m1 - m2).square() * (-v2).exp()),
        "mean_flat": lambda t: t.mean(dim=list(range(1, t.dim()))),
        "gaussian_analytical_kl": lambda m1, m2, s1, s2: (
            s2 - s1 - 0.5 + 0.5 * ((2 * s1).exp() + (m1 - m2).square()) * (-2 * s2).exp()
        ),
        "draw_gaussian_diag_samples": lambda mu, log_sigma: log_sigma.exp() * torch.randn_like(mu) + mu,
        "soft_clamp5": lambda t: 5 * torch.tanh(t / 5),
    }


@pytest.fixture
def namespace(monkeypatch):
    """All names, with randn_like giving the noise that our functions draw next."""

    def our_noise(t):
        torch.manual_seed(SEED)
        return standard_normal(aevb_ext.noise_key(), tuple(t.shape), t.dtype)

    monkeypatch.setattr(torch, "randn_like", our_noise)
    ours = {name: getattr(aevb_ext, name) for name in aevb_ext.__all__}
    libraries = {"torch": torch, "F": F, "math": math, "np": np, "kl_divergence": kl_divergence}
    theirs = {"Normal": Normal, "Bernoulli": Bernoulli, "DiagonalGaussian": distributions.DiagonalGaussian}
    compat = {"compat": aevb_ext.compat}
    return _program_names() | _helpers() | libraries | theirs | compat | ours


def test_the_table_is_there():
    places = " ".join(where for where, _, _ in ROWS)
    projects = ("examples", "pythae", "diffusers", "scvi", "Pyro", "guided-diffusion", "NVAE", "vdvae")
    assert [project for project in projects if project not in places] == []


@pytest.mark.parametrize(("where", "wrote", "now"), ROWS, ids=[f"{where}: {now}"[:60] for where, _, now in ROWS])
def test_both_sides_agree(where, wrote, now, namespace):
    expected = eval(wrote, dict(namespace))
    torch.manual_seed(SEED)
    given = eval(now, dict(namespace))
    assert given.shape == expected.shape
    torch.testing.assert_close(given, expected, rtol=1e-12, atol=1e-12)
