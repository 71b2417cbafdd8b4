"""aevb_ext.compat against what it replaces: torch.nn.functional, and the functions of PyTorch's VAE example."""

import inspect
import itertools
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import aevb_ext
from aevb_ext import compat

REDUCTIONS = ("mean", "sum", "none")
HALF = (torch.bfloat16, torch.float16)


def reparameterize(mu, logvar):
    """As pytorch/examples/vae/main.py has it."""
    std = torch.exp(0.5 * logvar)
    eps = torch.randn_like(std)
    return mu + eps * std


def loss_function(recon_x, x, mu, logvar):
    """Likewise."""
    bce = F.binary_cross_entropy(recon_x, x.view(-1, 784), reduction="sum")
    kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    return bce + kld


def _tensors(*shapes, low=0.02, high=0.98):
    generator = torch.Generator().manual_seed(0)
    return [low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def _weights():
    """The shape of the input, and of what is broadcast to it."""
    for shape in ((), (6,), (4, 3), (2, 3, 4, 5)):
        yield shape, None
        yield shape, shape
        if len(shape) > 1:
            yield shape, shape[-1:]
            yield shape, (shape[0], *(1,) * (len(shape) - 1))


def _cases():
    """(name, arguments as float64 tensors, options) of each loss."""
    for (shape, broadcast), reduction in itertools.product(_weights(), REDUCTIONS):
        probs, target, weight = _tensors(shape, shape, broadcast or ())
        options = {"reduction": reduction}
        weighed = options | ({"weight": weight} if broadcast is not None else {})
        yield "binary_cross_entropy", (probs, target), weighed
        logits = 4 * torch.logit(probs)
        yield "binary_cross_entropy_with_logits", (logits, target), weighed
        if broadcast is not None:
            positive = {"pos_weight": 3 * weight}
            yield "binary_cross_entropy_with_logits", (logits, target), options | positive
            yield "binary_cross_entropy_with_logits", (logits, target), weighed | positive
    for shape, of_var in (
        ((), ()),
        ((6,), (6,)),
        ((6,), ()),
        ((6,), (1,)),
        ((4, 3), (4, 3)),
        ((4, 3), (4,)),
        ((4, 3), (4, 1)),
        ((4, 3), (1, 3)),
        ((2, 3, 4, 5), (2, 1, 4, 5)),
        ((2, 3, 4, 5), (2, 3, 4)),
        ((4, 3), 0.3),
    ):
        for reduction, full in itertools.product(REDUCTIONS, (False, True)):
            mu, target = _tensors(shape, shape, low=-2, high=2)
            var = of_var if isinstance(of_var, float) else _tensors(of_var, low=1e-3, high=2)[0]
            yield "gaussian_nll_loss", (mu, target, var), {"reduction": reduction, "full": full}
    mu, var = _tensors((4, 3), (4, 3))
    for shape in ((3,), (4, 1), (2, 4, 3)):  # the target is broadcast, or broadcasts
        yield "gaussian_nll_loss", (mu, _tensors(shape)[0], var), {"reduction": "none"}


def _name(case):
    name, arguments, options = case
    shapes = (str(list(a.shape)) if isinstance(a, torch.Tensor) else str(a) for a in (*arguments, *options.values()))
    return f"{name}-{'-'.join(shapes)}"


CASES = [pytest.param(*case, id=f"{i}-{_name(case)}") for i, case in enumerate(_cases())]


def _outcome(function, arguments, options, dtype):
    """Value, and gradients of the arguments, for a cotangent that differs from element to element."""
    leaves = [a.to(dtype).requires_grad_() if isinstance(a, torch.Tensor) else a for a in arguments]
    options = {k: v.to(dtype) if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    value = function(*leaves, **options)
    cotangent = torch.arange(1, value.numel() + 1).cos().reshape(value.shape).to(value.dtype)
    return value, torch.autograd.grad(value, [a for a in leaves if isinstance(a, torch.Tensor)], cotangent)


def _rounded(t, dtype):
    return t.to(dtype).double() if isinstance(t, torch.Tensor) else t


@pytest.mark.parametrize(("name", "arguments", "options"), CASES)
def test_as_pytorch_in_float64(name, arguments, options):
    ours = _outcome(getattr(compat, name), arguments, options, torch.float64)
    torch.testing.assert_close(
        ours, _outcome(getattr(F, name), arguments, options, torch.float64), rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("dtype", [torch.float32, *HALF], ids=str)
@pytest.mark.parametrize(("name", "arguments", "options"), CASES)
def test_rounded_from_float64(name, arguments, options, dtype):
    """Results have PyTorch's dtypes; their numbers are those of float64, rounded."""
    arguments = [_rounded(a, dtype) for a in arguments]
    options = {k: _rounded(v, dtype) for k, v in options.items()}
    if not isinstance(arguments[-1], torch.Tensor):  # PyTorch makes it a tensor of the dtype
        arguments[-1] = torch.tensor(arguments[-1]).to(dtype).item()
    exact_value, exact_gradients = _outcome(getattr(F, name), arguments, options, torch.float64)
    value, gradients = _outcome(getattr(compat, name), arguments, options, dtype)
    theirs, _ = _outcome(getattr(F, name), arguments, options, dtype)
    assert value.dtype == theirs.dtype and all(g.dtype == dtype for g in gradients)
    # Some terms cancel; their sizes are about 1 an element. Gradients of half precision may be rounded twice.
    rtol = 4 * torch.finfo(dtype).eps
    for result, exact in zip((value, *gradients), (exact_value, *exact_gradients), strict=True):
        atol = rtol * max(1.0, exact.abs().max().item())
        torch.testing.assert_close(result.double(), exact, rtol=rtol, atol=atol)


@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits", "gaussian_nll_loss"])
def test_signatures(name):
    ours, theirs = (inspect.signature(getattr(module, name)).parameters for module in (compat, F))
    assert [(p.name, p.default, p.kind) for p in ours.values()] == [
        (p.name, p.default, p.kind) for p in theirs.values()
    ]


@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
@pytest.mark.parametrize("size_average", [None, False, True])
@pytest.mark.parametrize("reduce", [None, False, True])
def test_deprecated_reductions(name, size_average, reduce):
    arguments = (*_tensors((4, 3), (4, 3)), None, size_average, reduce, "sum")
    if size_average is None and reduce is None:
        torch.testing.assert_close(getattr(compat, name)(*arguments), getattr(F, name)(*arguments))
        return
    with pytest.warns(UserWarning, match="size_average and reduce"):
        expected = getattr(F, name)(*arguments)
    with pytest.warns(UserWarning, match="size_average and reduce.*reduction=") as caught:
        torch.testing.assert_close(getattr(compat, name)(*arguments), expected)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits", "gaussian_nll_loss"])
def test_no_elements(name):
    arguments = [torch.zeros(0, 3)] * (3 if name == "gaussian_nll_loss" else 2)
    for reduction in REDUCTIONS:
        ours, theirs = (getattr(module, name)(*arguments, reduction=reduction) for module in (compat, F))
        torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_certain_probabilities():
    """Bit for bit what PyTorch has at the ends of the interval, in float32; the gradient of the target is finite."""
    target = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5, 0.5])
    probs = torch.tensor([0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    ours, theirs = (
        _outcome(m.binary_cross_entropy, (probs, target), {"reduction": "none"}, torch.float32) for m in (compat, F)
    )
    (value, (by_probs, by_target)), (their_value, (theirs_by_probs, theirs_by_target)) = ours, theirs
    torch.testing.assert_close((value, by_probs), (their_value, theirs_by_probs), rtol=0, atol=0)
    assert theirs_by_target.isinf().all()
    log, cotangent = (lambda p: p.log().clamp_min(-100)), torch.arange(1.0, 7).cos()
    torch.testing.assert_close(by_target, cotangent * (log(1 - probs) - log(probs)), rtol=0, atol=0)


def test_the_floor_of_a_variance_passes_gradients():
    mu, target, var = torch.zeros(4), torch.tensor([0.0, 1e-4, 0.1, 2.0]), torch.tensor([0.0, 1e-9, 1e-7, 1e-3])
    for eps in (1e-6, 1e-2):
        ours, theirs = (
            _outcome(m.gaussian_nll_loss, (mu, target, var), {"eps": eps}, torch.float64) for m in (compat, F)
        )
        torch.testing.assert_close(ours, theirs)
        assert ours[1][2][2] != 0
    for var in (0.0, 1e-9):
        expected = F.gaussian_nll_loss(mu, target, var)
        torch.testing.assert_close(compat.gaussian_nll_loss(mu, target, var), expected)


def test_what_is_out_of_range_is_nan():
    """Where PyTorch looks and raises, at the cost of waiting for a GPU: NaN, and in that element alone."""
    probs, target = torch.tensor([0.5, 1.5, -0.5]), torch.ones(3)
    with pytest.raises(RuntimeError, match="between 0 and 1"):
        F.binary_cross_entropy(probs, target)
    assert compat.binary_cross_entropy(probs, target, reduction="none").isnan().tolist() == [False, True, True]
    with pytest.raises(ValueError, match="negative"):
        F.gaussian_nll_loss(target, target, -probs)
    assert compat.gaussian_nll_loss(target, target, probs, reduction="none").isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.int64, torch.float64, *HALF], ids=str)
def test_targets_of_other_dtypes(dtype):
    """The same numbers as floats give, also where PyTorch refuses them."""
    probs, mu, var = (t.float() for t in _tensors((4, 3), (4, 3), (4, 3)))
    target = (probs > 0.4).to(dtype)
    expected = F.gaussian_nll_loss(mu, target.float(), var)
    torch.testing.assert_close(compat.gaussian_nll_loss(mu, target, var), expected, check_dtype=False)
    if dtype == torch.int64:  # but these nowhere
        return
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    for name in ("binary_cross_entropy", "binary_cross_entropy_with_logits"):
        value = getattr(compat, name)(probs, target)
        assert value.dtype == wide
        torch.testing.assert_close(value, getattr(F, name)(probs, target.float()), check_dtype=False)


def test_pos_weight_keeps_the_digits_of_unlikely_positives():
    """log(1 - p) at l = -30 is -1e-13, which the difference of l and log p has lost."""
    logits, target, weight = torch.tensor([-30.0]), torch.zeros(1), torch.tensor([2.0])
    assert F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight).item() == 0
    value = compat.binary_cross_entropy_with_logits(logits, target, pos_weight=weight).item()
    assert value == pytest.approx(math.log1p(math.exp(-30)), rel=1e-6, abs=0)


