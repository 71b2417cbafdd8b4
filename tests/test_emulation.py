"""The CUDA kernels on the CPU (tests/emulation): what every test of the emulated library asks of them beside values.

The machine finds each fault that it is there for; no order of threads, nor size of the grid, changes a bit; indices
reach beyond 32 bits.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from cases import OPERATORS, Case, Shape
from program import same_bits

import aevb_ext

ROOT = Path(__file__).resolve().parents[1]
EMULATION = ROOT / "tests" / "emulation"

pytestmark = pytest.mark.skipif(not aevb_ext.build_info()["emulated"], reason="`make emulate` runs it")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Calls the compiler, with the headers and flags of the build, and more."""
    setup = runpy.run_path(str(ROOT / "setup.py"))
    folder = tmp_path_factory.mktemp("programs")
    compiler, flags = setup["host_compiler"]()
    usual = [*compiler, f"-I{EMULATION}", *setup["CXX_FLAGS"], "-O1"]

    def call(name: str, *more) -> Path:
        command = [*usual, *flags, *more, "-o", folder / name]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(map(str, command))}\n{done.stderr}"
        return folder / name

    call.of_kernels = setup["EMULATED_FLAGS"]
    return call


@pytest.fixture(scope="module")
def program(compiled):
    """Makes a program of a source in tests/emulation and the objects that the library was linked of."""
    objects = sorted(ROOT.glob(f"build/temp.*-{sys.implementation.cache_tag}/emulated/*.o"))
    assert objects, "the objects of the emulated library are not here: type `make emulate`"

    def build(source: str) -> Path:
        flags = compiled.of_kernels if source.endswith(".cu") else []
        named = [EMULATION / source, "-x", "none", *objects]
        return compiled(Path(source).stem, *flags, "-x", "c++", *named, "-rdynamic", "-ldl")

    return build


FAULTS = {
    "lane_leaves_out_a_shuffle": (r"a shuffle that not all lanes of its mask reach: this one does not", 37),
    "lanes_at_two_shuffles": (r"lanes of a warp that are at different shuffles", 1),
    "mask_without_the_lane": (r"a shuffle whose mask does not name the lane itself", 31),
    "thread_leaves_out_a_barrier": (r"a barrier that not all threads of the block reach: 63 of 64 wait there", 5),
    "warp_waits_elsewhere": (r"a barrier that not all threads of the block reach: 32 of 64 wait there", 32),
    "missing_barrier": (r"shared memory is read that thread 0 has written, with no barrier between", 1),
    "barrier_before_reuse_missing": (r"shared memory is \w+ that .* has \w+, with no barrier between", r"\d+"),
    "shared_not_written": (r"shared memory is read that another block has written, and not this one", 63),
    "unaligned_load": (r"an access to 16 bytes that is not aligned to them", 0),
    "unaligned_store": (r"an access to 8 bytes that is not aligned to them", 0),
    "load_beyond_the_end": (r"a load of 4 bytes 0 bytes behind the end of in", 63),
    "store_beyond_the_end": (r"a store of 4 bytes 0 bytes behind the end of out", 63),
    "store_before_the_start": (r"a store of 4 bytes 4 bytes before out", 0),
    "null_pointer": (r"a load of 4 bytes at a null pointer", 0),
    "store_to_an_operand": (r"a store of 4 bytes to in, an operand", 0),
    "load_from_a_result": (r"a load from out, which the launch writes", 0),
    "written_twice": (r"a store of 4 bytes to byte 32 of out, which has been written", 9),
}


def test_the_machine_finds_each_fault(program):
    """And says which kernel, block and thread it is in; the sound kernel that is run after each has none."""
    said = subprocess.run([program("faults.cu")], capture_output=True, text=True, check=True).stdout.splitlines()
    faulty, sound = dict(line.split(": ", 1) for line in said[::2]), said[1::2]
    assert sound == ["sound: nothing"] * len(faulty)
    assert faulty.pop("sound") == "nothing"
    assert faulty.pop("not_written") == "emulated CUDA: byte 252 of out, of 256, is not written"
    assert faulty.keys() == FAULTS.keys()
    for name, (what, thread) in FAULTS.items():
        where = (
            rf", in faults::{name}\(faults::Task\), block \((0, 0\) of \(1|1, 0\) of \(2), 1\), thread {thread} of 64"
        )
        assert re.fullmatch(f"emulated CUDA: {what}.*{where}", faulty[name]), faulty[name]


@pytest.fixture(scope="module")
def checks(program):
    return program("checks.cpp")


CHECKS = [
    "no_cotangent",
    "a_right_guess_leaves_the_gradient",
    "a_wrong_guess_costs_no_bit",
    "only_rows_of_another_cotangent_are_computed",
    "histories_that_others_write",
    "noise_keys",
    "box_muller_of_every_mantissa",
    "rows_beyond_32_bits",
    "a_row_beyond_32_bits",
    "noise_beyond_32_bits",
    "bits_beyond_32_bits",
    "sweep",
]


