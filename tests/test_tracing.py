"""Every public function under torch.jit.trace, and the errors of other tracers and of forward mode."""

import io

import pytest
import torch
from program import Program, inputs, seeded, value_and_gradients
from public import FUNCTIONS, ROWS
from torch.func import hessian, jacfwd, jacrev, jvp

import aevb_ext
from aevb_ext._library import is_loaded
from aevb_ext.distributions import Bernoulli, DiagonalGaussian
from aevb_ext.nn import ELBO

pytestmark = [
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("error::torch.jit.TracerWarning"),  # as Pyro's own settings have it
]
NOISY = [row for row in ROWS if row.draws_noise]
KEY = torch.tensor([1312, 6114])


def traced(program, *arguments):
    return torch.jit.trace(program, arguments, check_trace=False)  # which would run what draws noise again


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_traced_program(row, device):
    """Values and gradients are those of the program, of another batch than the one that it was traced with."""
    program = Program(row, device).double()
    trace = traced(program, *inputs(4, device, torch.float64))
    arguments = inputs(5, device, torch.float64)
    torch.testing.assert_close(value_and_gradients(trace, *arguments), value_and_gradients(program, *arguments))


@pytest.mark.parametrize("row", NOISY, ids=str)
def test_noise_of_a_key_that_is_drawn_inside(row):
    """New at each call, and on the CPU that of eager mode."""
    program = Program(row).double()
    trace = traced(program, *inputs(4, dtype=torch.float64)[:3])
    arguments = inputs(5, dtype=torch.float64)[:3]
    torch.testing.assert_close(seeded(trace, *arguments), seeded(program, *arguments))
    (_, first), (_, second) = trace(*arguments), trace(*arguments)
    assert not torch.equal(first[0], second[0])


def test_the_key_that_is_drawn_while_tracing_is_a_key():
    """Each of its 64 bits is random, as those of a key that is drawn by our operator."""
    trace = traced(lambda x: aevb_ext.noise_key(x.device), torch.zeros(1))
    keys = torch.stack([trace(torch.zeros(1)) for _ in range(64)])
    assert keys.dtype == torch.int64 and keys.shape == (64, 2) and (keys[:, 1] == 0).all()
    bits = (keys[:, :1] >> torch.arange(64)) & 1
    assert (bits.sum(0) > 10).all() and (bits.sum(0) < 54).all()  # P < 1e-6 each, were they fair