def test_weights_may_be_learnt():
    logits, target, weight, positive = _tensors((4, 3), (4, 3), (3,), (3,))

    def weighed(logits, target, weight, positive):
        return compat.binary_cross_entropy_with_logits(logits, target, weight, pos_weight=positive)

    leaves = [t.requires_grad_() for t in (logits, target, weight, positive)]
    assert torch.autograd.gradcheck(weighed, leaves)
    assert torch.autograd.gradgradcheck(weighed, leaves)
    assert torch.autograd.gradcheck(compat.binary_cross_entropy, [leaves[1], leaves[0], weight])


class TestAutocast:
    """The arithmetic is in float32 whatever the region's dtype, and so are the results."""

    @pytest.mark.parametrize("dtype", HALF, ids=str)
    @pytest.mark.parametrize("reduction", REDUCTIONS)
    def test_losses(self, dtype, reduction):
        layer = torch.nn.Linear(5, 3)
        x, target, var = (t.float() for t in _tensors((4, 5), (4, 3), (4, 3)))
        for name, output, rest in (
            ("binary_cross_entropy", torch.sigmoid, ()),
            ("binary_cross_entropy_with_logits", torch.clone, ()),
            ("gaussian_nll_loss", torch.clone, (var,)),
        ):
            layer.zero_grad()
            with torch.autocast("cpu", dtype=dtype):
                given = output(layer(x))
                assert given.dtype == dtype
                value = getattr(compat, name)(given, target, *rest, reduction=reduction)
            assert value.dtype == torch.float32
            exact = getattr(F, name)(given.double(), target.double(), *(t.double() for t in rest), reduction=reduction)
            torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-6)
            value.sum().backward()
            assert layer.weight.grad.isfinite().all() and layer.weight.grad.abs().sum() > 0

    def test_what_pytorch_refuses(self):
        """It does on CUDA: shown without a GPU, by tensors that have no numbers."""
        before = torch.is_autocast_enabled("cuda")
        torch.set_autocast_enabled("cuda", True)
        try:
            with FakeTensorMode():
                probs, target = torch.rand(2, 4, 3, device="cuda")
                with pytest.raises(RuntimeError, match="unsafe to autocast"):
                    F.binary_cross_entropy(probs, target)
                assert compat.binary_cross_entropy(probs.half(), target).dtype == torch.float32
                assert compat.vae_loss(probs, target, probs, probs).dtype == torch.float32
        finally:
            torch.set_autocast_enabled("cuda", before)

    @pytest.mark.parametrize("dtype", HALF, ids=str)
    def test_the_example(self, dtype):
        encoder, decoder = torch.nn.Linear(784, 10), torch.nn.Linear(5, 784)
        (x,) = (t.float() for t in _tensors((4, 1, 28, 28)))
        with torch.autocast("cpu", dtype=dtype):
            mu, logvar = encoder(x.flatten(1)).chunk(2, 1)
            z = compat.reparameterize(mu, logvar)
            recon_x = torch.sigmoid(decoder(z))
            loss = compat.vae_loss(recon_x, x, mu, logvar)
        assert loss.dtype == torch.float32 and z.dtype == dtype
        exact = loss_function(*(t.double() for t in (recon_x, x, mu, logvar)))
        assert loss.item() == pytest.approx(exact.item(), rel=1e-5)
        loss.backward()
        assert all(p.grad.isfinite().all() for layer in (encoder, decoder) for p in layer.parameters())


