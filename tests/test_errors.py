"""Bad input: an exception of the right type that names the argument, what was given and what is expected."""

import re

import pytest
import torch
from cases import small_cases

import aevb_ext

VALUE, TYPE = ValueError, TypeError
KEY = torch.tensor([1, 2])


def _f(*shape, dtype=torch.float32, device="cpu"):
    return torch.zeros(shape, dtype=dtype, device=device)


def _meta(*shape):
    return _f(*shape, device="meta")


def _bernoulli(x=None, logits=None, **options):
    return aevb_ext.bernoulli_log_prob(_f(4, 3) if x is None else x, _f(4, 3) if logits is None else logits, **options)


def _of_probs(x=None, probs=None, **options):
    x, probs = (_f(4, 3) if t is None else t for t in (x, probs))
    return aevb_ext.bernoulli_log_prob_of_probs(x, probs, **options)


def _gaussian(x=None, mu=None, logvar=None, **options):
    x, mu, logvar = (_f(4, 3) if t is None else t for t in (x, mu, logvar))
    return aevb_ext.gaussian_log_prob(x, mu, logvar, **options)


def _kl(mu=None, logvar=None, *prior, **options):
    return aevb_ext.gaussian_kl(
        _f(4, 3) if mu is None else mu, _f(4, 3) if logvar is None else logvar, *prior, **options
    )


def _rsample(mu=None, logvar=None, **options):
    options.setdefault("key", KEY)
    return aevb_ext.rsample(_f(4, 3) if mu is None else mu, _f(4, 3) if logvar is None else logvar, **options)


def _rsample_kl(mu=None, logvar=None, **options):
    options.setdefault("key", KEY)
    return aevb_ext.rsample_kl(_f(4, 3) if mu is None else mu, _f(4, 3) if logvar is None else logvar, **options)


POSTERIOR = {"kl": _kl, "rsample": _rsample, "rsample_kl": _rsample_kl}
SPREAD = POSTERIOR | {"gaussian": _gaussian}
LIKELIHOOD = {"bernoulli": _bernoulli, "of_probs": _of_probs, "gaussian": _gaussian}
REDUCING = LIKELIHOOD | {"kl": _kl, "rsample_kl": _rsample_kl}
NOISY = {"rsample": _rsample, "rsample_kl": _rsample_kl}

INT64, HALF = r"(int64|Long)", r"(float16|Half)"

# (what, the functions, their arguments, exception, what the message must say)
BAD = [
    ("shape of logvar", SPREAD, {"logvar": _f(4, 2)}, VALUE, ["logvar", r"\[4, 2\]", "mu", r"\[4, 3\]", "broadcast"]),
    ("too many dims of logvar", SPREAD, {"logvar": _f(2, 4, 3)}, VALUE, ["logvar", r"\[2, 4, 3\]", r"\[4, 3\]"]),
    ("shape of x", {"bernoulli": _bernoulli}, {"x": _f(5, 3)}, VALUE, ["x ", r"\[5, 3\]", "logits", r"\[4, 3\]"]),
    ("shape of x", {"of_probs": _of_probs}, {"x": _f(5, 3)}, VALUE, ["x ", r"\[5, 3\]", "probs", r"\[4, 3\]"]),
    ("shape of x", {"gaussian": _gaussian}, {"x": _f(4, 2)}, VALUE, ["x ", r"\[4, 2\]", "mu", r"\[4, 3\]"]),
    ("x with samples", {"bernoulli": _bernoulli}, {"x": _f(2, 4, 3)}, VALUE, ["x ", r"\[2, 4, 3\]", r"\[4, 3\]"]),
    ("integer mu", SPREAD, {"mu": _f(4, 3, dtype=torch.int64)}, TYPE, ["mu", INT64, "float32"]),
    ("integer logvar", SPREAD, {"logvar": _f(4, 3, dtype=torch.int64)}, TYPE, ["logvar", INT64, "float32"]),
    ("bool logits", {"bernoulli": _bernoulli}, {"logits": _f(4, 3) > 0}, TYPE, ["logits", "(?i)bool", "float32"]),
    ("bool probs", {"of_probs": _of_probs}, {"probs": _f(4, 3) > 0}, TYPE, ["probs", "(?i)bool", "float32"]),
    ("complex mu", SPREAD, {"mu": _f(4, 3, dtype=torch.complex64)}, TYPE, ["mu", "(?i)complex", "float32"]),
    ("float8 mu", SPREAD, {"mu": _f(4, 3, dtype=torch.float8_e4m3fn)}, TYPE, ["mu", "(?i)float8_e4m3fn", "bfloat16"]),
    (
        "float8 logits",
        {"bernoulli": _bernoulli},
        {"logits": _f(4, 3, dtype=torch.float8_e5m2)},
        TYPE,
        ["logits", "(?i)float8_e5m2", "bfloat16"],
    ),
    ("complex x", LIKELIHOOD, {"x": _f(4, 3, dtype=torch.complex64)}, TYPE, ["x ", "(?i)complex", "uint8", "float32"]),
    ("int64 x", LIKELIHOOD, {"x": _f(4, 3, dtype=torch.int64)}, TYPE, ["x ", INT64, "uint8", "float32"]),
    (
        "dtypes differ",
        SPREAD,
        {"logvar": _f(4, 3, dtype=torch.float16)},
        TYPE,
        ["logvar", HALF, "mu", r"(float32|Float)"],
    ),
    ("devices differ", SPREAD, {"logvar": _meta(4, 3)}, VALUE, ["logvar", "meta", "mu", "cpu", "device"]),
    ("x elsewhere", LIKELIHOOD, {"x": _meta(4, 3)}, VALUE, ["x ", "meta", "cpu", "device"]),
    (
        "reduction",
        REDUCING,
        {"reduction": "batchmean"},
        VALUE,
        ["reduction", "batchmean", '"none"', '"sample"', '"mean"'],
    ),
    ("spread", SPREAD, {"spread": "sigma"}, VALUE, ["spread", "sigma", '"logvar"', '"log_std"', '"std"', '"var"']),
    ("batch_dims < 0", REDUCING, {"batch_dims": -1}, VALUE, ["batch_dims", "-1", "0 to 2"]),
    ("batch_dims > dims", REDUCING, {"batch_dims": 3}, VALUE, ["batch_dims", "3", "0 to 2"]),
    ("key of floats", NOISY, {"key": _f(2)}, (TYPE, VALUE), ["key", "(?i)float", "int64"]),
    ("key of int32", NOISY, {"key": KEY.int()}, (TYPE, VALUE), ["key", "(?i)int", "int64"]),
    ("key of three", NOISY, {"key": torch.tensor([1, 2, 3])}, VALUE, ["key", r"\[3\]", r"\[2\]"]),
    ("key of two rows", NOISY, {"key": KEY.expand(2, 2)}, VALUE, ["key", r"\[2, 2\]", r"\[2\]"]),
    ("keys of another batch", NOISY, {"key": KEY.expand(3, 2)}, VALUE, ["key", r"\[3, 2\]", "mu", r"\[4, 3\]"]),
    (
        "keys of numbers",
        {"rsample_kl": _rsample_kl},
        {"key": KEY.expand(4, 3, 2)},
        VALUE,
        ["key", "up to 1 ", r"\[4, 3, 2\]"],
    ),
    ("keys of nothing", NOISY, {"key": KEY.expand(4, 3, 1, 2)}, VALUE, ["key", r"\[4, 3, 1, 2\]", r"\[4, 3\]"]),
    ("key that is a number", NOISY, {"key": KEY[0]}, VALUE, ["key", r"\[2\]", r"got \[\]"]),
    ("key elsewhere", NOISY, {"key": KEY.to("meta")}, VALUE, ["key", "meta", "cpu", "device"]),
    ("no samples", NOISY, {"n_samples": 0}, VALUE, ["n_samples", "0", "at least 1"]),
    ("negative samples", NOISY, {"n_samples": -3}, VALUE, ["n_samples", "-3", "at least 1"]),
    ("key and generator", NOISY, {"generator": torch.Generator()}, VALUE, ["key", "generator", "both"]),
    ("key and generators", NOISY, {"generator": [torch.Generator()] * 4}, VALUE, ["key", "generator", "both"]),
]

