"""Each operator forward and backward; pytest-benchmark's figures are ours, the rivals' are in `extra_info`.

`pytest benchmarks -k "gaussian and cpu"`. Timings never fail; an operator that does not run does.
"""

import pytest
import torch

from .cases import rows
from .measure import TURNS, measure, peak_bytes, step


def _parameters():
    for device in ("cpu", "cuda"):
        marks = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
        for row in rows(device):
            yield pytest.param(device, row, id=f"{device}: {row}", marks=marks if device == "cuda" else [])


@pytest.mark.parametrize(("device", "row"), list(_parameters()))
def test_operator(benchmark, bandwidth, device, row):
    device = torch.device(device)
    result = measure(row, device)
    of_copy = result.gb_per_second * 1e9 / bandwidth(device)
    benchmark.group = row.operation.name
    benchmark.extra_info.update(result.summary(), of_copy=of_copy)

    call = step(row.operation.implementations["ours"], row.operation.tensors(row.size, device, row.dtype))
    finish = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    benchmark.pedantic(lambda: (call(), finish()), rounds=TURNS[0], warmup_rounds=1)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_peak_memory_is_the_peak(device):
    """Of what is known: two results and what was held at once while they came about."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU")
    n = 1 << 20
    x = torch.zeros(n, device=device)

    def call():
        y = x + 1  # 4n
        z = y + 1  # 8n
        del y  # 4n
        w = z.expand(2, n) + 1  # 12n
        return w.sum()

    assert peak_bytes(call, torch.device(device)) == pytest.approx(12 * n, abs=4096)
