"""What `make count-gpu` goes by, without nvcc: machine code that is executed, the model, and the committed counts."""

import json
import sys

import numpy as np
import pytest
import torch

from benchmarks import gpu_instructions, instructions, sass

pytestmark = pytest.mark.once("the counts are of text and NumPy")

HEADER = """
    S2R R0, SR_TID.X
    ULDC.64 UR4, c[0x0][0x208]
    LDC.64 R2, c[0x0][0x210]
    LDC.64 R4, c[0x0][0x218]
    IMAD.WIDE.U32 R2, R0, 0x4, R2
    IMAD.WIDE.U32 R4, R0, 0x4, R4
    LDG.E.CONSTANT R6, desc[UR4][R2.64]
"""
FOOTER = """
    STG.E desc[UR4][R4.64], R7
    EXIT
"""


def kernel_of(body):
    """The body between a load of in[thread] to R6, and a store of R7 to out[thread]; labels end in a colon."""
    lines, address = [".text.kernel:"], 0
    for line in map(str.strip, (HEADER + body + FOOTER).splitlines()):
        if line.endswith(":"):
            lines.append(line)
        elif line:
            lines.append(f"        /*{address:04x}*/                   {line} ;")
            address += 16
    return sass.kernels("\n".join(lines), {"kernel"})["kernel"]


def execute(body, numbers, threads=32):
    """out[thread], as float32 and as uint32, and what was issued."""
    memory = sass.Memory()
    source, target = memory.add(np.asarray(numbers)), memory.add(np.zeros(threads, np.float32))
    parameters = np.array([source, target], np.uint64).tobytes()
    issued = sass.run_block(kernel_of(body), memory, parameters, threads)
    return memory.read(target, threads, np.float32), memory.read(target, threads, np.uint32), issued


NUMBERS = np.linspace(-3, 3, 32, dtype=np.float32)
WORDS = np.random.default_rng(0).integers(0, 2**32, 32, dtype=np.uint32)


def test_arithmetic_and_what_a_warp_issues():
    found, _, issued = execute("FFMA R7, R6, 2, 1", NUMBERS)
    np.testing.assert_array_equal(found, NUMBERS * 2 + 1)
    assert issued == {"integer": 3, "memory": 5, "float": 1, "flow": 1}
    assert execute("FFMA R7, R6, 2, 1", np.tile(NUMBERS, 2), threads=64)[2] == {k: 2 * n for k, n in issued.items()}


@pytest.mark.parametrize(
    "body, expected",
    [
        ("FADD R7, |R6|, -R6", np.abs(NUMBERS) - NUMBERS),
        ("FMUL.D2 R7, R6, -3", NUMBERS * np.float32(-1.5)),
        ("FMUL.RM R7, R6, 0.333333343267440795898", None),
        ("FFMA.SAT R7, R6, 0.5, 0.5", np.clip(NUMBERS * 0.5 + 0.5, 0, 1)),
        ("FMNMX R7, R6, 1, !PT", np.maximum(NUMBERS, 1)),
        ("MUFU.EX2 R7, R6", np.exp2(np.float64(NUMBERS))),  # of float32 it is another on other CPUs
        ("FSETP.GEU.AND P0, PT, R6, 1, PT\nFSEL R7, R6, -R6, !P0", np.where(NUMBERS < 1, NUMBERS, -NUMBERS)),
        ("MOV R7, 0x3f800000\n@!P1 FADD R7, R7, R6", NUMBERS + 1),
        ("F2I.TRUNC.NTZ R7, R6\nI2FP.F32.S32 R7, R7", np.trunc(NUMBERS)),
        ("SHFL.BFLY PT, R7, R6, 0x1, 0x1f", NUMBERS.reshape(-1, 2)[:, ::-1].reshape(-1)),
    ],
)
def test_floats(body, expected):
    found = execute(body, NUMBERS)[0]
    if expected is None:
        third = np.float64(NUMBERS) * np.float32("0.333333343267440795898")
        assert (found <= third).all() and (np.nextafter(found, np.float32(np.inf)) > third).all()
    else:
        np.testing.assert_array_equal(found, expected.astype(np.float32))


