"""log_prob of torch.distributions with and without the patch."""

import copy

import pytest
import torch
from torch.distributions import (
    Bernoulli,
    Categorical,
    ContinuousBernoulli,
    Distribution,
    Gamma,
    HalfNormal,
    Independent,
    Laplace,
    LogNormal,
    MixtureSameFamily,
    NegativeBinomial,
    Normal,
    Poisson,
    StudentT,
)

from aevb_ext.integrations.torch_distributions import patch


def _unit(t):
    return t.sigmoid()


def _positive(t):
    return t.exp()


# A class, how its parameters come of numbers, and how its data do.
FAMILIES = {
    "Normal": (Normal, {"loc": None, "scale": _positive}, None),
    "Bernoulli": (Bernoulli, {"logits": None}, lambda t: (t > 0).to(t.dtype)),
    "Bernoulli of probs": (Bernoulli, {"probs": _unit}, lambda t: (t > 0).to(t.dtype)),
    "Poisson": (Poisson, {"rate": _positive}, lambda t: t.exp().round()),
    "NegativeBinomial": (
        NegativeBinomial,
        {"total_count": _positive, "logits": None},
        lambda t: t.exp().round(),
    ),
    "NegativeBinomial of probs": (
        NegativeBinomial,
        {"total_count": _positive, "probs": _unit},
        lambda t: t.exp().round(),
    ),
    "Laplace": (Laplace, {"loc": None, "scale": _positive}, None),
    "StudentT": (StudentT, {"df": _positive, "loc": None, "scale": _positive}, None),
    "ContinuousBernoulli": (ContinuousBernoulli, {"logits": None}, _unit),
    "ContinuousBernoulli of probs": (ContinuousBernoulli, {"probs": _unit}, _unit),
}
LABELS = {name: f"{of[0].__name__}.log_prob" for name, of in FAMILIES.items()}
every_family = pytest.mark.parametrize("name", FAMILIES)

# The shapes of each parameter, the last that of all further ones, and that of the data.
SHAPES = {
    "same": ([(4, 3)], (4, 3)),
    "samples": ([(4, 3)], (5, 4, 3)),
    "parameters larger": ([(5, 4, 3)], (4, 3)),
    "one for all": ([(4, 3), ()], (4, 3)),
    "of a feature": ([(3,), (4, 3)], (4, 3)),
    "outer": ([(4, 1), (1, 3)], (4, 3)),
    "number": ([()], ()),
    "nothing": ([(0, 3)], (0, 3)),
}


def _made(name, shapes=((4, 3),), x_shape=(4, 3), dtype=torch.float64):
    """Leaves, a function of them that makes the distribution, and data."""
    of, domains, of_data = FAMILIES[name]
    generator = torch.Generator().manual_seed(0)

    def numbers(shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    leaves = [numbers(shapes[min(i, len(shapes) - 1)]).requires_grad_() for i in range(len(domains))]

    def make(*leaves):
        made = {
            key: t if domain is None else domain(t) for (key, domain), t in zip(domains.items(), leaves, strict=True)
        }
        return of(**made)

    x = numbers(x_shape)
    return leaves, make, x if of_data is None else of_data(x)


def _in_float64(make, leaves, x, event_dims=0):
    leaves = [leaf.detach().double().requires_grad_() for leaf in leaves]
    return leaves, Independent(make(*leaves), event_dims).log_prob(x.double())


@every_family
@pytest.mark.parametrize("shapes", SHAPES)
def test_values_and_gradients(name, shapes):
    """Of one and of an Independent of it, against the original in float64."""
    leaves, make, x = _made(name, *SHAPES[shapes], torch.float32)
    # The original cannot sum over nothing.
    for event_dims in range(len(make(*leaves).batch_shape) + 1 if x.numel() else 1):
        exact, expected = _in_float64(make, leaves, x, event_dims)
        cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        gradients = torch.autograd.grad(expected, exact, cotangent)
        with patch() as applied:
            p = make(*leaves)
            ours = (Independent(p, event_dims) if event_dims else p).log_prob(x)
        assert ours.dtype == torch.float32 and ours.shape == expected.shape
        label = "Independent.log_prob" if event_dims else LABELS[name]
        assert {label: n for label, n in applied.calls.items() if n} == {label: 1}
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
        found = torch.autograd.grad(ours, leaves, cotangent.float())
        torch.testing.assert_close([g.double() for g in found], list(gradients), rtol=1e-4, atol=1e-4)


@every_family
def test_float64_is_the_originals(name):
    leaves, make, x = _made(name)
    original = make(*leaves).log_prob(x)
    with patch():
        # PyTorch's normaliser of a continuous Bernoulli is a series of three terms near 1/2.
        tolerance = 1e-7 if "Continuous" in name else 1e-12
        torch.testing.assert_close(make(*leaves).log_prob(x), original, rtol=tolerance, atol=tolerance)


@every_family
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_rounded_once(name, dtype):
    leaves, make, x = _made(name, dtype=dtype)
    p = make(*leaves)
    wide = copy.copy(p)
    vars(wide).update({k: v.detach().double() for k, v in vars(p).items() if isinstance(v, torch.Tensor)})
    with patch():
        ours = p.log_prob(x)
        expected = wide.log_prob(x.double())
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8], ids=str)
@pytest.mark.parametrize("name", ["Poisson", "NegativeBinomial"])
def test_counts_may_be_integers(name, dtype):
    leaves, make, x = _made(name, dtype=torch.float32)
    original = make(*leaves).log_prob(x.to(dtype))
    with patch() as applied:
        ours = make(*leaves).log_prob(x.to(dtype))
    assert applied.calls[LABELS[name]] == 1 and ours.dtype == original.dtype
    torch.testing.assert_close(ours, original, rtol=1e-5, atol=1e-5)


