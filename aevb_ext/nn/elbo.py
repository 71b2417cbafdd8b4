"""The evidence lower bound as a module, with its common variants (beta, free bits, capacity, IWAE)."""

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from .. import functional as F
from .._arguments import (
    broadcast_shape,
    check_broadcasts,
    described,
    explained,
    kind,
    sizes,
)
from .._types import Generators
from ..distributions import DiagonalGaussian
from .stream import Terms, streamed
from .warmup import WeightedKL, check_count, check_weight, now

__all__ = ["ELBO", "ELBOTerms"]


class _Density(Protocol):
    """A prior whose KL is estimated from samples: all that is needed is its log density."""

    def log_prob(self, value: Tensor, /) -> Tensor: ...


# The accepted forms of p(z).
Prior = _Density | Distribution | tuple[Tensor, Tensor]


class _Noise(TypedDict, total=False):
    """Arguments of the samplers."""

    n_samples: int | None
    first_sample: int
    key: Tensor | None
    generator: Generators | None


GRADIENTS = ("total", "stl", "dreg")


class ELBOTerms(NamedTuple):
    """The result of :class:`ELBO`: one value per data point each, in nats, float32 (float64 for float64).

    Attributes:
        bound: ``[B]``, the objective to maximise.
        reconstruction: ``[B]``, the mean over samples of log p(x | z).
        kl: ``[B]``, KL(q(z | x) || p(z)) itself: before beta, free bits and capacity.
    """

    bound: Tensor
    reconstruction: Tensor
    kl: Tensor

    @property
    def weighted_kl(self) -> Tensor:
        r"""The term subtracted from the reconstruction, ``[B]``: ``bound = reconstruction - weighted_kl``.

        It is :math:`\beta R(KL)`, after beta, warm-up, free bits and capacity, while ``kl`` is before them. For an
        importance-weighted bound it is the difference of the mean reconstruction and the bound.
        """
        return self.reconstruction - self.bound

    @property
    def loss(self) -> Tensor:
        """The loss to minimise, a scalar: ``-bound.mean()``, which is ``(weighted_kl - reconstruction).mean()``."""
        return -self.bound.mean()


def _is_decoder(value: object) -> bool:
    """Whether it has a ``log_prob`` that can be called with (x, z), or can be called so itself."""
    log_prob: Any = getattr(value, "log_prob", value.forward if isinstance(value, nn.Module) else value)
    try:
        inspect.signature(log_prob).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        return True  # a callable without a signature
    return True


_check_decoder = kind(
    _is_decoder,
    "a module with log_prob(x, z), such as a BernoulliDecoder(net) or GaussianDecoder(net), or a function of (x, z)",
)


