"""The evidence lower bound as one object, with the variations that people train with."""

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypedDict

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, kl_divergence

from .. import functional as F
from .._arguments import described, explained, is_integer, is_number, kind, sizes
from .._types import Generators
from ..distributions import DiagonalGaussian
from ..distributions.factorised import broadcast, check_broadcasts
from .stream import Terms, streamed

__all__ = ["ELBO", "ELBOTerms"]


class _Density(Protocol):
    """What the posterior is held to where that takes samples."""

    def log_prob(self, value: Tensor, /) -> Tensor: ...


# What p(z) may be given as.
Prior = _Density | Distribution | tuple[Tensor, Tensor]


class _Noise(TypedDict, total=False):
    """Arguments of the samplers."""

    n_samples: int | None
    first_sample: int
    key: Tensor | None
    generator: Generators | None


GRADIENTS = ("total", "stl", "dreg")


class ELBOTerms(NamedTuple):
    """What :class:`ELBO` gives: one value per data point each, in nats, float32 (float64 for float64).

    Attributes:
        bound: ``[B]``, what is maximised.
        reconstruction: ``[B]``, the mean over samples of log p(x | z).
        kl: ``[B]``, KL(q(z | x) || p(z)) itself: before beta, free bits and capacity.
    """

    bound: Tensor
    reconstruction: Tensor
    kl: Tensor

    @property
    def weighted_kl(self) -> Tensor:
        r"""What is subtracted from the reconstruction, ``[B]``: ``bound = reconstruction - weighted_kl``.

        That is :math:`\beta R(KL)`, after beta, warm-up, free bits and capacity, where ``kl`` is before them. Of an
        importance-weighted bound it is how far that lies below the mean of the reconstructions.
        """
        return self.reconstruction - self.bound

    @property
    def loss(self) -> Tensor:
        """What is minimised, a scalar: ``-bound.mean()``, which is ``(weighted_kl - reconstruction).mean()``."""
        return -self.bound.mean()


def _is_decoder(value: object) -> bool:
    """Whether it has a ``log_prob`` that can be called with (x, z), or can itself."""
    log_prob: Any = getattr(value, "log_prob", value.forward if isinstance(value, nn.Module) else value)
    try:
        inspect.signature(log_prob).bind(None, None)
    except TypeError:
        return False
    except ValueError:
        return True  # nothing is known of it
    return True


_check_decoder = kind(
    _is_decoder,
    "a module with log_prob(x, z), such as a BernoulliDecoder(net) or GaussianDecoder(net), or a function of (x, z)",
)


