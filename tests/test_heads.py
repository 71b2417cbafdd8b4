"""The heads: which distribution they make of a network's output, and its likelihood."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Independent, Normal

from aevb_ext import models
from aevb_ext.distributions import DiagonalGaussian
from aevb_ext.nn import BernoulliDecoder, GaussianDecoder, GaussianPosterior, Linear

SPREAD = {"logvar": lambda s: (s / 2).exp(), "log_std": torch.exp, "std": lambda s: s, "var": torch.sqrt}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Packed(nn.Module):
    """A network whose output is its parameter, whatever it is given."""

    def __init__(self, output):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, x):
        return self.output


def like(distribution, theirs):
    """Whether two distributions agree on a batch of three samples."""
    value = theirs.sample((3,))
    torch.testing.assert_close(distribution.log_prob(value), theirs.log_prob(value))
    torch.testing.assert_close(distribution.mean, theirs.mean)
    torch.testing.assert_close(distribution.variance, theirs.variance)
    assert distribution.batch_shape == theirs.batch_shape and distribution.event_shape == theirs.event_shape


class TestGaussianPosterior:
    @pytest.mark.parametrize("spread", SPREAD)
    @pytest.mark.parametrize(
        ("shape", "dim"), [((5, 8), -1), ((5, 8), 1), ((2, 6, 4, 3), 1), ((2, 6, 4, 3), -3)], ids=str
    )
    def test_halves_are_mean_and_spread(self, shape, dim, spread):
        output = torch.rand(shape, dtype=torch.float64) + 0.5
        posterior = GaussianPosterior(Packed(output), dim, spread=spread)(torch.zeros(5, 3))
        mu, s = output.chunk(2, dim)
        assert isinstance(posterior, DiagonalGaussian)
        like(posterior, Independent(Normal(mu, SPREAD[spread](s)), len(shape) - 1))

    def test_nothing_is_copied(self):
        net = Packed(torch.rand(5, 8))
        posterior = GaussianPosterior(net)(None)
        assert posterior.mu.untyped_storage().data_ptr() == net.output.data_ptr()

    def test_a_network_of_several_inputs(self):
        """A conditional VAE's encoder."""
        posterior = GaussianPosterior(nn.Bilinear(3, 2, 8))(torch.rand(5, 3), torch.rand(5, 2))
        assert posterior.batch_shape == (5,) and posterior.event_shape == (4,)

    @pytest.mark.parametrize("soft", [False, True])
    def test_clamp(self, soft):
        """Hard as diffusers has it, without gradient outside; soft with some."""
        output = torch.tensor([[0.0, 0.0, 0.0, 25.0, -35.0, 1.0]], dtype=torch.float64)
        net = Packed(output)
        posterior = GaussianPosterior(net, clamp=(-30.0, 20.0), soft=soft)(None)
        assert (posterior.logvar >= -30).all() and (posterior.logvar <= 20).all()
        torch.testing.assert_close(posterior.logvar, output[:, 3:].clamp(-30, 20), rtol=0, atol=0.01)
        posterior.logvar.sum().backward()
        of_spread = net.output.grad[0, 3:]
        assert (of_spread[:2] > 0).all() if soft else (of_spread[:2] == 0).all()
        torch.testing.assert_close(of_spread[2], torch.tensor(1.0, dtype=torch.float64))

    def test_clamped_in_bfloat16(self):
        posterior = GaussianPosterior(Packed(torch.full((2, 8), 100.0, dtype=torch.bfloat16)), clamp=(-30.0, 20.0))(
            None
        )
        z, kl = posterior.rsample_kl()
        assert z.isfinite().all() and kl.isfinite().all()

    def test_errors(self):
        with pytest.raises(ValueError, match="no halves"):
            GaussianPosterior(nn.Linear(3, 5))(torch.rand(2, 3))
        with pytest.raises(IndexError):
            GaussianPosterior(nn.Linear(3, 4), dim=2)(torch.rand(2, 3))
        with pytest.raises(ValueError, match="clamp"):
            GaussianPosterior(nn.Linear(3, 4), clamp=(1.0, -1.0))(torch.rand(2, 3))


