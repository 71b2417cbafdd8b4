"""How time grows with the number of elements and the minibatch, and falls with the number of threads."""

from collections.abc import Iterator

import torch

from . import cases, training
from .cases import Case, Shape
from .measure import Effort, cores, measure

# Rows as long as those of the table; nearly a power of ten elements each.
SCALED = [
    (cases.BERNOULLI, 784),
    (cases.GAUSSIAN, 784),
    (cases.KL_TWO_HEADS, 128),
    (cases.RSAMPLE_KL_TWO_HEADS, 128),
]
DECADES = (1e3, 1e4, 1e5, 1e6, 1e7, 1e8)
BETWEEN = (3e3, 3e4, 3e5, 3e6, 3e7)  # ours only: the rivals' curves are clear without these
EFFORT = Effort(0.2, 3)
# One formulation each, the most common one. The table has the others, and the ratios come from it.
FORMULATIONS = ("textbook",)

# Of a whole training step.
BATCHES = {"cpu": (100, 512, 2048, 8192, 32768, 65536), "cuda": (100, 512, 2048, 8192, 32768, 65536, 262144)}
BATCH_EFFORT = Effort(3, 5)


def scaled(operation: cases.Operation, event: int, elements: float) -> Case:
    return Case(operation, Shape(max(1, round(elements / event)), event), torch.float32, "mean")


def scaling(device: torch.device) -> Iterator[dict]:
    for operation, event in SCALED:
        for elements in sorted((*DECADES, *BETWEEN)):
            only = ("ours",) if elements in BETWEEN else None
            yield measure(scaled(operation, event, elements), device, EFFORT, FORMULATIONS, only)


def thread_counts() -> list[int]:
    """Powers of two, and the number of cores."""
    return sorted({1 << i for i in range(cores().bit_length())} & set(range(cores())) | {cores()})


def threads(device: torch.device) -> Iterator[dict]:
    """As many elements as a large minibatch has, on more and more threads. torch.compile compiles for each number."""
    before = torch.get_num_threads()
    try:
        for operation, event in SCALED:
            for count in thread_counts():
                torch.set_num_threads(count)
                yield {**measure(scaled(operation, event, 1e7), device, EFFORT, FORMULATIONS), "threads": count}
    finally:
        torch.set_num_threads(before)


def batches(device: torch.device) -> Iterator[dict]:
    """Training steps with increasing minibatches."""
    for batch in BATCHES[device.type]:
        yield training.measure(training.Training(batch, asked={"jax": 1.0}), device, BATCH_EFFORT)
