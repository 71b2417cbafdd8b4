"""Pictures: the bound's curve, reconstructions, samples and the latent manifold.

A *canvas* is float32 ``[height, width]``, or ``[height, width, 3]`` in colour, with values in [0, 1] and NaN in the
gaps between images.
"""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from .._extras import of_extra
from .._files import atomic_write
from .._types import Shape, StrPath
from ..data import Data, Rows, first
from ..models import VAE
from ..nn import CategoricalDecoder
from ..nn.decoders import CountDecoder
from ..noise import keys_at

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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

# The names of scores (``Settings.score``) for people.
SCORED = {"bound": "bound", "marginal": "marginal log-likelihood"}

# Each pixel of the data is enlarged to a square, so that the picture is about this wide.
_WIDTH = 900


class Evaluated(Protocol):
    """The part of :class:`aevb_ext.train.Record` that a curve needs."""

    @property
    def samples_seen(self) -> int: ...

    @property
    def train(self) -> float: ...

    @property
    def test(self) -> float: ...


def save_all(
    folder: StrPath,
    model: VAE,
    data: Data,
    history: Sequence[Evaluated],
    seed: int = 0,
    encodes: bool = True,
    score: str = "bound",
) -> None:
    """Write every picture that makes sense for this model and data into ``folder``.

    Args:
        folder: the folder for the files.
        model, data, history: what is shown.
        seed: of rows that draw, and of samples.
        encodes: whether the model's encoder was trained.
        score: the score of the evaluations in the history: ``"bound"`` or ``"marginal"``.
    """
    folder = Path(folder)
    with atomic_write(folder / "curve.png") as file:
        file.write(curve(history, data.name, score))
    for name, canvas in canvases(model, data, seed, encodes).items():
        with atomic_write(folder / f"{name}.png") as file:
            file.write(png(canvas))


def canvases(model: VAE, data: Data, seed: int = 0, encodes: bool = True) -> dict[str, Tensor]:
    """Every canvas that makes sense for this model and data, by name; none if data points are not images.

    Arguments are those of :func:`save_all`.
    """
    if not data.image_shape:
        return {}
    found = {}
    if encodes:
        found["reconstructions"] = reconstructions(model, data.test, data.image_shape, seed=seed)
    found["samples"] = samples(model, data.image_shape, seed=seed)
    if model.latent == 2:
        found["manifold"] = manifold(model, data.image_shape)
    return found


@torch.no_grad()
def reconstructions(
    model: VAE, x: Tensor | Rows, image_shape: Shape, columns: int = 12, rows: int = 4, seed: int = 0
) -> Tensor:
    """A canvas of the first data points of x, and below each its reconstruction at the posterior's mean.

    Args:
        model: the VAE.
        x: ``[N, *event]`` or :class:`~aevb_ext.data.Rows`.
        image_shape: ``(height, width)`` or ``(channels, height, width)``.
        columns, rows: the most pairs in a row, and rows of pairs.
        seed: of rows that draw.
    """
    device = next(model.parameters()).device
    x = first(x, columns * rows, device, lambda index: keys_at(seed, "evaluation binarize", index))
    pairs = [_images(t, image_shape) for t in (x * model.x_scale, model.reconstruct(x))]
    line = pairs[0].new_full((len(x), 1, *pairs[0].shape[2:]), math.nan)
    return _in_unit(_grid(torch.cat([pairs[0], line, pairs[1]], 1), min(columns, len(x))), model)


def samples(model: VAE, image_shape: Shape, n: int = 100, seed: int = 0, *, sampled: bool = False) -> Tensor:
    """A canvas of ``n`` new data points, as in Figure 5; arguments as in :meth:`~aevb_ext.models.VAE.generate`."""
    key = keys_at(seed, "generation", torch.arange(n)).to(next(model.parameters()).device)
    images = _images(model.generate(n, sampled=sampled, key=key), image_shape)
    return _in_unit(_grid(images, math.ceil(math.sqrt(n))), model)


def manifold(model: VAE, image_shape: Shape, side: int = 20, dims: tuple[int, int] | None = None) -> Tensor:
    """A canvas of a plane through latent space (Figure 4); arguments as in :meth:`~aevb_ext.models.VAE.manifold`."""
    return _in_unit(_grid(_images(model.manifold(side, dims), image_shape), side), model)


def interpolations(model: VAE, x: Tensor, y: Tensor, image_shape: Shape, steps: int = 8) -> Tensor:
    """A canvas with a row for each pair: x, the interpolation from its reconstruction to that of y, and y.

    Args:
        model: the VAE.
        x, y: ``[B, *event]``, on its device.
        image_shape: as in :func:`reconstructions`.
        steps: the number of interpolated images, both reconstructions included.
    """
    way = model.interpolate(x, y, steps)
    return _in_unit(_side_by_side([(x * model.x_scale)[None], way, (y * model.x_scale)[None]], image_shape), model)


def variants(model: VAE, x: Tensor, image_shape: Shape, n: int = 9, temperature: float = 1.0, seed: int = 0) -> Tensor:
    """A canvas with a row for each data point: itself, then ``n`` variants of it.

    Args:
        model: the VAE.
        x: ``[B, *event]``, the first data points of a dataset, on its device.
        image_shape: as in :func:`reconstructions`.
        n, temperature: as in :meth:`~aevb_ext.models.VAE.augment`.
        seed: of the noise.
    """
    key = keys_at(seed, "augmentation", torch.arange(len(x))).to(x.device)
    found = model.augment(x, n_samples=n, temperature=temperature, key=key)
    return _in_unit(_side_by_side([(x * model.x_scale)[None], found], image_shape), model)


