"""What all elementwise log-likelihoods share: the call of the operator, and checks of the numbers for those who ask."""

from torch import Tensor

from .. import _fallback, _library
from .._arguments import counts, instance
from .._library import ops

# The arguments' checks where those of the other functions do not fit (see explain).
OF_COUNTS = {"x": counts}
OF_SCALES = {**OF_COUNTS, "spread": instance(str, '"scale" or "log_scale"')}


def log_prob(
    name: str,
    x: Tensor,
    parameters: dict[str, Tensor],
    form: str,
    *,
    x_scale: float,
    reduction: str,
    batch_dims: int,
) -> Tensor:
    """The operator ``name``, or its formula in plain PyTorch where there are no kernels."""
    full = next(iter(parameters.values()))
    if full.device.type not in _library.KERNELS:
        return _fallback.log_prob(
            name, x, parameters, form, x_scale=x_scale, reduction=reduction, batch_dims=batch_dims
        )
    result: Tensor = getattr(ops, name)(x, *parameters.values(), form, x_scale, reduction, batch_dims)
    return result


def is_count(x: Tensor) -> Tensor:
    """Whether each number is a whole one from 0 on."""
    return (x >= 0) & (x == x.floor()) & x.isfinite() if x.is_floating_point() else x >= 0


def check_counts(x: Tensor, **parameters: Tensor) -> None:
    """Raise ValueError unless x has counts, and each parameter the numbers that it may have. The host waits for it."""
    _check("x", x, is_count(x), "counts: whole numbers from 0 on")
    for name, t in parameters.items():
        if name in ("dispersion", "total_count"):
            _check(name, t, t > 0, "positive numbers")
        elif name in ("rate", "mean"):
            _check(name, t, t >= 0, "numbers from 0 on")
        else:
            _check(name, t, t == t, "numbers that are not NaN")


def _check(name: str, t: Tensor, fits: Tensor, expected: str) -> None:
    if not fits.all():
        raise ValueError(f"{name} has {t[~fits][0].item()}: expected {expected} (validate_args)")
