"""The evidence lower bound of a hierarchy of latent variables, as ladder models have it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Size, Tensor

from .._arguments import check_broadcasts, check_dtype, described, is_number
from ..distributions import DiagonalGaussian
from .elbo import Prior, kl_to_prior, of_tuple, prior_of
from .warmup import WeightedKL, check_weight

__all__ = ["HierarchicalELBO", "HierarchicalELBOTerms"]

Posterior = DiagonalGaussian | tuple[Tensor, Tensor]
Level = tuple[Posterior, Prior | None] | Tensor


class HierarchicalELBOTerms(NamedTuple):
    """The result of :class:`HierarchicalELBO`: values per data point, in nats.

    Attributes:
        bound: ``[B]``, the objective to maximise.
        reconstruction: ``[B]``, the log-likelihood that was given.
        kl: ``[B]``, the sum of all levels' KLs: before beta and free bits.
        kl_of_levels: ``[B, levels]``, the same before the sum: ``kl_of_levels.mean(0)`` is what each level encodes.
    """

    bound: Tensor
    reconstruction: Tensor
    kl: Tensor
    kl_of_levels: Tensor

    @property
    def weighted_kl(self) -> Tensor:
        """The term subtracted from the reconstruction, ``[B]``: after beta, warm-up and free bits."""
        return self.reconstruction - self.bound

    @property
    def loss(self) -> Tensor:
        """The loss to minimise, a scalar: ``-bound.mean()``."""
        return -self.bound.mean()


class HierarchicalELBO(WeightedKL):
    r"""The evidence lower bound of each data point of a hierarchy :math:`z_1, \ldots, z_L` (Sønderby et al. 2016).

    .. math:: \log p(x | z) - \beta \sum_l R_l\big(D_{KL}(q(z_l | x, z_{<l}) \| p(z_l | z_{<l}))\big)

    In ladder models (LVAE, IAF-VAE, NVAE, VDVAE) posterior and prior of a level are computed from the samples of the
    levels above it. The model makes them top-down, and keeps each pair; this class has the rest: one fused KL for each
    level, free bits of each level, their sum, and warm-up::

        elbo = HierarchicalELBO(free_bits=[0.0, 2.0, 2.0], warmup_steps=10_000)
        h, levels = top.expand(len(x), -1), []
        for block in blocks:
            p = DiagonalGaussian.from_params(block.prior(h))
            q = DiagonalGaussian.from_params(block.posterior(h, features))
            levels.append((q, p))
            h = block.merge(h, q.rsample())
        terms = elbo(decoder.log_prob(x, h), levels)
        terms.loss.backward()
        elbo.step()

    The module has no parameters; beta, the step count and the free bits are buffers on the device.

    Args:
        beta: the weight of the KLs. :meth:`set_beta` and ``elbo.beta.fill_()`` change it.
        warmup_steps: the weight grows linearly from 0 to beta over this many steps (:meth:`step`). 0: no warm-up.
        free_bits: lambda, in nats for each data point: one number for every level, or a sequence with that of each:
            :math:`R_l = \max(\lambda_l, \mathrm{mean}_b KL_{bl})`, with the mean over the minibatch of this process; a
            level at or below its lambda has no gradient (Kingma et al. 2016, arXiv 1606.04934, appendix C.8). Each data
            point's bound contains its own share. 0: none.

    Raises:
        ValueError: a number is out of range.
        TypeError: ``free_bits`` is neither a number nor a sequence of numbers.
    """

    free_bits: Tensor | None

    def __init__(self, *, beta: float = 1.0, warmup_steps: int = 0, free_bits: float | Sequence[float] = 0.0):
        super().__init__(beta, warmup_steps)
        numbers = _numbers(free_bits)
        for number in numbers:
            check_weight("free_bits", number)
        self._levels = None if is_number(free_bits) else len(numbers)
        values = list(map(float, numbers))
        self.register_buffer("free_bits", torch.tensor(values) if any(values) else None, persistent=False)

    if TYPE_CHECKING:

        def __call__(self, log_likelihood: Tensor, levels: Sequence[Level]) -> HierarchicalELBOTerms: ...

    def forward(self, log_likelihood: Tensor, levels: Sequence[Level]) -> HierarchicalELBOTerms:
        """The bound of each data point.

        Args:
            log_likelihood: log p(x | z), ``[B]``, of the samples that the levels were computed with (with several
                samples ``[S, B]``, and so all results).
            levels: for each level a pair (posterior, prior): a :class:`~aevb_ext.distributions.DiagonalGaussian` with
                batch shape ``[B]`` or a tuple ``(mu, logvar)``, and a prior as :class:`~aevb_ext.nn.ELBO` takes it,
                where None is N(0, I). Or, in place of a pair, the level's KL as a tensor ``[B]``: that of
                ``posterior.rsample_kl()``, or the estimate log q(z) - log p(z) where no KL is known in closed form
                (flows, mixtures), of which free bits are biased.

        Returns:
            :class:`HierarchicalELBOTerms`.

        Raises:
            ValueError: there are more or fewer levels than numbers in ``free_bits``; shapes do not fit.
            TypeError: there is no level; a level, its posterior or its prior has another type.
            NotImplementedError: the KL to a prior is not known in closed form.
        """
        check_dtype("log_likelihood", log_likelihood)
        if not isinstance(levels, (list, tuple)) or not levels:
            raise TypeError(f"levels must be a list of pairs (posterior, prior), got {described(levels)}")
        if self._levels not in (None, len(levels)):
            raise ValueError(f"free_bits has {self._levels} numbers, but there are {len(levels)} levels")
        rows = log_likelihood.shape
        kl_of_levels = torch.stack([_kl_of_level(i, level, rows) for i, level in enumerate(levels)], -1)
        kl = kl_of_levels.sum(-1)
        free = self.free_bits
        weighed = kl if free is None else self._with_free_bits(kl_of_levels, free.to(kl.dtype)).sum(-1)
        return HierarchicalELBOTerms(log_likelihood - self.current_beta * weighed, log_likelihood, kl, kl_of_levels)

    def extra_repr(self) -> str:
        options = {"warmup_steps": self.warmup_steps, "free_bits": self.free_bits}
        return ", ".join(f"{name}={value!r}" for name, value in options.items() if value is not None)


def _kl_of_level(i: int, level: Any, rows: Size) -> Tensor:
    """The KL of a level for each data point, in the shape ``rows``; errors name the level."""
    name = f"levels[{i}]"
    if isinstance(level, Tensor):
        kl = level
    else:
        if not isinstance(level, tuple) or len(level) != 2 or isinstance(level[0], Tensor):
            raise TypeError(
                f"{name} must be a pair (posterior, prior), of which each may be a tuple (mu, logvar), or the level's "
                f"KL as a tensor, got {described(level)}"
            )
        posterior, prior = level
        try:
            q = posterior if isinstance(posterior, DiagonalGaussian) else of_tuple("posterior", posterior)
            kl = q.kl() if prior is None else kl_to_prior(q, prior_of(prior, q))
        except NotImplementedError:
            raise NotImplementedError(
                f"{name}: the KL of the posterior to this prior, {type(prior).__name__}, is not known in closed form: "
                "give an estimate of it in place of the pair, q.log_prob(z) - p.log_prob(z) of the level's sample z"
            ) from None
        except (TypeError, ValueError) as error:
            raise type(error)(f"{name}: {error}") from None
    check_broadcasts(f"{name}'s KL", kl.shape, "log_likelihood", rows)
    return kl.expand(rows)


def _numbers(given: Any) -> Sequence[float]:
    if is_number(given):
        return [given]
    if not isinstance(given, (list, tuple)) or not given or not all(map(is_number, given)):
        raise TypeError(f"free_bits must be a number, or a list of one for each level, got {described(given)}")
    return given
