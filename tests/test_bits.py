"""Binary data: drawing bits from their probabilities by a key, and unpacking bits from bytes."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from cases import LAYOUTS, keys, lay_out
from noise_definition import philox4x32_10
from torch.func import vmap

import aevb_ext
from aevb_ext import reference
from aevb_ext.noise import keys_at

DTYPES = (torch.uint8, torch.bool, torch.float32, torch.float64, torch.bfloat16, torch.float16)
# Sizes of the batch that have keys of their own, and the rest.
SHAPES = [((), (5, 784)), ((5,), (784,)), ((300,), (3,)), ((2,), (9001,)), ((4, 5), (7,)), ((3,), ()), ((), ())]


def _words(key, count, start=0):
    """Words `start` ... of a key, as NumPy draws them."""
    seed, offset = (int(k) % 2**64 for k in key)
    block = np.arange(start // 4, (start + count + 3) // 4, dtype=np.uint64)
    parts = [(np.uint64(n & 0xFFFFFFFF), np.uint64(n >> 32)) for n in (offset, seed)]
    counter = [block & np.uint64(0xFFFFFFFF), block >> np.uint64(32), *parts[0]]
    drawn = np.stack(np.broadcast_arrays(*philox4x32_10(counter, parts[1])), -1)
    return drawn.ravel()[start % 4 :][:count]


def _data(shape, dtype, device="cpu"):
    """Probabilities, and what they are multiplied by; floating ones also lie outside [0, 1]."""
    unit = torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if dtype == torch.uint8:
        return (unit * 255).round().to(device, dtype), 1 / 255
    if dtype == torch.bool:
        return (unit > 0.5).to(device), 0.75
    return (1.5 * unit - 0.25).to(device, dtype), 0.75


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("batch", "event"), SHAPES, ids=str)
def test_the_definition(batch, event, dtype, device):
    """Bit for bit that of NumPy, whose float64 holds words and float32 probabilities; and of plain PyTorch."""
    (x, scale), key = _data((*batch, *event), dtype, device), keys(batch).to(device)
    bits = aevb_ext.binarize(x, key, x_scale=scale)
    words = np.stack([_words(k, math.prod(event)) for k in key.cpu().reshape(-1, 2)]).reshape(bits.shape)
    wide = x.double() if dtype == torch.float64 else x.float()
    assert bits.dtype == torch.uint8 and bits.shape == x.shape and bits.device == x.device
    assert np.array_equal(bits.cpu().numpy(), words < (wide * (scale * 2**32)).cpu().double().numpy())
    assert torch.equal(bits, reference.binarize(x, key, x_scale=scale))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_comparison_is_exact(dtype, device):
    """Probabilities next to a word on either side, and words of few bits: as rational numbers compare."""
    key = torch.tensor([7, 8])
    words = [int(w) for w in _words(key, 1 << 16)]
    small = sorted(range(1 << 16), key=words.__getitem__)[:100]
    for chosen in (range(400), small):
        numbers = torch.tensor([words[i] for i in chosen], dtype=torch.float64).div(2**32).to(dtype)
        for ulps in (-1, 0, 1):
            near = torch.zeros(1 << 16, dtype=dtype)
            moved = torch.nextafter(numbers, torch.full_like(numbers, ulps * math.inf)) if ulps else numbers
            near[list(chosen)] = moved
            bits = aevb_ext.binarize(near.to(device), key.to(device)).cpu()
            expected = [words[i] < Fraction(p) * 2**32 for i, p in zip(chosen, moved.tolist(), strict=True)]
            assert bits[list(chosen)].bool().tolist() == expected


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d.is_floating_point], ids=str)
def test_ends(dtype, device):
    """0 and less never, 1 and more always; NaN is no probability, and no bit."""
    for p, bit in ((0, 0), (-0.0, 0), (-1, 0), (-math.inf, 0), (1, 1), (2, 1), (1e4, 1), (math.inf, 1), (math.nan, 0)):
        x = torch.full((1 << 16,), p, dtype=dtype, device=device)
        assert (aevb_ext.binarize(x, torch.tensor([3, 4], device=device)) == bit).all()


def test_bytes_reach_both_ends(device):
    """255 / 255 is 1, whatever the rounding of 1 / 255."""
    key = torch.tensor([3, 4], device=device)
    for byte, bit in ((0, 0), (255, 1)):
        x = torch.full((1 << 18,), byte, dtype=torch.uint8, device=device)
        assert (aevb_ext.binarize(x, key, x_scale=1 / 255) == bit).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "contiguous"])
def test_layouts(layout, dtype, device):
    for batch, event in (((), (5, 63)), ((5,), (63,)), ((3,), (4, 5, 6))):
        x, scale = _data((*batch, *event), dtype, device)
        x, key = lay_out(x, layout), keys(batch).to(device)
        expected = aevb_ext.binarize(x.contiguous(), key, x_scale=scale)
        assert torch.equal(aevb_ext.binarize(x, key, x_scale=scale), expected)


@pytest.mark.parametrize("event", [(1,), (7,), (784,), (3, 4, 6), (9001,)], ids=str)
def test_batches_split_as_one_likes(event, device):
    """The draw of a data point is that of its key."""
    (x, scale), key = _data((13, *event), torch.uint8, device), keys((13,)).to(device)
    whole = aevb_ext.binarize(x, key, x_scale=scale)
    for sizes in ((1,) * 13, (5, 8), (12, 1)):
        parts = zip(x.split(sizes), key.split(sizes), strict=True)
        assert torch.equal(torch.cat([aevb_ext.binarize(*part, x_scale=scale) for part in parts]), whole)
    order = torch.randperm(13, generator=torch.Generator().manual_seed(0)).to(device)
    assert torch.equal(aevb_ext.binarize(x[order], key[order], x_scale=scale), whole[order])


def test_threads():
    before, results = torch.get_num_threads(), []
    (x, scale), packed = _data((3000, 37), torch.uint8), torch.randint(256, (3000, 98), dtype=torch.uint8)
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            drawn = [aevb_ext.binarize(x, key, x_scale=scale) for key in (keys(()), keys((3000,)))]
            results.append([*drawn, aevb_ext.unpack_bits(packed, 779), aevb_ext.unpack_bits(packed, 784)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


def test_a_fresh_key_follows_the_generator(device):
    x = torch.full((1000,), 0.5, device=device)
    torch.manual_seed(5)
    first, second = aevb_ext.binarize(x), aevb_ext.binarize(x)
    assert not torch.equal(first, second)
    torch.manual_seed(5)
    assert torch.equal(aevb_ext.binarize(x, aevb_ext.noise_key(device)), first)
    generators = [torch.Generator(device).manual_seed(seed) for seed in (1, 2)]
    both = aevb_ext.binarize(x.reshape(2, 500), generator=generators)
    alone = aevb_ext.binarize(x[:500].reshape(1, 500), generator=[torch.Generator(device).manual_seed(2)])
    assert torch.equal(both[1:], alone)


class TestStatistics:
    """With another key each assertion would fail with a probability of about 1e-6 (5.3 standard deviations: 1.2e-7)."""

    def test_frequencies(self):
        """2^12 epochs of the 256 bytes, with keys as a trainer has them.

        Of the 254 bytes that are not certain together, to the two quantiles of chi-square(254) of 5e-7; and of each, to
        6.5 standard deviations (by the binomial distribution, one of 254 is beyond with a probability of 1.1e-7).
        """
        x = torch.arange(256, dtype=torch.uint8).expand(1 << 12, 256)
        draws = aevb_ext.binarize(x, keys_at(0, "binarize", torch.arange(1 << 12)), x_scale=1 / 255)
        n, p = len(draws), torch.arange(256, dtype=torch.float64)[1:-1] / 255
        ones = draws.sum(0, dtype=torch.float64)[1:-1]
        z = (ones - n * p) / (n * p * (1 - p)).sqrt()
        assert 158 < float(z.square().sum()) < 380
        assert float(z.abs().max()) < 6.5

    def test_independence(self):
        """Of neighbours, of data points and of epochs: correlations of fair bits, each held to 5.3 / sqrt(n)."""
        fair = torch.full((1 << 10, 1 << 10), 0.5)
        index = torch.arange(1 << 10)
        epochs = [aevb_ext.binarize(fair, keys_at(0, "binarize", e * 50_000 + index)) * 2.0 - 1 for e in (0, 1)]
        other_seed = aevb_ext.binarize(fair, keys_at(1, "binarize", index)) * 2.0 - 1
        first = epochs[0]
        pairs = [(first[:, lag:], first[:, :-lag]) for lag in (1, 2, 3, 4, 5, 8, 16, 128)]
        pairs += [(first[lag:], first[:-lag]) for lag in (1, 2, 4)]
        pairs += [(first, epochs[1]), (first, other_seed)]
        for a, b in pairs:
            assert abs(float((a * b).mean(dtype=torch.float64))) < 5.3 / math.sqrt(a.numel())

    def test_independence_of_the_latents(self):
        """Under keys of their own purposes, bits say nothing of the noise; under the same key they would."""
        fair, index = torch.full((1 << 10, 1 << 10), 0.5), torch.arange(1 << 10)
        bits = aevb_ext.binarize(fair, keys_at(0, "binarize", index)) * 2.0 - 1
        zero = torch.zeros(1 << 10, 1 << 10)
        eps = aevb_ext.rsample(zero, zero, key=keys_at(0, "posterior", index))
        for noise in (eps, eps.square() - 1):
            spread = noise.std() / math.sqrt(noise.numel())
            assert abs(float((bits * noise).mean(dtype=torch.float64))) < 5.3 * spread


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 63, 64, 65, 784, 785, 100_003])
def test_unpack_bits_is_numpys(n, device):
    bits = torch.randint(2, (3, n), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    packed = torch.from_numpy(np.packbits(bits.numpy(), axis=1))
    assert np.array_equal(np.unpackbits(packed.numpy(), axis=1, count=n), bits.numpy())
    for unpack in (aevb_ext.unpack_bits, reference.unpack_bits):
        found = unpack(packed.to(device), n)
        assert found.dtype == torch.uint8 and torch.equal(found.cpu(), bits)


def test_every_byte(device):
    packed = torch.arange(256, dtype=torch.uint8, device=device)
    expected = torch.tensor([[int(digit) for digit in f"{byte:08b}"] for byte in range(256)], dtype=torch.uint8)
    for given, shape in ((packed, (-1,)), (packed.reshape(256, 1), (256, 8)), (packed.reshape(4, 8, 8), (4, 8, 64))):
        n = 8 * given.shape[-1]
        assert torch.equal(aevb_ext.unpack_bits(given, n).cpu(), expected.reshape(shape))


def test_unpack_bits_of_strided_bytes(device):
    packed = torch.randint(256, (6, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    for strided in (packed[::2], packed[:, 1:], packed.t().contiguous().t(), packed[:1].expand(6, 10)):
        for n in (8 * strided.shape[1] - 3, 8 * strided.shape[1]):
            assert torch.equal(
                aevb_ext.unpack_bits(strided, n),
                aevb_ext.unpack_bits(strided.clone(memory_format=torch.contiguous_format), n),
            )


@pytest.mark.parametrize("dims", [(0, 0), (1, 0), (0, None), (None, 0)], ids=str)
def test_vmap(dims, device):
    """Each element draws by its key, or all by the one."""
    x, scale = _data((3, 4, 5), torch.uint8, device)
    for key in (keys((3,)).to(device), keys((3, 4)).to(device)):
        given = [t[0] if dim is None else t.movedim(0, dim) for t, dim in zip((x, key), dims, strict=True)]
        found = vmap(lambda x, key: aevb_ext.binarize(x, key, x_scale=scale), in_dims=dims)(*given)
        whole = [t.expand(3, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(given, dims, strict=True)]
        expected = [aevb_ext.binarize(*one, x_scale=scale) for one in zip(*whole, strict=True)]
        assert torch.equal(found, torch.stack(expected))


def test_vmap_of_unpack_bits(device):
    packed = torch.randint(256, (3, 4, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).to(device)
    for dim in (0, 1):
        found = vmap(lambda p: aevb_ext.unpack_bits(p, 13), in_dims=dim)(packed)
        assert torch.equal(found, aevb_ext.unpack_bits(packed, 13).movedim(dim, 0))


@pytest.mark.compiled("there are no operators to check")
def test_opcheck(device):
    x, scale = _data((3, 4, 5), torch.uint8, device)
    for key in (keys(()).to(device), keys((3,)).to(device)):
        torch.library.opcheck(torch.ops.aevb_ext.binarize.default, (x, key, scale))
        torch.library.opcheck(torch.ops.aevb_ext.binarize.default, (x.float(), key, scale))
    torch.library.opcheck(torch.ops.aevb_ext.unpack_bits.default, (x, 33))


def test_bits_have_no_gradient(device):
    x = torch.rand(4, 5, device=device, requires_grad=True)
    bits = aevb_ext.binarize(x, torch.tensor([1, 2], device=device))
    assert not bits.requires_grad
    (x * bits).sum().backward()
    assert torch.equal(x.grad, bits.to(x.dtype))


X, KEY = torch.zeros(4, 3), torch.tensor([1, 2])
BAD = [
    (lambda: aevb_ext.binarize(X.long(), KEY), TypeError, r"x must be .*uint8.*got int64"),
    (lambda: aevb_ext.binarize(X, KEY.int()), TypeError, r"key must be int64.*got int32"),
    (lambda: aevb_ext.binarize(X, torch.zeros(3, 2, dtype=torch.int64)), ValueError, r"key .*of x \(shape \[4, 3\]\)"),
    (lambda: aevb_ext.binarize(X, KEY.to("meta")), ValueError, r"key is on meta, but x is on cpu"),
    (lambda: aevb_ext.binarize(X, KEY, generator=torch.Generator()), ValueError, "key and generator were both given"),
    (lambda: aevb_ext.binarize(X, generator=[torch.Generator()]), ValueError, r"list of 1, but x has shape \[4, 3\]"),
    (lambda: aevb_ext.unpack_bits(X, 20), TypeError, "packed must be uint8, got float32"),
    (lambda: aevb_ext.unpack_bits(X.byte(), 16), ValueError, r"packed must have shape \[\*batch, 2\] .*got \[4, 3\]"),
    (lambda: aevb_ext.unpack_bits(X.byte(), -1), ValueError, "n must be at least 0, got -1"),
    (lambda: aevb_ext.unpack_bits(X.byte()[0, 0], 8), ValueError, r"packed must have shape .*got \[\]"),
]


@pytest.mark.parametrize(("call", "exception", "message"), BAD)
def test_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()


@pytest.mark.compiled("there are no operators")
@pytest.mark.skipif(aevb_ext.build_info()["cuda"] is not None, reason="built with CUDA")
@pytest.mark.parametrize(("name", "arguments"), [("binarize", (X, KEY, 1.0)), ("unpack_bits", (X.byte(), 24))])
def test_a_cuda_tensor_in_a_build_without_cuda(name, arguments):
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises((RuntimeError, NotImplementedError), match=f"{name} was given CUDA tensors.*CPU only"):
        getattr(torch.ops.aevb_ext, name).default.redispatch(cuda, *arguments)
