"""The distributions at home in PyTorch: no synchronisation, compile, export, torch.func, copies, autocast."""

import copy
import pickle

import pytest
import torch
from cases import KEY
from distribution_cases import (
    BOTH,
    assert_close,
    bernoulli,
    each_class,
    each_kind,
    each_shape,
    each_spread,
    gaussian,
    of_torch,
    randn,
    standard_normal_like,
)
from torch import distributions as td
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode

from aevb_ext.distributions import Bernoulli, DiagonalGaussian


def _everything(distribution, others=()):
    """Every method, on whatever device the distribution is."""
    value = distribution.sample()
    results = [value, distribution.sample((2, 3)), distribution.mean, distribution.mode, distribution.stddev]
    results += [distribution.variance, distribution.entropy(), distribution.log_prob(value), distribution.perplexity()]
    results += [
        distribution.log_prob(distribution.sample((3,))),
        distribution.expand((2, *distribution.batch_shape)).mean,
    ]
    results += [
        td.kl_divergence(*pair) for q in (distribution, *others) for pair in ((distribution, q), (q, distribution))
    ]
    if isinstance(distribution, DiagonalGaussian):
        results += [distribution.rsample((2,)), *distribution.rsample_kl(), distribution.kl(), distribution.logvar]
    else:
        results += [distribution.probs, distribution.logits]
    return results


class _NoHost(TorchDispatchMode):
    """Refuses what would make the host wait for a device."""

    WAITS = ("_local_scalar_dense", "item", "is_nonzero", "equal", "nonzero", "_is_all_true", "masked_select", "unique")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(function.name().split("::")[1].startswith(name) for name in self.WAITS), function.name()
        return function(*args, **(kwargs or {}))


class TestNoHostSynchronisation:
    @each_class
    @each_shape
    def test_every_method_on_meta_tensors(self, make, shape):
        ours = make(shape, dtype=torch.float32)
        if isinstance(ours, DiagonalGaussian):
            on_meta = DiagonalGaussian(
                ours.mu.to("meta"), ours.scale_param.to("meta"), batch_dims=len(ours.batch_shape)
            )
        else:
            on_meta = Bernoulli(**{ours.param_name: ours.param.to("meta")}, batch_dims=len(ours.batch_shape))
        for meta, real in zip(_everything(on_meta), _everything(ours), strict=True):
            assert meta.device.type == "meta" and meta.shape == real.shape and meta.dtype == real.dtype

    @each_class
    def test_no_operation_waits(self, make):
        params = torch.zeros(2, 6, 3, requires_grad=True)
        with _NoHost():
            _everything(make("image", dtype=torch.float32), others=(of_torch(make("image"), validate_args=False),))
            for soft in (False, True):
                _everything(DiagonalGaussian.from_params(params, clamp=(-30, 20), soft=soft))

    def test_the_mode_sees_what_waits(self):
        with pytest.raises(AssertionError), _NoHost():
            gaussian(validate_args=True)


def _elbo(x, params, weight, _):
    posterior = DiagonalGaussian.from_params(params, clamp=(-30, 20))
    z, kl = posterior.rsample_kl()
    likelihood = Bernoulli(logits=z @ weight)
    return (likelihood.log_prob(x) - kl).mean(), z, likelihood.sample()


def _vae_loss(x, params, weight, prior_loc):
    """Distributions built, sampled and compared inside."""
    posterior = DiagonalGaussian.from_params(params, clamp=(-30, 20), soft=True)
    z, kl = posterior.rsample_kl((2,))
    likelihood = Bernoulli(logits=z @ weight, batch_dims=2)
    prior = td.Independent(td.Normal(prior_loc, torch.ones_like(prior_loc), validate_args=False), 1)
    bound = likelihood.log_prob(x).mean(0) - kl
    rest = posterior.log_prob(z).mean(0) + posterior.entropy() + td.kl_divergence(posterior, prior)
    rest = rest + likelihood.entropy().mean(0) + td.kl_divergence(posterior, td.Normal(prior_loc, prior_loc.exp()))
    rest = rest + posterior.kl(DiagonalGaussian(prior_loc, prior_loc, batch_dims=0))
    rest = rest + td.kl_divergence(likelihood, Bernoulli(logits=z.detach() @ weight, batch_dims=2)).mean(0)
    return (bound + rest).mean(), z, likelihood.sample()