class ELBO(WeightedKL):
    r"""The evidence lower bound of each data point (Kingma & Welling 2014, arXiv 1312.6114, eq. 7).

    .. math:: \frac1L \sum_l \log p(x | z_l) - \beta\, R\big(D_{KL}(q(z | x) \| p(z))\big),
              \quad z_l \sim q(z | x) \text{ reparameterised}

    where R is the identity, or the function of the KL that free bits or a capacity define. Alternatively it is the
    importance-weighted bound. The module has no parameters. beta, the capacity and the step count are buffers on the
    device, so that annealing neither synchronises with the host nor causes a recompilation, and all three are in the
    state dict::

        elbo = ELBO(beta=4.0, warmup_steps=10_000)
        terms = elbo(x, posterior(x), decoder)  # a GaussianPosterior and a BernoulliDecoder, say
        terms.loss.backward()
        elbo.step()

    Args:
        n_samples: L (or k), the number of z drawn for each data point.
        beta: the weight of the KL (Higgins et al. 2017, "beta-VAE", eq. 4). :meth:`set_beta` and ``elbo.beta.fill_()``
            change it.
        warmup_steps: the weight grows linearly from 0 to beta over this many steps (:meth:`step`) (Bowman et al. 2016,
            arXiv 1511.06349, section 3.1; Sønderby et al. 2016, arXiv 1602.02282, section 2.3). 0: no warm-up.
        free_bits: lambda, in nats for each group: :math:`R = \sum_g \max(\lambda, \mathrm{mean}_b KL_{bg})`, with the
            mean over the minibatch of this process; a group at or below lambda has no gradient (Kingma et al. 2016,
            arXiv 1606.04934, appendix C.8). Each data point's bound contains its own share, so that the mean of
            ``bound`` is the paper's. 0: none.
        free_bits_groups: the number of groups of adjacent elements into which z's event (flattened) is split: C for
            feature maps ``[C, H, W]``, 1 for all of z together. None: each dimension is a group.
        capacity: C in nats: :math:`R = |KL - C|` for each data point, and beta is the paper's gamma (Burgess et al.
            2018, arXiv 1804.03599, eq. 8). The buffer ``capacity`` can be filled like beta. None: no capacity.
        capacity_steps: the capacity grows linearly from 0 to C over this many steps. 0: it is C at once.
        importance_weighted: the samples are averaged inside the logarithm (Burda et al. 2016, arXiv 1509.00519, eq. 8):
            :math:`\log \frac1k \sum_i w_i`, :math:`w_i = p(x, z_i) / q(z_i | x)`. ``kl`` is then the mean of
            log q(z | x) - log p(z) over the samples, an unbiased estimate that can be negative.
        gradient: the gradient estimator of the posterior's parameters:

            * ``"total"``: the gradient of the whole bound.
            * ``"stl"``: sticking the landing: the gradient flows only through z; the parameters in log q(z | x) are
              detached (Roeder et al. 2017, arXiv 1703.09194, section 3). The KL is estimated from the samples, as
              above. The gradient is unbiased, and zero if q is the exact posterior. With ``importance_weighted`` and
              more than one sample it is the IWAE-STL of the literature, which is biased (Tucker et al. 2019).
            * ``"dreg"``: doubly reparameterised: the gradient through z is weighted by the *squares* of the normalised
              importance weights (Tucker et al. 2019, arXiv 1810.04152, IWAE-DReG); all other gradients are those of
              ``"total"``. The gradient is unbiased. Needs ``importance_weighted``. ``reconstruction`` and ``kl`` are
              detached.

        block: how many of the ``n_samples`` are computed at a time. The noise does not depend on it, and results agree
            up to rounding. Memory does not grow with ``n_samples``, neither in the forward nor in the backward, which
            evaluates the decoder again a block at a time. The backward can be run once: there are no second
            derivatives and no ``torch.func`` transforms, and ``torch.compile`` works for the decoder rather than for
            the whole. None: all at once.

    Raises:
        ValueError: a number is out of range, or options do not fit together; the message says why.
    """

    capacity: Tensor | None

    def __init__(
        self,
        n_samples: int = 1,
        *,
        beta: float = 1.0,
        warmup_steps: int = 0,
        free_bits: float = 0.0,
        free_bits_groups: int | None = None,
        capacity: float | None = None,
        capacity_steps: int = 0,
        importance_weighted: bool = False,
        gradient: str = "total",
        block: int | None = None,
    ):
        super().__init__(beta, warmup_steps)
        for name, count, least in (
            ("n_samples", n_samples, 1),
            ("capacity_steps", capacity_steps, 0),
            ("free_bits_groups", 1 if free_bits_groups is None else free_bits_groups, 1),
            ("block", 1 if block is None else block, 1),
        ):
            check_count(name, count, least)
        check_weight("free_bits", free_bits)
        check_weight("capacity", 0 if capacity is None else capacity)
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {described(gradient)}")
        self.n_samples, self.capacity_steps = int(n_samples), int(capacity_steps)
        self.free_bits, self.free_bits_groups = free_bits, free_bits_groups
        self.importance_weighted, self.gradient, self.block = importance_weighted, gradient, block
        self.register_buffer("capacity", None if capacity is None else torch.tensor(float(capacity)))
        self._check_options(beta)

    def _check_options(self, beta: float) -> None:
        has_capacity = self.capacity is not None
        if self.free_bits and has_capacity:
            raise ValueError("free_bits and capacity were both given: each says how much KL is free, give only one")
        if self.free_bits_groups is not None and not self.free_bits:
            raise ValueError("free_bits_groups was given without free_bits: there is nothing to group")
        if self.capacity_steps and not has_capacity:
            raise ValueError("capacity_steps was given without capacity: there is nothing to increase")
        if self.gradient == "dreg" and not self.importance_weighted:
            raise ValueError('gradient="dreg" uses importance weights: it needs importance_weighted=True')
        if self.importance_weighted and (beta != 1 or self.warmup_steps):
            raise ValueError(
                "importance_weighted cannot be combined with beta or warmup_steps: the weights are p(x, z) / q(z | x), "
                "and with another weight of the KL the result is no bound"
            )
        if (self.free_bits or has_capacity) and (self.importance_weighted or self.gradient != "total"):
            option = "free_bits" if self.free_bits else "capacity"
            sampled = "importance_weighted" if self.importance_weighted else f'gradient="{self.gradient}"'
            raise ValueError(
                f"{option} cannot be combined with {sampled}: it estimates the KL from samples, and {option} is a "
                "nonlinear function of the KL, so that the noise would become a bias"
            )

    if TYPE_CHECKING:

        def __call__(
            self,
            x: Tensor,
            posterior: DiagonalGaussian | tuple[Tensor, Tensor],
            decoder: nn.Module | Callable[..., Tensor],
            *,
            x_scale: float = 1.0,
            prior: Prior | None = None,
            key: Tensor | None = None,
            generator: Generators | None = None,
        ) -> ELBOTerms: ...

    @explained(x=None, decoder=_check_decoder)
    def forward(
        self,
        x: Tensor,
        posterior: DiagonalGaussian | tuple[Tensor, Tensor],
        decoder: nn.Module | Callable[..., Tensor],
        *,
        x_scale: float = 1.0,
        prior: Prior | None = None,
        key: Tensor | None = None,
        generator: Generators | None = None,
    ) -> ELBOTerms:
        """The bound of each data point of x.

        Args:
            x: ``[B, *event]``, passed to ``decoder``.
            posterior: q(z | x), a :class:`~aevb_ext.distributions.DiagonalGaussian` with batch shape ``[B]``, or a
                tuple ``(mu, logvar)`` of tensors ``[B, *latent]``.
            decoder: an object with ``log_prob(x, z)``, or a function of (x, z): log p(x | z) ``[B]`` for z
                ``[B, *latent]``; with ``n_samples=L > 1``, ``[L, B]`` for z ``[L, B, *latent]``.
            x_scale: what x is multiplied by (1/255 for grey bytes): if it is not 1, the decoder gets ``x_scale=``.
            prior: p(z). None: N(0, I). A DiagonalGaussian or a tuple as above, whose parameters broadcast to the
                posterior's; or a distribution that torch.distributions.kl_divergence supports; or, if the KL is
                estimated from samples (``importance_weighted``, ``"stl"``), any object whose ``log_prob(z)`` is
                ``[*samples, B]``.
            key, generator: of the noise, as in :func:`aevb_ext.rsample`.

        Returns:
            :class:`ELBOTerms`: ``bound``, ``reconstruction`` and ``kl``, each ``[B]``, and ``loss``.

        Raises:
            ValueError: the decoder's result, or the prior's log_prob, is not one value for each data point and sample;
                the prior has another event shape; the event cannot be split into ``free_bits_groups``; what the
                operators raise.
            TypeError: posterior, decoder or prior has another type; free bits with a prior that is not a diagonal
                Gaussian.
            NotImplementedError: the KL to this prior is not known in closed form (``gradient="stl"`` estimates it from
                samples); with ``block``, the decoder uses a tensor that was computed outside of it, requires a gradient
                and is not in its closure.
        """
        q = posterior if isinstance(posterior, DiagonalGaussian) else of_tuple("posterior", posterior)
        p = prior_of(prior, q)
        n_samples = None if self.n_samples == 1 else self.n_samples
        noise: _Noise = {"n_samples": n_samples, "key": key, "generator": generator}
        if self._streams:
            noise = {"n_samples": n_samples, "key": F.key_for(q.mu, key, generator)}  # one for all blocks
        sources = (q.mu, q.scale_param, p, x, decoder)

        def log_likelihood(z: Tensor) -> Tensor:
            log_prob = getattr(decoder, "log_prob", decoder)
            value = log_prob(x, z) if x_scale == 1 else log_prob(x, z, x_scale=x_scale)
            return _of_rows(value, z, q, "the decoder must give log p(x | z)")

        if self.importance_weighted or self.gradient != "total":
            return self._of_samples(q, p, noise, log_likelihood, sources)
        return self._in_closed_form(q, p, noise, log_likelihood, sources)

    @property
    def _streams(self) -> bool:
        # torch.jit.trace would record the gradients of its example. All samples at once have the same noise.
        return self.block is not None and self.block < self.n_samples and not torch.jit.is_tracing()

    def _in_closed_form(
        self,
        q: DiagonalGaussian,
        p: _Density | None,
        noise: _Noise,
        log_likelihood: Callable[[Tensor], Tensor],
        sources: tuple[object, ...],
    ) -> ELBOTerms:
        reduction = "none" if self.free_bits else "sample"
        if self.block is not None and self._streams:

            def terms(first: int, n: int) -> Terms:
                return (log_likelihood(_rsample(q, {**noise, "n_samples": n, "first_sample": first})),), None

            (total,) = streamed(terms, self.n_samples, self.block, sources, weighted=False)
            reconstruction, kl = total / self.n_samples, kl_to_prior(q, p, reduction)
        else:
            z, kl = _rsample_kl(q, p, noise, reduction)
            reconstruction = _mean(log_likelihood(z), noise["n_samples"])
        if self.free_bits:
            groups = self._grouped(kl, q)
            kl, regulariser = groups.sum(-1), self._with_free_bits(groups, self.free_bits).sum(-1)
        elif self.capacity is not None:
            regulariser = (kl - now(self.capacity, self.steps, self.capacity_steps)).abs()
        else:
            regulariser = kl
        return ELBOTerms(reconstruction - self.current_beta * regulariser, reconstruction, kl)

    def _of_samples(
        self,
        q: DiagonalGaussian,
        p: _Density | None,
        noise: _Noise,
        log_likelihood: Callable[[Tensor], Tensor],
        sources: tuple[object, ...],
    ) -> ELBOTerms:
        n_samples = noise["n_samples"]
        density = q if self.gradient == "total" else _detached(q)
        squares_weights = self.gradient == "dreg" and n_samples is not None

        def terms(first: int, n: int | None) -> Terms:
            z, port = _rsample(q, {**noise, "n_samples": n, "first_sample": first}), None
            if squares_weights:
                z, port = _WeighedThroughPort.apply(z, q.event_dims)
            log_p = log_likelihood(z)
            log_prior = (_standard_normal(q) if p is None else p).log_prob(z)
            log_prior = _of_rows(
                log_prior, z, q, "the prior's log_prob must give log p(z), summed over the event (as Independent does)"
            )
            log_ratio = density.log_prob(z) - log_prior
            return (log_p, log_ratio), port

        if self.block is not None and self._streams:
            return self._of_blocks(terms, self.block, sources)
        (log_p, log_ratio), port = terms(0, n_samples)
        if not self.importance_weighted:
            bound = _mean(log_p - self.current_beta * log_ratio, n_samples)
        elif squares_weights:
            bound = _LogMeanExpWithPort.apply(log_p - log_ratio, port)
        else:
            bound = log_p - log_ratio if n_samples is None else _log_mean_exp(log_p - log_ratio)
        if self.gradient == "dreg":
            log_p, log_ratio = log_p.detach(), log_ratio.detach()
        return ELBOTerms(bound, _mean(log_p, n_samples), _mean(log_ratio, n_samples))

    def _of_blocks(self, terms: Callable[[int, int], Terms], block: int, sources: tuple[object, ...]) -> ELBOTerms:
        *log_sum, log_p, log_ratio = streamed(terms, self.n_samples, block, sources, weighted=self.importance_weighted)
        log_p, log_ratio = log_p / self.n_samples, log_ratio / self.n_samples
        if self.importance_weighted:
            bound = log_sum[0] - math.log(self.n_samples)
        else:
            bound = log_p - self.current_beta * log_ratio
        if self.gradient == "dreg":
            log_p, log_ratio = log_p.detach(), log_ratio.detach()
        return ELBOTerms(bound, log_p, log_ratio)

    def _grouped(self, kl: Tensor, q: DiagonalGaussian) -> Tensor:
        """Sum the KL of each dimension over each group, ``[*batch, groups]``."""
        kl = kl.reshape(*q.batch_shape, math.prod(q.event_shape))  # (-1 is ambiguous if there are no data points)
        if self.free_bits_groups is None:
            return kl
        if sizes(kl.shape)[-1] % self.free_bits_groups:
            raise ValueError(
                f"free_bits_groups is {self.free_bits_groups}: z's event {list(q.event_shape)} cannot be "
                "split into that many equal groups"
            )
        grouped: Tensor = kl.unflatten(-1, (self.free_bits_groups, -1)).sum(-1)
        return grouped

    @property
    def current_capacity(self) -> Tensor | None:
        """C at this step in nats, a scalar on the device; None without a capacity."""
        return None if self.capacity is None else now(self.capacity, self.steps, self.capacity_steps)

    def set_beta(self, beta: float | Tensor) -> None:
        """Change beta in place: to a number, or to a scalar tensor, which is not read on the host.

        Raises:
            ValueError: a number that is negative or not finite; the bound is importance-weighted.
        """
        if self.importance_weighted:
            raise ValueError("the importance-weighted bound has no beta")
        super().set_beta(beta)

    def extra_repr(self) -> str:
        options = {
            "warmup_steps": self.warmup_steps,
            "free_bits": self.free_bits,
            "free_bits_groups": self.free_bits_groups,
            "capacity_steps": self.capacity_steps,
            "importance_weighted": self.importance_weighted,
            "gradient": "" if self.gradient == "total" else self.gradient,
            "block": self.block,
        }
        return ", ".join([f"n_samples={self.n_samples}", *(f"{name}={v!r}" for name, v in options.items() if v)])