PRIOR = [
    ("shape of prior_mu", (_f(2), None), VALUE, ["prior_mu", r"\[2\]", r"\[4, 3\]"]),
    ("shape of prior_logvar", (None, _f(4, 1, 3)), VALUE, ["prior_logvar", r"\[4, 1, 3\]", r"\[4, 3\]"]),
    ("dtype of prior_mu", (_f(3, dtype=torch.float16), None), TYPE, ["prior_mu", HALF, "(float32|Float)"]),
    ("integer prior_logvar", (None, _f(3, dtype=torch.int64)), TYPE, ["prior_logvar", INT64, "float32"]),
    ("prior_mu elsewhere", (_meta(3), None), VALUE, ["prior_mu", "meta", "cpu", "device"]),
]


def _rows():
    for what, functions, arguments, exception, words in BAD:
        for name, function in functions.items():
            yield pytest.param(lambda f=function, a=arguments: f(**a), exception, words, id=f"{name}-{what}")
    for what, prior, exception, words in PRIOR:
        yield pytest.param(lambda p=prior: _kl(None, None, *p), exception, words, id=f"kl-{what}")


@pytest.mark.parametrize(("call", "exception", "words"), list(_rows()))
def test_bad_input(call, exception, words):
    with pytest.raises(exception) as caught:
        call()
    message = str(caught.value)
    for word in words:
        assert re.search(word, message), f"no {word!r} in: {message}"
    assert "csrc" not in message and "Exception raised from" not in message, "a user does not need the C++ stack"


@pytest.mark.parametrize(("call", "exception", "words"), list(_rows()))
def test_bad_input_is_found_where_it_was_traced(call, exception, words):
    """torch.compile reports the same mistake instead of compiling it."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True), pytest.raises(Exception):  # noqa: B017
        call()


def test_a_generator_of_another_device():
    with pytest.raises(ValueError, match=r"generator is on cpu.*meta"):
        aevb_ext.noise_key("meta", torch.Generator())


@pytest.mark.compiled("there are no operators")
@pytest.mark.skipif(aevb_ext.build_info()["cuda"] is not None, reason="built with CUDA")
@pytest.mark.parametrize("case", small_cases(), ids=str)
def test_a_cuda_tensor_in_a_build_without_cuda(case):
    """No GPU is needed: what the dispatcher would do for a CUDA tensor, done to a CPU tensor."""
    call = case.build()
    operator = getattr(torch.ops.aevb_ext, case.operator.name).default
    given = call.tensors | {"first_sample": 0, "form": "mean"} | call.options
    arguments = [given.get(a.name) for a in operator._schema.arguments]
    cuda = torch._C.DispatchKeySet(torch._C.DispatchKey.CUDA)
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        operator.redispatch(cuda, *arguments)
    for word in (case.operator.name, "CUDA", "CPU only", "AEVB_CUDA=1", "pip install --no-build-isolation ."):
        assert word in str(caught.value)
