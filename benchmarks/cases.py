"""The table: each operator at each size, dtype and reduction, its rivals, its fewest bytes, and its targets.

The tests of speed, the report, `--check` and the pictures all come from here. A new operator is one more Operation and
its lines in `cases`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

import aevb_ext

from . import rivals

# Target: at most this many times the time of copying the floor's bytes, if those exceed the caches.
FLOOR = 1.6
BEYOND_CACHES = 32e6
# Target on a GPU: each kernel reaches this fraction of the speed of a large copy.
OF_COPY = 0.85
# Target: inside torch.compile, ours takes at most 1.1 times as long as in eager, where the kernel is most of both.
OF_EAGER = 1 / 1.1
LARGE_COPY_ELEMENTS = 64 * 2**20


@dataclass(frozen=True)
class Shape:
    batch: int
    event: int
    samples: int | None = None

    @property
    def full(self) -> tuple[int, ...]:
        return (*((self.samples,) if self.samples else ()), self.batch, self.event)

    @property
    def elements(self) -> int:
        return self.batch * self.event * (self.samples or 1)

    def __str__(self):
        return " x ".join(str(n) for n in self.full)


@dataclass(frozen=True)
class Operation:
    """One operator as it is used.

    inputs: its tensors by name; those that are learnt require a gradient.
    ours, rivals: functions of those tensors by name, of `reduction` and, for samplers, of `n_samples`. They give what
        is minimised; the samplers z (and it). Rivals by the name of their formulation.
    floor: the fewest bytes that forward and backward must move, from the bytes of each input and elementwise result,
        and from `again`: 0 where the cotangent is one number ("mean": the gradient can be written, but for that factor,
        when the inputs are read first), 1 where they must be read again once it is known. One number a row is not
        counted.
    """

    name: str
    operator: str
    inputs: Callable[[Shape, torch.device, torch.dtype], dict[str, Tensor]]
    ours: Callable
    rivals: dict[str, Callable]
    floor: Callable[[dict[str, int], int], tuple[int, int]]

    @property
    def draws(self) -> bool:
        return "rsample" in self.operator


@dataclass(frozen=True)
class Case:
    """A line of the table.

    asked: ours must be so many times as fast as the quickest rival of each kind ("eager", "compile"), and as a copy of
        the floor's bytes ("copy"). Inside torch.compile, ours must also be no slower than "compile".
    compiled: ours inside torch.compile must be so many times as fast as ours in eager, if that is asked.
    memory: the leanest rival's peak over ours, at the least.
    """

    operation: Operation
    shape: Shape
    dtype: torch.dtype
    reduction: str
    asked: dict[str, float] = field(default_factory=dict)
    memory: float | None = None
    compiled: float | None = None

    def __str__(self):
        reduction = "" if self.operation.operator == "rsample" else f", {self.reduction}"
        return f"{self.operation.name}, {self.shape}, {self.dtype_name}{reduction}"

    @property
    def dtype_name(self) -> str:
        return str(self.dtype).removeprefix("torch.")

    def inputs(self, device) -> dict[str, Tensor]:
        """The inputs as a user has them, in memory and without preparation; the same in each run."""
        with torch.random.fork_rng(enabled=device != "meta"):
            torch.manual_seed(0)
            return self.operation.inputs(self.shape, torch.device(device), self.dtype)

    def bind(self, function: Callable) -> Callable:
        """The function with its settings bound, of the tensors alone."""
        settings = {"reduction": self.reduction}
        if self.operation.draws and self.shape.samples:
            settings["n_samples"] = self.shape.samples
        return lambda **inputs: function(**inputs, **settings)

    @property
    def floors(self) -> tuple[int, int]:
        """The fewest bytes of the forward and of the backward."""
        sizes = {name: t.nbytes for name, t in self.inputs("meta").items()}
        sizes["full"] = self.shape.elements * self.dtype.itemsize
        sizes["value"] = self.shape.elements * 4 if self.reduction == "none" else 0
        return self.operation.floor(sizes, 0 if self.reduction == "mean" else 1)

    @property
    def floor_bytes(self) -> int:
        return sum(self.floors)


def _normal(shape, device, dtype):
    return torch.randn(shape, device=device).to(dtype)


def _learnt(shape, device, dtype):
    return _normal(shape, device, dtype).requires_grad_()


def _packed(shape, device, dtype):
    return {"params": _learnt((shape.batch, 2 * shape.event), device, dtype)}


def _two_heads(shape, device, dtype):
    size = (shape.batch, shape.event)
    return {"mu": _learnt(size, device, dtype), "logvar": _learnt(size, device, dtype)}


def _with_prior(shape, device, dtype):
    prior = {f"prior_{name}": t for name, t in _two_heads(shape, device, dtype).items()}
    return _two_heads(shape, device, dtype) | prior


def _binary(shape, device, dtype):
    x = (torch.rand(shape.batch, shape.event, device=device) > 0.5).to(dtype)
    return {"x": x, "logits": _learnt(shape.full, device, dtype)}


def _sigmoid(shape, device, dtype):
    inputs = _binary(shape, device, dtype)
    return {"x": inputs["x"], "probs": inputs["logits"].detach().sigmoid().requires_grad_()}


def _bytes(shape, device, dtype):
    x = torch.randint(256, (shape.batch, shape.event), device=device, dtype=torch.uint8)
    return {"x": x, "logits": _learnt(shape.full, device, dtype)}


def _gaussian(shape, device, dtype):
    x = _normal((shape.batch, shape.event), device, dtype)
    return {"x": x, "mu": _learnt(shape.full, device, dtype), "logvar": _learnt(shape.full, device, dtype)}


def _one_scale(shape, device, dtype):
    return _gaussian(shape, device, dtype) | {"logvar": torch.zeros((), device=device, dtype=dtype).requires_grad_()}


# Images as convolutions have them: a shape's event is the elements of three square channels, or of four of a code.


def _images(shape, channels, device, dtype, memory_format=torch.channels_last):
    side = math.isqrt(shape.event // channels)
    return _normal((shape.batch, channels, side, side), device, dtype).to(memory_format=memory_format)


def _channels_last(shape, device, dtype):
    return {
        "x": (_images(shape, 3, device, dtype) > 0).to(dtype),
        "logits": _images(shape, 3, device, dtype).requires_grad_(),
    }


def _contiguous_data(shape, device, dtype):
    inputs = _channels_last(shape, device, dtype)
    return inputs | {"x": inputs["x"].contiguous()}


def _packed_channels(shape, device, dtype):
    return {"params": _images(Shape(shape.batch, 2 * shape.event), 8, device, dtype).requires_grad_()}


def _minus(function, **fixed):
    return lambda reduction, **inputs: -function(**inputs, **fixed, reduction=reduction)


def _rsample(mu, logvar, reduction, n_samples=None):
    return aevb_ext.rsample(mu, logvar, n_samples=n_samples)


def _halves(formulations):
    return {name: rivals.of_halves(function) for name, function in formulations.items()}


_BERNOULLI = {"textbook": rivals.bernoulli_textbook, "distributions": rivals.bernoulli_distributions}
_PROBS = {"textbook": rivals.probs_textbook, "cross_entropy": rivals.probs_cross_entropy}
_GAUSSIAN = {
    "textbook": rivals.gaussian_textbook,
    "nll_loss": rivals.gaussian_nll_loss,
    "distributions": rivals.gaussian_distributions,
}
_KL = {"textbook": rivals.kl_textbook, "distributions": rivals.kl_distributions}
_KL_PRIOR = {"textbook": rivals.kl_prior_textbook, "distributions": rivals.kl_prior_distributions}
_RSAMPLE = {"textbook": rivals.rsample_textbook, "distributions": rivals.rsample_distributions}
_RSAMPLE_KL = {"textbook": rivals.rsample_kl_textbook, "distributions": rivals.rsample_kl_distributions}


# The forward moves everything that the value depends on, and elementwise values. The backward moves elementwise
# cotangents, what must be read again, and the gradients.
def _floor_bernoulli(n, again):
    read = n["x"] + n["full"]
    return read + n["value"], n["value"] + again * read + n["full"]


def _floor_gaussian(n, again):
    read = n["x"] + n["mu"] + n["logvar"]
    return read + n["value"], n["value"] + again * read + n["mu"] + n["logvar"]


def _floor_kl(n, again):
    read = sum(size for name, size in n.items() if name not in ("full", "value"))
    return read + n["value"], n["value"] + again * read + read


# The decoder comes between z and its cotangent, so the backward always reads again: logvar, or with the KL both. The
# noise is drawn anew.
def _floor_rsample(n, again):
    params = sum(n.get(name, 0) for name in ("params", "mu", "logvar"))
    return params + n["full"], n["full"] + params // 2 + params


def _floor_rsample_kl(n, again):
    params = sum(n.get(name, 0) for name in ("params", "mu", "logvar"))
    return params + n["full"], n["full"] + params + params


BERNOULLI = Operation(
    "bernoulli_log_prob",
    "bernoulli_log_prob",
    _binary,
    _minus(aevb_ext.bernoulli_log_prob),
    _BERNOULLI,
    _floor_bernoulli,
)
BERNOULLI_BYTES = replace(
    BERNOULLI,
    name="bernoulli_log_prob of bytes",
    inputs=_bytes,
    ours=_minus(aevb_ext.bernoulli_log_prob, x_scale=1 / 255),
    rivals={name: rivals.of_bytes(function) for name, function in _BERNOULLI.items()},
)
PROBS = Operation(
    "bernoulli_log_prob_of_probs",
    "bernoulli_log_prob_of_probs",
    _sigmoid,
    _minus(aevb_ext.bernoulli_log_prob_of_probs),
    _PROBS,
    _floor_bernoulli,
)
GAUSSIAN = Operation(
    "gaussian_log_prob",
    "gaussian_log_prob",
    _gaussian,
    _minus(aevb_ext.gaussian_log_prob),
    _GAUSSIAN,
    _floor_gaussian,
)
GAUSSIAN_ONE_SCALE = replace(GAUSSIAN, name="gaussian_log_prob, one learned scale", inputs=_one_scale)
KL_TWO_HEADS = Operation("gaussian_kl, two heads", "gaussian_kl", _two_heads, aevb_ext.gaussian_kl, _KL, _floor_kl)
KL = replace(
    KL_TWO_HEADS,
    name="gaussian_kl",
    inputs=_packed,
    ours=rivals.of_halves(aevb_ext.gaussian_kl, aevb_ext.halves),
    rivals=_halves(_KL),
)
KL_PRIOR = replace(KL_TWO_HEADS, name="gaussian_kl, learned prior", inputs=_with_prior, rivals=_KL_PRIOR)
RSAMPLE = Operation(
    "rsample", "rsample", _packed, rivals.of_halves(_rsample, aevb_ext.halves), _halves(_RSAMPLE), _floor_rsample
)
RSAMPLE_KL_TWO_HEADS = Operation(
    "rsample_kl, two heads", "rsample_kl", _two_heads, aevb_ext.rsample_kl, _RSAMPLE_KL, _floor_rsample_kl
)
RSAMPLE_KL = replace(
    RSAMPLE_KL_TWO_HEADS,
    name="rsample_kl",
    inputs=_packed,
    ours=rivals.of_halves(aevb_ext.rsample_kl, aevb_ext.halves),
    rivals=_halves(_RSAMPLE_KL),
)

BERNOULLI_IMAGES = replace(BERNOULLI, name="bernoulli_log_prob, channels_last", inputs=_channels_last)
BERNOULLI_TWO_ORDERS = replace(
    BERNOULLI, name="bernoulli_log_prob, contiguous x, channels_last logits", inputs=_contiguous_data
)
KL_CHANNELS = replace(KL, name="gaussian_kl, channels_last", inputs=_packed_channels)
RSAMPLE_CHANNELS = replace(RSAMPLE, name="rsample, channels_last", inputs=_packed_channels)
RSAMPLE_KL_CHANNELS = replace(RSAMPLE_KL, name="rsample_kl, channels_last", inputs=_packed_channels)

SMALL = {"eager": 1.5, "compile": 1.5}
NOT_SLOWER = {"eager": 1.0, "compile": 1.0}
f32, bf16 = torch.float32, torch.bfloat16


def _cpu() -> list[Case]:
    image, large, latent = Shape(8192, 784), Shape(65536, 784), Shape(65536, 128)
    minibatch, code, narrow = Shape(100, 784), Shape(100, 20), Shape(2048, 32)
    images, codes = Shape(64, 3 * 128 * 128), Shape(64, 4 * 64 * 64)
    samples, draws = Shape(100, 784, samples=50), Shape(512, 50, samples=50)
    bernoulli, scattered = {"eager": 8.0, "compile": 4.5}, {"compile": 2.5}
    gaussian, sampled, beyond = {"eager": 15.0, "compile": 3.0}, {"eager": 8.0, "compile": 4.0}, {"compile": 4.0}
    return [
        Case(BERNOULLI, image, f32, "mean", bernoulli, compiled=OF_EAGER),
        Case(BERNOULLI, image, bf16, "mean", bernoulli),
        Case(BERNOULLI, image, f32, "sample", scattered),
        Case(BERNOULLI, image, bf16, "sample", scattered),
        Case(BERNOULLI, image, f32, "none"),
        Case(BERNOULLI, large, f32, "mean", beyond, compiled=OF_EAGER),
        Case(BERNOULLI, large, bf16, "mean", beyond),
        Case(BERNOULLI, minibatch, f32, "mean", SMALL),
        Case(BERNOULLI, samples, f32, "mean"),
        Case(BERNOULLI_BYTES, image, f32, "mean"),
        Case(BERNOULLI_BYTES, minibatch, f32, "mean", SMALL),
        Case(PROBS, image, f32, "mean", compiled=OF_EAGER),
        Case(PROBS, image, bf16, "mean"),
        Case(PROBS, minibatch, f32, "mean", SMALL),
        Case(GAUSSIAN, image, f32, "mean", gaussian, compiled=OF_EAGER),
        Case(GAUSSIAN, image, bf16, "mean", gaussian),
        Case(GAUSSIAN, image, f32, "sample"),
        Case(GAUSSIAN, minibatch, f32, "mean", SMALL),
        Case(GAUSSIAN_ONE_SCALE, image, f32, "mean"),
        Case(GAUSSIAN_ONE_SCALE, image, bf16, "mean"),
        Case(KL, latent, f32, "mean"),
        Case(KL, latent, bf16, "mean"),
        Case(KL, latent, f32, "sample"),
        Case(KL, code, f32, "mean", SMALL),
        Case(KL, narrow, f32, "mean"),
        Case(KL, Shape(65536, 32), f32, "mean"),
        Case(KL_TWO_HEADS, latent, f32, "mean"),
        Case(KL_PRIOR, latent, f32, "mean"),
        Case(RSAMPLE, latent, f32, "mean"),
        Case(RSAMPLE, code, f32, "mean", SMALL),
        Case(RSAMPLE_KL, latent, f32, "mean", sampled),
        Case(RSAMPLE_KL, latent, bf16, "mean", sampled),
        Case(RSAMPLE_KL_TWO_HEADS, latent, f32, "mean", sampled),
        Case(RSAMPLE_KL, draws, f32, "mean", sampled, memory=2.0),
        Case(RSAMPLE_KL, code, f32, "mean", SMALL),
        Case(RSAMPLE_KL, narrow, f32, "mean"),
        Case(BERNOULLI_IMAGES, images, f32, "mean", NOT_SLOWER),
        Case(BERNOULLI_IMAGES, images, bf16, "mean", NOT_SLOWER),
        Case(BERNOULLI_TWO_ORDERS, images, f32, "mean", NOT_SLOWER),
        Case(KL_CHANNELS, codes, f32, "mean", NOT_SLOWER),
        Case(RSAMPLE_CHANNELS, codes, f32, "mean", NOT_SLOWER),
        Case(RSAMPLE_KL_CHANNELS, codes, f32, "mean", NOT_SLOWER),
    ]


def _cuda() -> list[Case]:
    full, latent = Shape(65536, 1024), Shape(131072, 512)  # 64 M elements
    minibatch, code = Shape(100, 784), Shape(100, 20)
    asked = {"eager": 5.0, "compile": 1.5}
    large = [
        (BERNOULLI, full),
        (PROBS, full),
        (GAUSSIAN, full),
        (KL_TWO_HEADS, latent),
        (RSAMPLE, latent),
        (RSAMPLE_KL, latent),
    ]
    # "sample": each row has its own cotangent, which no guess meets, so forward and backward are two passes.
    table = [Case(operation, shape, f32, "sample", asked) for operation, shape in large]
    table += [Case(operation, shape, bf16, "sample", asked) for operation, shape in large]
    table += [Case(operation, shape, f32, "mean", asked) for operation, shape in large if operation is not RSAMPLE]
    table += [Case(BERNOULLI_BYTES, full, f32, "mean", asked), Case(GAUSSIAN_ONE_SCALE, full, f32, "mean", asked)]
    table += [Case(operation, code, f32, "mean") for operation in (KL, RSAMPLE, RSAMPLE_KL)]
    return table + [Case(operation, minibatch, f32, "mean") for operation in (BERNOULLI, PROBS, GAUSSIAN)]


def cases(device: str) -> list[Case]:
    """The table of a device; without a target of its own, a case must not be slower than any rival."""
    table = []
    for case in {"cpu": _cpu, "cuda": _cuda}[device]():
        asked = NOT_SLOWER | case.asked
        if device == "cpu" and case.floor_bytes > BEYOND_CACHES:
            asked["copy"] = 1 / FLOOR
        table.append(replace(case, asked=asked))
    return table
