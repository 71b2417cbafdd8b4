"""Random calls of layers: a matrix product, then an elementwise formula of its result."""

import functools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import aevb_ext
from aevb_ext import reference
from aevb_ext.nn import Linear

from .calls import Call, Result, Term, by_rows, weights, wide
from .drawing import DTYPES, Draw
from .exact import STEPS, Bounded, Elementwise, elementwise


@dataclass(frozen=True)
class LayerCall(Call):
    """The term takes, beside other tensors, what the layer makes of `h`, `weight` and maybe `bias`, in parts.

    Args:
        parts: what the formula calls them.
        eps: of the layer's own numbers, which may be rounded to the weight's dtype.
        h_scale: what h is multiplied by.
        from_result: whether a derivative is taken of the rounded result, 1 - tanh^2, as PyTorch takes it.
    """

    parts: tuple[str, ...] = ()
    eps: float = 0.0
    h_scale: float = 1.0
    from_result: bool = False

    @functools.cached_property
    def wide_tensors(self) -> dict[str, Tensor]:
        t = {name: self.double(name) for name in self.tensors}
        return t | {"h": t["h"] * self.h_scale}

    @functools.cached_property
    def elements(self) -> Elementwise:
        """The formula's, off by what the layer was off by, times its derivatives, too."""
        t, term = self.wide_tensors, self.results[0].terms[0]
        made = F.linear(t["h"], t["weight"], t.get("bias")).chunk(len(self.parts), -1)
        size = F.linear(t["h"].abs(), t["weight"].abs(), t["bias"].abs() if "bias" in t else None)
        operands = {name: t[name].expand(term.shape) for name in term.names} | dict(zip(self.parts, made, strict=True))
        of = elementwise(term.formula, operands, torch.finfo(self.wide).eps)
        for part, by in zip(self.parts, (STEPS * self.eps * s for s in size.chunk(len(self.parts), -1)), strict=True):
            of.value.error = of.value.error + by * of.gradients[part].value.abs()
            for name, slope in of.gradients.items():
                slope.error = slope.error + by * of.second[name][part].detach().abs()
        if self.from_result:
            of.gradients[self.parts[0]].error += STEPS * self.eps * of.value.value.square()
        return of

    def values(self) -> list[Bounded]:
        return [self.elements.value.reduced(self.results[0].terms[0].reduce)]

    def gradients(self, cotangents: list[Tensor]) -> dict[str, Bounded]:
        t, term = self.wide_tensors, self.results[0].terms[0]
        asked = weights(term, cotangents[0])
        slopes = {name: slope.times(asked) for name, slope in self.elements.gradients.items()}
        found = {name: slopes[name].reduced(lambda s, n=name: s.sum_to_size(t[n].shape)) for name in term.names}
        value, error = (
            torch.cat([getattr(slopes[part], which) for part in self.parts], -1).flatten(0, -2)
            for which in ("value", "error")
        )
        error = error + self.eps * value.abs()
        h, weight = t["h"].flatten(0, -2), t["weight"]

        def product(a, b):
            return Bounded(a(value) @ b, a(error) @ b.abs() + STEPS * self.eps * a(value).abs() @ b.abs())

        of_h = product(lambda s: s, weight)
        found["h"] = of_h.reduced(lambda s: s.reshape(t["h"].shape) * self.h_scale)
        found["weight"] = product(lambda s: s.mT, h)
        if "bias" in t:
            found["bias"] = Bounded(value.sum(0), (error + STEPS * self.eps * value.abs()).sum(0))
        return found


def _layer(draw: Draw, rows: tuple, outputs: int, dtype: torch.dtype) -> dict[str, Tensor]:
    inner = draw.one_of((1, 2, 3, 5, 8, 17))
    tensors = {
        "h": draw.lie(draw.as_dtype(draw.normal((*rows, inner)), dtype)),
        "weight": draw.lie(draw.as_dtype(draw.normal((outputs, inner)) / math.sqrt(inner), dtype)),
    }
    if draw.often(0.7):
        tensors["bias"] = draw.as_dtype(draw.normal((outputs,)), dtype)
    return tensors


