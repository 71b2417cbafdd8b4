"""A random call of a likelihood whose every value is of a vector: of classes' logits, or of a mixture's components."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import aevb_ext
from aevb_ext import reference

from .calls import Call, Result, Term, by_rows, weights, wide
from .drawing import DTYPES, Draw
from .exact import STEPS, Bounded, Elementwise, elementwise

FEW = (1, 1, 2, 3, 4)
# Of few vectors: the bounds of n numbers take n backwards.
MANY = (*FEW, 17, 70)


@dataclass(frozen=True)
class VectorCall(Call):
    """The term's formula is elementwise in the numbers of vectors, each an operand of its own, and has a logsumexp.

    Args:
        parts: of the tensors, these operands by name, which broadcast to the term's shape.
        exponents: of the operands, what the logsumexp is of, ``[K, *shape]``. Each has rounding errors of its own, by
            which the formula takes it to be off: its operands "off0" to "off(K-1)", which are 0.
        logits: what the K operands are called that are logits of those exponents.
        beside_1: operands from which the call subtracts numbers that it rounds, up to 1.
    """

    parts: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    exponents: Callable[..., Tensor] = torch.stack
    logits: str = "logits"
    beside_1: tuple[str, ...] = ()

    def _operands(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: t.expand(self.results[0].terms[0].shape) for name, t in self.parts(tensors).items()}

    @functools.cached_property
    def elements(self) -> Elementwise:
        eps = torch.finfo(self.wide).eps
        operands = self._operands({name: self.double(name) for name in self.tensors})
        sizes = {f"off{k}": 1 + e.abs() for k, e in enumerate(self.exponents(**operands))}
        off = {name: torch.zeros_like(size) for name, size in sizes.items()}
        sizes |= {name: 1 + operands[name].abs() for name in self.beside_1}
        of = elementwise(self.results[0].terms[0].formula, operands | off, eps, sizes)
        # A backward has each exponent's share of the sum from the logarithm, which is rounded.
        rounding = STEPS * eps * (1 + of.value.value.abs())
        logits = {f"{self.logits}{k}": f"off{k}" for k in range(len(off))}
        for name, slope in of.gradients.items():
            size = slope.value.abs()
            if name in logits:  # the share, less one that the logit has without it, or a class' 1
                size = size + 2 * of.gradients[logits[name]].value.abs()
            slope.error = slope.error + rounding * size
            slope.value = torch.where(of.value.value.isnan(), torch.nan, slope.value)  # all of a vector that has one
        return of

    def values(self) -> list[Bounded]:
        return [self.elements.value.reduced(self.results[0].terms[0].reduce)]

    def gradients(self, cotangents: list[Tensor]) -> dict[str, Bounded]:
        asked = weights(self.results[0].terms[0], cotangents[0])
        leaves = {name: self.double(name).requires_grad_() for name in self.tensors}
        operands = self._operands(leaves)
        slopes = [self.elements.gradients[name].times(asked) for name in operands]

        def gathered(which: str) -> tuple[Tensor, ...]:
            given = [getattr(slope, which) for slope in slopes]
            return torch.autograd.grad(list(operands.values()), list(leaves.values()), given, retain_graph=True)

        both = zip(gathered("value"), gathered("error"), strict=True)
        return {name: Bounded(*one) for name, one in zip(leaves, both, strict=True)}


def _numbered(name: str, t: Tensor, dim: int) -> dict[str, Tensor]:
    return {f"{name}{i}": part for i, part in enumerate(t.unbind(dim))}


def _stack(parts: dict[str, Tensor], name: str, dim: int = 0) -> Tensor:
    return torch.stack([part for key, part in parts.items() if key.rstrip("0123456789") == name], dim)


def _call(name: str, tensors: dict, options: dict, formula, shape, event_dims: int, **vectors) -> VectorCall:
    dtype = wide(next(reversed(tensors.values())).dtype)
    term = Term(formula, (), torch.Size(shape), by_rows(options["reduction"], event_dims))
    call = lambda **t: getattr(aevb_ext, name)(**t, **options)  # noqa: E731
    return VectorCall(name, call, tensors, (Result((term,), dtype),), dtype, options, **vectors)


def categorical_log_prob(draw: Draw) -> Call:
    samples, batch, event = draw.shapes()
    vectors = torch.Size(samples + batch + event).numel()
    classes, dtype = draw.one_of(MANY if vectors < 500 else FEW), draw.one_of(DTYPES)
    x = (classes * draw.uniform(batch + event)).floor().to(draw.one_of((torch.int64, torch.int32, torch.uint8)))
    logits = draw.as_dtype(draw.number((*samples, *batch, *event, classes)), dtype)
    tensors = {"x": draw.lie(x), "logits": draw.lie(logits)}
    options = {"reduction": draw.one_of(("sample", "none", "sum", "mean")), "batch_dims": len(batch)}

    def formula(x, **parts):
        logits = _stack(parts, "logits")
        taken = logits.gather(0, x.detach().long().unsqueeze(0)).squeeze(0)
        return taken - (logits + _stack(parts, "off")).logsumexp(0) + 0 * x

    return _call(
        "categorical_log_prob",
        tensors,
        options,
        formula,
        samples + batch + event,
        len(event),
        parts=lambda t: {"x": t["x"]} | _numbered("logits", t["logits"], -1),
        # Their distances from the largest are exact.
        exponents=lambda x, **logits: 0 * _stack(logits, "logits"),
    )


def mixture_log_prob(draw: Draw) -> Call:
    """Joint, or of each dimension, which is then an element."""
    batch, factorised = draw.sizes(0, 2), draw.often(0.5)
    dims = draw.one_of((*FEW, 17) if factorised else FEW)
    components = draw.one_of((*FEW, 17) if factorised or dims == 1 else FEW)
    dtype, of_components = draw.one_of(DTYPES), draw.one_of(((components, dims),) * 2 + ((components, 1),))
    s, spread = draw.spread(draw.log_variance(of_components), dtype)
    tensors = {
        "z": draw.lie(draw.as_dtype(draw.number((*batch, dims)), dtype)),
        "mu_k": draw.lie(draw.as_dtype(draw.number((components, dims)), dtype)),
        "logvar_k": draw.lie(s),
    }
    if draw.often(0.7):
        tensors["logits_k"] = draw.lie(draw.as_dtype(3 * draw.normal((components,)), dtype))
    reductions = ("sample", "sum", "mean", "none") if factorised else ("sample", "sum", "mean")
    options = {"factorised": factorised, "spread": spread, "reduction": draw.one_of(reductions)}
    shape = (*batch, dims) if factorised else batch

    def parts(t):
        if factorised:
            of = {"z0": t["z"]} | _numbered("mu", t["mu_k"], 0) | _numbered("spread", t["logvar_k"], 0)
        else:
            of = _numbered("z", t["z"], -1) | _numbered("mu", t["mu_k"].flatten(), 0)
            of |= _numbered("spread", t["logvar_k"].expand(components, dims).flatten(), 0)
        return of | (_numbered("logits", t["logits_k"], 0) if "logits_k" in t else {})

    def exponents(**parts):
        z = _stack(parts, "z")
        mu, s = (_stack(parts, name).unflatten(0, (components, len(z))) for name in ("mu", "spread"))
        each = reference.gaussian_log_prob(z.expand_as(mu), mu, s, spread=spread, reduction="none", batch_dims=0)
        logits = _stack(parts, "logits") if "logits0" in parts else torch.zeros_like(mu[:, 0])
        return logits.log_softmax(0) + each.sum(1)

    def formula(**parts):
        return (exponents(**parts) + _stack(parts, "off")).logsumexp(0)

    dims_of_event = len(shape) - len(batch)
    return _call("mixture_log_prob", tensors, options, formula, shape, dims_of_event, parts=parts, exponents=exponents)


def discretized_logistic_mixture_log_prob(draw: Draw) -> Call:
    samples, batch, image = draw.sizes(0, 1), draw.sizes(1, 1), draw.sizes(2, 2)
    components, dtype = draw.one_of((1, 1, 2)), draw.one_of(DTYPES)
    levels = (255 * draw.unit((*batch, 3, *image))).round()
    x = levels.to(torch.uint8) if draw.often(0.5) else (2 * levels / 255 - 1).to(dtype)
    params = draw.normal((*samples, *batch, 10 * components, *image)) * draw.one_of((0.3, 1, 3))
    tensors = {"x": draw.lie(x), "params": draw.lie(draw.as_dtype(params, dtype))}
    options = {"reduction": draw.one_of(("sample", "none", "sum", "mean"))}

    def is_mean(k):
        return k // components in (1, 4, 7)

    def mixture(colours, params):  # [3, ...] and [10 K, ...]
        x, p = (t.movedim(0, -1)[..., None, None] for t in (colours, params))
        return reference.discretized_logistic_mixture_log_prob(x, p, reduction="none")[..., 0, 0]

    def formula(**parts):
        x, params, off = (_stack(parts, name) for name in ("x", "params", "off"))
        logits = params[:components]
        shifted = mixture(x, torch.cat([logits + off, params[components:]]))
        return shifted + (logits + off).logsumexp(0) - logits.logsumexp(0) + 0 * x.sum(0)

    def exponents(**parts):
        x, params = _stack(parts, "x"), _stack(parts, "params")
        weight = params[:components].log_softmax(0)
        # Three colours' logarithms of the width of a bin.
        return torch.stack([weight[k].abs() + mixture(x, params[k::components]).abs() + 15 for k in range(components)])

    def parts(t):
        colours = t["x"] * 2 / 255 - 1 if x.dtype == torch.uint8 else t["x"]
        return _numbered("x", colours, -3) | _numbered("params", t["params"], -3)

    return _call(
        "discretized_logistic_mixture_log_prob",
        tensors,
        options,
        formula,
        (*samples, *batch, *image),
        2,
        parts=parts,
        exponents=exponents,
        logits="params",
        beside_1=tuple(f"params{k}" for k in range(10 * components) if x.dtype == torch.uint8 and is_mean(k)),
    )


BUILDERS = (categorical_log_prob, mixture_log_prob, discretized_logistic_mixture_log_prob)
