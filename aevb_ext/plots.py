"""Pictures: the bound's curve, reconstructions, samples and the latent manifold."""

import math
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from ._files import atomic_write
from .models import VAE

__all__ = ["curve", "manifold", "reconstructions", "samples", "save_all"]


def save_all(folder, model: VAE, data, history, seed: int = 0) -> None:
    """Write every picture that makes sense for this model and data into ``folder``."""
    folder = Path(folder)
    curve(folder / "curve.png", history, data.name)
    if data.image_shape:
        reconstructions(folder / "reconstructions.png", model, data.test, data.image_shape)
        samples(folder / "samples.png", model, data.image_shape, seed=seed)
        if model.latent == 2:
            manifold(folder / "manifold.png", model, data.image_shape)


def curve(path, history, name: str) -> None:
    """The train and test bound against training samples seen, as in Figure 2."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    seen = [record.samples_seen for record in history]
    axes.plot(seen, [record.train for record in history], "--", label="train")
    axes.plot(seen, [record.test for record in history], "-", label="test")
    axes.set(xscale="log", xlabel="training samples seen", ylabel="bound (nats per data point)", title=name)
    # The steep start may leave the frame at the bottom: what came after it is what the picture is for.
    later = [record for record in history if record.samples_seen >= seen[-1] / 30]
    axes.set_ylim(bottom=min(min(record.train, record.test) for record in later))
    axes.grid(alpha=0.3)
    axes.legend()
    _save(path, figure)


@torch.no_grad()
def reconstructions(path, model: VAE, x: Tensor, image_shape, columns: int = 12, rows: int = 4) -> None:
    """Test images, each above its reconstruction at the posterior's mean."""
    x = x[: columns * rows]
    columns = min(columns, len(x))
    upper, lower = (t.float().cpu().reshape(-1, *image_shape) for t in (x * model.x_scale, model.reconstruct(x)))
    line = torch.ones(len(x), 1, image_shape[1])
    pairs = torch.cat([upper, line, lower], 1)
    _save_grid(path, pairs, columns, "test data, and below each its reconstruction")


@torch.no_grad()
def samples(path, model: VAE, image_shape, n: int = 100, seed: int = 0) -> None:
    """The means of p(x | z) for ``n`` draws of z from the prior, as in Figure 5."""
    z = torch.randn(n, model.latent, generator=torch.Generator().manual_seed(seed))
    _save_grid(
        path, _decode(model, z, image_shape), math.ceil(math.sqrt(n)), "samples: z from the prior, mean of p(x | z)"
    )


@torch.no_grad()
def manifold(path, model: VAE, image_shape, side: int = 20) -> None:
    """A 2-D latent space: the unit square through the inverse Gaussian CDF, decoded (appendix A, Figure 4)."""
    ticks = torch.special.ndtri((torch.arange(side) + 0.5) / side)
    # z1 grows to the right, z2 upwards.
    z = torch.cartesian_prod(ticks.flip(0), ticks).flip(1)
    _save_grid(path, _decode(model, z, image_shape), side, "the latent plane: mean of p(x | z)")


def _decode(model: VAE, z: Tensor, image_shape) -> Tensor:
    """The means of p(x | z) as images ``[N, height, width]``."""
    return model.decoder.mean(z.to(next(model.parameters()))).reshape(-1, *image_shape)


def _save_grid(path, images: Tensor, columns: int, title: str) -> None:
    """Images ``[N, height, width]`` with values in [0, 1], in reading order."""
    count, height, width = images.shape
    rows, gap = math.ceil(count / columns), max(1, width // 10)
    canvas = torch.ones(rows, height + gap, columns, width + gap)
    cells = torch.ones(rows * columns, height, width)
    cells[:count] = images
    canvas[:, :height, :, :width] = cells.reshape(rows, columns, height, width).transpose(1, 2)
    canvas = canvas.flatten(2).flatten(0, 1)[:-gap, :-gap]
    inches = 7 / canvas.shape[1]
    figure = Figure(figsize=(7, canvas.shape[0] * inches + 0.4), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(canvas.numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_title(title, fontsize=10)
    axes.set_axis_off()
    _save(path, figure)


def _save(path, figure: Figure) -> None:
    FigureCanvasAgg(figure)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=150)