def test_what_is_saved_draws_too():
    """As other programs load it: with our operators, without our Python."""
    file = io.BytesIO()
    torch.jit.save(traced(lambda mu, logvar: DiagonalGaussian(mu, logvar).rsample(), *torch.zeros(2, 4, 3)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    mu, logvar = torch.randn(2, 6, 3)
    torch.testing.assert_close(seeded(loaded, mu, logvar), seeded(aevb_ext.rsample, mu, logvar))


@pytest.mark.parametrize(
    "draw",
    [
        lambda mu, generator: aevb_ext.noise_key(generator=generator),
        lambda mu, generator: aevb_ext.rsample(mu, mu, generator=generator),
        lambda mu, generator: aevb_ext.rsample(mu, mu, generator=[generator] * 4),
        lambda mu, generator: aevb_ext.binarize(mu, generator=generator),
        lambda mu, generator: DiagonalGaussian(mu, mu).sample(generator=generator),
        lambda mu, generator: Bernoulli(logits=mu).sample(generator=[generator] * 4),
    ],
    ids="noise_key rsample list binarize gaussian bernoulli".split(),
)
def test_a_generator_is_refused_by_name(draw):
    with pytest.raises(
        ValueError, match=r"torch\.jit\.trace does not trace a generator: .*noise_key\(generator=\.\.\.\)"
    ):
        traced(lambda mu: draw(mu, torch.Generator()), torch.zeros(4, 3))


def test_a_sample_has_no_gradient_in_what_is_traced():
    mu = torch.randn(4, 3, requires_grad=True)
    trace = traced(lambda mu: mu * DiagonalGaussian(mu, mu).sample(key=KEY), mu)
    (gradient,) = torch.autograd.grad(trace(mu).sum(), mu)
    torch.testing.assert_close(gradient, DiagonalGaussian(mu, mu).sample(key=KEY))


def test_samples_in_blocks_are_traced_all_at_once():
    """A traced block's backward would be that of the example: of other data there would be another gradient."""
    elbo = ELBO(6, importance_weighted=True, block=2)

    def loss(x, mu):
        return elbo(x, (mu, torch.zeros_like(mu)), lambda x, z: -(x - z).square().sum(-1), key=KEY).loss

    trace = traced(loss, torch.zeros(4, 3), torch.zeros(4, 3, requires_grad=True))
    x, mu = torch.randn(5, 3), torch.randn(5, 3, requires_grad=True)
    expected = loss(x, mu)
    torch.testing.assert_close(trace(x, mu), expected)
    torch.testing.assert_close(torch.autograd.grad(trace(x, mu), mu), torch.autograd.grad(expected, mu))


# Whose formula in plain PyTorch is differentiated by autograd.
PLAIN = {
    "poisson_log_prob",
    "zero_inflated_negative_binomial_log_prob",
    "student_t_log_prob",
    "categorical_log_prob",
    "discretized_logistic_mixture_log_prob",
    "mixture_log_prob",
}
DIFFERENTIABLE = [row for row in FUNCTIONS if row.name != "halves"]


@pytest.mark.parametrize("row", DIFFERENTIABLE, ids=str)
def test_derivatives_forward(row):
    """Refused by name, and so is torch.func.hessian, which is one of reverse mode; jacrev twice is the same."""
    if not is_loaded() and row.name in PLAIN:
        pytest.skip("without a library this is PyTorch's own, which has both modes")
    program, (x, y, _, key) = Program(row).double(), inputs(3, dtype=torch.float64)
    tensors = {name: t.detach() for name, t in program.tensors(x, y).items()}
    name = next(iter(row.learnt))

    def loss(t):
        return sum(output.square().sum() for output in program.outputs(tensors | {name: t}, key))

    t = tensors[name]
    operator = row.name.replace("_", "")
    for derive in (lambda: jvp(loss, (t,), (t,)), lambda: jacfwd(loss)(t), lambda: hessian(loss)(t)):
        with pytest.raises(
            NotImplementedError, match=rf"(?i){operator} has no forward-mode derivative; use reverse mode"
        ):
            derive()
    torch.testing.assert_close(jacrev(jacrev(loss))(t), torch.autograd.functional.hessian(loss, t))


class OfFunction(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, t):
        return self.function(t)


@pytest.mark.parametrize(
    ("name", "function"),
    {
        "mu": lambda t: aevb_ext.rsample(t, t),
        "logits": lambda t: aevb_ext.bernoulli_log_prob(torch.zeros(4, 3), t),
        "input": lambda t: aevb_ext.compat.binary_cross_entropy(t, t),
        "probs": lambda t: Bernoulli(t).entropy(),
    }.items(),
)
def test_symbolic_trace_is_refused_by_name(name, function):
    with pytest.raises(TypeError, match=rf"{name} must be a tensor.* got a Proxy: torch\.fx\.symbolic_trace does not"):
        torch.fx.symbolic_trace(OfFunction(function))


@pytest.mark.compiled("there are no operators")
def test_script_takes_the_operators():
    """The functions have keyword-only arguments, which torch.jit.script does not take; what they call it does."""

    def operator(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        return torch.ops.aevb_ext.gaussian_kl(mu, logvar, None, None, "logvar", "sample", 1)

    def function(mu: torch.Tensor, logvar: torch.Tensor) -> torch.Tensor:
        return aevb_ext.gaussian_kl(mu, logvar)

    mu, logvar = torch.randn(2, 4, 3)
    assert torch.equal(torch.jit.script(operator)(mu, logvar), function(mu, logvar))
    with pytest.raises(Exception, match="keyword-only arguments"):
        torch.jit.script(function)