@pytest.mark.parametrize(
    "body, expected",
    [
        ("LOP3.LUT R7, R6, 0xff00, R0, 0x96, !PT", lambda w, t: w ^ 0xFF00 ^ t),
        ("SHF.R.S32.HI R7, RZ, 0x1f, R6", lambda w, t: 0xFFFFFFFF if w >> 31 else 0),
        ("SHF.L.U64.HI R7, R6, 0x4, R0", lambda w, t: (t << 32 | w) << 4 >> 32),
        ("SHF.R.U64 R7, R6, 0x4, R0", lambda w, t: (t << 32 | w) >> 4),
        ("IMAD.HI.U32 R7, R6, 0xcccccccd, RZ", lambda w, t: w * 0xCCCCCCCD >> 32),
        ("LEA.HI R7, R6, R0, RZ, 0x2", lambda w, t: t + (w << 2 >> 32)),
        ("PRMT R7, R6, 0x9810, R0", lambda w, t: w & 0xFFFF | (w >> 7 & 1) * 0xFF0000 | (w >> 15 & 1) * 0xFF000000),
        ("IADD3 R8, P0, -R6, R0, RZ\nIADD3.X R7, P0, RZ, -0x1, RZ, P0, !PT", lambda w, t: (t - w) >> 32),
        ("IMAD.WIDE.U32 R8, P0, R6, R6, RZ\nIMAD.WIDE.U32 R10, P0, R6, 0x10, R8\nIMAD.MOV.U32 R7, RZ, RZ, R11",
         lambda w, t: (w * w + 16 * w) >> 32),
        ("ISETP.GT.AND P0, PT, R6, 0x5, PT\nISETP.LT.U32.OR P1, PT, R0, 0x3, P0\nSEL R7, R0, 0x7, P1",
         lambda w, t: t if (5 < w < 2**31) or t < 3 else 7),
        ("ISETP.GE.U32.AND P0, PT, R6, 0x80000000, PT\nISETP.GE.AND.EX P0, PT, R0, 0x5, PT, P0\nSEL R7, R0, RZ, P0",
         lambda w, t: t if (t << 32 | w) >= (5 << 32 | 0x80000000) else 0),
    ],
)  # fmt: skip
def test_integers(body, expected):
    found = execute(body, WORDS)[1]
    assert found.tolist() == [expected(int(w), t) % 2**32 for t, w in enumerate(WORDS)]


def test_narrowing_to_bfloat16_rounds_as_torch_does():
    numbers = np.append(WORDS[:-1].view(np.float32), np.float32(np.nan))
    found = execute("F2FP.BF16.F32.PACK_AB R7, RZ, R6", numbers)[1]
    expected = torch.from_numpy(numbers).to(torch.bfloat16)
    torch.testing.assert_close(
        torch.from_numpy(found.astype(np.uint16)).view(torch.bfloat16), expected, rtol=0, atol=0, equal_nan=True
    )


SHUFFLE = "SHFL.BFLY PT, R7, R7, 0x10, 0x1f"
DIVERGING = f"""
    ISETP.GE.U32.AND P0, PT, R0, 0x8, PT
    BSSY B0, `(.L_meet)
    @P0 BRA `(.L_other)
    FADD R7, R6, 1
    BRA `(.L_meet)
.L_other:
    FADD R7, R6, 2
.L_meet:
    BSYNC B0
    {SHUFFLE}
"""


def test_lanes_that_part_meet_again_and_cost_both_ways():
    found, _, issued = execute(DIVERGING, NUMBERS)
    apart = NUMBERS + np.where(np.arange(32) < 8, np.float32(1), np.float32(2))
    np.testing.assert_array_equal(found, np.roll(apart, 16))
    assert issued["float"] == 2
    together = execute(DIVERGING.replace("0x8,", "0x20,"), NUMBERS)[2]
    assert issued["float"] - together["float"] == 1


def test_a_loop_ends_for_each_lane_when_its_number_is_reached():
    body = "MOV R8, RZ\nMOV R7, RZ\n.L_again:\nIADD3 R8, R8, 0x1, RZ\nFADD R7, R7, 1\n"
    body += "ISETP.LE.U32.AND P0, PT, R8, R0, PT\n@P0 BRA `(.L_again)"
    found, _, issued = execute(body, NUMBERS)
    assert found.tolist() == list(range(1, 33))
    assert issued["float"] == 32


