"""Tensors that pack several: halves of a packed tensor, and bits of bytes."""

from torch import Tensor

from .. import _fallback, _library
from .._arguments import explain
from .._library import ops


def halves(params: Tensor, dim: int = -1) -> tuple[Tensor, Tensor]:
    """Split a packed tensor into means and spreads: ``params.chunk(2, dim)`` without chunk's copy in the backward.

    The operators here read the halves without a copy. On the CPU they write the gradients of both halves side by side,
    so that together these *are* the gradient of ``params``. chunk's own backward copies the two gradients into new
    memory, which takes longer than computing them.

    Args:
        params: ``[..., 2 * size, ...]``, of any dtype.
        dim: the dimension that has the two halves.

    Returns:
        ``(first, second)``: views, as chunk gives them.

    Raises:
        IndexError: there is no such dimension.
        ValueError: it has an odd size.
    """
    try:
        if not _library.KERNELS:
            return _fallback.halves(params, dim)
        result: tuple[Tensor, Tensor] = ops.halves(params, dim)
        return result
    except Exception:
        explain(halves, locals())
        raise


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """The bits of packed binary data, a byte each: ``numpy.unpackbits(packed, axis=-1, count=n)``.

    Args:
        packed: uint8 ``[*batch, ceil(n / 8)]``, as ``numpy.packbits(bits, axis=-1)`` makes it: the first bit is the
            highest of the first byte.
        n: how many bits a row has.

    Returns:
        uint8 ``[*batch, n]``: 0 and 1.

    Raises:
        ValueError: the last size is not ``ceil(n / 8)``, or n is negative.
        TypeError: packed is not uint8.
    """
    try:
        if packed.device.type not in _library.KERNELS:
            return _fallback.unpack_bits(packed, n)
        result: Tensor = ops.unpack_bits(packed, n)
        return result
    except Exception:
        explain(unpack_bits, locals())
        raise
