"""Exporting a trained model for other programs: as torch.export programs, and its decoder as ONNX.

The files contain operators of PyTorch or of ONNX only, so their readers do not need this package. Each export is loaded
again, run and compared with the model before it is written.
"""

import copy
import io
import logging
import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ._extras import check_extra
from ._files import errors_name_path, write_whole
from ._library import is_loaded, ops
from ._messages import PlainError, first_line
from ._types import StrPath
from .models import VAE
from .models.vae import mu_logvar
from .nn.heads import Decoder
from .nn.linear import scaled

__all__ = ["ExportError", "export_onnx", "export_programs"]

# The accepted error of an exported model, relative to the largest output: other libraries' matrix products round in
# another order.
_TOLERANCE = 1e-4
# Batch sizes that an export is tested with. The first one is traced (with 1, torch.export would take it as a constant).
_BATCHES = (3, 1, 8)

Network = Callable[[Tensor], tuple[Tensor, ...]]


class ExportError(PlainError, RuntimeError):
    """A network cannot be exported, or its export computes something else; the message says which and why."""


def export_programs(model: VAE, folder: StrPath, x: Tensor | None = None) -> list[Path]:
    """Write ``encoder.pt2`` and ``decoder.pt2``, for ``torch.export.load(path).module()``.

    The encoder takes x ``[B, *event]``, already multiplied by ``x_scale`` (pixels from 0 to 1), and gives
    ``(mu, logvar)`` of q(z | x), each ``[B, *latent]``; the decoder takes z ``[B, *latent]`` and gives E[x | z],
    ``[B, *event]``, on that scale. B may be any size. Tensors have the model's dtype and are on the CPU.

    Args:
        model: the VAE; it is exported in evaluation mode (without dropout).
        folder: where the files are written; it is created if it is missing.
        x: an example, ``[B, *event]``. Default: noise of the event shape of a model from
            :func:`~aevb_ext.models.make_model`; other models need an example.

    Returns:
        The files that were written.

    Raises:
        ExportError: torch.export cannot trace a network, or the exported program computes something else.
        ValueError: x is not given, and the model does not know its shape.
        OSError: a file cannot be written; the message names it.
    """
    contents = {}
    for name, network, given in _networks(model, x):
        program = _program(name, network, given)
        file = io.BytesIO()
        torch.export.save(program, file)
        contents[f"{name}.pt2"] = file.getvalue()
        file.seek(0)
        with _silenced():
            loaded = torch.export.load(file).module()
        _check(f"{name}.pt2", partial(_called, loaded), network, given)
    return _written(Path(folder), contents)


def _called(loaded: nn.Module, given: Tensor) -> tuple[Tensor, ...]:
    return _tuple(loaded(given))


def export_onnx(model: VAE, folder: StrPath, x: Tensor | None = None) -> list[Path]:
    """Write ``decoder.onnx``: from ``z`` ``[batch, *latent]`` to ``mean``, E[x | z] ``[batch, *event]``.

    Arguments, result and errors are those of :func:`export_programs`; and

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
    """
    check_extra("export", "decoder.onnx")
    import onnxruntime

    _, (name, network, given) = _networks(model, x)
    program = _program(name, network, given)
    try:
        with _silenced():
            exported = torch.onnx.export(
                program.module(),
                (given,),
                input_names=["z"],
                output_names=["mean"],
                dynamic_shapes=({0: "batch"},),
                dynamo=True,
                verbose=False,
            )
            content = exported.model_proto.SerializeToString()  # type: ignore[union-attr]  # not None with dynamo=True
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    # A converter may raise anything about a user's own network.
    except Exception as error:
        raise ExportError(f"the {name} cannot be converted to ONNX: {first_line(error)}") from error
    _check("decoder.onnx", lambda z: (torch.from_numpy(session.run(["mean"], {"z": z.numpy()})[0]),), network, given)
    return _written(Path(folder), {"decoder.onnx": content})


class _Encoder(nn.Module):
    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return mu_logvar(self.encoder(x))


class _Decoder(nn.Module):
    def __init__(self, decoder: Decoder):
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> Tensor:
        return self.decoder.mean(z)


def _networks(model: VAE, x: Tensor | None) -> list[tuple[str, nn.Module, Tensor]]:
    """(name, network, example input) of the encoder and of the decoder, on the CPU."""
    model = copy.deepcopy(model).cpu().eval()
    dtype = next(p.dtype for p in model.parameters())
    if x is None:
        config = model.config or {}
        size = config.get("x_dim") or math.prod(config.get("image_shape", [0]))
        if not size:
            raise ValueError("x is needed: a model that make_model did not make does not know the shape of its data")
        x = torch.rand(1, size, generator=torch.Generator().manual_seed(0))
    x = x[:1].to("cpu", dtype).repeat(_BATCHES[0], *[1] * (x.dim() - 1))
    encoder, decoder = _Encoder(model.encoder), _Decoder(model.decoder)
    with torch.no_grad():
        mu, _ = encoder(x)
    return [("encoder", encoder, x), ("decoder", decoder, mu)]


def _program(name: str, network: nn.Module, given: Tensor) -> torch.export.ExportedProgram:
    """The network in PyTorch's own operators, for batches of any size."""
    sizes = ({0: torch.export.Dim("batch")},)
    try:
        with _silenced():
            program = torch.export.export(network, (given,), dynamic_shapes=sizes)
            ours = {ops.linear.default: _linear, ops.halves.default: _halves} if is_loaded() else {}
            plain = program.run_decompositions(ours)
            # Exported again: the first program has leftover symbols, and loading it would warn about them.
            program = torch.export.export(plain.module(), (given,), dynamic_shapes=sizes)
    # Tracing a user's own network may raise anything.
    except Exception as error:
        raise ExportError(f"torch.export cannot trace the {name}: {first_line(error)}") from error
    left = {str(node.target) for node in program.graph.nodes if str(node.target).startswith("aevb_ext.")}
    if left:
        raise ExportError(f"the {name} has operators that are not PyTorch's own: {', '.join(sorted(left))}")
    return program


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, tanh: bool, x_scale: float = 1.0) -> Tensor:
    """What :class:`aevb_ext.nn.Linear` computes."""
    y = nn.functional.linear(scaled(x, x_scale, weight.dtype), weight, bias)
    return y.tanh() if tanh else y


def _halves(params: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """What :func:`aevb_ext.halves` computes."""
    first, second = params.chunk(2, dim)
    return first, second


@torch.no_grad()
def _check(name: str, run: Network, network: nn.Module, given: Tensor) -> None:
    """Raise ExportError unless ``run`` gives what the network gives, in batches of several sizes."""
    generator = torch.Generator().manual_seed(0)
    for batch in _BATCHES:
        # Data points near the example, each a different one.
        points = given[:1] + torch.rand(batch, *given.shape[1:], generator=generator, dtype=given.dtype)
        expected = _tuple(network(points))
        try:
            found = run(points)
        except Exception as error:
            raise ExportError(f"{name} does not run with a batch of {batch}: {first_line(error)}") from error
        for a, b in zip(found, expected, strict=True):
            worst = (a - b).abs().max() / b.abs().max().clamp(min=1) if a.shape == b.shape else math.inf
            # Written so that a NaN fails.
            if not worst <= _TOLERANCE:
                raise ExportError(f"{name} was not written: it deviates from the model by {worst:.3g} of its output")


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _written(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    with errors_name_path(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        write_whole(path, content)
    return paths


@contextmanager
def _silenced() -> Iterator[None]:
    """A context that silences the exporters' messages for their own developers."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