@pytest.mark.usefixtures("fresh_compiler")
class TestCompile:
    @staticmethod
    def _arguments(batch):
        x = randn(batch, 12, seed=1).sigmoid().float()
        return x, randn(batch, 10).float().requires_grad_(), randn(5, 12, seed=2).float(), randn(5, seed=3).float()

    def _compare(self, function, compiled, batch):
        results = []
        for f in (function, compiled):
            arguments = self._arguments(batch)
            torch.manual_seed(batch)
            loss, z, bits = f(*arguments)
            loss.backward()
            results.append((loss.detach(), z.detach(), bits, arguments[1].grad))
        assert torch.equal(results[0][1], results[1][1]), "the same noise"
        torch.testing.assert_close(results[0], results[1])

    def test_one_graph_for_all_batches(self):
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(_vae_loss, fullgraph=True, dynamic=True, backend=counter)
        compilations = []
        for batch in (4, 6, 11):
            self._compare(_vae_loss, compiled, batch)
            compilations.append(counter.frame_count)
        assert compilations == compilations[:1] * 3

    def test_a_kl_that_is_looked_up_elsewhere_compiles_nothing_again(self):
        """PyTorch enters what kl_divergence looks up in a table, whose size is a guard of what reads it."""

        def divergences(t):
            p, q = DiagonalGaussian(t, t), Bernoulli(logits=t)
            prior = td.Normal(t, t.exp(), validate_args=False)
            fair = td.Independent(td.Bernoulli(logits=t, validate_args=False), 1, validate_args=False)
            return p.kl(), p.kl(p), p.kl(prior), q.kl(q), q.kl(fair)

        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(divergences, fullgraph=True, dynamic=True, backend=counter)
        compilations = []
        for batch, other in ((4, td.Gamma(1.0, 1.0)), (6, td.Normal(0.0, 1.0)), (11, td.Exponential(1.0))):
            torch.testing.assert_close(compiled(randn(batch, 7)), divergences(randn(batch, 7)))
            compilations.append(counter.frame_count)
            td.kl_divergence(td.Gumbel(0.0, 1.0), other)
        assert compilations == [1, 1, 1]

    def test_inductor(self):
        self._compare(_elbo, torch.compile(_elbo, fullgraph=True, dynamic=False), 4)

    def test_draws_that_look_alike_stay_apart(self):
        """Where a graph is divided into forward and backward, what is computed twice becomes one; two draws do not."""

        def twice(mu):
            posterior = DiagonalGaussian(mu, torch.zeros((), dtype=mu.dtype))
            return posterior.rsample(), posterior.rsample()

        mu = randn(4, 5).requires_grad_()
        compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
        results = []
        for function in (twice, compiled, compiled):
            torch.manual_seed(0)
            results.append(torch.stack([*function(mu), *function(mu)]))
            results[-1].sum().backward()
        assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])
        assert len({tuple(z.flatten().tolist()) for z in results[0]}) == 4

    def test_a_distribution_from_outside(self):
        """As an argument, which a compiled function reads and gives back."""
        ours = gaussian(dtype=torch.float32)
        compiled = torch.compile(lambda d: (d.kl(), d.expand((2, 4)).entropy()), fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(ours), (ours.kl(), ours.expand((2, 4)).entropy()))

    @each_kind
    def test_bernoulli(self, kind):
        def function(param, value):
            ours = Bernoulli(**{kind: param})
            return ours.log_prob(value), ours.entropy(), ours.mode, ours.sample((2,))

        ours, value = bernoulli(kind=kind, dtype=torch.float32), torch.ones(3, 4, 7)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        results = []
        for f in (function, compiled):
            torch.manual_seed(0)
            results.append(f(ours.param, value))
        torch.testing.assert_close(*results)

    def test_export(self):
        class Module(torch.nn.Module):
            def forward(self, x, params, weight, prior_loc):
                return _vae_loss(x, params, weight, prior_loc)

        batch = torch.export.Dim("batch", min=2)
        arguments = self._arguments(4)
        program = torch.export.export(Module(), arguments, dynamic_shapes=({0: batch}, {0: batch}, None, None))
        arguments = self._arguments(9)
        torch.manual_seed(0)
        expected = _vae_loss(*arguments)
        torch.manual_seed(0)
        torch.testing.assert_close(program.module()(*arguments), expected)