class _WeighedThroughPort(torch.autograd.Function):
    """Returns z and a port, a dummy output; the backward multiplies z's gradient by the port's gradient.

    The doubly reparameterised gradient multiplies z's gradient by weights that are known only after the decoder has
    been evaluated at z. The port's gradient carries them: autograd waits for both before it calls this backward.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z: Tensor, event_dims: int) -> tuple[Tensor, Tensor]:
        dtype = torch.float64 if z.dtype == torch.float64 else torch.float32
        return z.clone(), z.new_zeros(z.shape[: z.dim() - event_dims], dtype=dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
        ctx.event_dims = inputs[1]

    @staticmethod
    def backward(ctx: Any, z_cotangent: Tensor, weights: Tensor) -> tuple[Tensor, None]:
        weights = weights.reshape(*weights.shape, *(1,) * ctx.event_dims)
        return (z_cotangent * weights).to(z_cotangent.dtype), None


class _LogMeanExpWithPort(torch.autograd.Function):
    """:func:`_log_mean_exp`; its backward sends the normalised weights to the port as its gradient."""

    generate_vmap_rule = True

    @staticmethod
    def forward(log_weights: Tensor, port: Tensor) -> Tensor:
        return _log_mean_exp(log_weights)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor, Tensor]:
        weights = ctx.saved_tensors[0].detach().softmax(0)
        return cotangent * weights, weights


def _log_mean_exp(log_weights: Tensor) -> Tensor:
    """The log of the mean weight of k samples, ``[k, B]`` to ``[B]``."""
    return log_weights.logsumexp(0) - math.log(sizes(log_weights.shape)[0])


def _mean(values: Tensor, n_samples: int | None) -> Tensor:
    return values if n_samples is None else values.mean(0)


def _rsample_kl(q: DiagonalGaussian, p: _Density | None, noise: _Noise, reduction: str) -> tuple[Tensor, Tensor]:
    """z and the KL: ``[B]`` (``"sample"``), or that of each of z's dimensions (``"none"``)."""
    if p is None:
        batch_dims = len(q.batch_shape)
        return F.rsample_kl(q.mu, q.scale_param, spread=q.spread, reduction=reduction, batch_dims=batch_dims, **noise)
    return _rsample(q, noise), kl_to_prior(q, p, reduction)


