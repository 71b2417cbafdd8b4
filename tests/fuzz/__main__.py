"""Runs random cases until interrupted, in one process per core, and prints those that are wrong."""

import argparse
import os
import sys
import time
from contextlib import suppress
from multiprocessing import get_context

from .check import outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    numbers = range(options.first, options.first + options.cases)
    cases, calls, faults, started = 0, 0, 0, time.monotonic()
    with get_context("spawn").Pool(options.processes) as pool:
        with suppress(KeyboardInterrupt):  # what was done by then is told
            for count, wrong in pool.imap_unordered(outcome, numbers, chunksize=50):
                cases, calls = cases + 1, calls + count
                if wrong:
                    faults += 1
                    print(wrong, flush=True)
        pool.terminate()
    print(
        f"{calls:,} calls in {cases:,} of {len(numbers):,} cases, {faults} faults, {time.monotonic() - started:.0f} s"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
