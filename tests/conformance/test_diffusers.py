"""diffusers' DiagonalGaussianDistribution and its autoencoders, with and without the patch."""

import contextlib
import math

import our_noise
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderKLWan
from diffusers.models.autoencoders import autoencoder_kl, autoencoder_kl_temporal_decoder, autoencoder_kl_wan
from diffusers.models.autoencoders import vae as diffusers_vae
from patch_mistakes import check_mistakes
from torch._dynamo.testing import EagerAndRecordGraphs

from aevb_ext.integrations.diffusers import patch

Posterior = diffusers_vae.DiagonalGaussianDistribution
METHODS = ("sample", "kl", "nll")
IMAGE, VIDEO = (2, 8, 6, 5), (2, 8, 3, 6, 5)
USES = {
    "sample": lambda q, other, x: q.sample(),
    "kl": lambda q, other, x: q.kl(),
    "kl to another": lambda q, other, x: q.kl(other),
    "nll": lambda q, other, x: q.nll(x),
    "nll over some": lambda q, other, x: q.nll(x, dims=(-1, 1)),
    "nll over one": lambda q, other, x: q.nll(x, 2),
}


@pytest.fixture
def feed(monkeypatch):
    """The original draws our noise; ``feed(dtype)`` sets the precision of it."""

    def feed(precision):
        def randn_tensor(shape, generator=None, device=None, dtype=None):
            return our_noise.normals(shape, generator, device, precision).to(dtype)

        monkeypatch.setattr(diffusers_vae, "randn_tensor", randn_tensor)

    feed(torch.float32)
    return feed


def _tensors(shape, dtype, device="cpu"):
    """The parameters of two posteriors and a sample.

    Log variances meet the clamp at both ends, but for float16, where the original overflows.
    """
    generator = torch.Generator().manual_seed(0)
    posterior, other = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    if dtype != torch.float16:
        for parameters in (posterior, other):
            parameters.chunk(2, 1)[1][0].view(-1)[:2] = torch.tensor([-35.0, 25.0])
    x = torch.randn(posterior.chunk(2, 1)[0].shape, generator=generator, dtype=torch.float64)
    return [t.to(device, dtype) for t in (posterior, other, x)]


def _value_and_gradients(use, posterior, other, x):
    leaves = [t.detach().requires_grad_() for t in (posterior, other, x)]
    torch.manual_seed(1)
    value = use(Posterior(leaves[0]), Posterior(leaves[1]), leaves[2])
    cotangent = torch.arange(value.numel(), device=value.device).cos().reshape(value.shape).to(value.dtype)
    return value, *torch.autograd.grad(value, leaves, cotangent, allow_unused=True)