def _rsample(q: DiagonalGaussian, noise: _Noise) -> Tensor:
    return F.rsample(q.mu, q.scale_param, spread=q.spread, **noise)


def kl_to_prior(q: DiagonalGaussian, p: _Density | None, reduction: str = "sample") -> Tensor:
    if p is None:
        p = _standard_normal(q)
    elif isinstance(p, Distribution):
        wanted = q.batch_shape if p.event_shape else q.batch_shape + q.event_shape
        check_broadcasts("the prior's batch", p.batch_shape, "the posterior", wanted)
    if reduction != "sample":
        if not isinstance(p, DiagonalGaussian):
            raise TypeError(f"free_bits needs a DiagonalGaussian or a tuple (mu, logvar) as the prior, got {p}")
        return kl_divergence(_elementwise(q), _elementwise(p))
    try:
        # For a prior that is not a distribution it raises NotImplementedError.
        return kl_divergence(q, p)  # type: ignore[arg-type]
    except NotImplementedError:
        raise NotImplementedError(
            f"the KL of the posterior to this prior, {type(p).__name__}, is not known in closed form: "
            'ELBO(gradient="stl") estimates it from samples (and so does importance_weighted=True), without free_bits '
            "and capacity"
        ) from None


def of_tuple(name: str, given: object, q: DiagonalGaussian | None = None) -> DiagonalGaussian:
    """The Gaussian of (mu, logvar); if it is the prior for q, it has q's event shape."""
    if not (isinstance(given, tuple) and len(given) == 2 and all(isinstance(t, Tensor) for t in given)):
        raise TypeError(f"{name} must be a DiagonalGaussian or a tuple (mu, logvar) of tensors, got {_kind(given)}")
    mu, logvar = given
    if q is None:
        return DiagonalGaussian(mu, logvar)
    shape = broadcast_shape("prior's mu", mu.shape, "prior's logvar", logvar.shape)
    mu = mu.expand(broadcast_shape("prior", shape, "the posterior's event", q.event_shape))
    return DiagonalGaussian(mu, logvar, batch_dims=mu.dim() - q.event_dims)


