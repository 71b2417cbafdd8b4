"""Numerical failures of usual formulas: a case for each common complaint in VAE repositories.

Every case says what people write, what that gives, what is true (in 60 digits) and what we give; that the complaint is
real is tested as well. `python tests/test_numbers.py` writes docs/numbers.md, the same numbers as a table.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mpmath
import pytest
import torch
import torch.nn.functional as F
from mpmath import mpf
from torch import distributions
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributions import kl_divergence

import aevb_ext
from aevb_ext import compat
from aevb_ext.distributions import DiagonalGaussian
from aevb_ext.nn import ELBO

DOCUMENT = Path(__file__).parents[1] / "docs" / "numbers.md"
HALF = 2.0**-8  # what is rounded once to bfloat16; enough for float16


@dataclass(frozen=True)
class Row:
    """What people write gives `theirs` (a number, or the name of an exception) of what is `given`."""

    wrote: str
    given: str
    theirs: float | str
    ours: float
    exact: float
    within: float = 1e-6  # what ours may be off by, relatively
    both_right: bool = False


# They check their arguments, until something is compiled: that switches it off in the whole process.
Bernoulli = partial(distributions.Bernoulli, validate_args=True)
Normal = partial(distributions.Normal, validate_args=True)

CASES: dict[str, Callable[[], Iterator[Row]]] = {}


def case(title: str):
    def register(rows):
        CASES[title] = rows
        return rows

    return register


def number(function) -> float | str:
    """What it gives, or the name of what it raises."""
    try:
        return float(function())
    except (RuntimeError, ValueError) as error:
        return type(error).__name__


def gradient(function, at: torch.Tensor, *, cotangent: float = 1.0) -> float:
    """That of a function of one element, by it."""
    leaf = at.detach().requires_grad_()
    value = function(leaf)
    return torch.autograd.grad(value, leaf, torch.full_like(value, cotangent))[0].item()


def column(number: float, dtype=torch.float32) -> torch.Tensor:
    return torch.tensor([[number]], dtype=dtype)


# The KL divergence to N(0, I), as it is written.


def example_kl(mu, logvar):
    return -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())


def diffusers_kl(mu, logvar):
    return 0.5 * torch.sum(mu.pow(2) + logvar.exp() - 1.0 - logvar)


def torch_kl(mu, logvar):
    return kl_divergence(Normal(mu, torch.exp(0.5 * logvar)), Normal(0.0, 1.0)).sum()


EXAMPLE_KL = "-0.5 * sum(1 + logvar - mu.pow(2) - logvar.exp())"
DIFFUSERS_KL = "0.5 * sum(mu.pow(2) + logvar.exp() - 1 - logvar)"
TORCH_KL = "kl_divergence(Normal(mu, std), Normal(0, 1))"


def exact_kl(mu, logvar):
    mu, v = mpf(float(mu)), mpf(float(logvar))
    return (mpmath.expm1(v) - v + mu * mu) / 2


def our_kl(mu, logvar, **options):
    return aevb_ext.gaussian_kl(mu, logvar, **options).sum()


@case("KL near the prior")
def kl_near_the_prior():
    """Every difference of e^v, 1 and v cancels there. An encoder that has learnt nothing yet, or a collapsed dimension,
    gets a divergence of the wrong size or sign, and its beta, its free bits or its capacity act on noise."""
    mu, logvar = column(0.02, torch.bfloat16), column(-0.01, torch.bfloat16)
    given, exact = "bfloat16, mu .02, logvar -.01", exact_kl(mu, logvar)
    for wrote, function in ((DIFFUSERS_KL, diffusers_kl), (EXAMPLE_KL, example_kl)):
        yield Row(wrote, given, number(lambda f=function: f(mu, logvar)), number(lambda: our_kl(mu, logvar)), exact)
    slope = mpmath.expm1(mpf(logvar.item())) / 2
    theirs, ours = (gradient(lambda v, f=f: f(mu, v), logvar) for f in (example_kl, our_kl))
    yield Row(EXAMPLE_KL, f"{given}: gradient by logvar", theirs, ours, slope, HALF)

    mu = logvar = column(1e-4)
    given, exact = "float32, mu 1e-4, logvar 1e-4", exact_kl(mu, logvar)
    for wrote, function in ((TORCH_KL, torch_kl), (EXAMPLE_KL, example_kl)):
        yield Row(wrote, given, number(lambda f=function: f(mu, logvar)), number(lambda: our_kl(mu, logvar)), exact)
    std = column(1.0001)
    yield Row(
        "0.5 * sum(std.pow(2) - 1 - 2 * std.log())",
        "float32, mu 0, std 1.0001",
        number(lambda: 0.5 * torch.sum(std.pow(2) - 1 - 2 * std.log())),
        number(lambda: our_kl(torch.zeros_like(std), std, spread="std")),
        (mpf(std.item()) ** 2 - 1) / 2 - mpmath.log(mpf(std.item())),
    )


@case("KL of many latents in float16")
def kl_of_large_latents():
    """Its numbers end at 65504, which the divergence of a 4 x 64 x 64 latent exceeds. Ours comes in float32."""
    mu, logvar = torch.full((1, 4, 64, 64), 3.0, dtype=torch.float16), torch.ones(1, 4, 64, 64, dtype=torch.float16)
    exact = mu.numel() * exact_kl(3, 1)
    theirs, ours = (number(lambda f=f: f(mu, logvar)) for f in (diffusers_kl, our_kl))
    yield Row(DIFFUSERS_KL, "float16 [1, 4, 64, 64], mu 3, logvar 1", theirs, ours, exact, 1e-5)


@case("Variance in float16")
def variance_in_half_precision():
    """e^12 is no number of float16, also where the divergence and its gradient are."""
    mu, logvar = column(0.0, torch.float16), column(11.5, torch.float16)
    given = "float16, mu 0, logvar 11.5"
    theirs, ours = (number(lambda f=f: f(mu, logvar)) for f in (diffusers_kl, our_kl))
    yield Row(DIFFUSERS_KL, given, theirs, ours, exact_kl(0, 11.5))
    theirs, ours = (gradient(lambda v, f=f: f(mu, v), logvar) for f in (diffusers_kl, our_kl))
    yield Row(DIFFUSERS_KL, f"{given}: gradient by logvar", theirs, ours, mpmath.expm1(11.5) / 2, HALF)


@case("logvar overflows")
def logvar_overflows():
    """A divergence that is too large for float32 is infinite, and so is its gradient: that is what they round to, and
    GradScaler sees it. But it is never NaN, and where nobody asks for it (a mask, a decoder that does not look at z)
    its gradient is zero, so that the row can be left out and the step goes on. Who wants it finite clamps logvar: the
    divergence is then that at the bound, and the gradient zero beyond it, also from infinity; softly, some gradient is
    left to come back by."""
    mu = column(0.0)
    for value in (88.0, 1e4, math.inf):
        logvar, given = column(value), f"float32, mu 0, logvar {value:g}"
        exact = exact_kl(0, value) if value == 88 else math.inf
        right = value < math.inf
        theirs, ours = (number(lambda f=f, v=logvar: f(mu, v)) for f in (example_kl, our_kl))
        yield Row(EXAMPLE_KL, given, theirs, ours, exact, 1e-5, both_right=right)
        exact = mpmath.expm1(value) / 2 if value == 88 else math.inf
        theirs, ours = (gradient(lambda v, f=f: f(mu, v), logvar) for f in (example_kl, our_kl))
        yield Row(EXAMPLE_KL, f"{given}: gradient by logvar", theirs, ours, exact, 1e-5, both_right=True)

    def masked(kl):
        return torch.where(kl.isfinite(), kl, 0.0)

    for value in (1e4, math.inf):
        theirs, ours = (gradient(lambda v, f=f: masked(f(mu, v)), column(value)) for f in (example_kl, our_kl))
        given = f"float32, mu 0, logvar {value:g}: gradient by logvar"
        yield Row("torch.where(kl.isfinite(), kl, 0)", given, theirs, ours, 0.0)
    theirs, ours = (
        gradient(f, column(1e4), cotangent=0.0)
        for f in (lambda v: mu + torch.exp(0.5 * v) * torch.randn_like(v), lambda v: compat.reparameterize(mu, v))
    )
    given = "float32, logvar 1e4: gradient by logvar of a loss that does not depend on z"
    yield Row("mu + torch.exp(0.5 * logvar) * torch.randn_like(mu)", given, theirs, ours, 0.0)

    low, high = -30, 20

    def clamped(v):
        return example_kl(mu, torch.clamp(v, low, high))

    def our_clamped(v, **options):
        return DiagonalGaussian.from_params(torch.cat([mu, v], 1), clamp=(low, high), **options).kl()

    for value in (88.0, 1e4, math.inf):
        logvar, given, wrote = (
            column(value),
            f"float32, mu 0, logvar {value:g}",
            f"{EXAMPLE_KL} of logvar.clamp(-30, 20)",
        )
        theirs, ours = (number(lambda f=f, v=logvar: f(v)) for f in (clamped, our_clamped))
        yield Row(wrote, given, theirs, ours, exact_kl(0, high), both_right=True)
        theirs, ours = (gradient(f, logvar) for f in (clamped, our_clamped))
        yield Row(wrote, f"{given}: gradient by logvar", theirs, ours, 0.0, both_right=True)
    theirs, ours = gradient(clamped, column(25.0)), gradient(lambda v: our_clamped(v, soft=True), column(25.0))
    below = 1 / (mpmath.exp(-25) + mpmath.exp(-high) / (1 - mpmath.exp(low - high)))
    soft, slope = mpmath.log(mpmath.exp(low) + below), mpmath.exp(-25) * below**2 / (mpmath.exp(low) + below)
    given = "float32, mu 0, logvar 25: gradient by logvar; ours soft"
    yield Row(f"{EXAMPLE_KL} of logvar.clamp(-30, 20)", given, theirs, ours, slope * mpmath.expm1(soft) / 2, 1e-5)


@case("Logits at the wrong end")
def logits_at_the_wrong_end():
    """After a sigmoid in float32 a logit beyond 17 is lost: what should cost as much as the logit costs 100 or
    infinity, and the gradient that would bring it back is zero or NaN."""

    def cross_entropy(x, logits):
        return F.binary_cross_entropy(torch.sigmoid(logits), x)

    def by_logarithms(x, logits):
        return written_out(x, torch.sigmoid(logits))

    formulations = (
        ("F.binary_cross_entropy(sigmoid(logits), x)", cross_entropy),
        ("-(x * p.log() + (1 - x) * (1 - p).log()), p = sigmoid(logits)", by_logarithms),
    )
    for target, logit in ((1.0, -1e4), (0.0, 1e4), (0.0, 20.0)):
        x, logits = column(target), column(logit)
        ours = number(lambda x=x, logits=logits: compat.binary_cross_entropy_with_logits(logits, x))
        our_slope = gradient(lambda v, x=x: compat.binary_cross_entropy_with_logits(v, x), logits)
        sign, exact = (1 if logit > 0 else -1), mpmath.log1p(mpmath.exp(abs(logit)))
        slope = sign / (1 + mpmath.exp(-abs(logit)))
        for wrote, function in formulations:
            given = f"float32, x {target:g}, logit {logit:g}"
            yield Row(wrote, given, number(lambda f=function, x=x, v=logits: f(x, v)), ours, exact)
            theirs = gradient(lambda v, f=function, x=x: f(x, v), logits)
            yield Row(wrote, f"{given}: gradient", theirs, our_slope, slope)


def written_out(x, p, eps=0.0):
    return -(x * torch.log(p + eps) + (1 - x) * torch.log(1 - p + eps)).sum()


def our_loss(x, p):
    return -aevb_ext.bernoulli_log_prob_of_probs(x, p).sum()


@case("Probabilities of 0 and 1")
def certain_probabilities():
    """0 times the logarithm of 0 is NaN. The usual cure, a small number inside the logarithm, is nothing in half
    precision, and changes the loss where it is something. Ours has PyTorch's clamp of the logarithm at -100, and the
    gradient that PyTorch has in float32 and float64, in every dtype up to its largest number."""
    wrote = "-(x * p.log() + (1 - x) * (1 - p).log())"
    for p in (0.0, 1.0):
        x, probs = column(p), column(p)
        theirs, ours = (number(lambda f=f, x=x, p=probs: f(x, p)) for f in (written_out, our_loss))
        yield Row(wrote, f"float32, x {p:g}, p {p:g}", theirs, ours, 0.0)

    half, wrote = column(1.0, torch.float16), "-(x * (p + eps).log() + (1 - x) * (1 - p + eps).log())"
    theirs, ours = number(lambda: written_out(half, half, 1e-8)), number(lambda: our_loss(half, half))
    yield Row(wrote, "float16, x 1, p 1, eps 1e-8", theirs, ours, 0.0)
    x, p = column(1.0), column(1e-10)
    theirs, ours = number(lambda: written_out(x, p, 1e-5)), number(lambda: our_loss(x, p))
    yield Row(wrote, "float32, x 1, p 1e-10, eps 1e-5", theirs, ours, -mpmath.log(mpf(p.item())))

    theirs = gradient(lambda p: F.binary_cross_entropy(p, half), half)
    ours = gradient(lambda p: compat.binary_cross_entropy(p, half), half)
    exact = gradient(lambda p: F.binary_cross_entropy(p, half.double()), half.double())
    yield Row("F.binary_cross_entropy(p, x)", "float16, x 1, p 1: gradient (true: in float64)", theirs, ours, exact)


@case("Sure probabilities in float16")
def sure_probabilities_in_float16():
    """float16 ends at 65504, and between 0.9995 and 1 it has nothing: the gradient by a sure probability overflows, the
    sigmoid's backward multiplies it by zero, and one such pixel makes GradScaler skip every step. A gradient that
    float32 has and its own dtype has not is the dtype's largest number, in every operator here; and a float16 sigmoid
    gets from our loss what that bound takes from it, and is differentiated as if it had the logits. (What lies between
    the sigmoid and the loss may be views and casts. After other operations the gradient is bounded and no more.)"""
    for logit, target in ((9.0, 0.9), (-18.0, 0.2), (-12.0, 0.5)):
        logits, x = column(logit), column(target)
        theirs, ours = (
            gradient(lambda v, f=f, x=x: f(torch.sigmoid(v.half()), x).float(), logits)
            for f in (lambda p, x: F.binary_cross_entropy(p, x.half()), compat.binary_cross_entropy)
        )
        exact = 1 / (1 + mpmath.exp(-mpf(logit))) - mpf(x.item())
        given = f"float16, x {target:g}, logit {logit:g}: gradient"
        yield Row("F.binary_cross_entropy(sigmoid(logits), x)", given, theirs, ours, exact, 2e-3)


@case("Weighted positives")
def weighted_positives():
    """log(1 - p) is taken as the difference of the logit and log p, of which nothing is left when p is small."""
    x, logits, weight = column(0.0), column(-20.0), torch.tensor(2.0)
    theirs, ours = (
        number(lambda m=m: m.binary_cross_entropy_with_logits(logits, x, pos_weight=weight)) for m in (F, compat)
    )
    wrote = "F.binary_cross_entropy_with_logits(logits, x, pos_weight=w)"
    yield Row(wrote, "float32, x 0, logit -20, w 2", theirs, ours, mpmath.log1p(mpmath.exp(-20)))


@case("Targets that are grey, bytes or booleans")
def targets():
    """Pixels are bytes, and grey ones are targets as the paper has it; both are refused, or wrap around unseen."""
    probs = column(0.75)
    logits, p = torch.logit(probs), mpf(0.75)
    grey, byte, true = column(0.5), torch.tensor([[255]], dtype=torch.uint8), torch.tensor([[True]])
    wrote = "Bernoulli(logits=logits).log_prob(x)"
    theirs = number(lambda: Bernoulli(logits=logits).log_prob(grey))
    ours = number(lambda: aevb_ext.bernoulli_log_prob(grey, logits))
    yield Row(wrote, "x .5, p .75", theirs, ours, (mpmath.log(p) + mpmath.log(1 - p)) / 2)
    theirs = number(lambda: -written_out(byte, probs))
    ours = number(lambda: aevb_ext.bernoulli_log_prob_of_probs(byte, probs, x_scale=1 / 255))
    yield Row("x * p.log() + (1 - x) * (1 - p).log()", "x uint8 255 (white), p .75", theirs, ours, mpmath.log(p))
    for name, x, scale in (("uint8 255 (white)", byte, 1 / 255), ("bool True", true, 1.0)):
        theirs = number(lambda x=x: -F.binary_cross_entropy_with_logits(logits, x))
        ours = number(lambda x=x, scale=scale: aevb_ext.bernoulli_log_prob(x, logits, x_scale=scale))
        yield Row("-F.binary_cross_entropy_with_logits(logits, x)", f"x {name}, p .75", theirs, ours, mpmath.log(p))


@case("Small variances of the decoder")
def small_variances():
    """A floor of 1e-6 under the variance changes the likelihood of data that are reconstructed well. Without one, a
    variance that is 0 in float32 gives 0 / 0 where the mean is right. In terms of logvar nothing needs a floor. The
    gradients are as steep as the density: those by the mean, (x - mu) / sigma^2, and by a std or var, up to 1 / std and
    1 / var, are infinite where they are beyond float32 themselves, also beside a value that is a number."""
    x, mu, var = column(0.0), column(1e-5), column(1e-10)
    exact = (mpmath.log(2 * mpmath.pi) + mpmath.log(mpf(var.item())) + mpf(mu.item()) ** 2 / mpf(var.item())) / 2
    theirs = number(lambda: F.gaussian_nll_loss(mu, x, var, full=True))
    ours = number(lambda: -aevb_ext.gaussian_log_prob(x, mu, var, spread="var"))
    yield Row("F.gaussian_nll_loss(mu, x, var, full=True)", "float32, x - mu 1e-5, var 1e-10", theirs, ours, exact)
    x, logvar, wrote = column(0.5), column(-200.0), "0.5 * ((x - mu)**2 / logvar.exp() + logvar + log(2 * pi))"
    ours = number(lambda: -aevb_ext.gaussian_log_prob(x, x, logvar))
    exact = (mpmath.log(2 * mpmath.pi) - 200) / 2
    theirs = number(lambda: 0.5 * ((x - x) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi)))
    yield Row(wrote, "float32, x - mu 0, logvar -200", theirs, ours, exact)
    x, logvar = column(0.5), column(-300.0)
    theirs = number(lambda: -Normal(x, torch.exp(0.5 * logvar)).log_prob(x))
    ours = number(lambda: -aevb_ext.gaussian_log_prob(x, x, logvar))
    wrote = "-Normal(mu, torch.exp(0.5 * logvar)).log_prob(x)"
    yield Row(wrote, "float32, x - mu 0, logvar -300", theirs, ours, (mpmath.log(2 * mpmath.pi) - 300) / 2)


@case("Importance weights")
def importance_weights():
    """Log-likelihoods of images are in the hundreds and thousands, and e^-104 is 0 in float32: the mean of such weights
    is 0, and one hidden sample that is far better than the others is lost with them. The bound stays in logarithms."""
    q = DiagonalGaussian(column(0.0), column(0.0))
    elbo = ELBO(n_samples=2, importance_weighted=True)
    wrote = "torch.log(torch.mean(torch.exp(log_w), 0))"
    for first, second in ((-80.0, -30000.0), (-1000.0, -1001.0), (100.0, -100.0)):
        log_w, right = torch.tensor([[first], [second]]), first == -80
        others = 1 + mpmath.exp(mpf(second) - mpf(first))

        def bound(log_w):  # the posterior is the prior, so the weights are the likelihoods
            return elbo(column(0.0), q, lambda x, z: log_w).bound

        def as_written(log_w):
            return torch.log(torch.mean(torch.exp(log_w), 0))

        given = f"float32, log w {first:g}, {second:g}"
        theirs, ours = (number(lambda f=f, w=log_w: f(w)) for f in (as_written, bound))
        yield Row(wrote, given, theirs, ours, first + mpmath.log(others / 2), both_right=right)
        # e to a float32 near 1000, which is right to 6e-5.
        theirs, ours = (_jacobian(f, log_w)[0] for f in (as_written, bound))
        yield Row(wrote, f"{given}: gradient by the first", theirs, ours, 1 / others, 1e-4, both_right=right)


def _jacobian(function, at):
    return torch.autograd.functional.jacobian(lambda t: function(t).sum(), at).flatten().tolist()


@case("One NaN among 100 000 rows")
def one_bad_row():
    """A data point that is broken must not take the minibatch with it: the other 99 999 have their values and
    gradients, bit for bit (the numbers here are the largest difference). The products of a bfloat16 layer, in nn.Linear
    and in the likelihoods of a linear layer, are PyTorch's: of an odd number of outputs, some CPUs' take a NaN in the
    gradient of one row to that of its neighbour, as torch.mm does there."""
    generator = torch.Generator().manual_seed(0)
    x, probs, mu, logvar = torch.rand(4, 100_000, 4, generator=generator)
    wrong = torch.tensor([[0.0, math.nan, 0.0, 0.0]])

    def others(function, *inputs):
        """Values and gradients of all rows but the last."""
        leaves = [t.clone().requires_grad_() for t in inputs]
        value = function(*leaves)
        return torch.cat(
            [t.detach().reshape(100_000, -1)[:-1] for t in (value, *torch.autograd.grad(value.sum(), leaves))], 1
        )

    def difference(function, *inputs):
        broken = [torch.cat([t[:-1], t[-1:] + wrong]) for t in inputs]
        return (others(function, *broken) - others(function, *inputs)).abs().max()

    theirs = number(lambda: difference(lambda p: F.binary_cross_entropy(p, x, reduction="none"), probs))
    ours = number(lambda: difference(lambda p: aevb_ext.bernoulli_log_prob_of_probs(x, p), probs))
    yield Row("F.binary_cross_entropy(p, x, reduction='none')", "float32 [100000, 4], one NaN in p", theirs, ours, 0.0)
    theirs = number(lambda: difference(lambda m, v: Normal(m, torch.exp(0.5 * v)).log_prob(x), mu, logvar))
    ours = number(lambda: difference(lambda m, v: aevb_ext.gaussian_log_prob(x, m, v), mu, logvar))
    yield Row("Normal(mu, std).log_prob(x)", "float32 [100000, 4], one NaN in mu", theirs, ours, 0.0)
    theirs = number(lambda: kl_divergence(Normal(mu + wrong, torch.exp(0.5 * logvar)), Normal(0.0, 1.0)).sum())
    key = torch.tensor([1, 2])
    ours = number(
        lambda: difference(lambda m, v: torch.cat(_columns(*aevb_ext.rsample_kl(m, v, key=key)), 1), mu, logvar)
    )
    yield Row(TORCH_KL, "float32 [100000, 4], one NaN in mu; ours z and KL", theirs, ours, 0.0)


def _columns(*results):
    return [t.reshape(len(t), -1) for t in results]


@case("Cross entropy under autocast")
def under_autocast():
    """Of probabilities it is refused on CUDA, whatever the dtype of the region."""
    probs, x = column(0.3, torch.float16), column(1.0)

    def refused():
        before = torch.is_autocast_enabled("cuda")
        torch.set_autocast_enabled("cuda", True)
        try:
            with FakeTensorMode():  # CUDA tensors without numbers, so without a GPU
                return F.binary_cross_entropy(torch.empty(1, 1, device="cuda"), torch.empty(1, 1, device="cuda"))
        finally:
            torch.set_autocast_enabled("cuda", before)

    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", dtype=dtype):
            ours = number(lambda: compat.binary_cross_entropy(probs, x))
        given = f"autocast to {str(dtype).removeprefix('torch.')}, x 1, p .3 in float16"
        yield Row("F.binary_cross_entropy(p, x)", given, number(refused), ours, -mpmath.log(mpf(probs.item())))


@case("Sums over pixels in half precision")
def sums_in_half_precision():
    """bfloat16 has 8 bits: between 512 and 1024 nats there is nothing but every fourth number, and two bounds that
    differ by a nat are equal. Ours are float32."""
    logits = torch.linspace(-3, 3, 784).to(torch.bfloat16).reshape(1, 784)
    x = (torch.arange(784) % 2).to(torch.bfloat16).reshape(1, 784)
    exact = sum(
        mpmath.log1p(mpmath.exp(mpf(v))) - mpf(t) * mpf(v)
        for v, t in zip(logits[0].tolist(), x[0].tolist(), strict=True)
    )
    theirs = number(lambda: F.binary_cross_entropy_with_logits(logits, x, reduction="sum"))
    ours = number(lambda: -aevb_ext.bernoulli_log_prob(x, logits))
    yield Row("F.binary_cross_entropy_with_logits(logits, x, reduction='sum')", "bfloat16 [784]", theirs, ours, exact)


def off(found: float | str, exact) -> float:
    """By how much, relatively; what is no number is off by everything."""
    if isinstance(found, str) or math.isnan(found):
        return math.inf
    if math.isinf(found) or mpmath.isinf(exact):
        return 0.0 if found == exact else math.inf
    return float(abs(mpf(found) - exact) / (abs(exact) if exact else 1))


@pytest.mark.parametrize("title", CASES)
def test_numbers(title):
    with mpmath.workdps(60):
        for row in CASES[title]():
            assert off(row.ours, row.exact) <= row.within, row
            if row.both_right:
                assert off(row.theirs, row.exact) <= row.within, row
            else:
                assert off(row.theirs, row.exact) > 10 * row.within, f"no complaint any more: {row}"


def document() -> str:
    lines = [
        "# Numbers that people lose",
        "",
        "What is usually written between an encoder and its loss, what it gives in PyTorch today, what we give, and",
        "what is true, computed in 60 digits. `python tests/test_numbers.py` writes this page, a test keeps it true.",
        "(What others give may differ in its digits from one machine to another.)",
        "",
    ]
    with mpmath.workdps(60):
        for title, rows in CASES.items():
            lines += [f"## {title}", "", " ".join(rows.__doc__.split()), ""]
            lines += ["| what people wrote | given | it gives | ours | true |", "|---|---|---|---|---|"]
            for row in rows():
                numbers = " | ".join(_shown(n) for n in (row.theirs, row.ours, row.exact))
                lines.append(f"| `{row.wrote}` | {row.given} | {numbers} |")
            lines.append("")
    return "\n".join(lines)


def _shown(found) -> str:
    if isinstance(found, str):
        return f"`{found}`"
    shown = f"{float(found):.4g}"
    return re.sub(r"e([+-])0?(\d)", r"e\1\2", shown).replace("e+", "e") if float(found) else "0"


def test_the_document_has_these_numbers():
    """But for what others give, whose rounding errors are a machine's own, and the last digit of ours."""
    for printed, computed in zip(DOCUMENT.read_text().splitlines(), document().splitlines(), strict=True):
        if not printed.startswith("| `"):
            assert printed == computed
            continue
        (text, _, *numbers), (wanted, _, *expected) = (
            line.removesuffix(" |").rsplit(" | ", 3) for line in (printed, computed)
        )
        assert text == wanted, "python tests/test_numbers.py writes it"
        assert [float(n) for n in numbers] == pytest.approx([float(n) for n in expected], rel=2e-3, nan_ok=True), text


if __name__ == "__main__":
    DOCUMENT.write_text(document())
