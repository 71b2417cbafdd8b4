"""The checks of PyTorch's own tests of distributions, applied to ours, and every documented difference."""

import itertools
import math

import pytest
import torch
from cases import KEY, arithmetic_dtype
from distribution_cases import (
    DTYPES,
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

from aevb_ext.distributions import Bernoulli, DiagonalGaussian

INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8)
PAIRS = [pair for pair in itertools.product(DTYPES, DTYPES) if pair[0] != pair[1]]


class TestConstraints:
    @each_shape
    @each_class
    def test_parameters(self, make, shape):
        ours = make(shape)
        for name, constraint in ours.arg_constraints.items():
            value = getattr(ours, name)
            assert constraint.event_dim == len(ours.event_shape)
            assert constraint.check(value).shape == ours.batch_shape and constraint.check(value).all()
            assert not constraint.check(torch.full_like(value, math.nan)).any()

    @each_spread
    def test_of_a_spread_that_broadcasts(self, spread):
        for shape in ((), (5,), (3, 1, 1), (2, 1, 1, 1)):
            scale_param = torch.full(shape, 0.5)
            ours = DiagonalGaussian(torch.zeros(2, 3, 4, 5), scale_param, spread=spread, validate_args=True)
            constraint = ours.arg_constraints["scale_param"]
            assert constraint.event_dim == min(3, len(shape))
            assert constraint.check(scale_param).shape == shape[:-3] and constraint.check(scale_param).all()
            positive = not constraint.check(-scale_param).any()
            assert positive == (spread in ("std", "var"))

    @each_shape
    @each_class
    def test_optimisers_have_their_transforms(self, make, shape):
        """Of unconstrained numbers: parameters, and values where they are continuous, as PyTorch's registry has it."""
        ours = make(shape)
        unconstrained = randn(*ours.batch_shape, *ours.event_shape, seed=3)
        for constraint in ours.arg_constraints.values():
            assert constraint.check(td.transform_to(constraint)(unconstrained)).all()
            assert td.biject_to(constraint).codomain.event_dim == len(ours.event_shape)
        if ours.support.is_discrete:
            for distribution in (ours, of_torch(ours)):
                with pytest.raises(NotImplementedError):
                    td.biject_to(distribution.support)
            return
        transform, theirs = td.biject_to(ours.support), td.biject_to(of_torch(ours).support)
        assert torch.equal(transform(unconstrained), theirs(unconstrained))
        assert transform.domain.event_dim == theirs.domain.event_dim
        jacobian = transform.log_abs_det_jacobian(unconstrained, unconstrained)
        assert torch.equal(jacobian, theirs.log_abs_det_jacobian(unconstrained, unconstrained))

    @each_shape
    @each_class
    def test_values_of_the_wrong_shape(self, make, shape):
        ours = make(shape, validate_args=True)
        if ours.batch_shape + ours.event_shape:
            for value in (
                torch.zeros((2, *ours.event_shape, 3)),
                torch.zeros((*ours.batch_shape, *ours.event_shape, 2)),
            ):
                with pytest.raises(ValueError, match="value"):
                    ours.log_prob(value)