def prior_of(given: Any, q: DiagonalGaussian) -> Any:
    """The prior for q as a distribution, or as an object with a log_prob; None is N(0, I)."""
    p = of_tuple("prior", given, q) if isinstance(given, tuple) else given
    if p is not None and not callable(getattr(p, "log_prob", None)):
        raise TypeError(
            "prior must be a distribution, a tuple (mu, logvar) of tensors or None, which is N(0, I), "
            f"got {described(given)}"
        )
    # A prior without an event shape is that of each element of z.
    event = getattr(p, "event_shape", ())
    if len(event) and sizes(event) != sizes(q.event_shape):
        raise ValueError(f"the prior's event_shape must be the posterior's, {list(q.event_shape)}, got {list(event)}")
    return p


def _of_rows(value: object, z: Tensor, q: DiagonalGaussian, what: str) -> Tensor:
    """``value``, after checking that it has one element for each data point and sample of z."""
    rows = z.shape[: z.dim() - q.event_dims]
    if not isinstance(value, Tensor):
        raise TypeError(f"{what} as a tensor, {list(rows)}, got {described(value)}")
    if sizes(value.shape) != sizes(rows):
        raise ValueError(
            f"{what} for each data point and sample, {list(rows)} for z {list(z.shape)}, got {list(value.shape)}"
        )
    return value


def _kind(given: object) -> str:
    """Its type, or the types of a tuple's elements (printing a tensor's values would wait for the device)."""
    if isinstance(given, tuple):
        return f"({', '.join(map(_kind, given))})"
    return type(given).__name__


def _detached(q: DiagonalGaussian) -> DiagonalGaussian:
    parameters = (q.mu.detach(), q.scale_param.detach())
    return DiagonalGaussian(*parameters, spread=q.spread, batch_dims=len(q.batch_shape))


def _elementwise(q: DiagonalGaussian) -> DiagonalGaussian:
    """The same distribution with every dimension in the batch shape."""
    return DiagonalGaussian(q.mu, q.scale_param, spread=q.spread, batch_dims=q.mu.dim())


def _standard_normal(q: DiagonalGaussian) -> DiagonalGaussian:
    zero = q.mu.new_zeros(())
    return DiagonalGaussian(zero.expand_as(q.mu), zero, batch_dims=len(q.batch_shape))
