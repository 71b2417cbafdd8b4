"""The parts of a random call: shapes, numbers from tiny to huge, dtypes, and memory layouts."""

import random

import torch
from cases import LAYOUTS, SPREADS, in_parameterisation, lay_out

DTYPES = (torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16)
DATA_DTYPES = (torch.uint8, torch.bool, torch.float64, torch.float32, torch.bfloat16, torch.float16)
SIZES = (0, 1, 1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33)
# Row sums are in blocks of 8192.
LONG = (63, 64, 65, 255, 784, 8191, 8192, 8193, 20000)
MOST = 30_000  # elements of a tensor


class Draw:
    """All choices of one case, by its number."""

    def __init__(self, number: int):
        self.choice = random.Random(number)
        self.generator = torch.Generator().manual_seed(number)

    def often(self, probability: float) -> bool:
        return self.choice.random() < probability

    def one_of(self, options):
        return self.choice.choice(options)

    def sizes(self, least: int, most: int) -> tuple[int, ...]:
        return tuple(self.one_of(SIZES) for _ in range(self.choice.randint(least, most)))

    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """Those of samples, batch and event: `samples + batch + event` has at most MOST elements."""
        while True:
            samples = self.sizes(0, 2) if self.often(0.3) else ()
            batch = self.sizes(0, 2) if self.often(0.3) else self.sizes(1, 1)
            event = (self.one_of(LONG),) if self.often(0.1) else self.sizes(0, 3)
            if torch.Size(samples + batch + event).numel() <= MOST:
                return samples, batch, event

    def uniform(self, shape) -> torch.Tensor:
        return torch.rand(shape, generator=self.generator, dtype=torch.float64)

    def normal(self, shape) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def number(self, shape) -> torch.Tensor:
        """Of size 1, of one other size, or of every size at once; some of them special."""
        match self.choice.randrange(4):
            case 0 | 1:
                t = self.normal(shape)
            case 2:
                t = self.normal(shape) * 10 ** self.choice.uniform(-8, 4)
            case _:
                t = self.normal(shape).sign() * 10 ** (12 * self.uniform(shape) - 8)
        return self._with_special(t, (0.0, -0.0, 1.0, -1.0, 0.5, 17.0, -88.5, 1e4, -1e4, 1e-30))

    def log_variance(self, shape) -> torch.Tensor:
        match self.choice.randrange(3):
            case 0:
                t = 4 * self.uniform(shape) - 2
            case 1:
                t = self.normal(shape) * 10 ** self.choice.uniform(-8, 1)
            case _:
                t = 40 * self.uniform(shape) - 25
        return self._with_special(t.clamp(-60, 30), (0.0, 1e-8, -1e-4, -60.0, 20.0))

    def unit(self, shape) -> torch.Tensor:
        return self._with_special(self.uniform(shape), (0.0, 1.0, 0.5))

    def probability(self, shape) -> torch.Tensor:
        if self.often(0.5):
            return self._with_special(0.02 + 0.96 * self.uniform(shape), (0.5,))
        return self._with_special(torch.sigmoid(self.number(shape)), (0.0, 1.0, 1e-8, 1 - 2**-11))

    def _with_special(self, t, numbers) -> torch.Tensor:
        if not self.often(0.2):
            return t
        special = torch.tensor(numbers, dtype=t.dtype)
        which = torch.randint(len(numbers), t.shape, generator=self.generator)
        return torch.where(self.uniform(t.shape) < 0.2, special[which], t)

    def key(self, batch: tuple[int, ...] = ()) -> torch.Tensor:
        return torch.randint(-(2**63), 2**63 - 1, (*batch, 2), generator=self.generator)

    def lie(self, t: torch.Tensor) -> torch.Tensor:
        """A tensor of its shape, however it lies in memory: "expanded" repeats its first entry."""
        return self._lay_out(t, ("contiguous", "contiguous", *LAYOUTS))

    def lie_as(self, t: torch.Tensor) -> torch.Tensor:
        """The same numbers, however they lie in memory."""
        return self._lay_out(t, tuple(LAYOUTS.keys() - {"expanded"}))

    def _lay_out(self, t, layouts) -> torch.Tensor:
        layout = self.one_of(sorted(layouts))
        return lay_out(t, layout) if t.numel() else t  # nothing has no first entry, and no gaps

    def spread(self, log_variance: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, str]:
        name = self.one_of(SPREADS)
        return self.in_spread(log_variance, name, dtype), name

    def in_spread(self, log_variance: torch.Tensor, spread: str, dtype: torch.dtype) -> torch.Tensor:
        return _finite(in_parameterisation(log_variance, spread), dtype, positive=spread in ("std", "var"))

    def as_dtype(self, t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        return _finite(t, dtype)


def _finite(t: torch.Tensor, dtype: torch.dtype, positive: bool = False) -> torch.Tensor:
    """In its dtype, where nothing becomes infinite, nor a positive number zero."""
    info = torch.finfo(dtype)
    return t.clamp(info.tiny if positive else info.min, info.max).to(dtype)
