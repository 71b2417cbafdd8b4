"""The bound of the paper's model as one operator is the composition of the others, to the bit and wherever they run."""

import pytest
import torch

from aevb_ext._library import ops
from aevb_ext.models import mlp_vae
from aevb_ext.models.bound import terms_b
from aevb_ext.noise import keys_at

ROWS, DIM, LATENT, HIDDEN = 9, 21, 3, 17
KINDS = {"uint8": (256, 1 / 255), "bool": (2, 1.0), "float32": (256, 1 / 255), "float32 of scale 1": (2, 1.0)}


def model():
    generator = torch.Generator().manual_seed(0)
    made = mlp_vae(DIM, latent=LATENT, hidden=HIDDEN, x_scale=1 / 255, generator=generator)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(40)  # gradients of a size
    return made


def parameters(dtype=torch.float32):
    return [p.detach().to(dtype).requires_grad_() for p in model().parameters()]


def data(kind="uint8", rows=ROWS):
    most, x_scale = KINDS[kind]
    x = torch.randint(most, (rows, DIM), generator=torch.Generator().manual_seed(1))
    return x.to(getattr(torch, kind.split()[0])), keys_at(7, "posterior", torch.arange(rows)), x_scale


def composed(x, key, parameters, x_scale):
    """The same of the public operators, for parameters of any dtype."""
    w1, b1, w2, b2, w3, b3, w4, b4 = parameters
    if x.is_floating_point():
        hidden = ops.linear(x.to(w1.dtype) * x_scale, w1, b1, True)
    else:
        hidden = ops.linear(x, w1, b1, True, x_scale)
    mu, logvar = ops.halves(ops.linear(hidden, w2, b2, False), 1)
    z, kl = ops.rsample_kl(mu, logvar, key, None, 0, "logvar", "sample", 1)
    logits = ops.linear(ops.linear(z, w3, b3, True), w4, b4, False)
    likelihood = ops.bernoulli_log_prob(x, logits, x_scale, "sample", 1)
    return likelihood - kl, likelihood, kl


COTANGENTS = {
    "of the mean": lambda terms: terms[0].sum(),
    "mixed": lambda terms: (terms[0] * torch.linspace(-1, 2, len(terms[0]), dtype=terms[0].dtype)).sum(),
    "of the likelihood": lambda terms: terms[1].sum(),
    "of the KL": lambda terms: terms[2].sum(),
    "of all": lambda terms: terms[0].sum() + 2 * terms[1].sum() - 3 * terms[2].square().sum(),
    "zero": lambda terms: 0 * terms[0].sum(),
}


@pytest.mark.parametrize("cotangent", COTANGENTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, ROWS])
def test_values_and_gradients(kind, cotangent, rows):
    x, key, x_scale = data(kind, rows)
    for _ in range(3):  # the third with the gradient computed ahead of its cotangent
        found, leaves = ops.mlp_bound(x, key, given := parameters(), x_scale), parameters()
        expected = composed(x, key, leaves, x_scale)
        exact = composed(x, key, doubles := parameters(torch.float64), x_scale)
        loss = COTANGENTS[cotangent]
        gradients = torch.autograd.grad(loss(found), given, materialize_grads=True)
        assert all(map(torch.equal, found, expected))
        assert all(map(torch.equal, gradients, torch.autograd.grad(loss(expected), leaves, materialize_grads=True)))
    # And the composition is right.
    torch.testing.assert_close(found, tuple(t.float() for t in exact), rtol=1e-4, atol=1e-4)
    true = torch.autograd.grad(loss(exact), doubles, materialize_grads=True)
    for a, b in zip(gradients, true, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-3, atol=1e-4 * (1 + b.abs().max().item()))


def test_derivatives_of_derivatives():
    x, key, x_scale = data()

    def penalty(function, given):
        terms = function(x, key, given, x_scale)
        loss = terms[0].square().sum() + terms[2].sum()
        first = torch.autograd.grad(loss, given, create_graph=True)
        return [*first, *torch.autograd.grad(sum(g.square().sum() for g in first), given)]

    found = penalty(ops.mlp_bound, parameters())
    for a, b in zip(found, penalty(composed, parameters(torch.float64)), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-3, atol=2e-4 * b.abs().max().item())


def test_twice():
    """retain_graph: the second backward has the bits of the first, though the first gave its gradient away."""
    x, key, x_scale = data()
    for _ in range(2):
        total = ops.mlp_bound(x, key, given := parameters(), x_scale)[0].sum()
        first = torch.autograd.grad(total, given, retain_graph=True)
        kept = [g.clone() for g in first]
        [g.zero_() for g in first]
        assert all(map(torch.equal, torch.autograd.grad(total, given), kept))
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(total, given)


