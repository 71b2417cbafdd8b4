"""Hamiltonian Monte Carlo (Duane et al. 1987; Neal 2011, arXiv 1206.1901) for any number of chains at once.

Nothing here waits for the device, and a transition is a function of its tensors and its noise keys alone.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from . import functional as F

__all__ = ["Leapfrog", "Transition", "adapt", "leapfrog", "log_joint", "log_prior", "transition", "with_gradient"]

# A transition needs two more normals beside its momentum: the uniform number of the Metropolis test is made from them.
_MORE_NOISE = 2


def log_prior(z: Tensor) -> Tensor:
    """log N(z; 0, I): z ``[*chains, dim]`` to ``[*chains]``, in nats."""
    zero = z.new_zeros(())
    return F.gaussian_log_prob(z, zero.expand_as(z), zero, batch_dims=z.dim() - 1)


class Likelihood(Protocol):
    """The part of a model that is used here."""

    def log_likelihood(self, x: Tensor, z: Tensor) -> Tensor: ...


def log_joint(model: Likelihood, x: Tensor) -> Callable[[Tensor], Tensor]:
    """log p(x, z) = log p(z) + log p(x | z) of a VAE as a function of z.

    Args:
        model: the :class:`~aevb_ext.models.VAE`; only its decoder is used.
        x: ``[B, *event]`` as stored in the dataset.

    Returns:
        z ``[*samples, B, latent]`` to ``[*samples, B]``, in nats.
    """
    return lambda z: log_prior(z) + model.log_likelihood(x, z)


def with_gradient(log_density: Callable[[Tensor], Tensor]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """A function that returns a log density's values and its gradient with respect to z only.

    Args:
        log_density: z ``[*chains, dim]`` to ``[*chains]``, each from its own z alone.

    Returns:
        z to (values ``[*chains]``, gradients ``[*chains, dim]``), without a graph.
    """

    @torch.enable_grad()
    def values_and_gradients(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        values = log_density(z)
        # autograd.grad leaves out the gradients of the parameters.
        (gradient,) = torch.autograd.grad(values.sum(), z)
        return values.detach(), gradient

    return values_and_gradients


class Leapfrog(NamedTuple):
    """The end of a trajectory.

    Attributes:
        z, momentum: ``[*chains, dim]``.
        log_density: of z, ``[*chains]``.
        gradient: of the log density at z, ``[*chains, dim]``.
    """

    z: Tensor
    momentum: Tensor
    log_density: Tensor
    gradient: Tensor


@torch.no_grad()
def leapfrog(
    grad: Callable[[Tensor], tuple[Tensor, Tensor]],
    z: Tensor,
    momentum: Tensor,
    stepsize: float | Tensor,
    n_steps: int,
    gradient: Tensor | None = None,
) -> Leapfrog:
    """``n_steps`` steps of the leapfrog integrator (Neal 2011), with unit masses.

    Args:
        grad: a function of z that gives (log density, gradient), as :func:`with_gradient` makes it.
        z, momentum: ``[*chains, dim]``.
        stepsize: a number, or a tensor that broadcasts over ``[*chains]``.
        n_steps: the number of steps, at least 1.
        gradient: the gradient at z, if it is known already: saves one of ``n_steps + 1`` calls of ``grad``.

    Raises:
        ValueError: ``n_steps`` is below 1.
    """
    if n_steps < 1:
        raise ValueError(f"n_steps must be at least 1, got {n_steps}")
    if isinstance(stepsize, Tensor):
        stepsize = stepsize.unsqueeze(-1)
    if gradient is None:
        gradient = grad(z)[1]
    momentum = momentum + 0.5 * stepsize * gradient
    for step in range(1, n_steps + 1):
        z = z + stepsize * momentum
        value, gradient = grad(z)
        # The half steps of the momentum at the end of one step and the start of the next are done as one.
        momentum = momentum + (1.0 if step < n_steps else 0.5) * stepsize * gradient
    return Leapfrog(z, momentum, value, gradient)


class Transition(NamedTuple):
    """The state of the chains after a transition, and the transition's acceptance.

    Attributes:
        z: ``[*chains, dim]``.
        log_density: of z, ``[*chains]``.
        accept_prob: the acceptance probability of the proposal, ``[*chains]``; 0 if its density is not finite (the
            trajectory has diverged).
        accepted: whether the proposal was accepted, bool ``[*chains]``.
        gradient: of the log density at z, ``[*chains, dim]``.
    """

    z: Tensor
    log_density: Tensor
    accept_prob: Tensor
    accepted: Tensor
    gradient: Tensor


@torch.no_grad()
def transition(
    log_density: Callable[[Tensor], Tensor],
    z: Tensor,
    stepsize: float | Tensor,
    n_steps: int,
    key: Tensor,
    start: tuple[Tensor, Tensor] | None = None,
) -> Transition:
    """One transition of each chain: a fresh momentum, ``n_steps`` leapfrog steps, and a Metropolis test.

    It leaves the distribution with this log density invariant (Neal 2011).

    Args:
        log_density: z ``[*chains, dim]`` to ``[*chains]``, up to a constant of each chain.
        z: the present positions of the chains, ``[*chains, dim]``.
        stepsize: a number, or a tensor that broadcasts over ``[*chains]``.
        n_steps: leapfrog steps, at least 1.
        key: the noise key ``[2]``, or one for each chain, ``[*chains, 2]``: a chain with its own key does not depend on
            the other chains.
        start: (log density ``[*chains]``, gradient ``[*chains, dim]``) at z if they are known, such as those of the
            transition before if the density is the same: saves one of ``n_steps + 1`` evaluations.

    Raises:
        ValueError: ``n_steps`` is below 1, or the key does not fit.
    """
    grad = with_gradient(log_density)
    value, gradient = grad(z) if start is None else start
    noise = F.rsample(z.new_zeros(*z.shape[:-1], z.shape[-1] + _MORE_NOISE), z.new_zeros(()), key=key)
    momentum, rest = noise.split([z.shape[-1], _MORE_NOISE], -1)
    end = leapfrog(grad, z, momentum, stepsize, n_steps, gradient)
    kinetic = 0.5 * (momentum.square().sum(-1) - end.momentum.square().sum(-1))
    log_accept = end.log_density - value + kinetic
    # Half the squared length of two normals is an exponential variate, hence minus the logarithm of a uniform one.
    finite = end.log_density.isfinite() & ~log_accept.isnan()
    accepted = finite & (-0.5 * rest.square().sum(-1) < log_accept)
    return Transition(
        torch.where(accepted.unsqueeze(-1), end.z, z),
        torch.where(accepted, end.log_density, value),
        log_accept.clamp(max=0).exp().where(finite, 0),
        accepted,
        torch.where(accepted.unsqueeze(-1), end.gradient, gradient),
    )


def adapt(stepsize: Tensor, accept_prob: Tensor, target: float = 0.9, rate: float = 0.1) -> Tensor:
    r"""The step size after a transition: :math:`\epsilon \, e^{r (a - a^*)}`, whose fixed point is acceptance a = a*.

    (A stochastic approximation; Andrieu & Thoms 2008.) While the step size is adapted, chains are not stationary.

    Args:
        stepsize: a scalar, or a tensor that broadcasts over the chains; each element follows the mean acceptance of the
            chains that use it.
        accept_prob: of :class:`Transition`, ``[*chains]``.
        target: the mean acceptance probability to reach, a*.
        rate: r.
    """
    mean = accept_prob.sum_to_size(stepsize.shape) * (stepsize.numel() / accept_prob.numel())
    return stepsize * (rate * (mean - target)).exp()
