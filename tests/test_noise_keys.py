"""One noise key for each data point: its noise depends on its key alone, not on the batch."""

import itertools

import pytest
import torch
from cases import DTYPES, LAYOUTS, keys, lay_out
from noise_definition import normals

import aevb_ext
from aevb_ext import noise

# Sizes of the batch, sizes of the event. Several rows of a few elements are worked on together, long ones in pieces.
SHAPES = [
    ((700,), (1,)),
    ((300,), (3,)),
    ((40,), (7,)),
    ((40,), ()),
    ((3,), (784,)),
    ((2,), (9001,)),
    ((3,), (3, 4, 6)),
    ((5, 60), (3,)),
    ((3, 2), (65,)),
    ((2, 3, 4), (5, 2)),
]


def _inputs(batch, event, dtype=torch.float32, layout="contiguous", device="cpu"):
    generator = torch.Generator().manual_seed(0)
    mu, logvar = torch.randn(2, *batch, *event, generator=generator).to(device, dtype)
    return [lay_out(t, layout).detach().requires_grad_() for t in (mu, logvar)]


def _results(function, mu, logvar, **options):
    """Outputs and the gradients of all of them."""
    outputs = function(mu, logvar, **options)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return *outputs, *torch.autograd.grad([o.float().sin().sum() for o in outputs], (mu, logvar))


# And how many dimensions of the batch have keys.
CASES = [(batch, event, depth) for batch, event in SHAPES for depth in range(1, len(batch) + 1)]


@pytest.mark.parametrize("n_samples", [None, 1, 3])
@pytest.mark.parametrize(("batch", "event", "depth"), CASES, ids=str)
def test_the_noise_of_the_definition(batch, event, depth, n_samples, device):
    """That of key b is `standard_normal(key[b], (*n_samples, *rest of mu's shape))`."""
    key = keys(batch[:depth]).to(device)
    zeros = torch.zeros(*batch, *event, dtype=torch.float64, device=device)
    drawn = aevb_ext.rsample(zeros, zeros, key=key, n_samples=n_samples).cpu()
    samples = () if n_samples is None else (n_samples,)
    shape = (*samples, *zeros.shape[depth:])
    python = noise.standard_normal(key, shape, torch.float64).cpu()
    assert python.shape == (*batch[:depth], *shape)
    for b in itertools.product(*map(range, batch[:depth])):
        expected, radius = normals(key.cpu()[b], shape)
        own = drawn[(slice(None),) * len(samples) + b]
        assert own.shape == expected.shape
        for found in (own, python[b]):
            assert ((found - expected).abs() <= 1e-14 * (1 + radius)).all()


