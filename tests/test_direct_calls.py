"""Overloads are called directly, and otherwise as torch calls them (csrc/ops/common/direct_call.h)."""

import sys

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import aevb_ext
from aevb_ext._library import _C

OPS = torch.ops.aevb_ext


def plain_arguments():
    x, mu, logvar = torch.rand(4, 6), torch.randn(4, 6), torch.randn(4, 6)
    key = aevb_ext.noise_key(generator=torch.Generator().manual_seed(1))
    one, z = torch.tensor(1.0), torch.randn(4, 6)
    return {
        "bernoulli_log_prob": (x, mu, 1.0, "mean", 1),
        "bernoulli_log_prob_backward": (one, x, mu, 1.0, "mean", 1, [False, True], None),
        "gaussian_log_prob": (x, mu, logvar, "logvar", 1.0, "none", 1),
        "gaussian_kl_speculative": (mu, logvar, None, None, "logvar", "sum", 1, [True, True, False, False], None),
        "gaussian_kl_backward": (one, mu, logvar, None, None, "logvar", "sum", 1, [True] * 2 + [False] * 2, None, None),
        "rsample": (mu, logvar, key, 3, 0, "std"),
        "rsample_kl": (mu, logvar, key, None, 2, "logvar", "sample", 1),
        "rsample_kl_backward": (z, one, mu, logvar, key, None, 0, "logvar", "mean", 1, [True, True], 1),
        "binarize": (x, key, 1.0),
        "linear": (x, torch.randn(3, 6), None, True, 1.0),
    }


def tensors(results):
    return results if isinstance(results, (tuple, list)) else [results]


def same(results, others):
    for one, other in zip(tensors(results), tensors(others), strict=True):
        assert (one is None) == (other is None)
        stands_for_gradients = one is not None and one.dtype == torch.uint8 and one.shape == (1,)  # of no meaning
        assert one is None or stands_for_gradients or torch.equal(one, other)


def never(*args, **kwargs):
    raise AssertionError("torch's own call")


def test_every_operator_with_kernels_has_one():
    names = [name for name in torch._C._dispatch_get_all_op_names() if name.startswith("aevb_ext::")]
    kernels = {name for name in names if torch._C._dispatch_has_kernel_for_dispatch_key(name, "CPU")}
    assert set(_C.direct_operators()) == kernels | {"aevb_ext::noise_key"}  # whose kernel is one for all devices
    for name in _C.direct_operators():
        assert getattr(OPS, name.removeprefix("aevb_ext::")).default._op.__name__ == "direct_call"


@pytest.mark.parametrize("name", plain_arguments())
def test_plain_arguments_are_passed_directly_and_give_the_same_bits(name):
    arguments = plain_arguments()[name]
    packet = getattr(OPS, name)  # which torch calls
    direct = _C.direct_call(f"aevb_ext::{name}", never)
    with torch.no_grad():
        same(direct(*arguments), packet(*arguments))
        names = [sys.intern(argument.name) for argument in packet.default._schema.arguments]  # as in source code
        same(direct(*arguments[:1], **dict(zip(names[1:], arguments[1:], strict=True))), packet(*arguments))


def test_a_graphs_draw_of_a_key_is_direct():
    direct = _C.direct_call("aevb_ext::noise_key", never)
    torch.manual_seed(3)
    drawn = direct(device=torch.device("cpu"), generator=None, n=None, call=1)
    torch.manual_seed(3)
    assert torch.equal(drawn, OPS.noise_key(device=torch.device("cpu")))


class Subclass(torch.Tensor):
    pass


X, LOGITS = torch.rand(2, 3), torch.randn(2, 3)
NOT_PLAIN = {
    "too few": (X, LOGITS, 1.0, "mean"),
    "an int for a float": (X, LOGITS, 1, "mean", 1),
    "a bool for an int": (X, LOGITS, 1.0, "mean", True),
    "a subclass": (X, LOGITS.as_subclass(Subclass), 1.0, "mean", 1),
    "None for a tensor": (None, LOGITS, 1.0, "mean", 1),
    "text that is not ASCII": (X, LOGITS, 1.0, "méan", 1),
    "beyond 64 bits": (X, LOGITS, 1.0, "mean", 2**63),
    "a number for text": (X, LOGITS, 1.0, 5, 1),
}


@pytest.mark.parametrize("what", NOT_PLAIN)
def test_anything_else_is_handed_on_as_it_is(what):
    direct = _C.direct_call("aevb_ext::bernoulli_log_prob", lambda *args, **kwargs: (args, kwargs))
    given = NOT_PLAIN[what]
    args, kwargs = direct(*given[:3], **dict(zip(("reduction", "batch_dims"), given[3:], strict=False)))
    assert all(one is other for one, other in zip((*args, *kwargs.values()), given, strict=True))


def test_keywords_in_another_order_are_handed_on():
    direct = _C.direct_call("aevb_ext::bernoulli_log_prob", lambda *args, **kwargs: kwargs)
    assert direct(X, LOGITS, 1.0, batch_dims=1, reduction="mean") == {"batch_dims": 1, "reduction": "mean"}


def test_a_list_of_another_length_is_handed_on():
    direct = _C.direct_call("aevb_ext::bernoulli_log_prob_speculative", lambda *args: args[-1])
    assert direct(X, LOGITS, 1.0, "mean", 1, [True]) == [True]


@pytest.mark.parametrize(
    "arguments, error",
    [
        ((X, LOGITS, 1.0, "median", 1), ValueError),
        ((X, LOGITS[:1, :2], 1.0, "mean", 1), ValueError),
        ((X,), RuntimeError),
    ],
)
def test_errors_are_those_of_the_operator(arguments, error):
    with pytest.raises(error) as usual:
        OPS.bernoulli_log_prob(*arguments)
    with pytest.raises(error) as direct:
        OPS.bernoulli_log_prob.default(*arguments)
    assert type(direct.value) is type(usual.value)
    assert str(direct.value).partition("\n")[0] == str(usual.value).partition("\n")[0]


def test_autograd_sees_the_call():
    logits = LOGITS.clone().requires_grad_()
    OPS.bernoulli_log_prob.default(X, logits, 1.0, "sum", 1).backward()
    torch.testing.assert_close(logits.grad, X - logits.detach().sigmoid())
    with torch.no_grad():
        assert not OPS.bernoulli_log_prob.default(X, logits, 1.0, "sum", 1).requires_grad


class Functions(TorchFunctionMode):
    def __init__(self):
        self.seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


class Dispatched(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Functions, Dispatched])
@pytest.mark.parametrize("grad", [True, False])
def test_modes_see_the_call(mode, grad):
    overload = OPS.bernoulli_log_prob_speculative.default
    with torch.set_grad_enabled(grad), mode() as seeing:
        overload(X, LOGITS, 1.0, "mean", 1, [False, True])
    assert overload in seeing.seen


def test_the_profiler_sees_the_call():
    with torch.profiler.profile() as profile:
        OPS.bernoulli_log_prob.default(X, LOGITS, 1.0, "mean", 1)
    assert "aevb_ext::bernoulli_log_prob" in {event.key for event in profile.key_averages()}


def test_vmap_sees_the_call():
    x, logits = torch.rand(5, 2, 3), torch.randn(5, 2, 3)
    mapped = torch.vmap(lambda x, logits: OPS.bernoulli_log_prob.default(x, logits, 1.0, "sample", 1))(x, logits)
    torch.testing.assert_close(mapped, aevb_ext.bernoulli_log_prob(x, logits, batch_dims=2))