@of_extra("train", "aevb_ext.plots")
def curve(history: Sequence[Evaluated], name: str, score: str = "bound") -> bytes:
    """The train and test bound (or ``score``) against training samples seen, as in Figure 2: a PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    seen = [record.samples_seen for record in history]
    axes.plot(seen, [record.train for record in history], "--", label="train")
    axes.plot(seen, [record.test for record in history], "-", label="test")
    axes.set(xscale="log", xlabel="training samples seen", ylabel=f"{SCORED[score]} (nats per data point)")
    # The name may be a path that looks like mathematics.
    axes.set_title(name, parse_math=False)
    axes.set_ylim(bottom=bottom(seen, [[record.train for record in history], [record.test for record in history]]))
    axes.grid(alpha=0.3)
    axes.legend()
    return _drawn(figure)


@of_extra("train", "aevb_ext.plots")
def latents(mean: Tensor, labels: Tensor | None, dims: tuple[int, int], names: dict[int, str] | None = None) -> bytes:
    """A scatter plot of posterior means in two dimensions of latent space, coloured by label: a PNG.

    Args:
        mean: ``[N, latent]``.
        labels: ``[N]``, integers. None: one colour for all.
        dims: the dimensions of the x axis and the y axis.
        names: the names of labels, if they have some.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    right, up = mean[:, list(dims)].float().cpu().unbind(1)
    classes: list[Any] = [None] if labels is None else labels.unique().tolist()
    for i, label in enumerate(classes):
        of_it = torch.ones(len(mean), dtype=torch.bool) if labels is None else labels.cpu() == label
        colours = colormaps["tab10" if len(classes) <= 10 else "turbo"]
        colour = colours(i if len(classes) <= 10 else i / (len(classes) - 1))
        # Many points overlap: make them small and translucent.
        axes.scatter(right[of_it], up[of_it], s=min(16, 4e4 / len(mean)), color=colour, alpha=0.6, linewidths=0)
    axes.set(xlabel=f"z{dims[0]}", ylabel=f"z{dims[1]}", aspect="equal")
    axes.grid(alpha=0.3)
    if labels is not None and len(classes) <= 20:
        texts = [(names or {}).get(label, str(label)) for label in classes]
        legend = axes.legend(axes.collections, texts, loc="center left", bbox_to_anchor=(1, 0.5), markerscale=3)
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
            if handle is not None:
                handle.set_alpha(1)
            text.set_parse_math(False)
    return _drawn(figure)


def _drawn(figure: "Figure") -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    return file.getvalue()


def bottom(seen: list[int], curves: list[list[float]]) -> float:
    """The lower end of the bound's axis: the steep start is cut off so that the rest of the curve is legible."""
    return min(value for curve in curves for n, value in zip(seen, curve, strict=True) if n >= seen[-1] / 30)


@of_extra("train", "aevb_ext.plots")
def png(canvas: Tensor) -> bytes:
    """A canvas as an enlarged PNG; the gaps between images are transparent."""
    scale = max(1, _WIDTH // canvas.shape[1])
    canvas = canvas.repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    if canvas.dim() == 2:
        canvas = canvas[..., None].expand(-1, -1, 3)
    opaque = canvas[..., :1].isfinite().to(canvas.dtype)
    pixels = torch.cat([canvas.nan_to_num(0).clamp(0, 1), opaque], -1)
    from matplotlib.image import imsave

    file = io.BytesIO()
    nothing: Any = {"Software": None}  # matplotlib's stub does not allow None
    imsave(file, pixels.numpy(), format="png", metadata=nothing)
    return file.getvalue()


def _images(x: Tensor, image_shape: Shape) -> Tensor:
    """Flat rows as images ``[N, height, width]``, or ``[N, height, width, 3]`` in colour, on the CPU."""
    images = x.float().cpu().reshape(-1, *image_shape)
    if images.dim() == 3:
        return images
    # One or two channels are shown as grey, more than three as the first three.
    return images[:, 0] if image_shape[0] < 3 else images[:, :3].movedim(1, -1)


def _in_unit(canvas: Tensor, model: VAE) -> Tensor:
    """The canvas; of counts and classes, which go beyond 1, with the largest number as white."""
    if not isinstance(model.decoder, CountDecoder | CategoricalDecoder):
        return canvas
    return canvas / canvas.nan_to_num(0).max().clamp(min=1e-6)


def _side_by_side(groups: list[Tensor], image_shape: Shape) -> Tensor:
    """A canvas with a row for each data point; groups ``[columns, B, *event]`` are separated by gaps."""
    canvases: list[Tensor] = []
    for group in groups:
        if canvases:
            height, _, *colours = canvases[0].shape
            canvases.append(canvases[0].new_full((height, 3 * _gap(image_shape[-1]), *colours), math.nan))
        canvases.append(_grid(_images(group.transpose(0, 1).flatten(0, 1), image_shape), len(group)))
    return torch.cat(canvases, 1)


def _gap(width: int) -> int:
    """Pixels between images of that width."""
    return max(1, width // 10)


def _grid(images: Tensor, columns: int) -> Tensor:
    """A canvas of images in reading order."""
    count, height, width = images.shape[:3]
    rows, gap = math.ceil(count / columns), _gap(width)
    cells = images.new_full((rows * columns, height + gap, width + gap, *images.shape[3:]), math.nan)
    cells[:count, :height, :width] = images
    canvas = cells.unflatten(0, (rows, columns)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    grid: Tensor = canvas[:-gap, :-gap]
    return grid