class TestBernoulliDecoder:
    @pytest.mark.parametrize("samples", [(), (1,), (4,), (2, 3)], ids=str)
    def test_distribution_likelihood_and_mean(self, samples):
        decoder = BernoulliDecoder(nn.Linear(3, 7)).double()
        z, x = torch.randn(*samples, 5, 3, dtype=torch.float64), torch.rand(5, 7, dtype=torch.float64).round()
        theirs = Independent(Bernoulli(logits=decoder.net(z)), 1)
        like(decoder(z), theirs)
        torch.testing.assert_close(decoder.log_prob(x, z), theirs.log_prob(x))
        torch.testing.assert_close(decoder.mean(z), theirs.mean)

    def test_bytes(self):
        decoder = BernoulliDecoder(nn.Linear(3, 7))
        z, x = torch.randn(4, 5, 3), torch.randint(256, (5, 7), dtype=torch.uint8)
        torch.testing.assert_close(decoder.log_prob(x, z, 1 / 255), decoder.log_prob(x / 255, z))


class Compiled(nn.Module):
    """What torch.compile makes of a module, as far as it can be seen from outside."""

    def __init__(self, net):
        super().__init__()
        self._orig_mod = net


class Reversed(nn.Sequential):
    """Its last module is not what its values come from."""

    def forward(self, x):
        for each in reversed(self):
            x = each(x)
        return x


BOUNDED = {
    **{
        type(end).__name__: nn.Sequential(nn.Linear(3, 8), end)
        for end in (
            *(nn.Sigmoid(), nn.Hardsigmoid(), nn.LogSigmoid(), nn.Tanh(), nn.Hardtanh(), nn.Softsign(), nn.ReLU()),
            *(nn.ReLU6(), nn.Softplus(), nn.Softmax(1), nn.Softmax2d(), nn.Softmin(1), nn.LogSoftmax(1)),
        )
    },
    "alone": nn.Sigmoid(),
    "nested": nn.Sequential(nn.Linear(3, 8), nn.Sequential(nn.Linear(8, 8), nn.Sigmoid())),
    "reshaped": nn.Sequential(nn.Linear(3, 8), nn.Sigmoid(), nn.Identity(), nn.Unflatten(1, (2, 4)), nn.Flatten()),
    "compiled": Compiled(nn.Sequential(nn.Linear(3, 8), nn.Sigmoid())),
    "linear": nn.Sequential(Linear(3, 8, tanh=True)),
}
UNBOUNDED = {
    "linear": Linear(3, 8),
    "inside": nn.Sequential(nn.Sigmoid(), nn.Linear(3, 8)),
    "reversed": Reversed(nn.Linear(3, 8), nn.Sigmoid()),
    "leaky": nn.Sequential(nn.Linear(3, 8), nn.LeakyReLU()),
    "empty": nn.Sequential(),
}


class TestAnEndThatBoundsTheLogits:
    """A decoder that ends in a sigmoid is taken at its word nowhere: what it gives would be taken as logits."""

    @pytest.mark.parametrize("name", BOUNDED)
    def test_is_refused_and_named(self, name):
        for decoder, kind in ((BernoulliDecoder, "logits"), (GaussianDecoder, "mean")):
            end = "tanh=True" if name == "linear" else "Sig|Tanh|tanh|Soft|ReLU|sig"
            with pytest.raises(ValueError, match=rf"decoder's net ends in .*({end}).*{kind}.*Remove") as caught:
                decoder(BOUNDED[name])
            assert "Linear(" not in str(caught.value) or name == "linear"

    @pytest.mark.parametrize("name", UNBOUNDED)
    def test_others_are_taken(self, name):
        BernoulliDecoder(UNBOUNDED[name])
        GaussianDecoder(UNBOUNDED[name])

    def test_a_mean_that_is_not_squashed_again_may_end_in_a_sigmoid(self):
        decoder = GaussianDecoder(nn.Sequential(nn.Linear(3, 7), nn.Sigmoid()), logvar=0.0, sigmoid=False)
        z = torch.randn(5, 3)
        torch.testing.assert_close(decoder.mean(z), decoder.net(z))