@pytest.mark.parametrize(
    "body, error, message",
    [
        ("FROB R7, R6", sass.Unknown, "FROB"),
        ("FADD.ODD R7, R6, R6", sass.Unknown, "FADD.ODD"),
        ("LDG.E R7, desc[UR4][R2.64+0x4]", IndexError, "is in no array"),
        ("LDG.E.64 R8, desc[UR4][R2.64]", IndexError, "is not aligned"),
        (
            DIVERGING.replace("BSYNC B0", "NOP").replace("FADD R7, R6, 1", SHUFFLE),
            RuntimeError,
            "not all lanes .* shuffle",
        ),
    ],
)
def test_what_is_wrong_is_an_error(body, error, message):
    with pytest.raises(error, match=message):
        execute(body, NUMBERS)


def test_warps_of_a_block_meet_at_barriers_and_share_memory():
    body = """
    IMAD.SHL.U32 R8, R0, 0x4, RZ
    STS [R8], R6
    BAR.SYNC.DEFER_BLOCKING 0x0
    LOP3.LUT R8, R8, 0x80, RZ, 0x3c, !PT
    LDS R7, [R8]
    """
    numbers = np.arange(64, dtype=np.float32)
    assert execute(body, numbers, threads=64)[0].tolist() == [*range(32, 64), *range(32)]


def test_the_model():
    h100, h200 = gpu_instructions.GPUS["H100"], gpu_instructions.GPUS["H200"]
    # 132 multiprocessors issue four instructions of 32 threads a clock: 29.65e12 a second, for 3e12 bytes.
    assert gpu_instructions.issue_over_memory(h100, 79.07, 8) == pytest.approx(1, rel=1e-3)
    assert gpu_instructions.issue_over_memory(h200, 79.07, 8) == pytest.approx(4.3 / 3, rel=1e-3)
    assert gpu_instructions.issue_over_memory(h100, 79.07, 4) == pytest.approx(2, rel=1e-3)


def test_a_count_of_zero_may_not_grow():
    assert instructions.compare({"spills": 0}, {"spills": 0})[1]
    assert not instructions.compare({"spills": 1}, {"spills": 0})[1]


def test_counts_are_held_to_the_committed_ones(tmp_path, capsys):
    file = tmp_path / "counts.json"
    committed = {"a: registers": 64, "a: instructions of 1000 elements": 50000}
    assert instructions.hold(file, "nvcc 13.0.88", committed, update=False, brief=True) == 1
    assert instructions.hold(file, "nvcc 13.0.88", committed, update=True, brief=True) == 0
    capsys.readouterr()
    assert instructions.hold(file, "nvcc 13.0.88", committed, update=False, brief=True) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["none"]
    grown = committed | {"a: instructions of 1000 elements": 56000}
    assert instructions.hold(file, "nvcc 13.0.88", grown, update=False, brief=True) == 1
    assert [line.split()[-2:] for line in capsys.readouterr().out.splitlines()[1:]] == [["TOO", "MANY"]]
    assert instructions.comparable(file, "nvcc 13.3.1", update=False)
    assert not instructions.comparable(file, "nvcc 12.9.0", update=False)


def test_every_kernel_of_the_cases_has_committed_counts_and_stands_in_the_documentation():
    calls = gpu_instructions.all_calls()
    reference, page = json.loads(gpu_instructions.EXPECTED.read_text()), gpu_instructions.DOCUMENT.read_text()
    committed = reference["instructions"]
    assert {name.rpartition(": ")[0] for name in committed} == {call.name for call in calls}
    assert not any(n for name, n in committed.items() if name.endswith(": spills"))
    assert "\n".join(gpu_instructions.table(calls, committed)) + "\n\n" in page and reference["compiler"] in page
    # A few rows stand for all: a block has as much to do as on all of them.
    assert all(call.grid * call.tiling.threads <= 512 and call.rows <= 128 for call in calls)


def test_what_is_missing_is_said(monkeypatch, capsys):
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "argv", ["gpu_instructions"])
    assert gpu_instructions.main() == 0
    assert capsys.readouterr().out == "!!! The GPU's instructions were NOT counted: no nvcc here. !!!\n"