class TestTheExample:
    @pytest.fixture
    def tensors(self):
        recon_x, x, mu, logvar = _tensors((4, 784), (4, 1, 28, 28), (4, 20), (4, 20))
        return recon_x, x, 2 * mu - 1, 4 * logvar - 2

    def test_loss(self, tensors):
        ours = _outcome(compat.vae_loss, tensors, {}, torch.float64)
        torch.testing.assert_close(ours, _outcome(loss_function, tensors, {}, torch.float64))
        value, gradients = _outcome(compat.vae_loss, tensors, {}, torch.float32)
        assert value.dtype == torch.float32 and value.item() == pytest.approx(ours[0].item(), rel=1e-6)
        torch.testing.assert_close([g.double() for g in gradients], list(ours[1]), rtol=1e-4, atol=1e-5)

    def test_loss_of_images(self, tensors):
        recon_x, x, mu, logvar = tensors
        expected = compat.vae_loss(*tensors)
        torch.testing.assert_close(compat.vae_loss(recon_x.view_as(x), x, mu, logvar), expected)
        torch.testing.assert_close(
            compat.vae_loss(
                recon_x, x.view(28, 4, 28).transpose(0, 1).contiguous().transpose(0, 1).reshape(4, 784), mu, logvar
            ),
            expected,
        )

    def test_reparameterize_is_rsample(self, tensors):
        mu, logvar = (t.requires_grad_() for t in tensors[2:])
        torch.manual_seed(0)
        z = compat.reparameterize(mu, logvar)
        torch.manual_seed(0)
        assert torch.equal(z, aevb_ext.rsample(mu, logvar))
        gradients = torch.autograd.grad(z.sum(), (mu, logvar))
        torch.testing.assert_close(gradients, (torch.ones_like(mu), 0.5 * (z - mu).detach()))

    @pytest.mark.parametrize(("of_mu", "of_logvar"), [((4, 3), (3,)), ((3,), (4, 3)), ((4, 3), ()), ((4, 1), (1, 3))])
    def test_reparameterize_broadcasts_as_the_example(self, of_mu, of_logvar):
        mu, logvar = (t.requires_grad_() for t in _tensors(of_mu, of_logvar))
        z = compat.reparameterize(mu.float(), logvar)
        assert z.shape == reparameterize(mu, logvar).shape and z.dtype == torch.float64
        noise = (z - mu) / (0.5 * logvar).exp()
        assert noise.detach().unique().numel() == z.numel()
        expected = ((0.5 * noise * (0.5 * logvar).exp()).sum_to_size(of_logvar)).detach()
        torch.testing.assert_close(torch.autograd.grad(z.sum(), logvar)[0], expected, rtol=1e-6, atol=1e-6)


