"""The noise: known answers, one definition everywhere, and independence of everything but key and index."""

import pytest
import torch
from cases import LAYOUTS, lay_out
from noise_definition import normals, philox4x32_10

import aevb_ext
from aevb_ext import noise

# From the known-answer file of Random123: counter, key, result.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]

# Both words of seed and offset, and the sign bit of int64.
KEYS = [(0, 0), (1, 0), (0, 1), (0x0123_4567_89AB_CDEF, 5 + (3 << 33)), (-1, -1), (-(2**63), 2**63 - 1)]

# The float32 operator against its definition in float64: the error of u, of the angle and of each function of them,
# in ulp of the radius.
NORMAL_ULP = 4


def _hex(words):
    return [int(w, 16) for w in words.split()]


def _noise(key, shape, dtype=torch.float64, device="cpu", **options):
    """Standard normal noise, out of the compiled operator."""
    zeros = torch.zeros(shape, dtype=dtype, device=device)
    return aevb_ext.rsample(zeros, zeros, key=torch.tensor(key, device=device), **options)


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, expected):
    words = [torch.tensor([w]) for w in _hex(counter)], [torch.tensor([w]) for w in _hex(key)]
    assert [w.item() for w in noise.philox4x32(*words)] == _hex(expected)
    assert [int(w) for w in philox4x32_10(_hex(counter), _hex(key))] == _hex(expected)


@pytest.mark.parametrize("key", KEYS)
def test_the_operator_draws_the_noise_of_the_definition(key, device):
    """In float64 all 64 bits that a normal is made of matter: agreement to 1e-13 ties the words of every block."""
    for n in (1, 2, 3, 4, 5, 1023, 1 << 15):
        expected, radius = normals(torch.tensor(key), (n,))
        python = noise.standard_normal(torch.tensor(key, device=device), (n,), torch.float64)
        for drawn in (_noise(key, (n,), device=device), python):
            assert ((drawn.cpu() - expected).abs() <= 1e-14 * (1 + radius)).all()


@pytest.mark.parametrize("first", [2**31 - 1, 2**31, 2**33 + 3])
def test_blocks_are_counted_in_64_bits(first, device):
    """A sample so late that the number of its block is around 2^32, or has both words."""
    expected, radius = normals(torch.tensor(KEYS[3]), (2, 1, 8), start=2 * first)
    drawn = _noise(KEYS[3], (1, 8), device=device, n_samples=2, first_sample=first)
    assert ((drawn.cpu() - expected).abs() <= 1e-14 * (1 + radius)).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=str)
def test_samples_in_half_precision_are_rounded_to_nearest_even(half, device):
    """Of so many that some lie in the middle between two."""
    params = torch.randn(2, 2000, 1000, generator=torch.Generator().manual_seed(0)).to(half).to(device)
    key = torch.tensor(KEYS[3], device=device)
    exact = aevb_ext.rsample(*params.float(), key=key)
    rounded = exact.to(half)
    above = torch.nextafter(rounded, torch.full_like(rounded, float("inf"))).double()
    below = torch.nextafter(rounded, torch.full_like(rounded, -float("inf"))).double()
    middle = (exact == (rounded.double() + above) / 2) | (exact == (rounded.double() + below) / 2)
    assert middle.sum() > 10
    assert torch.equal(aevb_ext.rsample(*params, key=key), rounded)


def test_of_one_number(device):
    key = torch.tensor(KEYS[3], device=device)
    of_none = noise.standard_normal(key, (), torch.float64)
    assert of_none.shape == () and of_none == noise.standard_normal(key, (1,), torch.float64)[0]