def said_by(program, check):
    done = subprocess.run([program, check], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["accesses_are_seen", *CHECKS])
def test_calls_that_no_tensor_makes(checks, name):
    assert said_by(checks, name) == (0, "")


@pytest.mark.slow
def test_calls_under_sanitizers(compiled):
    """AddressSanitizer, which sees a thread's own arrays too, and what C++ leaves undefined: minutes to compile."""
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    flags = [*sanitizers, "-g1", "-fno-strict-aliasing", "-Wno-unknown-pragmas", "-Wno-error"]
    sources = [*sorted((ROOT / "csrc" / "cuda").glob("*.cu")), EMULATION / "machine.cpp", EMULATION / "checks.cpp"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(lambda s: compiled(f"{s.name}.o", *flags, "-x", "c++", "-c", s), sources))
    program = compiled("sanitized", *sanitizers, *objects, "-rdynamic", "-ldl")
    assert {check: said_by(program, check) for check in CHECKS} == dict.fromkeys(CHECKS, (0, ""))


# Rows for a thread, a warp and a block of threads, and of several blocks that are summed.
SHAPES = [Shape((37,), (3,), (2,)), Shape((5,), (63,), (3,)), Shape((3,), (784,)), Shape((2,), (8192 + 1100,))]


def _value_and_gradients(operator, shape, dtype, form):
    call = Case(operator, shape, dtype, form=form).build().differentiable()
    outputs = call.run()
    return *outputs, *torch.autograd.grad([o.sum() for o in outputs], list(call.floating().values()))


@pytest.mark.parametrize("operator", OPERATORS, ids=str)
def test_no_order_and_no_grid_changes_a_bit(monkeypatch, operator):
    """Of results, gradients and sums over rows: threads in other orders, and few blocks that go round."""
    settings = [("ORDER", order) for order in ("reverse", "shuffled", "ahead")] + [("BLOCKS", "1"), ("BLOCKS", "3")]
    for number, shape in enumerate(SHAPES):
        of = (operator, shape, torch.bfloat16 if number == 1 else torch.float32, "scalar" if number == 2 else "full")
        expected = _value_and_gradients(*of)
        for name, value in settings:
            with monkeypatch.context() as patch:
                patch.setenv(f"AEVB_EMULATION_{name}", value)
                assert same_bits(_value_and_gradients(*of), expected), (shape, name, value)


def test_no_order_and_no_grid_changes_a_bit_of_data(monkeypatch):
    key, packed = torch.tensor([3, 4]), torch.arange(4000, dtype=torch.uint8).reshape(50, 80)
    x = torch.rand(50, 63)

    def results():
        return aevb_ext.binarize(x, key), aevb_ext.unpack_bits(packed, 637)

    expected = results()
    for name, value in (("ORDER", "reverse"), ("ORDER", "shuffled"), ("ORDER", "ahead"), ("BLOCKS", "1")):
        with monkeypatch.context() as patch:
            patch.setenv(f"AEVB_EMULATION_{name}", value)
            assert same_bits(results(), expected), (name, value)


@pytest.mark.parametrize("factorised", [False, True], ids=["joint", "factorised"])
def test_no_order_and_no_grid_changes_a_bit_of_mixtures(monkeypatch, factorised):
    """Of several tiles of rows and of components, and of several blocks for the dimensions of one."""
    shapes = {"z": (70, 70), "mu_k": (90, 70), "logvar_k": (90, 1), "logits_k": (90,)}
    operands = [torch.randn(shape).requires_grad_() for shape in shapes.values()]

    def results():
        values = aevb_ext.mixture_log_prob(*operands, factorised=factorised)
        return values, *torch.autograd.grad(values.sum(), operands)

    expected = results()
    for name, value in (("ORDER", "shuffled"), ("ORDER", "ahead"), ("BLOCKS", "1")):
        with monkeypatch.context() as patch:
            patch.setenv(f"AEVB_EMULATION_{name}", value)
            assert same_bits(results(), expected), (name, value)


def test_an_order_that_is_none(monkeypatch):
    """What goes wrong in a launch is a Python exception."""
    monkeypatch.setenv("AEVB_EMULATION_ORDER", "sideways")
    with pytest.raises((RuntimeError, ValueError), match="expected forward, reverse, shuffled or ahead"):
        aevb_ext.binarize(torch.rand(3), torch.tensor([3, 4]))


def test_who_uses_it_is_told():
    """By a warning at the import, and by `aevb doctor`, which finds no other fault."""
    done = subprocess.run([sys.executable, "-m", "aevb_ext", "doctor"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "RuntimeWarning: this aevb_ext was built with AEVB_CUDA=emulated, for tests" in done.stderr
    assert "no CUDA but its kernels emulated" in done.stdout and "AEVB_CUDA=0 pip install" in done.stdout
    assert "\n1 fault\n" in done.stdout