class TestStrict:
    """By default everything is as the original has it, to rounding."""

    @pytest.mark.parametrize("shape", [IMAGE, VIDEO], ids=["image", "video"])
    @pytest.mark.parametrize("use", USES)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_values_and_gradients(self, feed, use, shape, dtype, device):
        feed(dtype)
        tensors = _tensors(shape, dtype, device)
        original = _value_and_gradients(USES[use], *tensors)
        with patch() as p:
            ours = _value_and_gradients(USES[use], *tensors)
        tolerance = 1e-12 if dtype == torch.float64 else 2e-5
        torch.testing.assert_close(ours, original, rtol=tolerance, atol=tolerance)
        assert p.calls == {f"DiagonalGaussianDistribution.{m}": int(m == use.partition(" ")[0]) for m in METHODS}

    @pytest.mark.parametrize("use", USES)
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, feed, use, dtype, device):
        """Shapes and dtypes are those of the original; values those that it has in float64, to the dtype's rounding."""
        tensors = _tensors(IMAGE, dtype, device)
        exact = _value_and_gradients(USES[use], *(t.double() for t in tensors))
        original = _value_and_gradients(USES[use], *tensors)
        with patch() as p:
            ours = _value_and_gradients(USES[use], *tensors)
        assert sum(p.calls.values()) == 1
        eps = torch.finfo(dtype).eps
        for a, b, truth in zip(ours, original, exact, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert a.dtype == b.dtype and a.shape == b.shape
                torch.testing.assert_close(a.double(), truth, rtol=2 * eps, atol=2 * eps)

    def test_mode_is_the_mean(self):
        parameters = _tensors(IMAGE, torch.float32)[0]
        with patch():
            assert torch.equal(Posterior(parameters).mode(), parameters.chunk(2, 1)[0])

    @pytest.mark.parametrize("generators", ["one", "list of one", "one each", "one too many"])
    def test_generators(self, feed, generators):
        def generator():
            seeds = {"one": 5, "list of one": [5], "one each": [5, 6], "one too many": [5, 6, 7]}[generators]
            if isinstance(seeds, list):
                return [torch.Generator().manual_seed(s) for s in seeds]
            return torch.Generator().manual_seed(seeds)

        posterior = Posterior(_tensors(IMAGE, torch.float32)[0])
        original = posterior.sample(generator()[:2] if generators == "one too many" else generator())
        state = torch.get_rng_state()
        with patch() as p:
            g = generator()
            first, second = posterior.sample(g), posterior.sample(g)
        torch.testing.assert_close(first, original, rtol=2e-5, atol=2e-5)
        assert not torch.equal(first, second)
        assert torch.equal(state, torch.get_rng_state())
        assert p.calls["DiagonalGaussianDistribution.sample"] == 2

    def test_a_data_point_of_its_own_generator_is_the_same_in_every_batch(self):
        parameters = _tensors(IMAGE, torch.float32)[0]
        with patch():
            batch = Posterior(parameters).sample([torch.Generator().manual_seed(s) for s in (5, 6)])
            alone = Posterior(parameters[1:]).sample([torch.Generator().manual_seed(6)])
            flipped = Posterior(parameters.flip(0)).sample([torch.Generator().manual_seed(s) for s in (6, 5)])
        assert torch.equal(batch[1:], alone) and torch.equal(batch, flipped.flip(0))

    @pytest.mark.cuda
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_a_generator_of_the_cpu_for_a_posterior_on_the_gpu(self):
        parameters = _tensors(IMAGE, torch.float32)[0]
        with patch():
            here, there = (
                Posterior(p).sample(torch.Generator().manual_seed(0)) for p in (parameters, parameters.cuda())
            )
        torch.testing.assert_close(there.cpu(), here, rtol=2e-5, atol=2e-5)

    def test_too_few_generators_are_the_original_error(self):
        posterior = Posterior(torch.zeros(3, 8, 6, 5))
        few = [torch.Generator(), torch.Generator()]
        for context in (contextlib.nullcontext, patch):
            with context(), pytest.raises(IndexError, match="list index out of range"):
                posterior.sample(few)

    def test_deterministic_is_left_to_the_original(self):
        posterior, other, x = _tensors(IMAGE, torch.float32)
        q = Posterior(posterior, deterministic=True)
        before = q.sample(), q.kl(), q.nll(x), q.mode()
        with patch() as p:
            after = q.sample(), q.kl(), q.nll(x), q.mode()
            to_a_point = Posterior(other).kl(q)
        torch.testing.assert_close(after, before, rtol=0, atol=0)
        assert torch.equal(to_a_point, torch.full((2,), math.inf))
        assert not any(p.calls.values())

    @pytest.mark.parametrize("use", ["kl", "kl to another", "nll"])
    def test_other_ranks_are_the_original_error(self, use):
        tensors = _tensors((2, 8, 5, 6), torch.float32)
        with patch() as p, pytest.raises(IndexError, match="Dimension out of range"):
            _value_and_gradients(USES[use], *(t[..., 0] for t in tensors))
        assert not any(p.calls.values())

    def test_instances_outlive_the_patch(self):
        """One made before is patched, one made within works on afterwards."""
        parameters = _tensors(IMAGE, torch.float32)[0]
        before = Posterior(parameters)
        with patch() as p:
            within = Posterior(parameters)
            before.kl(), within.kl()
        assert p.calls["DiagonalGaussianDistribution.kl"] == 2
        torch.testing.assert_close(within.kl(), before.kl(), rtol=0, atol=0)
        assert within.sample().shape == within.mean.shape


class TestNotStrict:
    """Where the original is wrong or fails, beside what it gives."""

    @pytest.mark.parametrize("use", ["kl", "kl to another", "nll"])
    @pytest.mark.parametrize("shape", [(2, 8), (2, 8, 7), IMAGE, VIDEO], ids=len)
    def test_one_value_for_each_data_point(self, use, shape):
        tensors = _tensors(shape, torch.float64)
        if len(shape) < 4:
            with pytest.raises(IndexError, match="Dimension out of range"):
                _value_and_gradients(USES[use], *tensors)
        elif len(shape) > 4:
            assert _value_and_gradients(USES[use], *tensors)[0].shape == (2, shape[-1])
        with patch(strict=False) as p:
            ours = _value_and_gradients(USES[use], *tensors)
        assert sum(p.calls.values()) == 1

        def as_images(posterior, other, x):
            """All of a data point's latents as one image, which the original sums over."""
            posterior, other = (q.reshape(2, 2, -1, 1) for q in (posterior, other))
            return USES[use](Posterior(posterior), Posterior(other), x.reshape(2, 1, -1, 1))

        leaves = [t.requires_grad_() for t in tensors]
        value = as_images(*leaves)
        gradients = torch.autograd.grad(value, leaves, torch.arange(2.0).cos().double(), allow_unused=True)
        torch.testing.assert_close(ours, (value, *gradients), rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("logvar", [11.5, 12.0])
    def test_a_variance_beyond_float16(self, logvar):
        """e^12 = 162755 > 65504, beside what the original gives. The default is right where float16 can hold it."""
        parameters = torch.tensor([0.0, logvar], dtype=torch.float16).reshape(1, 2, 1, 1)
        q, other = Posterior(parameters), Posterior(parameters + torch.tensor([400.0, 0.0]).reshape(2, 1, 1).half())
        x = torch.full((1, 1, 1, 1), 100.0, dtype=torch.float16)

        def values():
            return torch.stack([q.kl(), q.kl(other), q.nll(x)]).flatten().double()

        variance = math.exp(logvar)
        nll_at_the_mean = (math.log(2 * math.pi) + logvar) / 2
        truth = [(variance - 1 - logvar) / 2, 400**2 / variance / 2, nll_at_the_mean + 100**2 / variance / 2]
        truth = torch.tensor(truth, dtype=torch.float64)
        wrong = torch.tensor([math.inf, math.nan, nll_at_the_mean], dtype=torch.float64)
        torch.testing.assert_close(values(), wrong, rtol=1e-3, atol=0, equal_nan=True)
        with patch(strict=False):
            assert q.kl().dtype == q.nll(x).dtype == torch.float32
            torch.testing.assert_close(values(), truth, rtol=1e-6, atol=0)
        with patch():
            assert q.kl().dtype == q.nll(x).dtype == torch.float16
            in_half = torch.where(truth > 65504, math.inf, truth)
            torch.testing.assert_close(values(), in_half, rtol=1e-3, atol=0)

    def test_dims_that_are_given_are_obeyed(self):
        posterior, _, x = _tensors(VIDEO, torch.float64)
        expected = Posterior(posterior).nll(x, [1, 2, 3])
        with patch(strict=False):
            torch.testing.assert_close(Posterior(posterior).nll(x, [1, 2, 3]), expected, rtol=1e-12, atol=0)


def _autoencoder():
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=32,
    )


def _train(steps=20):
    """The losses of a training of AutoencoderKL, as its users write it."""
    vae = _autoencoder()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3)
    images = torch.rand(steps, 2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    losses = []
    for x in images:
        posterior = vae.encode(x).latent_dist
        reconstruction = vae.decode(posterior.sample()).sample
        loss = torch.nn.functional.mse_loss(reconstruction, x) + 1e-3 * posterior.kl().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return torch.tensor(losses)


class TestAutoencoders:
    def test_twenty_steps_of_training(self, feed):
        """The same losses, to 1e-4 of themselves: rounding differences grow with the steps."""
        original = _train()
        with patch() as p:
            ours = _train()
        assert original[-1] < original[0] / 2
        torch.testing.assert_close(ours, original, rtol=1e-4, atol=0)
        assert p.calls == {f"DiagonalGaussianDistribution.{m}": 20 if m != "nll" else 0 for m in METHODS}

    def test_forward_samples_the_posterior(self, feed):
        vae, x = _autoencoder(), torch.rand(2, 3, 32, 32)
        original = vae(x, sample_posterior=True, generator=torch.Generator().manual_seed(3)).sample
        with patch() as p:
            ours = vae(x, sample_posterior=True, generator=torch.Generator().manual_seed(3)).sample
            vae(x)  # the mode
        torch.testing.assert_close(ours, original, rtol=1e-4, atol=1e-4)
        assert p.calls["DiagonalGaussianDistribution.sample"] == 1

    def test_an_autoencoder_of_videos(self):
        """Its class has the distribution by name; not strict, its KL is one number for each video."""
        torch.manual_seed(0)
        sizes = {"base_dim": 4, "z_dim": 4, "dim_mult": [1, 1], "num_res_blocks": 1, "temperal_downsample": [False]}
        vae = AutoencoderKLWan(**sizes, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
        videos = torch.rand(2, 3, 5, 16, 16)
        assert vae.encode(videos).latent_dist.kl().shape == (2, 8)  # over columns: wrong
        with patch(strict=False) as p:
            posterior = vae.encode(videos).latent_dist
            kl = posterior.kl()
        assert p.calls["DiagonalGaussianDistribution.kl"] == 1
        torch.testing.assert_close(kl, posterior.kl().sum(1), rtol=1e-5, atol=1e-5)

    def test_modules_that_import_the_class_by_name_see_the_patch(self):
        for module in (autoencoder_kl, autoencoder_kl_temporal_decoder, autoencoder_kl_wan):
            assert module.DiagonalGaussianDistribution is Posterior

    @pytest.mark.parametrize("strict", [True, False])
    def test_compiled_as_one_graph(self, strict):
        """With the noise of eager mode, and no operator of the original's formulas left."""
        vae, x = _autoencoder(), torch.rand(2, 3, 32, 32)

        def loss():
            posterior = vae.encode(x).latent_dist
            z = posterior.sample()
            return z, posterior.kl(), posterior.nll(z)

        torch._dynamo.reset()
        recorder = EagerAndRecordGraphs()
        results = []
        with patch(strict=strict):
            for function in (loss, torch.compile(loss, backend=recorder, fullgraph=True)):
                torch.manual_seed(4)
                results.append(function())
                torch.autograd.backward([r.sum() for r in results[-1]])
        torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
        (graph,) = recorder.graphs
        reached = {str(node.target).split(".")[1] for node in graph.graph.nodes if "aevb_ext" in str(node.target)}
        assert reached == {"noise_key", "rsample", "gaussian_kl", "gaussian_log_prob"}


class TestPatch:
    def test_undo_restores_the_identical_functions(self):
        before = dict(vars(Posterior))
        p = patch()
        changed = {name for name, value in before.items() if vars(Posterior)[name] is not value}
        assert changed == set(METHODS) and vars(Posterior).keys() == before.keys()
        assert p.attributes == tuple(f"DiagonalGaussianDistribution.{m}" for m in METHODS)
        p.undo()
        assert all(vars(Posterior)[name] is value for name, value in before.items())

    def test_mistakes(self, monkeypatch):
        check_mistakes(patch, "diffusers", lambda: dict(vars(Posterior)), monkeypatch)
