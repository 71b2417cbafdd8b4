"""Times the operators and the training step against their rivals, and plots the results.

python -m benchmarks                     the whole table: benchmarks/results/<machine>.json, docs/performance/*.png
python -m benchmarks --check FILE        exits with 1 when something asked is missed; prints the worst first
python -m benchmarks --markdown FILE     the tables of docs/performance.md
python -m benchmarks --plots FILE        the pictures
"""

import argparse
import json
import sys
import time
import traceback
from pathlib import Path

import torch

from . import check, integrations, report, sweeps, training, users
from .cases import cases
from .machine import environment, file_name
from .measure import FULL, QUICK, Effort, copy_bandwidth, measure

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PICTURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "performance"


def pieces(device: torch.device, effort: Effort, only: str):
    """A piece of the measurements: its place in the results, and the function that measures it."""
    for case in cases(device.type):
        if only in str(case):
            yield "cases", lambda case=case: [measure(case, device, effort)]
    for step in users.STEPS if device.type == "cpu" else ():
        if any(only in str(one) for one in users.of_step(step)):
            yield "users", lambda step=step: users.measure(step, users.EFFORT if effort == FULL else effort)
    if device.type == "cpu" and only in "threads":
        yield "by_threads", lambda: sweeps.threads(device)
    if only in "scaling":
        yield "by_elements", lambda: sweeps.scaling(device)
    for program in integrations.programs():
        if only in str(program):
            yield "integrations", lambda program=program: [integrations.measure(program, device, effort)]
    # Last: our step makes the C library keep freed memory in the whole process, from which rivals would gain.
    for one in training.trainings(device.type):
        if only in str(one):
            yield "training", lambda one=one: [training.measure(one, device, effort)]
    if only in "batches":
        yield "by_batch", lambda: sweeps.batches(device)


def run(device: torch.device, effort: Effort, only: str, out: Path | None, seconds: float, resume: bool) -> dict:
    """Measures, prints, and writes the results after each piece: an interruption or failure loses one piece."""
    start = time.monotonic()
    results = {**environment(device), "copy_bytes_per_second": copy_bandwidth(device)}
    results |= {"cases": [], "integrations": [], "training": [], "by_threads": [], "by_elements": []}
    results |= {"users": [], "by_batch": [], "only": only, "pieces": 0, "failed": []}
    print(report.where(results), f"copy {results['copy_bytes_per_second'] / 1e9:.1f} GB/s", sep="; ", flush=True)
    path = out and out / f"{file_name(results)}.json"
    if resume and path and path.is_file():
        before = json.loads(path.read_text())
        if all(before.get(name) == results[name] for name in ("device", "torch", "aevb_ext", "only")):
            results |= before
            print(f"{before['pieces']} pieces were measured before", flush=True)
            for failure in results["failed"]:
                print(failure)
    for number, (kind, piece) in enumerate(pieces(device, effort, only)):
        if number < results["pieces"]:
            continue
        failure = None
        try:
            for figures in piece():
                results[kind].append(figures)
                print(report.line(figures), flush=True)
                for name, why in figures["failures"].items():
                    print(f"    {name} does not run here: {why}")
        except Exception as error:
            failure = error
            results["failed"].append(f"piece {number}, of {kind}: {type(error).__name__}: {error}")
            traceback.print_exc()
        results["pieces"] += 1
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(results, indent=1) + "\n")
        if isinstance(failure, torch.AcceleratorError):  # after which a GPU takes nothing more from this process
            raise failure
        if time.monotonic() - start > seconds:
            print(f"stopped after {seconds:.0f} s: what follows is not measured", flush=True)
            return results
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder for results and pictures")
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="the cases with this in their name; not written without --out"
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no new case after this time")
    parser.add_argument(
        "--resume", action="store_true", help="go on with the figures in --out, measured with this build"
    )
    done = parser.add_mutually_exclusive_group()
    for name in ("check", "markdown", "plots"):
        done.add_argument(
            f"--{name}",
            nargs="?",
            type=Path,
            const=Path(),
            metavar="FILE",
            help=f"{name} of these results, or of new ones",
        )
    arguments = parser.parse_args()

    given = arguments.check or arguments.markdown or arguments.plots
    new = given in (None, Path())
    whole = not (arguments.only or arguments.quick)
    out = arguments.out or (RESULTS if whole and new else None)
    if new:
        effort = QUICK if arguments.quick else FULL
        results = run(torch.device(arguments.device), effort, arguments.only, out, arguments.seconds, arguments.resume)
    else:
        results = json.loads(given.read_text())
    if arguments.markdown:
        print(report.markdown(results))
    if arguments.plots or (new and out):
        try:
            from . import plots
        except ImportError as missing:
            if arguments.plots:
                return f"no pictures: {missing}"
            print(f"no pictures: {missing}")
        else:
            for picture in plots.draw(results, arguments.out or PICTURES):
                print(picture)
    if arguments.check:
        text, reached = check.report(results)
        print(text)
        return 0 if reached else 1
    return 1 if new and results["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
