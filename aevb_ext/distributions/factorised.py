"""The base class of the distributions: shapes, noise, and broadcasting of values against parameters."""

import math
from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import torch
from torch import Size, Tensor
from torch.distributions import Distribution, constraints, kl_divergence
from torch.distributions.kl import _KL_REGISTRY

from .._arguments import INTEGERS, broadcast_shape, check_dtype, sizes
from .._dtypes import widened
from .._types import Generators, Shape
from ..functional import noise_key

D = TypeVar("D", bound="Factorised")


def _of_events(of_one: constraints.Constraint, event_dims: int) -> constraints.Constraint:
    return constraints.independent(of_one, event_dims) if event_dims else of_one


class Noise(TypedDict):
    """The noise arguments of the functions of :mod:`aevb_ext.functional`."""

    key: Tensor | None
    generator: torch.Generator | None


class Factorised(Distribution):
    """A distribution whose elements are independent, given parameters of shape ``[*batch_shape, *event_shape]``.

    Args:
        shape: ``[*batch_shape, *event_shape]``.
        name: the name of the parameter that has this shape, for error messages.
        batch_dims: how many of the dimensions are the batch's.
        validate_args: whether values are validated, as in torch.distributions. None: no.
    """

    _validate_args = False  # whatever PyTorch's default is: validation makes the host wait for the device
    _element_support: constraints.Constraint

    def __init__(self, shape: Size, name: str, batch_dims: int, validate_args: bool | None):
        if not 0 <= batch_dims <= len(shape):
            raise ValueError(
                f"batch_dims must be from 0 to {len(shape)}, the dimensions of {name} (shape {list(shape)}), "
                f"got {batch_dims}"
            )
        super().__init__(shape[:batch_dims], shape[batch_dims:], validate_args)

    def kl(self, other: Distribution) -> Tensor:
        """KL divergence of this to ``other`` in nats, ``[*batch_shape]``."""
        raise NotImplementedError

    @property
    def event_dims(self) -> int:
        """How many dimensions the event has."""
        return len(self._event_shape)

    @constraints.dependent_property
    def support(self) -> constraints.Constraint:
        return _of_events(self._element_support, self.event_dims)

    def _arg_constraint(self, of_one: constraints.Constraint, parameter: Tensor) -> constraints.Constraint:
        """The constraint ``of_one`` element for the event dimensions of a parameter (it may broadcast to more)."""
        return _of_events(of_one, min(self.event_dims, parameter.dim()))

    def _expanded(self: D, cls: type[D], instance: Distribution | None, *parameters: Tensor, **options: Any) -> D:
        """A ``cls`` with these parameters; it is ``instance``, initialised, if a subclass's expand gives one."""
        options |= {"validate_args": False}  # the parameters have been validated already
        # Untyped, since subclasses differ in the arguments of __init__.
        begin: Callable[..., None] = cls.__init__
        if instance is None and type(self).__init__ is begin:
            new = type(self).__new__(type(self))
            begin(new, *parameters, **options)
        else:
            new = self._get_checked_instance(cls, instance)
            begin(new, *parameters, **options)
        new._validate_args = self._validate_args
        return new

    def _common_shape(self, other: "Factorised") -> Size:
        """The batch shape to which both broadcast, and the event's; ValueError naming both if there is none."""
        if sizes(self.event_shape) != sizes(other.event_shape):
            raise ValueError(
                f"p has event_shape {list(self.event_shape)}, but q has {list(other.event_shape)}: expected one"
            )
        return broadcast_shape("p's batch", self.batch_shape, "q's batch", other.batch_shape) + self.event_shape

    def _kl_to_another(self, other: Distribution) -> Tensor:
        """:func:`torch.distributions.kl_divergence` to a distribution of another class.

        A function registered for exactly these two classes is called directly. PyTorch's own lookup caches its results
        in a table, and torch.compile recompiles code that reads the table whenever it grows.
        """
        kl: Callable[[Distribution, Distribution], Tensor] = _KL_REGISTRY.get((type(self), type(other)), kl_divergence)
        return kl(self, other)

    def _noise(self, device: torch.device, key: Tensor | None, generator: Generators | None) -> Noise:
        """The noise arguments for :mod:`aevb_ext.functional`; a list of generators becomes a key each."""
        if not isinstance(generator, (list, tuple)):
            return {"key": key, "generator": generator}
        if key is not None:
            raise ValueError("key and generator were both given: the key alone determines the noise, give one of them")
        points = math.prod(sizes(self._batch_shape))
        if len(generator) != points:
            raise ValueError(
                f"generator is a list of {len(generator)}, but there are {points} data points "
                f"(batch_shape {list(self._batch_shape)}): expected one generator for each"
            )
        return {"key": noise_key(device, generator).reshape(*self._batch_shape, 2), "generator": None}

    def _check_value(self, value: Tensor, dtype: torch.dtype) -> tuple[Tensor, Size]:
        """``value`` ``[*samples, *batch_shape, *event_shape]`` converted for operators with parameters of ``dtype``,
        and the shape to which it and the parameters broadcast; TypeError or ValueError if it does not fit."""
        if isinstance(value, Tensor) and value.dtype in INTEGERS:
            value = value.to(torch.float64 if dtype == torch.float64 else torch.float32)
        check_dtype("value", value, data=True)
        batch_dims = value.dim() - self.event_dims
        if batch_dims < 0 or sizes(value.shape[batch_dims:]) != sizes(self._event_shape):
            raise ValueError(
                f"value has shape {list(value.shape)}, which does not end in the event_shape {list(self._event_shape)}"
            )
        own = self._batch_shape + self._event_shape
        shape = broadcast_shape("value", value.shape, "batch_shape + event_shape", own)
        if self._validate_args:
            self._validate_sample(value)
        return value, shape


def wide(t: Tensor) -> Tensor:
    """A parameter in the dtype of the arithmetic: float64 for float64, else float32."""
    return widened(t, torch.promote_types(t.dtype, torch.float32))


def samples(sample_shape: Shape) -> int | None:
    """``n_samples`` for a ``sample_shape``: their product, or None for ``()``."""
    if any(size < 0 for size in sizes(sample_shape)):
        raise ValueError(f"sample_shape must have no negative size, got {list(sample_shape)}")
    return math.prod(sample_shape) if len(sample_shape) else None
