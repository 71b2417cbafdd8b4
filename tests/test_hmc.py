"""Hamiltonian Monte Carlo against targets that are known, and the identities of its integrator."""

import pytest
import torch
from linear_gaussian import DIM, LATENT, LinearDecoder
from torch.distributions import MultivariateNormal

from aevb_ext.hmc import adapt, leapfrog, log_joint, transition, with_gradient
from aevb_ext.models import VAE, mlp_vae
from aevb_ext.noise import keys_at

COVARIANCE = torch.tensor([[1.0, 0.6, 0.0], [0.6, 0.5, 0.1], [0.0, 0.1, 2.0]], dtype=torch.float64)
MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


EXACT = MultivariateNormal(MEAN, COVARIANCE)


def correlated(z):
    """Up to its constant."""
    d = z - MEAN
    return -0.5 * (d @ EXACT.precision_matrix * d).sum(-1)


def quartic(z):
    """Not Gaussian, so that the leapfrog integrator has all orders of its error."""
    return -0.25 * z.pow(4).sum(-1) - 0.5 * z.square().sum(-1) - z.sum(-1).sin()


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def run(log_density, z, stepsize, n_steps, n, key=0):
    """n transitions, the last of them."""
    for i in range(n):
        state = transition(log_density, z, stepsize, n_steps, torch.tensor([key, i]))
        z = state.z
    return state


def test_moments_of_a_correlated_gaussian():
    # Independent chains: each statistic is a mean over 20000, beyond 5.5 standard errors at a rate of 4e-8.
    n = 20_000
    z = run(correlated, drawn(n, 3) * 3, 0.35, 6, 25).z
    errors = (z - MEAN).mean(0) / (COVARIANCE.diag() / n).sqrt()
    assert errors.abs().max() < 5.5
    products = (z - MEAN).unsqueeze(-1) * (z - MEAN).unsqueeze(-2)
    variance = COVARIANCE.square() + COVARIANCE.diag().unsqueeze(0) * COVARIANCE.diag().unsqueeze(1)
    errors = (products.mean(0) - COVARIANCE) / (variance / n).sqrt()
    assert errors.abs().max() < 5.5


def test_transitions_leave_the_target_as_it_is_at_any_stepsize():
    """Where proposals are refused often, an error of Metropolis's test would show."""
    n = 20_000
    z = MEAN + drawn(n, 3) @ torch.linalg.cholesky(COVARIANCE).T
    state = run(correlated, z, 0.5, 3, 4)
    assert 0.05 < state.accept_prob.mean() < 0.8
    # -2 log p of its own draws is a chi-square of 3 degrees of freedom: log p has mean and variance -3/2 and 3/2.
    errors = (state.log_density.mean() + 1.5) / (1.5 / n) ** 0.5
    assert abs(errors) < 5.5
    # Accepted as often as said: the variance of each is at most 1/4.
    assert abs(state.accepted.double().mean() - state.accept_prob.mean()) < 5.5 * (0.25 / n) ** 0.5


def test_the_energy_error_is_of_second_order():
    z, momentum = drawn(50, 3), drawn(50, 3, seed=1)
    stepsizes = torch.tensor([0.04, 0.02, 0.01, 0.005], dtype=torch.float64)
    errors = []
    for stepsize in stepsizes.tolist():
        end = leapfrog(with_gradient(quartic), z, momentum, stepsize, round(0.8 / stepsize))
        energies = [0.5 * p.square().sum(-1) - quartic(q) for q, p in ((end.z, end.momentum), (z, momentum))]
        errors.append((energies[0] - energies[1]).abs().mean())
    slopes = torch.stack(errors).log().diff() / stepsizes.log().diff()
    assert (slopes - 2).abs().max() < 0.03


def test_a_trajectory_comes_back():
    z, momentum = drawn(40, 5), drawn(40, 5, seed=1)
    stepsize = torch.linspace(0.01, 0.3, 40, dtype=torch.float64)
    there = leapfrog(with_gradient(quartic), z, momentum, stepsize, 20)
    back = leapfrog(with_gradient(quartic), there.z, -there.momentum, stepsize, 20)
    assert (there.z - z).abs().amax(-1).min() > 0.05
    torch.testing.assert_close((back.z, -back.momentum), (z, momentum), rtol=0, atol=1e-10)


