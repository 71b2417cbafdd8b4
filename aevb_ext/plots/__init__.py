"""Pictures of models, charts of runs, and the HTML that holds them."""

from .images import (
    SCORED,
    bottom,
    canvases,
    curve,
    interpolations,
    latents,
    manifold,
    png,
    reconstructions,
    samples,
    save_all,
    variants,
)

__all__ = [
    "SCORED",
    "bottom",
    "canvases",
    "curve",
    "interpolations",
    "latents",
    "manifold",
    "png",
    "reconstructions",
    "samples",
    "save_all",
    "variants",
]
