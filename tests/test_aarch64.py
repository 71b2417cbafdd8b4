"""The CPU kernels compiled for aarch64 and executed by qemu, on calls whose results PyTorch's formulas give here."""

import fcntl
import importlib.util
import platform
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from cases import DTYPES, GRADIENT_EPS, KEY, SPREADS, VALUE_EPS, arithmetic_dtype, in_parameterisation
from noise_definition import normals

import aevb_ext
from aevb_ext import reference

ROOT = Path(__file__).resolve().parents[1]
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
BLOCK = 8192  # csrc/call.h, kBlock
TYPES = {torch.float64: 0, torch.float32: 1, torch.bfloat16: 2, torch.float16: 3, torch.uint8: 4}
KERNELS = ("rows", "sample_forward", "sample_backward", "binarize", "unpack_bits", "activate", "scale_bytes")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.cpu_kernels("they are compiled apart from this library"),
    *(
        pytest.mark.skipif(shutil.which(program) is None, reason=f"{program} is not installed")
        for program in (COMPILER, EMULATOR)
    ),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """What runs the kernels, of the objects that setup.py makes on aarch64, optimised less: that takes half as long."""
    folder, path = ROOT / "build" / "aarch64", tmp_path_factory.mktemp("aarch64") / "run_kernels"
    folder.mkdir(parents=True, exist_ok=True)
    with pytest.MonkeyPatch.context() as patch, (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of several processes of the tests builds
        patch.setattr(platform, "machine", lambda: "aarch64")
        patch.setenv("CXX", COMPILER)
        patch.setenv("CXXFLAGS", "-O1 -Werror")
        patch.setattr(sys, "path", [*sys.path])  # to which it adds its folder
        spec = importlib.util.spec_from_file_location("aevb_setup_aarch64", ROOT / "setup.py")
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, spec.name, module)
        spec.loader.exec_module(module)
        command = module.BuildOperators(module.setuptools.Distribution({"name": "aevb-ext", "version": "1"}))
        command.build_temp = folder
        objects = [o for o in command._objects(torch, None) if o.source.parent == ROOT / "csrc" / "cpu"]
        source = ROOT / "tests" / "aarch64" / "run_kernels.cpp"
        compiler = [COMPILER, *module.CXX_FLAGS, "-O1", "-Werror"]
        objects.append(module.Object(folder / "run_kernels.o", source, compiler))
        module.compile_all(objects, folder, module.find_ninja())
        subprocess.run([COMPILER, "-static", *(o.path for o in objects), "-o", path], check=True)
    return path


class Layout(NamedTuple):
    """Where element e of row r of an operand lies: at r * row_step + e * step."""

    rows: int
    event: int
    row_step: int
    step: int

    def memory(self, values: torch.Tensor) -> torch.Tensor:
        """The numbers as they lie, with zeros between them."""
        memory = values.new_zeros((self.rows - 1) * self.row_step + (self.event - 1) * self.step + 1)
        self.of(memory).copy_(values)
        return memory

    def of(self, memory: torch.Tensor) -> torch.Tensor:
        return memory.as_strided((self.rows, self.event), (self.row_step, self.step))

    def sums(self, terms: torch.Tensor) -> torch.Tensor:
        """A number for each block of each row."""
        return torch.stack([block.sum(1) for block in terms.split(BLOCK, 1)], 1).flatten()


LAYOUTS = {
    "contiguous": Layout(5, 37, 37, 1),
    "halves": Layout(5, 37, 74, 1),
    "short rows": Layout(70, 3, 3, 1),
    "short halves": Layout(70, 3, 6, 1),
    "channels last": Layout(9, 37, 1, 9),
    "every other": Layout(5, 37, 74, 2),
    "long": Layout(2, BLOCK + 819, BLOCK + 819, 1),
}