def test_a_rate_and_a_count_of_zero():
    counts = torch.tensor([0.0, 1.0])
    distributions = [
        Poisson(torch.zeros(2)),
        NegativeBinomial(torch.zeros(2), logits=torch.ones(2)),
    ]
    originals = [p.log_prob(counts) for p in distributions]
    with patch():
        for p, original in zip(distributions, originals, strict=True):
            torch.testing.assert_close(p.log_prob(counts), original, rtol=0, atol=0)


@every_family
def test_values_are_validated_as_ever(name, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", True)  # as it is until PyTorch's compiler is imported
    leaves, make, x = _made(name)
    wrong = x.clone()
    wrong[1, 1] = torch.nan if FAMILIES[name][2] is None else -1.0
    with patch():
        p = make(*leaves)
        for given in (p, Independent(p, 1)):
            with pytest.raises(ValueError, match="Expected value argument"):
                given.log_prob(wrong)
        vars(p)["_validate_args"] = False
        others = torch.arange(4) != 1
        assert p.log_prob(wrong)[others].isfinite().all()


def _mixture(dtype=torch.float32, components=3):
    """The leaves, and a function of them that makes a mixture of Gaussians in five dimensions."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((components, 5), (components, 5), (components,))
    leaves = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes
    ]

    def make(loc, log_scale, logits):
        return MixtureSameFamily(Categorical(logits=logits), Independent(Normal(loc, log_scale.exp()), 1))

    return leaves, make


@pytest.mark.parametrize("batch", [(), (4,), (2, 3)], ids=str)
def test_mixtures_of_gaussians(batch):
    leaves, make = _mixture()
    z = torch.randn(*batch, 5, generator=torch.Generator().manual_seed(1)).requires_grad_()
    exact = [t.detach().double().requires_grad_() for t in (z, *leaves)]
    expected = make(*exact[1:]).log_prob(exact[0])
    with patch() as applied:
        ours = make(*leaves).log_prob(z)
    assert applied.calls["MixtureSameFamily.log_prob"] == 1 and ours.dtype == torch.float32
    torch.testing.assert_close(ours.double(), expected, rtol=2e-6, atol=2e-6)
    gradients, right = (torch.autograd.grad(v.sum(), of) for v, of in ((ours, [z, *leaves]), (expected, exact)))
    torch.testing.assert_close([g.double() for g in gradients], list(right), rtol=1e-5, atol=1e-5)


def test_other_mixtures_stay():
    weights = Categorical(logits=torch.zeros(3))
    mixtures = [
        MixtureSameFamily(weights, Normal(torch.zeros(3), 1.0)),
        MixtureSameFamily(weights, Independent(Laplace(torch.zeros(3, 5), 1.0), 1)),
        MixtureSameFamily(weights, Independent(Normal(torch.zeros(3, 2, 5), 1.0), 2)),
        MixtureSameFamily(Categorical(torch.ones(4, 3)), Independent(Normal(torch.zeros(4, 3, 5), 1.0), 1)),
    ]
    values = [torch.rand(4), torch.rand(4, 5), torch.rand(4, 2, 5), torch.rand(4, 5)]
    originals = [p.log_prob(value) for p, value in zip(mixtures, values, strict=True)]
    with patch() as applied:
        ours = [p.log_prob(value) for p, value in zip(mixtures, values, strict=True)]
    assert applied.calls["MixtureSameFamily.log_prob"] == 0
    torch.testing.assert_close(ours, originals)


class _Own(Normal):
    def log_prob(self, value):
        return torch.full_like(value, 7.0)


class _Inherits(Laplace):
    pass


class TestOthers:
    def test_what_is_left_to_the_original(self, monkeypatch):
        monkeypatch.setattr(Distribution, "_validate_args", False)
        x = torch.ones(3)
        calls = [
            (Normal(0.0, 1.0), 1.0),
            (Normal(torch.zeros(3), 1.0), x.double()),  # promotes
            (Normal(torch.zeros(3, dtype=torch.float64), torch.ones(3)), x),
            (Normal(torch.zeros(3), torch.ones(3)), x.long()),
            (Gamma(x, x), x),
            (Categorical(logits=torch.zeros(3, 5)), x),
            (Independent(Gamma(x, x), 1), x),
            (_Own(torch.zeros(3), 1.0), x),
            (Independent(_Own(torch.zeros(3), 1.0), 1), x),
        ]
        with patch() as applied:
            ours = [p.log_prob(value) for p, value in calls]
        assert not any(applied.calls.values())
        for result, (p, value) in zip(ours, calls, strict=True):
            torch.testing.assert_close(result, p.log_prob(value), rtol=0, atol=0)

    def test_what_is_made_of_them_gains_too(self):
        x, zeros = torch.rand(4, 3), torch.zeros(4, 3)
        distributions = [LogNormal(zeros, 1.0), HalfNormal(zeros + 1), _Inherits(zeros, 1.0)]
        distributions.append(Independent(_Inherits(zeros, 1.0), 2))
        originals = [p.log_prob(x) for p in distributions]
        with patch() as applied:
            torch.testing.assert_close([p.log_prob(x) for p in distributions], originals)
        calls = {"Normal.log_prob": 2, "Laplace.log_prob": 1, "Independent.log_prob": 1}
        assert {label: n for label, n in applied.calls.items() if n} == calls

    def test_shapes_that_do_not_fit_are_refused_as_ever(self, monkeypatch):
        monkeypatch.setattr(Distribution, "_validate_args", True)
        p = Laplace(torch.zeros(4, 3), 1.0)
        with pytest.raises(ValueError, match="not broadcastable") as original:
            p.log_prob(torch.zeros(5))
        with patch(), pytest.raises(ValueError) as ours:
            p.log_prob(torch.zeros(5))
        assert str(ours.value) == str(original.value)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace` is deprecated")
@every_family
def test_traces_and_forward_derivatives_are_the_originals(name, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", False)
    leaves, make, x = _made(name, dtype=torch.float32)
    given = tuple(leaf.detach() for leaf in leaves)

    def log_prob(*parameters):
        return Independent(make(*parameters), 1).log_prob(x)

    def results():
        graph = torch.jit.trace(log_prob, given, check_trace=False).graph
        return str(graph), torch.func.jvp(log_prob, given, given)

    graph, derivatives = results()
    with patch() as applied:
        ours = results()
    assert ours[0] == graph and not any(applied.calls.values())
    torch.testing.assert_close(ours[1], derivatives, rtol=0, atol=0)


@every_family
def test_compiled(name, monkeypatch):
    monkeypatch.setattr(Distribution, "_validate_args", False)
    torch._dynamo.reset()
    leaves, make, x = _made(name, dtype=torch.float32)

    def log_probs(*leaves):
        p = make(*leaves)
        return p.log_prob(x), Independent(p, 1).log_prob(x)

    original = log_probs(*leaves)
    with patch():
        compiled = torch.compile(log_probs, fullgraph=True, backend="aot_eager")
        ours = compiled(*leaves)
        torch.testing.assert_close(ours, log_probs(*leaves), rtol=0, atol=0)
    torch.testing.assert_close(ours, original, rtol=1e-5, atol=1e-5)
    gradients, expected = (torch.autograd.grad(values[1].sum(), leaves) for values in (ours, original))
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)


def test_the_identical_functions_are_put_back():
    classes = [Independent, MixtureSameFamily, *(of for of, *_ in FAMILIES.values())]
    before = [vars(of)["log_prob"] for of in classes]
    with patch():
        assert all(vars(of)["log_prob"] is not f for of, f in zip(classes, before, strict=True))
    assert all(vars(of)["log_prob"] is f for of, f in zip(classes, before, strict=True))
