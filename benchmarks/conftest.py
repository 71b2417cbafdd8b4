import pytest
import torch

from .measure import copy_bandwidth


@pytest.fixture(scope="session")
def bandwidth():
    """Of a large copy on a device, measured once."""
    measured = {}

    def of(device: torch.device) -> float:
        if device.type not in measured:
            measured[device.type] = copy_bandwidth(device)
        return measured[device.type]

    return of