class Call(NamedTuple):
    kernel: str
    layout: Layout
    arrays: list[torch.Tensor]
    dtype: torch.dtype = torch.float32
    data_dtype: torch.dtype = torch.float32
    formula: int = 0
    spread: str = "logvar"
    sums: bool = False
    samples: int = 1
    x_scale: float = 1.0

    def packed(self) -> bytes:
        numbers = KERNELS.index(self.kernel), self.formula, SPREADS.index(self.spread)
        types = TYPES[self.dtype], TYPES[self.data_dtype]
        header = struct.pack("<11qd", *numbers, *types, self.sums, *self.layout, self.samples, self.x_scale)
        return header + b"".join(array.contiguous().view(torch.uint8).numpy().tobytes() for array in self.arrays)


def run(program: Path, call: Call, *results: tuple[int, torch.dtype]) -> list[torch.Tensor]:
    """The results of a call, so many numbers of each of these types."""
    done = subprocess.run([EMULATOR, program], input=call.packed(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    sizes = [count * dtype.itemsize for count, dtype in results]
    assert len(done.stdout) == sum(sizes)
    parts = torch.frombuffer(bytearray(done.stdout), dtype=torch.uint8).split(sizes)
    return [part.clone().view(dtype) for part, (_, dtype) in zip(parts, results, strict=True)]


def check(result: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor, what: object) -> None:
    """Within this bound, and what is left of it is rounded once to the type of the result."""
    if result.dtype in (torch.bfloat16, torch.float16):
        info = torch.finfo(result.dtype)
        bound = bound + 0.5 * info.eps * exact.abs() + info.smallest_normal
    error = (result.double() - exact).abs()
    assert (error <= bound).all(), f"{what}: off by {(error / bound).max():.1f} times the bound"


# What the operands are, in float64; the name of an argument says its values.
VALUES: dict[str, Callable[[torch.Tensor, str], torch.Tensor]] = {
    "x": lambda unit, _: unit,
    "logits": lambda unit, _: 8 * unit - 4,
    "probs": lambda unit, _: 0.02 + 0.96 * unit,
    "mu": lambda unit, _: 4 * unit - 2,
    "logvar": lambda unit, spread: in_parameterisation(4 * unit - 2, spread),
}


def of_sigmoid(x, mu, logvar, **options):
    return reference.gaussian_log_prob(x, mu.sigmoid(), logvar, **options)


# In the order of csrc/formulas/kinds.h, with the spreads of each.
FORMULAS = [
    (reference.bernoulli_log_prob, ("x", "logits"), ("logvar",)),
    (reference.bernoulli_log_prob_of_probs, ("x", "probs"), ("logvar",)),
    (reference.gaussian_log_prob, ("x", "mu", "logvar"), SPREADS),
    (of_sigmoid, ("x", "mu", "logvar"), ("logvar",)),
    (reference.gaussian_kl, ("mu", "logvar"), SPREADS),
    (reference.gaussian_kl, ("mu", "logvar", "mu", "logvar"), SPREADS),
]


def drawn(layout: Layout, name: str, spread: str, generator: torch.Generator) -> torch.Tensor:
    unit = torch.rand(layout.rows, layout.event, generator=generator, dtype=torch.float64)
    return VALUES[name](unit, spread)


def cotangents(layout: Layout, dtype: torch.dtype, sums: bool, generator: torch.Generator) -> torch.Tensor:
    """Quarters, which every type holds: one for each row or for each element."""
    shape = (layout.rows, 1 if sums else layout.event)
    return (torch.randint(-4, 5, shape, generator=generator) / 4).to(dtype)


def value_bound(dtype: torch.dtype, terms: torch.Tensor) -> torch.Tensor:
    return VALUE_EPS * torch.finfo(arithmetic_dtype(dtype)).eps * (1 + terms.abs())


def gradient_bound(dtype: torch.dtype, gradient: torch.Tensor) -> torch.Tensor:
    return GRADIENT_EPS * torch.finfo(arithmetic_dtype(dtype)).eps * (1 + gradient.abs())


@pytest.mark.parametrize("sums", [False, True], ids=["none", "sums"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("formula", range(len(FORMULAS)))
def test_formulas(program, formula, dtype, sums):
    """Values and gradients of every formula in every spread, and of data in bytes."""
    function, names, spreads = FORMULAS[formula]
    wide, generator = arithmetic_dtype(dtype), torch.Generator().manual_seed(0)
    of_bytes = [dtype, torch.uint8] if names[0] == "x" else [dtype]
    layouts = list(LAYOUTS.items())
    for number, (spread, data_dtype) in enumerate((s, d) for s in spreads for d in of_bytes):
        # Each call has three of the layouts, and the next one the next three.
        for name, layout in [layouts[(3 * number + k) % len(layouts)] for k in range(3)]:
            tensors = [drawn(layout, argument, spread, generator).to(dtype) for argument in names]
            options = {"x_scale": 0.75} if names[0] == "x" else {}
            if data_dtype == torch.uint8:
                tensors[0] = (tensors[0].double() * 255).round().to(torch.uint8)
                options["x_scale"] = 1 / 255
            if len(spreads) > 1:
                options["spread"] = spread
            leaves = [t.double().requires_grad_() for t in tensors]
            terms = function(*leaves, **options, reduction="none")
            given = cotangents(layout, wide, sums, generator)
            gradients = torch.autograd.grad(terms, leaves, given.double().expand(terms.shape))
            terms = terms.detach()

            call = Call(
                "rows",
                layout,
                [*map(layout.memory, tensors), given],
                dtype,
                tensors[0].dtype,
                formula,
                spread,
                sums,
                x_scale=options.get("x_scale", 1.0),
            )
            floating = [t for t in tensors if t.is_floating_point()]
            expected = layout.sums(terms) if sums else terms.flatten()
            bound = layout.sums(value_bound(dtype, terms)) if sums else value_bound(dtype, terms).flatten()
            sizes = [(layout.memory(t).numel(), t.dtype) for t in floating]
            value, *results = run(program, call, (expected.numel(), wide), *sizes)
            what = (name, spread, data_dtype)
            check(value, expected, bound, what)
            for argument, result, exact in zip(
                names[-len(floating) :], results, gradients[-len(floating) :], strict=True
            ):
                check(layout.of(result), exact, gradient_bound(dtype, exact), (argument, *what))


KEYS = torch.tensor(KEY)


@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_samples(program, dtype, spread):
    """Samples, KL and gradients, with the noise of their key; in float32 the very bits of this processor's."""
    wide, generator, samples = arithmetic_dtype(dtype), torch.Generator().manual_seed(0), 2
    for sums, (name, layout) in enumerate(list(LAYOUTS.items())[SPREADS.index(spread) :][:4]):
        sums = bool(sums % 2)
        mu, s = (drawn(layout, argument, spread, generator).to(dtype) for argument in ("mu", "logvar"))
        of_z = torch.randint(-4, 5, (samples, *mu.shape), generator=generator) / 4
        of_kl = cotangents(layout, wide, sums, generator)
        leaves = [t.double().requires_grad_() for t in (mu, s)]
        eps, radius = normals(KEYS, of_z.shape, uniforms=wide)
        sigma = {"logvar": (leaves[1] / 2).exp(), "log_std": leaves[1].exp(), "std": leaves[1], "var": leaves[1].sqrt()}
        z = leaves[0] + sigma[spread] * eps
        kl = reference.gaussian_kl(*leaves, spread=spread, reduction="none")
        gradients = torch.autograd.grad([z, kl], leaves, [of_z.double(), of_kl.double().expand(kl.shape)])
        z, kl = z.detach(), kl.detach()

        common = (dtype, dtype, 0, spread, sums, samples)
        operands = [layout.memory(mu), layout.memory(s), KEYS]
        forward = Call("sample_forward", layout, operands, *common)
        expected = layout.sums(kl) if sums else kl.flatten()
        bound = layout.sums(value_bound(dtype, kl)) if sums else value_bound(dtype, kl).flatten()
        drawn_z, drawn_kl = run(program, forward, (z.numel(), dtype), (expected.numel(), wide))
        check(drawn_z.view(z.shape), z, value_bound(dtype, 4 + z.abs() + radius), (name, "z"))
        check(drawn_kl, expected, bound, (name, "kl"))

        backward = Call("sample_backward", layout, [*operands, of_z.to(dtype), of_kl], *common)
        count = operands[0].numel()
        for argument, result, exact in zip(
            ("mu", spread), run(program, backward, (count, dtype), (count, dtype)), gradients, strict=True
        ):
            check(layout.of(result), exact, gradient_bound(dtype, exact.abs() + radius.sum(0)), (name, argument))


@pytest.mark.skipif(
    aevb_ext.build_info()["cpu_in_use"] == "baseline", reason="without one rounding of a product and a sum"
)
def test_the_same_normals(program):
    """In float32, where one operation rounds a product and a sum, the bits of this processor's noise."""
    layout = LAYOUTS["long"]
    mu, s = torch.zeros(layout.rows, layout.event), torch.ones(layout.rows, layout.event)
    call = Call("sample_forward", layout, [mu, s, KEYS], spread="std")
    z, _ = run(program, call, (mu.numel(), mu.dtype), (mu.numel(), mu.dtype))
    assert torch.equal(z.view(mu.shape), aevb_ext.rsample(mu, s, key=KEYS, spread="std"))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits(program, dtype):
    """Drawn bits are this processor's: words of noise are integers, and compared exactly."""
    generator = torch.Generator().manual_seed(0)
    for name, layout in LAYOUTS.items():
        x = (1.5 * drawn(layout, "x", "", generator) - 0.25).to(dtype)
        (bits,) = run(
            program, Call("binarize", layout, [layout.memory(x), KEYS], dtype, x_scale=0.75), (x.numel(), torch.uint8)
        )
        assert torch.equal(bits.view(x.shape), aevb_ext.binarize(x, KEYS, x_scale=0.75)), name


def test_bytes(program):
    """Bits from bytes, and bytes as numbers."""
    generator = torch.Generator().manual_seed(0)
    for layout in LAYOUTS.values():
        packed = torch.randint(256, (layout.rows, (layout.event + 7) // 8), generator=generator, dtype=torch.uint8)
        size = layout.rows * layout.event
        (bits,) = run(program, Call("unpack_bits", layout, [packed]), (size, torch.uint8))
        assert torch.equal(bits.view(layout.rows, -1), reference.unpack_bits(packed, layout.event))
        grey = torch.randint(256, (size,), generator=generator, dtype=torch.uint8)
        (numbers,) = run(program, Call("scale_bytes", layout, [grey], x_scale=1 / 255), (size, torch.float32))
        assert torch.equal(numbers, grey * torch.tensor(1 / 255))


def test_layers(program):
    """tanh(y + bias), its gradient, and the bias'."""
    generator = torch.Generator().manual_seed(0)
    for name, layout in LAYOUTS.items():
        y, given = torch.randn(2, layout.rows, layout.event, generator=generator)
        bias = torch.randn(layout.event, generator=generator)
        sizes = [(y.numel(), y.dtype), (y.numel(), y.dtype), (layout.event, y.dtype)]
        results = run(program, Call("activate", layout, [y, bias, given]), *sizes)
        leaves = [y.double().requires_grad_(), bias.double().requires_grad_()]
        exact = (leaves[0] + leaves[1]).tanh()
        gradients = torch.autograd.grad(exact, leaves, given.double())
        eps = torch.finfo(torch.float32).eps
        magnitudes = [exact.detach().abs(), 1 + gradients[0].abs(), (1 + gradients[0].abs()).sum(0)]
        for result, expected, magnitude in zip(results, (exact.detach(), *gradients), magnitudes, strict=True):
            check(result.view(expected.shape), expected, 4 * eps * (1 + magnitude), name)
