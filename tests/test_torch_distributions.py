"""torch.distributions.kl_divergence with and without the patch."""

import copy
import warnings

import mpmath
import pytest
import torch
from patch_mistakes import check_mistakes
from torch._dynamo.testing import CompileCounter
from torch.distributions import (
    Bernoulli,
    HalfNormal,
    Independent,
    Laplace,
    LogNormal,
    Normal,
    kl,
    kl_divergence,
    register_kl,
)

from aevb_ext.integrations import OutOfOrder
from aevb_ext.integrations.torch_distributions import patch

OF_NORMALS, OF_INDEPENDENTS = "kl_divergence(Normal, Normal)", "kl_divergence(Independent, Independent)"


def _divergences(applied):
    """How often each of the two was called (of log_prob see test_torch_log_prob.py)."""
    return {label: applied.calls[label] for label in (OF_NORMALS, OF_INDEPENDENTS)}


# (loc and scale of p, those of q): each the shape of its own tensor.
SHAPES = {
    "same": ((4, 3), (4, 3), (4, 3), (4, 3)),
    "standard": ((4, 3), (4, 3), (), ()),
    "one scale": ((4, 3), (), (4, 3), ()),
    "prior of a batch": ((4, 3), (4, 3), (3,), (3,)),
    "prior larger": ((4, 3), (4, 3), (2, 4, 3), (4, 3)),
    "posterior smaller": ((3,), (), (4, 3), (3,)),
    "outer": ((4, 1), (4, 1), (1, 3), (1, 3)),
    "image": ((2, 3, 4, 5), (2, 3, 4, 5), (3, 1, 1), (3, 1, 1)),
    "numbers": ((), (), (), ()),
    "nothing": ((0, 3), (0, 3), (3,), (3,)),
}


@pytest.fixture(autouse=True)
def nobody_else():
    """A test that fails half-way must not leave its patch to the next."""
    registry, memo = dict(kl._KL_REGISTRY), dict(kl._KL_MEMOIZE)
    yield
    assert kl._KL_REGISTRY == registry
    kl._KL_MEMOIZE.clear()
    kl._KL_MEMOIZE.update(memo)


def _parameters(shapes, dtype=torch.float32, dtype_q=None):
    """loc and scale of p and of q."""
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    values[1::2] = [v.mul(0.5).exp() for v in values[1::2]]
    return [v.to(t) for v, t in zip(values, (dtype, dtype, dtype_q or dtype, dtype_q or dtype), strict=True)]


def _pair(parameters, event_dims=None):
    p, q = Normal(*parameters[:2]), Normal(*parameters[2:])
    return (p, q) if event_dims is None else (Independent(p, event_dims), Independent(q, event_dims))


def _event_dims(shapes):
    smaller = min(len(torch.broadcast_shapes(*shapes[:2])), len(torch.broadcast_shapes(*shapes[2:])))
    return [None, *range(smaller + 1)]


# (Of no Independents at all the original makes an error.)
CASES = [pytest.param(shapes, n, id=f"{name}-{n}") for name, shapes in SHAPES.items() for n in _event_dims(shapes)]
CASES = [case for case in CASES if case.id != "nothing-1"]


