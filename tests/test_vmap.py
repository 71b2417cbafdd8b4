"""torch.func.vmap of the samplers: what each element draws, without PyTorch's slow loop over elements."""

import itertools

import pytest
import torch
from cases import keys
from torch.func import grad, jacrev, vmap

import aevb_ext

pytestmark = pytest.mark.filterwarnings("error:There is a performance drop")

SAMPLERS = {
    "rsample": lambda mu, logvar, **o: (aevb_ext.rsample(mu, logvar, **o),),
    "rsample_kl": aevb_ext.rsample_kl,
    "rsample_kl_none": lambda mu, logvar, **o: aevb_ext.rsample_kl(mu, logvar, reduction="none", **o),
    "rsample_kl_mean": lambda mu, logvar, **o: aevb_ext.rsample_kl(mu, logvar, reduction="mean", **o),
    "rsample_kl_sum": lambda mu, logvar, **o: aevb_ext.rsample_kl(mu, logvar, reduction="sum", batch_dims=2, **o),
}


def _tensors(*sizes, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, *sizes, generator=generator).to(device, dtype)


def _same_bits(found, expected):
    for f, e in zip(found, expected, strict=True):
        assert f.dtype == e.dtype and torch.equal(f, e)


def _loop(function, *tensors):
    """`vmap(function)` as what it stands for."""
    return tuple(torch.stack(results) for results in zip(*map(function, *tensors), strict=True))


