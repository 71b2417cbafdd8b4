"""Counts what the CUDA kernels of the benchmark's cases cost on sm_90, and predicts from it what binds them.

python -m benchmarks.gpu_instructions             exits with 1 when a count has grown by more than a tenth
python -m benchmarks.gpu_instructions --update    writes the counts of this build to benchmarks/gpu_instructions.json,
                                                  and the model's table to docs/performance.md

Of each kernel: registers, spills, shared memory, and the instructions that its warps issue, times 32, for each element,
counted by executing its machine code (benchmarks/sass.py) on a few rows of the case. What it computes is compared with
the CPU's operators. The machine code is that of the objects that `make cuda` left in build/; another nvcc makes other
instructions, which are not held to these. Where there is no nvcc, or no object, nothing is checked, and that is said.

The model: a kernel takes the longer of the time to issue its instructions and the time to move its bytes, at the clock
and the copy bandwidth in GPUS. No GPU has confirmed it.
"""

import ctypes
import functools
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from . import sass
from .instructions import ROOT, comparable, hold, parser

EXPECTED = Path(__file__).with_suffix(".json")
DOCUMENT = ROOT / "docs" / "performance.md"
CUDA = ROOT / "csrc" / "cuda"
ARCH = "sm_90"
# The driver's own share of each block's shared memory.
RESERVED_SHARED = 1024


# ---- The model ----


@dataclass(frozen=True)
class Gpu:
    multiprocessors: int
    clock: float  # Hz
    copied: float  # bytes a second, read or written, of a large copy


GPUS = {"H100": Gpu(132, 1.755e9, 3.0e12), "H200": Gpu(132, 1.755e9, 4.3e12)}
ISSUED_A_CLOCK = 4  # warp instructions of a multiprocessor


def issue_over_memory(gpu: Gpu, instructions: float, moved: float) -> float:
    """The time to issue the instructions of an element over the time to move its bytes."""
    issue = instructions / sass.LANES / (gpu.multiprocessors * ISSUED_A_CLOCK * gpu.clock)
    return issue / (moved / gpu.copied)


# ---- What a kernel is called with: csrc/call.h, csrc/cuda/tiling.h, rows.cuh and sample.cuh ----

TYPES = {"float32": 1, "bfloat16": 2, "uint8": 4}  # of enum class Type
CPP_TYPES = {"float32": "float", "bfloat16": "__nv_bfloat16", "uint8": "unsigned char"}
DIMS = 6


@functools.cache
def constant(name: str) -> int:
    """A number that the CUDA sources name."""
    for header in (
        CUDA.parent / "call.h",
        *(CUDA / name for name in ("tiling.h", "load.cuh", "rows.cuh", "sample.cuh")),
    ):
        if found := re.search(rf"^constexpr \w+ {name} = (\d+);", header.read_text(), re.MULTILINE):
            return int(found[1])
    raise KeyError(f"{name} is in none of the headers of csrc/cuda")


