"""Counts instructions of our CPU kernels on fixed small cases: a check of speed without noise.

python -m benchmarks.instructions             exits with 1 when a count has grown by more than a tenth
python -m benchmarks.instructions --update    writes the counts of this build to benchmarks/instructions.json

Counted by `valgrind --tool=callgrind`, inside the kernels alone (from the dispatch on, on one thread), in the AVX2
objects, since valgrind knows no AVX-512. Another compiler makes other instructions: its counts are not held to these.
Where valgrind is not installed nothing is checked, and that is said.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = Path(__file__).with_suffix(".json")
TOLERANCE = 0.10
SHAPE = (64, 784)


def counted(torch, aevb_ext):
    """Name and function of each counted case: forward and backward of each operator, on the same tensors."""
    torch.manual_seed(0)
    x = torch.rand(SHAPE)
    grey = (x * 255).to(torch.uint8)
    counts = torch.where(x < 0.9, 0, grey % 16)
    classes, pixels = grey[:, :49] % 16, grey[:, :216].reshape(-1, 3, 8, 9)
    params = torch.randn(SHAPE[0], 2 * SHAPE[1])
    key = torch.tensor([1, 2])

    def backward(dtype, function):
        mu, logvar = params.to(dtype).requires_grad_().chunk(2, 1)
        outputs = function(mu, logvar)
        torch.autograd.backward(outputs, [torch.ones_like(o) for o in outputs])

    calls = {
        "bernoulli_log_prob mean": lambda mu, _: (aevb_ext.bernoulli_log_prob(x, mu, reduction="mean"),),
        "bernoulli_log_prob sample": lambda mu, _: (aevb_ext.bernoulli_log_prob(x, mu),),
        "bernoulli_log_prob of bytes": lambda mu, _: (aevb_ext.bernoulli_log_prob(grey, mu, x_scale=1 / 255),),
        "bernoulli_log_prob_of_probs mean": lambda mu, _: (
            aevb_ext.bernoulli_log_prob_of_probs(x, mu.sigmoid(), reduction="mean"),
        ),
        "gaussian_log_prob mean": lambda mu, logvar: (aevb_ext.gaussian_log_prob(x, mu, logvar, reduction="mean"),),
        "gaussian_log_prob sample": lambda mu, logvar: (aevb_ext.gaussian_log_prob(x, mu, logvar),),
        "gaussian_kl mean": lambda mu, logvar: (aevb_ext.gaussian_kl(mu, logvar, reduction="mean"),),
        "rsample": lambda mu, logvar: (aevb_ext.rsample(mu, logvar, key=key),),
        "rsample_kl mean": lambda mu, logvar: aevb_ext.rsample_kl(mu, logvar, key=key, reduction="mean"),
    }
    # In one dtype: their arithmetic outweighs its conversion.
    long_formulas = {
        "poisson_log_prob": lambda mu, _: (aevb_ext.poisson_log_prob(counts, mu),),
        "negative_binomial_log_prob": lambda mu, logvar: (
            aevb_ext.negative_binomial_log_prob(counts, mu.exp(), logvar[0].exp()),
        ),
        "negative_binomial_log_prob of logits": lambda mu, logvar: (
            aevb_ext.negative_binomial_log_prob(counts, logits=mu, total_count=logvar[0].exp()),
        ),
        "zero_inflated_negative_binomial_log_prob": lambda mu, logvar: (
            aevb_ext.zero_inflated_negative_binomial_log_prob(counts, mu.exp(), mu[0].exp(), logvar),
        ),
        "laplace_log_prob": lambda mu, logvar: (aevb_ext.laplace_log_prob(x, mu, logvar.exp()),),
        "student_t_log_prob": lambda mu, logvar: (aevb_ext.student_t_log_prob(x, mu, logvar.exp(), mu[0].exp()),),
        "continuous_bernoulli_log_prob": lambda mu, _: (aevb_ext.continuous_bernoulli_log_prob(x, mu),),
        "discretized_logistic_log_prob": lambda mu, logvar: (
            aevb_ext.discretized_logistic_log_prob(grey, mu, logvar, x_scale=1 / 255),
        ),
        "categorical_log_prob": lambda mu, _: (aevb_ext.categorical_log_prob(classes, mu.unflatten(1, (49, 16))),),
        "discretized_logistic_mixture_log_prob": lambda mu, _: (
            aevb_ext.discretized_logistic_mixture_log_prob(pixels, mu[:, :720].unflatten(1, (10, 8, 9))),
        ),
        "mixture_log_prob": lambda mu, logvar: (
            aevb_ext.mixture_log_prob(mu[:, :50], mu[:40, 50:100], logvar[:40, :50]),
        ),
        "mixture_log_prob factorised": lambda mu, logvar: (
            aevb_ext.mixture_log_prob(mu[:, :50], mu[:40, 50:100], logvar[:40, :50], factorised=True),
        ),
    }
    for name, function in calls.items():
        for dtype in (torch.float32, torch.bfloat16):
            yield f"{name}, {str(dtype).removeprefix('torch.')}", lambda f=function, d=dtype: backward(d, f)
    for name, function in long_formulas.items():
        yield f"{name}, float32", lambda f=function: backward(torch.float32, f)


def execute() -> None:
    """Runs under callgrind, which writes and resets its counts whenever build_info() is called."""
    import torch

    import aevb_ext

    for name, call in counted(torch, aevb_ext):
        aevb_ext.build_info()
        call()
        print(name, flush=True)
    aevb_ext.build_info()


def count(valgrind: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        # Everything below aevb::cpu::rows(...), sample_forward(...), ...; none of them calls another.
        kernels = [f"aevb::cpu::{call}*(aevb::{call.title()}Call const&)" for call in ("row", "sample", "mixture")]
        kernels.append("aevb::cpu::positions(aevb::PositionCall const&)")
        command = [valgrind, "-q", "--tool=callgrind", "--collect-atstart=no", f"--callgrind-out-file={folder}/out"]
        command += [f"--toggle-collect={kernel}" for kernel in kernels]
        command += ["--dump-before=aevb::cpu::instruction_sets()", sys.executable, "-m", __spec__.name, "--execute"]
        environment = {**os.environ, "AEVB_CPU_ISA": "avx2", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"callgrind failed:\n{done.stdout}{done.stderr}")
        dumps = sorted(Path(folder).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        # The first counts are from before the first case.
        totals = [int(re.search(r"^totals: (\d+)", path.read_text(), re.MULTILINE)[1]) for path in dumps[1:]]
    return dict(zip(done.stdout.splitlines(), totals, strict=True))


def compare(found: dict[str, int], expected: dict[str, int]) -> tuple[list[str], bool]:
    """A line for each count, and whether each has a committed count and does not exceed it by the tolerance."""
    lines, good = [], set(found) == set(expected)
    width = max(map(len, [*expected, *found]), default=0) + 1
    for name in dict.fromkeys([*expected, *found]):
        if name not in found or name not in expected:
            lines.append(f"{name:{width}} {'no longer counted' if name in expected else 'no expected count'}: --update")
            continue
        change = found[name] / expected[name] - 1 if expected[name] else float(found[name])
        note = "TOO MANY" if change > TOLERANCE else "fewer: --update" if change < -TOLERANCE else ""
        good = good and change <= TOLERANCE
        lines.append(f"{name:{width}} {found[name]:>12,} of {expected[name]:>12,}  {change:+7.1%}  {note}".rstrip())
    return lines, good


def recorded(file: Path) -> dict:
    return json.loads(file.read_text()) if file.exists() else {"compiler": "", "instructions": {}}


def comparable(file: Path, compiler: str, update: bool) -> bool:
    """Whether this compiler's counts can be held to the committed ones; says so where they cannot."""
    committed = recorded(file)["compiler"]
    if update or compiler.partition(".")[0] == committed.partition(".")[0]:
        return True
    print(f"!!! Instructions were NOT counted: compiler {compiler}, not {committed}. !!!")
    return False


