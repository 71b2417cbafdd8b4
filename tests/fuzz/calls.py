"""A random call of a public function and its expected result: sums of elementwise formulas.

Each builder takes a :class:`~fuzz.drawing.Draw` and gives a :class:`Call`. A public function is one more builder.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from noise_definition import normals
from torch import Tensor

import aevb_ext
from aevb_ext import compat, reference
from aevb_ext.distributions import Bernoulli, DiagonalGaussian
from aevb_ext.nn import ELBO, BernoulliDecoder

from .drawing import DATA_DTYPES, DTYPES, Draw
from .exact import Bounded, Elementwise, elementwise

X_SCALES = {torch.uint8: 1 / 255, torch.bool: 1.0}


@dataclass(frozen=True)
class Term:
    """An elementwise formula of some of the call's tensors, expanded to a shape; and what becomes of its elements."""

    formula: Callable
    names: tuple[str, ...]
    shape: torch.Size
    reduce: Callable
    noise: tuple[Tensor, Tensor] | None = None  # that the formula takes too, and what its rounding errors are of


@dataclass(frozen=True)
class Result:
    """The sum of its terms, in a dtype."""

    terms: tuple[Term, ...]
    dtype: torch.dtype
    same_bits: bool = False  # whatever the layout


@dataclass(frozen=True)
class Call:
    """`function(**tensors)` gives the results, of arithmetic in `wide`."""

    name: str
    function: Callable
    tensors: dict[str, Tensor]
    results: tuple[Result, ...]
    wide: torch.dtype
    about: dict = field(default_factory=dict)  # the options, for messages

    def __str__(self):
        given = ", ".join(f"{n} {str(t.dtype)[6:]} {list(t.shape)} {t.stride()}" for n, t in self.tensors.items())
        about = (f"{k}={list(v.shape) if isinstance(v, Tensor) else v}" for k, v in self.about.items())
        return f"{self.name}({given}; {', '.join(about)})"

    @functools.cached_property
    def terms(self) -> list[list[tuple[Term, Elementwise]]]:
        """Of each result: its terms, and their elements."""
        eps = torch.finfo(self.wide).eps

        def elements(term):
            operands, sizes = {name: self.double(name).expand(term.shape) for name in term.names}, {}
            if term.noise is not None:
                operands["noise"], sizes["noise"] = term.noise
            return elementwise(term.formula, operands, eps, sizes)

        return [[(term, elements(term)) for term in result.terms] for result in self.results]

    def double(self, name: str) -> Tensor:
        return self.tensors[name].detach().double()

    def values(self) -> list[Bounded]:
        """What the results should be."""
        return [functools.reduce(Bounded.plus, (of.value.reduced(t.reduce) for t, of in terms)) for terms in self.terms]

    def gradients(self, cotangents: list[Tensor]) -> dict[str, Bounded]:
        """What the gradient by each tensor should be, for these cotangents of the results."""
        total = {name: Bounded(torch.zeros(t.shape).double(), torch.zeros(t.shape)) for name, t in self.tensors.items()}
        for terms, cotangent in zip(self.terms, cotangents, strict=True):
            for term, of in terms:
                asked = weights(term, cotangent)
                for name in term.names:
                    one = of.gradients[name].times(asked)
                    total[name] = total[name].plus(one.reduced(lambda t, s=self.tensors[name].shape: t.sum_to_size(s)))
        return total


