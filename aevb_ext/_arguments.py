"""Argument checks of the public functions; each message names the argument, what was given and what is expected.

The operators check shapes, dtypes and devices of tensors. Whether an argument is of the right *kind* is checked only
after a call has failed. A call that succeeds pays nothing for it, and torch.compile never traces it::

    try:
        return ops.gaussian_kl(mu, logvar, ...)
    except Exception:
        explain(gaussian_kl, locals())
        raise

A function that does more than call one operator is decorated with ``@explained()`` instead.
"""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Size, Tensor

from ._types import Shape

P = ParamSpec("P")
R = TypeVar("R")

# Takes the argument's name and value; raises TypeError or ValueError.
Check = Callable[[str, Any], object]

FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
DATA = (*FLOATING, torch.uint8, torch.bool)
# What the operators of bytes and grey levels do not take as data; some callers convert them.
SIGNED = (torch.int64, torch.int32, torch.int16, torch.int8)
COUNTS = (*DATA, torch.int16, torch.int32, torch.int64)  # what likelihoods of counts take as data
INTEGERS = (*SIGNED, torch.uint16, torch.uint32, torch.uint64)


def check_dtype(name: str, t: object, *, data: bool = False) -> None:
    """Raise TypeError unless ``t`` is a tensor of a dtype that the operators take (with ``data``: as their x)."""
    check_tensor(name, t, DATA if data else FLOATING)


def check_tensor(name: str, t: object, dtypes: tuple[torch.dtype, ...] = (), hint: str = "") -> None:
    """Raise TypeError unless ``t`` is a dense tensor of one of the dtypes; without ``dtypes``, of any."""
    if isinstance(t, Tensor) and (not dtypes or t.dtype in dtypes) and t.layout is torch.strided and not t.is_nested:
        return
    expected = _listed(dtypes)
    if not isinstance(t, Tensor):
        raise TypeError(f"{name} must be a tensor{expected and f' of {expected}'}{hint}, got {described(t)}")
    if t.is_nested or t.layout is not torch.strided:
        kind = "a nested tensor" if t.is_nested else f"layout {_short(t.layout)}"
        to_dense = "to_padded_tensor" if t.is_nested else "to_dense"
        raise TypeError(f"{name} must be a dense tensor, got {kind} (see Tensor.{to_dense})")
    raise TypeError(f"{name} must be {expected}{hint}, got {_short(t.dtype)}")


def sizes(shape: Shape) -> Shape:
    """The sizes of this call as integers. Under torch.jit.trace they are tensors, and comparing those warns."""
    if not torch.jit.is_tracing():
        return shape
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)  # type: ignore[attr-defined]  # torch has no stub of it
    try:
        return torch.Size(map(int, shape))
    finally:
        torch._C._set_tracing_state(state)  # type: ignore[attr-defined]  # likewise


def check_broadcasts(name: str, shape: Size, other_name: str, other: Size) -> None:
    """Raise ValueError unless ``shape`` broadcasts to the shape ``other``."""
    pairs = zip(reversed(sizes(shape)), reversed(sizes(other)), strict=False)
    if len(shape) > len(other) or any(size != 1 and size != wanted for size, wanted in pairs):
        raise ValueError(
            f"{name} has shape {list(shape)}, which does not broadcast to {other_name}'s shape {list(other)}"
        )


def broadcast_shape(name: str, shape: Size, other_name: str, other: Size) -> Size:
    """The shape to which both broadcast; ValueError naming both if there is none."""
    try:
        common: Size = torch.broadcast_shapes(sizes(shape), sizes(other))
    except RuntimeError:
        raise ValueError(
            f"{name} has shape {list(shape)}, which does not broadcast with {other_name}, of shape {list(other)}"
        ) from None
    if not torch.jit.is_tracing():
        return common
    # A traced graph has to work for other sizes too, so the sizes are taken from the tensors.
    longer, shorter = (shape, other) if len(shape) >= len(other) else (other, shape)
    first = len(longer) - len(shorter)
    chosen = zip(longer[first:], shorter, sizes(longer)[first:], strict=True)
    return Size([*longer[:first], *(theirs if size == 1 else own for own, theirs, size in chosen)])


def described(value: object) -> str:
    """A short description of a value for messages: numbers and strings as they are, otherwise the type."""
    if value is None or isinstance(value, (bool, int, float, complex, torch.dtype, torch.device)):
        return repr(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "...")
    if isinstance(value, Tensor):
        return f"a tensor of {_short(value.dtype)}, shape {list(value.shape)}"
    if type(value).__module__ == "torch.fx.proxy":
        return "a Proxy: torch.fx.symbolic_trace does not trace this function (torch.fx.wrap it, or use torch.export)"
    if isinstance(value, (list, tuple)):
        text = ", ".join(map(described, value[:4])) + (", ..." if len(value) > 4 else "")
        return f"a {type(value).__name__} of {text}" if value else f"an empty {type(value).__name__}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return type(value).__name__


def is_integer(value: Any) -> bool:
    """Whether it is one integer: of Python, NumPy or a tensor, or symbolic under torch.compile. A bool is one."""
    if isinstance(value, (int, torch.SymInt)):
        return True
    try:
        return operator.index(value) is not None
    except (TypeError, RuntimeError):
        return False