@pytest.mark.parametrize("n_samples", [None, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
class TestKeysThatAreGiven:
    """They alone decide; vmap is not asked what it thinks of randomness."""

    def test_for_each_element(self, sampler, n_samples, device):
        mu, logvar = _tensors(5, 4, 7, device=device)

        def function(m, s, k):
            return SAMPLERS[sampler](m, s, key=k, n_samples=n_samples)

        for key in (keys((5,)), keys((5, 4))):
            key = key.to(device)
            results = vmap(function)(mu, logvar, key)
            if sampler == "rsample_kl_mean":  # a mean of means
                torch.testing.assert_close(results[1], _loop(function, mu, logvar, key)[1])
                results = results[:1]
            _same_bits(results, _loop(function, mu, logvar, key)[: len(results)])

    def test_one_for_all(self, sampler, n_samples, device):
        mu, logvar = _tensors(5, 4, 7, device=device)
        for key in (keys(()), keys((4,))):
            key = key.to(device)

            def function(m, s, key=key):
                return SAMPLERS[sampler](m, s, key=key, n_samples=n_samples)

            _same_bits(vmap(function)(mu, logvar)[:1], _loop(function, mu, logvar)[:1])

    def test_what_is_vmapped_and_where(self, sampler, n_samples, device):
        """Each of mu, the spread and the key may have the dimension or not, anywhere."""
        mu, logvar = _tensors(5, 4, 7, device=device)
        key = keys((5,)).to(device)
        for dims in itertools.product((None, 0, -1), repeat=3):
            if all(dim is None for dim in dims):
                continue
            given = [
                t[0] if dim is None else t.movedim(0, dim)
                for t, dim in zip((mu, logvar.mean(1), key), dims, strict=True)
            ]

            def function(m, s, k):
                return SAMPLERS[sampler](m, s, key=k, n_samples=n_samples)[0]

            results = vmap(function, in_dims=dims, out_dims=1)(*given)
            whole = [t.expand(5, *t.shape) if d is None else t.movedim(d, 0) for t, d in zip(given, dims, strict=True)]
            assert torch.equal(results, torch.stack([function(*row) for row in zip(*whole, strict=True)], 1))

    def test_nested(self, sampler, n_samples, device):
        mu, logvar = _tensors(3, 2, 4, 7, device=device)
        key = keys((3, 2)).to(device)

        def function(m, s, k):
            return SAMPLERS[sampler](m, s, key=k, n_samples=n_samples)[0]

        expected = torch.stack([torch.stack(list(map(function, *rows))) for rows in zip(mu, logvar, key, strict=True)])
        assert torch.equal(vmap(vmap(function))(mu, logvar, key), expected)
        shared = vmap(vmap(function, in_dims=(0, 0, None)))(mu, logvar, key[:, 0])
        for i, j in itertools.product(range(3), range(2)):
            assert torch.equal(shared[i, j], function(mu[i, j], logvar[i, j], key[i, 0]))


class TestRandomness:
    """`randomness` is to a fresh key what it is to torch.randn."""

    @staticmethod
    def _draw(mu, logvar):
        return *aevb_ext.rsample_kl(mu, logvar, n_samples=2), aevb_ext.noise_key(mu.device)

    def test_error_is_the_default(self, device):
        mu, logvar = _tensors(5, 4, 7, device=device)
        for function in (self._draw, lambda m, s: aevb_ext.noise_key(mu.device)):
            for options in ({}, {"randomness": "error"}):
                with pytest.raises(RuntimeError) as caught:
                    vmap(function, **options)(mu, logvar)
                for word in ("vmap", 'randomness is "error"', '"different"', '"same"', "key="):
                    assert word in str(caught.value)
        aevb_ext.noise_key(device)  # and nothing is left of vmap

    def test_different(self, device):
        """What a loop over the elements draws, one after another."""
        mu, logvar = _tensors(5, 4, 7, device=device)
        torch.manual_seed(3)
        z, kl, key = vmap(self._draw, randomness="different")(mu, logvar)
        torch.manual_seed(3)
        firsts = [aevb_ext.noise_key(device) for _ in range(5)]
        seconds = [aevb_ext.noise_key(device) for _ in range(5)]
        assert torch.equal(key, torch.stack(seconds))
        for b in range(5):
            expected = aevb_ext.rsample_kl(mu[b], logvar[b], n_samples=2, key=firsts[b])
            _same_bits((z[b], kl[b]), expected)

    def test_same(self, device):
        mu, logvar = _tensors(5, 4, 7, device=device)
        torch.manual_seed(3)
        z, _, key = vmap(self._draw, randomness="same", out_dims=(0, 0, None))(mu, logvar)
        torch.manual_seed(3)
        first, second = aevb_ext.noise_key(device), aevb_ext.noise_key(device)
        assert torch.equal(key, second)
        for b in range(5):
            assert torch.equal(z[b], aevb_ext.rsample(mu[b], logvar[b], n_samples=2, key=first))

    @pytest.mark.parametrize("inner", ["same", "different"])
    @pytest.mark.parametrize("outer", ["same", "different"])
    def test_nested(self, outer, inner, device):
        mu, logvar = _tensors(5, 4, 7, device=device)

        def function(m, s):
            key = aevb_ext.noise_key(mu.device)
            return aevb_ext.rsample(m, s, key=key), key

        z, key = vmap(vmap(function, randomness=inner), randomness=outer)(mu, logvar)
        assert key.shape == (5, 4, 2)
        number = (5 if outer == "different" else 1) * (4 if inner == "different" else 1)
        assert len({tuple(k) for k in key.reshape(-1, 2).tolist()}) == number
        if inner == "same":
            assert (key == key[:, :1]).all()
        if outer == "same":
            assert (key == key[:1]).all()
        for i, j in itertools.product(range(5), range(4)):
            assert torch.equal(z[i, j], aevb_ext.rsample(mu[i, j], logvar[i, j], key=key[i, j]))

    def test_a_generator(self, device):
        one, other = (torch.Generator(device).manual_seed(5) for _ in range(2))
        found = vmap(lambda t: aevb_ext.noise_key(t.device, one), randomness="different")(torch.zeros(3, device=device))
        assert torch.equal(found, torch.stack([aevb_ext.noise_key(generator=other) for _ in range(3)]))

    def test_under_grad(self, device):
        """A transform that is no vmap is not asked."""
        mu, logvar = _tensors(4, 7, device=device)
        torch.manual_seed(0)
        found = grad(lambda m: aevb_ext.rsample(m, logvar).sin().sum())(mu)
        torch.manual_seed(0)
        torch.testing.assert_close(found, aevb_ext.rsample(mu, logvar).cos())


def _loss(mu, logvar, key=None):
    z, kl = aevb_ext.rsample_kl(mu, logvar, key=key, n_samples=2, reduction="mean")
    return aevb_ext.rsample(z[0], logvar, key=key).sin().sum() + kl


class TestGradients:
    def test_of_each_element(self, device):
        """vmap(grad): the backward of a sampler is vmapped as well."""
        mu, logvar = _tensors(5, 4, 7, dtype=torch.float64, device=device)
        key = keys((5,)).to(device)
        for function in (
            grad(_loss, (0, 1)),
            jacrev(_loss, (0, 1)),
            grad(lambda *a: grad(_loss)(*a).sin().sum(), (0, 1)),
        ):
            torch.testing.assert_close(vmap(function)(mu, logvar, key), _loop(function, mu, logvar, key))

    def test_through_vmap(self, device):
        """grad(vmap), and PyTorch's own backward."""
        mu, logvar = _tensors(5, 4, 7, dtype=torch.float64, device=device)
        key = keys((5,)).to(device)
        expected = _loop(grad(_loss, (0, 1)), mu, logvar, key)
        torch.testing.assert_close(grad(lambda m, s: vmap(_loss)(m, s, key).sum(), (0, 1))(mu, logvar), expected)
        leaves = [t.detach().requires_grad_() for t in (mu, logvar)]
        torch.testing.assert_close(torch.autograd.grad(vmap(_loss)(*leaves, key).sum(), leaves), expected)

    def test_a_spread_that_is_shared(self, device):
        mu, logvar = _tensors(5, 4, 7, dtype=torch.float64, device=device)
        key, shared = keys((5,)).to(device), logvar[0, :1].clone()

        def total(s):
            return vmap(_loss, in_dims=(0, None, 0))(mu, s, key).sum()

        torch.testing.assert_close(
            grad(total)(shared), sum(grad(_loss, 1)(m, shared, k) for m, k in zip(mu, key, strict=True))
        )


@pytest.mark.parametrize(("randomness", "dynamic"), [("same", False), ("different", True)], ids=str)
def test_compiled(randomness, dynamic, device):
    """With the noise of eager mode."""
    torch._dynamo.reset()

    def function(mu, logvar):
        return vmap(lambda m, s: (aevb_ext.rsample(m, s), *grad(_loss, (0, 1))(m, s)), randomness=randomness)(
            mu, logvar
        )

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for batch in (5, 6):
        mu, logvar = _tensors(batch, 4, 7, device=device)
        results = []
        for f in (function, compiled):
            torch.manual_seed(batch)
            results.append(f(mu, logvar))
        assert torch.equal(results[0][0], results[1][0])
        torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("randomness", ["same", "different"])
def test_exported(randomness):
    class Module(torch.nn.Module):
        def forward(self, mu, logvar):
            return vmap(aevb_ext.rsample, randomness=randomness)(mu, logvar)

    mu, logvar = _tensors(5, 4, 7)
    program = torch.export.export(Module(), (mu, logvar))
    torch.manual_seed(0)
    expected = Module()(mu, logvar)
    torch.manual_seed(0)
    assert torch.equal(program.module()(mu, logvar), expected)
