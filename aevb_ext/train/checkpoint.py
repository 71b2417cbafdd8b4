"""Checkpoints: tensors and JSON in one safetensors file that is complete or absent.

Everything but the tensors is JSON in the file's metadata, together with a SHA-256 of both. Reading a checkpoint
executes nothing, and a file that was damaged after it was written is refused.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._checks import is_count
from .._extras import of_extra
from .._files import write_whole
from .._types import Shape, StrPath
from .._version import __version__
from ..configuration.saved_run import checkpoint_file
from ..models import VAE, make_model

__all__ = ["Checkpoint", "load_checkpoint", "save_checkpoint"]

FORMAT = "aevb_ext checkpoint 2"


@dataclass(frozen=True)
class Checkpoint:
    """The contents of a checkpoint.

    Attributes:
        model: the VAE, on the CPU; with the averaged parameters if the run has an average.
        data: the name of the dataset that it was trained on.
        image_shape: of that dataset.
        samples_seen: how many training data points had been evaluated.
    """

    model: VAE
    data: str
    image_shape: tuple[int, ...] | None
    samples_seen: int


def save_checkpoint(
    path: StrPath, model: VAE, *, data: str, image_shape: Shape | None = None, samples_seen: int = 0
) -> None:
    """Write a model to ``path`` (a safetensors file), replacing an existing file only when the new one is complete.

    The file holds the model only: training cannot be resumed from it.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    about = {"name": data, "image_shape": image_shape and list(image_shape)}
    write(path, model_tensors(model), {"model": model.config, "data": about, "samples_seen": samples_seen})


def load_checkpoint(path: StrPath, model: VAE | None = None) -> Checkpoint:
    """Read the model of a checkpoint. Nothing in the file is executed.

    Args:
        path: the file; or the folder of a run, for its best model (best.safetensors), or its latest checkpoint if there
            was no evaluation yet.
        model: the model to load into, for a model that ``make_model`` did not make; it must have the same tensors.
            Default: :func:`aevb_ext.models.make_model` builds it with the checkpoint's configuration.

    Raises:
        FileNotFoundError: there is no such file, or no checkpoint in the folder.
        ValueError: the file is truncated, not a checkpoint of this package, or of another model.
    """
    path = checkpoint_file(path)
    tensors, content = read(path)
    try:
        name, shape = content["data"]["name"], content["data"]["image_shape"]
        config, samples_seen = content["model"], content["samples_seen"]
        right = isinstance(name, str) and is_count(samples_seen) and (config is None or isinstance(config, dict))
        right = right and (shape is None or (len(shape) in (2, 3) and all(map(is_count, shape))))
    except (KeyError, TypeError):
        right = False
    if not right:
        raise ValueError(f"{path} is not a checkpoint of this package: its entries about model and data are invalid")
    found = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    found |= {name.removeprefix("average."): t for name, t in tensors.items() if name.startswith("average.")}
    if model is None:
        if config is None:
            raise ValueError(
                f"{path} is of a model that make_model did not make: give load_checkpoint such a model to load it into"
            )
        model = _build(path, config, found)
    elif plain(model.config) != config:
        raise ValueError(f"{path} is of another model: it has {config}, the model given has {model.config}")
    check_like(found, model.state_dict(), f"{path} is of another model")
    model.load_state_dict(found)
    return Checkpoint(model, name, shape and tuple(shape), samples_seen)


def model_tensors(model: VAE) -> dict[str, Tensor]:
    """The model's state dict with the names of a checkpoint."""
    return {f"model.{name}": tensor for name, tensor in model.state_dict().items()}


@of_extra("train", "a checkpoint")
def write(path: StrPath, tensors: dict[str, Tensor], content: dict[str, Any]) -> None:
    """Write tensors and JSON content, replacing a file at ``path`` only when the new one is complete.

    Raises:
        OSError: the file cannot be written; the message names it.
    """
    import safetensors.torch

    # Copies, since safetensors refuses tensors that share memory (tied weights).
    tensors = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    text = json.dumps({**content, "versions": {"aevb_ext": __version__, "torch": str(torch.__version__)}})
    metadata = {"format": FORMAT, "content": text, "sha256": _sha256(tensors, text)}
    write_whole(path, safetensors.torch.save(tensors, metadata))


@of_extra("train", "a checkpoint")
def read(path: StrPath) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors, on the CPU, and the JSON content of a checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is truncated, damaged or not a checkpoint of this package.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                found = metadata.get("format")
                raise ValueError(
                    f"{path} is not a checkpoint of this package: its format is {found!r}, expected {FORMAT!r}"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated, damaged or not a checkpoint: {error}") from None
    text = metadata.get("content", "")
    if metadata.get("sha256") != _sha256(tensors, text):
        raise ValueError(f"{path} is damaged: its SHA-256 does not match its content")
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a checkpoint of this package: its metadata is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} is not a checkpoint of this package: its metadata is a {type(content).__name__}")
    return tensors, content


def check_like(found: dict[str, Tensor], expected: dict[str, Tensor], message: str) -> None:
    """Raise ValueError, beginning with ``message``, unless names, shapes and dtypes are as expected."""
    for name in [*expected, *found]:
        a, b = (_kind(tensors.get(name)) for tensors in (found, expected))
        if a != b:
            raise ValueError(f"{message}: {name} is {a}, expected {b}")


def plain(value: object) -> Any:
    """The value after a round trip through JSON."""
    return json.loads(json.dumps(value))


def bytes_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, without a copy."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _build(path: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> VAE:
    message = f"{path} is of another model"
    # A corrupt configuration may ask for a huge size or depth: no number in it can exceed the number of elements.
    most = sum(t.numel() for t in tensors.values())
    sizes = [n for value in config.values() for n in (value if isinstance(value, list) else [value])]
    if any(isinstance(n, int) and n > most for n in sizes):
        raise ValueError(f"{message}: its tensors are too small for {config}")
    try:
        # Built on the meta device first: if the sizes do not match the file's tensors, no memory is allocated.
        with torch.device("meta"):
            shapes = make_model(**config).state_dict()
        dtype = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
        check_like(tensors, {k: t.to(dtype) if t.is_floating_point() else t for k, t in shapes.items()}, message)
        return make_model(**config).to(dtype)
    except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError) as error:
        said = str(error)
        raise ValueError(said if said.startswith(message) else f"{message} than can be made here: {said}") from None


def _sha256(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(json.dumps(text).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def _kind(tensor: Tensor | None) -> str:
    return "not there" if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"