def is_number(value: Any) -> bool:
    """Whether it is one real number: of Python, NumPy or a tensor, or symbolic under torch.compile."""
    if isinstance(value, (int, float, torch.SymInt, torch.SymFloat)):
        return True
    if isinstance(value, Tensor) or hasattr(value, "dtype"):
        return bool(value.ndim == 0) and not str(value.dtype).startswith(("complex", "torch.complex"))
    return hasattr(value, "__float__")


def explain(function: Callable[..., object], arguments: Mapping[str, object], **kinds: Check | None) -> None:
    """Raise TypeError or ValueError if an argument of a call that failed is of the wrong kind.

    Args:
        function: what was called. None is accepted for a parameter whose default is None.
        arguments: by name, as ``locals()`` has them.
        kinds: checks of this function that replace those of ``KINDS``, by name. None: no check.
    """
    for name, parameter in inspect.signature(function).parameters.items():
        check = kinds.get(name, KINDS.get(name))
        if check is None or (arguments[name] is None and parameter.default is None):
            continue
        try:
            check(name, arguments[name])
        except (TypeError, ValueError) as error:
            raise error from None  # the failure that led here adds nothing


def explained(**kinds: Check | None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: when the function fails, :func:`explain` checks its arguments."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except Exception:
                given: inspect.BoundArguments | None
                try:
                    given = inspect.signature(function).bind(*args, **kwargs)
                except TypeError:
                    given = None  # too many or too few arguments: Python's own message says so
                if given is not None:
                    given.apply_defaults()
                    explain(function, given.arguments, **kinds)
                raise

        return call

    return decorate


def kind(fits: Callable[[object], bool], expected: str) -> Check:
    """A check that an argument ``fits``."""

    def check(name: str, value: object) -> None:
        if not fits(value):
            raise TypeError(f"{name} must be {expected}, got {described(value)}")

    return check


def tensor(*dtypes: torch.dtype, hint: str = "") -> Check:
    """A check that an argument is a dense tensor."""
    return lambda name, value: check_tensor(name, value, dtypes, hint)


def instance(of: type | tuple[type, ...], expected: str) -> Check:
    """A check that an argument is an instance."""
    return kind(lambda value: isinstance(value, of), expected)


def _is_generator(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(each, torch.Generator) for each in value)
    return isinstance(value, torch.Generator)


def integer(name: str, value: object) -> None:
    """Check that an argument is an integer that an operator takes: one of 64 bits."""
    if not is_integer(value):
        raise TypeError(f"{name} must be an integer, got {described(value)}")
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{name} must be an integer of 64 bits, got {value}")


def _is_shape(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(map(is_integer, value))


def _check_device(name: str, value: Any) -> None:
    try:
        torch.device(value)
    except (TypeError, RuntimeError):
        error = ValueError if isinstance(value, str) else TypeError
        raise error(f'{name} must be a device, such as "cpu" or "cuda:0", got {described(value)}') from None


def _listed(dtypes: tuple[torch.dtype, ...]) -> str:
    *names, last = map(_short, dtypes) if dtypes else ("",)
    return f"{', '.join(names)} or {last}" if names else last


def _short(of_torch: torch.dtype | torch.layout) -> str:
    return str(of_torch).removeprefix("torch.")


floating, data, counts = tensor(*FLOATING), tensor(*DATA), tensor(*COUNTS)
number = kind(is_number, "a number")
truth = kind(lambda value: isinstance(value, int) or type(value).__name__ in ("bool", "bool_"), "True or False")
shape = kind(_is_shape, "a tuple of integers")

# The check of each argument name, the same in every function that has it.
KINDS: dict[str, Check] = {
    **dict.fromkeys(("mu", "logvar", "prior_mu", "prior_logvar", "logits", "probs", "h", "weight", "bias"), floating),
    **dict.fromkeys(("rate", "log_rate", "mean", "dispersion", "total_count", "gate_logits"), floating),
    **dict.fromkeys(("scale", "log_scale", "df"), floating),
    **dict.fromkeys(("mu_k", "logvar_k", "logits_k"), floating),
    **dict.fromkeys(("input", "recon_x"), floating),
    **dict.fromkeys(("x", "value", "target"), data),
    "params": tensor(),
    "packed": tensor(torch.uint8),
    "key": tensor(torch.int64, hint=" (see noise_key)"),
    **dict.fromkeys(("n_samples", "first_sample", "batch_dims", "latent_dims", "dim", "n"), integer),
    **dict.fromkeys(("sample_shape", "batch_shape", "shape"), shape),
    "other": instance(torch.distributions.Distribution, "a distribution"),
    "x_scale": number,
    **dict.fromkeys(("sigmoid", "soft", "tanh", "validate_args", "factorised"), truth),
    "net": kind(callable, "a module, or a function of tensors"),
    "z": tensor(),
    "spread": instance(str, '"logvar", "log_std", "std" or "var"'),
    "reduction": instance(str, '"none", "sample", "sum" or "mean"'),
    "generator": kind(_is_generator, "a torch.Generator or a list of them"),
    "device": _check_device,
}
