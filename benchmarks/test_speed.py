"""The table under pytest-benchmark: its figures are ours, the rivals' are in `extra_info`.

`pytest benchmarks -k "gaussian and cpu"`. Timings never fail; an operator that does not run does.
"""

import pytest
import torch

from .cases import cases
from .measure import QUICK, measure, step


def _parameters():
    for device in ("cpu", "cuda"):
        marks = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
        for case in cases(device):
            yield pytest.param(device, case, id=f"{device}: {case}", marks=marks if device == "cuda" else [])


@pytest.mark.parametrize(("device", "case"), list(_parameters()))
def test_speed(benchmark, device, case):
    device = torch.device(device)
    benchmark.group = case.operation.name
    benchmark.extra_info.update(measure(case, device, QUICK))

    call = step(case.bind(case.operation.ours), case.inputs(device), case)
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    benchmark.pedantic(lambda: (call(), finish()), rounds=QUICK.turns, warmup_rounds=1)
