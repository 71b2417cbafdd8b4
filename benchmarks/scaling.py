"""The time of a step that several processes share: python -m benchmarks.scaling

The step is that of the benchmark table (784-500-20-500-784, Adagrad). Each way to run it is a job of its own, with its
number of processes and of threads in each; the jobs take turns. Printed are milliseconds, and efficiency against one
process with one thread: strong, at the same minibatch; weak, at the same share of it for each process.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch

from aevb_ext.learners import AEVB
from aevb_ext.train import joined, make_step

from .machine import cpu_name
from .training import STEPSIZE, WARM_UP, data_set, initial

BATCHES = 100, 8192
WAYS = {"1 process, 1 thread": (1, 1), "1 process, 2 threads": (1, 2), "2 processes, 1 thread each": (2, 1)}
SECONDS, BURSTS = 0.8, 5  # that the steps at one size are timed, and in how many parts


def batches() -> list[int]:
    """Those that are timed: each, and as much for each of two processes."""
    return sorted({n * batch for batch in BATCHES for n in (1, 2)})


def of_this_process() -> None:
    """Time the steps at each size; the first process prints them as JSON."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with joined() as processes:
        data, found = data_set("cpu"), {}
        for batch in batches():
            model = initial()
            learner = AEVB(model, len(data), batch_size=batch, lr=STEPSIZE, processes=processes)
            step = make_step(learner, data, rank=processes.rank, world_size=processes.world_size)
            found[batch] = _seconds(step, processes)
            learner.leave()
        if processes.are_several:
            gradient = torch.zeros(sum(p.numel() for p in model.parameters()))
            found["all-reduce"] = _seconds(lambda: processes.sum(gradient), processes)
        if processes.is_first:
            print(json.dumps(found))


def _seconds(call, processes) -> float:
    def burst(repeats: int) -> float:
        processes.gather(None)
        start = time.perf_counter()
        for _ in range(repeats):
            call()
        processes.gather(None)
        return (time.perf_counter() - start) / repeats

    burst(WARM_UP["cpu"])
    # All processes take as many.
    repeats = max(processes.gather(max(1, round(SECONDS / BURSTS / burst(2)))))
    return statistics.median(burst(repeats) for _ in range(BURSTS))


def job(n: int, threads: int) -> dict[str, float]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    command = [*launch, "-m", "benchmarks.scaling", "--of-this-process"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--of-this-process", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=2, help="turns of each job; default: %(default)s")
    arguments = parser.parse_args()
    if arguments.of_this_process:
        of_this_process()
        return
    rounds = [{way: job(*how) for way, how in WAYS.items()} for _ in range(arguments.rounds)]
    seconds = {way: {key: min(r[way][key] for r in rounds) for key in rounds[0][way]} for way in WAYS}
    print(f"{cpu_name()}, torch {torch.__version__}")
    alone, two_threads, two = seconds.values()
    for batch in BATCHES:
        one = alone[str(batch)]
        ways = {
            "1 process, 1 thread": (batch, one, 1.0),
            "1 process, 2 threads": (batch, two_threads[str(batch)], one / two_threads[str(batch)] / 2),
            "2 processes, strong": (batch, two[str(batch)], one / two[str(batch)] / 2),
            "2 processes, weak": (2 * batch, two[str(2 * batch)], one / two[str(2 * batch)]),
        }
        for way, (m, s, efficiency) in ways.items():
            print(f"| {way} | {m} | {s * 1e3:.2f} | {m / s:,.0f} | {efficiency:.2f} |")
    print(f"all-reduce of the gradient alone, 2 processes: {two['all-reduce'] * 1e3:.2f} ms")


if __name__ == "__main__":
    main()