class TestValues:
    @pytest.mark.parametrize("shapes, event_dims", CASES)
    def test_values_and_gradients(self, shapes, event_dims):
        """Against the original in float64."""
        parameters = _parameters(shapes)
        exact = [t.double().requires_grad_() for t in parameters]
        ours = [t.requires_grad_() for t in parameters]
        expected = kl_divergence(*_pair(exact, event_dims))
        cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        expected_gradients = torch.autograd.grad(expected, exact, cotangent)
        with patch() as applied:
            value = kl_divergence(*_pair(ours, event_dims))
        gradients = torch.autograd.grad(value, ours, cotangent.float())
        assert value.dtype == torch.float32 and value.shape == expected.shape
        torch.testing.assert_close(value.double(), expected, rtol=2e-6, atol=2e-7)
        for gradient, right in zip(gradients, expected_gradients, strict=True):
            torch.testing.assert_close(gradient.double(), right, rtol=1e-5, atol=2e-5)  # sums of terms of 100s
        used = OF_INDEPENDENTS if event_dims is not None else OF_NORMALS
        assert _divergences(applied) == {OF_NORMALS: 0, OF_INDEPENDENTS: 0} | {used: 1}

    def test_near_the_prior(self):
        """Where the original has no digit right, since it is the difference of numbers near 1."""
        parameters = [torch.tensor(v) for v in ([1e-4], [1 + 1e-4], [0.0], [1.0])]
        mu, std = (mpmath.mpf(t.item()) for t in parameters[:2])
        exact = float((std**2 + mu**2 - 1 - mpmath.log(std**2)) / 2)
        original = kl_divergence(*_pair(parameters)).item()
        with patch():
            ours, summed = kl_divergence(*_pair(parameters)).item(), kl_divergence(*_pair(parameters, 1)).item()
        assert ours == summed == pytest.approx(exact, rel=4e-7)
        assert original != pytest.approx(exact, rel=0.1)

    @pytest.mark.parametrize("q_shape, event_dims", [((), None), ((3,), None), ((3,), 1)])
    @pytest.mark.parametrize("dtype_q", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
    def test_dtype_of_the_result(self, dtype, dtype_q, q_shape, event_dims):
        pair = _pair(_parameters(((4, 3), (4, 3), q_shape, q_shape), dtype, dtype_q), event_dims)
        original = kl_divergence(*pair)
        with patch():
            ours = kl_divergence(*pair)
        assert ours.dtype == original.dtype
        tolerance = 16 * max(torch.finfo(t).eps for t in (dtype, dtype_q))
        torch.testing.assert_close(ours, original, rtol=tolerance, atol=tolerance)

    def test_half_precision_is_rounded_once(self):
        parameters = _parameters(((4, 300), (4, 300), (300,), ()), torch.bfloat16)
        expected = kl_divergence(*_pair([t.double() for t in parameters], 1)).bfloat16()
        with patch():
            torch.testing.assert_close(kl_divergence(*_pair(parameters, 1)), expected, rtol=0, atol=0)

    def test_under_autocast(self):
        """bfloat16 of a layer against a prior in float32; what comes out is float32, as autocast on a GPU has it."""
        parameters = _parameters(((4, 3), (4, 3), (3,), ()), torch.bfloat16, torch.float32)
        exact = kl_divergence(*_pair([t.double() for t in parameters], 1))
        with patch(), torch.autocast("cpu", torch.bfloat16):
            value = kl_divergence(*_pair(parameters, 1))
        assert value.dtype == torch.float32
        torch.testing.assert_close(value.double(), exact, rtol=2e-6, atol=0)

    def test_gradient_of_the_gradient(self):
        parameters = [t.requires_grad_() for t in _parameters(SHAPES["prior of a batch"], torch.float64)]
        with patch():
            assert torch.autograd.gradgradcheck(lambda *t: kl_divergence(*_pair(t, 1)), parameters)

    @pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated")
    @pytest.mark.parametrize("event_dims", [None, 1])
    def test_traces_and_forward_derivatives_are_the_originals(self, event_dims):
        """Without a warning, which within torch.jit.trace a comparison of shapes is."""
        p_parameters, q = _parameters(SHAPES["same"])[:2], _pair(_parameters(SHAPES["same"]), event_dims)[1]

        def divergence(loc, scale):
            p = Normal(loc, scale, validate_args=False)
            return kl_divergence(p if event_dims is None else Independent(p, event_dims, validate_args=False), q)

        def results():
            with warnings.catch_warnings():
                warnings.simplefilter("error", torch.jit.TracerWarning)
                graph = torch.jit.trace(divergence, p_parameters, check_trace=False).graph
            return str(graph), torch.func.jvp(divergence, tuple(p_parameters), tuple(p_parameters))

        graph, derivatives = results()
        with patch() as applied:
            ours = results()
        assert ours[0] == graph and not any(applied.calls.values())
        torch.testing.assert_close(ours[1], derivatives, rtol=0, atol=0)

    def test_vmap_over_posteriors(self):
        loc, scale, *_ = _parameters(((5, 4, 3), (5, 4, 3), (), ()))

        def divergence(loc, scale):
            p = Normal(loc, scale, validate_args=False)
            return kl_divergence(Independent(p, 1, validate_args=False), Independent(Normal(torch.zeros(4, 3), 1.0), 1))

        with patch():
            batched = torch.func.vmap(divergence)(loc, scale)
            torch.testing.assert_close(batched, torch.stack([divergence(*row) for row in zip(loc, scale, strict=True)]))


class _Special(Normal):
    """Somebody's Normal."""


class TestOthersStay:
    def test_other_pairs_are_the_originals(self):
        pairs = [
            (Bernoulli(torch.rand(3)), Bernoulli(torch.rand(3))),
            (Independent(Laplace(torch.zeros(4, 3), 1.0), 1), Independent(Laplace(torch.ones(4, 3), 2.0), 1)),
            (Normal(torch.zeros(3), 1.0), Laplace(torch.zeros(3), 1.0)),
            (Normal(torch.tensor([0, 1]), torch.tensor([1, 2])), Normal(0.0, 1.0)),  # integers
        ]
        originals = [kl_divergence(*pair) for pair in pairs]
        with patch() as applied:
            assert all(map(torch.equal, [kl_divergence(*pair) for pair in pairs], originals))
        assert _divergences(applied) == {OF_NORMALS: 0, OF_INDEPENDENTS: 0}

    def test_what_is_made_of_normals_gains_too(self):
        parameters = _parameters(SHAPES["same"])
        nested = [Independent(d, 1) for d in _pair(parameters, 1)]
        pairs = [nested, (LogNormal(*parameters[:2]), LogNormal(*parameters[2:]))]
        originals = [kl_divergence(*pair) for pair in pairs]
        with patch() as applied:
            ours = [kl_divergence(*pair) for pair in pairs]
        torch.testing.assert_close(ours, originals)
        assert _divergences(applied) == {OF_NORMALS: 1, OF_INDEPENDENTS: 1}
        assert torch.equal(kl_divergence(HalfNormal(1.0), HalfNormal(1.0)), torch.tensor(0.0))

    def test_independents_of_other_event_shapes_are_refused_as_ever(self):
        p, q = (Independent(Normal(torch.zeros(4, 3), 1.0), n) for n in (1, 2))
        with patch(), pytest.raises(NotImplementedError):
            kl_divergence(p, q)

    def test_a_subclass_with_a_kl_of_its_own_keeps_it(self):
        loc, scale, *_ = _parameters(SHAPES["same"])
        special, normal = _Special(loc, scale), Normal(loc, scale)
        with patch() as applied:
            kl_divergence(Independent(special, 1), Independent(special, 1))
            assert applied.calls[OF_INDEPENDENTS] == 1
        try:
            with patch() as applied:
                register_kl(_Special, _Special)(lambda p, q: torch.full((4, 3), 7.0))
                assert kl_divergence(Independent(special, 1), Independent(special, 1)).tolist() == [21.0] * 4
                assert _divergences(applied) == {OF_NORMALS: 0, OF_INDEPENDENTS: 0}
                kl_divergence(Independent(special, 1), Independent(normal, 1))
                assert _divergences(applied) == {OF_NORMALS: 0, OF_INDEPENDENTS: 1}
        finally:
            del kl._KL_REGISTRY[_Special, _Special]


def _loss(loc, scale):
    p, q = Normal(loc, scale), Normal(torch.zeros_like(loc), torch.ones_like(loc))
    elementwise, numbers = kl_divergence(p, q), kl_divergence(p, Normal(0.0, 1.0))
    return (elementwise + 2 * numbers).sum() + (kl_divergence(Independent(p, 1), Independent(q, 1)) ** 2).sum()


class TestCompile:
    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch):
        torch._dynamo.reset()
        # As PyTorch's compiler leaves it when it is imported; another test may have brought it back.
        monkeypatch.setattr(torch.distributions.Distribution, "_validate_args", False)

    @pytest.fixture
    def compiled(self):
        """The compiled loss, and the list of what ran: for each call, the number of our operators in its graph."""
        ran = []

        def backend(graph, _):
            ours = sum("aevb_ext" in str(node.target) for node in graph.graph.nodes)

            def run(*args):
                ran.append(ours)
                return graph.forward(*args)

            return run

        return torch.compile(_loss, fullgraph=True, backend=backend), ran

    def test_without_any_earlier_call(self, compiled):
        """Here we do better than the original, which compiles only when the pair has been looked up before."""
        kl._KL_MEMOIZE.clear()
        with patch():
            _check(compiled[0])
        assert compiled[1] == [3]

    def test_compiled_code_follows_the_patch(self, compiled):
        function, ran = compiled
        _loss(*_parameters(SHAPES["same"])[:2])
        _check(function)
        for _ in range(2):
            with patch():
                _check(function)
            _check(function)
        assert ran == [0, 3, 0, 3, 0]

    def test_aot(self):
        with patch():
            _check(torch.compile(_loss, fullgraph=True, backend="aot_eager"))

    def test_dynamic_shapes_compile_once(self):
        counter = CompileCounter()
        function = torch.compile(_loss, fullgraph=True, dynamic=True, backend=counter)
        with patch():
            for batch in (4, 7, 12):
                _check(function, ((batch, 3), (batch, 3), (), ()))
        assert counter.frame_count == 1