def _all(probs, target, mu, logvar):
    """Every function of the module, of tensors of one shape, as one number."""
    weight = target[0] + 1
    losses = [
        compat.reparameterize(mu, logvar),
        compat.vae_loss(probs, target.flatten(), mu, logvar),
        compat.binary_cross_entropy(probs, target),
        compat.binary_cross_entropy(probs, target, weight, reduction="sum"),
        compat.binary_cross_entropy_with_logits(mu, target, reduction="none"),
        compat.binary_cross_entropy_with_logits(mu, target, weight, pos_weight=weight),
        compat.gaussian_nll_loss(mu, target, probs, reduction="sum"),
        compat.gaussian_nll_loss(mu, target, 0.5),
        compat.gaussian_nll_loss(mu, target, probs[:, 0], reduction="none", full=True),
    ]
    return sum(loss.sum() for loss in losses)


class TestInPyTorch:
    def test_compile(self):
        torch._dynamo.reset()
        compiled = torch.compile(_all, fullgraph=True, dynamic=False, backend="aot_eager")
        leaves = [t.requires_grad_() for t in _tensors((4, 3), (4, 3), (4, 3), (4, 3))]
        results = []
        for function in (_all, compiled):
            torch.manual_seed(0)
            value = function(*leaves)
            results.append((value, *torch.autograd.grad(value, leaves)))
        torch.testing.assert_close(*results)

    def test_compile_once_for_all_batches(self):
        torch._dynamo.reset()

        def loss(probs, target):
            return compat.binary_cross_entropy(probs, target) + compat.gaussian_nll_loss(probs, target, probs)

        counter = CompileCounterWithBackend("aot_eager")
        compiled, compilations = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter), []
        for batch in (4, 6, 9):
            probs, target = _tensors((batch, 3), (batch, 3))
            leaf = probs.requires_grad_()
            results = [torch.autograd.grad(function(leaf, target), leaf) for function in (loss, compiled)]
            torch.testing.assert_close(*results)
            compilations.append(counter.frame_count)
        assert compilations == compilations[:1] * 3

    @pytest.mark.filterwarnings("ignore:size_average")
    def test_compile_of_what_is_deprecated_and_under_autocast(self):
        torch._dynamo.reset()

        def loss(probs, target):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return compat.binary_cross_entropy(probs.bfloat16(), target, size_average=False)

        probs, target = (t.float() for t in _tensors((4, 3), (4, 3)))
        value = torch.compile(loss, fullgraph=True, backend="aot_eager")(probs, target)
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, loss(probs, target))

    def test_no_value_is_looked_at(self):
        """Tensors without numbers are enough, so nothing waits for a device that has them."""
        with FakeTensorMode():
            assert _all(*(torch.rand(4, 3, requires_grad=True) for _ in range(4))).shape == ()
        assert _all(*(torch.rand(4, 3, device="meta", requires_grad=True) for _ in range(4))).device.type == "meta"

    @pytest.mark.filterwarnings("ignore:There is a performance drop")
    def test_vmap(self):
        probs, target, mu = _tensors((5, 4, 3), (5, 4, 3), (5, 4, 3))

        def loss(probs, target, mu):
            return compat.binary_cross_entropy(probs, target) + compat.gaussian_nll_loss(mu, target, probs)

        expected = torch.stack([loss(*row) for row in zip(probs, target, mu, strict=True)])
        torch.testing.assert_close(torch.func.vmap(loss)(probs, target, mu), expected)