@pytest.mark.parametrize("key", KEYS)
def test_float32_noise_is_the_same_to_a_few_ulp(key, device):
    expected, radius = normals(torch.tensor(key), (1 << 18,), uniforms=torch.float32)
    drawn = _noise(key, (1 << 18,), torch.float32, device).cpu().double()
    ulp = torch.finfo(torch.float32).eps * torch.exp2(radius.log2().floor())
    assert ((drawn - expected).abs() <= NORMAL_ULP * ulp).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_noise_is_float32_noise_rounded_once(dtype, device):
    key = KEYS[3]
    assert torch.equal(_noise(key, (4097,), dtype, device), _noise(key, (4097,), torch.float32, device).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_chunks(dtype, device):
    """Element i has the same noise whatever the size and the shape of the tensor that it is in, bit for bit."""
    whole = _noise(KEYS[3], (300_007,), dtype, device)
    for n in (1, 3, 4, 7, 8, 15, 16, 17, 33, 1000, 8191, 8192, 8193, 65_537):
        assert torch.equal(_noise(KEYS[3], (n,), dtype, device), whole[:n])
    for shape in ((1, 5), (5, 1), (7, 3), (3, 100_001), (100_001, 3), (2, 3, 5, 7), (2, 3, 2, 3, 2)):
        count = torch.Size(shape).numel()
        assert torch.equal(_noise(KEYS[3], shape, dtype, device).flatten(), whole[:count])


@pytest.mark.parametrize("event", [1, 5, 64, 1001, 20_003])
def test_samples_continue_the_noise(event, device):
    """The samples of a tensor are the elements of [n_samples, *shape] in their order."""
    many = _noise(KEYS[3], (3, event), n_samples=5, device=device, dtype=torch.float32)
    assert torch.equal(many, _noise(KEYS[3], (5, 3, event), device=device, dtype=torch.float32))
    assert torch.equal(many[0], _noise(KEYS[3], (3, event), device=device, dtype=torch.float32))
    assert torch.equal(many[:1], _noise(KEYS[3], (3, event), n_samples=1, device=device, dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout != "contiguous"])
@pytest.mark.parametrize("shape", [(5, 63), (3, 4, 5, 6), (17,)], ids=str)
def test_strides(layout, shape, dtype, device):
    """A strided mu gives the z of a contiguous one, bit for bit, and so do its gradients."""
    generator = torch.Generator().manual_seed(0)
    strided = [lay_out(t.to(device, dtype), layout) for t in torch.randn(2, *shape, generator=generator).unbind()]
    key = torch.tensor(KEYS[3], device=device)
    results = []
    for inputs in (strided, [t.contiguous() for t in strided]):
        leaves = [t.detach().requires_grad_() for t in inputs]
        z = aevb_ext.rsample(*leaves, key=key, n_samples=2)
        results.append((z, *torch.autograd.grad(z.float().sin().sum(), leaves)))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_threads():
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            mu, logvar = torch.zeros(2, 11, 30_011, requires_grad=True)
            z, kl = aevb_ext.rsample_kl(mu, logvar, key=torch.tensor(KEYS[3]), n_samples=2)
            results.append((z, kl, *torch.autograd.grad(z.sin().sum() + kl.sum(), (mu, logvar))))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for a, b in zip(results[0], result, strict=True):
            assert torch.equal(a, b)


def test_the_backward_draws_the_same_noise(device):
    """d z / d log_std = z - mu, whatever the key."""
    mu, log_std = torch.randn(2, 4, 777, dtype=torch.float64, device=device).requires_grad_()
    z = aevb_ext.rsample(mu, log_std, spread="log_std", n_samples=3)
    (gradient,) = torch.autograd.grad(z.sum(), log_std)
    torch.testing.assert_close(gradient, (z - mu).sum(0))


class TestKeys:
    def test_shape(self, device):
        key = aevb_ext.noise_key(device)
        assert key.dtype == torch.int64 and key.shape == (2,) and key.device.type == device.type

    def test_torch_manual_seed(self, device):
        keys = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            keys.append(torch.stack([aevb_ext.noise_key(device) for _ in range(3)]))
        assert torch.equal(keys[0], keys[1]) and not torch.equal(keys[0], keys[2])

    def test_a_generator(self, device):
        first, again, other = (torch.Generator(device).manual_seed(seed) for seed in (1, 1, 2))
        key = aevb_ext.noise_key(generator=first)
        assert key.device.type == device.type
        assert torch.equal(key, aevb_ext.noise_key(device, again))
        assert not torch.equal(key, aevb_ext.noise_key(device, other))
        assert not torch.equal(key, aevb_ext.noise_key(device, again))  # it went on

    def test_a_generator_goes_on_where_its_state_was_put_back(self, device):
        generator = torch.Generator(device).manual_seed(3)
        state = generator.get_state()
        key = aevb_ext.noise_key(generator=generator)
        generator.set_state(state)
        assert torch.equal(key, aevb_ext.noise_key(generator=generator))

    def test_keys_differ(self, device):
        torch.manual_seed(0)
        keys = {tuple(aevb_ext.noise_key(device).tolist()) for _ in range(10_000)}
        assert len(keys) == 10_000

    def test_the_default_device(self):
        assert aevb_ext.noise_key().device.type == torch.get_default_device().type
        with torch.device("meta"):
            assert aevb_ext.noise_key().device.type == "meta"

    def test_a_fresh_key_for_each_call(self, device):
        mu, logvar = torch.zeros(2, 3, 4, device=device)
        torch.manual_seed(0)
        first, second = aevb_ext.rsample(mu, logvar), aevb_ext.rsample(mu, logvar)
        assert not torch.equal(first, second)
        torch.manual_seed(0)
        assert torch.equal(first, aevb_ext.rsample(mu, logvar))
        assert torch.equal(second, aevb_ext.rsample_kl(mu, logvar)[0])

    def test_rsample_takes_a_generator(self, device):
        mu, logvar = torch.zeros(2, 3, 4, device=device)
        a, b = (torch.Generator(device).manual_seed(5) for _ in range(2))
        expected = aevb_ext.rsample(mu, logvar, key=aevb_ext.noise_key(generator=a))
        assert torch.equal(aevb_ext.rsample(mu, logvar, generator=b), expected)

    def test_drawing_a_key_leaves_the_rest_of_the_stream_usable(self):
        """Keys and PyTorch's own random functions take turns on one generator, and repeat together."""
        results = []
        for _ in range(2):
            torch.manual_seed(9)
            results.append((torch.randn(3), aevb_ext.noise_key(), torch.randn(3), aevb_ext.noise_key()))
        for a, b in zip(*results, strict=True):
            assert torch.equal(a, b)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_cpu_and_cuda_draw_the_same_noise():
    for dtype, bound in ((torch.float64, 1e-14), (torch.float32, NORMAL_ULP * torch.finfo(torch.float32).eps)):
        cpu, cuda = (_noise(KEYS[3], (1 << 18,), dtype, device) for device in ("cpu", "cuda"))
        radius = normals(torch.tensor(KEYS[3]), cpu.shape, uniforms=dtype)[1]
        assert ((cpu - cuda.cpu()).abs() <= 2 * bound * (1 + radius)).all()


def test_keys_at_are_splitmix_of_seed_and_purpose():
    # The published first outputs of SplitMix64 from state 0, and its state after one.
    first = [noise._splitmix((i * 0x9E3779B97F4A7C15) % 2**64) for i in range(3)]
    assert first == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    index = torch.tensor([[0, 7], [2**40, 3]])
    keys = noise.keys_at(5, "posterior", index)
    assert keys.shape == (2, 2, 2) and keys.dtype == torch.int64
    assert (keys[..., 1] == index).all() and keys[..., 0].unique().numel() == 1


def test_keys_at_differ_by_seed_and_purpose():
    words = {noise.seed_for(seed, purpose) for seed in range(-50, 50) for purpose in noise.PURPOSES}
    assert len(words) == 100 * len(noise.PURPOSES)
    assert noise.seed_for(-1, "order") == noise.seed_for(2**64 - 1, "order")
    with pytest.raises(ValueError, match="purpose must be one of"):
        noise.seed_for(0, "posteriors")