def _head(draw: Draw, name: str) -> Call:
    samples, batch = draw.sizes(0, 1), draw.sizes(1, 1)
    event = (*draw.sizes(0, 1), draw.one_of((1, 2, 3, 5, 16, 17, 33)))
    dtype = draw.one_of(DTYPES)
    shape = samples + batch + event
    options = {"reduction": draw.one_of(("sample", "none", "sum", "mean")), "batch_dims": 1}
    spread = draw.one_of(("h", "number", "features")) if name == "linear_gaussian_log_prob" else ""
    parts = ("mean", "v") if spread == "h" else ("mean",)
    tensors = {"x": draw.lie(draw.as_dtype(draw.unit(batch + event), dtype))}
    tensors |= _layer(draw, shape[:-1], len(parts) * event[-1], dtype)
    if spread in ("number", "features"):
        of = () if spread == "number" else event[-1:]
        tensors["logvar"] = draw.as_dtype(4 * draw.uniform(of) - 2, dtype)
    if spread:
        options["sigmoid"] = draw.often(0.5)

    def formula(x, mean, v=None, logvar=None):
        if not spread:
            return reference.bernoulli_log_prob(x, mean, reduction="none")
        mean = mean.sigmoid() if options["sigmoid"] else mean
        return reference.gaussian_log_prob(x, mean, logvar if v is None else v, reduction="none")

    names = tuple(n for n in ("x", "logvar") if n in tensors)
    term = Term(formula, names, torch.Size(shape), by_rows(options["reduction"], len(event)))
    return LayerCall(
        name,
        lambda **t: getattr(aevb_ext, name)(**t, **options),
        tensors,
        (Result((term,), wide(dtype)),),
        wide(dtype),
        options,
        parts,
        torch.finfo(dtype).eps,
    )


def linear_bernoulli_log_prob(draw: Draw) -> Call:
    return _head(draw, "linear_bernoulli_log_prob")


def linear_gaussian_log_prob(draw: Draw) -> Call:
    return _head(draw, "linear_gaussian_log_prob")


def linear(draw: Draw) -> Call:
    """`aevb_ext.nn.Linear`, with tanh or without, of numbers or of bytes."""
    rows, outputs = draw.sizes(1, 2), draw.one_of((1, 2, 3, 8, 17))
    dtype, tanh, scale = draw.one_of(DTYPES[:3]), draw.often(0.5), 1.0
    tensors = _layer(draw, rows, outputs, dtype)
    if draw.often(0.3):
        tensors["h"], scale = (255 * draw.unit(tensors["h"].shape)).round().to(torch.uint8), 1 / 255

    def call(h, weight, bias=None):
        layer = Linear(weight.shape[1], outputs, bias is not None, tanh=tanh)
        parameters = {"weight": weight} | ({} if bias is None else {"bias": bias})
        return torch.func.functional_call(layer, parameters, (h, scale))

    term = Term(lambda made: made.tanh() if tanh else 1 * made, (), torch.Size((*rows, outputs)), lambda t: t)
    eps = torch.finfo(dtype).eps
    results, about = (Result((term,), dtype),), {"tanh": tanh}
    return LayerCall("nn.Linear", call, tensors, results, dtype, about, ("made",), eps, scale, from_result=tanh)


def halves(draw: Draw) -> Call:
    """Its gradient is both halves' own, side by side."""
    shape = (*draw.sizes(1, 2), 2 * draw.one_of((1, 2, 3, 8)))
    dtype = draw.one_of(DTYPES)
    first, second = (Term(lambda params: 1 * params, ("params",), torch.Size(shape), half) for half in _HALVES)
    results = (Result((first,), dtype), Result((second,), dtype))
    tensors = {"params": draw.lie(draw.as_dtype(draw.normal(shape), dtype))}
    return Call("halves", lambda params: aevb_ext.halves(params, -1), tensors, results, wide(dtype))


_HALVES = (lambda t: t.chunk(2, -1)[0], lambda t: t.chunk(2, -1)[1])
BUILDERS = (linear_bernoulli_log_prob, linear_gaussian_log_prob, linear, halves)