class ELBO(nn.Module):
    r"""The evidence lower bound of each data point (Kingma & Welling 2014, arXiv 1312.6114, eq. 7).

    .. math:: \frac1L \sum_l \log p(x | z_l) - \beta\, R\big(D_{KL}(q(z | x) \| p(z))\big),
              \quad z_l \sim q(z | x) \text{ reparameterised}

    where R is the identity, or what free bits or a capacity make of the divergence; or the importance-weighted bound.
    It has no parameters. What changes during training is on the device: beta, the capacity and the count of steps are
    buffers, so that annealing neither synchronises with the host nor compiles anything again, and all three are in the
    state dict::

        elbo = ELBO(beta=4.0, warmup_steps=10_000)
        terms = elbo(x, posterior(x), decoder)  # a GaussianPosterior and a BernoulliDecoder, say
        terms.loss.backward()
        elbo.step()

    Args:
        n_samples: L (or k), how many z are drawn for each data point.
        beta: the weight of the divergence (Higgins et al. 2017, "beta-VAE", eq. 4). :meth:`set_beta` and
            ``elbo.beta.fill_()`` change it.
        warmup_steps: over so many steps (:meth:`step`) the weight grows linearly from 0 to beta (Bowman et al. 2016,
            arXiv 1511.06349, section 3.1; Sønderby et al. 2016, arXiv 1602.02282, section 2.3). 0: none.
        free_bits: lambda, in nats for each group: :math:`R = \sum_g \max(\lambda, \mathrm{mean}_b KL_{bg})`, the mean
            over the minibatch (that of this process, where there are several); a group at or below lambda has no
            gradient (Kingma et al. 2016, arXiv 1606.04934, appendix C.8). To each data point its own share is put
            down, so that the mean of ``bound`` is the paper's. 0: none.
        free_bits_groups: how many groups of adjacent elements z's event (flattened) is cut into: C for the feature
            maps of ``[C, H, W]``, 1 for all of z together. None: each dimension is a group.
        capacity: C in nats: :math:`R = |KL - C|` for each data point, and beta is the paper's gamma (Burgess et al.
            2018, arXiv 1804.03599, eq. 8). The buffer ``capacity`` can be filled like beta. None: no capacity.
        capacity_steps: over so many steps the capacity grows linearly from 0 to C. 0: it is C at once.
        importance_weighted: the samples are averaged inside the logarithm (Burda et al. 2016, arXiv 1509.00519, eq. 8):
            :math:`\log \frac1k \sum_i w_i`, :math:`w_i = p(x, z_i) / q(z_i | x)`. ``kl`` is then the mean of
            log q(z | x) - log p(z) over the samples, an unbiased estimate that can be negative.
        gradient: of what the posterior's parameters get their gradient:

            * ``"total"``: of everything, as written.
            * ``"stl"``: sticking the landing: only through z; the parameters of log q(z | x) are detached (Roeder et
              al. 2017, arXiv 1703.09194, section 3). The divergence is that of the samples, as above. Without bias,
              and zero where q is the exact posterior. With ``importance_weighted`` and more than one sample it is the
              IWAE-STL of the literature, which is biased (Tucker et al. 2019).
            * ``"dreg"``: doubly reparameterised: through z, weighed by the *squares* of the normalised importance
              weights (Tucker et al. 2019, arXiv 1810.04152, IWAE-DReG); the gradient of everything else is that of
              ``"total"``. Without bias. Needs ``importance_weighted``. ``reconstruction`` and ``kl`` are detached.

        block: how many of the ``n_samples`` are taken at a time. The noise is the same whatever it is, the results are
            to rounding, and memory does not grow with ``n_samples``, in the backward either, which evaluates the
            decoder again a block at a time (and can be done once: no derivatives of derivatives, no
            ``torch.func`` transforms, and ``torch.compile`` of the decoder rather than of all). None: all at once.

    Raises:
        ValueError: a number is out of range, or options do not fit together; the message says why.
    """

    beta: Tensor
    capacity: Tensor | None
    steps: Tensor

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
        super().__init__()
        for name, count, least in (
            ("n_samples", n_samples, 1),
            ("warmup_steps", warmup_steps, 0),
            ("capacity_steps", capacity_steps, 0),
            ("free_bits_groups", 1 if free_bits_groups is None else free_bits_groups, 1),
            ("block", 1 if block is None else block, 1),
        ):
            if not is_integer(count) or count < least:
                raise ValueError(f"{name} must be an integer, at least {least}, got {described(count)}")
        for name, number in (
            ("beta", beta),
            ("free_bits", free_bits),
            ("capacity", 0 if capacity is None else capacity),
        ):
            _check_weight(name, number)
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {described(gradient)}")
        self.n_samples, self.warmup_steps, self.capacity_steps = map(int, (n_samples, warmup_steps, capacity_steps))
        self.free_bits, self.free_bits_groups = free_bits, free_bits_groups
        self.importance_weighted, self.gradient, self.block = importance_weighted, gradient, block
        self.register_buffer("beta", torch.tensor(float(beta)))
        self.register_buffer("capacity", None if capacity is None else torch.tensor(float(capacity)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self._check_options(beta)

    def _check_options(self, beta: float) -> None:
        has_capacity = self.capacity is not None
        if self.free_bits and has_capacity:
            raise ValueError("free_bits and capacity were both given: each says how much divergence is free, give one")
        if self.free_bits_groups is not None and not self.free_bits:
            raise ValueError("free_bits_groups was given without free_bits: there is nothing to group")
        if self.capacity_steps and not has_capacity:
            raise ValueError("capacity_steps was given without capacity: there is nothing to increase")
        if self.gradient == "dreg" and not self.importance_weighted:
            raise ValueError('gradient="dreg" is of importance weights: it needs importance_weighted=True')
        if self.importance_weighted and (beta != 1 or self.warmup_steps):
            raise ValueError(
                "importance_weighted does not go with beta or warmup_steps: the weights are p(x, z) / q(z | x), and "
                "weighed otherwise their mean bounds nothing"
            )
        if (self.free_bits or has_capacity) and (self.importance_weighted or self.gradient != "total"):
            option = "free_bits" if self.free_bits else "capacity"
            sampled = "importance_weighted" if self.importance_weighted else f'gradient="{self.gradient}"'
            raise ValueError(
                f"{option} does not go with {sampled}: that takes the divergence from the samples, and {option} bends "
                "it, so that its noise would become a bias"
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
            x: ``[B, *event]``, as ``decoder`` takes it.
            posterior: q(z | x), a :class:`~aevb_ext.distributions.DiagonalGaussian` with batch shape ``[B]``, or a
                tuple ``(mu, logvar)`` of tensors ``[B, *latent]``.
            decoder: what has ``log_prob(x, z)``, or is a function of (x, z): log p(x | z) ``[B]`` for z
                ``[B, *latent]``; with ``n_samples=L > 1``, ``[L, B]`` for z ``[L, B, *latent]``.
            x_scale: what x is multiplied by (1/255 for grey bytes): if it is not 1, the decoder is given ``x_scale=``.
            prior: p(z). None: N(0, I). A DiagonalGaussian or a tuple as above, whose parameters broadcast to the
                posterior's; or a distribution that torch.distributions.kl_divergence knows; or, where the divergence is
                taken from the samples (``importance_weighted``, ``"stl"``), any whose ``log_prob(z)`` is
                ``[*samples, B]``.
            key, generator: of the noise, as in :func:`aevb_ext.rsample`.

        Returns:
            :class:`ELBOTerms`: ``bound``, ``reconstruction`` and ``kl``, each ``[B]``, and ``loss``.

        Raises:
            ValueError: the decoder's result, or the prior's log_prob, is not one value for each data point and sample;
                the prior is of another event; the event cannot be cut into ``free_bits_groups``; what the operators
                raise.
            TypeError: posterior, decoder or prior is something else; free bits with a prior that is not a diagonal
                Gaussian.
            NotImplementedError: the divergence from this prior is not known in closed form (``gradient="stl"`` takes it
                from the samples); with ``block``, the decoder uses a tensor that was computed outside of it and has a
                gradient, and is not in its closure.
        """
        q = posterior if isinstance(posterior, DiagonalGaussian) else _of_tuple("posterior", posterior)
        p = _prior_of(prior, q)
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
        # torch.jit.trace would keep the gradients of the example: it takes all samples at once, to the same noise.
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
            reconstruction, kl = total / self.n_samples, _kl(q, p, reduction)
        else:
            z, kl = _rsample_kl(q, p, noise, reduction)
            reconstruction = _mean(log_likelihood(z), noise["n_samples"])
        if self.free_bits:
            groups = self._grouped(kl, q)
            kl, regulariser = groups.sum(-1), self._with_free_bits(groups).sum(-1)
        elif self.capacity is not None:
            regulariser = (kl - _now(self.capacity, self.steps, self.capacity_steps)).abs()
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
        """Divergences of each dimension to those of each group, ``[*batch, groups]``."""
        kl = kl.reshape(*q.batch_shape, math.prod(q.event_shape))  # (-1 is ambiguous where there are no data points)
        if self.free_bits_groups is None:
            return kl
        if sizes(kl.shape)[-1] % self.free_bits_groups:
            raise ValueError(
                f"free_bits_groups is {self.free_bits_groups}: z's event {list(q.event_shape)} cannot be "
                "cut into as many equal groups"
            )
        grouped: Tensor = kl.unflatten(-1, (self.free_bits_groups, -1)).sum(-1)
        return grouped

    def _with_free_bits(self, groups: Tensor) -> Tensor:
        # NaN stays what it is, and says nothing about the minibatch's other data points.
        values = groups.detach()
        is_free = self._mean_over_points(values.reshape(-1, values.shape[-1])) <= self.free_bits
        return torch.where(is_free & ~values.isnan(), self.free_bits, groups)

    def _mean_over_points(self, values: Tensor) -> Tensor:
        """``[B, groups]`` to ``[groups]``, without what is NaN."""
        return values.nanmean(0)

    @property
    def current_beta(self) -> Tensor:
        """The weight of the divergence at this step, a scalar on the device."""
        return _now(self.beta, self.steps, self.warmup_steps)

    @property
    def current_capacity(self) -> Tensor | None:
        """C at this step in nats, a scalar on the device; None without a capacity."""
        return None if self.capacity is None else _now(self.capacity, self.steps, self.capacity_steps)

    @torch.no_grad()
    def step(self) -> None:
        """Count a step of training, on the device. Call it once after each step of the optimizer."""
        self.steps.add_(1)

    @torch.no_grad()
    def set_beta(self, beta: float | Tensor) -> None:
        """Change beta in place: a number, or a scalar tensor, which is not looked at on the host.

        Raises:
            ValueError: a number that is negative or not finite; the bound is importance-weighted.
        """
        if self.importance_weighted:
            raise ValueError("the importance-weighted bound has no beta")
        if not (isinstance(beta, Tensor) and beta.dim() == 0):
            _check_weight("beta", beta)
        self.beta.fill_(beta)

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
    """z, and a port; the gradient that comes back to z is multiplied by what comes back through the port.

    The weights that the doubly reparameterised gradient multiplies z's by are not known before the decoder has been
    evaluated at z. They are known before its backward, and autograd waits for both.
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
    """:func:`_log_mean_exp`, which gives the normalised weights back through the port."""

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
    """The logarithm of the mean of the weights of k samples, ``[k, B]`` to ``[B]``."""
    return log_weights.logsumexp(0) - math.log(sizes(log_weights.shape)[0])


def _mean(values: Tensor, n_samples: int | None) -> Tensor:
    return values if n_samples is None else values.mean(0)


def _now(value: Tensor, steps: Tensor, growing_steps: int) -> Tensor:
    # A copy at least: between a forward and its backward the buffer may be filled anew.
    return value * (steps / growing_steps).clamp(max=1) if growing_steps else value.clone()


def _rsample_kl(q: DiagonalGaussian, p: _Density | None, noise: _Noise, reduction: str) -> tuple[Tensor, Tensor]:
    """z, and the divergences ``[B]`` (``"sample"``) or those of z's dimensions (``"none"``)."""
    if p is None:
        batch_dims = len(q.batch_shape)
        return F.rsample_kl(q.mu, q.scale_param, spread=q.spread, reduction=reduction, batch_dims=batch_dims, **noise)
    return _rsample(q, noise), _kl(q, p, reduction)


def _rsample(q: DiagonalGaussian, noise: _Noise) -> Tensor:
    return F.rsample(q.mu, q.scale_param, spread=q.spread, **noise)


def _kl(q: DiagonalGaussian, p: _Density | None, reduction: str) -> Tensor:
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
        # Of what is no distribution it says that nothing is known.
        return kl_divergence(q, p)  # type: ignore[arg-type]
    except NotImplementedError:
        raise NotImplementedError(
            f"the divergence of the posterior from this prior, {type(p).__name__}, is not known in closed form: "
            'ELBO(gradient="stl") takes it from the samples (and so does importance_weighted=True), without free_bits '
            "and capacity"
        ) from None


def _of_tuple(name: str, given: object, q: DiagonalGaussian | None = None) -> DiagonalGaussian:
    """The Gaussian of (mu, logvar); as a prior for q, of q's event."""
    if not (isinstance(given, tuple) and len(given) == 2 and all(isinstance(t, Tensor) for t in given)):
        raise TypeError(f"{name} must be a DiagonalGaussian or a tuple (mu, logvar) of tensors, got {_kind(given)}")
    mu, logvar = given
    if q is None:
        return DiagonalGaussian(mu, logvar)
    shape = broadcast("prior's mu", mu.shape, "prior's logvar", logvar.shape)
    mu = mu.expand(broadcast("prior", shape, "the posterior's event", q.event_shape))
    return DiagonalGaussian(mu, logvar, batch_dims=mu.dim() - q.event_dims)


def _prior_of(given: Any, q: DiagonalGaussian) -> Any:
    """The prior for q as a distribution, or as what has a log_prob; None is N(0, I)."""
    p = _of_tuple("prior", given, q) if isinstance(given, tuple) else given
    if p is not None and not callable(getattr(p, "log_prob", None)):
        raise TypeError(
            "prior must be a distribution, a tuple (mu, logvar) of tensors or None, which is N(0, I), "
            f"got {described(given)}"
        )
    # One without an event is of numbers, whose product over the event is meant.
    event = getattr(p, "event_shape", ())
    if len(event) and sizes(event) != sizes(q.event_shape):
        raise ValueError(f"the prior's event_shape must be the posterior's, {list(q.event_shape)}, got {list(event)}")
    return p


def _of_rows(value: object, z: Tensor, q: DiagonalGaussian, what: str) -> Tensor:
    """``value``, one for each data point and sample of z."""
    rows = z.shape[: z.dim() - q.event_dims]
    if not isinstance(value, Tensor):
        raise TypeError(f"{what} as a tensor, {list(rows)}, got {described(value)}")
    if sizes(value.shape) != sizes(rows):
        raise ValueError(
            f"{what} for each data point and sample, {list(rows)} for z {list(z.shape)}, got {list(value.shape)}"
        )
    return value


def _kind(given: object) -> str:
    """Its type, and those of a tuple's elements: a tensor's numbers would have to come from the device."""
    if isinstance(given, tuple):
        return f"({', '.join(map(_kind, given))})"
    return type(given).__name__


def _detached(q: DiagonalGaussian) -> DiagonalGaussian:
    parameters = (q.mu.detach(), q.scale_param.detach())
    return DiagonalGaussian(*parameters, spread=q.spread, batch_dims=len(q.batch_shape))


def _elementwise(q: DiagonalGaussian) -> DiagonalGaussian:
    """The same numbers, each a distribution of its own."""
    return DiagonalGaussian(q.mu, q.scale_param, spread=q.spread, batch_dims=q.mu.dim())


def _standard_normal(q: DiagonalGaussian) -> DiagonalGaussian:
    zero = q.mu.new_zeros(())
    return DiagonalGaussian(zero.expand_as(q.mu), zero, batch_dims=len(q.batch_shape))


def _check_weight(name: str, number: float | Tensor) -> None:
    if not is_number(number) or not 0 <= number < math.inf:
        raise ValueError(f"{name} must be a finite number, at least 0, got {described(number)}")