@pytest.mark.parametrize("samples", [(), (1,), (4,), (2, 3)], ids=str)
class TestGaussianDecoder:
    @staticmethod
    def check(decoder, samples, mean, logvar, shape=(7,)):
        """mean and logvar: those of p(x | z) for the decoder's z."""
        z = samples.pop() if isinstance(samples, list) else torch.randn(*samples, 5, 3, dtype=torch.float64)
        x = torch.rand(5, *shape, dtype=torch.float64)
        theirs = Independent(Normal(mean(z), (0.5 * logvar(z)).exp()), len(shape))
        like(decoder(z), theirs)
        torch.testing.assert_close(decoder.log_prob(x, z), theirs.log_prob(x))
        torch.testing.assert_close(
            decoder.log_prob((x * 255).byte(), z, 1 / 255), theirs.log_prob((x * 255).byte() / 255.0)
        )
        torch.testing.assert_close(decoder.mean(z), theirs.mean)

    @pytest.mark.parametrize("sigmoid", [True, False])
    def test_packed(self, samples, sigmoid):
        decoder = GaussianDecoder(nn.Linear(3, 14), sigmoid=sigmoid).double()
        squashed = torch.sigmoid if sigmoid else torch.clone
        self.check(decoder, samples, lambda z: squashed(decoder.net(z)[..., :7]), lambda z: decoder.net(z)[..., 7:])

    @pytest.mark.parametrize("shape", [(), (7,)], ids=str)
    def test_learned(self, samples, shape):
        """One number for all of x (sigma-VAE), or one for each feature."""
        decoder = GaussianDecoder(
            nn.Linear(3, 7), logvar=torch.linspace(-1, 1, 7)[: shape[0] if shape else 1].reshape(shape)
        )
        decoder = decoder.double()
        assert decoder.logvar.shape == shape
        self.check(decoder, samples, lambda z: decoder.net(z).sigmoid(), lambda z: decoder.logvar.expand(7))

    @pytest.mark.parametrize("logvar", [None, -7.0])
    def test_floor(self, samples, logvar):
        net = nn.Linear(3, 14 if logvar is None else 7)
        decoder = GaussianDecoder(net, logvar=logvar, clamp=(-0.5, 0.5)).double()
        self.check(
            decoder,
            samples,
            lambda z: net(z)[..., :7].sigmoid(),
            lambda z: (net(z)[..., 7:] if logvar is None else decoder.logvar.expand(7)).clamp(-0.5, 0.5),
        )

    @pytest.mark.parametrize("dim", [1, -3])
    def test_images(self, samples, dim):
        """Packed in the channels of a transposed convolution, which takes no samples in front."""
        net = nn.ConvTranspose2d(3, 4, 2, 2)
        decoder = GaussianDecoder(net, dim, latent_dims=3).double()
        z = torch.randn(*samples, 5, 3, 2, 2, dtype=torch.float64)

        def output(z):
            flat = net(z.reshape(-1, 3, 2, 2))
            return flat.reshape(*z.shape[:-3], 4, 4, 4)

        self.check(
            decoder, [z], lambda z: output(z)[..., :2, :, :].sigmoid(), lambda z: output(z)[..., 2:, :, :], (2, 4, 4)
        )

    def test_one_of_each_channel(self, samples):
        net = nn.ConvTranspose2d(3, 2, 2, 2)
        decoder = GaussianDecoder(net, logvar=torch.tensor([0.5, -1.0]).reshape(2, 1, 1), latent_dims=3).double()
        z = torch.randn(*samples, 5, 3, 2, 2, dtype=torch.float64)
        self.check(
            decoder,
            [z],
            lambda z: net(z.reshape(-1, 3, 2, 2)).reshape(*z.shape[:-3], 2, 4, 4).sigmoid(),
            lambda z: decoder.logvar.expand(2, 4, 4),
            (2, 4, 4),
        )