class TestMethods:
    @each_class
    def test_what_there_is_not(self, make):
        """As of an Independent."""
        ours = make()
        value = ours.sample()
        for distribution in (ours, of_torch(ours)):
            for method in (distribution.cdf, distribution.icdf):
                with pytest.raises(NotImplementedError):
                    method(value)
        if not ours.has_rsample:
            with pytest.raises(NotImplementedError):
                ours.rsample()

    @each_class
    def test_gradients_of_samples(self, make):
        ours = make()
        ours = type(ours)(*(t.requires_grad_() for t in _parameters(ours).values()))
        assert not ours.sample().requires_grad
        if ours.has_rsample:
            assert ours.rsample().requires_grad and ours.rsample((0,)).requires_grad

    @each_shape
    @each_class
    def test_expand(self, make, shape):
        ours = make(shape)
        for more in ((), (2,), (2, 1)):
            expanded = ours.expand([*more, *ours.batch_shape])
            value = expanded.sample()
            assert type(expanded) is type(ours)
            assert expanded.batch_shape == more + ours.batch_shape and expanded.event_shape == ours.event_shape
            assert value.shape == expanded.batch_shape + expanded.event_shape
            assert torch.equal(expanded.log_prob(value), ours.log_prob(value))
            for name in ("mean", "variance"):
                assert torch.equal(getattr(expanded, name), getattr(ours, name).expand(value.shape))

    @each_class
    def test_expand_of_subclasses(self, make):
        class Plain(type(make())):
            pass

        class WithOptions(type(make())):
            def __init__(self, *parameters, batch_dims=1, another=None, validate_args=None):
                super().__init__(*parameters, batch_dims=batch_dims, validate_args=validate_args)

        parameters = _parameters(make()).values()
        expanded = Plain(*parameters).expand((3, 4))
        assert type(expanded) is Plain and expanded.sample().shape == (3, 4, 7)
        with pytest.raises(NotImplementedError, match="custom"):
            WithOptions(*parameters).expand((3, 4))

    @each_class
    def test_repr(self, make):
        assert repr(make()).startswith(type(make()).__name__)

    @each_class
    def test_the_default_dtype_changes_nothing(self, make):
        """What is computed in which dtype is the parameters' affair."""
        results = []
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            try:
                ours = make("event0", dtype=torch.float32)
                results.append(_everything(ours))
            finally:
                torch.set_default_dtype(torch.float32)
        for a, b in zip(*results, strict=True):
            assert a.dtype == b.dtype == torch.float32 and torch.equal(a, b)

    @each_kind
    def test_bits_keep_no_second_parameter(self, kind):
        ours = bernoulli("event0", kind)
        before = dict(vars(ours))
        _everything(ours)
        assert vars(ours).keys() == before.keys()


class TestDtypes:
    """The table of docs/distributions.md."""

    @each_class
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize("value_dtype", [*DTYPES, *INTEGERS, torch.bool], ids=str)
    def test_log_prob(self, make, dtype, value_dtype):
        """A value of any dtype; the parameters decide in which the arithmetic is, and no value is rounded to theirs."""
        ours = make("image", dtype=dtype)
        value = (randn(6, 2, 3, 4, 5, seed=3) > 0).double()
        if isinstance(ours, DiagonalGaussian) and value_dtype != torch.bool:
            value = 100 * value + 1
        value = value.to(value_dtype)
        for part in (value, value[0], value[0, :1]):
            log_prob = ours.log_prob(part)
            assert log_prob.dtype == arithmetic_dtype(dtype)
            assert_close(log_prob, of_torch(ours).log_prob(part.double()), dtype)

    @each_class
    def test_integers_are_validated(self, make):
        ours = make(validate_args=True)
        value = torch.ones(4, 7, dtype=torch.int64)
        assert torch.equal(ours.log_prob(value), ours.log_prob(value.double()))
        if ours.support.is_discrete:
            with pytest.raises(ValueError, match="support"):
                ours.log_prob(2 * value)

    @pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(map(str, pair)))
    @each_spread
    def test_parameters_of_two_dtypes_are_promoted(self, pair, spread):
        """As PyTorch promotes them: every method gives what it gives of both in the wider of the two."""
        mu, scale_param = randn(4, 3), randn(4, 3, seed=1).exp()
        mixed = DiagonalGaussian(mu.to(pair[0]), scale_param.to(pair[1]), spread=spread)
        wide = [t.to(torch.promote_types(*pair)) for t in (mixed.mu, mixed.scale_param)]
        wide = DiagonalGaussian(*wide, spread=spread)
        key, prior = torch.tensor(KEY), standard_normal_like(wide)
        for method in (
            lambda d: d.rsample(key=key),
            lambda d: d.sample((2,), key=key),
            lambda d: d.sample((0,)),
            lambda d: d.rsample_kl((2,), key=key)[0],
            lambda d: d.rsample_kl(key=key)[1],
            lambda d: d.kl(),
            lambda d: d.kl(prior),
            lambda d: prior.kl(d),
            lambda d: d.log_prob(mu),
            lambda d: d.log_prob(mu.float().expand(2, 4, 3)),
        ):
            found, expected = method(mixed), method(wide)
            assert found.dtype == expected.dtype and torch.equal(found, expected)
        theirs = td.Normal(mixed.mu, of_torch(mixed).stddev.to(pair[1]))
        assert mixed.rsample().dtype == theirs.rsample().dtype
        for name in ("mean", "mode", "stddev", "variance"):
            assert_close(getattr(mixed, name), getattr(wide, name), torch.float32)
        assert_close(mixed.entropy(), wide.entropy(), torch.float32)

    def test_gradients_of_two_dtypes(self):
        """Each has that of its own."""
        mu, logvar = randn(4, 3).float().requires_grad_(), randn(4, 3, seed=1).requires_grad_()
        ours = DiagonalGaussian(mu, logvar)
        value = randn(4, 3, seed=2)
        loss = ours.kl().sum() + ours.log_prob(value).sum()
        gradients = torch.autograd.grad(loss, (mu, logvar))
        exact = DiagonalGaussian(mu.double(), logvar)
        expected = torch.autograd.grad(exact.kl().sum() + exact.log_prob(value).sum(), (mu, logvar))
        assert gradients[0].dtype == torch.float32 and gradients[1].dtype == torch.float64
        torch.testing.assert_close(gradients, expected)