def test_what_is_not_learnt_has_no_gradient():
    x, key, x_scale = data()
    given = [p.detach() if i in (0, 3, 5, 6) else p for i, p in enumerate(parameters())]
    ops.mlp_bound(x, key, given, x_scale)[0].sum().backward()
    full = parameters()
    ops.mlp_bound(x, key, full, x_scale)[0].sum().backward()
    for p, q in zip(given, full, strict=True):
        assert torch.equal(p.grad, q.grad) if p.requires_grad else p.grad is None
    assert not ops.mlp_bound(x, key, [p.detach() for p in given], x_scale)[0].requires_grad
    with torch.no_grad():
        assert not ops.mlp_bound(x, key, given, x_scale)[0].requires_grad


@pytest.mark.parametrize(
    "layout", ["every other", "transposed", "none", "of an x that is learnt", "float64", "one key"]
)
def test_whatever_it_is_given(layout):
    x, key, x_scale = data("float32" if "learnt" in layout else "uint8")
    given = parameters(torch.float64 if layout == "float64" else torch.float32)
    if layout == "every other":
        x = x.repeat_interleave(2, 1)[:, ::2]
    elif layout == "transposed":
        x = x.mT.contiguous().mT
    elif layout == "none":
        x, key = x[:0], key[:0]
    elif "learnt" in layout:
        x.requires_grad_()
    elif layout == "one key":
        key = key[0]
    leaves = [*given, x] if x.requires_grad else given
    found, expected = (f(x, key, given, x_scale) for f in (ops.mlp_bound, composed))
    gradients = [torch.autograd.grad(terms[0].sum(), leaves) for terms in (found, expected)]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_in_pytorch():
    """opcheck, torch.compile, torch.func, autocast."""
    x, key, x_scale = data()
    given = parameters()
    torch.library.opcheck(ops.mlp_bound.default, (x, key, given, x_scale))
    compiled = torch.compile(lambda *p: ops.mlp_bound(x, key, p, x_scale)[0].sum(), fullgraph=True, backend="aot_eager")
    plain = ops.mlp_bound(x, key, given, x_scale)[0].sum()
    torch.testing.assert_close(compiled(*given), plain)
    of_compiled = torch.autograd.grad(compiled(*given), given)
    torch.testing.assert_close(of_compiled, torch.autograd.grad(plain, given))

    def loss(given, x, key):
        return ops.mlp_bound(x[None], key[None], given, x_scale)[0].sum()

    values = [p.detach() for p in given]
    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))(values, x, key)
    torch.testing.assert_close([g.sum(0) for g in each], list(of_compiled), rtol=1e-4, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ops.mlp_bound(x, key, given, x_scale)[0].sum(), plain, rtol=0.05, atol=1)


def _same(terms, others):
    return all(map(torch.equal, terms, others))


def test_a_model_takes_it_and_a_hook_sees_its_modules():
    x, key, _ = data()
    ours, seen = model(), []
    names = []
    with torch.profiler.profile() as profiled:
        terms = terms_b(ours, x, key=key)
    names = {event.key for event in profiled.key_averages()}
    assert "aevb_ext::mlp_bound" in names
    modules = [ours.encoder, ours.encoder[0], ours.encoder[1], ours.decoder, ours.decoder.net, ours.decoder.net[2]]
    for module in modules:
        count = len(seen)
        handle = module.register_forward_hook(lambda module, _, y: seen.append(type(module)))
        assert _same(terms_b(ours, x, key=key), terms)
        handle.remove()
        # The decoder's log_prob does not call it as a module.
        assert len(seen) == count + (module is not ours.decoder)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: setattr(m, "encoder", torch.nn.Sequential(*m.encoder, torch.nn.Identity())),
        lambda m: m.encoder.__setitem__(1, torch.nn.Tanh()),
        lambda m: setattr(m.encoder[0], "tanh", False),
        lambda m: setattr(m.decoder.net[2], "bias", None),
        lambda m: setattr(m, "__class__", type("Mine", (type(m),), {})),
        lambda m: m.double(),
    ],
)
def test_another_model_is_not_taken_for_it(change):
    ours, (x, key, _) = model(), data()
    assert ours._mlp_parameters(x) is not None
    change(ours)
    assert ours._mlp_parameters(x) is None
    assert terms_b(ours, x, key=key).bound.isfinite().all()


def test_errors():
    x, key, x_scale = data()
    with pytest.raises(ValueError, match="parameters must be 8"):
        ops.mlp_bound(x, key, parameters()[:7], x_scale)
    with pytest.raises(ValueError, match="weight"):
        ops.mlp_bound(x, key, parameters()[::-1], x_scale)