def _check(function, shapes=SHAPES["same"]):
    parameters = [t.requires_grad_() for t in _parameters(shapes)[:2]]
    value, expected = function(*parameters), _loss(*parameters)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(torch.autograd.grad(value, parameters), torch.autograd.grad(expected, parameters))


def _state():
    return list(kl._KL_REGISTRY.items()), dict(kl._KL_MEMOIZE)


class TestPutBack:
    def test_mistakes(self, monkeypatch):
        kl_divergence(Normal(0.0, 1.0), Normal(0.0, 1.0))
        check_mistakes(patch, "torch", _state, monkeypatch)

    def test_what_was_looked_up_meanwhile_is_forgotten(self):
        """The memo must not keep our function for a subclass."""
        special = _Special(torch.zeros(3), torch.ones(3))
        before = _state()
        with patch() as applied:
            kl_divergence(special, special)
        assert applied.calls[OF_NORMALS] == 1 and _state() == before
        kl_divergence(special, special)
        assert applied.calls[OF_NORMALS] == 1

    def test_a_registration_on_top_must_go_first(self):
        original = kl._KL_REGISTRY[Normal, Normal]
        applied = patch()
        ours = kl._KL_REGISTRY[Normal, Normal]
        register_kl(Normal, Normal)(original)
        with pytest.raises(OutOfOrder, match="has been replaced since it was patched, by torch"):
            applied.undo()
        register_kl(Normal, Normal)(ours)
        applied.undo()
        assert kl._KL_REGISTRY[Normal, Normal] is original

    def test_distributions_made_under_the_patch_outlive_it(self):
        with patch():
            p, q = copy.deepcopy(_pair(_parameters(SHAPES["same"]), 1))
            value = kl_divergence(p, q)
        torch.testing.assert_close(kl_divergence(p, q), value)