P, X = torch.full((4, 3), 0.5), torch.ones(4, 3)
FLOATING = "float64, float32, bfloat16 or float16"
BAD = {
    "shape of target": (
        compat.binary_cross_entropy,
        (P, X[:, :2]),
        {},
        ValueError,
        ["target", r"\(4, 3\)", r"\(4, 2\)"],
    ),
    "shape of target, logits": (
        compat.binary_cross_entropy_with_logits,
        (P, X[0]),
        {},
        ValueError,
        ["target", r"\(4, 3\)", r"\(3,\)"],
    ),
    "weight too small": (
        compat.binary_cross_entropy,
        (P, X, X[0, :2]),
        {},
        ValueError,
        ["weight", r"\(2,\)", r"\(4, 3\)"],
    ),
    "weight too large": (
        compat.binary_cross_entropy_with_logits,
        (P, X, X.expand(2, 4, 3)),
        {},
        ValueError,
        ["weight", r"\(2, 4, 3\)", r"\(4, 3\)"],
    ),
    "pos_weight": (
        compat.binary_cross_entropy_with_logits,
        (P, X),
        {"pos_weight": X[:, 0]},
        ValueError,
        ["pos_weight", r"\(4,\)", r"\(4, 3\)"],
    ),
    "integer probs": (compat.binary_cross_entropy, (P.long(), X), {}, TypeError, ["input", "int64", FLOATING]),
    "integer logits": (
        compat.binary_cross_entropy_with_logits,
        (P.int(), X),
        {},
        TypeError,
        ["input", "int32", FLOATING],
    ),
    "complex mean": (compat.gaussian_nll_loss, (P + 1j, X, P), {}, TypeError, ["input", "complex64", FLOATING]),
    "integer var": (compat.gaussian_nll_loss, (P, X, X.long()), {}, TypeError, ["var", "int64", FLOATING]),
    "integer target": (compat.binary_cross_entropy, (P, X.long()), {}, TypeError, ["target", "int64", "uint8 or bool"]),
    "device of target": (compat.binary_cross_entropy, (P, X.to("meta")), {}, ValueError, ["target", "cpu", "meta"]),
    "device of weight": (compat.binary_cross_entropy, (P, X, X.to("meta")), {}, ValueError, ["weight", "cpu", "meta"]),
    "device of var": (compat.gaussian_nll_loss, (P, X, X.to("meta")), {}, ValueError, ["var", "cpu", "meta"]),
    "reduction": (compat.binary_cross_entropy, (P, X), {"reduction": "batchmean"}, ValueError, ["batchmean", '"mean"']),
    "reduction of nll": (
        compat.gaussian_nll_loss,
        (P, X, P),
        {"reduction": "sample"},
        ValueError,
        ["sample", '"mean"'],
    ),
    "size of var": (compat.gaussian_nll_loss, (P, X, X[0]), {}, ValueError, ["var", r"\(3,\)", r"\(4, 3\)"]),
    "two sizes of var": (
        compat.gaussian_nll_loss,
        (P, X, X[:1, :1]),
        {},
        ValueError,
        ["var", r"\(1, 1\)", r"\(4, 3\)"],
    ),
    "negative var": (compat.gaussian_nll_loss, (P, X, -0.5), {}, ValueError, ["var", "-0.5", "negative"]),
    "integer mu": (compat.reparameterize, (X.long(), X), {}, TypeError, ["mu", "int64", FLOATING]),
    "integer logvar": (compat.vae_loss, (P, X, X, X.long()), {}, TypeError, ["logvar", "int64", FLOATING]),
    "elements of x": (
        compat.vae_loss,
        (P, X[:, :2], X, X),
        {},
        ValueError,
        ["x ", r"\(4, 2\)", "recon_x", r"\(4, 3\)"],
    ),
    "integer recon_x": (compat.vae_loss, (P.long(), X, X, X), {}, TypeError, ["recon_x", "int64", FLOATING]),
}


@pytest.mark.parametrize(("function", "arguments", "options", "exception", "words"), BAD.values(), ids=BAD)
def test_bad_input(function, arguments, options, exception, words):
    with pytest.raises(exception) as caught:
        function(*arguments, **options)
    for word in words:
        assert re.search(word, str(caught.value)), f"no {word!r} in: {caught.value}"