def weights(term: Term, cotangent: Tensor) -> Tensor:
    """The cotangent of each of the term's elements."""
    elements = torch.zeros(term.shape, dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(term.reduce(elements), elements, cotangent.double())[0]


def wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def by_rows(reduction: str, event_dims: int) -> Callable:
    return lambda elements: reference._reduce(elements, event_dims, reduction)


def _options(draw: Draw, batch: tuple) -> dict:
    reduction = draw.one_of(("sample", "none", "sum", "mean"))
    return {"reduction": reduction, "batch_dims": len(batch)}


def _spread_shape(draw: Draw, batch: tuple, event: tuple) -> tuple:
    """A shape that broadcasts to batch + event: full, a number, per feature, per channel, per data point."""
    ones = (1,) * len(event)
    shapes = [batch + event] * 3 + [(), event, event[:1] + ones[1:], batch + ones]
    return draw.one_of(shapes)


def _data(draw: Draw, shape: tuple, dtype: torch.dtype, values: Callable) -> tuple[Tensor, float]:
    """x of any dtype, and what it is multiplied by."""
    x_dtype = draw.one_of((dtype, dtype, *DATA_DTYPES))
    if not x_dtype.is_floating_point:
        return draw.lie((255 * draw.unit(shape)).round().to(x_dtype)), X_SCALES[x_dtype]
    return draw.lie(draw.as_dtype(values(shape), x_dtype)), draw.one_of((1.0, 0.75))


class _OfProbs(torch.autograd.Function):
    """log p(x | p), no logarithm less than -100, no variance in the gradient less than 1e-12 (PyTorch's is 1e-12f)."""

    @staticmethod
    def forward(ctx, x, p):
        ctx.save_for_backward(x, p)
        log_p, log_not_p = _OfProbs.logarithms(p)
        return x * log_p + (1 - x) * log_not_p

    @staticmethod
    def logarithms(p):
        return p.log().clamp_min(-100), (-p).log1p().clamp_min(-100)

    @staticmethod
    def backward(ctx, cotangent):
        x, p = ctx.saved_tensors
        log_p, log_not_p = _OfProbs.logarithms(p)
        return cotangent * (log_p - log_not_p), cotangent * (x - p) / (p * (1 - p)).clamp_min(1e-12)


_of_probs = _OfProbs.apply


# The operators.


def gaussian_kl(draw: Draw) -> Call:
    _, batch, event = draw.shapes()
    dtype, options = draw.one_of(DTYPES), _options(draw, batch)
    shape = batch + event
    s, spread = draw.spread(draw.log_variance(_spread_shape(draw, batch, event)), dtype)
    tensors = {"mu": draw.lie(draw.as_dtype(draw.number(shape), dtype)), "logvar": draw.lie(s)}
    if draw.often(0.4):
        tensors["prior_mu"] = draw.lie(draw.as_dtype(draw.number(_spread_shape(draw, batch, event)), dtype))
    if draw.often(0.4):
        v = draw.log_variance(_spread_shape(draw, batch, event))
        if draw.often(0.3):  # near the posterior
            v = reference._logvar(s.double(), spread)
            v = v * (1 + 1e-3 * draw.normal(v.shape))
        tensors["prior_logvar"] = draw.lie(draw.in_spread(v, spread, dtype))

    def formula(mu, logvar, prior_mu=None, prior_logvar=None):
        return reference.gaussian_kl(
            mu, logvar, prior_mu, prior_logvar, spread=spread, reduction="none", batch_dims=len(batch)
        )

    options["spread"] = spread
    term = Term(formula, tuple(tensors), torch.Size(shape), by_rows(options["reduction"], len(event)))
    return Call(
        "gaussian_kl",
        lambda **t: aevb_ext.gaussian_kl(**t, **options),
        tensors,
        (Result((term,), wide(dtype)),),
        wide(dtype),
        options,
    )


def _of_logits(x: Tensor, logits: Tensor) -> Tensor:
    return reference.bernoulli_log_prob(x, logits, reduction="none")


def bernoulli_log_prob(draw: Draw) -> Call:
    return _bernoulli(draw, "bernoulli_log_prob", "logits", draw.number, _of_logits)


def bernoulli_log_prob_of_probs(draw: Draw) -> Call:
    return _bernoulli(draw, "bernoulli_log_prob_of_probs", "probs", draw.probability, _of_probs)


def _bernoulli(draw: Draw, name: str, parameter: str, values: Callable, formula: Callable) -> Call:
    samples, batch, event = draw.shapes()
    dtype, options = draw.one_of(DTYPES), _options(draw, batch)
    x, options["x_scale"] = _data(draw, batch + event, dtype, draw.unit)
    tensors = {"x": x, parameter: draw.lie(draw.as_dtype(values(samples + batch + event), dtype))}
    term = Term(
        lambda x, **t: formula(x * options["x_scale"], t[parameter]),
        tuple(tensors),
        torch.Size(samples + batch + event),
        by_rows(options["reduction"], len(event)),
    )
    results = (Result((term,), wide(dtype)),)
    return Call(name, lambda **t: getattr(aevb_ext, name)(**t, **options), tensors, results, wide(dtype), options)


def gaussian_log_prob(draw: Draw) -> Call:
    samples, batch, event = draw.shapes()
    dtype, options = draw.one_of(DTYPES), _options(draw, batch)
    x, options["x_scale"] = _data(draw, batch + event, dtype, draw.number)
    shape = samples + batch + event
    s, options["spread"] = draw.spread(draw.log_variance(_spread_shape(draw, samples + batch, event)), dtype)
    tensors = {"x": x, "mu": draw.lie(draw.as_dtype(draw.number(shape), dtype)), "logvar": draw.lie(s)}
    term = Term(
        lambda **t: reference.gaussian_log_prob(
            **t, x_scale=options["x_scale"], spread=options["spread"], reduction="none"
        ),
        tuple(tensors),
        torch.Size(shape),
        by_rows(options["reduction"], len(event)),
    )
    results = (Result((term,), wide(dtype)),)
    call = lambda **t: aevb_ext.gaussian_log_prob(**t, **options)  # noqa: E731
    return Call("gaussian_log_prob", call, tensors, results, wide(dtype), options)


def _noise(draw: Draw, batch: tuple, event: tuple, dtype: torch.dtype):
    """A key or keys and what is drawn by them; the noise in float64, ``[*samples, *batch, *event]``, and its radius."""
    keys_of = batch[: draw.choice.randint(0, len(batch))] if draw.often(0.3) else ()
    key = draw.key(keys_of)
    n_samples = draw.one_of((None, None, 1, 2, 3))
    first = draw.one_of((0, 0, 1, 5))
    shape = batch[len(keys_of) :] + event
    count, of_one = (n_samples or 1), math.prod(shape)
    skip = first * of_one % 4
    each = [
        normals(k, (skip + count * of_one,), uniforms=wide(dtype), start=first * of_one // 4)
        for k in key.reshape(-1, 2)
    ]

    def together(drawn):
        samples = torch.stack([t[skip:].reshape(count, *shape) for t in drawn], 1) if drawn else torch.empty(0)
        return samples.double().reshape((*((n_samples,) if n_samples else ()), *batch, *event))

    noise = tuple(together(drawn) for drawn in (zip(*each, strict=True) if each else ((), ())))
    return {"key": key, "n_samples": n_samples, "first_sample": first}, noise


def _sample(spread: str) -> Callable:
    sigma = {"logvar": lambda s: (0.5 * s).exp(), "log_std": torch.exp, "std": lambda s: s, "var": torch.sqrt}[spread]

    def formula(mu, logvar, noise):
        return mu + sigma(logvar) * noise

    return formula


def _sampler(draw: Draw, name: str) -> Call:
    _, batch, event = draw.shapes()
    dtype = draw.one_of(DTYPES)
    keys, noise = _noise(draw, batch, event, dtype)
    s, spread = draw.spread(draw.log_variance(_spread_shape(draw, batch, event)), dtype)
    tensors = {"mu": draw.lie(draw.as_dtype(draw.number(batch + event), dtype)), "logvar": draw.lie(s)}
    z = Term(_sample(spread), tuple(tensors), noise[0].shape, lambda elements: elements, noise)
    options = keys | {"spread": spread}
    results = [Result((z,), dtype, same_bits=True)]
    if name == "rsample_kl":
        options |= _options(draw, batch)
        # Keys of data points are of the batch.
        kl = Term(
            lambda mu, logvar: reference.gaussian_kl(mu, logvar, spread=spread, reduction="none", batch_dims=0),
            tuple(tensors),
            torch.Size(batch + event),
            by_rows(options["reduction"], len(event)),
        )
        results.append(Result((kl,), wide(dtype)))
    call = lambda **t: getattr(aevb_ext, name)(**t, **options)  # noqa: E731
    return Call(name, call, tensors, tuple(results), wide(dtype), options)


def rsample(draw: Draw) -> Call:
    return _sampler(draw, "rsample")


def rsample_kl(draw: Draw) -> Call:
    return _sampler(draw, "rsample_kl")


# PyTorch's losses, against PyTorch's own in float64.


def _loss(draw: Draw, name: str, tensors: dict, options: dict, formula: Callable, dtype: torch.dtype) -> Call:
    shape = tensors["input"].shape
    reduction = options["reduction"] = draw.one_of(("mean", "sum", "none"))
    reduce = (lambda elements: elements) if reduction == "none" else (lambda elements: getattr(elements, reduction)())
    result = Result((Term(formula, tuple(tensors), shape, reduce),), dtype)
    call = lambda **t: getattr(compat, name)(**t, **options)  # noqa: E731
    return Call(f"compat.{name}", call, tensors, (result,), wide(dtype), options)


def _loss_tensors(draw: Draw, values: Callable) -> tuple[dict, torch.dtype]:
    _, batch, event = draw.shapes()
    dtype = draw.one_of(DTYPES)
    target, _ = _data(draw, batch + event, dtype, draw.unit)
    if target.dtype == torch.uint8:
        target = target.clamp(max=1)
    tensors = {"input": draw.lie(draw.as_dtype(values(batch + event), dtype)), "target": target}
    return tensors, torch.promote_types(dtype, target.dtype) if target.is_floating_point() else dtype


def _weight(draw: Draw, tensors: dict, name: str) -> None:
    if draw.often(0.25):
        shape = tensors["input"].shape
        shape = draw.one_of((shape, shape[-1:], ()))
        tensors[name] = draw.as_dtype(0.1 + draw.uniform(shape), tensors["input"].dtype)


def binary_cross_entropy_with_logits(draw: Draw) -> Call:
    tensors, dtype = _loss_tensors(draw, draw.number)
    for name in ("weight", "pos_weight"):
        _weight(draw, tensors, name)

    def formula(input, target, weight=1.0, pos_weight=1.0):
        # As PyTorch has it, but that the two terms of pos_weight do not cancel.
        losses = -pos_weight * target * F.logsigmoid(input) - (1 - target) * F.logsigmoid(-input)
        return weight * losses

    return _loss(draw, "binary_cross_entropy_with_logits", tensors, {}, formula, dtype)


def binary_cross_entropy(draw: Draw) -> Call:
    tensors, dtype = _loss_tensors(draw, draw.probability)
    _weight(draw, tensors, "weight")

    def formula(input, target, weight=1.0):
        return -weight * _of_probs(target, input)

    return _loss(draw, "binary_cross_entropy", tensors, {}, formula, dtype)


def gaussian_nll_loss(draw: Draw) -> Call:
    tensors, dtype = _loss_tensors(draw, draw.number)
    shape, eps = tensors["input"].shape, 2.0**-10
    var_shape = draw.one_of((shape, shape, (*shape[:-1], 1) if shape else shape))
    tensors["var"] = draw.as_dtype(draw.log_variance(var_shape).clamp(-20, 10).exp(), tensors["input"].dtype)
    options = {"full": draw.often(0.5), "eps": eps}

    def formula(input, target, var):
        floored = var + (var.clamp_min(eps) - var).detach()
        return F.gaussian_nll_loss(input, target, floored, options["full"], 0.0, reduction="none")

    return _loss(draw, "gaussian_nll_loss", tensors, options, formula, dtype)


def vae_loss(draw: Draw) -> Call:
    _, batch, event = draw.shapes()
    dtype = draw.one_of(DTYPES)
    tensors = {
        "recon_x": draw.lie(draw.as_dtype(draw.probability(batch + event), dtype)),
        "x": draw.lie(draw.as_dtype(draw.unit(batch + event), dtype)),
        "mu": draw.lie(draw.as_dtype(draw.number((3, 4)), dtype)),
        "logvar": draw.lie(draw.as_dtype(draw.log_variance((3, 4)), dtype)),
    }
    total = torch.sum
    reconstruction = Term(
        lambda recon_x, x: -_of_probs(x, recon_x),
        ("recon_x", "x"),
        torch.Size(batch + event),
        total,
    )
    kl = Term(lambda mu, logvar: reference.gaussian_kl(mu, logvar, reduction="none"), ("mu", "logvar"), (3, 4), total)
    result = Result((reconstruction, kl), wide(dtype))
    return Call("compat.vae_loss", lambda **t: compat.vae_loss(**t), tensors, (result,), wide(dtype))


def reparameterize(draw: Draw) -> Call:
    _, batch, event = draw.shapes()
    dtype, seed = draw.one_of(DTYPES), draw.choice.randrange(2**31)
    torch.manual_seed(seed)
    noise = normals(aevb_ext.noise_key(), batch + event, uniforms=wide(dtype))
    tensors = {
        "mu": draw.lie(draw.as_dtype(draw.number(batch + event), dtype)),
        # Of a broadcast half PyTorch adds up gradients that are rounded already.
        "logvar": draw.lie(draw.as_dtype(draw.log_variance(batch + event), dtype)),
    }

    def call(**tensors):
        torch.manual_seed(seed)
        return compat.reparameterize(**tensors)

    z = Term(_sample("logvar"), tuple(tensors), torch.Size(batch + event), lambda elements: elements, noise)
    return Call("compat.reparameterize", call, tensors, (Result((z,), dtype, same_bits=True),), wide(dtype))


# Distributions, and the bound.


def diagonal_gaussian(draw: Draw) -> Call:
    _, batch, event = draw.shapes()
    dtype = draw.one_of(DTYPES)
    s, spread = draw.spread(draw.log_variance(_spread_shape(draw, batch, event)), dtype)
    tensors = {"mu": draw.lie(draw.as_dtype(draw.number(batch + event), dtype)), "logvar": draw.lie(s)}
    method = draw.one_of(("log_prob", "kl", "entropy"))

    def formula(logvar, mu=None, value=None):
        v = reference._logvar(logvar, spread)
        match method:
            case "log_prob":
                return reference.gaussian_log_prob(value, mu, v, reduction="none")
            case "kl":
                return reference.gaussian_kl(mu, v, reduction="none")
            case _:
                return 0.5 * (1 + math.log(2 * math.pi) + v)

    shape = torch.Size(batch + event)
    if method == "log_prob":
        samples = draw.one_of(((), (), (2,)))
        shape = torch.Size(samples) + shape
        tensors["value"] = draw.lie(draw.as_dtype(draw.number(shape), dtype))

    def call(mu, logvar, value=None):
        q = DiagonalGaussian(mu, logvar, spread=spread, batch_dims=len(batch))
        return q.log_prob(value) if method == "log_prob" else getattr(q, method)()

    names = ("logvar",) if method == "entropy" else tuple(tensors)
    term = Term(formula, names, shape, by_rows("sample", len(event)))
    result = Result((term,), wide(dtype))
    return Call(f"DiagonalGaussian.{method}", call, tensors, (result,), wide(dtype), {"spread": spread})


def bernoulli(draw: Draw) -> Call:
    _, batch, event = draw.shapes()
    dtype, parameter = draw.one_of(DTYPES), draw.one_of(("logits", "probs"))
    values = draw.number if parameter == "logits" else draw.probability
    tensors = {
        parameter: draw.lie(draw.as_dtype(values(batch + event), dtype)),
        "value": draw.lie(draw.as_dtype(draw.unit(batch + event).round(), dtype)),
    }
    formula = _of_logits if parameter == "logits" else _of_probs
    term = Term(
        lambda value, **t: formula(value, t[parameter]),
        tuple(tensors),
        torch.Size(batch + event),
        by_rows("sample", len(event)),
    )

    def call(value, **parameters):
        return Bernoulli(**parameters, batch_dims=len(batch)).log_prob(value)

    return Call(f"Bernoulli({parameter}).log_prob", call, tensors, (Result((term,), wide(dtype)),), wide(dtype))


def elbo(draw: Draw) -> Call:
    """One sample, the decoder's logits being z: the bound is a reconstruction minus the KL divergence."""
    size, width, dtype = draw.one_of(SIZES_OF_ROWS), draw.one_of(SIZES_OF_ROWS), draw.one_of(DTYPES[:3])
    key, beta = draw.key(), draw.one_of((1.0, 0.25))
    noise = normals(key, (size, width), uniforms=wide(dtype))
    tensors = {
        "mu": draw.lie(draw.as_dtype(draw.number((size, width)), dtype)),
        "logvar": draw.lie(draw.as_dtype(draw.log_variance((size, width)), dtype)),
        "x": draw.lie(draw.as_dtype(draw.unit((size, width)), dtype)),
    }
    sample = _sample("logvar")

    def formula(mu, logvar, x, noise):
        reconstruction = reference.bernoulli_log_prob(x, sample(mu, logvar, noise), reduction="none")
        return reconstruction - beta * reference.gaussian_kl(mu, logvar, reduction="none")

    def call(mu, logvar, x):
        terms = ELBO(beta=beta)(x, DiagonalGaussian(mu, logvar), BernoulliDecoder(torch.nn.Identity()), key=key)
        return terms.bound

    term = Term(formula, tuple(tensors), torch.Size((size, width)), by_rows("sample", 1), noise)
    return Call("nn.ELBO", call, tensors, (Result((term,), wide(dtype)),), wide(dtype), {"beta": beta})


SIZES_OF_ROWS = (1, 2, 3, 7, 16, 33)

BUILDERS = (
    gaussian_kl,
    gaussian_kl,
    bernoulli_log_prob,
    bernoulli_log_prob_of_probs,
    gaussian_log_prob,
    gaussian_log_prob,
    rsample,
    rsample_kl,
    binary_cross_entropy_with_logits,
    binary_cross_entropy,
    gaussian_nll_loss,
    vae_loss,
    reparameterize,
    diagonal_gaussian,
    bernoulli,
    elbo,
)