class TestLearnedVariance:
    def test_the_best_is_the_mean_squared_error(self):
        """Rybkin et al. 2021, section 3.3: at the maximum of the likelihood sigma^2 is the MSE."""
        decoder = GaussianDecoder(nn.Linear(3, 7), logvar=0.0).double()
        z, x = torch.randn(50, 3, dtype=torch.float64), torch.rand(50, 7, dtype=torch.float64)
        mse = (x - decoder.mean(z)).square().mean()
        with torch.no_grad():
            decoder.logvar.copy_(mse.log())
        (of_logvar,) = torch.autograd.grad(decoder.log_prob(x, z).sum(), decoder.logvar)
        assert abs(of_logvar) < 1e-10
        with torch.no_grad():
            decoder.logvar.add_(0.1)
        assert torch.autograd.grad(decoder.log_prob(x, z).sum(), decoder.logvar)[0] < -1

    def test_it_is_a_parameter_of_its_own(self):
        start = torch.zeros(7)
        decoder = GaussianDecoder(nn.Linear(3, 7), logvar=start)
        assert dict(decoder.named_parameters())["logvar"].data_ptr() != start.data_ptr()
        assert "logvar" in decoder.state_dict()
        assert "logvar" not in GaussianDecoder(nn.Linear(3, 14)).state_dict()

    def test_a_mean_in_half_precision(self):
        """Under autocast the mean is bfloat16 and the parameter float32."""
        decoder = GaussianDecoder(nn.Linear(3, 7), logvar=0.0)
        z, x = torch.randn(5, 3), torch.rand(5, 7)
        with torch.autocast("cpu", torch.bfloat16):
            log_prob = decoder.log_prob(x, z)
        log_prob.sum().backward()
        assert log_prob.dtype == torch.float32 and decoder.logvar.grad.dtype == torch.float32
        torch.testing.assert_close(log_prob, decoder.log_prob(x, z), rtol=0.02, atol=0.02)


HEADS = {
    "posterior": lambda: GaussianPosterior(nn.Linear(3, 14), clamp=(-3.0, 3.0), soft=True),
    "bernoulli": lambda: BernoulliDecoder(nn.Linear(3, 7)),
    "gaussian": lambda: GaussianDecoder(nn.Linear(3, 14)),
    "learned": lambda: GaussianDecoder(nn.Linear(3, 7), logvar=0.3, clamp=(-3.0, 3.0)),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
class TestMachinery:
    @staticmethod
    def log_prob(head, z):
        return head(z).log_prob(torch.ones(7))

    def test_compiled(self, head):
        torch._dynamo.reset()
        head, z = head(), torch.randn(5, 3)
        results = []
        for function in (self.log_prob, torch.compile(self.log_prob, fullgraph=True, backend="aot_eager")):
            value = function(head, z)
            results.append((value, torch.autograd.grad(value.sum(), list(head.parameters()))))
        torch.testing.assert_close(*results)

    @pytest.mark.parametrize(
        "copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"]
    )
    def test_copies(self, head, copied):
        head, z = head(), torch.randn(5, 3)
        assert torch.equal(self.log_prob(copied(head), z), self.log_prob(head, z))
        assert repr(copied(head)) == repr(head)


def test_latent_dims_below_one():
    with pytest.raises(ValueError, match="latent_dims must be at least 1, got 0"):
        BernoulliDecoder(nn.Linear(3, 7), latent_dims=0)


def test_models_has_them_too():
    assert models.BernoulliDecoder is BernoulliDecoder and models.GaussianDecoder is GaussianDecoder