class TestFunctionalTransforms:
    @each_spread
    def test_per_example_gradients(self, spread):
        ours = gaussian("vector", spread)
        value = randn(4, 7, seed=3)

        def loss(mu, scale_param, value):
            d = DiagonalGaussian(mu, scale_param, spread=spread, batch_dims=0)
            return d.log_prob(value) + d.kl() + d.entropy() + d.variance.sum() + d.kl(standard_normal_like(d))

        rows = (ours.mu, ours.scale_param, value)
        gradients = torch.func.vmap(torch.func.grad(loss, (0, 1, 2)))(*rows)
        leaves = tuple(t.detach().requires_grad_() for t in rows)
        d = DiagonalGaussian(*leaves[:2], spread=spread)
        total = d.log_prob(leaves[2]) + 2 * d.kl() + d.entropy() + d.variance.sum(1)
        torch.testing.assert_close(gradients, torch.autograd.grad(total.sum(), leaves))

    @each_kind
    def test_per_example_gradients_of_bits(self, kind):
        param, value = bernoulli(kind=kind).param, randn(4, 7, seed=3).sigmoid()

        def loss(param, value):
            d = Bernoulli(**{kind: param}, batch_dims=0)
            return d.log_prob(value) + d.entropy()

        gradients = torch.func.vmap(torch.func.grad(loss, (0, 1)))(param, value)
        leaves = tuple(t.detach().requires_grad_() for t in (param, value))
        d = Bernoulli(**{kind: leaves[0]})
        torch.testing.assert_close(gradients, torch.autograd.grad((d.log_prob(leaves[1]) + d.entropy()).sum(), leaves))

    def test_jacrev(self):
        ours = gaussian()
        jacobian = torch.func.jacrev(lambda mu: DiagonalGaussian(mu, ours.scale_param).kl())(ours.mu)
        expected = torch.diag_embed(torch.ones(4, dtype=torch.float64)).unsqueeze(-1) * ours.mu
        torch.testing.assert_close(jacobian, expected)


class TestInPyTorch:
    @each_class
    @pytest.mark.parametrize("copier", [copy.deepcopy, copy.copy, lambda d: pickle.loads(pickle.dumps(d))])
    def test_copies(self, make, copier):
        ours = make("image", validate_args=True)
        copied = copier(ours)
        value = ours.sample()
        assert type(copied) is type(ours) and copied._validate_args
        assert copied.batch_shape == ours.batch_shape and copied.event_shape == ours.event_shape
        assert torch.equal(copied.log_prob(value), ours.log_prob(value))
        assert torch.equal(copied.sample(key=torch.tensor(KEY)), ours.sample(key=torch.tensor(KEY)))

    @each_class
    def test_inference_mode(self, make):
        with torch.inference_mode():
            inside = _everything(make(dtype=torch.float32))
        assert all(t.is_inference() or not t.requires_grad for t in inside)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
    def test_autocast(self, dtype):
        """Layers give half precision; everything in nats is float32, and as without autocast of the same numbers."""
        encoder, decoder = torch.nn.Linear(12, 10), torch.nn.Linear(5, 12)
        x = torch.rand(4, 12)
        with torch.autocast("cpu", dtype=dtype):
            posterior = DiagonalGaussian.from_params(encoder(x), clamp=(-30, 20))
            z, kl = posterior.rsample_kl(key=torch.tensor(KEY))
            likelihood = Bernoulli(logits=decoder(z))
            log_prob = likelihood.log_prob(x)
            results = (kl, log_prob, posterior.log_prob(z), posterior.entropy(), likelihood.entropy(), posterior.stddev)
        assert posterior.mu.dtype == likelihood.param.dtype == z.dtype == dtype
        assert all(t.dtype == torch.float32 for t in results)
        assert_close(kl, DiagonalGaussian(posterior.mu.float(), posterior.scale_param.float()).kl(), torch.float32)
        assert_close(log_prob, Bernoulli(logits=likelihood.param.float()).log_prob(x), torch.float32)
        (log_prob - kl).sum().backward()
        assert encoder.weight.grad.isfinite().all() and decoder.weight.grad.dtype == torch.float32

    def test_checkpointing_draws_the_same_noise(self):
        params = randn(4, 10).requires_grad_()

        def loss(params):
            return DiagonalGaussian.from_params(params).rsample((2,)).square().sum()

        gradients = []
        for run in (loss, lambda p: torch.utils.checkpoint.checkpoint(loss, p, use_reentrant=False)):
            torch.manual_seed(0)
            gradients += torch.autograd.grad(run(params), params)
        assert torch.equal(*gradients)

    def test_deterministic_algorithms(self):
        torch.use_deterministic_algorithms(True)
        try:
            for make in BOTH.values():
                _everything(make(dtype=torch.float32))
        finally:
            torch.use_deterministic_algorithms(False)

    def test_they_may_be_the_base_of_others(self):
        """A transform on top, as flows have it."""
        ours = gaussian()
        flow = td.TransformedDistribution(ours, td.transforms.ExpTransform())
        expected = td.TransformedDistribution(of_torch(ours), td.transforms.ExpTransform())
        value = randn(4, 7, seed=3).exp()
        assert_close(flow.log_prob(value), expected.log_prob(value))
        assert flow.rsample((2,)).shape == (2, 4, 7)

    def test_a_mixture_of_them(self):
        weights = torch.ones(3, 2, dtype=torch.float64)
        ours = gaussian("batch2")
        mixture = td.MixtureSameFamily(td.Categorical(weights), ours)
        expected = td.MixtureSameFamily(td.Categorical(weights), of_torch(ours))
        value = randn(3, 5, seed=3)
        assert_close(mixture.log_prob(value), expected.log_prob(value))
        assert_close(mixture.mean, expected.mean)
