"""Some random calls of every public function; `make fuzz` makes more."""

import pytest

from aevb_ext import compat, functional

from .check import BUILDERS, check
from .drawing import Draw

PARTS, CASES = 8, 60


@pytest.mark.parametrize("part", range(PARTS))
def test_random_calls(part):
    faults = [wrong for number in range(part * CASES, (part + 1) * CASES) if (wrong := check(number)[1])]
    assert not faults, "\n".join(faults)


def test_every_public_function_is_called():
    """Among the cases of fixed numbers, by its own name or as a method of what it makes."""
    draws = map(Draw, range(PARTS * CASES))
    names = {draw.one_of(BUILDERS)(draw).name for draw in draws}
    public = {*functional.__all__, *(f"compat.{name}" for name in compat.__all__), "nn.Linear", "nn.ELBO"}
    public |= {"DiagonalGaussian.log_prob", "DiagonalGaussian.kl", "DiagonalGaussian.entropy"}
    public |= {"Bernoulli(logits).log_prob", "Bernoulli(probs).log_prob"}
    assert public - names == {"noise_key"}  # which takes no tensors