class TestAroundOurs:
    """PyTorch's own distributions with one of ours inside."""

    @each_class
    def test_independent(self, make):
        ours = make("batch2")
        for n in (0, 1, 2):
            around, theirs = td.Independent(ours, n), td.Independent(of_torch(ours), n)
            value = theirs.sample((2,))
            assert around.batch_shape == theirs.batch_shape and around.event_shape == theirs.event_shape
            assert around.support.event_dim == theirs.support.event_dim
            assert torch.equal(around.support.check(value), theirs.support.check(value))
            assert around.has_rsample == theirs.has_rsample
            for found, expected in (
                (around.log_prob(value), theirs.log_prob(value)),
                (around.entropy(), theirs.entropy()),
                (around.mean, theirs.mean),
                (around.variance, theirs.variance),
                (around.expand((2, *theirs.batch_shape)).log_prob(value), theirs.log_prob(value)),
                (td.kl_divergence(around, td.Independent(make("batch2", seed=1), n)), _kl_of_torch(make, n)),
            ):
                assert_close(found, expected)
            assert around.sample((3,)).shape == (3, 3, 2, 5)

    def test_transformed(self):
        """With transforms of elements and of whole events, sampled, expanded and compared."""
        ours, other = gaussian("batch2"), gaussian("batch2", seed=1)
        for transform in (
            td.transforms.ExpTransform(),
            td.transforms.AffineTransform(1.0, 2.0),
            td.transforms.AffineTransform(1.0, torch.arange(1.0, 6.0, dtype=torch.float64), event_dim=1),
            [td.transforms.SigmoidTransform(), td.transforms.AffineTransform(0.5, 3.0)],
            td.transforms.StickBreakingTransform(),
            td.transforms.ReshapeTransform((5,), (1, 5)),
        ):
            flow, theirs = (td.TransformedDistribution(d, transform) for d in (ours, of_torch(ours)))
            value = theirs.sample((2,))
            assert flow.batch_shape == theirs.batch_shape and flow.event_shape == theirs.event_shape
            assert flow.support.event_dim == theirs.support.event_dim and flow.has_rsample
            assert_close(flow.log_prob(value), theirs.log_prob(value))
            assert flow.rsample((2,)).shape == flow.sample((2,)).shape == value.shape
            assert_close(flow.expand((4, 3, 2)).log_prob(value[:1]), theirs.log_prob(value[:1]).expand(4, 3, 2))
            with pytest.raises(NotImplementedError):
                flow.cdf(value)
            flow_kl = td.kl_divergence(flow, td.TransformedDistribution(other, transform))
            assert_close(flow_kl, td.kl_divergence(of_torch(ours), of_torch(other)))


def _kl_of_torch(make, n):
    return td.kl_divergence(*(td.Independent(of_torch(make("batch2", seed=seed)), n) for seed in (0, 1)))


def _parameters(ours):
    if isinstance(ours, DiagonalGaussian):
        return {"mu": ours.mu.detach().clone(), "logvar": ours.scale_param.detach().clone()}
    return {ours.param_name: ours.param.detach().clone()}