def hold(file: Path, compiler: str, found: dict[str, int], update: bool, brief: bool = False) -> int:
    """Prints the counts beside the committed ones (`brief`: where they differ), and writes them if they are the new
    reference; the status to exit with."""
    lines, good = compare(found, recorded(file)["instructions"])
    if brief:
        print(f"{len(found)} counts; those that are not as committed:")
        lines = [line for line in lines if not line.endswith("+0.0%")] or ["none"]
    print("\n".join(lines))
    if update:
        file.write_text(json.dumps({"compiler": compiler, "instructions": found}, indent=1) + "\n")
        return 0
    return 0 if good else 1


def parser(module: str, description: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--update", action="store_true", help="write the counts of this build as the reference")
    return made


def main() -> int:
    options = parser("benchmarks.instructions", __doc__)
    options.add_argument("--execute", action="store_true", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.execute:
        execute()
        return 0

    import aevb_ext

    about = aevb_ext.build_info()
    valgrind = shutil.which("valgrind")
    if not valgrind or "avx2" not in about["cpu_built"]:
        print(f"!!! Instructions were NOT counted: {'no valgrind' if not valgrind else 'no AVX2 objects'} here. !!!")
        return 0
    if not comparable(EXPECTED, about["compiler"], arguments.update):
        return 0
    return hold(EXPECTED, about["compiler"], count(valgrind), arguments.update)


if __name__ == "__main__":
    sys.exit(main())
