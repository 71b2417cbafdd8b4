"""The likelihoods of a decoder's last linear layer are those of the two-step form, in a small part of its memory."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import aevb_ext
from aevb_ext import reference
from aevb_ext._library import ops
from aevb_ext.learners import AEVB
from aevb_ext.models import make_model
from aevb_ext.nn import BernoulliDecoder, GaussianDecoder, Linear, heads
from aevb_ext.train import make_step
from benchmarks.memory import peak_bytes

EPS = torch.finfo(torch.float32).eps


@dataclass(frozen=True)
class Kind:
    """A likelihood: how many outputs of the layer an element of x has, and what else is learned or said."""

    name: str
    operator: str = "linear_gaussian_log_prob"
    outputs: int = 1
    logvar: tuple | None = None  # its shape, None being D
    options: tuple = ()

    def __str__(self):
        return self.name


KINDS = [
    Kind("bernoulli", "linear_bernoulli_log_prob"),
    Kind("gaussian", outputs=2),
    Kind("gaussian_sigmoid", outputs=2, options=(("sigmoid", True),)),
    Kind("spread_of_features", logvar=(None,)),
    Kind("one_spread_sigmoid", logvar=(), options=(("sigmoid", True),)),
    Kind("one_spread_1", logvar=(1,)),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=str)


def tensors(kind, h_shape, x_shape, dtype=torch.float64, bias=True, x_dtype=None, device="cpu"):
    """x, h, weight, bias, logvar by name; x ends in D, h in H."""
    generator = torch.Generator().manual_seed(sum(h_shape) + sum(x_shape))

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    d, n_in = x_shape[-1], h_shape[-1]
    made = {"x": torch.rand(x_shape, generator=generator, dtype=torch.float64), "h": normal(*h_shape)}
    made["weight"] = normal(kind.outputs * d, n_in) / max(n_in, 1) ** 0.5
    if bias:
        made["bias"] = normal(kind.outputs * d)
    if kind.logvar is not None:
        made["logvar"] = normal(*(d if size is None else size for size in kind.logvar)) / 2
    if x_dtype is not None:
        made["x"] = (made["x"] * 255).round() if x_dtype == torch.uint8 else made["x"].round()
    made = {name: t.to(device=device, dtype=dtype) for name, t in made.items()}
    return made | ({"x": made["x"].to(x_dtype)} if x_dtype is not None else {})


def run(module, kind, given, cotangent=None, **options):
    """The value, and the gradients of all that is floating for a cotangent (default: one of many numbers)."""
    leaves = {name: t.detach().requires_grad_(t.is_floating_point()) for name, t in given.items()}
    value = getattr(module, kind.operator)(**leaves, **dict(kind.options), **options)
    if cotangent is None:
        cotangent = torch.linspace(-1, 2, value.numel(), dtype=value.dtype, device=value.device).reshape(value.shape)
    floating = [t for t in leaves.values() if t.requires_grad]
    return [value.detach(), *torch.autograd.grad(value, floating, cotangent)]


# h [*samples, *batch, *event[:-1], H], x [*batch, *event], batch_dims. A block has 2 MiB of outputs, and 512 rows.
SHAPES = {
    "one block": ((7, 5), (7, 3), 1),
    "several blocks": ((1300, 4), (1300, 601), 1),
    "samples in blocks": ((5, 300, 4), (300, 601), 1),
    "samples of blocks": ((2, 700, 4), (700, 601), 1),
    "two dimensions of samples": ((2, 3, 200, 4), (200, 601), 1),
    "one point for all": ((600, 4), (1, 601), 1),
    "event of two dimensions": ((2, 4, 3, 5), (4, 3, 6), 1),
    "two batch dimensions": ((2, 4, 3, 5), (4, 3, 6), 2),
    "a batch broadcast within": ((4, 3, 5), (4, 1, 6), 2),
    "no batch": ((3, 5), (6,), 0),
    "one number": ((7, 1), (7, 1), 1),
    "long rows": ((3, 2), (3, 9001), 1),
}


@pytest.mark.parametrize("shape", SHAPES)
@every_kind
def test_values_and_gradients(kind, shape, device):
    h_shape, x_shape, batch_dims = SHAPES[shape]
    given = tensors(kind, h_shape, x_shape, device=device)
    found = run(aevb_ext, kind, given, batch_dims=batch_dims)
    expected = run(reference, kind, given, batch_dims=batch_dims)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("reduction", ["none", "sample", "sum", "mean"])
@pytest.mark.parametrize("shape", ["samples of blocks", "event of two dimensions"])
@every_kind
def test_reductions(kind, shape, reduction, device):
    h_shape, x_shape, batch_dims = SHAPES[shape]
    given = tensors(kind, h_shape, x_shape, bias=False, device=device)
    found, expected = (
        run(module, kind, given, batch_dims=batch_dims, reduction=reduction) for module in (aevb_ext, reference)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("x_dtype", [torch.uint8, torch.bool, torch.float32, torch.bfloat16], ids=str)
@every_kind
def test_data_dtypes(kind, x_dtype, device):
    given = tensors(kind, (3, 200, 4), (200, 30), torch.float32, x_dtype=x_dtype, device=device)
    scale = 1 / 255 if x_dtype == torch.uint8 else 0.75
    found = run(aevb_ext, kind, given, x_scale=scale)
    wide = {name: t.double() if t.is_floating_point() else t for name, t in given.items()}
    exact = run(reference, kind, wide, x_scale=scale)
    for a, b in zip(found, exact, strict=True):  # x's own gradient is rounded to its dtype
        assert (a.double() - b).abs().max() <= max(1e-5, torch.finfo(a.dtype).eps) * b.abs().max()


@pytest.mark.compiled("that form is made of our operators")
@every_kind
def test_float32_is_rounded_as_the_two_step_form(kind, device):
    """Its errors, against float64, are in the mean those of the two operators one after the other."""
    given = tensors(kind, (1300, 50), (1300, 1100), torch.float32, device=device)

    def two_steps(x, h, weight, bias, logvar=None, sigmoid=False):
        y = ops.linear(h, weight, bias, False)
        if kind.name == "bernoulli":
            return aevb_ext.bernoulli_log_prob(x, y)
        mean, spread = (y, logvar) if logvar is not None else y.chunk(2, -1)
        return aevb_ext.gaussian_log_prob(x, mean.sigmoid() if sigmoid else mean, spread)

    class TwoSteps:
        linear_bernoulli_log_prob = linear_gaussian_log_prob = staticmethod(two_steps)

    exact = run(reference, kind, {name: t.double() for name, t in given.items()})
    for ours, theirs, right in zip(run(aevb_ext, kind, given), run(TwoSteps, kind, given), exact, strict=True):
        # One number has no mean: theirs may be next to the right one, and ours the one after.
        assert (ours - right).norm() <= 2 * (theirs - right).norm() + 2 * EPS * right.norm()


@every_kind
def test_derivatives_of_derivatives(kind):
    given = tensors(kind, (2, 3, 4), (3, 5))
    inputs = [t.requires_grad_() for t in given.values()]

    def value(*inputs):
        return getattr(aevb_ext, kind.operator)(**dict(zip(given, inputs, strict=True)), **dict(kind.options))

    assert torch.autograd.gradcheck(value, inputs)
    assert torch.autograd.gradgradcheck(value, inputs)


@pytest.mark.compiled("there are no operators to check")
@pytest.mark.parametrize("reduction", ["sample", "mean", "none"])
@every_kind
def test_opcheck(kind, reduction, device):
    given = tensors(kind, (2, 4, 3), (4, 5), torch.float32, device=device)
    given = {name: t.requires_grad_() for name, t in given.items()}
    arguments = [*(given[name] for name in ("x", "h", "weight", "bias")), 1.0, reduction, 1]
    if kind.operator == "linear_gaussian_log_prob":
        arguments[4:4] = [given.get("logvar"), dict(kind.options).get("sigmoid", False)]
    operator = getattr(ops, kind.operator)
    torch.library.opcheck(operator.default, tuple(arguments))
    plain = [a.detach() if isinstance(a, torch.Tensor) else a for a in arguments]
    wanted = [True] * (4 if kind.name == "bernoulli" else 5)
    if kind.name != "bernoulli" and "logvar" not in given:
        wanted[4] = False
    cotangent = torch.ones_like(operator(*plain))
    backward = getattr(ops, kind.operator + "_backward")
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(backward.default, (cotangent, *plain, wanted), test_utils=tests)


@pytest.mark.cpu_kernels("a cotangent is guessed on the CPU alone")
@every_kind
@pytest.mark.parametrize("reduction", ["sample", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_do_not_depend_on_the_guess(kind, reduction, dtype):
    """Nor on the run: with the cotangent known ahead and without, and each time."""
    given = tensors(kind, (1100, 4), (1100, 601), dtype)
    ones = torch.ones(1100) if reduction == "sample" else torch.ones(())

    def gradients(number):
        return run(aevb_ext, kind, given, number * ones, reduction=reduction)

    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        expected = gradients(-0.3)
    for _ in range(2):
        gradients(-0.3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        found = gradients(-0.3)
    assert not any(event.name.endswith("_log_prob_backward") for event in profile.events())
    for _ in range(2):
        gradients(7.0)
    for results in (found, gradients(-0.3)):
        assert all(map(torch.equal, results, expected))


@every_kind
def test_half_precision(kind, device):
    """The layer in half precision; what is added up over rows, in float32."""
    given = tensors(kind, (3000, 16), (3000, 700), torch.bfloat16, device=device)
    found = run(aevb_ext, kind, given)
    exact = run(reference, kind, {name: t.double() for name, t in given.items()})
    assert found[0].dtype == torch.float32
    for a, b in zip(found, exact, strict=True):
        assert (a.double() - b).abs().max() <= 2**-6 * b.abs().max()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.logvar is not None], ids=str)
def test_a_spread_in_float32_beside_a_half(kind, device):
    """Where the two-step form, too, widens the mean: a spread in half precision would be off by nats."""
    given = tensors(kind, (40, 16), (40, 700), torch.bfloat16, device=device)
    given["logvar"] = given["logvar"].float() + 1e-3
    found = run(aevb_ext, kind, given)
    mean = nn.functional.linear(given["h"], given["weight"], given["bias"]).float()
    mean = mean.sigmoid() if dict(kind.options) else mean
    torch.testing.assert_close(found[0], aevb_ext.gaussian_log_prob(given["x"], mean, given["logvar"]))
    assert found[-1].dtype == torch.float32


@every_kind
def test_autocast(kind, device):
    """The layer is cast as nn.Linear is; data and a learned spread stay as they are."""
    given = tensors(kind, (2, 30, 16), (30, 12), torch.float32, device=device)
    with torch.autocast(device.type, torch.bfloat16):
        found = run(aevb_ext, kind, given)
    layer = ("h", "weight", "bias")
    cast = given | {name: given[name].bfloat16() for name in layer}
    expected = run(aevb_ext, kind, cast)
    assert all(a.dtype == torch.float32 for a in found)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b.float())


@pytest.mark.compiled("in plain PyTorch all of the output is in memory")
@pytest.mark.cpu_kernels("a GPU's blocks of rows are larger")
@every_kind
def test_memory(kind):
    """Nothing of the size of the output: the gradients, and some blocks."""
    given = tensors(kind, (20000, 20), (20000, 400), torch.float32, x_dtype=torch.uint8)
    leaves = {name: t.requires_grad_(t.is_floating_point()) for name, t in given.items()}
    output = 4 * 20000 * 400 * kind.outputs

    def step():
        getattr(aevb_ext, kind.operator)(**leaves, **dict(kind.options), reduction="mean", x_scale=1 / 255).backward()

    learnt = [t for t in leaves.values() if t.requires_grad]
    gradients = sum(t.nbytes for t in learnt)
    for _ in range(3):
        for t in learnt:
            t.grad = None
        assert peak_bytes(step, torch.device("cpu")) - gradients < 8 << 20 < output / 3


@pytest.mark.parametrize(
    ("h_shape", "x_shape"), [((0, 4), (0, 3)), ((5, 0), (5, 3)), ((0, 6, 4), (6, 3)), ((5, 4), (5, 0))], ids=str
)
@every_kind
def test_nothing(kind, h_shape, x_shape, device):
    given = tensors(kind, h_shape, x_shape, device=device)
    torch.testing.assert_close(run(aevb_ext, kind, given), run(reference, kind, given))


@pytest.mark.parametrize("wanted", ["x", "h", "weight", "bias", "logvar"])
@pytest.mark.parametrize("known", [False, True])
def test_one_gradient_alone(wanted, known):
    kind = KINDS[3]
    given = tensors(kind, (1100, 4), (1100, 601))
    number = torch.ones(1100, dtype=torch.float64) if known else torch.rand(1100, dtype=torch.float64)
    place = 1 + list(given).index(wanted)
    expected = run(reference, kind, given, number)[place]
    only = {name: t.detach().requires_grad_(name == wanted) for name, t in given.items()}
    for _ in range(3):
        (found,) = torch.autograd.grad(aevb_ext.linear_gaussian_log_prob(**only), only[wanted], number)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "batched", [("h",), ("x",), ("x", "h"), ("weight",), ("h", "weight", "bias", "logvar")], ids=str
)
@pytest.mark.parametrize("reduction", ["none", "sample", "sum", "mean"])
@every_kind
def test_vmap(kind, batched, reduction):
    given = tensors(kind, (3, 4, 5), (4, 6))
    batched = [name for name in batched if name in given]
    stacked = given | {name: torch.stack([given[name], given[name] / 2], -1) for name in batched}

    def value(*inputs):
        options = dict(kind.options) | {"reduction": reduction}
        return getattr(aevb_ext, kind.operator)(**dict(zip(given, inputs, strict=True)), **options)

    dims = tuple(-1 if name in batched else None for name in given)
    found = torch.func.vmap(value, dims)(*stacked.values())
    members = [[t[..., i] if name in batched else t for name, t in stacked.items()] for i in range(2)]
    torch.testing.assert_close(found, torch.stack([value(*member) for member in members]))


@every_kind
def test_compiled_with_any_batch(kind, device):
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda given: getattr(aevb_ext, kind.operator)(**given, **dict(kind.options), reduction="mean"),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for batch in (4, 9):
        given = tensors(kind, (2, batch, 5), (batch, 6), device=device)
        given = {name: t.requires_grad_() for name, t in given.items()}
        results = []
        for function in (
            compiled,
            lambda t: getattr(reference, kind.operator)(**t, **dict(kind.options), reduction="mean"),
        ):
            value = function(given)
            results.append([value, *torch.autograd.grad(value, list(given.values()))])
        torch.testing.assert_close(*results)


GOOD = tensors(KINDS[0], (4, 5), (4, 6), torch.float32)


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"h": torch.ones(4, 3)}, ValueError, r"h must be \[\*, 5\], since weight is \[6, 5\]; got \[4, 3\]"),
        ({"weight": torch.ones(5)}, ValueError, r"weight must be \[out, in\], got \[5\]"),
        ({"bias": torch.ones(5)}, ValueError, r"bias must be \[6\].*got \[5\]"),
        ({"bias": torch.ones(6).double()}, TypeError, "h, weight and bias must be of one dtype, got Float and Double"),
        ({"weight": torch.ones(6, 5).double()}, TypeError, "of one dtype, got Float and Double"),
        ({"x": torch.ones(4, 7)}, ValueError, r"x has shape \[4, 7\], which does not broadcast to the layer's output"),
        ({"x": torch.ones(4, 6, dtype=torch.int64)}, TypeError, "x must be .*, got int64"),
        ({"h": torch.ones(4, 5, dtype=torch.int64)}, TypeError, "h must be .*, got int64"),
        ({"batch_dims": 2}, ValueError, r"batch_dims must be from 0 to 1, .*got 2"),
        ({"batch_dims": -1}, ValueError, r"batch_dims must be from 0 to 1, .*got -1"),
        ({"reduction": "max"}, ValueError, 'reduction must be .*, got "max"'),
    ],
)
def test_errors(changed, error, match):
    with pytest.raises(error, match=match):
        aevb_ext.linear_bernoulli_log_prob(**(GOOD | changed))


SIZES_OF_ZERO = [
    (h_shape, x_shape)
    for h_shape in ((0, 4), (5, 0), (5, 4), (0, 0), (0, 5, 4), (2, 0, 4), (2, 5, 0))
    for x_shape in ((h_shape[-2], 3), (h_shape[-2], 0))
    if 0 in (*h_shape, *x_shape)
]


@pytest.mark.parametrize("reduction", ["sum", "none"])
@pytest.mark.parametrize(("h_shape", "x_shape"), SIZES_OF_ZERO, ids=str)
@every_kind
def test_sizes_of_zero(kind, h_shape, x_shape, reduction, device):
    """Rows, inputs, outputs: what the reference gives, and its first and second derivatives."""
    given = tensors(kind, h_shape, x_shape, device=device)

    def derivatives(module):
        leaves = {name: t.detach().requires_grad_() for name, t in given.items()}
        value = getattr(module, kind.operator)(**leaves, **dict(kind.options), reduction=reduction).sum()
        first = torch.autograd.grad(value, list(leaves.values()), retain_graph=True)
        again = torch.autograd.grad(value, list(leaves.values()), create_graph=True)
        norm = sum(g.square().sum() for g in again)
        return [value, *first, *again, *torch.autograd.grad(norm, list(leaves.values()), materialize_grads=True)]

    torch.testing.assert_close(derivatives(aevb_ext), derivatives(reference), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("changed", "error", "match"),
    [
        ({"weight": torch.ones(5, 5), "bias": None}, ValueError, "weight has 5 rows, which has no halves"),
        (
            {"logvar": torch.ones(5)},
            ValueError,
            r"logvar has shape \[5\]: expected one number, or one for each of the 6",
        ),
        ({"logvar": torch.ones(4, 1)}, ValueError, r"logvar has shape \[4, 1\]"),
        ({"logvar": torch.ones(6).double()}, TypeError, "logvar is Double, but h is Float"),
        ({"logvar": torch.ones(6, dtype=torch.int64)}, TypeError, "logvar must be .*, got int64"),
    ],
)
def test_errors_of_gaussians(changed, error, match):
    with pytest.raises(error, match=match):
        aevb_ext.linear_gaussian_log_prob(**(GOOD | changed))


# The heads.


def _decoders():
    def body(n_out, last=nn.Linear):
        return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), last(8, n_out))

    yield "bernoulli", lambda: BernoulliDecoder(body(7))
    yield "bernoulli, our Linear", lambda: BernoulliDecoder(body(7, Linear))
    yield "gaussian", lambda: GaussianDecoder(body(14))
    yield "gaussian, -1", lambda: GaussianDecoder(body(14), -1, sigmoid=False)
    yield "one spread", lambda: GaussianDecoder(body(7), logvar=-1.0)
    yield "spreads", lambda: GaussianDecoder(body(7), logvar=torch.linspace(-1, 1, 7))


DECODERS = dict(_decoders())


def _uses_the_fused(decoder, z, x):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        decoder.log_prob(x, z)
    names = {event.name for event in profile.events()}
    assert any(name.startswith("aevb_ext::") and name.endswith("log_prob") for name in names)
    return any(name.startswith("aevb_ext::linear_") and name.endswith("log_prob") for name in names)


@pytest.fixture
def everything_is_large(monkeypatch):
    monkeypatch.setattr(heads, "_LARGE", {"cpu": 0, "cuda": 0})


@pytest.mark.compiled("which operator a head has called is what is looked at")
@pytest.mark.parametrize("samples", [(), (4,), (2, 3)], ids=str)
@pytest.mark.parametrize("name", DECODERS)
def test_decoders(name, samples, monkeypatch):
    """The same likelihood either way, by the fused operator where the output is large; parameters keep their names."""
    torch.manual_seed(0)
    decoder = DECODERS[name]().double()
    z, x = torch.randn(*samples, 5, 3, dtype=torch.float64), torch.rand(5, 7, dtype=torch.float64)
    results = []
    for limit, fused in ((2**23, False), (5 * 7 * 4, bool(samples)), (0, True)):
        monkeypatch.setattr(heads, "_LARGE", {"cpu": limit})
        assert _uses_the_fused(decoder, z, x) == fused
        value = decoder.log_prob(x, z)
        results.append([value, *torch.autograd.grad(value.sum(), list(decoder.parameters()))])
    torch.testing.assert_close(results[1], results[0])
    torch.testing.assert_close(results[2], results[0])
    layers = [f"net.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")]
    assert sorted(decoder.state_dict()) == sorted(layers + ["logvar"] * ("spread" in name))


class Doubled(nn.Linear):
    def forward(self, h):
        return 2 * super().forward(h)


def _changed(change):
    def make():
        decoder = BernoulliDecoder(nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 7)))
        change(decoder.net)
        return decoder

    return make


@pytest.mark.compiled("which operator a head has called is what is looked at")
@pytest.mark.parametrize(
    "make",
    [
        _changed(lambda net: net.append(nn.Tanh())),
        _changed(lambda net: net.append(Doubled(7, 7))),
        _changed(lambda net: net.append(Linear(7, 7, tanh=True))),
        _changed(lambda net: net[-1].register_forward_hook(lambda module, given, y: 2 * y)),
        _changed(lambda net: net.register_forward_hook(lambda module, given, y: 2 * y)),
        _changed(lambda net: net[-1].register_forward_pre_hook(lambda module, given: (2 * given[0],))),
        _changed(lambda net: net[-1].register_full_backward_hook(lambda module, dx, dy: None)),
        _changed(lambda net: nn.utils.parametrizations.weight_norm(net[-1])),
        lambda: BernoulliDecoder(nn.Linear(3, 7)),
        lambda: GaussianDecoder(nn.Sequential(nn.Linear(3, 14)), clamp=(-5.0, 5.0)),
    ],
    ids="tanh subclass our_tanh hook hook_of_all pre_hook backward_hook weight_norm no_sequential clamp".split(),
)
def test_decoders_whose_output_others_see(make, everything_is_large):
    torch.manual_seed(0)
    decoder = make()
    z, x = torch.randn(5, 3), torch.rand(5, 7)
    assert not _uses_the_fused(decoder, z, x)
    torch.testing.assert_close(decoder.log_prob(x, z), decoder(z).log_prob(x))


def test_a_decoder_under_autocast(everything_is_large, monkeypatch):
    torch.manual_seed(0)
    decoder = DECODERS["spreads"]()
    z, x = torch.randn(2, 5, 3), torch.rand(5, 7)
    with torch.autocast("cpu", torch.bfloat16):
        fused = decoder.log_prob(x, z)
        monkeypatch.setattr(heads, "_LARGE", {})
        two_steps = decoder.log_prob(x, z)
    assert fused.dtype == torch.float32
    torch.testing.assert_close(fused, two_steps, rtol=0, atol=7 * 2**-6)


@pytest.mark.compiled("which operator a head has called is what is looked at")
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("architecture", ["mlp", "deep-mlp"])
def test_training_reaches_the_same_parameters(architecture, likelihood, monkeypatch):
    """The trainer's own models take the operator for large minibatches, and it changes nothing but the rounding."""
    x = torch.randint(256, (64, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def trained(limits):
        monkeypatch.setattr(heads, "_LARGE", limits)
        sizes = {"x_dim": 30, "latent": 3, "hidden": 20, "x_scale": 1 / 255, "likelihood": likelihood}
        model = make_model(architecture, **sizes, generator=torch.Generator().manual_seed(1)).double()
        assert _uses_the_fused(model.decoder, torch.randn(64, 3, dtype=torch.float64), x) == bool(limits)
        step = make_step(AEVB(model, len(x), batch_size=32, optimizer="adam"), x)
        for _ in range(20):
            step()
        return list(model.parameters())

    torch.testing.assert_close(trained({"cpu": 32 * 30}), trained({}), rtol=1e-9, atol=1e-12)