class Divisor(ctypes.Structure):
    _fields_ = (("value", ctypes.c_uint64), ("reciprocal", ctypes.c_uint64))

    def __init__(self, by: int = 1):
        super().__init__(by, (2**64 - 1) // by)


class Tiling(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_int64) for name in ("rows", "event", "block", "tiles")),
        ("blocks", Divisor),
        ("group", ctypes.c_int),
        ("group_log2", ctypes.c_int),
    )

    def __init__(self, rows: int, event: int, block: int, unit: int, block_units: int, stores: bool):
        blocks = -(-event // block)
        units = -(-min(event, block) // unit)
        if units > block_units:
            group = constant("kBlockThreads")
        else:
            group = max(1, min(units // constant("kUnitsEach"), sass.LANES), min(units, 1 + stores))
            group = 1 << group.bit_length() - 1
        super().__init__(rows, event, block, rows * blocks, Divisor(blocks), group, group.bit_length() - 1)

    @property
    def threads(self) -> int:
        return constant("kBlockThreads" if self.group > sass.LANES else "kWarpThreads")

    @property
    def at_once(self) -> int:
        """The tiles that a block works on at a time."""
        return self.threads // self.group

    @property
    def rounds(self) -> int:
        """How often the grid does so."""
        grid = min(-(-self.tiles // self.at_once), constant("kMaxGrid"))
        return -(-self.tiles // (self.at_once * grid))


class Axes(ctypes.Structure):
    _fields_ = (("dims", ctypes.c_int), ("size", Divisor * DIMS), ("stride", ctypes.c_int64 * DIMS))

    def __init__(self, dims=()):
        size, stride = [Divisor() for _ in range(DIMS)], [0] * DIMS
        for k, (length, step) in enumerate(dims):
            size[k], stride[k] = Divisor(length), step
        super().__init__(max(len(dims), 1), (Divisor * DIMS)(*size), (ctypes.c_int64 * DIMS)(*stride))


class Operand(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("type", ctypes.c_int),
        ("along", ctypes.c_int),
        ("row", Axes),
        ("event", Axes),
    )

    def __init__(self, data: int = 0, dtype: str = "float32", dims=(), elements: int = 1):
        """`dims` are (size, stride), the outermost first; the inner ones have `elements` elements."""
        row, event = [], []
        for size, stride in reversed(dims):
            inside = min(size, elements)
            if inside > 1:
                event.append((inside, stride))
            if size > inside:
                row.append((size // inside, stride * inside))
            elements //= inside
        step = event[0][1] if event else 0
        along = 3 if len(event) > 1 else min(step, 2)  # of enum class Along
        super().__init__(data, TYPES[dtype], along, Axes(row), Axes(event))


class Target(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_uint64),
        ("type", ctypes.c_int),
        ("per_block", ctypes.c_bool),
        ("row_gap", ctypes.c_int64),
    )

    def __init__(self, data: int = 0, dtype: str = "float32", per_block: bool = False):
        super().__init__(data, TYPES[dtype], per_block, 0)


class Guesses(ctypes.Structure):
    _fields_ = (("used", ctypes.c_uint64), ("history", ctypes.c_int))


class RowTask(ctypes.Structure):
    _fields_ = (
        ("tiling", Tiling),
        ("x_scale", ctypes.c_float),
        ("spread", ctypes.c_int),
        ("summed", ctypes.c_bool),
        ("operands", Operand * 4),
    )


class RowForward(RowTask):
    _fields_ = (("value", Target),)


class RowBackward(RowTask):
    _fields_ = (
        ("cotangent_scale", ctypes.c_float),
        ("of_value", ctypes.c_bool),
        ("wanted", ctypes.c_bool * 4),
        ("sums", ctypes.c_bool * 4),
        ("cotangent", Operand),
        ("gradient", Target * 4),
        ("value", ctypes.c_uint64),
        ("guesses", Guesses),
    )


class SampleTask(ctypes.Structure):
    _fields_ = (
        ("tiling", Tiling),
        ("key", ctypes.c_uint64),
        ("one_key", ctypes.c_bool),
        ("aligned", ctypes.c_bool),
        ("key_rows", Divisor),
        ("elements", ctypes.c_int64),
        ("numbers", ctypes.c_int64),
        ("numbers_before", ctypes.c_int64),
        ("samples", ctypes.c_int64),
        ("mu", Operand),
        ("spread", Operand),
    )


class SampleForward(SampleTask):
    _fields_ = (("of_kl", ctypes.c_bool), ("kl_sums", ctypes.c_bool), ("z", Target), ("kl", Target))


class SampleBackward(SampleTask):
    _fields_ = (
        ("share_log2", ctypes.c_int),
        ("kl_cotangent_scale", ctypes.c_float),
        ("of_z", ctypes.c_bool),
        ("of_kl", ctypes.c_bool),
        ("wanted", ctypes.c_bool * 2),
        ("sums", ctypes.c_bool * 2),
        ("z_cotangent", Operand),
        ("kl_cotangent", Operand),
        ("gradient", Target * 2),
    )


def dims_of(tensor, shape) -> list[tuple[int, int]]:
    """The sizes and strides of a tensor that is broadcast to `shape`, merged as csrc/ops/common/layout.cpp does."""
    merged: list[tuple[int, int]] = []
    expanded = tensor.expand(shape)
    for size, stride in zip(shape, expanded.stride(), strict=True):
        if size == 1:
            continue
        if merged and merged[-1][1] == stride * size:
            merged[-1] = (merged[-1][0] * size, stride)
        else:
            merged.append((size, stride))
    return merged or [(1, 1)]


# ---- The cases ----

# Of each operator: its formula's name in C++ ("" for a sampler), and its operands.
OPERATORS = {
    "bernoulli_log_prob": ("Bernoulli", ("x", "logits")),
    "bernoulli_log_prob_of_probs": ("BernoulliOfProbs", ("x", "probs")),
    "gaussian_log_prob": ("Gaussian", ("x", "mu", "logvar")),
    "gaussian_kl": ("GaussianKl", ("mu", "logvar")),
    "poisson_log_prob": ("Poisson", ("x", "log_rate")),
    "negative_binomial_log_prob": ("NegativeBinomial", ("x", "mean", "dispersion")),
    "zero_inflated_negative_binomial_log_prob": (
        "ZeroInflatedNegativeBinomial",
        ("x", "mean", "dispersion", "gate_logits"),
    ),
    "laplace_log_prob": ("Laplace", ("x", "mu", "scale")),
    "student_t_log_prob": ("StudentT", ("x", "mu", "scale", "df")),
    "continuous_bernoulli_log_prob": ("ContinuousBernoulli", ("x", "logits")),
    "discretized_logistic_log_prob": ("DiscretizedLogistic", ("x", "mu", "log_scale")),
    "rsample": ("", ("mu", "logvar")),
    "rsample_kl": ("", ("mu", "logvar")),
}
# Of enum class Spread; of the other operators 0.
SPREADS = {"laplace_log_prob": 2, "student_t_log_prob": 2, "discretized_logistic_log_prob": 1}


def of_whole_shape(operation):
    """The operation with a parameter for each element in place of one for each feature, which takes other kernels."""

    def inputs(shape, device, dtype):
        given = operation.inputs(shape, device, dtype).items()
        return {k: t.detach().expand(shape.full).clone().requires_grad_(t.requires_grad) for k, t in given}

    return replace(operation, inputs=inputs)


def counted_cases():
    """The benchmark's cases on a GPU, and the shorter rows of its cases on a CPU; each with the directions to count."""
    from . import cases, likelihoods

    table = cases.cases("cuda")
    image, latent = cases.Shape(65536, 784), cases.Shape(65536, 128)
    for dtype in (cases.f32, cases.bf16):
        table += [cases.Case(operation, image, dtype, "sample") for operation in (cases.BERNOULLI, cases.GAUSSIAN)]
        table += [
            cases.Case(operation, latent, dtype, "sample")
            for operation in (cases.KL_TWO_HEADS, cases.RSAMPLE, cases.RSAMPLE_KL)
        ]
    of_cells = (likelihoods.POISSON, likelihoods.NB, likelihoods.ZINB)
    of_images = (
        *(likelihoods.LAPLACE, likelihoods.STUDENT_T),
        *(likelihoods.CONTINUOUS_BERNOULLI, likelihoods.DISCRETIZED_LOGISTIC),
    )
    for shape, operations in ((likelihoods.CELLS, of_cells), (likelihoods.IMAGES, of_images)):
        table += [cases.Case(of_whole_shape(operation), shape, cases.f32, "mean") for operation in operations]
    forward = set()
    for case in table:
        same = (case.operation.name, case.shape.event, case.dtype)
        if same in forward:
            yield case, ("backward",)
        elif case.operation.draws or "one learned scale" in case.operation.name:
            yield case, ("forward", "backward")
        else:
            yield case, ("forward", "backward", "both")
        forward.add(same)


class Call:
    """One kernel of a case, called on few rows: its name, its parameters, and the memory that it works on."""

    def __init__(self, case, direction: str, cotangent=None):
        import torch

        self.cotangent_given = cotangent
        self.case, self.direction, self.torch = case, direction, torch
        self.formula, self.names = OPERATORS[case.operation.operator]
        self.samples = not self.formula
        self.dtype = case.dtype_name
        self.with_kl = case.operation.operator == "rsample_kl"
        self.event = case.shape.event
        # Few rows that a block works on as it does on many.
        whole = self._tiling(case.shape.batch)
        a_row = -(-self.event // whole.block) if whole.rows > 1 else self.event / whole.block
        self.rows = min(max(math.ceil(whole.at_once * whole.rounds / a_row), 2), case.shape.batch)
        self.inputs = replace(case, shape=type(case.shape)(self.rows, self.event)).inputs("cpu")
        if "params" in self.inputs:
            mu, logvar = self.inputs.pop("params").detach().chunk(2, 1)
            self.inputs |= {"mu": mu.requires_grad_(), "logvar": logvar.requires_grad_()}
        self.x_scale = 1 / 255 if self.inputs[self.names[0]].dtype == torch.uint8 else 1.0
        self.tiling = self._tiling(self.rows)
        self.grid = -(-self.tiling.tiles // (whole.at_once * whole.rounds))
        self.memory = sass.Memory()
        self._addresses: dict[int, int] = {}
        self.outputs: dict[str, tuple[int, object]] = {}
        self.kept: list = []  # tensors in `memory`, whose places no others may take
        torch.manual_seed(1)
        self.task = self._sample_task() if self.samples else self._row_task()

    def _tiling(self, rows: int) -> Tiling:
        case, backward = self.case, self.direction == "backward"
        per_row_gradient = backward and "one learned scale" in case.operation.name
        if self.samples:
            summed, unit, block_units = self.with_kl and not backward, constant("kQuad"), constant("kBlockQuads")
            piece = constant("kQuadTile")
        else:
            summed, block_units, piece = (
                not backward or per_row_gradient,
                constant("kBlockUnits"),
                constant("kElementTile"),
            )
            unit = constant("kWide") // case.dtype.itemsize
        # Where nothing is summed, and all operands are one run through memory, the problem is one row.
        halves = "params" in case.inputs("meta")
        if not summed and not halves and case.reduction == "mean":
            rows, event = 1, rows * self.event
        else:
            event = self.event
        stores = backward or self.samples
        return Tiling(rows, event, constant("kBlock") if summed else piece, unit, block_units, stores)

    @property
    def aligned(self) -> bool:
        """As Alignment of csrc/cuda/tiling.h has it, for tensors that PyTorch has allocated."""
        unit = constant("kQuad") if self.samples else constant("kWide") // self.case.dtype.itemsize
        every = min(unit, constant("kWide") // max(t.element_size() for t in self.inputs.values()))
        return self.tiling.rows == 1 or self.event % every == 0

    @property
    def label(self) -> str:
        reduction = "" if self.case.operation.operator == "rsample" else f", {self.case.reduction}"
        if self.direction == "both":
            reduction = ", one pass"  # whatever the reduction
        return f"{self.case.operation.name}, {self.event}, {self.dtype}{reduction}"

    @property
    def name(self) -> str:
        return f"{self.label}, {self.direction}"

    @property
    def elements(self) -> int:
        return self.rows * self.event

    @property
    def kernel(self) -> str:
        """As c++filt writes it."""
        of_type = CPP_TYPES[self.dtype]
        if self.samples:
            quads = "WholeQuad" if self.aligned else "Quad"
            return f"sample_{self.direction}<{of_type}, (aevb::Spread)0, aevb::device::{quads}>"
        first = CPP_TYPES[str(self.inputs[self.names[0]].dtype).removeprefix("torch.")]
        index = "unsigned int" if self.aligned else "long"
        direction = "forward" if self.direction == "forward" else "backward"
        return f"row_{direction}<aevb::device::{self.formula}, (aevb::Spread)0, {of_type}, {first}, {index}>"

    @property
    def bytes_an_element(self) -> float:
        """The fewest that this kernel has to move: it is a pass of its own, which reads its operands."""
        if self.direction == "both":
            return replace(self.case, reduction="mean").floor_bytes / self.case.shape.elements
        forward, backward = replace(self.case, reduction="sample").floors
        return (forward if self.direction == "forward" else backward) / self.case.shape.elements

    def _address(self, tensor) -> int:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._addresses:
            raw = self.torch.tensor([], dtype=self.torch.uint8).set_(storage)
            self._addresses[storage.data_ptr()] = self.memory.add(raw.numpy())
            self.kept.append(tensor)
        return self._addresses[storage.data_ptr()] + tensor.storage_offset() * tensor.element_size()

    def _operand(self, tensor) -> Operand:
        tensor = tensor.detach()
        dims = dims_of(tensor, (self.rows, self.event))
        dtype = str(tensor.dtype).removeprefix("torch.")
        return Operand(self._address(tensor), dtype, dims, self.tiling.event)

    def _output(self, name: str, per_block: bool = False) -> Target:
        torch = self.torch
        if per_block:
            tensor = torch.zeros(self.rows * -(-self.event // constant("kBlock")))
        else:
            tensor = torch.zeros(self.rows, self.event, dtype=self.case.dtype)
        address = self._address(tensor)
        self.outputs[name] = (address, tensor)
        return Target(address, str(tensor.dtype).removeprefix("torch."), per_block)

    def _cotangent(self):
        """Of the value: one number, or one for each row."""
        if self.cotangent_given is not None:
            return self.cotangent_given
        return self.torch.randn(() if self.case.reduction == "mean" else (self.rows, 1))

    @property
    def cotangent_scale(self) -> float:
        return 1 / self.rows if self.case.reduction == "mean" else 1.0

    def _row_task(self):
        operands = [self._operand(self.inputs[name]) for name in self.names]
        summed = self.direction != "backward" or any(self.sums)
        common = (
            self.tiling,
            self.x_scale,
            SPREADS.get(self.case.operation.operator, 0),
            summed,
            (Operand * 4)(*operands, *(Operand() for _ in range(4 - len(operands)))),
        )
        if self.direction == "forward":
            return RowForward(*common, self._output("value", per_block=True))
        both = self.direction == "both"
        self.cotangent = self.torch.ones(()) if both else self._cotangent()
        gradients = [
            self._output(name, per_block=one_number) if wanted else Target()
            for name, wanted, one_number in zip(self.names, self.wanted, self.sums, strict=True)
        ]
        gradients += [Target() for _ in range(4 - len(gradients))]
        which = [(ctypes.c_bool * 4)(*flags) for flags in (self.wanted, self.sums)]
        cotangent = Operand() if both else self._operand(self.cotangent)
        task = RowBackward(*common, self.cotangent_scale, not both, *which, cotangent, (Target * 4)(*gradients))
        if both:
            task.value = self._output("value", per_block=True).data
            task.guesses.used = self._output("guesses", per_block=True).data
            # The history of each key, at first.
            self.memory.of_program = self.memory.add(self.torch.ones(constant("kHistories"), 2).numpy())
        return task

    @property
    def wanted(self) -> list[bool]:
        return [self.inputs[name].requires_grad for name in self.names]

    @property
    def sums(self) -> list[bool]:
        """Which gradients are summed over a row: those of operands that are one number."""
        return [self.inputs[name].dim() == 0 for name in self.names]

    def _sample_task(self):
        torch = self.torch
        self.key = torch.tensor([1, 2])
        backward = self.direction == "backward"
        mu = self._operand(self.inputs["mu"]) if self.with_kl or not backward else Operand()
        common = (self.tiling, self._address(self.key), True, self.aligned, Divisor(self.rows))
        common = (*common, self.elements, self.elements, 0, 1, mu, self._operand(self.inputs["logvar"]))
        if not backward:
            kl = self._output("kl", True) if self.with_kl else Target()
            return SampleForward(*common, self.with_kl, self.with_kl, self._output("z"), kl)
        self.z_cotangent = torch.randn(self.rows, self.event).to(self.case.dtype)
        self.cotangent = self._cotangent()
        of_kl = self._operand(self.cotangent) if self.with_kl else Operand()
        gradients = (Target * 2)(self._output("mu"), self._output("logvar"))
        z_cotangent = self._operand(self.z_cotangent)
        wanted, sums = (ctypes.c_bool * 2)(True, True), (ctypes.c_bool * 2)(False, False)
        which = (True, self.with_kl, wanted, sums)
        return SampleBackward(*common, 0, self.cotangent_scale, *which, z_cotangent, of_kl, gradients)

    def run(self, kernel: sass.Kernel) -> Counter[str]:
        """Executes the kernel, and returns the instructions that its warps issue, by class."""
        issued: Counter[str] = Counter()
        for block in range(self.grid):
            issued += sass.run_block(
                kernel, self.memory, bytes(self.task), self.tiling.threads, grid=self.grid, block=block
            )
        self._check()
        return issued

    def _check(self) -> None:
        """That the kernel has computed what the operator does on the CPU."""
        import aevb_ext

        torch, inputs = self.torch, {name: self.inputs[name] for name in self.names}
        settings = {} if self.case.operation.operator == "rsample" else {"reduction": "sample"}
        if self.samples:
            settings["key"] = self.key
        if self.x_scale != 1:
            settings["x_scale"] = self.x_scale
        results = getattr(aevb_ext, self.case.operation.operator)(**inputs, **settings)
        results = results if isinstance(results, tuple) else (results,)
        if self.direction == "forward":
            expected = dict(zip(("z", "kl") if self.samples else ("value",), results, strict=False))
        else:
            scaled = [] if not hasattr(self, "cotangent") else [self.cotangent.reshape(-1).expand(self.rows)]
            scaled = [one * self.cotangent_scale for one in scaled]
            cotangents = [self.z_cotangent, *scaled][: len(results)] if self.samples else scaled
            learnt = [name for name in inputs if inputs[name].requires_grad]
            gradients = torch.autograd.grad(results, [inputs[name] for name in learnt], cotangents)
            expected = dict(zip(learnt, gradients, strict=True))
            expected |= {"value": results[0], "guesses": torch.ones(self.rows)}
        for name, (address, like) in self.outputs.items():
            raw = self.memory.read(address, like.numel() * like.element_size(), "uint8").copy()
            found = torch.from_numpy(raw).view(like.dtype).view(like.shape)
            found = found.sum_to_size(expected[name].shape)
            near = 2e-2 if like.dtype == torch.bfloat16 else 1e-4
            torch.testing.assert_close(
                found.float(),
                expected[name].detach().float(),
                rtol=near,
                atol=near,
                msg=lambda said, name=name: f"{self.name}: {name} is not the CPU's\n{said}",
            )


# ---- The machine code ----


class Missing(Exception):
    """What is not here, of that which counting needs."""


# What reads machine code, and where it comes from.
TOOLS = {
    "cuobjdump": "`pip install nvidia-cuda-cuobjdump`",
    "nvdisasm": "`pip install nvidia-cuda-nvdisasm`",
    "readelf": "of binutils, as the compiler's linker",
    "c++filt": "of binutils, as the compiler's linker",
}


def tool(name: str) -> str:
    """One of TOOLS: of the toolkit, from the package index, or of the system."""
    places = [Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"]
    places += [Path(folder) / "bin" for path in sys.path for folder in Path(path or ".").glob("nvidia/*")]
    if found := shutil.which(name, path=os.pathsep.join([*map(str, places), os.environ.get("PATH", "")])):
        return found
    raise Missing(f"no {name} ({TOOLS[name]})")


def compiler() -> str:
    nvcc = shutil.which("nvcc", path=Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin") or shutil.which(
        "nvcc"
    )
    if not nvcc:
        raise Missing("no nvcc")
    return f"nvcc {re.search(r'V([0-9.]+)', output(nvcc, '--version'))[1]}"


def output(*command, cwd=None, given: str | None = None) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, input=given, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def objects() -> list[Path]:
    """The newest objects of the CUDA sources, which `make cuda` leaves in build/."""
    folders = {path.parent for path in ROOT.glob("build/temp*/kernels/cuda/*.cu.o")}
    if not folders:
        raise Missing("no compiled CUDA sources in build/ (`make cuda`)")
    return sorted(max(folders, key=lambda path: path.stat().st_mtime).glob("*.cu.o"))


@dataclass(frozen=True)
class Compiled:
    kernel: sass.Kernel
    registers: int
    shared: int
    parameters: int  # bytes


def compiled(files: list[Path], wanted: set[str]) -> dict[str, Compiled]:
    """The wanted kernels of these objects, or cubins, for sm_90."""
    cuobjdump, nvdisasm, readelf, demangle = map(tool, TOOLS)
    found = {}
    for file in files:
        with tempfile.TemporaryDirectory() as folder:
            cubins = [file]
            if file.suffix == ".o":
                output(cuobjdump, "-xelf", ARCH, file.resolve(), cwd=folder)
                cubins = sorted(Path(folder).glob(f"*.{ARCH}.cubin"))
            for cubin in cubins:
                usage = output(cuobjdump, "-res-usage", cubin)
                mangled = re.findall(r"Function (\S+):\s+REG:(\d+) .*?SHARED:(\d+) .*?CONSTANT\[0\]:(\d+)", usage)
                names = output(demangle, given="\n".join(name for name, *_ in mangled)).splitlines()
                names = [re.sub(r"^void aevb::device::|>\(.*$", "", name) + ">" for name in names]
                here = {one[0]: (name, *map(int, one[1:])) for name, one in zip(names, mangled, strict=True)}
                here = {key: value for key, value in here.items() if value[0] in wanted}
                if not here:
                    continue
                symbols = re.findall(r"^ *(\d+): .* FUNC .* (\S+)$", output(readelf, "-sW", cubin), re.MULTILINE)
                only = ",".join(number for number, name in symbols if name in here)
                code = sass.kernels(output(nvdisasm, "-c", "-fun", only, cubin), here)
                for key, (name, registers, shared, constants) in here.items():
                    shared = max(shared - RESERVED_SHARED, 0)
                    found[name] = Compiled(code[key], registers, shared, constants - sass.PARAMETERS)
    return found


# ---- The counts ----


def count(call: Call, code: dict[str, Compiled]) -> tuple[dict[str, int], dict[str, float]]:
    """What is held to the committed numbers, and the instructions an element by class."""
    if call.kernel not in code:
        raise Missing(f"no {call.kernel} for {ARCH} in build/ (TORCH_CUDA_ARCH_LIST has to have 9.0)")
    one = code[call.kernel]
    if one.parameters != ctypes.sizeof(call.task):
        sys.exit(
            f"{call.kernel} takes {one.parameters} bytes of parameters, and {type(call.task).__name__} of "
            f"{Path(__file__).name} has {ctypes.sizeof(call.task)}: it has to follow the struct in csrc/cuda"
        )
    issued = call.run(one.kernel)
    counts = {
        f"{call.name}: registers": one.registers,
        f"{call.name}: spills": one.kernel.spills,
        f"{call.name}: bytes of shared memory": one.shared,
        f"{call.name}: instructions of 1000 elements": round(1000 * sass.LANES * issued.total() / call.elements),
    }
    return counts, {kind: sass.LANES * issued[kind] / call.elements for kind in (*sass.CLASSES, "integer")}


def check_one_pass(case, code: dict[str, Compiled]) -> None:
    """That value and gradients in one pass, for a cotangent of one, have the bits of two passes."""
    import torch

    case = replace(case, shape=type(case.shape)(2, case.shape.event))  # as many rows in each direction
    bits: dict[str, dict] = {}
    for direction in ("forward", "backward", "both"):
        call = Call(case, direction, cotangent=torch.ones(() if case.reduction == "mean" else (2, 1)))
        call.run(code[call.kernel].kernel)
        bits[direction] = {
            name: call.memory.read(address, like.numel() * like.element_size(), "uint8").tobytes()
            for name, (address, like) in call.outputs.items()
        }
    apart = bits["forward"] | bits["backward"]
    if different := [name for name in apart if apart[name] != bits["both"][name]]:
        sys.exit(f"{case}: {', '.join(different)}: one pass has other bits than two")


def table(calls: list[Call], counts: dict[str, int]) -> list[str]:
    """The model's table. A forward that stands in another line already is a dash; one pass is a line of its own."""
    rows: dict[str, list[list[str]]] = {}
    for call in calls:
        instructions = counts[f"{call.name}: instructions of 1000 elements"] / 1000
        ratios = [issue_over_memory(gpu, instructions, call.bytes_an_element) for gpu in GPUS.values()]
        cells = [str(counts[f"{call.name}: registers"]), f"{instructions:.1f}", *(f"{ratio:.2f}" for ratio in ratios)]
        rows.setdefault(call.label, []).append(cells)
    titles = ["forward / backward", "registers", "instructions an element", *GPUS]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for label, cells in rows.items():
        if label.endswith("one pass"):
            lines.append(f"| {' | '.join([label, *cells[0]])} |")
            continue
        forward, backward = cells if len(cells) == 2 else (["-"] * len(cells[0]), *cells)
        both = [f"{one} / {other}" for one, other in zip(forward, backward, strict=True)]
        lines.append(f"| {' | '.join([label, *both])} |")
    return lines


def write_to_docs(lines: list[str]) -> None:
    """Puts the table in the place of the one that stands there."""
    pages = DOCUMENT.read_text().splitlines()
    first = pages.index(lines[0])
    last = next(k for k in range(first, len(pages)) if not pages[k].startswith("|"))
    DOCUMENT.write_text("\n".join([*pages[:first], *lines, *pages[last:]]) + "\n")


def all_calls() -> list[Call]:
    return [Call(case, direction) for case, directions in counted_cases() for direction in directions]


def main() -> int:
    arguments = parser("benchmarks.gpu_instructions", __doc__).parse_args()
    counts: dict[str, int] = {}
    classes: list[str] = []
    try:
        nvcc, files, _ = compiler(), objects(), [tool(name) for name in TOOLS]
        if not comparable(EXPECTED, nvcc, arguments.update):
            return 0
        calls = all_calls()
        code = compiled(files, {call.kernel for call in calls})
        for call in calls:
            found, by_class = count(call, code)
            if call.direction == "both":
                check_one_pass(call.case, code)
            counts |= found
            classes.append(f"{call.name}: " + ", ".join(f"{kind} {number:.1f}" for kind, number in by_class.items()))
    except Missing as missing:
        print(f"!!! The GPU's instructions were NOT counted: {missing} here. !!!")
        return 0
    lines = table(calls, counts)
    print(f"Time to issue over time to move bytes, predicted from the machine code of {nvcc}, confirmed on no GPU:\n")
    print("\n".join(lines))
    print("\nInstructions an element by class:\n")
    print("\n".join(classes), end="\n\n")
    if arguments.update:
        write_to_docs(lines)
    return hold(EXPECTED, nvcc, counts, arguments.update, brief=True)


if __name__ == "__main__":
    sys.exit(main())