@pytest.mark.parametrize("function", [aevb_ext.rsample, aevb_ext.rsample_kl], ids=lambda f: f.__name__)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("batch", "event", "depth"), CASES, ids=str)
def test_a_data_point_is_the_same_alone(batch, event, depth, layout, function, device):
    """Sample, KL and gradients, bit for bit: what is beside it in the batch is of no account."""
    options = {} if function is aevb_ext.rsample else {"batch_dims": len(batch)}
    for dtype, n_samples in itertools.product(DTYPES, (None, 3)):
        mu, logvar = _inputs(batch, event, dtype, layout, device)
        key = keys(batch[:depth]).to(device)
        together = _results(function, mu, logvar, key=key, n_samples=n_samples, **options)
        for b in {0, batch[0] // 2, batch[0] - 1}:
            part = [t[b : b + 1].detach().requires_grad_() for t in (mu, logvar)]
            alone = _results(function, *part, key=key[b : b + 1], n_samples=n_samples, **options)
            of_samples = (slice(None),) * (n_samples is not None)
            expected = [t[(*(of_samples if i == 0 else ()), slice(b, b + 1))] for i, t in enumerate(together)]
            if layout == "expanded":  # the gradient of each is the sum of all
                expected, alone = expected[:-2], alone[:-2]
            for a, e in zip(alone, expected, strict=True):
                assert torch.equal(a, e)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_key_given_to_a_batch_of_one(dtype, device):
    """`[2]` is a key for all; where all is one data point, `[1, 2]` is the same."""
    for batch, event in (((1,), (37,)), ((1, 1), (784,))):
        mu, logvar = _inputs(batch, event, dtype, device=device)
        key = keys((1,)).to(device)
        for n_samples in (None, 2):
            for a, b in zip(
                _results(aevb_ext.rsample_kl, mu, logvar, key=key, n_samples=n_samples),
                _results(aevb_ext.rsample_kl, mu, logvar, key=key[0], n_samples=n_samples),
                strict=True,
            ):
                assert torch.equal(a, b)


def test_numbers_with_keys_of_their_own(device):
    """All dimensions of mu may have keys: then each number has the first of its key's normals."""
    key = keys((4, 5)).to(device)
    mu = torch.zeros(4, 5, dtype=torch.float64, device=device)
    z = aevb_ext.rsample(mu, mu, key=key)
    expected = torch.stack([normals(k, (1,))[0] for k in key.cpu().reshape(-1, 2)]).reshape(4, 5)
    torch.testing.assert_close(z.cpu(), expected, rtol=1e-13, atol=1e-13)


def test_strided_keys(device):
    mu, logvar = _inputs((6,), (33,), device=device)
    key = keys((6,)).to(device)
    expected = aevb_ext.rsample(mu, logvar, key=key)
    for strided in (key.t().contiguous().t(), torch.stack([key, key], 1)[:, 0], key.flip(0).flip(0)):
        assert torch.equal(aevb_ext.rsample(mu, logvar, key=strided), expected)
    same = aevb_ext.rsample(mu[:1].expand(6, 33), logvar[:1].expand(6, 33), key=key[:1].expand(6, 2))
    assert torch.equal(same, expected[:1].expand(6, 33))


def test_threads():
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            for batch, event in (((3000,), (11,)), ((30, 100), (11,)), ((3,), (30_011,))):
                mu, logvar = _inputs(batch, event)
                results.append(_results(aevb_ext.rsample_kl, mu, logvar, key=keys(batch[:1]), n_samples=2))
    finally:
        torch.set_num_threads(before)
    for i, result in enumerate(results[3:]):
        for a, b in zip(results[i % 3], result, strict=True):
            assert torch.equal(a, b)


@pytest.mark.compiled("only kernels write gradients side by side")
@pytest.mark.cpu_kernels("gradients are written side by side on the CPU alone")
@pytest.mark.parametrize("function", [aevb_ext.rsample, aevb_ext.rsample_kl], ids=lambda f: f.__name__)
@pytest.mark.parametrize(("batch", "event"), [((4,), (33,)), ((300,), (3,)), ((3, 2), (14,))], ids=str)
def test_gradients_of_halves(batch, event, function):
    """Side by side without a copy, and to the bit those of chunk."""
    options = {} if function is aevb_ext.rsample else {"batch_dims": len(batch)}
    generator = torch.Generator().manual_seed(0)
    params, key = torch.randn(*batch, 2 * event[0], generator=generator).requires_grad_(), keys(batch)

    def of(split, n_samples):
        outputs = function(*split(params, -1), key=key, n_samples=n_samples, **options)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        return torch.autograd.grad([o.sin().sum() for o in outputs], params)[0]

    for n_samples in (None, 2):
        expected = of(lambda t, dim: t.chunk(2, dim), n_samples)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            found = of(aevb_ext.halves, n_samples)
        assert "aten::cat" not in {event.name for event in profile.events()}
        assert found.is_contiguous() and torch.equal(found, expected)


class TestGenerators:
    """A list of generators gives a key for each."""

    @staticmethod
    def _list(device, seeds=(5, 6, 7)):
        return [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def test_noise_keys(self, device):
        found = aevb_ext.noise_key(generator=self._list(device))
        expected = torch.stack([aevb_ext.noise_key(generator=g) for g in self._list(device)])
        assert found.shape == (3, 2) and found.device.type == device.type and torch.equal(found, expected)
        assert torch.equal(aevb_ext.noise_key(device, tuple(self._list(device))), expected)
        assert aevb_ext.noise_key(device, []).shape == (0, 2)

    def test_one_generator_twice(self, device):
        """Each data point takes its turn."""
        one = torch.Generator(device).manual_seed(1)
        found = aevb_ext.noise_key(generator=[one, one])
        assert not torch.equal(found[0], found[1])

    def test_samples(self, device):
        mu, logvar = _inputs((3,), (8, 5), device=device)
        z = aevb_ext.rsample(mu, logvar, generator=self._list(device))
        assert torch.equal(z, aevb_ext.rsample_kl(mu, logvar, generator=self._list(device))[0])
        for b, seed in enumerate((5, 6, 7)):
            alone = aevb_ext.rsample(mu[b : b + 1], logvar[b : b + 1], generator=self._list(device, (seed,)))
            assert torch.equal(alone, z[b : b + 1])
            assert torch.equal(
                alone[0], aevb_ext.rsample(mu[b], logvar[b], generator=torch.Generator(device).manual_seed(seed))
            )

    def test_of_another_number_than_the_batch(self, device):
        mu, logvar = _inputs((4,), (2,), device=device)
        for function in (aevb_ext.rsample, aevb_ext.rsample_kl):
            with pytest.raises(ValueError, match=r"generator is a list of 3, but mu has shape \[4, 2\]"):
                function(mu, logvar, generator=self._list(device))
        with pytest.raises(ValueError, match=r"generator is a list of 3, but mu has shape \[\]"):
            aevb_ext.rsample(mu[0, 0], logvar[0, 0], generator=self._list(device))

    def test_of_another_device(self):
        with pytest.raises(ValueError, match=r"generator is on cpu.*meta"):
            aevb_ext.noise_key("meta", [torch.Generator()])