def _everything(ours):
    value = ours.sample(key=torch.tensor(KEY))
    results = [value, ours.mean, ours.mode, ours.variance, ours.stddev, ours.entropy(), ours.perplexity()]
    results += [ours.log_prob(value), ours.expand((2, *ours.batch_shape)).mean, td.kl_divergence(ours, ours)]
    if isinstance(ours, Bernoulli):
        return [*results, ours.probs, ours.logits, ours.enumerate_support()]
    return [*results, ours.kl(), *ours.rsample_kl(key=torch.tensor(KEY)), ours.logvar]


NORMAL, BITS = gaussian(dtype=torch.float32), bernoulli(dtype=torch.float32)
SURE = torch.tensor([[0.0], [1.0]])


class TestDifferences:
    """The list of docs/distributions.md, each with what PyTorch does, so that neither can change unseen."""

    @pytest.mark.parametrize("p", [0.0, 1.0])
    def test_sure_bits(self, p):
        """A log-probability of 0 counts as -100, with the gradient that binary_cross_entropy gives; theirs are those of
        a probability that is clamped at eps, where there is no gradient."""
        results = []
        for kind in (Bernoulli, td.Bernoulli):
            probs = torch.tensor([p], requires_grad=True)
            log_prob = kind(probs).log_prob(torch.tensor([1 - p]))
            results.append((log_prob.item(), torch.autograd.grad(log_prob.sum(), probs)[0].item()))
        assert results[0] == (-100, pytest.approx(1e12 * (1 - 2 * p)))
        assert results[1] == (pytest.approx(math.log(torch.finfo(torch.float32).eps)), 0)

    def test_sure_bits_are_sure(self):
        """Of their own value the probability is 1, and there is no entropy, to the last digit."""
        ours, theirs = Bernoulli(SURE), td.Independent(td.Bernoulli(SURE), 1)
        assert (ours.log_prob(SURE) == 0).all() and (ours.entropy() == 0).all()
        assert (theirs.log_prob(SURE) != 0).any() and (theirs.entropy() != 0).any()

    def test_infinite_logits(self):
        logits, value = torch.tensor([[-math.inf], [math.inf]]), torch.tensor([[0.0], [1.0]])
        ours = Bernoulli(logits=logits, validate_args=True)
        theirs = td.Independent(td.Bernoulli(logits=logits, validate_args=True), 1)
        assert ours.log_prob(value).tolist() == ours.entropy().tolist() == [0, 0]
        assert ours.log_prob(1 - value).tolist() == [-math.inf, -math.inf]
        assert theirs.log_prob(value).isnan().all() and theirs.entropy().isnan().all()

    def test_divergences_of_all_but_sure_bits(self):
        """Where theirs overflow or are clamped at eps."""
        p, q = (td.Bernoulli(logits=torch.tensor(logit)) for logit in (0.0, 200.0))
        assert td.kl_divergence(p, q).item() == math.inf
        ours = td.kl_divergence(*(Bernoulli(logits=d.logits, batch_dims=0) for d in (p, q)))
        assert ours.item() == pytest.approx(100 - math.log(2))
        p, q = (td.Bernoulli(torch.tensor(p)) for p in (0.5, 1e-8))
        exact = 0.5 * (math.log(0.5 / 1e-8) + math.log(0.5 / (1 - 1e-8)))
        assert td.kl_divergence(p, q).item() == pytest.approx(7.278, abs=1e-3)
        ours = td.kl_divergence(*(Bernoulli(d.probs, batch_dims=0) for d in (p, q)))
        assert ours.item() == pytest.approx(exact)

    def test_what_is_no_probability(self):
        """NaN where theirs is a number, or raises."""
        probs, value = torch.tensor([[math.nan], [-0.5], [1.5]]), torch.ones(3, 1)
        ours, theirs = Bernoulli(probs), td.Independent(td.Bernoulli(probs, validate_args=False), 1)
        for result in (ours.log_prob(value), ours.entropy(), ours.sample(), td.kl_divergence(ours, ours)):
            assert result.isnan().all()
        assert ours.mode.isnan().tolist() == [[True], [False], [False]]
        assert theirs.log_prob(value).isnan().tolist() == [True, False, False] and not theirs.mode.isnan().any()
        with pytest.raises(RuntimeError):
            theirs.sample()

    @each_kind
    def test_grey_values(self, kind):
        ours, grey = bernoulli(kind=kind), torch.full((4, 7), 0.5, dtype=torch.float64)
        assert_close(ours.log_prob(grey), of_torch(ours, validate_args=False).log_prob(grey))
        with pytest.raises(ValueError, match="support"):
            of_torch(ours, validate_args=True).log_prob(grey)  # PyTorch's default, until something is compiled

    def test_what_is_not_validated(self):
        DiagonalGaussian(torch.zeros(1, 1), -torch.ones(1, 1), spread="std")
        with pytest.raises(ValueError, match="scale"):
            td.Normal(torch.zeros(1, 1), -torch.ones(1, 1), validate_args=True)  # as above

    def test_events_are_whole(self):
        """A value's event dimensions do not broadcast."""
        value = torch.zeros(4, 1)
        with pytest.raises(ValueError, match="event_shape"):
            NORMAL.log_prob(value)
        assert of_torch(NORMAL, validate_args=False).log_prob(value).shape == (4,)

    def test_tensors_alone(self):
        """Numbers are no parameters and no values, and mu does not broadcast to the spread."""
        for call in (
            lambda: DiagonalGaussian(0.0, torch.zeros(3)),
            lambda: Bernoulli(0.5),
            lambda: NORMAL.log_prob(0.0),
        ):
            with pytest.raises(TypeError, match="tensor"):
                call()
        with pytest.raises(ValueError, match="does not broadcast to mu's"):
            DiagonalGaussian(torch.zeros(1, 3), torch.zeros(4, 3))
        assert td.Normal(torch.zeros(1, 3), torch.ones(4, 3)).log_prob(torch.tensor(0.0)).shape == (4, 3)
        assert td.Normal(0.0, 1.0, validate_args=False).log_prob(0.0) == pytest.approx(-0.9189385)

    def test_of_half_parameters(self):
        """Sums over events are float32; theirs are of the parameters' dtype."""
        for make in (gaussian, bernoulli):
            ours = make(dtype=torch.bfloat16)
            base = of_torch(ours).base_dist
            theirs = td.Normal(ours.mu, base.scale.bfloat16()) if make is gaussian else td.Bernoulli(logits=ours.param)
            value = ours.sample()
            for name in ("variance", "stddev"):
                assert getattr(ours, name).dtype == torch.float32 and getattr(theirs, name).dtype == torch.bfloat16
            assert ours.log_prob(value).dtype == ours.entropy().dtype == torch.float32
            assert theirs.log_prob(value).dtype == theirs.entropy().dtype == torch.bfloat16

    def test_of_wider_values(self):
        """The parameters decide; in theirs the wider of value and parameter (a Bernoulli's parameters: the value)."""
        value = torch.ones(4, 7, dtype=torch.float64)
        for ours in (NORMAL, BITS):
            base = of_torch(ours).base_dist
            theirs = td.Normal(ours.mu, base.scale.float()) if ours is NORMAL else td.Bernoulli(logits=ours.param)
            assert ours.log_prob(value).dtype == torch.float32 and theirs.log_prob(value).dtype == torch.float64

    def test_bits_of_integers(self):
        """Taken as the numbers that they are; theirs take floating bits alone."""
        for value in (torch.ones(4, 7, dtype=torch.int64), torch.ones(4, 7, dtype=torch.bool)):
            assert torch.equal(BITS.log_prob(value), BITS.log_prob(value.float()))
            with pytest.raises(RuntimeError):
                td.Bernoulli(logits=BITS.param).log_prob(value)

    def test_forward_mode(self):
        mu = torch.zeros(4, 7)
        for method in (lambda d: d.kl(), lambda d: d.rsample(key=torch.tensor(KEY)), lambda d: d.log_prob(mu)):
            with pytest.raises(RuntimeError, match=r"(?i)forward"):
                torch.func.jvp(lambda mu, method=method: method(DiagonalGaussian(mu, mu)), (mu,), (mu,))
        torch.func.jvp(lambda mu: td.Normal(mu, 1.0, validate_args=False).log_prob(mu + 1), (mu,), (mu,))

    def test_names_of_parameters(self):
        """arg_constraints names attributes: what was given, of the two of a Bernoulli."""
        assert NORMAL.arg_constraints.keys() == {"mu", "scale_param"}
        assert BITS.arg_constraints.keys() == {"logits"} and td.Bernoulli(0.5).arg_constraints.keys() == {
            "probs",
            "logits",
        }