def test_volume_is_preserved():
    def once(state):
        z, momentum = state
        for _ in range(3):
            z, momentum = step(z, momentum)
        return torch.cat([z, momentum])

    def step(z, momentum, stepsize=0.3):
        # The integrator's own steps, in a form that can be differentiated.
        momentum = momentum + 0.5 * stepsize * torch.func.grad(quartic)(z)
        z = z + stepsize * momentum
        return z, momentum + 0.5 * stepsize * torch.func.grad(quartic)(z)

    z, momentum = drawn(2), drawn(2, seed=1)
    end = leapfrog(with_gradient(quartic), z, momentum, 0.3, 3)
    torch.testing.assert_close(torch.cat([end.z, end.momentum]), once((z, momentum)), rtol=1e-12, atol=1e-12)
    columns = []
    h = 1e-5
    for i in range(4):
        shifted = [torch.cat([z, momentum]) + s * h * torch.eye(4, dtype=torch.float64)[i] for s in (1, -1)]
        ends = [leapfrog(with_gradient(quartic), s[:2], s[2:], 0.3, 3) for s in shifted]
        columns.append((torch.cat(ends[0][:2]) - torch.cat(ends[1][:2])) / (2 * h))
    assert torch.linalg.det(torch.stack(columns, -1)) == pytest.approx(1, abs=1e-8)


def test_a_transition_is_a_function_of_its_key():
    z, keys = drawn(4, 6, 3), keys_at(3, "hmc", torch.arange(24).reshape(4, 6))
    together = transition(correlated, z, 0.4, 5, keys)
    torch.manual_seed(1)
    again = transition(correlated, z, 0.4, 5, keys)
    assert all(torch.equal(a, b) for a, b in zip(together, again, strict=True))
    # A chain with its own key, in another batch and alone.
    part = transition(correlated, z[1:3, 2:4], 0.4, 5, keys[1:3, 2:4])
    alone = transition(correlated, z[2, 3], 0.4, 5, keys[2, 3])
    for whole, some, one in zip(together, part, alone, strict=True):
        torch.testing.assert_close(some, whole[1:3, 2:4], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(one, whole[2, 3], rtol=1e-13, atol=1e-13)
    other = transition(correlated, z, 0.4, 5, keys_at(4, "hmc", torch.arange(24).reshape(4, 6)))
    assert not torch.isclose(other.z, together.z).any()


def test_what_is_known_of_the_start_is_not_computed_again():
    calls = []

    def counted(z):
        calls.append(len(z))
        return correlated(z)

    first = transition(counted, drawn(7, 3), 0.4, 4, torch.tensor([0, 0]))
    assert len(calls) == 5
    known = transition(counted, first.z, 0.4, 4, torch.tensor([0, 1]), (first.log_density, first.gradient))
    assert len(calls) == 9
    fresh = transition(correlated, first.z, 0.4, 4, torch.tensor([0, 1]))
    torch.testing.assert_close(tuple(known), tuple(fresh), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("shape", [(), (60,)], ids=["one stepsize", "one for each chain"])
def test_adaptation_reaches_its_target(shape):
    z, stepsize = drawn(60, 3), torch.full(shape, 0.05 if shape else 1.0, dtype=torch.float64)
    found = []
    for i in range(300):
        state = transition(correlated, z, stepsize, 6, torch.tensor([1, i]))
        z, stepsize = state.z, adapt(stepsize, state.accept_prob, rate=0.4)
        found.append(state.accept_prob.mean())
    # Averages of 150 transitions of 60 chains, which follow each other: a standard error of 0.003 at most.
    assert torch.stack(found[150:]).mean() == pytest.approx(0.9, abs=0.015)


def test_where_a_trajectory_diverges_the_chain_stays():
    z = drawn(5, 3) + 2
    state = transition(quartic, z, 1e3, 10, torch.tensor([0, 0]))
    assert not state.accepted.any() and (state.accept_prob == 0).all()
    assert torch.equal(state.z, z) and torch.equal(state.log_density, quartic(z))


def test_the_log_joint_is_prior_and_likelihood():
    generator = torch.Generator().manual_seed(0)
    decoder = LinearDecoder(generator)
    x, z = drawn(4, DIM), drawn(6, 4, LATENT, seed=1)
    mu, logvar = decoder.posterior(x)
    posterior = MultivariateNormal(mu, torch.diag_embed(logvar.exp()))
    joint = log_joint(VAE(lambda x: x, decoder, LATENT), x)
    torch.testing.assert_close(joint(z), posterior.log_prob(z) + decoder.evidence(x), rtol=1e-12, atol=1e-12)


def test_parameters_get_no_gradient():
    model, z = mlp_vae(6, latent=2, hidden=4), torch.randn(3, 5, 2)
    transition(log_joint(model, torch.rand(5, 6)), z, 0.1, 2, torch.tensor([0, 0]))
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_no_steps_are_refused():
    with pytest.raises(ValueError, match="n_steps must be at least 1, got 0"):
        transition(correlated, drawn(2, 3), 0.1, 0, torch.tensor([0, 0]))
